package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// authority is the certification authority of a test, which everybody trusts.
type authority struct {
	t    testing.TB
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// newAuthority makes one. It signs with RSA, which every peer can check.
func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := hsmtest.RSA(2048, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, &key.PublicKey)
	return a
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// issue makes a certificate for mail: it signs or is sealed to, never both.
func (a *authority) issue(pub crypto.PublicKey, name, address string, use hsm.Usage) *x509.Certificate {
	a.t.Helper()
	usage := x509.KeyUsageDigitalSignature
	if use == hsm.Unwrap {
		usage = x509.KeyUsageKeyAgreement
		if _, ok := pub.(*rsa.PublicKey); ok {
			usage = x509.KeyUsageKeyEncipherment
		}
	}
	now := time.Now()
	id, err := hsm.IDOf(pub)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.sign(&x509.Certificate{SerialNumber: serial(a.t), Subject: pkix.Name{CommonName: name}, EmailAddresses: []string{address}, SubjectKeyId: id[:20],
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}, pub)
}

// sign makes the certificate of a template.
func (a *authority) sign(template *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	parent := a.cert
	if parent == nil {
		parent = template
	}
	curve, montgomery := pub.(*ecdh.PublicKey)
	if montgomery {
		pub = ed25519.PublicKey(curve.Bytes()) // crypto/x509 makes none for X25519: its place is taken, and given back below
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err == nil && montgomery {
		der, err = a.montgomery(der)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// montgomery turns the Ed25519 key of a certificate into an X25519 key (RFC
// 8410 §3), and signs again.
func (a *authority) montgomery(der []byte) ([]byte, error) {
	var cert struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		return nil, err
	}
	tbs := bytes.Replace(cert.TBS.FullBytes, []byte{0x30, 5, 6, 3, 0x2b, 0x65, 0x70}, []byte{0x30, 5, 6, 3, 0x2b, 0x65, 0x6e}, 1)
	digest := sha256.Sum256(tbs)
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, digest[:])
	if err != nil {
		return nil, err
	}
	cert.TBS, cert.Signature = asn1.RawValue{FullBytes: tbs}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return asn1.Marshal(cert)
}

// keypair is a key in a file of the partner's, and its certificate.
type keypair struct {
	cert *x509.Certificate
	key  crypto.PrivateKey
}

// sha1Of is the name that GnuPG gives a certificate.
func sha1Of(c *x509.Certificate) [sha1.Size]byte { return sha1.Sum(c.Raw) }

// newKey makes a private key outside a token.
func newKey(t testing.TB, a hsm.Algorithm, n int) (key crypto.PrivateKey) {
	t.Helper()
	var err error
	switch a {
	case hsm.RSA2048:
		key, err = hsmtest.RSA(2048, n)
	case hsm.RSA3072:
		key, err = hsmtest.RSA(3072, n)
	case hsm.P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.P521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case hsm.Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case hsm.X25519:
		key, err = ecdh.X25519().GenerateKey(rand.Reader)
	default:
		t.Fatalf("no key of %s", a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// public is the public half.
func public(key crypto.PrivateKey) crypto.PublicKey {
	return key.(interface{ Public() crypto.PublicKey }).Public()
}
