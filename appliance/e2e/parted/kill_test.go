package parted

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
	"postern/filter/transport"
)

// A daemon that is killed when the next hop has one copy, and not yet the other,
// sends only the other one when the mail comes back: nobody has it twice (R36).
func TestKillBetweenCopies(t *testing.T) {
	reached, release := make(chan bool, 1), make(chan struct{})
	var once sync.Once
	o := &office{}
	o.data = func(to []string) (refused *transport.Reply) {
		if to[0] == carol {
			once.Do(func() {
				reached <- true
				<-release // the daemon that would hear of it is gone
				refused = &transport.Reply{Code: 451, Text: "nobody waits for it"}
			})
		}
		return refused
	}
	b := box(t, trial.Config{NextHop: o.open(t)})
	to, text := []string{bob, carol}, mail("between@company1.example")
	done := make(chan outcome, 1)
	go func() { done <- send(b.Inside, to, text) }()
	select {
	case <-reached:
	case <-time.After(2 * housetest.Patience):
		t.Fatal("the second copy does not come")
	}
	b.Filterd.Kill()
	if got := <-done; got.code != 0 {
		t.Errorf("got %+v, want a connection that breaks", got)
	}
	close(release)
	if got := o.count("between@company1.example"); got[bob] != 1 || got[carol] != 0 {
		t.Fatalf("before the daemon is back: got %v, want Bob's copy only", got)
	}
	if err := b.StartFilterd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := eventually(t, b.Inside, to, text); got.code != 250 {
		t.Errorf("again: got %+v, want 250", got)
	}
	if got, want := o.count("between@company1.example"), map[string]int{bob: 1, carol: 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, l := range o.got() {
		if l.to[0] == bob && strings.Contains(l.text, "secret of") {
			t.Errorf("Bob's copy left in clear:\n%s", l.text)
		}
	}
}

// The same between an archive and the recipient: the archive has its copy first,
// and none a second time; nobody has a mail that is in no archive.
func TestKillBehindAnArchive(t *testing.T) {
	reached, release := make(chan bool, 2), make(chan struct{})
	var once sync.Once
	o := &office{}
	o.data = func(to []string) (refused *transport.Reply) {
		if to[0] == bob {
			once.Do(func() {
				reached <- true
				<-release
				refused = &transport.Reply{Code: 451, Text: "nobody waits for it"}
			})
		}
		return refused
	}
	cert, fingerprint := certificate(t, vault)
	b := box(t, trial.Config{NextHop: o.open(t), DomainFields: fmt.Sprintf("archive = %q", vault),
		FilterdTables: fmt.Sprintf("[archive.%q]\ncerts = [%q]\nwhen = [\"outbound\"]\n", vault, fingerprint)})
	know(t, b, cert)
	has := func() map[string]int {
		n := map[string]int{}
		for _, l := range o.got() {
			n[l.to[0]]++
			if l.to[0] == vault && l.from != "" || strings.Contains(l.text, "secret of") {
				t.Errorf("%v got from %q\n%s\nwant a sealed copy, and the archive's from nobody", l.to, l.from, l.text)
			}
		}
		return n
	}
	text := mail("archived@company1.example")
	done := make(chan outcome, 1)
	go func() { done <- send(b.Inside, []string{bob}, text) }()
	select {
	case <-reached:
	case got := <-done:
		t.Fatalf("got %+v before Bob's copy came", got)
	case <-time.After(2 * housetest.Patience):
		t.Fatal("Bob's copy does not come")
	}
	b.Filterd.Kill()
	if got := <-done; got.code != 0 {
		t.Errorf("got %+v, want a connection that breaks", got)
	}
	close(release)
	if got, want := has(), map[string]int{vault: 1}; !maps.Equal(got, want) {
		t.Fatalf("before the daemon is back: got %v, want %v", got, want)
	}
	if err := b.StartFilterd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := eventually(t, b.Inside, []string{bob}, text); got.code != 250 {
		t.Errorf("again: got %+v, want 250", got)
	}
	if got, want := has(), map[string]int{vault: 1, bob: 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Where the next hop refuses one of two for good, the sender hears of exactly
// that one when he comes back, over a crash of the daemon too.
func TestRefusedOne(t *testing.T) {
	o := &office{recipient: func(to string) error {
		if to == dave {
			return transport.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "no such user"}
		}
		return nil
	}}
	b := box(t, trial.Config{NextHop: o.open(t)})
	to, text := []string{bob, carol, dave}, mail("refused@company1.example")
	if got := send(b.Inside, to, text); got.code != 451 || len(got.refused) > 0 {
		t.Errorf("first try: got %+v, want 451 after the mail", got)
	}
	b.Filterd.Kill()
	if err := b.StartFilterd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := send(b.Inside, to, text); got.code != 250 || fmt.Sprint(got.refused) != "["+dave+" 550]" {
		t.Errorf("second try: got %+v, want Dave refused at RCPT, and 250", got)
	}
	if got, want := o.count("refused@company1.example"), map[string]int{bob: 1, carol: 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	housetest.Eventually(t, housetest.Patience, func() (bool, string) { // it is written behind the mail
		out, err := b.Postern(t.Context(), nil, "trace", "<refused@company1.example>")
		return err == nil && strings.Contains(string(out), "settled in an earlier try") && strings.Contains(string(out), "550 5.1.1 no such user"), fmt.Sprintf("postern trace: got %v\n%s", err, out)
	})
}

// Mails to several recipients, whose copies are deferred by chance, while the
// daemon is killed again and again: everybody has his copy in the end, and
// nobody more of them than the connections that broke leave open (R36).
func TestKillWhileCopiesPart(t *testing.T) {
	const mails = 60
	o := &office{data: func(to []string) *transport.Reply {
		if rand.IntN(3) == 0 {
			return &transport.Reply{Code: 451, Enhanced: [3]int{4, 2, 1}, Text: "not now"}
		}
		return nil
	}}
	b := box(t, trial.Config{NextHop: o.open(t)})
	to := []string{bob, carol, dave}
	id := func(i int) string { return fmt.Sprintf("%d@parted.example", i) }
	broken := make([]int, mails)
	queue := make(chan int)
	var group sync.WaitGroup
	finished := make(chan struct{}, mails)
	end := time.Now().Add(4 * housetest.Patience)
	for range 4 {
		group.Go(func() {
			for i := range queue {
				for time.Now().Before(end) {
					got := send(b.Inside, to, mail(id(i)))
					if got.code == 250 {
						break
					}
					if got.code == 0 {
						broken[i]++
					}
					<-time.After(20 * time.Millisecond) // as a mail server waits before it comes back
				}
				finished <- struct{}{}
			}
		})
	}
	go func() {
		defer close(queue)
		for i := range mails {
			queue <- i
		}
	}()
	for range 3 {
		for range mails / 4 {
			<-finished
		}
		b.Filterd.Kill()
		if err := b.StartFilterd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	group.Wait()
	for i := range mails {
		got := o.count(id(i))
		for _, a := range to {
			if got[a] < 1 || got[a] > 1+broken[i] {
				t.Errorf("%s: %s has %d copies, want 1, or %d at most", id(i), a, got[a], 1+broken[i])
			}
		}
	}
}
