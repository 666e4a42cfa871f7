package trial

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// certifiedYears is how long the certificates of a trial are valid. A box that
// is taken up later gets new ones.
const certifiedYears = 2

// authority is the one of a trial, and good for nothing else: it asks nobody
// who he is. Its key is never written, and gone as soon as the box is set up;
// a real site has its certificates from an authority that its partners know.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(domain string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	a := &authority{key: key}
	a.cert, err = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Trial of " + domain + ", not for use"},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, &key.PublicKey)
	return a, err
}

// certify makes a certificate for mail, in PEM.
func (a *authority) certify(pub any, name, address string, usage x509.KeyUsage) ([]byte, error) {
	cert, err := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, EmailAddresses: []string{address}, BasicConstraintsValid: true,
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}, pub)
	if err != nil {
		return nil, err
	}
	return certPEM(cert), nil
}

// sign makes the certificate of a template, valid from now on.
func (a *authority) sign(template *x509.Certificate, pub any) (*x509.Certificate, error) {
	parent := a.cert
	if parent == nil {
		parent = template // its own
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.AddDate(certifiedYears, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// request is what `identity create` asks an authority with for one key: a
// request that the key signed, or where it can't, its public key.
type request struct{ Use, Address, PEM string }

// read gives the key, and what its certificate has to allow.
func (r request) read() (pub any, usage x509.KeyUsage, err error) {
	block, _ := pem.Decode([]byte(r.PEM))
	if block == nil {
		return nil, 0, errors.New("read request: no PEM in it")
	}
	if block.Type == "CERTIFICATE REQUEST" {
		pub, err = proven(block.Bytes)
	} else if pub, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		err = fmt.Errorf("read public key: %w", err)
	}
	usage = x509.KeyUsageDigitalSignature
	if r.Use == "unwrap" {
		usage = x509.KeyUsageKeyAgreement
		if _, ok := pub.(*rsa.PublicKey); ok {
			usage = x509.KeyUsageKeyEncipherment
		}
	}
	return pub, usage, err
}

// proven is the key of a request that it signed itself.
func proven(der []byte) (any, error) {
	r, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return r.PublicKey, nil
}
