package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"net/http"
	"testing"
	"time"
	"unicode"

	"github.com/mholt/acmez/v3/acme"
)

// FuzzAnswer: what a server says ends as certificates of the key or an error, in
// one printable line, and a wait within bounds.
func FuzzAnswer(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), "120", "urn:ietf:params:acme:error:rateLimited", "\x1b[2J\nslow\xff")
	f.Add([]byte("MAA="), "Wed, 25 Nov 2026 12:00:00 GMT", "", "")
	f.Fuzz(func(t *testing.T, chain []byte, when, kind, detail string) {
		if certs, err := read(chain, k.Public()); (err == nil) != (len(certs) > 0) {
			t.Errorf("got %d certificates and %v", len(certs), err)
		}
		if d := after(http.Header{"Retry-After": {when}}, time.Unix(0, 0)); d < 0 || d > maxWait {
			t.Errorf("got %v from %q", d, when)
		}
		text := words(acme.Problem{Type: kind, Detail: detail, Subproblems: []acme.Subproblem{{Problem: acme.Problem{Detail: detail}}}})
		for _, r := range text {
			if !unicode.IsPrint(r) {
				t.Fatalf("got %q, want what can be printed", text)
			}
		}
		if len(text) > 3*maxReason { // a byte that is no UTF-8 becomes one letter
			t.Errorf("got %d bytes", len(text))
		}
		sideBySide(chain)
	})
}

// TestSideBySide: what JWS takes is what the key made, also where R or S is
// short.
func TestSideBySide(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	short := 0
	for n := 0; n < 20_000 && short < 3; n++ {
		der, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		both, err := sideBySide(der)
		if err != nil || len(both) != 64 {
			t.Fatalf("got %d bytes, %v, want 64", len(both), err)
		}
		if !ecdsa.Verify(&k.PublicKey, digest[:], new(big.Int).SetBytes(both[:32]), new(big.Int).SetBytes(both[32:])) {
			t.Fatalf("got %x, which is no signature", both)
		}
		if both[0] == 0 || both[32] == 0 {
			short++
		}
	}
	if short == 0 {
		t.Error("no number was short")
	}
	for _, bad := range [][]byte{nil, {0x30, 0}, {0x30, 6, 2, 1, 0, 2, 1, 1}, {0x30, 6, 2, 1, 0xff, 2, 1, 1}, append([]byte{0x30, 38, 2, 33, 1}, make([]byte, 35)...), {0x30, 6, 2, 1, 1, 2, 1, 1, 0}} {
		if _, err := sideBySide(bad); err == nil {
			t.Errorf("%x: got a signature", bad)
		}
	}
}
