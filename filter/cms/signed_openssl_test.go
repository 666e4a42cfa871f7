package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// run is what a command prints, which must succeed.
func run(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.Bytes()
}

// write puts a file into dir.
func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// keyFiles writes name.key and name.crt, and gives the certificate.
func keyFiles(t testing.TB, dir, name string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := issue(t, key.Public())
	write(t, dir, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	write(t, dir, name+".crt", certPEM(cert))
	return cert
}

func testKey(t testing.TB, a hsm.Algorithm) (key crypto.Signer) {
	t.Helper()
	var err error
	switch a {
	case hsm.RSA1024:
		key, err = hsmtest.RSA(1024, 0)
	case hsm.RSA2048:
		key, err = hsmtest.RSA(2048, 0)
	case hsm.P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.P521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "p-224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What openssl signs in all its ways is verified, unless it is weak. OpenSSL
// 3.0 has no Ed25519 in CMS.
func TestReadOpenSSL(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mail", []byte(entity))
	write(t, dir, "empty", nil)
	certs := map[hsm.Algorithm]*x509.Certificate{}
	for _, a := range []hsm.Algorithm{hsm.RSA1024, hsm.RSA2048, hsm.P256, hsm.P384, hsm.P521, "p-224"} {
		certs[a] = keyFiles(t, dir, string(a), testKey(t, a))
	}
	pss := "-keyopt rsa_padding_mode:pss "
	for _, c := range []struct {
		key  hsm.Algorithm
		args string
		want error
	}{
		{hsm.RSA2048, "", nil},
		{hsm.RSA2048, "-md sha256", nil},
		{hsm.RSA2048, "-md sha384", nil},
		{hsm.RSA2048, "-md sha512", nil},
		{hsm.RSA2048, "-md sha224", nil},
		{hsm.RSA2048, "-md sha1", ErrAlgorithm},
		{hsm.RSA2048, "-md md5", ErrAlgorithm},
		{hsm.RSA2048, "-md sha3-256", ErrAlgorithm},
		{hsm.RSA1024, "-md sha256", ErrAlgorithm},
		{hsm.RSA2048, "-md sha256 " + pss, nil},
		{hsm.RSA2048, "-md sha384 " + pss, nil},
		{hsm.RSA2048, "-md sha512 " + pss + "-keyopt rsa_pss_saltlen:digest", nil},
		{hsm.RSA2048, "-md sha256 " + pss + "-keyopt rsa_pss_saltlen:0", nil},
		{hsm.RSA2048, "-md sha256 " + pss + "-keyopt rsa_pss_saltlen:max", nil},
		{hsm.RSA2048, "-md sha256 " + pss + "-keyopt rsa_mgf1_md:sha384", ErrAlgorithm},
		{hsm.RSA2048, "-md sha1 " + pss, ErrAlgorithm},
		{hsm.RSA2048, "-md sha256 -noattr " + pss, nil},
		{hsm.P256, "-md sha256", nil},
		{hsm.P256, "-md sha512", nil},
		{hsm.P384, "-md sha384", nil},
		{hsm.P521, "-md sha512", nil},
		{hsm.P256, "-md sha1", ErrAlgorithm},
		{"p-224", "-md sha256", ErrAlgorithm},
		{hsm.RSA2048, "-keyid", nil},
		{hsm.RSA2048, "-noattr", nil},
		{hsm.RSA2048, "-nosmimecap -nocerts", nil},
		{hsm.P256, "-noattr -keyid", nil},
	} {
		for _, form := range []string{"", "-nodetach", "-nodetach -stream"} {
			if strings.Contains(c.args, "pss") && strings.Contains(form, "-stream") {
				continue // OpenSSL 3.0 writes its parameters before it has them
			}
			name := strings.Join([]string{string(c.key), c.args, form}, " ")
			args := strings.Fields("cms -sign -binary -in mail -outform DER -signer " + string(c.key) + ".crt -inkey " + string(c.key) + ".key " + c.args + " " + form)
			message := run(t, dir, "openssl", args...)
			cert := certs[c.key]
			var s *Signed
			var err error
			var content bytes.Buffer
			if form == "" {
				s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(entity))
			} else if s, err = ReadSigned(bytes.NewReader(message), &content); content.String() != entity {
				t.Errorf("%s: got %q", name, content.String())
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := s.Signers[0].Verify(cert); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
			if !s.Signers[0].Names(cert) || (s.Signers[0].KeyID != nil) != strings.Contains(c.args, "-keyid") {
				t.Errorf("%s: got %x, %v, %x", name, s.Signers[0].Issuer, s.Signers[0].Serial, s.Signers[0].KeyID)
			}
			bare := strings.Contains(c.args, "-noattr")
			if s.Signers[0].SigningTime.IsZero() != bare || (len(s.Signers[0].Capabilities.Ciphers()) > 2) == (bare || strings.Contains(c.args, "-nosmimecap")) {
				t.Errorf("%s: got %v, %v", name, s.Signers[0].SigningTime, s.Signers[0].Capabilities)
			}
			if (len(s.Certs) == 0) != strings.Contains(c.args, "-nocerts") {
				t.Errorf("%s: got %d certificates", name, len(s.Certs))
			}
			if form != "" {
				continue
			}
			if s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(entity+"x")); err != nil || s.Signers[0].Verify(cert) == nil {
				t.Errorf("%s: other content: got %v and a good signature", name, err)
			}
		}
	}
}

// What is signed here openssl verifies.
func TestWriteOpenSSL(t *testing.T) {
	dir := t.TempDir()
	token := hsmtest.Memory(t)
	ca, _ := authority()
	write(t, dir, "ca.crt", certPEM(ca))
	big := strings.Repeat("A line of a long mail.\r\n", 4000)
	capabilities, err := Readable()
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range ways {
		if way.algorithm == hsm.Ed25519 {
			continue
		}
		r := signWith(t, token, way.algorithm)
		r.PSS, r.EncryptTo, r.Capabilities = way.pss, ca, capabilities
		for _, content := range []string{"", entity, big} {
			write(t, dir, "mail", []byte(content))
			write(t, dir, "detached", signed(t, r, content, true))
			write(t, dir, "opaque", signed(t, r, content, false))
			for _, more := range []string{"-in detached -content mail", "-in opaque"} {
				got := run(t, dir, "openssl", strings.Fields("cms -verify -binary -inform DER -CAfile ca.crt -no_check_time -out - "+more)...)
				if string(got) != content {
					t.Errorf("%s %s: got %.80q", way.name, more, got)
				}
			}
		}
	}
}

// Several signers keep their order, and each is judged alone.
func TestSeveralSigners(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mail", []byte(entity))
	a, b := keyFiles(t, dir, "a", testKey(t, hsm.P256)), keyFiles(t, dir, "b", testKey(t, hsm.RSA2048))
	args := strings.Fields("cms -sign -binary -nodetach -in mail -outform DER -out first -signer a.crt -inkey a.key -md sha256")
	run(t, dir, "openssl", args...)
	args = strings.Fields("cms -resign -binary -nodetach -inform DER -in first -outform DER -signer b.crt -inkey b.key")
	message := run(t, dir, "openssl", args...)
	s, err := ReadSigned(bytes.NewReader(message), &bytes.Buffer{})
	if err != nil || len(s.Signers) != 2 || len(s.Certs) != 2 {
		t.Fatalf("got %+v, %v", s, err)
	}
	for _, signer := range s.Signers {
		mine, other := a, b
		if signer.Names(b) {
			mine, other = b, a
		}
		if err := signer.Verify(mine); err != nil {
			t.Errorf("got %v", err)
		}
		if err := signer.Verify(other); !errors.Is(err, ErrBadSignature) {
			t.Errorf("certificate of the other: got %v, want %v", err, ErrBadSignature)
		}
	}
}

// DSA is known for what it is, and refused.
func TestDSA(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mail", []byte(entity))
	run(t, dir, "openssl", strings.Fields("dsaparam -out params 1024")...)
	run(t, dir, "openssl", strings.Fields("req -x509 -newkey dsa:params -nodes -keyout key -out crt -subj /CN=old -days 30")...)
	message := run(t, dir, "openssl", strings.Fields("cms -sign -binary -in mail -outform DER -signer crt -inkey key -md sha256")...)
	s, err := ReadDetached(bytes.NewReader(message), strings.NewReader(entity))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(s.Certs[0])
	if err != nil {
		t.Fatal(err)
	}
	if cert.PublicKeyAlgorithm != x509.DSA {
		t.Fatalf("got a key of type %T", cert.PublicKey)
	}
	if err := s.Signers[0].Verify(cert); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("got %v, want %v", err, ErrAlgorithm)
	}
}

// Certificates alone have neither content nor signers.
func TestCertsOnly(t *testing.T) {
	dir := t.TempDir()
	cert := keyFiles(t, dir, "a", testKey(t, hsm.P256))
	bundle := run(t, dir, "openssl", strings.Fields("crl2pkcs7 -nocrl -certfile a.crt -outform DER")...)
	var content bytes.Buffer
	s, err := ReadSigned(bytes.NewReader(bundle), &content)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Certs) != 1 || !bytes.Equal(s.Certs[0], cert.Raw) || len(s.Signers) != 0 || s.Content || content.Len() > 0 {
		t.Errorf("got %+v", s)
	}
	// What we make of certificates OpenSSL takes apart.
	other := keyFiles(t, dir, "b", testKey(t, hsm.P256))
	made, err := Bundle(cert.Raw, other.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "made.p7c"), made, 0o600); err != nil {
		t.Fatal(err)
	}
	list := run(t, dir, "openssl", strings.Fields("pkcs7 -inform DER -in made.p7c -print_certs")...)
	if got := strings.Count(string(list), "-----BEGIN CERTIFICATE-----"); got != 2 {
		t.Errorf("OpenSSL finds %d certificates, want 2:\n%s", got, list)
	}
}
