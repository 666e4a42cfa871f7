package smime

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/protect"
	"postern/hsm"
)

// openssl runs cms of OpenSSL, which knows the keys of a person in files.
type openssl struct {
	t   testing.TB
	dir string
}

func newOpenSSL(t testing.TB) *openssl { return &openssl{t, t.TempDir()} }

func (o *openssl) write(name string, data []byte) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

func (o *openssl) cert(name string, c *x509.Certificate) string {
	return o.write(name, pemOf("CERTIFICATE", c.Raw))
}

// run gives what cms prints. Its clock is that of the tests.
func (o *openssl) run(stdin string, args ...string) string {
	o.t.Helper()
	out, err := o.try(stdin, args...)
	if err != nil {
		o.t.Fatalf("openssl cms %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (o *openssl) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "openssl", append([]string{"cms"}, args...)...)
	var out, complaint bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &complaint
	err := c.Run()
	if err != nil {
		o.t.Logf("openssl: %s", complaint.String())
	}
	return out.String(), err
}

// private makes a pair outside of the token, as a partner has it.
func (o *openssl) private(alg ...string) string {
	o.t.Helper()
	path := filepath.Join(o.dir, "key-"+strings.Join(alg, "")+".pem")
	if out, err := exec.CommandContext(o.t.Context(), "openssl", append([]string{"genpkey", "-out", path, "-algorithm"}, alg...)...).CombinedOutput(); err != nil {
		o.t.Fatalf("openssl genpkey: %v: %s", err, out)
	}
	return path
}

// public reads the other half.
func (o *openssl) public(path string) any {
	o.t.Helper()
	out, err := exec.CommandContext(o.t.Context(), "openssl", "pkey", "-in", path, "-pubout").Output()
	if err != nil {
		o.t.Fatal(err)
	}
	b, _ := pem.Decode(out)
	pub, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		o.t.Fatal(err)
	}
	return pub
}

const partnerLetter = "Content-Type: text/plain\r\n\r\nGood morning.\r\n"

// partnerHead stands before what OpenSSL prints.
const partnerHead = "From: Peer <peer@partner.example>\r\nTo: alice@company1.example\r\nSubject: s\r\nDate: Tue, 24 Nov 2026 11:00:00 +0000\r\n"

// What OpenSSL makes opens and verifies, and what we make it opens and verifies.
func TestOpenSSL(t *testing.T) {
	for _, c := range []struct {
		name      string
		ours      pair
		key       []string // of the peer
		usage     x509.KeyUsage
		encrypt   []string
		sign      []string
		recipient []string // options after -recip
	}{
		{name: "RSA", ours: rsaPair, key: []string{"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, encrypt: []string{"-aes256"}},
		{name: "RSA, OAEP and PSS", ours: rsaPair, key: []string{"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, encrypt: []string{"-aes128"},
			sign: []string{"-keyopt", "rsa_padding_mode:pss"}, recipient: []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"}},
		{name: "RSA, by key id", ours: rsaPair, key: []string{"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, encrypt: []string{"-aes192", "-keyid"}, sign: []string{"-keyid"}},
		{name: "GCM", ours: rsaPair, key: []string{"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, encrypt: []string{"-aes-256-gcm"}},
		{name: "P-256", ours: ecPair, key: []string{"EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, encrypt: []string{"-aes256"}},
		{name: "P-384, SHA-512 in the KDF", ours: pair{hsm.P384, hsm.P384}, key: []string{"EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, encrypt: []string{"-aes256"}, recipient: []string{"-keyopt", "ecdh_kdf_md:sha512"}},
		{name: "P-521", ours: pair{hsm.P521, hsm.P521}, key: []string{"EC", "-pkeyopt", "ec_paramgen_curve:P-521"}, encrypt: []string{"-aes128"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.ours)
			o := newOpenSSL(t)
			key := o.private(c.key...)
			const all = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
			peer := address(t, "peer@partner.example")
			x := w.ca.issue(t, user(peer, all), o.public(key))
			cert, anchor := o.cert("peer.pem", x), o.cert("ca.pem", w.ca.cert)
			ours, err := parse(w.alice.opens.Raw)
			if err != nil {
				t.Fatal(err)
			}
			w.ids = w.alice.both()
			to := o.cert("alice.pem", ours)

			signed := o.run(partnerLetter, append(append([]string{"-sign", "-binary", "-crlfeol", "-signer", cert, "-inkey", key}, c.sign...), "-certfile", anchor)...)
			opaque := o.run(partnerLetter, append([]string{"-sign", "-binary", "-crlfeol", "-nodetach", "-signer", cert, "-inkey", key}, c.sign...)...)
			seal := func(entity string) string {
				args := append([]string{"-encrypt", "-binary", "-crlfeol", "-stream"}, c.encrypt...)
				return o.run(entity, append(append(args, "-recip", to), c.recipient...)...)
			}
			for name, text := range map[string]string{"signed": signed, "opaque": opaque, "sealed": seal(partnerLetter), "sealed and signed": seal(signed), "sealed and opaque": seal(opaque), "triple": seal(signed)} {
				if name == "triple" {
					text = o.run(text, append([]string{"-sign", "-binary", "-crlfeol", "-signer", cert, "-inkey", key}, c.sign...)...)
				}
				sealed := strings.Contains(name, "sealed") || name == "triple"
				good := name != "sealed"
				// OpenSSL dates its signatures by its own clock.
				m, f, err := New(w.config).Open(t.Context(), protect.OpenRequest{Message: mail(t, partnerHead+text), Identities: w.ids, At: time.Now(), NewSpool: spools(t)})
				if err != nil || f.Opened != sealed || f.Good != good {
					t.Errorf("%s: got %+v, %v in\n%s", name, f, err, text)
					continue
				}
				if good && (len(f.Signers) != 1 || f.Signers[0] != peer) {
					t.Errorf("%s: signers %v", name, f.Signers)
				}
				if sealed && !strings.Contains(printed(t, m), "Good morning.") {
					t.Errorf("%s: got\n%s", name, printed(t, m))
				}
			}

			partner := entry(x, peer).Cert
			style := protect.Style{}
			if strings.Contains(c.name, "OAEP") {
				style = protect.Style{OAEP: true, PSS: true, Cipher: "aes-128-cbc"}
			}
			plain := mail(t, letter)
			out := w.seal(plain, true, style)
			got := o.run(printed(t, out), "-verify", "-CAfile", anchor, "-purpose", "smimesign", "-attime", "1795521600")
			if !strings.Contains(got, "the launch code is 0000") || !strings.Contains(got, "Subject: codes") {
				t.Errorf("verified: got\n%s", got)
			}
			if c.name == "GCM" { // the command of OpenSSL 3.0 can't read it in S/MIME form
				style.Cipher = ""
			}
			sealed := w.seal(plain, true, style, partner)
			inner := o.run(printed(t, sealed), "-decrypt", "-recip", cert, "-inkey", key)
			got = o.run(inner, "-verify", "-CAfile", anchor, "-attime", "1795521600")
			if !strings.Contains(got, "the launch code is 0000") || !strings.Contains(got, "Subject: codes") {
				t.Errorf("decrypted: got\n%s", got)
			}
		})
	}
}
