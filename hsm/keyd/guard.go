package keyd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"postern/hsm"
	"postern/hsm/internal/folder"
)

// Budget bounds what anybody can do with one key. The zero value means the
// defaults; a negative number means no bound.
//
// Failures are unwraps that came to nothing (implicit rejection). They are
// counted for each key over a sliding Window, in ten steps. A key that used
// up Failures refuses unwraps with hsm.ErrBudget until enough of them left
// the window, which is at most one Window after the last; signing goes on.
// Meanwhile one unwrap for every Trickle is let through, so that an attacker
// who never stops cannot shut good mail out for ever: a mail that is
// offered again gets its turn.
//
// Long before that they are counted for each key and origin (hsm.WithOrigin),
// over the same window. An origin that used up OriginFailures is no more
// refused than before: it gets invented session keys, as it did for its
// failures, in about the time of an operation, and the token is not asked. A
// refusal would tell whoever counts which of his probes had failed, and good
// mail of others would wait. Where no origin is known there is no such count.
type Budget struct {
	Failures       int           // for each Window; default 2000
	OriginFailures int           // of one origin with one key, for each Window; default 50
	Window         time.Duration // default 1 h
	Trickle        time.Duration // default 1 s
	Rate           int           // operations per second with one key; default 1000
	Burst          int           // operations at once above the rate; default 5000
}

func (b Budget) withDefaults() Budget {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&b.Failures, 2000)
	set(&b.OriginFailures, 50)
	set(&b.Rate, 1000)
	set(&b.Burst, 5000)
	if b.Window <= 0 {
		b.Window = time.Hour
	}
	if b.Trickle == 0 {
		b.Trickle = time.Second
	}
	return b
}

// steps is the number of parts of a window that are forgotten one by one.
const steps = 10

// guard remembers for each key whether it is retired and how often it failed.
// Both outlive the process: the retired keys at once, the counters within a
// second (those of origins within originsRest), written by flush and never in the path of an operation, where the
// time of a write would tell a failure from a success.
type guard struct {
	budget Budget
	dir    string // "" keeps nothing
	now    func() time.Time

	mu       sync.Mutex
	retired  map[hsm.KeyID]bool
	tallies  map[hsm.KeyID]*tally
	dirty    bool
	suspects suspects
}

// fails are numbers of failures, by number of the step since 1970.
type fails map[int64]int

type tally struct {
	fails   fails
	tokens  float64
	filled  time.Time
	trickle time.Time
	alarmed bool
	took    time.Duration // the last unwrap, with its wait for a worker; 0: none yet
}

const (
	retiredFile  = "retired"
	failuresFile = "failures"
)

func newGuard(b Budget, dir string, now func() time.Time) (*guard, error) {
	g := &guard{budget: b.withDefaults(), dir: dir, now: now, retired: map[hsm.KeyID]bool{}, tallies: map[hsm.KeyID]*tally{}, suspects: newSuspects()}
	err := readLines(dir, retiredFile, func(line string) error {
		id, err := hsm.ParseKeyID(line)
		g.retired[id] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	err = readLines(dir, failuresFile, func(line string) error {
		var name string
		var step int64
		var n int
		if _, err := fmt.Sscanf(line, "%64s %d %d", &name, &step, &n); err != nil || n < 0 {
			return fmt.Errorf("got %.100q, want key id, step and number", line)
		}
		id, err := hsm.ParseKeyID(name)
		if err == nil {
			g.tally(id).fails[step] += n
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, g.readOrigins()
}

func (g *guard) tally(id hsm.KeyID) *tally {
	t := g.tallies[id]
	if t == nil {
		t = &tally{fails: fails{}, tokens: float64(g.budget.Burst), filled: g.now()}
		g.tallies[id] = t
	}
	return t
}

func (g *guard) step(t time.Time) int64 { return t.UnixNano() / int64(g.budget.Window/steps) }

// failures counts those still in the window and forgets the others.
func (g *guard) failures(f fails) int {
	now := g.step(g.now())
	sum, ahead := 0, 0
	for s, n := range f {
		switch {
		case s <= now-steps:
			delete(f, s)
		case s > now: // the clock was set back: they count from now, not until then
			delete(f, s)
			ahead += n
		default:
			sum += n
		}
	}
	if ahead > 0 {
		f[now] += ahead
	}
	return sum + ahead
}

// admit takes one operation off the rate of a key; an unwrap also needs what
// is left of the failure budget. The error is hsm.ErrBudget.
func (g *guard) admit(id hsm.KeyID, u hsm.Usage) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, now := g.tally(id), g.now()
	if g.budget.Rate > 0 {
		t.tokens = min(t.tokens+max(0, now.Sub(t.filled).Seconds())*float64(g.budget.Rate), float64(max(1, g.budget.Burst)))
		t.filled = now
		if t.tokens < 1 {
			return fmt.Errorf("rate of %d operations per second: %w", g.budget.Rate, hsm.ErrBudget)
		}
	}
	if u == hsm.Unwrap && g.budget.Failures >= 0 && g.failures(t.fails) >= g.budget.Failures {
		if since := now.Sub(t.trickle); g.budget.Trickle < 0 || since >= 0 && since < g.budget.Trickle {
			return fmt.Errorf("%d failures in %v: %w", g.budget.Failures, g.budget.Window, hsm.ErrBudget)
		}
		t.trickle = now
	}
	t.tokens--
	return nil
}

// count notes the outcome of an unwrap: failed is 1 or 0. It reports whether
// the budget of the key has just come to its end. The entry of an origin costs
// less than a microsecond, and nobody sees it OriginFailures times in a window.
func (g *guard) count(id hsm.KeyID, origin string, failed int, took time.Duration) (alarm bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, step := g.tally(id), g.step(g.now())
	t.took = took
	t.fails[step] += failed
	g.dirty = g.dirty || failed != 0
	if failed != 0 && origin != "" && g.budget.OriginFailures >= 0 {
		g.suspects.add(pair{id, origin}, step, failed)
	}
	over := g.budget.Failures >= 0 && g.failures(t.fails) >= g.budget.Failures
	alarm = over && !t.alarmed
	t.alarmed = over
	return alarm
}

// isRetired reports whether the key signs no more.
func (g *guard) isRetired(id hsm.KeyID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.retired[id]
}

// retire ends signing with a key; it is on disk when retire returns.
func (g *guard) retire(id hsm.KeyID) error { return g.setRetired(id, true) }

// forget drops what is known of a key that is gone.
func (g *guard) forget(id hsm.KeyID) error {
	g.mu.Lock()
	delete(g.tallies, id)
	g.dirty = true
	g.suspects.keep(func(s *suspect) bool { return s.id != id })
	g.mu.Unlock()
	return g.setRetired(id, false)
}

func (g *guard) setRetired(id hsm.KeyID, v bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retired[id] == v {
		return nil
	}
	var b bytes.Buffer
	for other := range g.retired {
		if other != id {
			fmt.Fprintln(&b, other)
		}
	}
	if v {
		fmt.Fprintln(&b, id)
	}
	if err := folder.Write(g.dir, retiredFile, b.Bytes()); err != nil {
		return err
	}
	if v {
		g.retired[id] = true
	} else {
		delete(g.retired, id)
	}
	return nil
}

// flushKeys writes the counters of keys if they changed.
func (g *guard) flushKeys() error {
	g.mu.Lock()
	if !g.dirty {
		g.mu.Unlock()
		return nil
	}
	var b bytes.Buffer
	for id, t := range g.tallies {
		g.failures(t.fails)
		for s, n := range t.fails {
			if n > 0 {
				fmt.Fprintf(&b, "%s %d %d\n", id, s, n)
			}
		}
	}
	g.dirty = false
	g.mu.Unlock()
	if err := folder.Write(g.dir, failuresFile, b.Bytes()); err != nil {
		g.mu.Lock()
		g.dirty = true
		g.mu.Unlock()
		return err
	}
	return nil
}

// readLines hands each line of a state file to each; no file is no line.
func readLines(dir, name string, each func(string) error) error {
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; s.Scan(); n++ {
		if err := each(s.Text()); err != nil {
			return fmt.Errorf("read state %s line %d: %w", path, n, err)
		}
	}
	return s.Err()
}
