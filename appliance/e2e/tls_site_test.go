package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/hsm/certtest"
)

// siteCA is the authority of a site that certifies its servers.
type siteCA struct {
	t *testing.T
	*certtest.Authority
}

func newSiteCA(t *testing.T) siteCA {
	t.Helper()
	return siteCA{t, certtest.New(t, certtest.CA("Site authority"))}
}

// server certifies a server by its request.
func (a siteCA) server(request []byte) []byte {
	a.t.Helper()
	r := certtest.Asked(a.t, request)
	template := certtest.Host(r.DNSNames...)
	template.Subject, template.CRLDistributionPoints = r.Subject, []string{"http://crl.company1.example/site.crl"}
	return certtest.PEM(a.Sign(a.t, template, r.PublicKey))
}

// file writes the authority's certificate.
func (a siteCA) file(dir string) string {
	a.t.Helper()
	path := filepath.Join(dir, "site-ca.pem")
	if err := os.WriteFile(path, certtest.PEM(a.Cert), 0o644); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// enrol certifies the keys of the box's listeners, as an operator does while
// the daemons run.
func (a siteCA) enrol(b *trial.Box) {
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
