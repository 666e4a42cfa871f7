package access

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
)

// What a client may say in clear.
const (
	maxLine  = 512 // bytes, with CRLF
	maxLines = 20
)

// step is what follows a line.
type step uint8

const (
	stay step = iota
	begin
	quit
)

// Protocol is one that mail programs read mail by. What it says in clear holds
// nothing of what the client said, but for a tag that is a word.
type Protocol interface {
	hello(name string) string
	busy() string // there is no place
	away() string // the server is not to be had
	// answer judges one line of a client in clear, without its CRLF.
	answer(line string) (reply string, next step)
	// greeted says what is wrong with the first line of the server.
	greeted(line string) error
	// ask is what begins TLS with the server, and asked what its answers to
	// that are: done, or an error.
	ask() string
	asked(line string) (done bool, err error)
}

// The two of them.
var (
	IMAP Protocol = imap{}
	POP3 Protocol = pop3{}
)

// dialogue speaks with a client in clear until he asks for TLS. There is no
// way to log in here, and whatever was sent ahead of the handshake ends the
// session: it would be taken for something that was said inside of TLS.
func (s *Server) dialogue(c net.Conn) error {
	say := func(text string) error {
		_, err := c.Write([]byte(text))
		return err
	}
	if err := say(s.Protocol.hello(s.Name)); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, maxLine)
	for range maxLines {
		raw, err := r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read command: %w", err)
		}
		line, whole := strings.CutSuffix(string(raw), "\r\n")
		if !whole {
			return errCommand
		}
		reply, next := s.Protocol.answer(line)
		if next == begin && r.Buffered() > 0 {
			return errAhead
		}
		if err := say(reply); err != nil {
			return err
		}
		switch next {
		case begin:
			return nil
		case quit:
			return errQuit
		}
	}
	return errCommand
}

// imap is IMAP (RFC 9051, RFC 3501 before it).
type imap struct{}

const imapCapabilities = "IMAP4rev1 STARTTLS LOGINDISABLED"

func (imap) hello(name string) string { return "* OK " + name + " ready\r\n" }
func (imap) busy() string             { return "* BYE [LIMIT] too many connections\r\n" }
func (imap) away() string {
	return "* BYE [UNAVAILABLE] mail server not available, try again later\r\n"
}

func (imap) answer(line string) (string, step) {
	tag, rest, _ := strings.Cut(line, " ")
	command, arguments, more := strings.Cut(rest, " ")
	if !isTag(tag) {
		return "* BAD no tag\r\n", stay
	}
	bare := !more && arguments == ""
	switch command = strings.ToUpper(command); {
	case command == "CAPABILITY" && bare:
		return "* CAPABILITY " + imapCapabilities + "\r\n" + tag + " OK done\r\n", stay
	case command == "NOOP" && bare:
		return tag + " OK done\r\n", stay
	case command == "LOGOUT" && bare:
		return "* BYE good bye\r\n" + tag + " OK done\r\n", quit
	case command == "STARTTLS" && bare:
		return tag + " OK begin TLS now\r\n", begin
	case slices.Contains([]string{"LOGIN", "AUTHENTICATE"}, command): // RFC 5530 §3
		return tag + " NO [PRIVACYREQUIRED] begin TLS first\r\n", stay
	}
	return tag + " BAD not before TLS\r\n", stay
}

// isTag takes fewer tags than RFC 9051 §9, and all that clients have.
func isTag(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// greeted takes no server that has logged somebody in already (PREAUTH).
func (imap) greeted(line string) error {
	if !strings.HasPrefix(line, "* OK") {
		return fmt.Errorf("greeting %.80q", line)
	}
	return nil
}

func (imap) ask() string { return "P STARTTLS\r\n" }

func (imap) asked(line string) (bool, error) {
	switch {
	case strings.HasPrefix(line, "P OK"):
		return true, nil
	case strings.HasPrefix(line, "* "):
		return false, nil
	}
	return false, fmt.Errorf("STARTTLS: %.80q", line)
}

// pop3 is POP3 (RFC 1939, RFC 2449).
type pop3 struct{}

func (pop3) hello(name string) string { return "+OK " + name + " ready\r\n" }
func (pop3) busy() string             { return "-ERR [SYS/TEMP] too many connections\r\n" }
func (pop3) away() string {
	return "-ERR [SYS/TEMP] mail server not available, try again later\r\n"
}

func (pop3) answer(line string) (string, step) {
	command, _, more := strings.Cut(line, " ")
	switch command = strings.ToUpper(command); {
	case command == "CAPA" && !more:
		return "+OK\r\nSTLS\r\nRESP-CODES\r\n.\r\n", stay
	case command == "STLS" && !more:
		return "+OK begin TLS now\r\n", begin
	case command == "QUIT" && !more:
		return "+OK good bye\r\n", quit
	}
	return "-ERR not before TLS\r\n", stay
}

func (pop3) greeted(line string) error {
	if !strings.HasPrefix(line, "+OK") {
		return fmt.Errorf("greeting %.80q", line)
	}
	return nil
}

func (pop3) ask() string { return "STLS\r\n" }

func (pop3) asked(line string) (bool, error) {
	if !strings.HasPrefix(line, "+OK") {
		return false, fmt.Errorf("STLS: %.80q", line)
	}
	return true, nil
}
