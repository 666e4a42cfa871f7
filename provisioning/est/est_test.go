package est_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/hsm/certtest"
	"postern/provisioning/est"
	"postern/provisioning/est/esttest"
)

func request(t testing.TB, k crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "alice@company1.example"}, EmailAddresses: []string{"alice@company1.example"}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func open(t testing.TB, c est.Config) *est.Server {
	t.Helper()
	s, err := est.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestServer asks a server that others have written, and OpenSSL what it made.
func TestServer(t *testing.T) {
	peer := esttest.Open(t)
	config := est.Config{URL: peer.URL, Roots: peer.Roots(t), User: esttest.User, Password: esttest.Password}
	s := open(t, config)
	authorities, err := s.Authorities(t.Context())
	if err != nil || len(authorities) != 2 || !authorities[0].IsCA {
		t.Fatalf("authorities: got %d, %v, want 2", len(authorities), err)
	}
	k := certtest.Key(t)
	made, err := s.Enrol(t.Context(), request(t, k))
	if err != nil || !k.PublicKey.Equal(made[0].PublicKey) {
		t.Fatalf("enrol: got %v, want a certificate for the key", err)
	}
	verify(t, peer, made[0], authorities)

	again := certtest.Key(t)
	next, err := s.Reenrol(t.Context(), request(t, again), tls.Certificate{Certificate: [][]byte{made[0].Raw, authorities[0].Raw}, PrivateKey: k})
	if err != nil || !again.PublicKey.Equal(next[0].PublicKey) || next[0].Subject.String() != made[0].Subject.String() {
		t.Fatalf("reenrol: got %v, want a certificate for the new key", err)
	}
	verify(t, peer, next[0], authorities)
	if got := peer.Issued(); len(got) != 2 || !strings.HasPrefix(got[0], "enrol CN=alice@") || !strings.HasPrefix(got[1], "reenrol CN=alice@") {
		t.Errorf("the server has made %q, want one by enrol and one by reenrol", got)
	}
	other := config
	other.Label, other.User, other.Password = "", "", ""
	other.Client = &tls.Certificate{Certificate: [][]byte{next[0].Raw, authorities[0].Raw}, PrivateKey: again}
	if _, err := open(t, other).Enrol(t.Context(), request(t, certtest.Key(t))); err != nil {
		t.Errorf("with a client certificate: got %v, want none", err)
	}
	for end := time.Now().Add(time.Minute); len(peer.Issued()) < 3; time.Sleep(time.Millisecond) { // it says so after its answer
		if time.Now().After(end) {
			t.Fatalf("the server has made %q, want three", peer.Issued())
		}
	}

	for _, c := range []struct {
		name   string
		change func(*est.Config)
		want   error
	}{
		{"wrong password", func(c *est.Config) { c.Password = "guessed" }, est.ErrDenied},
		{"nobody", func(c *est.Config) { c.User = "" }, est.ErrDenied},
		{"later", func(c *est.Config) { c.Label = "later" }, est.ErrLater},
		{"never", func(c *est.Config) { c.Label = "never" }, est.ErrRefused},
		{"a server that nobody vouches for", func(c *est.Config) { c.Roots = x509.NewCertPool() }, est.ErrAway},
		{"another name", func(c *est.Config) { c.URL = strings.Replace(c.URL, "127.0.0.1", "localhost", 1) }, est.ErrAway},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := config
			c.change(&other)
			before := len(peer.Issued())
			_, err := open(t, other).Enrol(t.Context(), request(t, certtest.Key(t)))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if later, ok := errors.AsType[*est.Later](err); ok && later.After != time.Hour {
				t.Errorf("got %v, want an hour", later.After)
			}
			if strings.Contains(err.Error(), other.Password) && other.Password != "" {
				t.Errorf("got %v, which tells the password", err)
			}
			if n := len(peer.Issued()); n != before {
				t.Errorf("the server made %d certificates", n-before)
			}
		})
	}
}

// verify has OpenSSL judge.
func verify(t *testing.T, peer *esttest.Server, x *x509.Certificate, authorities []*x509.Certificate) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, certs ...*x509.Certificate) string {
		var b bytes.Buffer
		for _, c := range certs {
			pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if out, err := exec.Command("openssl", "verify", "-CAfile", peer.Root, "-untrusted", write("way.pem", authorities...), write("one.pem", x)).CombinedOutput(); err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}
}

// TestHostileServer: whatever a server answers, it ends in an error that says
// what to think of it, and nobody is asked elsewhere.
func TestHostileServer(t *testing.T) {
	elsewhere := 0
	var answer http.HandlerFunc
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/elsewhere") {
			elsewhere++
		}
		answer(w, r)
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	pkcs7 := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		w.Write([]byte(body))
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"sends away", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, s.URL+"/elsewhere", http.StatusFound)
		}, est.ErrAnswer},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, est.ErrAnswer},
		{"no base64", func(w http.ResponseWriter, _ *http.Request) { pkcs7(w, "*") }, est.ErrAnswer},
		{"no CMS", func(w http.ResponseWriter, _ *http.Request) {
			pkcs7(w, base64.StdEncoding.EncodeToString([]byte{0x30, 3, 1, 1, 0}))
		}, est.ErrAnswer},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { pkcs7(w, "") }, est.ErrAnswer},
		{"another's certificate", func(w http.ResponseWriter, _ *http.Request) {
			pkcs7(w, base64.StdEncoding.EncodeToString(s.Certificate().Raw))
		}, est.ErrAnswer},
		{"without an end", func(w http.ResponseWriter, _ *http.Request) { pkcs7(w, strings.Repeat("A", 2<<20)) }, est.ErrAnswer},
		{"busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, est.ErrAway},
		{"steers the terminal", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte("\x1b[2Jevil\r\nmore\xff"))
		}, est.ErrRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer = c.answer
			_, err := open(t, est.Config{URL: s.URL, Roots: roots}).Enrol(t.Context(), request(t, certtest.Key(t)))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if text := err.Error(); !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("got %q, want one printable line", err)
			}
		})
	}
	if elsewhere > 0 {
		t.Errorf("asked elsewhere %d times, want never", elsewhere)
	}
	for _, u := range []string{"http://ca.example", "https://u:p@ca.example", "https://", "ftp://ca.example", "https://ca.example/?x"} {
		if _, err := est.New(est.Config{URL: u}); !errors.Is(err, est.ErrConfig) {
			t.Errorf("%s: got %v, want %v", u, err, est.ErrConfig)
		}
	}
	if _, err := est.New(est.Config{URL: "https://ca.example", Label: "../x"}); !errors.Is(err, est.ErrConfig) {
		t.Errorf("label: got %v, want %v", err, est.ErrConfig)
	}
}
