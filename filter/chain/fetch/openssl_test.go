package fetch_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/filter/chain/fetch"
	"postern/hsm/certtest"
)

// authority is one in a folder, as openssl keeps it.
type authority struct {
	t   *testing.T
	dir string
	*certtest.Authority
}

// openssl runs openssl in the folder.
func (a *authority) openssl(args ...string) {
	a.t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = a.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (a *authority) write(name, content string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// keep writes a certificate and its key.
func (a *authority) keep(name string, c tls.Certificate) {
	a.t.Helper()
	certtest.Write(a.t, c, filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key"))
}

// issue makes a certificate whose status the authority tells at its URLs.
func (a *authority) issue(name string, template x509.Certificate) *x509.Certificate {
	a.t.Helper()
	template.Subject.CommonName = name
	c := a.Issue(a.t, template)
	a.keep(name, c)
	return c.Leaf
}

// TestOpenSSL lets openssl answer for an authority, over HTTP on loopback.
func TestOpenSSL(t *testing.T) {
	a := &authority{t, t.TempDir(), certtest.New(t, certtest.CA("ca"))}
	a.keep("ca", tls.Certificate{Leaf: a.Cert, PrivateKey: a.Key})
	a.issue("responder", x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}})
	url, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/crl":
			http.ServeFile(w, r, filepath.Join(a.dir, "list.der"))
		case "/ocsp":
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = os.WriteFile(filepath.Join(a.dir, "request"), body, 0o600)
			}
			if err != nil {
				t.Error(err)
			}
			a.openssl("ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "responder.pem", "-rkey", "responder.key",
				"-ndays", "1", "-reqin", "request", "-respout", "response")
			http.ServeFile(w, r, filepath.Join(a.dir, "response"))
		}
	})
	user := func(name, list, ocsp string) *x509.Certificate {
		c := certtest.Mail(name+"@example.test", x509.KeyUsageDigitalSignature)
		if list != "" {
			c.CRLDistributionPoints = []string{url + list}
		}
		if ocsp != "" {
			c.OCSPServer = []string{url + ocsp}
		}
		return a.issue(name, c)
	}
	users := map[string]*x509.Certificate{}
	index := ""
	line := func(c *x509.Certificate, state, revoked string) {
		index += fmt.Sprintf("%s\t%s\t%s\t%X\tunknown\t/CN=%s\n", state, c.NotAfter.UTC().Format("060102150405Z"), revoked, c.SerialNumber, c.Subject.CommonName)
	}
	for name, urls := range map[string][2]string{"by-list": {"/crl", ""}, "by-ocsp": {"", "/ocsp"}, "by-both": {"/crl", "/ocsp"}, "list-missing": {"/none", "/none"}} {
		users[name], users[name+"-revoked"] = user(name, urls[0], urls[1]), user(name+"-revoked", urls[0], urls[1])
		line(users[name], "V", "")
		line(users[name+"-revoked"], "R", time.Now().Add(-time.Minute).UTC().Format("060102150405Z")+",keyCompromise")
	}
	a.write("index.txt", index)
	a.write("number", "01\n")
	a.write("ca.conf", "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=1\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n")
	a.openssl("ca", "-config", "ca.conf", "-gencrl", "-cert", "ca.pem", "-keyfile", "ca.key", "-out", "list.pem")
	a.openssl("crl", "-in", "list.pem", "-outform", "DER", "-out", "list.der")

	f, err := fetch.New(fetch.Config{Private: true})
	if err != nil {
		t.Fatal(err)
	}
	closed, err := fetch.New(fetch.Config{}) // may not ask loopback
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range users {
		for _, mode := range []chain.Mode{chain.Hard, chain.Soft} {
			judge, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: a.Cert}}, Mode: mode, Fetcher: f})
			if err != nil {
				t.Fatal(err)
			}
			want, status := error(nil), chain.Good
			switch {
			case strings.HasPrefix(name, "list-missing"):
				status = chain.Unknown
				if mode == chain.Hard {
					want = chain.ErrStatus
				}
			case strings.HasSuffix(name, "-revoked"):
				want = chain.ErrRevoked
			}
			path, err := judge.Judge(t.Context(), chain.Request{Cert: c, At: time.Now(), Use: chain.Signing})
			if !errors.Is(err, want) || err == nil && path.Status != status {
				t.Errorf("%s, mode %d: got status %d (%v), %v, want %d, %v", name, mode, path.Status, path.Notes, err, status, want)
			}
		}
		judge, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: a.Cert}}, Fetcher: closed})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := judge.Judge(t.Context(), chain.Request{Cert: c, At: time.Now(), Use: chain.Signing}); !errors.Is(err, chain.ErrStatus) {
			t.Errorf("%s, asking nobody inside: got %v, want %v", name, err, chain.ErrStatus)
		}
	}
	// Four certificates by OCSP, two more and a list at pages with nothing on
	// them, and one list; all of it was wanted twice, in two modes.
	if got, want := asked.Load(), int64(4+2+1+1); got != want {
		t.Errorf("got %d questions, want %d", got, want)
	}
}
