// Package socketmap is the protocol in which Postfix asks another program for
// an entry of a table (socketmap_table(5)): netstrings over a socket, "name
// key" there, and back a word and a text. Many questions follow each other on
// one connection.
//
// Nothing fails open: whoever can't answer says TEMP, and Postfix lets the
// mail wait. Only a table that knows an entry says OK, and only one that
// surely has none says NOTFOUND.
package socketmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The ways in which a question fails.
var (
	ErrProtocol = errors.New("socketmap protocol")
	ErrNotFound = errors.New("no entry")
	ErrTrouble  = errors.New("no answer now") // TEMP, TIMEOUT or PERM
	errTooMany  = errors.New("too many connections")
)

// Limits of what the other side may say. Postfix takes answers of up to
// 100,000 bytes; a name and a domain are much shorter than what we take.
const (
	maxQuestion = 1024
	maxAnswer   = 8192
	maxDigits   = 6
)

// Defaults of a Server.
const (
	defaultConns = 1024
	defaultIdle  = 10 * time.Minute
	// answerWithin is less than the 100 s that Postfix waits.
	answerWithin = 60 * time.Second
	writeWithin  = 10 * time.Second
	acceptAgain  = 100 * time.Millisecond
)

// Lookup answers one question: the entry of key in the table of that name. An
// error that wraps ErrNotFound means that there surely is none; of any other
// one Postfix hears that it should ask again.
type Lookup func(ctx context.Context, table, key string) (string, error)

// Server answers Postfix. Lookup is needed; the other zero fields mean their
// defaults.
type Server struct {
	Lookup   Lookup
	MaxConns int           // more are closed at once: 1024
	Idle     time.Duration // a connection without a question: 10 min
	Log      *slog.Logger
}

// Serve answers on l until ctx ends, and closes it. An error is why it ended
// before.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, positive(s.MaxConns, defaultConns))
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("take questions: %w", err)
		case err != nil: // out of files, or the like: it passes
			s.warn("take questions", err)
			select {
			case <-time.After(acceptAgain):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.warn("take questions", errTooMany)
			c.Close()
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := s.talk(ctx, c); err != nil && ctx.Err() == nil {
				s.warn("answer", err)
			}
		})
	}
}

func (s *Server) warn(what string, err error) {
	if s.Log != nil {
		s.Log.Warn("socketmap: "+what, "error", err.Error())
	}
}

func positive[T int | time.Duration](n, or T) T {
	if n > 0 {
		return n
	}
	return or
}

// talk answers the questions of one connection. What is no question ends it:
// behind such bytes nobody knows where the next one begins.
func (s *Server) talk(ctx context.Context, c net.Conn) error {
	in := bufio.NewReaderSize(c, maxQuestion+maxDigits+2)
	for {
		c.SetReadDeadline(time.Now().Add(positive(s.Idle, defaultIdle)))
		text, err := readNetstring(in, maxQuestion)
		var silent net.Error
		switch {
		case errors.Is(err, io.EOF), errors.As(err, &silent) && silent.Timeout():
			return nil
		case err != nil:
			return fmt.Errorf("read question: %w", err)
		}
		c.SetWriteDeadline(time.Now().Add(answerWithin + writeWithin))
		if _, err := c.Write(netstring(s.answer(ctx, text))); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}

// answer puts what Lookup says into the words of the protocol. Of an error
// Postfix hears no more than that there is one: its text stands in our log.
func (s *Server) answer(ctx context.Context, question string) (answer string) {
	defer func() {
		if v := recover(); v != nil {
			s.warn("look up", fmt.Errorf("panic: %T", v))
			answer = temp
		}
	}()
	table, key, ok := strings.Cut(question, " ")
	if !ok || table == "" || key == "" || !printable(question) {
		return temp
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	value, err := s.Lookup(ctx, table, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return "NOTFOUND "
	case err == nil && value != "" && len(value) <= maxAnswer && printable(value):
		return "OK " + value
	case err == nil:
		err = fmt.Errorf("entry of %d bytes that no answer can hold: %w", len(value), ErrProtocol)
	}
	s.warn("look up", fmt.Errorf("%q in %s: %w", key, table, err))
	return temp
}

// temp lets the mail wait.
const temp = "TEMP no answer now, the log of filterd says why"

// printable holds for what a word of a log or a table may be: no control
// characters, and UTF-8.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}

// Ask asks the table behind a Unix socket, as Postfix does. The error wraps
// ErrNotFound or ErrTrouble where the answer does.
func Ask(ctx context.Context, path, table, key string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", fmt.Errorf("ask socketmap: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
	if _, err := c.Write(netstring(table + " " + key)); err != nil {
		return "", fmt.Errorf("ask socketmap: %w", err)
	}
	answer, err := readNetstring(bufio.NewReader(c), maxAnswer+len("OK "))
	if err != nil {
		return "", fmt.Errorf("ask socketmap: %w", err)
	}
	word, text, _ := strings.Cut(answer, " ")
	switch word {
	case "OK":
		return text, nil
	case "NOTFOUND":
		return "", fmt.Errorf("ask socketmap: %q: %w", key, ErrNotFound)
	case "TEMP", "TIMEOUT", "PERM":
		return "", fmt.Errorf("ask socketmap: %q: %w: %s", key, ErrTrouble, text)
	}
	return "", fmt.Errorf("ask socketmap: answer %.20q: %w", word, ErrProtocol)
}
