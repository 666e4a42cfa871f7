package filter

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"postern/filter/message"
	"postern/filter/policy"
)

// mayWrite judges who sends by the envelope (R27): on a listener where clients
// have to log in nobody else sends, and an account sends as itself. The null
// sender is everybody's: programs report with it that a mail was read (RFC 8098
// §3), and the author of such a report is asked for like any other.
func (p *passage) mayWrite() error {
	switch e := p.env; {
	case p.listener.Login && e.User == "":
		return fmt.Errorf("nobody has logged in on %q: %w", p.listener.Name, ErrPolicy)
	case e.User != "" && !e.Null && !e.Owns(e.From):
		return fmt.Errorf("account %q sends as %s: %w", e.User, e.From.Key(), ErrNotYours)
	}
	return nil
}

// submitted is what a mail of an account has to be before anything is signed:
// its one From, and its Sender where it has one, name addresses of the account.
// Then it gets the fields that a client may leave to its server (RFC 6409 §8.1,
// §8.3), and nothing else is changed.
func (g *Gateway) submitted(p *passage) error {
	if p.env.User == "" || p.listener.Direction != policy.Outbound {
		return nil
	}
	if !p.env.Owns(p.author) { // nor where there is none
		return fmt.Errorf("account %q writes as %q: %w", p.env.User, p.author.Key(), ErrNotYours)
	}
	for _, f := range p.msg.All("Sender") {
		value, err := p.msg.Value(f)
		if err != nil {
			return fmt.Errorf("read Sender: %w", err)
		}
		list, err := message.ParseFrom(value)
		if err != nil || len(list) != 1 || !p.env.Owns(list[0]) {
			return fmt.Errorf("account %q sends for another: %w", p.env.User, ErrNotYours)
		}
	}
	var first [1]byte
	if _, err := p.msg.Source.ReadAt(first[:], 0); err != nil {
		return fmt.Errorf("read mail: %w", err)
	}
	if first[0] == ' ' || first[0] == '\t' {
		return nil // it would continue what stands before it
	}
	var top []byte
	if p.msg.Count("Date") == 0 {
		top = append(top, message.FoldField("Date", p.at.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700"))...)
	}
	if p.msg.Count("Message-ID") == 0 {
		top = append(top, message.FoldField("Message-ID", "<"+strings.ToLower(rand.Text())+"@"+g.Name+">")...)
	}
	if top == nil {
		return nil
	}
	msg, err := message.Parse(&topped{top, p.msg.Source}, g.Limits)
	if err != nil {
		return fmt.Errorf("parse mail: %w", err)
	}
	if a, err := msg.Author(); err != nil || a != p.author {
		return fmt.Errorf("account %q writes as another: %w", p.env.User, ErrNotYours)
	}
	p.msg = msg
	return nil
}

// topped is a mail with fields before its own.
type topped struct {
	top  []byte
	rest message.Source
}

func (t *topped) Size() int64 { return int64(len(t.top)) + t.rest.Size() }

func (t *topped) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read mail at %d: before its beginning", off)
	}
	if size := int64(len(t.top)); off < size {
		n = copy(b, t.top[off:])
		if off += int64(n); off < size || n == len(b) {
			return n, nil
		}
	}
	m, err := t.rest.ReadAt(b[n:], off-int64(len(t.top)))
	if n += m; n == len(b) && err == io.EOF {
		err = nil
	}
	return n, err
}
