package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/trial"
)

// siteCA is the authority of a site that certifies its servers.
type siteCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSiteCA(t *testing.T) *siteCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &siteCA{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Site authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key.Public())
	return a
}

func (a *siteCA) sign(template *x509.Certificate, pub any) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = serial.SetBit(serial, 119, 1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 90)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// server certifies a server by its request.
func (a *siteCA) server(request []byte) []byte {
	a.t.Helper()
	block, _ := pem.Decode(request)
	if block == nil {
		a.t.Fatalf("no request in %s", request)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	cert := a.sign(&x509.Certificate{Subject: r.Subject, DNSNames: r.DNSNames, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CRLDistributionPoints: []string{"http://crl.company1.example/site.crl"}}, r.PublicKey)
	return pemBlock("CERTIFICATE", cert.Raw)
}

// file writes the authority's certificate.
func (a *siteCA) file(dir string) string {
	a.t.Helper()
	path := filepath.Join(dir, "site-ca.pem")
	if err := os.WriteFile(path, pemBlock("CERTIFICATE", a.cert.Raw), 0o644); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// enrol certifies the keys of the box's listeners, as an operator does while
// the daemons run.
func (a *siteCA) enrol(b *trial.Box) {
	a.t.Helper()
	out, err := b.Postern(a.t.Context(), nil, "identity", "create", "--use", "tls", "--domain", b.Server, "--out", b.Dir, "--json")
	if err != nil {
		a.t.Fatal(err)
	}
	var asked struct{ Requests []struct{ Kind, File string } }
	if err := json.Unmarshal(out, &asked); err != nil {
		a.t.Fatal(err)
	}
	if len(asked.Requests) != 2 {
		a.t.Fatalf("got %d requests, want one for each kind: %s", len(asked.Requests), out)
	}
	for _, r := range asked.Requests {
		request, err := os.ReadFile(r.File)
		if err != nil {
			a.t.Fatal(err)
		}
		if _, err := b.Postern(a.t.Context(), strings.NewReader(string(a.server(request))), "identity", "add", "--domain", b.Server, "--cert", "-"); err != nil {
			a.t.Fatal(err)
		}
	}
}
