package openpgp

import (
	"sync"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// TestShelf lets many mails of different times be judged by one certificate at
// once; run with -race.
func TestShelf(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example") // for a year
	sealed := seal(t, token, mail(t, crlf("From: bob@partner.example\nTo: b@b.example\nSubject: s\n\nhello\n")), &bob, bob.Cert)
	p := New(Config{Token: token})
	r := protect.OpenRequest{Message: sealed, Identities: []keyring.Identity{bob}, Certs: []keyring.Cert{bob.Cert}}
	var group sync.WaitGroup
	for range 8 {
		r := r
		r.NewSpool = spools(t)
		group.Go(func() {
			for _, c := range []struct {
				at   time.Time
				want string
			}{{now, protect.ReasonGood}, {now.AddDate(2, 0, 0), protect.ReasonExpired}, {now, protect.ReasonGood}} {
				r.At = c.at
				if _, f, err := p.Open(t.Context(), r); err != nil || f.Reason != c.want {
					t.Errorf("at %v: got %+v, %v, want %s", c.at, f, err, c.want)
				}
			}
		})
	}
	group.Wait()
	if p.shelf.count == 0 || p.shelf.count > 16 {
		t.Errorf("got %d certificates, want two for each that judged at once", p.shelf.count)
	}
}

func TestShelfOneHand(t *testing.T) {
	bob := newIdentity(t, soft(t), suites[3], "bob@partner.example")
	s := &shelf{}
	first, err := s.take(bob.Raw)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.take(bob.Raw)
	if err != nil || first == second {
		t.Fatalf("got the same certificate twice, %v", err)
	}
	if _, err := first.VerifyPrimaryKey(now, config); err != nil {
		t.Fatal(err)
	}
	bad := first.Subkeys[0].Bindings[0]
	bad.Valid = new(bool)
	s.give(first)
	again, err := s.take(bob.Raw)
	if err != nil || again != first {
		t.Fatalf("got another certificate than was put back, %v", err)
	}
	if bad.Valid != nil {
		t.Error("got a signature that stays bad, want it judged again")
	}
	good := 0
	for _, id := range again.Identities {
		for _, sig := range id.SelfCertifications {
			if sig.Valid != nil && *sig.Valid {
				good++
			}
		}
	}
	if good != 1 {
		t.Errorf("got %d good signatures, want the one that was verified", good)
	}
	if _, err := s.take([]byte("no certificate")); err == nil {
		t.Error("got a certificate out of nothing")
	}
}

func TestShelfIsBounded(t *testing.T) {
	bob := newIdentity(t, soft(t), suites[3], "bob@partner.example")
	c, err := new(shelf).take(bob.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, maxShelvedBytes / 10, maxShelvedBytes + 1} {
		s := &shelf{}
		for i := range 2 * maxShelved {
			other := *c
			other.name[0], other.name[1], other.size = byte(i), byte(i/100), size
			s.give(&other)
		}
		count, bytes := 0, 0
		for _, list := range s.free {
			for _, c := range list {
				count, bytes = count+1, bytes+c.size
			}
		}
		if count != s.count || bytes != s.size || count > maxShelved || bytes > maxShelvedBytes {
			t.Errorf("size %d: got %d certificates of %d bytes, counted %d and %d", size, count, bytes, s.count, s.size)
		}
	}
}
