package keyring

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"postern/filter/message"
)

// readers are a store that writes and one that reads the same file.
func readers(t testing.TB) (w, r *Store) {
	t.Helper()
	w, path := open(t)
	r, err := OpenReadOnly(path)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return w, r
}

// TestCacheSeesChanges asks the same questions before and after every kind of
// change: an answer that was right once must not be given again.
func TestCacheSeesChanges(t *testing.T) {
	w, r := readers(t)
	ctx := t.Context()
	a, d := address(t, "a@one.example"), address(t, "any@two.example")
	c := cert(t, "AA", "a@one.example")
	last := ""
	for _, step := range []struct {
		name                string
		change              func() error
		certs, of, identity int // for a, for d, of ours for d
		trust               Trust
	}{
		{"nothing yet", func() error { return nil }, 0, 0, 0, ""},
		{"add", func() error { return w.Import(ctx, c) }, 1, 0, 0, Trusted},
		{"distrust", func() error { return w.SetTrust(ctx, c.Fingerprint, Distrusted) }, 1, 0, 0, Distrusted},
		{"serve a domain", func() error { return w.SetDomains(ctx, c.Fingerprint, []string{"two.example"}) }, 1, 1, 0, Distrusted},
		{"add an identity", func() error { return w.Bind(ctx, Identity{Cert: cert(t, "BB"), Domain: "two.example"}) }, 1, 1, 1, Distrusted},
		{"remove", func() error { return w.Remove(ctx, c.Fingerprint) }, 0, 0, 1, ""},
	} {
		must(t, step.change())
		state, err := r.State(ctx)
		must(t, err)
		if again, err := r.State(ctx); err != nil || again != state || state == last {
			t.Errorf("%s: got state %q, then %q, %v; before the change it was %q", step.name, state, again, err, last)
		}
		last = state
		for range 2 { // from the file, and from memory
			certs, err := r.Certs(ctx, a)
			must(t, err)
			of, err := r.Certs(ctx, d)
			must(t, err)
			ours, err := r.Identities(ctx, d)
			must(t, err)
			if len(certs) != step.certs || len(of) != step.of || len(ours) != step.identity {
				t.Errorf("%s: got %d certificates, %d of the domain, %d identities, want %d, %d, %d", step.name, len(certs), len(of), len(ours), step.certs, step.of, step.identity)
			}
			if len(certs) > 0 && certs[0].Trust != step.trust {
				t.Errorf("%s: got trust %q, want %q", step.name, certs[0].Trust, step.trust)
			}
		}
	}
}

// TestCacheOnce asks in the context of one mail what it has asked before, and
// what it has not: a change in between is for the next mail.
func TestCacheOnce(t *testing.T) {
	w, r := readers(t)
	a, other := address(t, "a@one.example"), address(t, "b@one.example")
	must(t, w.Import(t.Context(), cert(t, "AA", "a@one.example")))
	first := Once(t.Context())
	state, err := r.State(first)
	must(t, err)
	begin, err := strconv.Atoi(state)
	must(t, err)
	for _, step := range []struct {
		name           string
		ctx            context.Context
		a              message.Address
		change         string // the certificate of a that is imported before
		certs, changes int    // changes: how many were seen since the first mail
	}{
		{"first mail", first, a, "", 1, 0},
		{"the same after a change", first, a, "BB", 1, 0},
		{"another question, as it is now", first, other, "", 0, 0},
		{"next mail", Once(t.Context()), a, "", 2, 1},
		{"first mail again, which may know more", first, a, "", 2, 1},
		{"no mail", t.Context(), a, "CC", 3, 2},
	} {
		if step.change != "" {
			must(t, w.Import(t.Context(), cert(t, step.change, "a@one.example")))
		}
		certs, err := r.Certs(step.ctx, step.a)
		must(t, err)
		if len(certs) != step.certs {
			t.Errorf("%s: got %d certificates, want %d", step.name, len(certs), step.certs)
		}
		if got, err := r.State(step.ctx); err != nil || got != fmt.Sprint(begin+step.changes) {
			t.Errorf("%s: got state %q, %v, want %d", step.name, got, err, begin+step.changes)
		}
	}
}

// TestCacheTogether reads while another writes: every reader must see, at
// least, what was committed before it asked.
func TestCacheTogether(t *testing.T) {
	w, r := readers(t)
	ctx := t.Context()
	const commits, askers = 50, 4
	a := address(t, "a@one.example")
	done := make(chan int, commits) // how many certificates are committed
	var group sync.WaitGroup
	for range askers {
		group.Go(func() {
			for n := range done {
				certs, err := r.Certs(ctx, a)
				if err != nil || len(certs) < n {
					t.Errorf("got %d certificates and error %v, want %d at least", len(certs), err, n)
				}
			}
		})
	}
	for n := range commits {
		must(t, w.Import(ctx, cert(t, fmt.Sprintf("%02X", n+1), "a@one.example")))
		done <- n + 1
	}
	close(done)
	group.Wait()
}

// TestCacheRace holds that an answer which was loaded before a change is not
// kept after it.
func TestCacheRace(t *testing.T) {
	w, r := readers(t)
	ctx := t.Context()
	a := address(t, "a@one.example")
	db, err := r.open()
	must(t, err)
	_, err = r.cache.answer(ctx, db, about(partners, a), func() (answer, error) {
		old, err := r.certs(ctx, "WHERE 0")
		must(t, err)
		must(t, w.Import(ctx, cert(t, "AA", "a@one.example")))
		_, err = r.Certs(ctx, address(t, "b@one.example")) // another asker sees the change first
		must(t, err)
		return answer{certs: old}, nil
	})
	must(t, err)
	certs, err := r.Certs(ctx, a)
	if err != nil || len(certs) != 1 {
		t.Errorf("got %d certificates and error %v, want 1", len(certs), err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	_, r := readers(t)
	ctx := t.Context()
	_, err := r.Certs(ctx, address(t, "a@one.example"))
	must(t, err)
	c := &r.cache
	for i := range 2*maxCached + 1 {
		c.keep(c.epoch, about(partners, message.Address{Local: fmt.Sprint(i), Domain: "many.example"}), answer{})
	}
	if len(c.answers) > maxCached {
		t.Errorf("got %d answers, want %d at most", len(c.answers), maxCached)
	}
	big := answer{certs: []Cert{{Raw: make([]byte, maxRaw)}}}
	for i := range 3 * maxCachedBytes / maxRaw {
		c.keep(c.epoch, about(ours, message.Address{Local: fmt.Sprint(i), Domain: "big.example"}), big)
	}
	size := 0
	for _, a := range c.answers {
		size += a.bytes()
	}
	if size != c.size || size > maxCachedBytes || size == 0 {
		t.Errorf("got %d bytes, counted %d, want %d at most", size, c.size, maxCachedBytes)
	}
	c.keep(c.epoch, about(ours, message.Address{Local: "x", Domain: "big.example"}), answer{certs: slices.Repeat(big.certs, maxCachedBytes/maxRaw+1)})
	if c.size > maxCachedBytes {
		t.Errorf("got %d bytes, want %d at most", c.size, maxCachedBytes)
	}
}

// TestCacheIsNotShared changes the list that was given out.
func TestCacheIsNotShared(t *testing.T) {
	w, r := readers(t)
	ctx := t.Context()
	a := address(t, "a@one.example")
	must(t, w.Import(ctx, cert(t, "AA", "a@one.example")))
	for range 3 {
		certs, err := r.Certs(ctx, a)
		must(t, err)
		if len(certs) != 1 || certs[0].Trust != Trusted {
			t.Fatalf("got %v, want one trusted certificate", certs)
		}
		certs[0].Trust = Distrusted
	}
}
