package pages

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"postern/filter/autoconfig"
)

func handler() *Handler {
	ours := []string{"company1.example", "company2.example", "müller.example"}
	h := &Handler{Domains: ours, Log: slog.New(slog.DiscardHandler), Pages: Settings(ours, func(d string) autoconfig.Site {
		return autoconfig.Site{Domain: d, Name: d, Servers: []autoconfig.Server{{Protocol: "imap", Host: "mx." + d, Port: 993, Implicit: true}}}
	})}
	h.Pages = append(h.Pages, Page{Prefix: "", Path: "/.well-known/x", Tree: true, Methods: []string{http.MethodGet, http.MethodPost}, Serve: func(w http.ResponseWriter, r *http.Request, domain string) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
			return
		}
		io.WriteString(w, domain+r.URL.Path+string(b[:min(len(b), 3)]))
	}})
	return h
}

// A page is there under the names of our domains, its path and its methods, and
// nowhere else; a body has its limit.
func TestPages(t *testing.T) {
	h := handler()
	ask := func(address string) string { return "<EMailAddress>" + address + "</EMailAddress>" }
	for _, c := range []struct {
		method, host, path, body string
		status                   int
		want                     string
	}{
		{"GET", "autoconfig.company1.example", "/mail/config-v1.1.xml", "", 200, "mx.company1.example"},
		{"GET", "AUTOCONFIG.company2.example:443", "/mail/config-v1.1.xml?emailaddress=a@b", "", 200, "mx.company2.example"},
		{"GET", "company1.example", "/.well-known/autoconfig/mail/config-v1.1.xml", "", 200, "mx.company1.example"},
		{"GET", "autoconfig.xn--mller-kva.example", "/mail/config-v1.1.xml", "", 200, "imap"},
		{"GET", "autoconfig.company3.example", "/mail/config-v1.1.xml", "", 404, ""},
		{"GET", "company1.example", "/mail/config-v1.1.xml", "", 404, ""},
		{"GET", "", "/mail/config-v1.1.xml", "", 404, ""},
		{"PUT", "autoconfig.company1.example", "/mail/config-v1.1.xml", "x", 405, ""},
		{"POST", "autodiscover.company1.example", "/Autodiscover/Autodiscover.XML", ask("alice@company2.example"), 200, "mx.company2.example"},
		{"POST", "autodiscover.company1.example", "/autodiscover/autodiscover.xml", ask("bob@partner.example"), 400, ""},
		{"POST", "autodiscover.company1.example", "/autodiscover/autodiscover.xml", "", 400, ""},
		{"GET", "autodiscover.company1.example", "/autodiscover/autodiscover.xml", "", 405, ""},
		{"GET", "company1.example", "/.well-known/x/Deep/y", "", 200, "company1.example/.well-known/x/Deep/y"},
		{"GET", "company1.example", "/.well-known/xy", "", 404, ""},
		{"POST", "company1.example", "/.well-known/x", strings.Repeat("x", maxBody+1), 413, ""},
	} {
		r := httptest.NewRequest(c.method, "https://gateway.example/", strings.NewReader(c.body))
		r.Host, r.URL.Path = c.host, strings.SplitN(c.path, "?", 2)[0]
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s%s: got %d\n%s\nwant %d, %q", c.method, c.host, c.path, w.Code, w.Body, c.status, c.want)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || strings.Contains(w.Body.String(), "gateway.example") {
			t.Errorf("%s %s%s: got header %v", c.method, c.host, c.path, w.Header())
		}
	}
}

// door lets one in at a time.
type door struct {
	mutex  sync.Mutex
	inside int
	left   chan bool
}

func (d *door) Enter(a netip.Addr) bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.inside > 0 || !a.IsLoopback() {
		return false
	}
	d.inside++
	return true
}

func (d *door) Leave(netip.Addr) {
	d.mutex.Lock()
	d.inside--
	d.mutex.Unlock()
	d.left <- true
}

// Whoever finds no place is closed at once, and a place comes back when its
// guest goes, once.
func TestLimit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{left: make(chan bool, 10)}
	gated := Limit(l, d)
	defer gated.Close()
	taken := make(chan net.Conn)
	go func() {
		for {
			c, err := gated.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-taken
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a second one came in")
	}
	first.Close()
	first.Close()
	<-d.left
	dial()
	(<-taken).Close()
	<-d.left
	if len(d.left) > 0 || d.inside != 0 {
		t.Errorf("got %d inside", d.inside)
	}
}
