// Package directory looks for certificates of strangers where such are
// published: web key directories, key servers, LDAP, the DNS. What it finds is
// trusted no more than its source allows: a certificate is used on the word of a
// source that is believed by itself, on that of a validated DNS answer, or where
// two sources give the same one; otherwise an operator is asked. Sources that
// contradict each other are believed by nobody.
//
// All that comes is hostile: bounded in size, number and time. A look-up costs a
// mail its budget at most; what comes later is there for the next.
package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
)

// ErrAway is a source that did not answer, or not so that it could be read.
var ErrAway = errors.New("directory not available")

// Bounds of what one source gives for an address.
const (
	maxAnswer = 256 << 10 // bytes
	maxCerts  = 8
	maxHeld   = 4096 // addresses that are remembered
	maxAsked  = 128  // look-ups of one source at once
	longest   = 30 * time.Second
)

// Directory is one source.
type Directory interface {
	// Name tells it from all others in logs and in the keyring.
	Name() string
	// Lookup gives what is published for a. No certificate and no error: there
	// is none.
	Lookup(ctx context.Context, a message.Address) (Answer, error)
}

// Answer is what one source gives.
type Answer struct {
	Certs  []keyring.Cert
	Secure bool // the DNS answer that it came in was validated
	// Home: the owner of the address's domain says so. His word is enough for a
	// certificate of the domain as a whole, which names postmaster or, as RFC 3183 has it,
	// domain-confidentiality-authority there.
	Home bool
	// Open: anybody may have put it there. Sources that are all open do not agree:
	// one person can fill them all.
	Open bool
	// Mute: it contradicts nobody.
	Mute bool
}

// Trust says when what a source gives is used.
type Trust string

const (
	Alone  Trust = "alone"  // on its own word: a directory of the site
	DNSSEC Trust = "dnssec" // where its answer was validated
	Agree  Trust = "agree"  // where another source gives the same certificate
	Never  Trust = "never"  // it counts for no other source either: for an operator to see
)

// Source is a directory and what it is worth.
type Source struct {
	Directory
	Trust Trust
}

// Config is what a Finder works by. Zero values work, but for Sources.
type Config struct {
	Sources []Source      // those that come first are named first
	Budget  time.Duration // how long one mail waits at most: 5 s
	Keep    time.Duration // how long an answer counts: 12 h
	Again   time.Duration // after how long a source is asked again that had nothing: 1 h
	Retry   time.Duration // the same of one that was away: 1 min
	Now     func() time.Time
}

// Finder asks all sources and weighs what they say. It is safe for concurrent use.
type Finder struct {
	Config
	mutex sync.Mutex
	held  map[string]*entry // by address
	turns []chan struct{}   // of each source: a slow one keeps no other from answering
}

// entry is what is known of one address.
type entry struct {
	said []said // as Sources
	used time.Time
}

// said is what one source answered.
type said struct {
	Answer
	err    error
	until  time.Time
	flight chan struct{} // open: it is being asked
}

// New gives a Finder.
func New(c Config) *Finder {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Budget, 5 * time.Second}, {&c.Keep, 12 * time.Hour}, {&c.Again, time.Hour}, {&c.Retry, time.Minute}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	f := &Finder{Config: c, held: map[string]*entry{}}
	for range c.Sources {
		f.turns = append(f.turns, make(chan struct{}, maxAsked))
	}
	return f
}

// Found is one certificate, who gave it, and what follows.
type Found struct {
	keyring.Cert
	By  []string // sources, as they are configured
	Use bool     // it may be sealed to without asking anybody
	Why string   // in words for operators
}

// Result is what is known of an address when the budget is spent.
type Result struct {
	Found []Found
	Away  []string // sources that might know more, and did not answer
}

// Known gives what is known of a now, and begins to ask for the rest.
func (f *Finder) Known(ctx context.Context, a message.Address) Result {
	f.begin(ctx, a)
	return f.known(a)
}

// Find asks for all of them at once, and waits for the budget at most. That a
// source is away is no error; the result says so. Its keys are those of the
// addresses.
func (f *Finder) Find(ctx context.Context, list []message.Address) map[string]Result {
	ctx, cancel := context.WithTimeout(ctx, f.Budget)
	defer cancel()
	var flights []chan struct{}
	for _, a := range list {
		flights = append(flights, f.begin(ctx, a)...)
	}
	for _, flight := range flights {
		select {
		case <-flight:
		case <-ctx.Done():
		}
	}
	all := map[string]Result{}
	for _, a := range list {
		all[a.Key()] = f.known(a)
	}
	return all
}

func (f *Finder) known(a message.Address) (r Result) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	e := f.held[a.Key()]
	if e == nil { // others needed the room
		e = &entry{said: make([]said, len(f.Sources))}
	}
	var all []witness
	for i, s := range f.Sources {
		one := e.said[i]
		if one.err != nil || one.until.IsZero() {
			r.Away = append(r.Away, s.Name())
			continue
		}
		all = append(all, witness{s, one.Answer})
	}
	r.Found = weigh(all)
	return r
}

// begin starts to ask every source whose answer does not count any more, and
// gives what is to be waited for. Nobody's look-up ends with the mail that
// asked: its answer is there for the next.
func (f *Finder) begin(ctx context.Context, a message.Address) (flights []chan struct{}) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	now, key := f.Now(), a.Key()
	e := f.held[key]
	if e == nil {
		f.room()
		e = &entry{said: make([]said, len(f.Sources))}
		f.held[key] = e
	}
	e.used = now
	for i := range f.Sources {
		one := &e.said[i]
		switch {
		case one.flight != nil:
		case now.Before(one.until):
			continue
		default:
			one.flight = make(chan struct{})
			go f.ask(context.WithoutCancel(ctx), i, a, one)
		}
		flights = append(flights, one.flight)
	}
	return flights
}

// room forgets whom nobody has asked for the longest time, where there are too many.
func (f *Finder) room() {
	for len(f.held) >= maxHeld {
		oldest := ""
		for key, e := range f.held {
			if oldest == "" || e.used.Before(f.held[oldest].used) {
				oldest = key
			}
		}
		delete(f.held, oldest)
	}
}

// ask asks one source once.
func (f *Finder) ask(ctx context.Context, i int, a message.Address, one *said) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var answer Answer
	var err error
	select {
	case f.turns[i] <- struct{}{}:
		answer, err = lookup(ctx, f.Sources[i], a)
		<-f.turns[i]
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrAway, ctx.Err())
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	keep := f.Keep
	switch {
	case err != nil:
		keep = f.Retry
	case len(answer.Certs) == 0:
		keep = f.Again
	}
	close(one.flight)
	*one = said{Answer: answer, err: err, until: f.Now().Add(keep)}
}

// lookup survives what a certificate does to its reader.
func lookup(ctx context.Context, s Source, a message.Address) (answer Answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			answer, err = Answer{}, fmt.Errorf("panic: %T: %w", v, ErrAway)
		}
	}()
	if answer, err = s.Lookup(ctx, a); err != nil {
		return Answer{}, fmt.Errorf("ask %s for %s: %w: %w", s.Name(), a.Key(), ErrAway, err)
	}
	answer.Certs = slices.DeleteFunc(slices.Clone(answer.Certs), func(c keyring.Cert) bool { return !serves(c, a, answer.Home) })
	if len(answer.Certs) > maxCerts {
		return Answer{}, fmt.Errorf("ask %s for %s: %d certificates, more than %d: %w", s.Name(), a.Key(), len(answer.Certs), maxCerts, ErrAway)
	}
	for i := range answer.Certs {
		c := &answer.Certs[i]
		c.Trust, c.Role, c.Domains, c.Source = keyring.Seen, keyring.Holder, nil, s.Name()
		c.Addresses = []message.Address{a}
	}
	return answer, nil
}

// whole are the local parts that the certificate of a domain as a whole has: what
// everybody uses, and what RFC 3183 §4 wants.
var whole = []string{"postmaster", "domain-confidentiality-authority"}

// serves reports whether a certificate is one for a: it names him, or it is that
// of his domain as a whole and the owner of the domain has said so.
func serves(c keyring.Cert, a message.Address, home bool) bool {
	return c.Role == keyring.Holder && slices.ContainsFunc(c.Addresses, func(b message.Address) bool {
		return b.Key() == a.Key() || home && strings.EqualFold(b.Domain, a.Domain) && slices.ContainsFunc(whole, func(local string) bool { return strings.EqualFold(b.Local, local) })
	})
}
