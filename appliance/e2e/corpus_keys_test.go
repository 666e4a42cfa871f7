package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// keyset says which files of a corpus are whose.
type keyset struct {
	ours  []string // certificates, or secret keys of which the public half is taken, that become identities
	token []string // PKCS#8 files of the private halves
	trust []string // certificates of people who may sign
	// secret are keys with which a second implementation opens the mails
	// whose fields the gateway may move: protected headers.
	secret []string
}

// keysets are by corpus; patterns are below keys/. Who is in no set is a
// stranger, and so his signatures count for nothing.
var keysets = map[string]keyset{
	"covert":             {ours: []string{"covert/*-pub.asc"}, token: []string{"covert/p8-openpgp/*"}, trust: []string{"covert/*-pub.asc"}},
	"gnupg-tests":        {ours: []string{"gnupg-tests/samplekeys-secret-export.asc"}, token: []string{"gnupg-tests/p8-openpgp/*"}, trust: []string{"gnupg-tests/samplekeys-secret-export.asc"}},
	"horde-mdc":          {ours: []string{"horde-mdc/public-key.gpg"}, token: []string{"horde-mdc/p8-openpgp/*"}, trust: nil},
	"johnny":             {ours: nil, token: nil, trust: []string{"johnny/*.asc"}},
	"kde-mimetreeparser": {ours: []string{"kde-mimetreeparser/kde-openpgp-secret.asc"}, token: []string{"kde-mimetreeparser/p8-openpgp/*"}, trust: []string{"kde-mimetreeparser/kde-openpgp-secret.asc"}, secret: []string{"kde-mimetreeparser/kde-openpgp-secret.asc"}},
	"memoryhole":         {ours: []string{"memoryhole/*.pgp"}, token: []string{"memoryhole/p8-openpgp/*"}, trust: []string{"memoryhole/*.pgp"}, secret: []string{"memoryhole/*.key"}},
	"mozilla-openpgp":    {ours: []string{"mozilla-openpgp/alice@openpgp.example-0xf231550c4f47e38e-secret.asc", "mozilla-openpgp/carol@pgp.icu-*-revoked-secret.asc"}, token: []string{"mozilla-openpgp/p8-openpgp/alice@*", "mozilla-openpgp/p8-openpgp/carol@*"}, trust: []string{"mozilla-openpgp/alice@*-pub.asc", "mozilla-openpgp/bob@*-pub.asc"}, secret: []string{"mozilla-openpgp/alice@openpgp.example-0xf231550c4f47e38e-secret.asc"}},
	"notmuch":            {ours: []string{"notmuch/openpgp4-secret-key.asc"}, token: []string{"notmuch/p8-openpgp/*"}, trust: []string{"notmuch/openpgp4-secret-key.asc"}, secret: []string{"notmuch/openpgp4-secret-key.asc"}},
	"openpgp-interop":    {ours: []string{"openpgp-interop/*-decrypt.asc", "openpgp-interop/bob.sec.asc"}, token: []string{"openpgp-interop/p8-openpgp/*"}, trust: []string{"openpgp-interop/*-verify.asc"}},
	"protected-headers":  {ours: []string{"protected-headers/bob@*.sec.asc"}, token: []string{"protected-headers/p8-openpgp/*"}, trust: []string{"protected-headers/alice@*.pub.asc"}, secret: []string{"protected-headers/bob@*.sec.asc"}},
	"rnp-messages":       {ours: rnpCerts, token: []string{"rnp-messages/p8-openpgp/*"}, trust: rnpCerts},
	"rpgp-adversarial":   {ours: []string{"rpgp-adversarial/bob.sec.asc", "rpgp-adversarial/*.priv", "rpgp-adversarial/*@autocrypt.example.sec.asc"}, token: []string{"rpgp-adversarial/p8-openpgp/*"}, trust: []string{"rpgp-adversarial/*.pub.asc", "rpgp-adversarial/cleartext-key-01.asc", "rpgp-adversarial/*.priv"}},
	"rpgp-rfc9580":       {ours: []string{"rpgp-rfc9580/*/tsk.asc"}, token: []string{"rpgp-rfc9580/p8-openpgp/*/*"}, trust: []string{"rpgp-rfc9580/*/tsk.asc"}},
}

var rnpCerts = []string{"rnp-messages/keyrings-1/pubring.gpg", "rnp-messages/stream_key_load/ecc-25519-pub.asc", "rnp-messages/stream_key_load/ecc-p???-pub.asc",
	"rnp-messages/stream_key_load/ecc-x25519-pub.asc", "rnp-messages/stream_key_load/rsa-rsa*-pub.asc"}

// certificate is one OpenPGP certificate of the corpus.
type certificate struct {
	files []string // below keys/, that hold it
	raw   []byte   // binary, public
	ids   []uint64
	users []string
	owner string // domain that it was bound to, "" where the token has none of its keys
}

// primary is its key id.
func (c *certificate) primary() string { return fmt.Sprintf("%016x", c.ids[0]) }

// in reports whether a file of the name holds it.
func (c *certificate) in(name string) bool {
	return slices.ContainsFunc(c.files, func(f string) bool { return strings.HasSuffix(f, name) })
}

// address is what its first user id with one names.
func (c *certificate) address() string {
	for _, u := range c.users {
		if _, rest, ok := strings.Cut(u, "<"); ok {
			u, _, _ = strings.Cut(rest, ">")
		}
		if strings.Contains(u, "@") && !strings.ContainsAny(u, " /") {
			return u
		}
	}
	return ""
}

// globbed are the files of patterns below keys/.
func globbed(t testing.TB, dir string, patterns []string) (files []string) {
	t.Helper()
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, "keys", p))
		if err != nil || len(found) == 0 {
			t.Fatalf("keys/%s: got %d files, %v", p, len(found), err)
		}
		files = append(files, found...)
	}
	return files
}

// readCertificates takes the certificates out of files, each once. What no
// reader here understands is left out: the gateway could not know it either.
func readCertificates(t testing.TB, dir string, patterns []string) (all []*certificate) {
	t.Helper()
	seen := map[string]*certificate{}
	for _, file := range globbed(t, dir, patterns) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(filepath.Join(dir, "keys"), file)
		for _, c := range splitCertificates(dearmoured(data)) {
			if len(c.ids) == 0 {
				continue
			}
			if known := seen[string(c.raw)]; known != nil {
				known.files = append(known.files, name)
				continue
			}
			seen[string(c.raw)], c.files = c, []string{name}
			all = append(all, c)
		}
	}
	return all
}

// dearmoured is the binary of what may be armoured.
func dearmoured(data []byte) []byte {
	if block, err := armor.Decode(bytes.NewReader(data)); err == nil {
		if b, err := io.ReadAll(block.Body); err == nil {
			return b
		}
	}
	return data
}

// splitCertificates cuts a stream of packets at each primary key, and makes
// secret keys public.
func splitCertificates(data []byte) (all []*certificate) {
	r := packet.NewOpaqueReader(bytes.NewReader(data))
	for {
		p, err := r.Next()
		if err != nil {
			return all
		}
		var out bytes.Buffer
		switch p.Tag {
		case 5, 6, 7, 14: // secret key, public key, their subkeys (RFC 9580 §5)
			if p.Tag == 5 || p.Tag == 6 {
				all = append(all, &certificate{})
			}
			var key *packet.PublicKey
			parsed, err := p.Parse()
			switch k := parsed.(type) {
			case *packet.PublicKey:
				key = k
			case *packet.PrivateKey:
				key = &k.PublicKey
			}
			if err != nil || key == nil || key.Serialize(&out) != nil || len(all) == 0 {
				continue
			}
			c := all[len(all)-1]
			c.ids = append(c.ids, key.KeyId)
		case 2, 13, 17: // signature, user id, user attribute
			if p.Serialize(&out) != nil {
				continue
			}
			if p.Tag == 13 && len(all) > 0 {
				all[len(all)-1].users = append(all[len(all)-1].users, string(p.Contents))
			}
		}
		if len(all) > 0 && out.Len() > 0 {
			c := all[len(all)-1]
			c.raw = append(c.raw, out.Bytes()...)
		}
	}
}

// readPrivate reads the private key of a PKCS#8 file, where it can unwrap: an
// EC key is taken when the list of keys says that it is one for ECDH.
func readPrivate(t testing.TB, file, kind string) crypto.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s: no PEM", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	switch k := key.(type) {
	case *rsa.PrivateKey, *ecdh.PrivateKey:
		return k
	case *ecdsa.PrivateKey:
		if strings.Contains(kind, "ECDH") {
			return k
		}
	}
	return nil
}

// keyKinds is the type column of the list of keys, by path.
func keyKinds(t testing.TB, dir string) map[string]string {
	t.Helper()
	kinds := map[string]string{}
	for _, row := range readTSV(t, filepath.Join(dir, "keys.tsv")) {
		kinds[row["path"]] = row["type"]
	}
	return kinds
}
