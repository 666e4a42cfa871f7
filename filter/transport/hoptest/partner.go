// Package hoptest is who a test hands mail to: a Postfix of its own, and a
// partner's server that behaves as it is told and keeps what it hears.
package hoptest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Habit is how a partner's server behaves. The zero one takes every mail, in
// clear.
type Habit struct {
	TLS    *tls.Config // nil: there is none
	Strip  bool        // somebody on the way takes STARTTLS out
	Refuse bool        // STARTTLS is offered, and then is not to be had
	More   []string    // what else it can do, told where nobody is to go on to TLS

	Greeting string // 220
	Sender   string // answer to MAIL: 250
	Last     string // answer to the final dot: 250
	HangUp   bool   // after the dot, without an answer
}

// Showing is one who has TLS with a certificate.
func Showing(c tls.Certificate, change ...func(*tls.Config)) Habit {
	config := &tls.Config{Certificates: []tls.Certificate{c}}
	for _, f := range change {
		f(config)
	}
	return Habit{TLS: config}
}

// Partner is a partner's mail server.
type Partner struct {
	Address string

	mutex       sync.Mutex
	habit       Habit
	clear, safe bytes.Buffer
	mails       []string
	sessions    int
}

// Listen is one at an address until the test ends.
func Listen(t testing.TB, address string, h Habit) *Partner {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, l, h)
}

// Serve is one behind a listener, which it closes.
func Serve(t testing.TB, l net.Listener, h Habit) *Partner {
	p := &Partner{Address: l.Addr().String(), habit: h}
	var group sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { close(done); l.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				ended := make(chan struct{})
				defer close(ended)
				go func() {
					select {
					case <-done:
						c.Close()
					case <-ended:
					}
				}()
				p.serve(c)
			})
		}
	})
	return p
}

// Become changes its habit from the next session on, and forgets what was heard.
func (p *Partner) Become(h Habit) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.habit, p.mails, p.sessions = h, nil, 0
	p.clear.Reset()
	p.safe.Reset()
}

// Heard is every byte that came in clear and in TLS, and how many mails did.
func (p *Partner) Heard() (clear, safe string, mails int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.clear.String(), p.safe.String(), len(p.mails)
}

// Mails are those that came, each as "TLS" or "clear", what was said of its
// sender and its recipients, and the mail in a line of its own.
func (p *Partner) Mails() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]string(nil), p.mails...)
}

// Sessions is how often somebody called.
func (p *Partner) Sessions() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.sessions
}

// tap writes down what is read.
type tap struct {
	net.Conn
	p    *Partner
	into *bytes.Buffer
}

func (t tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.p.mutex.Lock()
	t.into.Write(b[:n])
	t.p.mutex.Unlock()
	return n, err
}

func (p *Partner) serve(c net.Conn) {
	p.mutex.Lock()
	h := p.habit
	p.sessions++
	p.mutex.Unlock()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	in, how, envelope := bufio.NewReader(tap{c, p, &p.clear}), "clear", ""
	say := func(s string) { io.WriteString(c, s+"\r\n") }
	say(cmp.Or(h.Greeting, "220 mx ESMTP"))
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		switch verb, _, _ := strings.Cut(strings.ToUpper(line), " "); verb {
		case "EHLO":
			can := []string{"mx", "PIPELINING", "8BITMIME", "SIZE"}
			if h.TLS != nil && how == "clear" && !h.Strip {
				can = append(can, "STARTTLS")
			} else {
				can = append(can, h.More...)
			}
			say("250-" + strings.Join(can[:len(can)-1], "\r\n250-") + "\r\n250 " + can[len(can)-1])
		case "STARTTLS":
			if h.Refuse || h.TLS == nil {
				say("454 4.7.0 not now")
				continue
			}
			say("220 2.0.0 go")
			s := tls.Server(c, h.TLS)
			if s.Handshake() != nil {
				return
			}
			c, in, how = s, bufio.NewReader(tap{s, p, &p.safe}), "TLS"
		case "MAIL":
			envelope = " " + line
			say(cmp.Or(h.Sender, "250 2.1.0 ok"))
		case "RCPT":
			envelope += " " + line
			say("250 2.1.5 ok")
		case "DATA":
			say("354 go")
			var mail strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				mail.WriteString(strings.TrimPrefix(line, "."))
			}
			p.mutex.Lock()
			p.mails = append(p.mails, how+envelope+"\r\n"+mail.String())
			p.mutex.Unlock()
			if h.HangUp {
				return
			}
			say(cmp.Or(h.Last, "250 2.0.0 taken"))
		case "QUIT":
			say("221 2.0.0 bye")
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}
