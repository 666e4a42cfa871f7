package filter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
)

// Joiners says of a domain who is noted at his first mail, for an operator's run
// of enrol to make keys for him. filterd makes none, and cannot.
type Joiners string

const (
	NoJoiners      Joiners = "off"
	JoinersSend    Joiners = "senders" // who sends
	JoinersReceive Joiners = "all"     // who gets mail, too
)

// How many joiners are noted in an hour. What is more is let go: whoever is there
// has another mail. Strangers can write to any address that the next hop takes;
// who sends is one of ours.
const (
	joinersWhoGet  = 20
	joinersWhoSend = 200
)

// joiner is an address of ours with a mail that is through.
type joiner struct{ record.Joiner }

// quota counts what happens within an hour.
type quota struct {
	mutex sync.Mutex
	since time.Time
	n     int
}

// left reports whether there is one of most left, and takes it.
func (q *quota) left(now time.Time, most int) bool {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if q.since.IsZero() || now.Sub(q.since) >= time.Hour || now.Before(q.since) {
		q.since, q.n = now, 0
	}
	if q.n >= most {
		return false
	}
	q.n++
	return true
}

// joiners notes, behind a mail that is through, who of ours had it: its author,
// where he has logged in or his network may send here; or whoever the next hop
// has taken it for. Nobody can be noted by a name that he made up: an address that
// the next hop does not take is none, nor is a sub-address, of which everybody has
// as many as others like to write to. What has no sender counts for nobody.
func (g *Gateway) joiners(p *passage) {
	if len(g.Joiners) == 0 || g.Record == nil || p.supposed {
		return
	}
	note := func(a message.Address, sends bool) {
		g.lessons.put(g, lesson{trace: p.env.Trace, joiner: &joiner{record.Joiner{Address: a, Sends: sends, At: p.at}}})
	}
	if p.listener.Direction == policy.Outbound {
		if known := p.env.User != "" || len(p.listener.Allow) > 0; known && g.joins(p.author, true) {
			note(p.author, true)
		}
		return
	}
	if p.env.Null {
		return
	}
	for _, r := range p.env.Recipients[:min(len(p.env.Recipients), maxPerMail)] {
		if o := p.outcomes[r.Address]; o != nil && o.err == nil && !o.earlier && g.joins(r.Address, false) {
			note(r.Address, false)
		}
	}
}

// joins reports whether somebody is noted, should he have no certificate.
func (g *Gateway) joins(a message.Address, sends bool) bool {
	switch g.Joiners[strings.ToLower(a.Domain)] {
	case JoinersReceive:
	case JoinersSend:
		if !sends {
			return false
		}
	default:
		return false
	}
	return !a.IsZero() && g.Policy.Ours(a.Domain) && !strings.ContainsRune(a.Local, '+')
}

// join writes down who has no certificate of his own, and forgets who has one
// by now.
func (g *Gateway) join(ctx context.Context, l lesson) error {
	j := l.joiner
	ids, err := g.KeyRing.Identities(ctx, j.Address)
	if err != nil {
		return fmt.Errorf("look up %s: %w", j.Address.Key(), err)
	}
	if slices.ContainsFunc(ids, func(i keyring.Identity) bool { return i.Domain == "" }) {
		return g.Record.Joined(ctx, j.Address)
	}
	known, err := g.Record.Joins(ctx, j.Address, j.Sends)
	if err != nil || known {
		return err
	}
	of, most := &g.noted[0], joinersWhoGet
	if j.Sends {
		of, most = &g.noted[1], joinersWhoSend
	}
	if !of.left(g.Now(), most) {
		return fmt.Errorf("more than %d in an hour", most)
	}
	if err := g.Record.Join(ctx, j.Joiner); err != nil {
		return err
	}
	g.Log.LogAttrs(ctx, slog.LevelInfo, "joiner", slog.String("trace", l.trace), l.about(), slog.Bool("sends", j.Sends))
	return nil
}
