package access

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// patience is how long anything may take that happens at all.
const patience = time.Minute

// credential is a certificate for a name, and who trusts it.
func credential(t *testing.T, name string) (server, client *tls.Config) {
	t.Helper()
	c := certtest.SelfSigned(t, certtest.Host(name))
	return &tls.Config{Certificates: []tls.Certificate{c}}, &tls.Config{RootCAs: certtest.Pool(c.Leaf), ServerName: name}
}

// listen runs f for each connection to a loopback port.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return l.Addr().String()
}

// echo greets, and gives back what it gets.
func echo(greeting string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, greeting)
		io.Copy(c, c)
	}
}

// gateway is a server of access with what is behind it.
type gateway struct {
	*Server
	t       *testing.T
	address string
	trust   *tls.Config
	log     *lines
}

// lines is a log that may be read while it is written.
type lines struct {
	mutex sync.Mutex
	b     bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.b.String()
}

func front(t *testing.T, p Protocol, behind string, change func(*Server)) *gateway {
	t.Helper()
	server, trust := credential(t, "mx.company1.example")
	log := &lines{}
	s := &Server{Name: "mx.company1.example", Protocol: p, TLS: server, Upstream: Upstream{Address: behind}, Gate: &Gate{Max: 10, PerClient: 10}, Log: slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { l.Close(); s.Close() })
	return &gateway{s, t, l.Addr().String(), trust, log}
}

func (g *gateway) dial() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	g.t.Cleanup(func() { c.Close() })
	return c
}

// said reads n lines.
func said(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	var all []string
	for range n {
		line, err := hear(c)
		if err != nil {
			t.Fatalf("got %q, then %v", all, err)
		}
		all = append(all, line)
	}
	return strings.Join(all, "|")
}

// TestStartTLS: there is no way to log in before TLS, and behind it there is but
// the server, byte for byte.
func TestStartTLS(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, c := range []struct {
		name                string
		p                   Protocol
		greeting, told      string
		clear, answers, ask string
		n                   int
	}{
		{"IMAP", IMAP, "* OK [CAPABILITY IMAP4rev1 X-SECRET] Dovecot ready\r\n", "* OK mx.company1.example ready",
			"a CAPABILITY\r\nb LOGIN alice secret\r\nc AUTHENTICATE PLAIN AGEAYQ==\r\nd SELECT inbox\r\n\x01 NOOP\r\n",
			"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED|a OK done|b NO [PRIVACYREQUIRED] begin TLS first|c NO [PRIVACYREQUIRED] begin TLS first|d BAD not before TLS|* BAD no tag", "e STARTTLS\r\n", 6},
		{"POP3", POP3, "+OK <apop@challenge>\r\n", "+OK mx.company1.example ready",
			"CAPA\r\nUSER alice\r\nPASS secret\r\nAUTH PLAIN\r\nAPOP alice c4c9334bac560ecc979e58001b3e22fb\r\n",
			"+OK|STLS|RESP-CODES|.|-ERR not before TLS|-ERR not before TLS|-ERR not before TLS|-ERR not before TLS", "STLS\r\n", 8},
	} {
		g := front(t, c.p, listen(t, echo(c.greeting)), nil)
		conn := g.dial()
		if got := said(t, conn, 1); got != c.told {
			t.Errorf("%s: greeted with %q, want %q", c.name, got, c.told)
		}
		io.WriteString(conn, c.clear)
		if got := said(t, conn, c.n); got != c.answers {
			t.Errorf("%s: got %q, want %q", c.name, got, c.answers)
		}
		io.WriteString(conn, c.ask)
		if got := said(t, conn, 1); !strings.Contains(got, "OK begin TLS") {
			t.Fatalf("%s: got %q", c.name, got)
		}
		secure := tls.Client(conn, g.trust)
		secure.Write(all)
		back := make([]byte, len(all))
		if _, err := io.ReadFull(secure, back); err != nil || !bytes.Equal(back, all) {
			t.Errorf("%s: got %x, %v, want what was sent and no greeting", c.name, back, err)
		}
		secure.CloseWrite()
		if rest, err := io.ReadAll(secure); len(rest) != 0 || err != nil {
			t.Errorf("%s: got %q, %v at the end", c.name, rest, err)
		}
		g.Close()
		if log := g.log.String(); !strings.Contains(log, "up=256 down=256") || strings.Contains(log, "alice") || strings.Contains(log, "secret") {
			t.Errorf("%s: got log %s", c.name, log)
		}
	}
}

// What is sent ahead of the handshake ends the session (R24): it never counts as said
// inside of TLS.
func TestInjectionAheadOfTLS(t *testing.T) {
	for name, c := range map[string]struct {
		p    Protocol
		send string
	}{
		"IMAP": {IMAP, "a STARTTLS\r\nb LOGIN mallory secret\r\n"},
		"POP3": {POP3, "STLS\r\nUSER mallory\r\n"},
		"half": {IMAP, "a STARTTLS\r\n\x16"},
	} {
		reached := make(chan bool, 1)
		g := front(t, c.p, listen(t, func(net.Conn) { reached <- true }), nil)
		conn := g.dial()
		said(t, conn, 1)
		io.WriteString(conn, c.send)
		if rest, _ := io.ReadAll(conn); len(rest) != 0 {
			t.Errorf("%s: got %q, want the end", name, rest)
		}
		g.Close()
		if !strings.Contains(g.log.String(), errAhead.Error()) {
			t.Errorf("%s: got log %s", name, g.log)
		}
		select {
		case <-reached:
			t.Errorf("%s: the server was reached", name)
		default:
		}
	}
	// A moment later, in a packet of its own, it is no handshake.
	g := front(t, IMAP, listen(t, echo("* OK x\r\n")), nil)
	conn := g.dial()
	said(t, conn, 1)
	io.WriteString(conn, "a STARTTLS\r\n")
	said(t, conn, 1)
	io.WriteString(conn, "b LOGIN mallory secret\r\n")
	if rest, _ := io.ReadAll(conn); bytes.Contains(rest, []byte("b ")) {
		t.Errorf("later: got %q", rest)
	}
}

// Lines that are none end the session, and so do too many.
func TestLinesInClear(t *testing.T) {
	for name, send := range map[string]string{
		"without an end": strings.Repeat("a", 10_000), "bare LF": "a STARTTLS\n", "too many": strings.Repeat("a NOOP\r\n", maxLines+5), "handshake at once": "\x16\x03\x01\x02\x00\x01\n",
	} {
		g := front(t, IMAP, listen(t, echo("* OK x\r\n")), nil)
		conn := g.dial()
		go io.WriteString(conn, send)
		rest, _ := io.ReadAll(conn)
		if strings.Contains(string(rest), "begin TLS now") || strings.Count(string(rest), "\r\n") > maxLines+1 {
			t.Errorf("%s: got %q", name, rest)
		}
	}
}

// With TLS from the first byte the gateway greets, once the server has.
func TestImplicit(t *testing.T) {
	g := front(t, IMAP, listen(t, echo("* OK [CAPABILITY X] Dovecot ready\r\n")), func(s *Server) { s.Implicit = true })
	secure := tls.Client(g.dial(), g.trust)
	if got := said(t, secure, 1); got != "* OK mx.company1.example ready" {
		t.Errorf("got %q", got)
	}
	io.WriteString(secure, "a NOOP\r\n")
	if got := said(t, secure, 1); got != "a NOOP" {
		t.Errorf("got %q", got)
	}
}

// A server that is away, not ready, or not as safe as it must be gets nothing,
// and the client hears so.
func TestUpstream(t *testing.T) {
	safe, trust := credential(t, "mail.company1.example")
	_, other := credential(t, "mail.company1.example")
	over := func(then func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			s := tls.Server(c, safe)
			if s.Handshake() == nil {
				then(s)
			}
		}
	}
	startTLS := func(answer string, then func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, "* OK ready\r\n")
			if line, err := hear(c); err != nil || line != "P STARTTLS" {
				return
			}
			io.WriteString(c, answer)
			then(c)
		}
	}
	quiet := echo("") // after STARTTLS there is no greeting
	for _, c := range []struct {
		name     string
		behind   func(net.Conn)
		tls      *tls.Config
		implicit bool
		good     bool
	}{
		{"in clear", echo("* OK ready\r\n"), nil, false, true},
		{"TLS", over(echo("* OK ready\r\n")), trust, true, true},
		{"STARTTLS", startTLS("* CAPABILITY X\r\nP OK go\r\n", over(quiet)), trust, false, true},
		{"a stranger's certificate", over(echo("* OK ready\r\n")), other, true, false},
		{"STARTTLS by a stranger", startTLS("P OK go\r\n", over(quiet)), other, false, false},
		{"STARTTLS refused", startTLS("P NO not here\r\n", quiet), trust, false, false},
		{"more behind STARTTLS", startTLS("P OK go\r\n* OK injected\r\n", over(quiet)), trust, false, false},
		{"no answer", startTLS(strings.Repeat("* x\r\n", 50), quiet), trust, false, false},
		{"busy", echo("* BYE busy\r\n"), nil, false, false},
		{"logged in already", echo("* PREAUTH hello\r\n"), nil, false, false},
		{"no protocol", echo("220 mail ESMTP\r\n"), nil, false, false},
		{"a line without an end", echo(strings.Repeat("* OK ", 2000)), nil, false, false},
		{"nothing", func(net.Conn) {}, nil, false, false},
	} {
		g := front(t, IMAP, listen(t, c.behind), func(s *Server) {
			s.Implicit, s.Upstream.TLS, s.Upstream.Implicit = true, c.tls, c.implicit
		})
		if err := g.Upstream.Greet(t.Context(), IMAP); (err == nil) != c.good {
			t.Errorf("%s: health: got %v", c.name, err)
		}
		secure := tls.Client(g.dial(), g.trust)
		want := "* OK mx.company1.example ready"
		if !c.good {
			want = "* BYE [UNAVAILABLE] mail server not available, try again later"
		}
		if got := said(t, secure, 1); got != want {
			t.Errorf("%s: got %q, want %q\n%s", c.name, got, want, g.log)
		}
		if !c.good {
			continue
		}
		io.WriteString(secure, "a NOOP\r\n")
		if got := said(t, secure, 1); got != "a NOOP" {
			t.Errorf("%s: got %q", c.name, got)
		}
	}
}

// Who is slow holds a place only as long as nobody else wants it; and no client
// has more than his share.
func TestPlaces(t *testing.T) {
	g := front(t, IMAP, listen(t, echo("* OK ready\r\n")), func(s *Server) { s.Gate = &Gate{Max: 2, PerClient: 2}; s.Hello = time.Hour })
	busy := tls.Client(g.startTLS(), g.trust) // relayed: keeps its place
	io.WriteString(busy, "x\r\n")
	said(t, busy, 1)
	slow := g.dial()
	said(t, slow, 1)
	crowd := g.dial()
	if got := said(t, crowd, 1); got != "* BYE [LIMIT] too many connections" {
		t.Errorf("the third of one client: got %q", got)
	}
	g.Gate.mutex.Lock()
	g.Gate.PerClient = 10
	g.Gate.mutex.Unlock()
	third := g.dial()
	if got := said(t, third, 1); got != "* OK mx.company1.example ready" {
		t.Errorf("in a full house: got %q", got)
	}
	if _, err := hear(slow); err == nil {
		t.Error("the slow one kept his place")
	}
	io.WriteString(busy, "y\r\n")
	if got := said(t, busy, 1); got != "y" {
		t.Errorf("who is relayed: got %q", got)
	}
}

// startTLS is a connection at the point of its handshake.
func (g *gateway) startTLS() net.Conn {
	g.t.Helper()
	c := g.dial()
	said(g.t, c, 1)
	io.WriteString(c, "a STARTTLS\r\n")
	said(g.t, c, 1)
	return c
}

// Clients that say nothing, do not shake hands, or do nothing, are gone when
// their time is over.
func TestSlowClients(t *testing.T) {
	behind := listen(t, echo("* OK ready\r\n"))
	const soon = 50 * time.Millisecond // nothing has to be done within that
	for name, implicit := range map[string]bool{"mute": false, "without a handshake": true} {
		c := front(t, IMAP, behind, func(s *Server) { s.Hello, s.Implicit = soon, implicit }).dial()
		if _, err := io.ReadAll(c); isTimeout(err) {
			t.Errorf("%s: got %v, want to be cut off", name, err)
		}
	}
	g := front(t, IMAP, behind, func(s *Server) { s.Idle = soon })
	idle := tls.Client(g.startTLS(), g.trust)
	if err := idle.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("idle: got %v, want to be cut off", err)
	}
}

// isTimeout tells that the test itself waited too long.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// What the server is told of the client, by the protocol's own example of
// addresses.
func TestProxyHeader(t *testing.T) {
	state := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	ssl := "20" + "0028" + "01" + "00000001" + "21" + "0007" + hex.EncodeToString([]byte("TLS 1.3")) + "23" + "0016" + hex.EncodeToString([]byte("TLS_AES_128_GCM_SHA256"))
	for _, c := range []struct{ client, local, want string }{
		{"192.0.2.7:40000", "198.51.100.1:143", "2111" + fmt.Sprintf("%04x", 12+43) + "c0000207" + "c6336401" + "9c40" + "008f"},
		{"[2001:db8::7]:40000", "198.51.100.1:143", "2121" + fmt.Sprintf("%04x", 36+43) + "20010db8000000000000000000000007" + "00000000000000000000ffffc6336401" + "9c40" + "008f"},
	} {
		got := proxyHeader(netip.MustParseAddrPort(c.client), netip.MustParseAddrPort(c.local), state)
		want := "0d0a0d0a000d0a515549540a" + c.want + ssl
		if hex.EncodeToString(got) != want {
			t.Errorf("%s: got\n%x, want\n%s", c.client, got, want)
		}
	}
	heard := make(chan string, 1)
	g := front(t, POP3, listen(t, func(c net.Conn) {
		head := make([]byte, 16+12+43)
		io.ReadFull(c, head)
		heard <- string(head[:13])
		echo("+OK ready\r\n")(c)
	}), func(s *Server) { s.Implicit, s.Upstream.Proxy = true, true })
	secure := tls.Client(g.dial(), g.trust)
	if got := said(t, secure, 1); got != "+OK mx.company1.example ready" {
		t.Errorf("got %q", got)
	}
	if got := <-heard; got != proxySignature+"\x21" {
		t.Errorf("got %q before all else", got)
	}
}

// Whatever a client says in clear (R30): nothing of it but a tag comes back, and TLS
// begins by its word alone.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"a STARTTLS", "STLS", "a LOGIN x y", "a1 capability", "QUIT", "a starttls now", "\x00", "* OK", "", "a\rb NOOP"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, p := range []Protocol{IMAP, POP3} {
			reply, next := p.answer(line)
			if !strings.HasSuffix(reply, "\r\n") || len(reply) > 200 {
				t.Errorf("%q: got %q", line, reply)
			}
			for l := range strings.SplitSeq(strings.TrimSuffix(reply, "\r\n"), "\r\n") {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%q: got %q", line, reply)
				}
			}
			up := strings.ToUpper(line)
			if asks := strings.HasSuffix(up, " STARTTLS") && p == IMAP || up == "STLS" && p == POP3; next == begin && !asks {
				t.Errorf("%q begins TLS", line)
			}
		}
		hear(bufio.NewReader(strings.NewReader(line)))
	})
}
