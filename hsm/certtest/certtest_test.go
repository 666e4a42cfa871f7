package certtest_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// What the authorities make is what crypto/x509 believes of them, and of nobody
// else.
func TestChains(t *testing.T) {
	root := certtest.New(t, certtest.CA("root"))
	sub := root.Below(t, certtest.CA("sub"))
	host := sub.Issue(t, certtest.Host("mx.example", "192.0.2.1"))
	mail := certtest.Mail("a@b.example", x509.KeyUsageDigitalSignature)
	mail.NotBefore, mail.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	own := certtest.SelfSigned(t, certtest.Host("localhost"))
	for _, c := range []struct {
		name  string
		cert  *x509.Certificate
		roots *x509.CertPool
		host  string
		usage x509.ExtKeyUsage
		ok    bool
	}{
		{"server", host.Leaf, root.Pool(), "mx.example", x509.ExtKeyUsageServerAuth, true},
		{"address", host.Leaf, root.Pool(), "192.0.2.1", x509.ExtKeyUsageClientAuth, true},
		{"other name", host.Leaf, root.Pool(), "mx.other.example", x509.ExtKeyUsageServerAuth, false},
		{"other authority", host.Leaf, certtest.New(t, certtest.CA("root")).Pool(), "mx.example", x509.ExtKeyUsageServerAuth, false},
		{"mail", sub.Issue(t, certtest.Mail("a@b.example", x509.KeyUsageDigitalSignature)).Leaf, root.Pool(), "", x509.ExtKeyUsageEmailProtection, true},
		{"expired", sub.Issue(t, mail).Leaf, root.Pool(), "", x509.ExtKeyUsageEmailProtection, false},
		{"of itself", own.Leaf, certtest.Pool(own.Leaf), "localhost", x509.ExtKeyUsageServerAuth, true},
	} {
		_, err := c.cert.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: certtest.Pool(sub.Cert), DNSName: c.host, KeyUsages: []x509.ExtKeyUsage{c.usage}})
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, want it to be good: %v", c.name, err, c.ok)
		}
	}
}

// Files and texts hold what was put into them.
func TestTexts(t *testing.T) {
	c := certtest.SelfSigned(t, certtest.Host("localhost"))
	dir := t.TempDir()
	cert, key, both := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "both")
	certtest.Write(t, c, cert, key)
	if err := os.WriteFile(both, certtest.Bundle(t, c), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range [][2]string{{cert, key}, {both, both}} {
		got, err := tls.LoadX509KeyPair(files[0], files[1])
		if err != nil || !bytes.Equal(got.Certificate[0], c.Leaf.Raw) {
			t.Errorf("%v: got %v, want the certificate", files, err)
		}
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"mx.example"}}, certtest.Key(t))
	if err != nil {
		t.Fatal(err)
	}
	if r := certtest.Asked(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})); len(r.DNSNames) != 1 || r.PublicKey == nil {
		t.Errorf("got names %q, want that of the request", r.DNSNames)
	}
}
