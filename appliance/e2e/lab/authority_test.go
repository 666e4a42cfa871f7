package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority certifies the companies' servers and their mail. Both believe it.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.cert = a.sign(t, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotAfter: time.Now().AddDate(2, 0, 0),
	}, &key.PublicKey)
	return a
}

// sign makes a certificate, for a year where the template does not say.
func (a *authority) sign(t testing.TB, template x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = template.NotBefore.AddDate(1, 0, 0)
	}
	parent := a.cert
	if parent == nil {
		parent = &template
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// server certifies a key of a mail server.
func (a *authority) server(t testing.TB, template x509.Certificate, pub crypto.PublicKey, names ...string) []byte {
	t.Helper()
	template.Subject, template.DNSNames = pkix.Name{CommonName: names[0]}, names
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return inPEM(a.sign(t, template, pub))
}

// mail certifies a key for S/MIME: it signs, or is sealed to.
func (a *authority) mail(t testing.TB, pub crypto.PublicKey, name, address string, signs bool) []byte {
	t.Helper()
	usage := x509.KeyUsageDigitalSignature
	if _, ok := pub.(*rsa.PublicKey); ok && !signs {
		usage = x509.KeyUsageKeyEncipherment
	} else if !signs {
		usage = x509.KeyUsageKeyAgreement
	}
	return inPEM(a.sign(t, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, EmailAddresses: []string{address},
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
	}, pub))
}

func inPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// asked reads the public key of a request (PKCS#10), which must have signed
// itself, or of a key that signs none.
func asked(t testing.TB, path string) crypto.PublicKey {
	t.Helper()
	pub, err := func() (crypto.PublicKey, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s: no PEM", path)
		}
		if block.Type != "CERTIFICATE REQUEST" {
			return x509.ParsePKIXPublicKey(block.Bytes)
		}
		r, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return nil, err
		}
		return r.PublicKey, r.CheckSignature()
	}()
	if err != nil {
		t.Fatal(err)
	}
	return pub
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
