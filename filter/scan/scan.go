// Package scan asks other programs whether a mail holds something malicious:
// clamd by its INSTREAM command (clamd.go), rspamd over HTTP (rspamd.go). A mail
// is handed over as a stream; nothing of it is kept here. What a scanner answers
// is hostile input: it is bounded, and only words of ours and harmless
// characters of it get any further.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// The ways in which there is no verdict.
var (
	ErrAway   = errors.New("scanner away")                         // not reached, too slow, or not understood
	ErrTooBig = errors.New("mail bigger than the scanner takes")   // of a scanner
	errSource = errors.New("mail not readable while it was given") // no fault of the scanner
)

// Mail is what a scanner is told of one.
type Mail struct {
	Trace    string
	Outbound bool
	Client   netip.Addr // who gave it to us; not valid: not known
	Hello    string
	User     string // that has logged in
	From     string // "": the null sender
	To       []string
	Size     int64 // bytes that Body writes
	Body     io.WriterTo
}

// Verdict is what becomes of a mail; the larger one counts.
type Verdict uint8

const (
	Clean Verdict = iota
	Mark          // delivered, and marked
	Defer         // not now
	Reject
)

// Answer is what one scanner says.
type Answer struct {
	Verdict Verdict
	Found   []string // names of what it found, each one word
	Score   string   // "6.1/15.0", or ""
	Fields  []Field  // that it wants on the mail, of those that may
	Skipped bool     // by its own rules it did not look
}

// Field is one of a header.
type Field struct{ Name, Value string }

// Scanner is one program. The error is ErrAway, ErrTooBig, or that of the mail
// as it was read.
type Scanner interface {
	Name() string
	Scan(ctx context.Context, m Mail) (Answer, error)
	// Alive asks for a sign of life, which costs nobody a scan.
	Alive(ctx context.Context) error
}

// Post is a scanner and what the site wants of it.
type Post struct {
	Scanner
	Inbound, Outbound bool // which mail it sees
	Timeout           time.Duration
	MaxSize           int64 // bytes
	PassBig           bool  // what is bigger passes, and is not scanned; else it is refused
	PassAway          bool  // mail passes, not scanned, while the scanner is away; else it waits
}

// sees tells whether the scanner looks at mail of a direction.
func (p Post) sees(outbound bool) bool {
	return outbound && p.Outbound || !outbound && p.Inbound
}

// Desk asks one scanner after the other.
type Desk struct {
	Posts  []Post
	Budget time.Duration // for one mail, all scanners and all that is opened of it
	Fields []string      // that scanners may put on a mail
	Log    *slog.Logger

	mutex   sync.Mutex
	outages []*outage // as Posts
}

// Result is what all scanners together say of one text.
type Result struct {
	Verdict Verdict
	Whole   bool     // every one that was to look at it did
	By      []string // those that did
	Against string   // the one whose verdict it is, where that is none of Clean
	Found   []string
	Score   string
	Fields  []Field
	Missing string // why not whole: "away", "too-big" or "skipped"
}

// Asks tells whether anybody looks at mail of that direction.
func (d *Desk) Asks(outbound bool) bool {
	if d == nil {
		return false
	}
	for _, p := range d.Posts {
		if p.sees(outbound) {
			return true
		}
	}
	return false
}

// Writes tells whether a scanner may put a field of that name on a mail: what
// came with that name is not its word.
func (d *Desk) Writes(name string) bool {
	return d != nil && slices.ContainsFunc(d.Fields, func(f string) bool { return strings.EqualFold(f, strings.TrimSpace(name)) })
}

// Ask asks all scanners for the direction of m, until one refuses it. The
// error is ErrAway or ErrTooBig, where the site does not let the mail pass so,
// or that of the mail as it was read.
func (d *Desk) Ask(ctx context.Context, m Mail) (Result, error) {
	r := Result{Whole: true}
	for i, p := range d.Posts {
		if !p.sees(m.Outbound) {
			continue
		}
		a, err := d.ask(ctx, i, m)
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
			return r, cause // nobody waits for the answer any more
		}
		pass := false
		switch {
		case errors.Is(err, ErrTooBig):
			pass = p.PassBig
			r.miss("too-big")
		case errors.Is(err, ErrAway):
			pass = p.PassAway
			r.miss("away")
			d.Log.WarnContext(ctx, "scanner", "trace", m.Trace, "scanner", p.Name(), "error", err.Error())
		}
		if err != nil && !pass {
			return r, fmt.Errorf("ask %s: %w", p.Name(), err)
		}
		if err != nil {
			continue
		}
		if r.add(p.Name(), a); r.Verdict == Reject {
			break
		}
	}
	return r, nil
}

func tooBig(m Mail) error { return fmt.Errorf("%d bytes: %w", m.Size, ErrTooBig) }

func (r *Result) miss(why string) { r.Whole, r.Missing = false, why }

func (r *Result) add(name string, a Answer) {
	if a.Skipped {
		r.miss("skipped")
		return
	}
	r.By = append(r.By, name)
	r.Found = append(r.Found, a.Found...)
	r.Fields = append(r.Fields, a.Fields...)
	if a.Score != "" {
		r.Score = a.Score
	}
	if a.Verdict > r.Verdict {
		r.Verdict, r.Against = a.Verdict, name
	}
}

// away is ErrAway with a cause in words only: a deadline that passed here is
// that of the scanner, and of nobody else.
func away(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrAway, fmt.Sprintf(format, args...))
}

// dial connects to an absolute path or to host:port.
func dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// maxWord is how long a name of a scanner may be, in bytes.
const maxWord = 80

// word is a text of a scanner as one word of a header or a line of the log.
func word(s string) string {
	if len(s) > maxWord {
		s = s[:maxWord]
	}
	s = strings.Map(func(r rune) rune {
		if 'a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("._-/:+", r) {
			return r
		}
		return '_'
	}, s)
	if s == "" {
		return "unnamed"
	}
	return s
}

// source tells trouble with the mail from trouble with who reads it.
type source struct{ from io.WriterTo }

// guarded remembers the errors of a writer.
type guarded struct {
	to  io.Writer
	err error
}

func (g *guarded) Write(b []byte) (int, error) {
	n, err := g.to.Write(b)
	if err != nil {
		g.err = err
	}
	return n, err
}

// WriteTo writes the mail. An error of w comes back bare, one of the mail with errSource.
func (s source) WriteTo(w io.Writer) (int64, error) {
	g := &guarded{to: w}
	n, err := s.from.WriteTo(g)
	if err != nil && g.err == nil {
		err = fmt.Errorf("%w: %w", errSource, err)
	}
	return n, err
}
