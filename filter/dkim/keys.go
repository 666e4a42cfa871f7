package dkim

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"

	"postern/hsm"
	"postern/hsm/client"
)

// Selector is a token key as DNS names it. The label of the key says it all:
// dkim/DOMAIN/SELECTOR. A selector that begins with a day, as 20261201-rsa,
// signs from that day on (UTC), so that its record stands in DNS before; others
// sign at once. Of the keys of one algorithm the newest that has begun signs, so
// the token itself is the plan of a rotation, for every box that has its keys.
type Selector struct {
	Domain string // in A-labels
	Name   string
	From   time.Time // zero: at once
	Key    hsm.Key
}

// State is where a selector stands in its life.
type State string

// The states of a selector.
const (
	Coming  State = "coming"  // published, and signs from its day on
	Signing State = "signing" // the newest of its algorithm
	Going   State = "going"   // signs no more; mail of it is still on its way
	Retired State = "retired" // to be taken out of DNS
)

// day is the form of the date in a selector.
const day = "20060102"

// Dated is the selector of a key that signs from a day on.
func Dated(from time.Time, a hsm.Algorithm) string {
	word := "rsa"
	if a == hsm.Ed25519 {
		word = "ed25519"
	}
	return from.UTC().Format(day) + "-" + word
}

// Label is what a key of DKIM is called in the token.
func Label(domain, selector string) (string, error) {
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return "", fmt.Errorf("name DKIM key of %.80q: %w", domain, err)
	}
	return "dkim/" + strings.ToLower(ascii) + "/" + selector, nil
}

// Selectors are those of all keys for DKIM, by domain, and the newest first.
func Selectors(keys []hsm.Key) (list []Selector) {
	for _, k := range keys {
		parts := strings.Split(k.Label, "/")
		if len(parts) != 3 || parts[0] != "dkim" || k.Usage != hsm.Sign || algorithm(k.Public) == "" {
			continue
		}
		domain, ok := host(parts[1], 1)
		name, ok2 := host(parts[2], 1)
		if !ok || !ok2 {
			continue
		}
		s := Selector{Domain: domain, Name: name, Key: k}
		if len(name) >= len(day) {
			if from, err := time.Parse(day, name[:len(day)]); err == nil {
				s.From = from
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Selector) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), b.From.Compare(a.From), compareNames(b.Name, a.Name))
	})
	return list
}

// compareNames puts sign-10 behind sign-9: a successor has the greater number.
func compareNames(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// StateOf is the state of s among all selectors.
func (s Selector) StateOf(all []Selector, at time.Time) State {
	switch {
	case s.Key.Retired:
		return Retired
	case s.From.After(at):
		return Coming
	}
	for _, o := range all { // the newest is the first
		if o.Domain == s.Domain && algorithm(o.Key.Public) == algorithm(s.Key.Public) && !o.Key.Retired && !o.From.After(at) {
			if o.Name == s.Name {
				return Signing
			}
			return Going
		}
	}
	return Going
}

// listFor is how long a list of the token's keys is believed. A key that was
// made since signs no later than that; one that was retired is refused by the
// token, and then asked for anew.
const listFor = 10 * time.Second

// Ring has the signing keys of domains from a token.
type Ring struct {
	Token hsm.Token

	mu    sync.Mutex
	list  []Selector
	until time.Time
}

// Keys are those that sign for a domain, one of each algorithm that it has, RSA
// first. Where there is none the error is hsm.ErrNoKey: a mail that is to be
// signed is never left unsigned.
func (r *Ring) Keys(ctx context.Context, domain string, at time.Time) ([]Key, error) {
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return nil, fmt.Errorf("keys of %.80q: %w", domain, err)
	}
	all, err := r.selectors(ctx)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var keys []Key
	for _, s := range all {
		if !strings.EqualFold(s.Domain, ascii) || s.StateOf(all, at) != Signing {
			continue
		}
		signer, err := client.Signer(ctx, r.Token, s.Key)
		if err != nil {
			return nil, err
		}
		k, err := NewKey(s.Domain, s.Name, signer)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if keys == nil {
		return nil, fmt.Errorf("no DKIM key of %s: %w", ascii, hsm.ErrNoKey)
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Compare(order(a), order(b)) })
	return keys, nil
}

func order(k Key) int {
	if _, ok := k.Signer.Public().(ed25519.PublicKey); ok {
		return 1
	}
	return 0
}

// Stale forgets the list of keys after an error of one of them that says that
// the list is old.
func (r *Ring) Stale(err error) {
	if errors.Is(err, hsm.ErrNoKey) || errors.Is(err, hsm.ErrRefused) {
		r.mu.Lock()
		r.until = time.Time{}
		r.mu.Unlock()
	}
}

func (r *Ring) selectors(ctx context.Context) ([]Selector, error) {
	r.mu.Lock()
	list, fresh := r.list, time.Now().Before(r.until)
	r.mu.Unlock()
	if fresh {
		return list, nil
	}
	keys, err := r.Token.Keys(ctx)
	if err != nil {
		return nil, err
	}
	list = Selectors(keys)
	r.mu.Lock()
	r.list, r.until = list, time.Now().Add(listFor)
	r.mu.Unlock()
	return list, nil
}
