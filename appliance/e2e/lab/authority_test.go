package lab

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"postern/hsm/certtest"
)

// certified is the template of a certificate for S/MIME: its key signs, or is
// sealed to.
func certified(pub crypto.PublicKey, name, address string, signs bool) x509.Certificate {
	usage := x509.KeyUsageDigitalSignature
	if _, ok := pub.(*rsa.PublicKey); ok && !signs {
		usage = x509.KeyUsageKeyEncipherment
	} else if !signs {
		usage = x509.KeyUsageKeyAgreement
	}
	c := certtest.Mail(address, usage)
	c.Subject.CommonName = name
	return c
}

// asked reads the public key of a request, or of a key that signs none.
func asked(t testing.TB, path string) crypto.PublicKey {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return certtest.Asked(t, data).PublicKey
}

// file writes a certificate where everybody may read it.
func file(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
