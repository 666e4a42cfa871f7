package trial

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// A box is certified once, and again where something is missing, does not
// belong together or has expired.
func TestSettled(t *testing.T) {
	c := &correspondent{name: "Carol Partner", address: carol, dir: t.TempDir()}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(c.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, want bool, at time.Time) {
		t.Helper()
		if got := c.settled(at); got != want {
			t.Errorf("%s: got settled %v, want %v", when, got, want)
		}
	}
	now := time.Now()
	want("empty", false, now)
	a, err := newAuthority("company1.example")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := c.newKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.certify(pub, c.name, c.address, x509.KeyUsageDigitalSignature)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", certPEM(a.cert))
	write("gateway.pem", cert)
	want("without her certificate", false, now)
	write("cert.pem", cert)
	want("with all", true, now)
	want("later", false, now.AddDate(certifiedYears, 0, 1))
	other, err := newAuthority("company1.example")
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", certPEM(other.cert))
	want("below another authority", false, now)
	write("ca.pem", certPEM(a.cert))
	if _, err := c.newKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("with another key", false, now)
}

func TestRequest(t *testing.T) {
	ec := certtest.Key(t)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rs)
	if err != nil {
		t.Fatal(err)
	}
	forged := append([]byte(nil), csr...)
	forged[len(forged)-1] ^= 1
	spki, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for _, c := range []struct {
		name, use, pem string
		usage          x509.KeyUsage // 0 for an error
	}{
		{"request to sign", "sign", text("CERTIFICATE REQUEST", csr), x509.KeyUsageDigitalSignature},
		{"request of an RSA key to open", "unwrap", text("CERTIFICATE REQUEST", csr), x509.KeyUsageKeyEncipherment},
		{"key on a curve to open", "unwrap", text("PUBLIC KEY", spki), x509.KeyUsageKeyAgreement},
		{"forged request", "sign", text("CERTIFICATE REQUEST", forged), 0},
		{"request cut short", "sign", text("CERTIFICATE REQUEST", csr[:40]), 0},
		{"no key", "unwrap", text("PUBLIC KEY", csr), 0},
		{"no PEM", "unwrap", "key", 0},
	} {
		pub, usage, err := request{Use: c.use, PEM: c.pem}.read()
		if (err != nil) != (c.usage == 0) || err == nil && (usage != c.usage || pub == nil) {
			t.Errorf("%s: got usage %v, %v, want %v", c.name, usage, err, c.usage)
		}
	}
}
