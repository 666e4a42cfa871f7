package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/filter/message"
	"postern/hsm/certtest"
)

// mailbox is a Handler that keeps what it gets.
type mailbox struct {
	sender    func(*Envelope) error
	recipient func(Recipient) error
	data      func(*Envelope, io.Reader) Reply
	each      func(*Envelope) []Reply // after the mail was kept

	mutex sync.Mutex
	mails []mail
}

type mail struct {
	env  Envelope
	body string
}

func (m *mailbox) Sender(_ context.Context, e *Envelope) error {
	if m.sender != nil {
		return m.sender(e)
	}
	return nil
}

func (m *mailbox) Recipient(_ context.Context, e *Envelope, to Recipient) error {
	if m.recipient != nil {
		return m.recipient(to)
	}
	return nil
}

func (m *mailbox) Data(_ context.Context, e *Envelope, body io.Reader) []Reply {
	if m.data != nil {
		return []Reply{m.data(e, body)}
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return []Reply{m.Refuse(e, err)}
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.mails = append(m.mails, mail{*e, string(b)})
	if m.each != nil {
		return m.each(e)
	}
	return []Reply{{250, [3]int{2, 0, 0}, "kept"}}
}

func (m *mailbox) Refuse(_ *Envelope, err error) Reply {
	switch {
	case errors.Is(err, message.ErrLineEnds):
		return Reply{554, [3]int{5, 6, 0}, "line ends"}
	case errors.Is(err, message.ErrTooBig):
		return Reply{552, [3]int{5, 3, 4}, "too big"}
	case errors.Is(err, ErrTooMany):
		return Reply{452, [3]int{4, 5, 3}, "too many"}
	}
	return Reply{451, [3]int{4, 3, 0}, "trouble"}
}

func (m *mailbox) got() []mail {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return append([]mail(nil), m.mails...)
}

func (m *mailbox) bodies() []string {
	var all []string
	for _, x := range m.got() {
		all = append(all, x.body)
	}
	return all
}

// serve runs s on a loopback port of its own, and gives the address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if s.Name == "" {
		s.Name = "gw.example"
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: got %v, want nil after Close", err)
		}
	})
	return l.Addr().String()
}

// caller is a client that says exactly what it is told to.
type caller struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	lmtp bool
}

func call(t testing.TB, addr string) *caller {
	t.Helper()
	return dialled(t, &net.Dialer{}, addr)
}

func dialled(t testing.TB, d *net.Dialer, addr string) *caller {
	t.Helper()
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &caller{t: t, conn: c, r: bufio.NewReader(c)}
}

func (c *caller) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("say %q: %v", s, err)
	}
}

// reply is one whole reply, its lines joined by "|".
func (c *caller) reply() string {
	var lines []string
	for {
		s, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(append(lines, "closed"), "|")
		}
		s = strings.TrimSuffix(s, "\r\n")
		lines = append(lines, s)
		if len(s) < 4 || s[3] != '-' {
			return strings.Join(lines, "|")
		}
	}
}

func (c *caller) want(prefix string) string {
	c.t.Helper()
	got := c.reply()
	if !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("reply: got %q, want %s…", got, prefix)
	}
	return got
}

// ask says one line, and wants one reply.
func (c *caller) ask(line, prefix string) string {
	c.t.Helper()
	c.say(line + "\r\n")
	got := c.reply()
	if !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("%q: got %q, want %s…", line, got, prefix)
	}
	return got
}

// upTo goes up to DATA.
func (c *caller) upToData() {
	c.t.Helper()
	c.want("220 ")
	if c.lmtp {
		c.ask("LHLO client.example", "250-")
	} else {
		c.ask("EHLO client.example", "250-")
	}
	c.ask("MAIL FROM:<a@from.example>", "250 ")
	c.ask("RCPT TO:<b@to.example>", "250 ")
	c.ask("DATA", "354 ")
}

// closed wants the end of the connection.
func (c *caller) closed() {
	c.t.Helper()
	if got, err := c.r.ReadString('\n'); err == nil || got != "" {
		c.t.Fatalf("got %q, want the connection closed", got)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("connection still open")
	}
}

// certificate makes a certificate for name, and the pool that trusts it.
func certificate(t testing.TB, name string, from, to time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	template := certtest.Host(name)
	template.NotBefore, template.NotAfter = from, to
	c := certtest.SelfSigned(t, template)
	return c, certtest.Pool(c.Leaf)
}

func valid(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	cert, pool := certificate(t, "mx.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	return &tls.Config{Certificates: []tls.Certificate{cert}}, pool
}

// fake is a next hop that speaks as play tells it. It records what it is told.
type fake struct {
	t     testing.TB
	addr  string
	mutex sync.Mutex
	heard bytes.Buffer
	conns int
}

type line struct {
	f    *fake
	conn net.Conn
	r    *bufio.Reader
	n    int // of the connection, from 1
}

func playing(t testing.TB, play func(*line)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, addr: l.Addr().String()}
	var wg sync.WaitGroup
	var open []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mutex.Lock()
			f.conns++
			n := f.conns
			open = append(open, c)
			f.mutex.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				ln := &line{f: f, conn: c, n: n}
				ln.r = bufio.NewReader(io.TeeReader(c, ln))
				play(ln)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		f.mutex.Lock()
		for _, c := range open {
			c.Close()
		}
		f.mutex.Unlock()
		wg.Wait()
	})
	return f
}

func (l *line) Write(p []byte) (int, error) {
	l.f.mutex.Lock()
	defer l.f.mutex.Unlock()
	return l.f.heard.Write(p)
}

func (l *line) say(s string) { io.WriteString(l.conn, strings.ReplaceAll(s, "\n", "\r\n")+"\r\n") }

func (l *line) hear() string {
	s, err := l.r.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(s, "\r\n")
}

// mail hears a mail up to its dot; false where it was broken off.
func (l *line) mail() bool {
	for {
		switch s, err := l.r.ReadString('\n'); {
		case err != nil:
			return false
		case s == ".\r\n":
			return true
		}
	}
}

func (f *fake) all() string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.heard.String()
}

func (f *fake) times() int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.conns
}

// text is a mail to deliver.
type text string

func (s text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}

func address(t testing.TB, s string) message.Address {
	t.Helper()
	a, err := message.ParseAddress(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return a
}

func envelope(t testing.TB, to ...string) *Envelope {
	t.Helper()
	e := &Envelope{Trace: NewTrace(), From: address(t, "a@from.example")}
	for _, s := range to {
		e.Recipients = append(e.Recipients, Recipient{Address: address(t, s)})
	}
	return e
}
