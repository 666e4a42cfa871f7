// Package pages is what the gateway serves over HTTPS, to anybody: small answers
// that it has at hand, under names of our own domains. It takes no cookies,
// no ranges, no uploads; all of it is bounded in size, time and number.
package pages

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/filter/message"
)

// What a request may cost.
const (
	maxHeader = 16 << 10 // bytes
	maxBody   = 16 << 10
	readFor   = 20 * time.Second
	writeFor  = 20 * time.Second
	idleFor   = 30 * time.Second
)

// Page is one thing that is served.
type Page struct {
	Prefix  string // of the host: "autoconfig." of autoconfig.company1.example; "" is the domain itself
	Path    string // in small letters; compared so
	Tree    bool   // and everything below it
	Methods []string
	// Serve answers for one of our domains.
	Serve func(w http.ResponseWriter, r *http.Request, domain string)
}

// Handler serves pages for our own domains; whatever else is asked for is not there.
type Handler struct {
	Domains []string
	Pages   []Page
	Log     *slog.Logger
}

// ServeHTTP finds the page.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	said := &status{ResponseWriter: w, code: http.StatusOK}
	h.serve(said, r)
	client, _ := netip.ParseAddrPort(r.RemoteAddr)
	h.Log.LogAttrs(r.Context(), slog.LevelInfo, "web", slog.String("client", client.String()), slog.String("page", said.page), slog.Int("status", said.code),
		slog.Duration("took", time.Since(began).Round(time.Millisecond)))
}

func (h *Handler) serve(w *status, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'")
	host := strings.ToLower(r.Host)
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	path := strings.ToLower(r.URL.Path)
	for _, p := range h.Pages {
		domain, ours := strings.CutPrefix(host, p.Prefix)
		if a, err := message.ParseAddress("x@" + domain); err == nil { // its own letters, as the configuration has them
			domain = a.Domain
		}
		if !ours || !slices.Contains(h.Domains, domain) || path != p.Path && !(p.Tree && strings.HasPrefix(path, p.Path+"/")) {
			continue
		}
		w.page = p.Prefix + p.Path
		if !slices.Contains(p.Methods, r.Method) {
			head.Set("Allow", strings.Join(p.Methods, ", "))
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		p.Serve(w, r, domain)
		return
	}
	http.NotFound(w, r)
}

// status remembers what was answered, for the log.
type status struct {
	http.ResponseWriter
	code int
	page string
}

// WriteHeader implements http.ResponseWriter.
func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Server serves h over TLS, HTTP/1.1 only: there is nothing here that many
// requests on one connection would make faster.
func Server(h *Handler, config *tls.Config, log *slog.Logger) *http.Server {
	c := config.Clone()
	c.NextProtos = []string{"http/1.1"}
	return &http.Server{
		Handler: h, TLSConfig: c, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ReadHeaderTimeout: readFor, ReadTimeout: readFor, WriteTimeout: writeFor, IdleTimeout: idleFor, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Gate is who may still come in.
type Gate interface {
	Enter(netip.Addr) bool
	Leave(netip.Addr)
}

// Limit lets in of l whom the gate does; the others are closed at once.
func Limit(l net.Listener, gate Gate) net.Listener { return &limited{l, gate} }

type limited struct {
	net.Listener
	gate Gate
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		at, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if a := at.Addr().Unmap().WithZone(""); l.gate.Enter(a) {
			return &guest{Conn: c, leave: sync.OnceFunc(func() { l.gate.Leave(a) })}, nil
		}
		c.Close()
	}
}

// guest gives his place back when he goes.
type guest struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
