package postfix_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"testing"
	"time"

	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// certify gives a certificate with an RSA key that ends at the time.
func certify(t *testing.T, by *certtest.Authority, until time.Time, names ...string) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := certtest.Host(names...)
	template.NotBefore, template.NotAfter = until.Add(-2*time.Hour), until
	template.KeyUsage |= x509.KeyUsageKeyEncipherment
	return by.Certify(t, template, key)
}

// pin is the hash of a certificate's public key.
func pin(c tls.Certificate) [32]byte { return sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo) }

// tlsa is the record "3 1 1" for a certificate.
func tlsa(c tls.Certificate) string {
	p := pin(c)
	return "3 1 1 " + hex.EncodeToString(p[:])
}

// plain is a partner's server without TLS, modern in all else.
var plain = hoptest.Habit{More: []string{"SMTPUTF8", "DSN"}}

// with is one that has a certificate.
func with(c tls.Certificate, change ...func(*tls.Config)) hoptest.Habit {
	h := hoptest.Showing(c, change...)
	h.More = plain.More
	return h
}

// refusing offers TLS that is not to be had.
func refusing(h hoptest.Habit) hoptest.Habit { h.Refuse = true; return h }

// await polls until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * time.Minute); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 3 min", what)
		}
	}
}
