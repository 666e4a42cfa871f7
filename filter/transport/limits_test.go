package transport

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestConnectionLimits(t *testing.T) {
	addr := serve(t, &Server{Handler: &mailbox{}, MaxPerClient: 2})
	a, b := call(t, addr), call(t, addr)
	a.want("220 ")
	b.want("220 ")
	c := call(t, addr)
	c.want("421 4.3.2")
	c.closed()
	a.ask("QUIT", "221 ")
	a.closed()
	// The place is free once the session is gone.
	for deadline := time.Now().Add(5 * time.Second); ; {
		if got := call(t, addr).reply(); strings.HasPrefix(got, "220 ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("place not given back")
		}
	}
}

// In a full house who idles goes, and who sends a mail stays (R48).
func TestSlowClientsKeepNobodyOut(t *testing.T) {
	m := &mailbox{}
	s := &Server{Handler: m, MaxConns: 5, MaxPerClient: 1000}
	addr := serve(t, s)
	busy := call(t, addr)
	busy.upToData()
	busy.say("x\r\n")
	var slow []*caller
	for i := range 20 {
		c := call(t, addr)
		c.want("220 ")
		slow = append(slow, c)
		for deadline := time.Now().Add(5 * time.Second); idlers(s) < min(i+1, 4); runtime.Gosched() { // who was greeted idles soon
			if time.Now().After(deadline) {
				t.Fatalf("got %d idle sessions of %d", idlers(s), i+1)
			}
		}
	}
	slow[0].want("421 4.3.2 closing")
	slow[0].closed()
	c := call(t, addr)
	c.upToData()
	c.say("y\r\n.\r\n")
	c.want("250 ")
	busy.say(".\r\n")
	busy.want("250 ")
	if got := m.got(); len(got) != 2 {
		t.Errorf("got %d mails, want 2", len(got))
	}
}

// A house full of mails that have just begun, all of one network, has a place
// for another network's client (R48), and for no further one of the same.
func TestCrowdMakesRoom(t *testing.T) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, MaxConns: 4, MaxPerClient: 100})
	from := func(ip string) *caller {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return dialled(t, &d, addr)
	}
	for range 4 {
		c := from("127.0.1.1")
		c.upToData()
		c.say("x")
	}
	for i, ip := range []string{"127.0.1.2", "127.0.1.3"} {
		c := from(ip)
		c.upToData()
		c.say("y\r\n")
		crowd := from("127.0.1.1")
		crowd.want("421 4.3.2")
		c.say(".\r\n")
		c.want("250 ")
		if got := m.got(); len(got) != i+1 {
			t.Errorf("got %d mails, want %d", len(got), i+1)
		}
	}
}

// idlers counts the sessions that would have to go first.
func idlers(s *Server) (n int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for g := range s.guards {
		if _, ok := g.dispensable(time.Now()); ok {
			n++
		}
	}
	return n
}

// 5,000 slow clients of many addresses, and normal mail passes in 5 s (R48).
func TestOverload(t *testing.T) {
	m := &mailbox{}
	s := &Server{Handler: m, MaxConns: 200}
	addr := serve(t, s)
	for i := range 5000 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%250))}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "EHLO slow")
	}
	start := time.Now()
	for range 20 {
		for deadline := time.Now().Add(5 * time.Second); ; {
			c := call(t, addr)
			if got := c.reply(); strings.HasPrefix(got, "421 ") && time.Now().Before(deadline) {
				continue // as a sender would, later
			} else if !strings.HasPrefix(got, "220 ") {
				t.Fatalf("got %q", got)
			}
			c.ask("EHLO client.example", "250-")
			c.ask("MAIL FROM:<a@from.example>", "250 ")
			c.ask("RCPT TO:<b@to.example>", "250 ")
			c.ask("DATA", "354 ")
			c.say("x\r\n.\r\n")
			c.want("250 ")
			c.conn.Close()
			break
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("20 mails took %v", d)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.count > 200 {
		t.Errorf("got %d sessions, want at most 200", s.count)
	}
}

func TestShutdown(t *testing.T) {
	m := &mailbox{}
	s := &Server{Handler: m}
	addr := serve(t, s)
	idle, busy := call(t, addr), call(t, addr)
	idle.want("220 ")
	busy.upToData()
	busy.say("x\r\n")
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	idle.want("421 4.3.2 closing")
	idle.closed()
	idle.conn.Close()
	busy.say(".\r\n")
	busy.want("250 2.0.0 kept")
	busy.want("421 4.3.2 closing")
	busy.conn.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: got %v", err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening after Shutdown")
	}
}

func TestShutdownCutsOffInTheEnd(t *testing.T) {
	s := &Server{Handler: &mailbox{}}
	c := call(t, serve(t, s))
	c.upToData()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("Shutdown: got %v, want context.DeadlineExceeded", err)
	}
	io.ReadAll(c.r)
}
