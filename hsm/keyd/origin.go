package keyd

import (
	"bytes"
	linked "container/list"
	"errors"
	"fmt"
	"time"

	"postern/hsm"
	"postern/hsm/internal/folder"
)

const (
	originsFile = "origins"

	// maxPairs is how many pairs of key and origin are remembered, a few
	// megabytes. Whoever has so many addresses that his own are forgotten still
	// meets the budget of the key, which is counted apart.
	maxPairs = 10_000

	// originsRest is the least time between two writes of the pairs: they may
	// be a megabyte, and a crash may lose that little.
	originsRest = 10 * time.Second

	// What an operation takes where none was seen since the start, and the most
	// that somebody waits who gets none.
	usualTook = 20 * time.Millisecond
	maxTook   = 100 * time.Millisecond
)

// pair is one sender at one key.
type pair struct {
	id     hsm.KeyID
	origin string
}

// suspect is a pair that failed.
type suspect struct {
	pair
	fails   fails
	alarmed time.Time
}

// suspects are the pairs that failed within the window, at most maxPairs: who
// fails anew, or is turned away, is remembered longest. A good mail makes no
// entry. guard.mu is held for all of it.
type suspects struct {
	order   *linked.List // of *suspect, the one to forget first in front
	at      map[pair]*linked.Element
	dirty   bool
	written time.Time
}

func newSuspects() suspects { return suspects{order: linked.New(), at: map[pair]*linked.Element{}} }

// add notes n failures.
func (ss *suspects) add(p pair, step int64, n int) {
	e := ss.at[p]
	if e == nil {
		e = ss.order.PushBack(&suspect{pair: p, fails: fails{}})
		ss.at[p] = e
	}
	ss.order.MoveToBack(e)
	e.Value.(*suspect).fails[step] += n
	ss.dirty = true
	if ss.order.Len() > maxPairs {
		ss.drop(ss.order.Front())
	}
}

func (ss *suspects) drop(e *linked.Element) {
	delete(ss.at, e.Value.(*suspect).pair)
	ss.order.Remove(e)
	ss.dirty = true
}

// keep drops those that f does not want.
func (ss *suspects) keep(f func(*suspect) bool) {
	for e := ss.order.Front(); e != nil; {
		next := e.Next()
		if !f(e.Value.(*suspect)) {
			ss.drop(e)
		}
		e = next
	}
}

// limited reports whether an origin used up its failures with a key, and
// whether to tell: once in a window for an origin, whatever the keys.
func (g *guard) limited(id hsm.KeyID, origin string) (over, alarm bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.suspects.at[pair{id, origin}]
	if e == nil || g.budget.OriginFailures < 0 {
		return false, false
	}
	s := e.Value.(*suspect)
	if g.failures(s.fails) < g.budget.OriginFailures {
		return false, false
	}
	g.suspects.order.MoveToBack(e)
	now := g.now()
	recent := func(t time.Time) bool { return now.Sub(t) >= 0 && now.Sub(t) < g.budget.Window }
	if recent(s.alarmed) { // the usual case, without a look at all pairs
		return true, false
	}
	alarm = true
	for e := g.suspects.order.Front(); e != nil; e = e.Next() {
		if other := e.Value.(*suspect); other.origin == origin && recent(other.alarmed) {
			s.alarmed, alarm = other.alarmed, false
		}
	}
	if alarm {
		s.alarmed = now
	}
	return true, alarm
}

// took is about how long an unwrap with the key takes, for those who must not
// see that theirs was not done.
func (g *guard) took(id hsm.KeyID) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tallies[id]; t != nil && t.took > 0 {
		return min(t.took, maxTook)
	}
	return usualTook
}

// readOrigins reads what flushOrigins wrote.
func (g *guard) readOrigins() error {
	return readLines(g.dir, originsFile, func(line string) error {
		var p pair
		var name string
		var step int64
		var n int
		if _, err := fmt.Sscanf(line, "%64s %64s %d %d", &name, &p.origin, &step, &n); err != nil || n < 0 {
			return fmt.Errorf("got %.200q, want key id, origin, step and number", line)
		}
		var err error
		if p.id, err = hsm.ParseKeyID(name); err == nil {
			g.suspects.add(p, step, n)
		}
		return err
	})
}

// flushOrigins writes the pairs if they changed, and not too soon after the
// last time unless it is the last.
func (g *guard) flushOrigins(last bool) error {
	g.mu.Lock()
	ss, now := &g.suspects, g.now()
	if since := now.Sub(ss.written); !ss.dirty || !last && since >= 0 && since < originsRest {
		g.mu.Unlock()
		return nil
	}
	ss.keep(func(s *suspect) bool { return g.failures(s.fails) > 0 })
	var b bytes.Buffer
	for e := ss.order.Front(); e != nil; e = e.Next() {
		s := e.Value.(*suspect)
		for step, n := range s.fails {
			fmt.Fprintf(&b, "%s %s %d %d\n", s.id, s.origin, step, n)
		}
	}
	ss.dirty, ss.written = false, now
	g.mu.Unlock()
	if err := folder.Write(g.dir, originsFile, b.Bytes()); err != nil {
		g.mu.Lock()
		ss.dirty = true
		g.mu.Unlock()
		return err
	}
	return nil
}

// flush writes the counters if they changed; last is for the end.
func (g *guard) flush(last bool) error {
	return errors.Join(g.flushKeys(), g.flushOrigins(last))
}
