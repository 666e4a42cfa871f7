package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without a network, for tests with a clock of their own.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func piped(t *testing.T, s *Server) *caller {
	p := pipes{make(chan net.Conn), make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(p) }()
	here, there := net.Pipe()
	p.conns <- there
	t.Cleanup(func() {
		here.Close()
		s.Close()
		<-done
	})
	return &caller{t: t, conn: here, r: bufio.NewReader(here)}
}

func elapsed(t *testing.T, f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestServerTimeouts(t *testing.T) {
	// Each says up to where it gets, and when it must be over.
	for name, test := range map[string]struct {
		run  func(c *caller)
		want time.Duration
	}{
		"no command": {func(c *caller) {
			c.want("220 ")
			c.want("421 4.4.2")
		}, 5 * time.Minute},
		"a command byte by byte": {func(c *caller) {
			c.want("220 ")
			go func() {
				for {
					if _, err := io.WriteString(c.conn, "x"); err != nil {
						return
					}
					time.Sleep(time.Minute)
				}
			}()
			c.want("421 4.4.2")
		}, 5 * time.Minute},
		"nothing in DATA": {func(c *caller) {
			c.upToData()
			c.say("x\r\n")
			c.want("451 4.3.0")
		}, 3 * time.Minute},
		"DATA line by line": {func(c *caller) {
			c.upToData()
			go func() {
				for {
					if _, err := io.WriteString(c.conn, "x\r\n"); err != nil {
						return
					}
					time.Sleep(20 * time.Second)
				}
			}()
			c.want("451 4.3.0")
		}, 3 * time.Minute},
		"a fast sender of a mail without end": {func(c *caller) {
			c.upToData()
			go func() {
				for {
					if _, err := io.WriteString(c.conn, strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 8)); err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			}()
			c.want("451 4.3.0")
		}, time.Hour},
		"an open transaction": {func(c *caller) {
			c.want("220 ")
			c.ask("EHLO c.example", "250-")
			c.ask("MAIL FROM:<a@b.example>", "250 ")
			for range 14 {
				time.Sleep(4 * time.Minute)
				c.ask("NOOP", "250 ")
			}
			c.want("421 4.4.2")
		}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mailbox{}
				c := piped(t, &Server{Name: "gw.example", Handler: m})
				if got := elapsed(t, func() { test.run(c) }); got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
				c.closed()
				if len(m.got()) != 0 {
					t.Error("a mail got through")
				}
				c.conn.Close()
				time.Sleep(time.Minute) // for who still writes, to see it
			})
		})
	}
}

// After a timeout inside DATA nothing more is taken for a command: go-smtp
// alone would execute the rest of the body.
func TestTimeoutInDataExecutesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mailbox{}
		c := piped(t, &Server{Name: "gw.example", Handler: m})
		c.upToData()
		c.say("x\r\n")
		time.Sleep(3*time.Minute + time.Second)
		go io.WriteString(c.conn, second)
		c.want("451 4.3.0")
		c.closed()
		if got := m.got(); len(got) != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// In a full house a mail that hardly comes loses its place, one that comes does not.
func TestFullHouseInData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipes{make(chan net.Conn), make(chan struct{})}
		s := &Server{Name: "gw.example", Handler: &mailbox{}, MaxConns: 2}
		done := make(chan error, 1)
		go func() { done <- s.Serve(p) }()
		enter := func() *caller {
			here, there := net.Pipe()
			p.conns <- there
			return &caller{t: t, conn: here, r: bufio.NewReader(here)}
		}
		fast, slow := enter(), enter()
		fast.upToData()
		slow.upToData()
		time.Sleep(11 * time.Second)
		fast.say(strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 20))
		synctest.Wait()
		third := enter()
		slow.want("451 4.3.0")
		slow.closed()
		third.upToData()
		enter().want("421 4.3.2")
		fast.say(".\r\n")
		fast.want("250 ")
		s.Close()
		<-done
	})
}

// A mail may take long, as long as it comes.
func TestRollingDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mailbox{}
		c := piped(t, &Server{Name: "gw.example", Handler: m})
		c.upToData()
		block := strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 160)
		for range 20 {
			time.Sleep(150 * time.Second)
			c.say(block)
		}
		c.say(".\r\n")
		c.want("250 ")
	})
}

// stalled is a hop that plays as told over a pipe.
func stalled(play func(*line)) *Hop {
	return &Hop{Address: "hop.example:25", Name: "gw.example", dial: func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			play(&line{f: &fake{}, conn: there, r: bufio.NewReader(there)})
		}()
		return here, nil
	}}
}

func TestHopTimeouts(t *testing.T) {
	hang := func(l *line) { io.Copy(io.Discard, l.r) }
	upTo := func(l *line, words ...string) {
		for _, w := range words {
			l.say(w)
			l.hear()
		}
	}
	for name, test := range map[string]struct {
		play func(*line)
		want time.Duration
	}{
		"no greeting": {hang, 5 * time.Minute},
		"no EHLO":     {func(l *line) { upTo(l, "220 hop"); hang(l) }, 5 * time.Minute},
		"no MAIL":     {func(l *line) { upTo(l, "220 hop", "250 hop"); hang(l) }, 5 * time.Minute},
		"no DATA":     {func(l *line) { upTo(l, "220 hop", "250 hop", "250 ok", "250 ok"); hang(l) }, 5 * time.Minute},
		"takes no mail": {func(l *line) {
			upTo(l, "220 hop", "250 hop", "250 ok", "250 ok")
			l.say("354 go")
			time.Sleep(24 * time.Hour)
		}, 3*time.Minute + time.Second},
		"no answer": {func(l *line) { upTo(l, "220 hop", "250 hop", "250 ok", "250 ok"); l.say("354 go"); l.mail(); hang(l) }, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := stalled(test.play)
				body := strings.Repeat("12345678901234\r\n", 10_000)
				var res Result
				got := elapsed(t, func() {
					res = h.Deliver(context.Background(), envelope(t, "b@to.example"), int64(len(body)), text(body))
				})
				time.Sleep(48 * time.Hour) // the next hop comes to its end
				if got != test.want || !errors.Is(res.Err, ErrNextHop) || res.Replies != nil {
					t.Errorf("got %v after %v, want ErrNextHop after %v", res.Err, got, test.want)
				}
			})
		})
	}
}

func TestHopGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := stalled(func(l *line) { io.Copy(io.Discard, l.r) })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		res := h.Deliver(ctx, envelope(t, "b@to.example"), 3, text("x\r\n"))
		if !errors.Is(res.Err, ErrNextHop) || !errors.Is(res.Err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrNextHop and context.DeadlineExceeded", res.Err)
		}
	})
}

func TestIdleConnectionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan string, 1)
		h := stalled(func(l *line) {
			plain(l)
			gone <- "gone"
		})
		res := h.Deliver(context.Background(), envelope(t, "b@to.example"), 3, text("x\r\n"))
		if res.Err != nil || !res.Replies[0].ok() {
			t.Fatalf("got %+v", res)
		}
		if got := elapsed(t, func() { <-gone }); got != 30*time.Second {
			t.Errorf("closed after %v, want 30s", got)
		}
	})
}
