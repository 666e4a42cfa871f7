package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

var (
	errNoTLS    = errors.New("no STARTTLS")
	errInjected = errors.New("replies sent ahead of TLS")
)

// block is how much is written at once.
const block = 32 << 10

// link is one connection to the next hop, past its greeting.
type link struct {
	hop        *Hop
	conn       net.Conn // the socket, or TLS over it
	reader     *bufio.Reader
	writer     *bufio.Writer
	within     time.Duration // for a write
	ctx        context.Context
	extensions map[string]string
	tls        *tls.ConnectionState
	peer       string // name that its certificate is trusted for
	broken     bool   // must not be used again
	sent       bool   // the mail under way is out whole
	begun      bool   // a mail was begun and not ended: RSET comes before the next one
	uses       int
	retire     *time.Timer
}

// connect reaches the next hop, and the safety that is asked for.
func (h *Hop) connect(ctx context.Context) (*link, error) {
	l, err := h.open(ctx, true)
	var failed tlsError
	if err != nil && h.TLS == TLSMay && errors.As(err, &failed) && ctx.Err() == nil {
		l, err = h.open(ctx, false)
	}
	return l, err
}

// tlsError is a handshake that failed.
type tlsError struct{ error }

func (e tlsError) Unwrap() error { return e.error }

func (h *Hop) open(ctx context.Context, secure bool) (*link, error) {
	if err := h.Need.sound(); err != nil {
		return nil, fmt.Errorf("reach next hop: %w", err)
	}
	t := h.timeouts()
	dial := h.dial
	if dial == nil {
		d := net.Dialer{Timeout: t.Connect}
		dial = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", h.Address) }
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, trouble("reach next hop", err)
	}
	l := &link{hop: h, conn: c, within: t.Block}
	l.reset()
	defer l.bind(ctx)()
	if err := l.greet(secure); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) reset() {
	l.reader = bufio.NewReader(l.conn)
	l.writer = bufio.NewWriterSize(output{l}, block)
}

// output gives every block that is written its own deadline.
type output struct{ l *link }

func (o output) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		o.l.arm(o.l.within)
		m, err = o.l.conn.Write(p[n:min(n+block, len(p))])
		n += m
	}
	return n, err
}

// bind lets the end of ctx end whatever l waits for, until release.
func (l *link) bind(ctx context.Context) (release func()) {
	l.ctx = ctx
	conn := l.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	return func() {
		if !stop() {
			l.broken = true
		}
	}
}

func (l *link) arm(within time.Duration) {
	l.conn.SetDeadline(time.Now().Add(within))
	if l.ctx.Err() != nil {
		l.conn.SetDeadline(time.Now())
	}
}

// send queues one command.
func (l *link) send(line string) error {
	if strings.ContainsAny(line, "\r\n\x00") {
		return errors.New("control character in a command")
	}
	_, err := l.writer.WriteString(line + "\r\n")
	return err
}

func (l *link) read(within time.Duration) (Reply, []string, error) {
	l.arm(within)
	r, lines, err := readReply(l.reader)
	if err != nil {
		l.broken = true
		if l.ctx.Err() != nil {
			err = l.ctx.Err()
		}
	}
	if r.Code == 421 {
		l.broken = true
	}
	return r, lines, err
}

func (l *link) ask(line string, within time.Duration) (Reply, error) {
	r, _, err := l.askLines(line, within)
	return r, err
}

func (l *link) askLines(line string, within time.Duration) (Reply, []string, error) {
	err := l.send(line)
	if err == nil {
		err = l.writer.Flush()
	}
	if err != nil {
		l.broken = true
		return Reply{}, nil, err
	}
	return l.read(within)
}

// greet hears the greeting, says EHLO, and starts TLS where the level has it.
// Nothing of a mail is said here: what fails is the way's trouble.
func (l *link) greet(secure bool) error {
	t := l.hop.timeouts()
	r, _, err := l.read(t.Command)
	if err == nil && r.Code != 220 {
		err = r
	}
	if err != nil {
		return trouble("greet next hop", err)
	}
	if err := l.hello(); err != nil {
		return err
	}
	level := l.hop.TLS
	if level == "" || level == TLSOff || !secure {
		return nil
	}
	if _, offered := l.extensions["STARTTLS"]; !offered {
		if level == TLSMay {
			return nil
		}
		return trouble("start TLS", errNoTLS)
	}
	r, err = l.ask("STARTTLS", t.Command)
	if err == nil && r.Code != 220 {
		if level == TLSMay && r.no() && !l.broken {
			return nil
		}
		err = r
	}
	if err != nil {
		return trouble("start TLS", err)
	}
	if l.reader.Buffered() > 0 {
		return trouble("start TLS", errInjected)
	}
	return l.startTLS(t.Handshake)
}

func (l *link) startTLS(within time.Duration) error {
	ctx, cancel := context.WithTimeout(l.ctx, within)
	defer cancel()
	l.conn.SetDeadline(time.Time{})
	need := l.hop.Need
	need.ServerName = l.hop.serverName()
	config := Profile(need.Min)
	config.ServerName, config.InsecureSkipVerify = need.ServerName, true // the certificate is judged below, by every level its own way
	config.VerifyConnection = func(s tls.ConnectionState) (err error) {
		l.peer, err = need.judge(&s, l.hop.RootCAs, time.Now())
		return err
	}
	c := tls.Client(l.conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return tlsError{trouble("start TLS", err)}
	}
	state := c.ConnectionState()
	l.conn, l.tls = c, &state
	l.reset()
	return l.hello() // what was said before counts no more (RFC 3207 §4.2)
}

// hello says EHLO, and HELO to those who know no better.
func (l *link) hello() error {
	verb, t := "EHLO ", l.hop.timeouts()
	if l.hop.LMTP {
		verb = "LHLO "
	}
	r, lines, err := l.askLines(verb+l.hop.Name, t.Command)
	if err == nil && r.Code/100 == 5 && !l.hop.LMTP {
		lines = nil
		r, err = l.ask("HELO "+l.hop.Name, t.Command)
	}
	if err == nil && r.Code != 250 {
		err = r
	}
	if err != nil {
		return trouble("greet next hop", err)
	}
	l.extensions = map[string]string{}
	if len(lines) > 1 {
		for _, line := range lines[1:] {
			name, value, _ := strings.Cut(line, " ")
			l.extensions[strings.ToUpper(name)] = value
		}
	}
	return nil
}

// quit takes leave without waiting for the answer.
func (l *link) quit() {
	if !l.broken {
		l.ctx, l.within = context.Background(), time.Second
		if l.send("QUIT") == nil {
			l.writer.Flush()
		}
	}
	l.close()
}

func (l *link) close() {
	l.broken = true
	l.conn.Close()
}
