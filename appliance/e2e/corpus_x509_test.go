package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// x509set says which S/MIME files of a corpus are whose; patterns are below keys/.
type x509set struct {
	ours    []string // certificates that become identities
	private []string // their private halves
	people  []string // certificates of people who may sign
	anchors []string // certificates of authorities
}

// x509sets are by corpus, as keysets.
var x509sets = map[string]x509set{
	"covert":             {ours: []string{"covert/p8/manager.crt"}, private: []string{"covert/p8/manager.p8"}},
	"gnupg-tests":        {ours: []string{"gnupg-tests/cms/cert_g10code_test1.pem"}, private: []string{"gnupg-tests/cms/32100C27173EF6E9C4E9A25D3D69F86D37A4F939.key"}},
	"johnny":             {people: []string{"johnny/manager@*.crt", "johnny/eve@*.crt"}, anchors: []string{"johnny/intermediate_ca.crt"}},
	"kde-mimetreeparser": {ours: []string{"kde-mimetreeparser/kde-smime-test.crt"}, private: []string{"kde-mimetreeparser/p8/*.p8"}, people: []string{"kde-mimetreeparser/kde-smime-test.crt"}},
	"mozilla-smime":      {ours: []string{"mozilla-smime/p8/*.crt"}, private: []string{"mozilla-smime/p8/*.p8"}, people: []string{"mozilla-smime/p8/[ADE]*.crt"}, anchors: []string{"mozilla-smime/TestCA.pem"}},
	"openssl-cms":        {people: []string{"openssl-cms/smrsa[12].pem", "openssl-cms/smrsa3-cert.pem", "openssl-cms/smec?.pem"}, anchors: []string{"openssl-cms/smroot.pem"}},
	"protected-headers":  {ours: []string{"protected-headers/p8/bob.crt"}, private: []string{"protected-headers/p8/bob.p8"}, anchors: []string{"protected-headers/sample-ca.pem"}},
	"rfc4134": {ours: []string{"rfc4134/BobRSASignByCarl.cer", "rfc4134/DianeRSASignByCarl.cer"}, private: []string{"rfc4134/BobPrivRSAEncrypt.pri", "rfc4134/DianePrivRSASignEncrypt.pri"},
		people: []string{"rfc4134/AliceRSASignByCarl.cer"}, anchors: []string{"rfc4134/CarlRSASelf.cer"}},
}

// reader is one recipient with S/MIME.
type reader struct {
	name  string // of the file, without its end
	cert  *x509.Certificate
	key   crypto.PrivateKey
	owner string // domain that it was bound to, "" where it was refused
}

// smime reports whether a sample is S/MIME, or CMS.
func (s *sample) smime() bool {
	return strings.Contains(s.kind, "smime") || strings.HasPrefix(s.kind, "cms-") || s.kind == "spoof-cms" ||
		strings.Contains(s.path, "/01-cms/") || strings.Contains(s.path, "smime") && strings.HasSuffix(s.path, ".eml")
}

// readX509 takes the certificates out of files, in PEM or DER, and leaves keys
// alone that stand beside them.
func readX509(t testing.TB, dir string, patterns []string) (all []*reader) {
	t.Helper()
	for _, file := range globbed(t, dir, patterns) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				data = block.Bytes
				break
			}
		}
		cert, err := x509.ParseCertificate(data)
		if err != nil {
			t.Logf("%s: %v", file, err)
			continue
		}
		all = append(all, &reader{name: strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), cert: cert})
	}
	return all
}

// readX509Key reads a private key: PKCS #8 as PEM or DER, or a file of gpg-agent.
func readX509Key(t testing.TB, file string) crypto.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.HasPrefix(data, []byte("(private-key")) {
		return agentRSA(t, string(data))
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	key, err := x509.ParsePKCS8PrivateKey(data)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return key
}

var sexpNumber = regexp.MustCompile(`\(([nedpq]) #([0-9A-Fa-f]+)#\)`)

// agentRSA reads the RSA key of an S-expression.
func agentRSA(t testing.TB, text string) *rsa.PrivateKey {
	t.Helper()
	numbers := map[string]*big.Int{}
	for _, m := range sexpNumber.FindAllStringSubmatch(text, -1) {
		numbers[m[1]], _ = new(big.Int).SetString(m[2], 16)
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: numbers["n"], E: int(numbers["e"].Int64())}, D: numbers["d"], Primes: []*big.Int{numbers["p"], numbers["q"]}}
	if err := k.Validate(); err != nil {
		t.Fatal(err)
	}
	return k
}

// bring imports the private keys of the readers into the token, and gives the
// readers their keys.
func bring(t testing.TB, dir string, set x509set, readers []*reader, token *hsmtest.Fixture) {
	t.Helper()
	for _, file := range globbed(t, dir, set.private) {
		key := readX509Key(t, file)
		id, err := hsm.IDOf(public(key))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, r := range readers {
			if own, err := hsm.IDOf(r.cert.PublicKey); err == nil && own == id && r.key == nil {
				r.key = key
			}
		}
		switch key.(type) {
		case *rsa.PrivateKey, *ecdsa.PrivateKey:
			token.Import("corpus/"+id.String()[:16], hsm.Unwrap, key)
		}
	}
}

// introduce lets the gateway know the S/MIME certificates of a corpus.
func (w *world) introduce(t testing.TB, dir string, set x509set) {
	t.Helper()
	for _, r := range w.readers509 {
		for _, d := range []string{r.owner, everybody} {
			if _, err := w.Postern(t.Context(), bytes.NewReader(r.pem()), "identity", "add", "--domain", d, "--expired", "--cert", "-"); err != nil {
				t.Logf("%s: %v", r.name, err)
				r.owner = ""
				break
			}
		}
	}
	for _, r := range readX509(t, dir, set.anchors) {
		if _, err := w.Postern(t.Context(), bytes.NewReader(r.pem()), "cert", "import", "--anchor", "-"); err != nil {
			t.Logf("%s: %v", r.name, err)
		}
	}
	for _, r := range readX509(t, dir, set.people) {
		if _, err := w.Postern(t.Context(), bytes.NewReader(r.pem()), "cert", "import", "-"); err != nil {
			t.Logf("%s: %v", r.name, err)
		}
	}
}

func (r *reader) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})
}

// to509 is the address of the S/MIME reader whom the manifest names, "" if there is none.
func (w *world) to509(s *sample) string {
	address := func(owner string) string {
		if owner == "" {
			owner = nobody
		}
		return "reader@" + owner
	}
	if len(w.readers509) == 0 {
		return ""
	}
	if i := slices.IndexFunc(w.readers509, func(r *reader) bool { return strings.EqualFold(r.name, s.recipient) }); i >= 0 {
		return address(w.readers509[i].owner)
	}
	if s.recipient == "-" {
		return address("")
	}
	return address(everybody)
}

// wrapped509 puts a CMS message into a mail (RFC 8551 §3.2).
func wrapped509(header string, b []byte) []byte {
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	kind := ""
	for name, oid := range map[string]string{"enveloped-data": oidEnveloped, "signed-data": oidSigned, "authEnveloped-data": oidAuthEnveloped} {
		if i := bytes.Index(b, derOID(oid)); i >= 0 && i < 16 {
			kind = " smime-type=" + name + ";"
		}
	}
	return crlf([]byte(header + "MIME-Version: 1.0\nContent-Type: application/pkcs7-mime;" + kind + " name=smime.p7m\nContent-Transfer-Encoding: base64\n\n" + base64Lines(b)))
}

// entity509 is what the readers find in the first CMS message of a mail, by OpenSSL.
func (w *world) entity509(mail []byte) ([]byte, error) {
	_, body, _ := strings.Cut(lf(string(mail)), "\n\n")
	if i := strings.Index(body, "\nMI"); i >= 0 && !strings.HasPrefix(body, "MI") { // a long SEQUENCE in base64
		body = body[i+1:]
	}
	body, _, _ = strings.Cut(body, "\n\n")
	body, _, _ = strings.Cut(body, "\n--")
	message, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, err
	}
	for _, r := range w.readers509 {
		if r.key == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, err
		}
		key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if entity, err := cmsTool(message, []string{"-decrypt", "-debug_decrypt", "-recip", "CERT", "-inkey", "KEY"}, r.pem(), key); err == nil {
			return entity, nil
		}
	}
	return nil, errors.New("no reader opens it")
}

// content509 is what an opaque signature holds. OpenSSL wants the signer's
// certificate even so, and some come without: it is a reader's own then.
func (w *world) content509(message []byte) (content []byte, err error) {
	args := []string{"-verify", "-noverify", "-nosigs"}
	if content, err = cmsTool(message, args, nil, nil); err == nil {
		return content, nil
	}
	for _, r := range w.readers509 {
		if content, err = cmsTool(message, append(args, "-certfile", "CERT"), r.pem(), nil); err == nil {
			return content, nil
		}
	}
	return nil, err
}

// cmsTool runs `openssl cms` on a message; CERT and KEY among the arguments
// stand for files with those.
func cmsTool(message []byte, args []string, cert, key []byte) ([]byte, error) {
	dir, err := os.MkdirTemp("", "pt")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, b := range map[string][]byte{"IN": message, "CERT": cert, "KEY": key} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, err
		}
	}
	args = append([]string{"cms", "-binary", "-inform", "DER", "-in", "IN"}, args...)
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	return cmd.Output()
}
