package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
)

var bob = message.Address{Local: "bob", Domain: "partner.example"}

func cert(name string, format keyring.Format, of ...message.Address) keyring.Cert {
	if of == nil {
		of = []message.Address{bob}
	}
	return keyring.Cert{Format: format, Fingerprint: name, Addresses: of, Trust: keyring.Trusted}
}

// source answers as it is told, and counts how often it is asked.
type source struct {
	name  string
	give  func(ctx context.Context) (Answer, error)
	asked atomic.Int64
}

func (s *source) Name() string { return s.name }

func (s *source) Lookup(ctx context.Context, _ message.Address) (Answer, error) {
	s.asked.Add(1)
	return s.give(ctx)
}

func says(name string, a Answer, err error) *source {
	return &source{name: name, give: func(context.Context) (Answer, error) { return a, err }}
}

func words(r Result) (list []string) {
	for _, f := range r.Found {
		use := "ask"
		if f.Use {
			use = "use"
		}
		list = append(list, use+" "+f.Fingerprint+" by "+strings.Join(f.By, ","))
	}
	for _, a := range r.Away {
		list = append(list, "away "+a)
	}
	return list
}

// What is found is worth what its sources are worth (R16), and nothing where they
// contradict each other.
func TestWeigh(t *testing.T) {
	a, b, x := cert("A", keyring.OpenPGP), cert("B", keyring.OpenPGP), cert("X", keyring.SMIME)
	postmaster := cert("D", keyring.OpenPGP, message.Address{Local: "Postmaster", Domain: "Partner.Example"})
	confidential := cert("E", keyring.SMIME, message.Address{Local: "domain-confidentiality-authority", Domain: "partner.example"})
	other := cert("O", keyring.OpenPGP, message.Address{Local: "mallory", Domain: "partner.example"})
	authority := cert("C", keyring.SMIME)
	authority.Role = keyring.Anchor
	one := func(secure bool, certs ...keyring.Cert) Answer { return Answer{Certs: certs, Secure: secure} }
	home := func(secure bool, certs ...keyring.Cert) Answer {
		return Answer{Certs: certs, Secure: secure, Home: true}
	}
	open := func(certs ...keyring.Cert) Answer { return Answer{Certs: certs, Open: true} }
	mute := func(certs ...keyring.Cert) Answer { return Answer{Certs: certs, Open: true, Mute: true} }
	for _, c := range []struct {
		name    string
		sources []Source
		want    []string
	}{
		{"nobody has any", []Source{{says("wkd", Answer{}, nil), Agree}}, nil},
		{"one source alone", []Source{{says("wkd", one(false, a), nil), Agree}}, []string{"ask A by wkd"}},
		{"two agree", []Source{{says("wkd", one(false, a), nil), Agree}, {says("vks", one(false, a), nil), Agree}}, []string{"use A by wkd,vks"}},
		{"two contradict each other", []Source{{says("wkd", one(false, a), nil), Agree}, {says("vks", one(false, b), nil), Agree}}, []string{"ask A by wkd", "ask B by vks"}},
		{"one of two formats contradicts nobody", []Source{{says("wkd", one(false, a), nil), Agree}, {says("smimea", one(true, x), nil), DNSSEC}}, []string{"ask A by wkd", "use X by smimea"}},
		{"validated", []Source{{says("openpgpkey", one(true, a), nil), DNSSEC}}, []string{"use A by openpgpkey"}},
		{"not validated", []Source{{says("openpgpkey", one(false, a), nil), DNSSEC}}, []string{"ask A by openpgpkey"}},
		{"validated, and another source has another one", []Source{{says("openpgpkey", one(true, a), nil), DNSSEC}, {says("wkd", one(false, b), nil), Agree}}, []string{"ask A by openpgpkey", "ask B by wkd"}},
		{"not validated, and another source has the same", []Source{{says("openpgpkey", one(false, a), nil), DNSSEC}, {says("wkd", one(false, a), nil), Agree}}, []string{"use A by openpgpkey,wkd"}},
		{"the site's own", []Source{{says("ldap", one(false, a), nil), Alone}}, []string{"use A by ldap"}},
		{"the site's own, and the Internet has another one", []Source{{says("ldap", one(false, a), nil), Alone}, {says("wkd", one(false, b), nil), Agree}}, []string{"ask A by ldap", "ask B by wkd"}},
		{"one that never counts makes no two", []Source{{says("wkd", one(false, a), nil), Agree}, {says("hkps", one(false, a), nil), Never}}, []string{"ask A by wkd,hkps"}},
		{"one that never counts is no objection", []Source{{says("openpgpkey", one(true, a), nil), DNSSEC}, {says("hkps", one(false, b), nil), Never}}, []string{"use A by openpgpkey", "ask B by hkps"}},
		{"two of one source, of which another has one", []Source{{says("wkd", one(false, a, b), nil), Agree}, {says("vks", one(false, b), nil), Agree}}, []string{"ask A by wkd", "use B by wkd,vks"}},
		{"the domain's, said by the domain", []Source{{says("openpgpkey", home(true, postmaster), nil), DNSSEC}}, []string{"use D by openpgpkey"}},
		{"the domain's, as RFC 3183 names it", []Source{{says("smimea", home(true, confidential), nil), DNSSEC}}, []string{"use E by smimea"}},
		{"the domain's, said by somebody else", []Source{{says("vks", one(false, postmaster), nil), Alone}}, nil},
		{"of somebody else", []Source{{says("openpgpkey", home(true, other), nil), DNSSEC}}, nil},
		{"of an authority", []Source{{says("smimea", home(true, authority), nil), DNSSEC}}, nil},
		{"two that anybody can fill", []Source{{says("hkps", open(a), nil), Agree}, {says("autocrypt", mute(a), nil), Agree}}, []string{"ask A by hkps,autocrypt"}},
		{"one that anybody can fill, and one that not", []Source{{says("wkd", one(false, a), nil), Agree}, {says("autocrypt", mute(a), nil), Agree}}, []string{"use A by wkd,autocrypt"}},
		{"one that is mute contradicts nobody", []Source{{says("openpgpkey", one(true, a), nil), DNSSEC}, {says("autocrypt", mute(b), nil), Agree}}, []string{"use A by openpgpkey", "ask B by autocrypt"}},
		{"what a mail brought, alone", []Source{{says("autocrypt", mute(a), nil), Agree}}, []string{"ask A by autocrypt"}},
		{"one is away", []Source{{says("wkd", one(false, a), nil), Agree}, {says("vks", Answer{}, errors.New("no")), Agree}}, []string{"ask A by wkd", "away vks"}},
		{"too many", []Source{{says("wkd", one(false, slices.Repeat([]keyring.Cert{a}, maxCerts+1)...), nil), Alone}}, []string{"away wkd"}},
		{"a reader that panics", []Source{{&source{name: "wkd", give: func(context.Context) (Answer, error) { panic("x") }}, Alone}}, []string{"away wkd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New(Config{Sources: c.sources}).Find(t.Context(), []message.Address{bob})[bob.Key()]
			if got := words(r); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for _, f := range r.Found {
				if f.Trust != keyring.Seen || f.Source == "" || f.Why == "" || len(f.Domains) > 0 {
					t.Errorf("%s: got trust %q, source %q, why %q, want seen, and both said", f.Fingerprint, f.Trust, f.Source, f.Why)
				}
			}
		})
	}
}

// A mail waits for its budget, whatever its sources and however many its
// recipients; what comes later is there for the next. Answers count for their
// time, empty ones and troubles for less.
func TestBudgetAndCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &source{name: "slow", give: func(ctx context.Context) (Answer, error) {
			select {
			case <-time.After(20 * time.Second):
				return Answer{Certs: []keyring.Cert{cert("S", keyring.OpenPGP)}}, nil
			case <-ctx.Done():
				return Answer{}, ctx.Err()
			}
		}}
		dead := &source{name: "dead", give: func(ctx context.Context) (Answer, error) { <-ctx.Done(); return Answer{}, ctx.Err() }}
		fast, empty, away := says("fast", Answer{Certs: []keyring.Cert{cert("S", keyring.OpenPGP)}}, nil), says("empty", Answer{}, nil), says("away", Answer{}, errors.New("no"))
		f := New(Config{Sources: []Source{{slow, Agree}, {fast, Agree}, {empty, Agree}, {away, Agree}, {dead, Agree}}})
		var many []message.Address
		for i := range 100 {
			many = append(many, message.Address{Local: fmt.Sprint("x", i), Domain: "partner.example"})
		}
		began := time.Now()
		if got, want := words(f.Known(t.Context(), bob)), []string{"away slow", "away fast", "away empty", "away away", "away dead"}; !slices.Equal(got, want) {
			t.Errorf("at once: got %q, want %q", got, want)
		}
		got := words(f.Find(t.Context(), append(many, bob))[bob.Key()])
		if want := []string{"ask S by fast", "away slow", "away away", "away dead"}; !slices.Equal(got, want) || time.Since(began) != 5*time.Second {
			t.Errorf("within the budget: got %q after %v, want %q after 5s", got, time.Since(began), want)
		}
		time.Sleep(2 * time.Minute)
		f.Known(t.Context(), bob)
		synctest.Wait()
		if got, want := words(f.Known(t.Context(), bob)), []string{"use S by slow,fast", "away away", "away dead"}; !slices.Equal(got, want) {
			t.Errorf("later: got %q, want %q", got, want)
		}
		for _, c := range []struct {
			s    *source
			want int64
		}{{fast, 1 + 100}, {empty, 1 + 100}} {
			if n := c.s.asked.Load(); n != c.want {
				t.Errorf("%s: got asked %d times, want %d", c.s.name, n, c.want)
			}
		}
		before := away.asked.Load()
		time.Sleep(time.Hour)
		f.Find(t.Context(), []message.Address{bob})
		if got := []int64{fast.asked.Load() - 101, empty.asked.Load() - 101, away.asked.Load() - before}; got[0] != 0 || got[1] != 1 || got[2] != 1 {
			t.Errorf("after an hour: got %v more questions, want 0, 1 and 1", got)
		}
		time.Sleep(12 * time.Hour)
		f.Find(t.Context(), []message.Address{bob})
		if n := fast.asked.Load(); n != 102 {
			t.Errorf("after 13 hours: got asked %d times, want 102", n)
		}
		time.Sleep(time.Hour) // what is asked ends by itself
	})
}

// Whoever makes others ask for ever more addresses costs bounded memory.
func TestRoom(t *testing.T) {
	f := New(Config{Sources: []Source{{says("wkd", Answer{}, nil), Agree}}})
	var all []message.Address
	for i := range maxHeld + 100 {
		all = append(all, message.Address{Local: fmt.Sprint("x", i), Domain: "partner.example"})
	}
	f.Find(t.Context(), all)
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if len(f.held) > maxHeld {
		t.Errorf("got %d addresses, want %d at most", len(f.held), maxHeld)
	}
}
