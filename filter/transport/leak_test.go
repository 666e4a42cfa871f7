package transport

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"
)

// Garbage on the wire ends in a reply or a closed connection, without a panic,
// and leaves no goroutine behind (R30): commands, pieces of mails and noise in
// every order, from clients that read, and from ones that go at once.
func TestGarbageLeavesNothing(t *testing.T) {
	chance := rand.New(rand.NewPCG(30, 1)) // the same garbage each time
	words := []string{"EHLO x\r\n", "HELO\r\n", "MAIL FROM:<a@b.example>\r\n", "MAIL FROM:<\r\n", "RCPT TO:<c@d.example>\r\n", "RCPT TO:<@,@:c@d>\r\n", "DATA\r\n", "BDAT 10 LAST\r\n",
		"Subject: x\r\n\r\nhello\r\n", ".\r\n", "\r\n.\r\n", "\n.\n", "\r.\r", "STARTTLS\r\n", "AUTH PLAIN AAAA\r\n", "RSET\r\n", "NOOP\r\n", "VRFY x\r\n", "QUIT\r\n", "\x16\x03\x01\x02\x00\x01\x00", "\x00\x00", "=?utf-8?q?=0d=0a?=\r\n"}
	before := runtime.NumGoroutine()
	m := &mailbox{}
	s := &Server{Handler: m, Name: "gw.example"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	for i := range 300 {
		var say bytes.Buffer
		for range 1 + chance.IntN(30) {
			if chance.IntN(8) == 0 {
				for range chance.IntN(100) {
					say.WriteByte(byte(chance.IntN(256)))
				}
			}
			say.WriteString(words[chance.IntN(len(words))])
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(say.Bytes()); err == nil && i%3 > 0 {
			if err := c.(*net.TCPConn).CloseWrite(); err == nil {
				if _, err := io.Copy(io.Discard, c); err != nil {
					if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
						t.Errorf("no end after %q", say.Bytes())
					}
				}
			}
		}
		c.Close()
	}
	s.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("got %d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
