package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bulk is longer than what is read in small pieces, and ends a line.
var bulk = strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 3*bigMail>>10)

// A big mail is read in bigger pieces. What comes behind it is the next
// command all the same, and nothing else ends it (R23).
func TestBigMails(t *testing.T) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m})
	c := call(t, addr)
	c.upToData()
	go io.WriteString(c.conn, bulk+".\r\n"+second[:strings.Index(second, "smuggled")]+bulk+"..\r\n.\r\nNOOP\r\nQUIT\r\n")
	for _, want := range []string{"250 2.0.0 kept", "250 2.1.0", "250 2.1.5", "354 ", "250 2.0.0 kept", "250 2.0.0", "221 "} {
		c.want(want)
	}
	c.closed()
	if got := m.bodies(); len(got) != 2 || got[0] != bulk || got[1] != bulk+".\r\n" {
		t.Fatalf("got %d mails", len(got))
	}
	for _, end := range smuggling {
		c := call(t, addr)
		c.upToData()
		go io.WriteString(c.conn, bulk+"x"+end+second)
		c.want("554 5.6.0 line ends")
		c.closed()
		c.conn.Close()
	}
	if got := m.got(); len(got) != 2 {
		t.Errorf("got %d mails, want 2", len(got))
	}
}

// What was said ahead of the handshake is forgotten in the bigger buffer too (R24).
func TestSTARTTLSBehindABigMail(t *testing.T) {
	config, pool := valid(t)
	m := &mailbox{}
	c := call(t, serve(t, &Server{Handler: m, TLS: config}))
	c.upToData()
	c.say(bulk + ".\r\nSTARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<evil@b.example>\r\n")
	c.want("250 2.0.0 kept")
	c.want("220 2.0.0")
	tc := tls.Client(c.conn, &tls.Config{RootCAs: pool, ServerName: "mx.example"})
	c.conn, c.r = tc, bufio.NewReader(tc)
	c.ask("RCPT TO:<b@to.example>", "503 5.5.1")
	c.ask("MAIL FROM:<a@b.example>", "503 5.5.1 EHLO first")
	c.ask("EHLO safe.example", "250-")
	c.ask("MAIL FROM:<a@b.example>", "250 ")
}

// A next hop may take long over a mail, as long as it takes it: the deadline
// is that of a block (RFC 5321 §4.5.3.2.5).
func TestHopRollingDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := time.Duration(0)
		h := &Hop{Address: "hop.example:25", Name: "gw.example", MaxIdle: -1, dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				l := &line{f: &fake{}, conn: there, r: bufio.NewReader(there)}
				l.say("220 hop")
				for _, answer := range []string{"250 hop", "250 ok", "250 ok", "354 go"} {
					l.hear()
					l.say(answer)
				}
				begin := time.Now()
				for range 20 {
					time.Sleep(150 * time.Second)
					io.CopyN(io.Discard, l.r, block)
				}
				took = time.Since(begin)
				l.mail()
				l.say("250 2.6.0 taken")
				l.hear()
			}()
			return here, nil
		}}
		body := strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 1024)
		res := deliver(t, h, envelope(t, "b@to.example"), body)
		if res.Err != nil || !res.Replies[0].ok() || took != 50*time.Minute {
			t.Errorf("got %+v after %v, want success after 50m", res, took)
		}
	})
}
