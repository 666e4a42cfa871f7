package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hole is a next hop that counts what comes and keeps nothing: a benchmark of
// the house must not measure the disk behind another server.
type hole struct {
	listener       net.Listener
	opened, sealed atomic.Int64
	group          sync.WaitGroup
}

func openHole(t testing.TB) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{listener: l}
	h.group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.group.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() { // after the box, whose connections are then gone
		l.Close()
		h.group.Wait()
	})
	return h
}

func (h *hole) address() string { return h.listener.Addr().String() }

// serve speaks as much SMTP as the gateway needs.
func (h *hole) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 32<<10)
	out := bufio.NewWriter(c)
	io.WriteString(out, "220 hole ESMTP\r\n")
	for {
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		answer := "250 2.0.0 ok\r\n"
		switch string(bytes.ToUpper(line[:min(4, len(line))])) {
		case "EHLO":
			answer = "250-hole\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n"
		case "QUIT":
			return
		case "DATA":
			io.WriteString(out, "354 go ahead\r\n")
			if out.Flush() != nil || h.take(in) != nil {
				return
			}
		}
		io.WriteString(out, answer)
	}
}

// take reads one mail, and looks at the fields of its header.
func (h *hole) take(in *bufio.Reader) error {
	header := true
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		case string(line) == ".\r\n":
			return nil
		case string(line) == "\r\n":
			header = false
		case header && bytes.HasPrefix(line, []byte("Postern-Status: v=1; opened=openpgp;")):
			h.opened.Add(1)
		case header && bytes.HasPrefix(line, []byte("Content-Type: multipart/encrypted")):
			h.sealed.Add(1)
		}
	}
}

// sender is a session that says its envelope at once (RFC 2920). Mails are
// given as they travel: their lines end in CRLF, and none begins with a dot.
type sender struct {
	conn net.Conn
	in   *bufio.Reader
}

func openSender(server string) (*sender, error) {
	conn, err := net.DialTimeout("tcp", server, patience)
	if err != nil {
		return nil, err
	}
	s := &sender{conn, bufio.NewReader(conn)}
	if err = s.expect("220"); err == nil {
		err = s.say("250", "EHLO peer.example\r\n")
	}
	if err != nil {
		conn.Close()
	}
	return s, err
}

// begin says the envelope and the mail but for its end.
func (s *sender) begin(from, to string, mail ...[]byte) error {
	s.conn.SetDeadline(time.Now().Add(2 * patience))
	if _, err := fmt.Fprintf(s.conn, "MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n", from, to); err != nil {
		return err
	}
	for _, code := range []string{"250", "250", "354"} {
		if err := s.expect(code); err != nil {
			return err
		}
	}
	parts := net.Buffers(mail)
	_, err := parts.WriteTo(s.conn)
	return err
}

// end says the end of a mail, and hears what became of it.
func (s *sender) end() error { return s.say("250", ".\r\n") }

// send is begin and end in one.
func (s *sender) send(from, to string, mail ...[]byte) error {
	if err := s.begin(from, to, append(mail, []byte(".\r\n"))...); err != nil {
		return err
	}
	return s.expect("250")
}

func (s *sender) say(code, text string) error {
	if _, err := io.WriteString(s.conn, text); err != nil {
		return err
	}
	return s.expect(code)
}

// expect reads one reply.
func (s *sender) expect(code string) error {
	for {
		line, err := s.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) < 4 || string(line[:3]) != code {
			return fmt.Errorf("got %q, want %s", line, code)
		}
		if line[3] != '-' {
			return nil
		}
	}
}

func (s *sender) close() error { return errors.Join(s.say("221", "QUIT\r\n"), s.conn.Close()) }
