package publish

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
)

// house holds identities by address, "" for all others of the domain.
type house struct {
	ids map[string][]keyring.Identity
	err error
}

func (h house) Identities(_ context.Context, a message.Address) ([]keyring.Identity, error) {
	if own, ok := h.ids[a.Key()]; ok {
		return own, h.err
	}
	return h.ids[a.Domain], h.err
}

func identity(name string, f keyring.Format) keyring.Identity {
	return keyring.Identity{Cert: keyring.Cert{Format: f, Fingerprint: name, Raw: []byte(name)}}
}

var errOld = errors.New("expired")

func fit(c keyring.Cert, _ time.Time) error {
	if strings.HasPrefix(c.Fingerprint, "old") {
		return errOld
	}
	return nil
}

func TestWKD(t *testing.T) {
	ours := func(domain string) bool { return domain == "company1.example" || domain == "müller.example" }
	h := &WKD{Ours: ours, Fit: fit, Identities: house{ids: map[string][]keyring.Identity{
		"company1.example":        {identity("domain", keyring.OpenPGP)},
		"alice@company1.example":  {identity("x", keyring.SMIME), identity("old alice", keyring.OpenPGP), identity("alice", keyring.OpenPGP)},
		"nobody@company1.example": {identity("old", keyring.OpenPGP)},
		"müller.example":          {identity("umlaut", keyring.OpenPGP)},
	}}}
	hu := directory.HashLocal
	advanced := "/.well-known/openpgpkey/company1.example/"
	for _, c := range []struct {
		name, method, host, path string
		status                   int
		body                     string
	}{
		{"advanced", "GET", "openpgpkey.company1.example", advanced + "hu/" + hu("alice") + "?l=Alice", 200, "alice"},
		{"direct", "GET", "Company1.Example:8443", "/.well-known/openpgpkey/hu/" + hu("alice") + "?l=alice", 200, "alice"},
		{"the domain's for all others", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=bob", 200, "domain"},
		{"a name that is not ASCII", "GET", "xn--mller-kva.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=bob", 200, "umlaut"},
		{"head", "HEAD", "company1.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=bob", 200, ""},
		{"policy", "GET", "company1.example", "/.well-known/openpgpkey/policy", 200, ""},
		{"policy, advanced", "GET", "openpgpkey.company1.example", advanced + "policy", 200, ""},
		{"only expired ones", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu("nobody") + "?l=nobody", 404, ""},
		{"no local part", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu("bob"), 404, ""},
		{"another local part", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=alice", 404, ""},
		{"a local part too long", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu(strings.Repeat("b", 65)) + "?l=" + strings.Repeat("b", 65), 404, ""},
		{"an address in place of a local part", "GET", "company1.example", "/.well-known/openpgpkey/hu/" + hu("a@b") + "?l=a@b", 200, "domain"},
		{"another domain", "GET", "other.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=bob", 404, ""},
		{"another domain in the path", "GET", "openpgpkey.company1.example", "/.well-known/openpgpkey/other.example/hu/" + hu("bob") + "?l=bob", 404, ""},
		{"the host of the advanced method without a domain", "GET", "openpgpkey.company1.example", "/.well-known/openpgpkey/hu/" + hu("bob") + "?l=bob", 404, ""},
		{"something else", "GET", "company1.example", "/", 404, ""},
		{"no name", "GET", "", "/.well-known/openpgpkey/policy", 404, ""},
		{"post", "POST", "company1.example", "/.well-known/openpgpkey/policy", 405, ""},
	} {
		r := httptest.NewRequest(c.method, "https://x"+c.path, nil)
		r.Host = c.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status || w.Code == 200 && c.method != "HEAD" && w.Body.String() != c.body {
			t.Errorf("%s: got %d %q, want %d %q", c.name, w.Code, w.Body, c.status, c.body)
		}
		if got := w.Header().Get("Access-Control-Allow-Origin"); w.Code == 200 && got != "*" {
			t.Errorf("%s: got origin %q, want any", c.name, got)
		}
	}
	h.Identities = house{err: errors.New("keyring away")}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "https://x/.well-known/openpgpkey/hu/"+hu("bob")+"?l=bob", nil)
	r.Host = "company1.example"
	if h.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "keyring") {
		t.Errorf("keyring away: got %d %q, want 503 without the reason", w.Code, w.Body)
	}
}

// A policy is plain text, and where there is none nothing is there.
func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		method string
		text   []byte
		status int
		body   string
	}{{"GET", []byte("version: STSv1\r\n"), 200, "version: STSv1\r\n"}, {"HEAD", []byte("version: STSv1\r\n"), 200, ""}, {"GET", nil, 404, "404 page not found\n"}} {
		w := httptest.NewRecorder()
		Policy(w, httptest.NewRequest(c.method, "https://mta-sts.company1.example"+PolicyPath, nil), c.text)
		if w.Code != c.status || w.Body.String() != c.body || c.status == 200 && w.Header().Get("Content-Type") != "text/plain" {
			t.Errorf("%s %q: got %d %q %v", c.method, c.text, w.Code, w.Body, w.Header())
		}
	}
}
