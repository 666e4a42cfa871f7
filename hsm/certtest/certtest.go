// Package certtest makes the X.509 authorities and certificates of tests. It
// has the standard library only, so that every floor may use it. A test whose
// point is an odd certificate writes its own.
package certtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// Authority certifies keys, and is believed by whom a test tells to.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// CA is the template of an authority.
func CA(name string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

// Host is the template of a server, and of a client that shows who it is, with
// names and IP addresses.
func Host(names ...string) x509.Certificate {
	c := x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return c
}

// Mail is the template of a certificate for the mail of an address.
func Mail(address string, usage x509.KeyUsage) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: address}, EmailAddresses: []string{address}, KeyUsage: usage,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}
}

// New makes an authority that certifies itself. What a template leaves out of
// serial number and times is filled in: from an hour ago, for a year.
func New(t testing.TB, template x509.Certificate) *Authority {
	t.Helper()
	key := Key(t)
	return &Authority{certify(t, template, nil, key.Public(), key), key}
}

// Below makes an authority that this one certifies.
func (a *Authority) Below(t testing.TB, template x509.Certificate) *Authority {
	t.Helper()
	key := Key(t)
	return &Authority{a.Sign(t, template, key.Public()), key}
}

// Sign certifies a public key, for as long as the authority itself where the
// template does not say.
func (a *Authority) Sign(t testing.TB, template x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return certify(t, template, a.Cert, pub, a.Key)
}

// Issue certifies a key of its own making, and shows the authority behind it.
func (a *Authority) Issue(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	return a.Certify(t, template, Key(t))
}

// Certify does so for a key that is there.
func (a *Authority) Certify(t testing.TB, template x509.Certificate, key crypto.Signer) tls.Certificate {
	t.Helper()
	leaf := a.Sign(t, template, key.Public())
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, a.Cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// Pool believes the authority.
func (a *Authority) Pool() *x509.CertPool { return Pool(a.Cert) }

// SelfSigned is a certificate that certifies itself, with the marks of an
// authority, which some programs want of whom they are told to believe.
func SelfSigned(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	template.IsCA, template.KeyUsage = true, template.KeyUsage|x509.KeyUsageCertSign
	return Own(t, template, Key(t))
}

// Own is one that a key makes for itself, as the template says.
func Own(t testing.TB, template x509.Certificate, key crypto.Signer) tls.Certificate {
	t.Helper()
	leaf := certify(t, template, nil, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// certify makes a certificate below parent, or below itself.
func certify(t testing.TB, template x509.Certificate, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	from, to := time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	if parent != nil {
		from, to = parent.NotBefore, parent.NotAfter
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = from
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = to
	}
	if template.SerialNumber == nil {
		serial := make([]byte, 16)
		rand.Read(serial)
		serial[0] = serial[0]&0x7f | 0x40 // positive, and as long in all of them
		template.SerialNumber = new(big.Int).SetBytes(serial)
	}
	template.BasicConstraintsValid = true
	if parent == nil {
		parent = &template
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Key is a new one on P-256.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Pool believes the certificates.
func Pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// PEM is a chain of certificates as text.
func PEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}

// KeyPEM is a private key as text.
func KeyPEM(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Bundle is a key and what certifies it as one text, which Postfix and Dovecot
// read.
func Bundle(t testing.TB, c tls.Certificate) []byte {
	t.Helper()
	return append(KeyPEM(t, c.PrivateKey), PEM(c.Leaf)...)
}

// Write puts a certificate and its key into files.
func Write(t testing.TB, c tls.Certificate, cert, key string) {
	t.Helper()
	for name, text := range map[string][]byte{cert: PEM(c.Leaf), key: KeyPEM(t, c.PrivateKey)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
