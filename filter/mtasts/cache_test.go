package mtasts

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/filter/resolver"
)

// place is where policies are: an HTTPS server for mta-sts.example.com, which
// is what the certificate of httptest names, and the records of a domain.
type place struct {
	mutex  sync.Mutex
	text   string
	kind   string
	status int
	hang   chan struct{} // closed: go on
	asked  int

	record string
	away   bool
	addr   netip.Addr
}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mutex.Lock()
	p.asked++
	text, kind, status, hang := p.text, p.kind, p.status, p.hang
	p.mutex.Unlock()
	if hang != nil {
		<-hang
	}
	if r.URL.Path != "/.well-known/mta-sts.txt" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	if status/100 == 3 {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
	fmt.Fprint(w, text)
}

func (p *place) TXT(_ context.Context, name string) (resolver.Answer[string], error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.away {
		return resolver.Answer[string]{}, resolver.ErrAway
	}
	if name != "_mta-sts."+domain || p.record == "" {
		return resolver.Answer[string]{}, nil
	}
	return resolver.Answer[string]{Found: []string{"v=STSv1; id=" + p.record}, Exists: true}, nil
}

func (p *place) Addresses(context.Context, string) (resolver.Answer[netip.Addr], error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return resolver.Answer[netip.Addr]{Found: []netip.Addr{p.addr}, Exists: true}, nil
}

func (p *place) set(f func(*place)) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	f(p)
}

// domain is such that mta-sts.domain fits the certificate of httptest, *.example.com.
const domain = "example.com"

const enforced = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 604800\n"

func newPlace(t *testing.T, change func(*Config)) (*place, *Cache, *clocktest.Clock) {
	t.Helper()
	p := &place{text: enforced, kind: "text/plain; charset=utf-8", status: 200, record: "1", addr: netip.MustParseAddr("192.0.2.1")}
	server := httptest.NewTLSServer(p)
	t.Cleanup(server.Close)
	at := clocktest.At(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := Config{Names: p, Roots: roots, Budget: time.Minute, Now: at.Now, dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}
	if change != nil {
		change(&c)
	}
	return p, New(c), at
}

// A policy is kept for its time, over changes and failures of its place, and
// not a moment longer.
func TestLifeOfAPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sts.db")
	store, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	p, c, at := newPlace(t, func(c *Config) { c.Store = store })
	policy := func(want Mode, asked int) {
		t.Helper()
		got := Mode("")
		if found := c.Policy(t.Context(), domain); found != nil {
			got = found.Mode
		}
		p.mutex.Lock()
		defer p.mutex.Unlock()
		if got != want || p.asked != asked {
			t.Fatalf("got %q after %d fetches, want %q after %d", got, p.asked, want, asked)
		}
	}
	policy(Enforce, 1)
	policy(Enforce, 1) // known
	at.Pass(2 * recheck)
	policy(Enforce, 1) // the record is the same
	p.set(func(p *place) { p.text, p.record = strings.Replace(enforced, "enforce", "testing", 1), "2" })
	policy(Enforce, 1) // not looked at yet
	at.Pass(2 * recheck)
	policy(Testing, 2)
	p.set(func(p *place) { p.text, p.record = enforced, "3" })
	at.Pass(2 * recheck)
	policy(Enforce, 3)

	// Its place fails, its record goes, the resolver is away, the process
	// begins again: what is known holds.
	p.set(func(p *place) { p.status, p.record = 500, "4" })
	at.Pass(2 * recheck)
	policy(Enforce, 4)
	policy(Enforce, 4) // not asked again at once
	p.set(func(p *place) { p.record = "" })
	at.Pass(2 * again)
	policy(Enforce, 4)
	p.set(func(p *place) { p.away = true })
	at.Pass(2 * again)
	c = New(c.Config)
	policy(Enforce, 4)
	at.Pass(6 * 24 * time.Hour)
	policy(Enforce, 4)
	at.Pass(24 * time.Hour)
	policy("", 4) // a week is over

	// And comes back.
	p.set(func(p *place) { p.away, p.record, p.status = false, "4", 200 })
	at.Pass(2 * again)
	policy(Enforce, 5)
	at.Pass(refresh)
	policy(Enforce, 6) // long ago
	p.set(func(p *place) { p.text, p.record = "version: STSv1\nmode: none\nmax_age: 86400\n", "5" })
	at.Pass(2 * recheck)
	policy("", 7)

	foreign, err := OpenForeign(path)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if got, err := foreign.get(t.Context(), domain); err != nil || got == nil || got.ID != "5" || got.Mode != None {
		t.Errorf("another reader: got %+v, %v", got, err)
	}
	if _, err := OpenForeign(path + "x"); !errors.Is(err, ErrNoStore) {
		t.Errorf("no file: got %v, want ErrNoStore", err)
	}
}

// What is not a policy at its place is none.
func TestPlaces(t *testing.T) {
	for name, change := range map[string]func(*place){
		"redirect":       func(p *place) { p.status = 301 },
		"not found":      func(p *place) { p.status = 404 },
		"a page":         func(p *place) { p.kind = "text/html" },
		"no type":        func(p *place) { p.kind = "" },
		"not understood": func(p *place) { p.text = "<html>" },
		"too long":       func(p *place) { p.text = enforced + "x: " + strings.Repeat("y", maxPolicy) },
		"inside":         func(p *place) { p.addr = netip.MustParseAddr("10.0.0.1") },
		"loopback":       func(p *place) { p.addr = netip.MustParseAddr("127.0.0.1") },
		"no record":      func(p *place) { p.record = "" },
		"bad record":     func(p *place) { p.record = "-" },
	} {
		p, c, _ := newPlace(t, nil)
		change(p)
		if got := c.Policy(t.Context(), domain); got != nil {
			t.Errorf("%s: got %+v, want none", name, got)
		}
	}
	p, c, _ := newPlace(t, func(c *Config) { c.Private = true })
	p.addr = netip.MustParseAddr("10.0.0.1")
	if c.Policy(t.Context(), domain) == nil {
		t.Error("inside, where that is allowed: got none")
	}
	_, c, _ = newPlace(t, func(c *Config) { c.Roots = x509.NewCertPool() })
	if c.Policy(t.Context(), domain) != nil {
		t.Error("a certificate that nobody vouches for: got a policy")
	}
	_, c, _ = newPlace(t, nil)
	if c.Policy(t.Context(), "example.org") != nil {
		t.Error("another domain: got a policy")
	}
}

// A place that does not answer holds a mail up for its budget and no longer,
// and what it says at last is there for the next.
func TestBudget(t *testing.T) {
	p, c, _ := newPlace(t, func(c *Config) { c.Budget = time.Millisecond })
	p.hang = make(chan struct{})
	if got := c.Policy(t.Context(), domain); got != nil {
		t.Errorf("got %+v, want none yet", got)
	}
	landed := c.look(t.Context(), domain)
	close(p.hang)
	<-landed
	if c.Policy(t.Context(), domain) == nil {
		t.Error("got none when it was there")
	}
}
