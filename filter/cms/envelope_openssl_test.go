package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// openssl runs it and gives what it wrote to the file that -out names.
func openssl(t testing.TB, input []byte, args ...string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, input, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command("openssl", slices.Concat(args[:1], []string{"-in", in, "-out", out}, args[1:])...).CombinedOutput()
	if err != nil {
		return nil, errors.New(strings.TrimSpace(string(said)))
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b, nil
}

// opensslKinds are the ways openssl encrypts for a kind of key. X25519 is not
// among them: openssl 3.0 doesn't know RFC 8418.
var opensslKinds = []struct {
	name, reader string
	options      []string // behind -recip
	before       []string
	want         hsm.Wrapped // scheme and hashes
}{
	{"PKCS1", "rsa", nil, nil, hsm.Wrapped{Scheme: hsm.PKCS1}},
	{"PKCS1 by key id", "rsa", nil, []string{"-keyid"}, hsm.Wrapped{Scheme: hsm.PKCS1}},
	{"OAEP", "rsa", []string{"-keyopt", "rsa_padding_mode:oaep"}, nil, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA1, MGFHash: crypto.SHA1}},
	{"OAEP SHA-256", "rsa", []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"}, nil, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256, MGFHash: crypto.SHA256}},
	{"OAEP SHA-384, MGF1 SHA-1", "rsa", []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha384", "-keyopt", "rsa_mgf1_md:sha1"}, nil, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA384, MGFHash: crypto.SHA1}},
	{"OAEP SHA-512 with label", "rsa", []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha512", "-keyopt", "rsa_oaep_label:0102030405"}, nil, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA512, MGFHash: crypto.SHA512, Label: []byte{1, 2, 3, 4, 5}}},
	{"ECDH P-256", "p256", nil, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA1}},
	{"ECDH P-256 by key id", "p256", nil, []string{"-keyid"}, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA1}},
	{"ECDH P-256 SHA-224", "p256", []string{"-keyopt", "ecdh_kdf_md:sha224"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA224}},
	{"ECDH P-256 SHA-256", "p256", []string{"-keyopt", "ecdh_kdf_md:sha256"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA256}},
	{"ECDH P-256 cofactor", "p256", []string{"-keyopt", "ecdh_kdf_md:sha256", "-keyopt", "ecdh_cofactor_mode:1"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA256}},
	{"ECDH P-384 SHA-384", "p384", []string{"-keyopt", "ecdh_kdf_md:sha384"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA384}},
	{"ECDH P-384 cofactor", "p384", []string{"-keyopt", "ecdh_kdf_md:sha384", "-keyopt", "ecdh_cofactor_mode:1"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA384}},
	{"ECDH P-521 SHA-512", "p521", []string{"-keyopt", "ecdh_kdf_md:sha512"}, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA512}},
	{"ECDH P-521 AES-128 wrap", "p521", []string{"-keyopt", "ecdh_kdf_md:sha512"}, []string{"-aes128-wrap"}, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA512}},
	{"ECDH P-256 AES-256 wrap", "p256", nil, []string{"-aes256-wrap"}, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA1}},
	{"ECDH P-256 3DES wrap", "p256", nil, []string{"-des3-wrap"}, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA1}},
}

var opensslCiphers = []struct {
	option string
	cipher Cipher
}{
	{"-des3", TripleDES},
	{"-aes-128-cbc", AES128CBC}, {"-aes-192-cbc", AES192CBC}, {"-aes-256-cbc", AES256CBC},
	{"-aes-128-gcm", AES128GCM}, {"-aes-192-gcm", AES192GCM}, {"-aes-256-gcm", AES256GCM},
}

// What openssl encrypts opens: each cipher, each kind of key, definite and
// indefinite lengths.
func TestOpenOpenSSL(t *testing.T) {
	all := readers(t)
	content := random(70_001)
	for _, kind := range opensslKinds {
		r := all[kind.reader]
		cert, _ := r.files(t)
		for i, c := range opensslCiphers {
			args := slices.Concat([]string{"cms", "-encrypt", "-binary", "-outform", "DER", c.option}, kind.before)
			if i%2 == 0 {
				args = append(args, "-stream")
			}
			message, err := openssl(t, content, slices.Concat(args, []string{"-recip", cert}, kind.options)...)
			if err != nil {
				t.Fatalf("%s, %s: openssl: %v", kind.name, c.option, err)
			}
			e, got, err := r.open(message)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, %s: got same=%t, %v, want true, nil", kind.name, c.option, bytes.Equal(got, content), err)
				continue
			}
			w := e.Recipients[0].Wrapped
			if e.Cipher != c.cipher || e.Legacy() != (c.cipher == TripleDES) || w.Scheme != kind.want.Scheme || w.Hash != kind.want.Hash || w.MGFHash != kind.want.MGFHash || !bytes.Equal(w.Label, kind.want.Label) || w.Size != c.cipher.KeySize() {
				t.Errorf("%s, %s: got %s, %+v, want %s, %+v", kind.name, c.option, e.Cipher, w, c.cipher, kind.want)
			}
			if slices.Contains(kind.before, "-keyid") != (e.Recipients[0].KeyID != nil) {
				t.Errorf("%s: got key id %x", kind.name, e.Recipients[0].KeyID)
			}
		}
	}
}

// All kinds of recipients in one message, and beside them a password and a
// key-encryption key that nobody here has.
func TestOpenOpenSSLMany(t *testing.T) {
	all := readers(t)
	args := []string{"cms", "-encrypt", "-binary", "-outform", "DER", "-aes-128-cbc", "-pwri_password", "secret", "-secretkey", "000102030405060708090a0b0c0d0e0f", "-secretkeyid", "0102"}
	names := []string{"rsa", "p256", "p384", "p521"}
	for _, name := range names {
		cert, _ := all[name].files(t)
		args = append(args, "-recip", cert)
	}
	message, err := openssl(t, []byte("content"), args...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		e, got, err := all[name].open(message)
		if err != nil || string(got) != "content" || len(e.Recipients) != len(names) {
			t.Errorf("%s: got %q, %v, want content, nil", name, got, err)
		}
	}
}

// openssl opens what is sealed here.
func TestSealOpenSSL(t *testing.T) {
	all := readers(t)
	for _, name := range []string{"rsa", "p256", "p384", "p521"} {
		r := all[name]
		cert, key := r.files(t)
		for _, c := range sealing6 {
			for _, oaep := range []bool{false, true} {
				if oaep && name != "rsa" {
					continue
				}
				for _, size := range []int{0, 1, 4000, pieceSize, 100_001} {
					content := random(size)
					message := sealed(t, content, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c, OAEP: oaep})
					got, err := openssl(t, message, "cms", "-decrypt", "-binary", "-inform", "DER", "-recip", cert, "-inkey", key)
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s, %s, OAEP %t, %d bytes: got same=%t, %v, want true, nil", name, c, oaep, size, bytes.Equal(got, content), err)
					}
				}
			}
		}
	}
	var certs []*x509.Certificate
	for _, r := range all {
		certs = append(certs, r.cert)
	}
	for _, c := range []Cipher{AES256CBC, AES128GCM} {
		message := sealed(t, []byte("content"), SealRequest{Recipients: certs, Cipher: c})
		for _, name := range []string{"rsa", "p256", "p384", "p521"} {
			cert, key := all[name].files(t)
			if got, err := openssl(t, message, "cms", "-decrypt", "-binary", "-inform", "DER", "-recip", cert, "-inkey", key); err != nil || string(got) != "content" {
				t.Errorf("%s for all, %s: got %q, %v, want content, nil", c, name, got, err)
			}
		}
	}
}

// A shared secret that begins with zeros is as long as any other. Of 256 one
// does so; in the P-521 field, whose first byte has one bit, half of them.
func TestLeadingZeros(t *testing.T) {
	all := readers(t)
	for name, n := range map[string]int{"p256": 1500, "p521": 20} {
		r := all[name]
		for i := range n {
			message := sealed(t, []byte("content"), SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: AES128CBC})
			if _, got, err := r.open(message); err != nil || string(got) != "content" {
				t.Fatalf("%s, message %d: got %q, %v, want content, nil", name, i, got, err)
			}
		}
	}
}

// Old and small: RSA-1024, which is for reading only.
func TestOpenOldKey(t *testing.T) {
	key, err := hsmtest.RSA(1024, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := tokenOf(t, map[string]crypto.PrivateKey{"rsa": key})["rsa"]
	cert, _ := r.files(t)
	message, err := openssl(t, []byte("content"), "cms", "-encrypt", "-binary", "-outform", "DER", "-des3", "-recip", cert)
	if err != nil {
		t.Fatal(err)
	}
	if e, got, err := r.open(message); err != nil || string(got) != "content" || !e.Legacy() {
		t.Errorf("got %q, %v, want content, nil, and it is legacy", got, err)
	}
}
