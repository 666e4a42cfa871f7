package trial

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"postern/filter/message"
	"postern/filter/transport"
)

// Sink is a next hop that keeps what arrives as a Maildir, one file for each
// mail, with the envelope in two fields on top (Return-Path, Delivered-To).
type Sink struct {
	dir    string
	server *transport.Server
	done   chan error
}

// OpenSink makes the Maildir at dir and serves l until Close.
func OpenSink(dir string, l net.Listener) (*Sink, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make maildir: %w", err)
		}
	}
	s := &Sink{dir: dir, done: make(chan error, 1)}
	s.server = &transport.Server{Name: "sink.localhost", Handler: s}
	go func() { s.done <- s.server.Serve(l) }()
	return s, nil
}

// Dir is the folder new mails appear in.
func (s *Sink) Dir() string { return filepath.Join(s.dir, "new") }

// Close ends every session.
func (s *Sink) Close() error {
	err := s.server.Close()
	<-s.done
	return err
}

// Sender takes everybody.
func (s *Sink) Sender(context.Context, *transport.Envelope) error { return nil }

// Recipient takes everybody.
func (s *Sink) Recipient(context.Context, *transport.Envelope, transport.Recipient) error { return nil }

// Data keeps one mail. It is on disk before the answer is given.
func (s *Sink) Data(_ context.Context, e *transport.Envelope, body io.Reader) []transport.Reply {
	if err := s.keep(e, body); err != nil {
		return []transport.Reply{s.Refuse(e, err)}
	}
	return []transport.Reply{{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "kept"}}
}

// Refuse puts every trouble off.
func (s *Sink) Refuse(*transport.Envelope, error) transport.Reply {
	return transport.Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "not kept"}
}

func (s *Sink) keep(e *transport.Envelope, body io.Reader) (err error) {
	name := strconv.FormatInt(time.Now().UnixMicro(), 10) + "." + rand.Text()[:8] + ".localhost"
	tmp := filepath.Join(s.dir, "tmp", name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	from := ""
	if !e.Null {
		from = e.From.String()
	}
	_, err = f.Write(message.FoldField("Return-Path", "<"+from+">"))
	for _, r := range e.Recipients {
		if err == nil {
			_, err = f.Write(message.FoldField("Delivered-To", r.Address.String()))
		}
	}
	if err == nil {
		_, err = io.Copy(f, body)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.dir, "new", name))
}
