package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

const mx = "mx.company1.example"

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// generate makes a key of the token.
func generate(t testing.TB, k hsm.Keeper, a hsm.Algorithm, u hsm.Usage, label string) hsm.Key {
	t.Helper()
	key, err := k.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: label})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// selfSigned is a certificate in PEM that a key of the token makes itself.
func selfSigned(t testing.TB, k hsm.Keeper, key hsm.Key, name string) []byte {
	t.Helper()
	der, err := SelfSigned(t.Context(), k, key, name, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der)
}

// issued is a chain of a certificate for an own key and its authority, in PEM.
func issued(t testing.TB, pub any, change func(*x509.Certificate)) (leaf, authority []byte) {
	t.Helper()
	root := certtest.New(t, certtest.CA("Authority"))
	template := x509.Certificate{DNSNames: []string{mx}}
	if change != nil {
		change(&template)
	}
	return certtest.PEM(root.Sign(t, template, pub)), certtest.PEM(root.Cert)
}

func TestParse(t *testing.T) {
	key := certtest.Key(t)
	leaf, above := issued(t, key.Public(), nil)
	_, another := issued(t, key.Public(), nil)
	short, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak, _ := issued(t, short.Public(), nil)
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tiny, _ := issued(t, small.Public(), nil)
	for _, c := range []struct {
		name string
		text []byte
		want error
		n    int
	}{
		{"alone", leaf, nil, 1},
		{"with its authority", append(bytes.Clone(leaf), above...), nil, 2},
		{"with words between", append(append([]byte("mine:\n"), leaf...), append([]byte("above it:\n"), above...)...), nil, 2},
		{"with a request", append(pemOf("CERTIFICATE REQUEST", []byte("x")), leaf...), nil, 1},
		{"empty", nil, ErrChain, 0},
		{"no PEM", []byte("no certificate"), ErrChain, 0},
		{"no certificate", pemOf("CERTIFICATE", []byte("x")), ErrChain, 0},
		{"in the wrong order", append(bytes.Clone(above), leaf...), ErrChain, 0},
		{"another authority", append(bytes.Clone(leaf), another...), ErrChain, 0},
		{"a private key", append(bytes.Clone(leaf), pemOf("EC PRIVATE KEY", []byte("x"))...), ErrChain, 0},
		{"too many", append(bytes.Clone(leaf), bytes.Repeat(above, maxChain)...), ErrChain, 0},
		{"too big", bytes.Repeat([]byte("\n"), maxFile+1), ErrChain, 0},
		{"RSA-2048", weak, ErrWeak, 0},
		{"P-224", tiny, ErrWeak, 0},
	} {
		got, err := Parse(c.name, c.text)
		if !errors.Is(err, c.want) || len(got.DER) != c.n {
			t.Errorf("%s: got %d certificates, %v, want %d, %v", c.name, len(got.DER), err, c.n, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	key := certtest.Key(t)
	for _, c := range []struct {
		name, server string
		change       func(*x509.Certificate)
		want         error
	}{
		{"its name", mx, nil, nil},
		{"another", "mail.company1.example", nil, ErrName},
		{"a wildcard", mx, func(x *x509.Certificate) { x.DNSNames = []string{"*.company1.example"} }, nil},
		{"in A-labels", "mx.bücher.example", func(x *x509.Certificate) { x.DNSNames = []string{"mx.xn--bcher-kva.example"} }, nil},
		{"a common name only", mx, func(x *x509.Certificate) { x.DNSNames, x.Subject.CommonName = nil, mx }, ErrName},
		{"for servers", mx, func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, nil},
		{"for mail", mx, func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }, ErrName},
		{"for key agreement", mx, func(x *x509.Certificate) { x.KeyUsage = x509.KeyUsageKeyAgreement }, ErrName},
	} {
		text, _ := issued(t, key.Public(), c.change)
		chain, err := Parse(c.name, text)
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.Names(c.server); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A key that is not for TLS by its label is not held to be there.
func TestHolds(t *testing.T) {
	k := hsmtest.Memory(t)
	key := generate(t, k, hsm.P256, hsm.Sign, "tls/"+mx+"/sign")
	chain, err := Parse("", selfSigned(t, k, key, mx))
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*hsm.Key)) []hsm.Key {
		k := key
		change(&k)
		return []hsm.Key{k}
	}
	for _, c := range []struct {
		name string
		keys []hsm.Key
		want error
	}{
		{"there", with(func(*hsm.Key) {}), nil},
		{"not there", nil, ErrKey},
		{"one for mail", with(func(k *hsm.Key) { k.Label = "smime/company1.example/sign" }), ErrKey},
		{"without a label", with(func(k *hsm.Key) { k.Label = "" }), ErrKey},
		{"one that opens", with(func(k *hsm.Key) { k.Usage = hsm.Unwrap }), ErrKey},
		{"retired", with(func(k *hsm.Key) { k.Retired = true }), ErrKey},
	} {
		if _, err := chain.Holds(c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A request names the server, and is signed by its key.
func TestRequest(t *testing.T) {
	k := hsmtest.Memory(t)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.RSA3072} {
		key := generate(t, k, a, hsm.Sign, "tls/"+string(a)+"/sign")
		long := strings.Repeat("long.", 12) + "bücher.example"
		for name, want := range map[string]string{mx: mx, "mx.bücher.example": "mx.xn--bcher-kva.example", long: strings.Repeat("long.", 12) + "xn--bcher-kva.example"} {
			der, err := Request(t.Context(), k, key, name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := x509.ParseCertificateRequest(der)
			if err != nil || r.CheckSignature() != nil {
				t.Fatalf("%s: got %v, %v, want a request that is signed", a, err, r.CheckSignature())
			}
			if len(r.DNSNames) != 1 || r.DNSNames[0] != want {
				t.Errorf("%s: got names %q, want %s", a, r.DNSNames, want)
			}
		}
	}
	unwrap := generate(t, k, hsm.P256, hsm.Unwrap, "smime/company1.example/unwrap")
	if _, err := Request(t.Context(), k, unwrap, mx); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("key that opens: got %v, want %v", err, hsm.ErrRefused)
	}
	if _, err := Request(t.Context(), k, unwrap, "mx..example"); err == nil {
		t.Error("no name: got a request")
	}
}

// What parses says nothing but what it holds: its chain, once more, is itself.
func FuzzParse(f *testing.F) {
	key := certtest.Key(f)
	leaf, above := issued(f, key.Public(), nil)
	f.Add(leaf)
	f.Add(append(bytes.Clone(leaf), above...))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("", text)
		if err != nil {
			return
		}
		var again []byte
		for _, der := range c.DER {
			again = append(again, pemOf("CERTIFICATE", der)...)
		}
		d, err := Parse("", again)
		if err != nil || d.Key != c.Key || len(d.DER) != len(c.DER) {
			t.Errorf("again: got %v, %d certificates, want %d", err, len(d.DER), len(c.DER))
		}
	})
}
