package chain

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// TestSearchIsCounted holds R15: what a set of certificates costs has a bound,
// and a loop is gone through once.
func TestSearchIsCounted(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	keys := map[string]*ecdsa.PrivateKey{}
	issue := func(subject, key, issuer, issuerKey string, serial int) *x509.Certificate {
		t.Helper()
		for _, k := range []string{key, issuerKey} {
			if keys[k] == nil {
				made := certtest.Key(t)
				keys[k] = made
			}
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(serial)), Subject: pkix.Name{CommonName: subject}, NotBefore: now, NotAfter: now, BasicConstraintsValid: true, IsCA: true}
		raw, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, keys[key].Public(), keys[issuerKey])
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	names := []string{"a", "b", "c", "d", "e", "f"}
	var tangle, clones []*x509.Certificate // each of the tangle signs each other one
	for i, subject := range names {
		for k, issuer := range names {
			tangle = append(tangle, issue(subject, subject, issuer, issuer, 10*i+k+1))
		}
	}
	for i := range 200 {
		clones = append(clones, issue("a", "a"+string(rune(i)), "b", "b", i+1))
	}
	for name, test := range map[string]struct {
		others        []*x509.Certificate
		steps, checks int
	}{
		"tangle": {tangle, maxSteps + 1, maxChecks},
		"clones": {clones, maxSteps + 1, maxChecks},
		"loop":   {[]*x509.Certificate{issue("a", "a", "b", "b", 1), issue("b", "b", "a", "a", 2)}, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			s := newSearch(j, Request{Cert: issue("user", "user", "a", "a", 1000), Others: test.others})
			if found := s.next(); found != nil {
				t.Errorf("got a path to %v, want none", found.cert.Subject)
			}
			if s.steps > test.steps || len(s.checked) > test.checks {
				t.Errorf("got %d steps and %d signatures, want at most %d and %d", s.steps, len(s.checked), test.steps, test.checks)
			}
		})
	}
}
