// Package access stands in front of the company's IMAP and POP3 server: TLS with
// a key in the token towards mail programs, and behind the handshake a relay of
// bytes. It reads the dialogue up to STARTTLS (RFC 9051 §6.2.1) or STLS (RFC 2595
// §4), the first line of the server, and nothing of what a person does in his
// mailbox: no name, no password, no mail.
//
// Where it departs from the standards: the server's greeting is not passed on,
// but one of the gateway's, so APOP (RFC 1939 §7) has no challenge; lines in
// clear end in CRLF, or the connection does.
package access

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The ways in which a session ends before it is relayed.
var (
	errCommand  = errors.New("nothing to go on with in what the client says")
	errAhead    = errors.New("the client sent more before TLS began")
	errQuit     = errors.New("the client left")
	errUpstream = errors.New("server not reached, or not as safe as it must be")
)

// What zero fields of a Server mean.
const (
	defaultHello = time.Minute      // from the connection to the end of the handshake
	defaultIdle  = 35 * time.Minute // RFC 9051 §5.4 wants 30, and clients in IDLE speak every 29
	stall        = 2 * time.Minute  // for one piece to be taken
	drain        = 30 * time.Second // for what is under way, when one side has ended
)

// Server takes mail programs from listeners, and relays them to one server.
type Server struct {
	Name     string // in the greeting
	Protocol Protocol
	TLS      *tls.Config
	Implicit bool // TLS from the first byte; else only who asks for it gets any further
	Upstream Upstream
	Gate     *Gate
	Hello    time.Duration
	Idle     time.Duration // without a byte either way
	Log      *slog.Logger  // one line for each session

	mutex    sync.Mutex
	closed   bool
	sessions map[*session]bool
	group    sync.WaitGroup
}

// session is one connection of a client.
type session struct {
	net.Conn
	client netip.AddrPort
	since  time.Time
	early  bool // not relayed yet: who is slow loses his place when the house is full
	cancel context.CancelFunc
}

// Serve takes connections until l is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			s.mutex.Lock()
			closed := s.closed
			s.mutex.Unlock()
			if closed || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if passing, ok := err.(interface{ Temporary() bool }); ok && passing.Temporary() { // too many files: it passes
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		s.take(conn)
	}
}

// Close ends all sessions and waits for them.
func (s *Server) Close() {
	s.mutex.Lock()
	s.closed = true
	for c := range s.sessions {
		c.cancel()
	}
	s.mutex.Unlock()
	s.group.Wait()
}

// take begins a session, or refuses it.
func (s *Server) take(conn net.Conn) {
	client := addressOf(conn.RemoteAddr())
	ctx, cancel := context.WithCancel(context.Background())
	c := &session{Conn: conn, client: client, since: time.Now(), early: true, cancel: cancel}
	refuse := func(why string) {
		cancel()
		if !s.Implicit {
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			conn.Write([]byte(s.Protocol.busy()))
		}
		conn.Close()
		s.Log.Info("access", "client", client.String(), "ended", why)
	}
	full, crowd := s.Gate.enter(client.Addr())
	if full {
		s.evict()
		full, crowd = s.Gate.enter(client.Addr())
	}
	if full || crowd {
		refuse("too many connections")
		return
	}
	s.mutex.Lock()
	if s.closed {
		s.mutex.Unlock()
		s.Gate.Leave(client.Addr())
		refuse("the gateway ends")
		return
	}
	if s.sessions == nil {
		s.sessions = map[*session]bool{}
	}
	s.sessions[c] = true
	s.group.Add(1)
	s.mutex.Unlock()
	go func() {
		defer s.group.Done()
		defer cancel()
		context.AfterFunc(ctx, func() { conn.Close() })
		s.serve(ctx, c)
		conn.Close()
		s.mutex.Lock()
		if s.sessions[c] {
			delete(s.sessions, c)
			s.Gate.Leave(client.Addr())
		}
		s.mutex.Unlock()
	}()
}

// evict ends the session that waits longest for its client before it is
// relayed, if there is one, and gives its place free at once.
func (s *Server) evict() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var oldest *session
	for c := range s.sessions {
		if c.early && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(s.sessions, oldest)
		s.Gate.Leave(oldest.client.Addr())
		oldest.cancel()
	}
}

// serve is one session from its first byte.
func (s *Server) serve(ctx context.Context, c *session) {
	attrs := []slog.Attr{slog.String("client", c.client.String())}
	up, down, err := s.pass(ctx, c, &attrs)
	attrs = append(attrs, slog.Int64("up", up), slog.Int64("down", down), slog.Duration("took", time.Since(c.since).Round(time.Millisecond)))
	if err != nil {
		attrs = append(attrs, slog.String("ended", err.Error()))
	}
	level := slog.LevelInfo
	if errors.Is(err, errUpstream) {
		level = slog.LevelWarn
	}
	s.Log.LogAttrs(ctx, level, "access", attrs...)
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// pass brings the client through the handshake, and to the server.
func (s *Server) pass(ctx context.Context, c *session, attrs *[]slog.Attr) (up, down int64, err error) {
	by := time.Now().Add(or(s.Hello, defaultHello))
	c.SetDeadline(by)
	if !s.Implicit {
		if err := s.dialogue(c.Conn); err != nil {
			return 0, 0, err
		}
	}
	secure := tls.Server(c.Conn, s.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		return 0, 0, fmt.Errorf("shake hands: %w", err)
	}
	state := secure.ConnectionState()
	*attrs = append(*attrs, slog.String("tls", tls.VersionName(state.Version)))
	within, cancel := context.WithTimeout(ctx, or(s.Hello, defaultHello))
	server, err := s.Upstream.open(within, s.Protocol, c.client, addressOf(c.LocalAddr()), state)
	cancel()
	if err != nil {
		c.SetDeadline(time.Now().Add(stall))
		secure.Write([]byte(s.Protocol.away()))
		secure.Close()
		return 0, 0, fmt.Errorf("%w: %w", errUpstream, err)
	}
	defer server.Close()
	s.mutex.Lock()
	c.early = false
	s.mutex.Unlock()
	if s.Implicit {
		c.SetWriteDeadline(time.Now().Add(stall))
		if _, err := secure.Write([]byte(s.Protocol.hello(s.Name))); err != nil {
			return 0, 0, err
		}
	}
	c.SetDeadline(time.Time{})
	up, down = relay(secure, server, or(s.Idle, defaultIdle))
	return up, down, nil
}

// addressOf is an address as the log and proxies write it.
func addressOf(a net.Addr) netip.AddrPort {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}
