package chain_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm/certtest"
)

// now is the time of judgement of these tests.
var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

var serial atomic.Int64

// entity is a certificate and its key.
type entity struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	by   *entity // nil: itself
}

// issue makes a certificate with a new key, or with that of the entity where
// one is given.
func issue(t testing.TB, by *entity, key crypto.Signer, c *x509.Certificate) *entity {
	t.Helper()
	if key == nil {
		key = certtest.Key(t)
	}
	if c.SerialNumber == nil {
		c.SerialNumber = big.NewInt(serial.Add(1))
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = now.AddDate(-1, 0, 0)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = now.AddDate(1, 0, 0)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &entity{t, cert, key, by}
}

// newCA makes an authority; change may alter the template.
func newCA(t testing.TB, name string, by *entity, change ...func(*x509.Certificate)) *entity {
	t.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, f := range change {
		f(c)
	}
	return issue(t, by, nil, c)
}

// newLeaf makes a certificate of a user.
func newLeaf(t testing.TB, by *entity, change ...func(*x509.Certificate)) *entity {
	t.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "user"}, EmailAddresses: []string{"user@example.test"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
	}
	for _, f := range change {
		f(c)
	}
	return issue(t, by, nil, c)
}

func (e *entity) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.cert.Raw})
}

// extra adds an extension.
func extra(critical bool, value []byte, oid ...int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier(oid), Critical: critical, Value: value})
	}
}

// crl is a list of the entity about the serial numbers.
func (e *entity) crl(change func(*x509.RevocationList), revoked ...*entity) []byte {
	e.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(serial.Add(1)), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	for _, r := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.cert.SerialNumber, RevocationTime: now.Add(-2 * time.Hour)})
	}
	if change != nil {
		change(l)
	}
	raw, err := x509.CreateRevocationList(rand.Reader, l, e.cert, e.key)
	if err != nil {
		e.t.Fatal(err)
	}
	return raw
}

// resigned is a certificate whose signed part was altered, signed again by an
// authority with a P-256 key: what crypto/x509 does not make.
func resigned(t testing.TB, by *entity, c *x509.Certificate, old, new string) *entity {
	t.Helper()
	tbs := c.RawTBSCertificate
	at := bytes.LastIndex(tbs, []byte(old))
	if at < 0 || len(old) != len(new) {
		t.Fatalf("got no %q in the certificate", old)
	}
	tbs = slices.Concat(tbs[:at], []byte(new), tbs[at+len(old):])
	digest := sha256.Sum256(tbs)
	signature, err := by.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
		})
		b.AddASN1BitString(signature)
	})
	raw, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	altered, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &entity{t: t, cert: altered, by: by}
}

// tryIssue makes a certificate that crypto/x509 may refuse to read.
func tryIssue(by *entity, c *x509.Certificate) (*entity, bool) {
	key := certtest.Key(by.t)
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(serial.Add(1)), now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0)
	raw, err := x509.CreateCertificate(rand.Reader, c, by.cert, key.Public(), by.key)
	if err != nil {
		by.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	return &entity{by.t, cert, key, by}, err == nil
}
