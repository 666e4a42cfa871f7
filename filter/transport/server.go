package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Server takes mail in. Name and Handler are needed; every other zero field
// means its default. It must not be copied or changed once it serves.
type Server struct {
	Name            string // greets, and answers EHLO
	Domain          string // of <postmaster>; Name by default
	Handler         Handler
	MaxSize         int64          // bytes of a mail: 50 MiB
	MaxRecipients   int            // of a mail: 1,000
	MaxConns        int            // at once: 1,000
	MaxPerClient    int            // at once from one IPv4 address or IPv6 /64: 50
	TLS             *tls.Config    // made from a Profile; nil: STARTTLS is not offered
	RequireTLS      bool           // MAIL only after STARTTLS
	ImplicitTLS     bool           // TLS before the greeting (RFC 8314 §3.3)
	Clients         Clients        // whose certificates are known; TLS asks for them
	LMTP            bool           // RFC 2033 in place of SMTP: never on port 25
	OfferRequireTLS bool           // REQUIRETLS (RFC 8689): only where the next hop is verified and takes it
	Login           Login          // nil: AUTH is not offered
	RequireLogin    bool           // MAIL only after AUTH
	Rate            Rate           // of mails from one network, and of one account
	ProxyFrom       []netip.Prefix // proxies, which say for whom they speak in the PROXY protocol, and must
	XClientFrom     []netip.Prefix // hosts that may do so with XCLIENT and XFORWARD
	Timeouts        Timeouts
	Log             *slog.Logger // slog.DiscardHandler where nil

	tickets tickets

	once   sync.Once
	smtp   *smtp.Server
	ctx    context.Context
	cancel context.CancelFunc

	mutex     sync.Mutex
	closed    bool
	listeners []net.Listener
	guards    map[*guard]bool
	clients   map[netip.Prefix]int
	count     int
	meter     Meter
}

func (s *Server) open() {
	s.once.Do(func() {
		if s.Domain == "" {
			s.Domain = s.Name
		}
		for _, n := range []struct {
			is *int
			or int
		}{{&s.MaxRecipients, 1000}, {&s.MaxConns, 1000}, {&s.MaxPerClient, 50}} {
			if *n.is == 0 {
				*n.is = n.or
			}
		}
		if s.MaxSize == 0 {
			s.MaxSize = 50 << 20
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.Timeouts = s.Timeouts.filled()
		s.meter.Rate = s.Rate
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.guards, s.clients = map[*guard]bool{}, map[netip.Prefix]int{}
		// The guard holds every limit; those of go-smtp are off.
		s.smtp = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
			return session{c.Conn().(*guard)}, nil
		}))
		s.smtp.Domain = s.Name
		s.smtp.MaxLineLength = 0
		s.smtp.ErrorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn)
	})
}

// protocol is its name in the greeting.
func (s *Server) protocol() string {
	if s.LMTP {
		return "LMTP"
	}
	return "ESMTP"
}

// Serve takes connections from l until Shutdown or Close, which it takes for nil.
func (s *Server) Serve(l net.Listener) error {
	s.open()
	s.mutex.Lock()
	if s.closed {
		s.mutex.Unlock()
		l.Close()
		return nil
	}
	s.listeners = append(s.listeners, l)
	s.mutex.Unlock()
	err := s.smtp.Serve(door{l, s})
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil
	}
	return err
}

// Shutdown takes no new connections, dismisses the sessions that wait for a
// command with 421, and waits for mails inside DATA. When ctx ends first they
// are cut off, and its error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, g := range s.stop() {
		g.dismiss(false)
	}
	err := s.smtp.Shutdown(ctx)
	if err == smtp.ErrServerClosed {
		err = nil
	}
	s.Close()
	return err
}

// Close cuts every session off.
func (s *Server) Close() error {
	open := s.stop()
	s.cancel()
	for _, g := range open {
		g.Conn.Close()
	}
	if err := s.smtp.Close(); err != smtp.ErrServerClosed {
		return err
	}
	return nil
}

// stop closes the doors, and lists who is inside.
func (s *Server) stop() []*guard {
	s.open()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.closed = true
	for _, l := range s.listeners {
		l.Close()
	}
	s.listeners = nil
	var open []*guard
	for g := range s.guards {
		open = append(open, g)
	}
	return open
}

// door lets connections in behind a guard, or turns them away.
type door struct {
	net.Listener
	s *Server
}

// Close may be called twice: by us, and by go-smtp.
func (d door) Close() error {
	if err := d.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (d door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := newGuard(d.s, c)
		if d.s.admit(g) {
			return g, nil
		}
		if !d.s.ImplicitTLS {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			io.WriteString(c, crowded.String()+"\r\n")
		}
		c.Close()
	}
}

// admit gives g a place. In a full house whoever has idled longest loses his,
// and where nobody idles, one of the biggest crowd of a network; but nobody
// loses it to a network that has as many places already: many slow clients keep
// nobody out but themselves, however often they come back. A proxy is no client.
func (s *Server) admit(g *guard) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var from netip.Prefix
	if !within(s.ProxyFrom, g.client) {
		from = Network(g.client.Addr())
	}
	if s.closed || from.IsValid() && s.clients[from] >= s.MaxPerClient {
		return false
	}
	if s.count >= s.MaxConns {
		out := s.idlest(from)
		if out == nil {
			out = s.crowding(from)
		}
		if out == nil {
			return false
		}
		s.release(out)
		out.dismiss(true)
	}
	g.counted = true
	s.count++
	s.guards[g] = true
	s.seat(g, from)
	return true
}

// move makes g the session of another client, unless that one has too many.
func (s *Server) move(g *guard, client netip.AddrPort) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	to := Network(client.Addr())
	if to.IsValid() && to != g.place && s.clients[to] >= s.MaxPerClient {
		return false
	}
	if g.mutex.Lock(); g.counted {
		s.seat(g, to)
	}
	g.mutex.Unlock()
	g.client = client
	return true
}

// seat counts g with the sessions of a network; s.mutex is held.
func (s *Server) seat(g *guard, at netip.Prefix) {
	if g.place.IsValid() {
		if s.clients[g.place]--; s.clients[g.place] == 0 {
			delete(s.clients, g.place)
		}
	}
	if g.place = at; at.IsValid() {
		s.clients[at]++
	}
}

// idlest is the session that has idled longest, of those that may be sent away
// for a client of the network.
func (s *Server) idlest(from netip.Prefix) (found *guard) {
	var first time.Time
	now := time.Now()
	for g := range s.guards {
		if g.place.IsValid() && g.place != from && s.clients[g.place] <= s.clients[from] {
			continue
		}
		if since, ok := g.dispensable(now); ok && (found == nil || since.Before(first)) {
			found, first = g, since
		}
	}
	return found
}

// crowding is a session that waits, of the network that has most of them, if
// these are more than the newcomer's network would then have. So a flood that
// begins one mail after the other, each too young to be called slow, ends where
// others come.
func (s *Server) crowding(from netip.Prefix) (found *guard) {
	most := s.clients[from] + 1
	for g := range s.guards {
		if n := s.clients[g.place]; g.place.IsValid() && n > most && g.waits() {
			found, most = g, n
		}
	}
	return found
}

// release gives a place back; s.mutex is held.
func (s *Server) release(g *guard) {
	g.mutex.Lock()
	counted := g.counted
	g.counted = false
	g.mutex.Unlock()
	if !counted {
		return
	}
	s.count--
	s.seat(g, netip.Prefix{})
}

func (s *Server) gone(g *guard) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.release(g)
	delete(s.guards, g)
}

// Network is who counts as one client: an IPv4 address, or an IPv6 /64.
func Network(a netip.Addr) netip.Prefix {
	ip := a.Unmap()
	bits := ip.BitLen()
	if bits == 128 {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// within reports whether the address is in one of the networks.
func within(list []netip.Prefix, a netip.AddrPort) bool {
	return slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Contains(a.Addr().Unmap()) })
}
