// Package paper has mails made into PDFs with a password by a process of its own,
// the press, which is spoken to over a Unix socket: who parses what a mail holds,
// and writes a document of it, has no key, no network and no files. One
// connection carries one mail there and one document back (frame.go). What the
// press answers is bounded, and counts only when it came whole.
package paper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The ways in which there is no document.
var (
	ErrAway   = errors.New("press away")              // not reached, too slow, or not understood
	ErrTooBig = errors.New("mail too big for a PDF")  // for the press, or for the site
	errSource = errors.New("mail not readable")       // no fault of the press
	errSink   = errors.New("document not writable")   // nor this
	errBroken = errors.New("answer of another shape") // than frame.go has it
)

// Bounds on what is sent and taken, in bytes.
const (
	MaxMail = 64 << 20 // of one mail, whatever a site allows
	maxMore = 8 << 20  // by how much a document may be larger than its mail
)

// Job is one mail to make a document of.
type Job struct {
	Trace    string // names the mail
	Password string
	Size     int64 // bytes that Mail writes
	Mail     io.WriterTo
}

// Press makes documents. The error is ErrAway, ErrTooBig, or that of the mail as
// it was read, or of what the document is written to; then what was written is
// no document.
type Press interface {
	Print(ctx context.Context, j Job, document io.Writer) error
}

// maxAtOnce is how many mails a Client hands over at once. Further ones wait, as
// long as their own time lasts: the press takes eight, and turns away the others.
const maxAtOnce = 6

// Client is the press behind a socket. It must not be copied.
type Client struct {
	Socket  string        // absolute path
	Timeout time.Duration // for one mail
	MaxSize int64         // bytes of a mail

	once  sync.Once
	slots chan struct{}
}

// enter waits for a place.
func (c *Client) enter(ctx context.Context) error {
	c.once.Do(func() { c.slots = make(chan struct{}, maxAtOnce) })
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return away(errors.New("busy"))
	}
}

// Print hands j over and copies what comes back.
func (c *Client) Print(ctx context.Context, j Job, document io.Writer) error {
	if j.Size > min(c.MaxSize, MaxMail) {
		return fmt.Errorf("%d bytes: %w", j.Size, ErrTooBig)
	}
	within, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err := c.print(within, j, document)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause // nobody waits for the document any more
	}
	return err
}

func (c *Client) print(ctx context.Context, j Job, document io.Writer) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer func() { <-c.slots }()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return away(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	switch err := writeJob(conn, j); {
	case errors.Is(err, errSource):
		return err
	case err != nil: // it may have said why it does not read on
		if said := readAnswer(conn, io.Discard, 0); errors.Is(said, ErrTooBig) {
			return said
		}
		return away(err)
	}
	switch err := readAnswer(conn, document, j.Size*2+maxMore); {
	case err == nil, errors.Is(err, ErrTooBig), errors.Is(err, errSink):
		return err
	default:
		return away(err)
	}
}

// away is ErrAway with a cause in words only: a deadline that passed here is
// that of the press, and of nobody else.
func away(cause error) error { return fmt.Errorf("%w: %v", ErrAway, cause) }
