package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
)

var (
	mailsFlag = flag.Int("mails", 0, "mails of TestKillAll; 10000, with -short 1000")
	seedFlag  = flag.Uint64("seed", 0, "which moments TestKillAll takes; by default others each time")
)

// senders is how many clients TestKillAll has at once.
const senders = 20

// queue is a Postfix as it is rendered for a gateway, which brings all that it
// takes to a mail server.
func queue(t testing.TB, server string) *postfixtest.Postfix {
	t.Helper()
	c := postfixtest.Config(t)
	c.Domains, c.Inside = []string{"partner.example"}, postfix.Inside{Address: server, TLS: "off"}
	c.Warn, c.Retry, c.RetryMax = time.Hour, time.Second, time.Second
	c.Own = []netip.Addr{}
	return postfixtest.Start(t, c)
}

// victim is what is killed, and how it comes back.
type victim struct {
	name        string
	kill, start func()
}

// killer kills one victim after the other while a storm goes on, each when so
// many mails were taken as chance has it, and brings it back when enough
// clients have felt it, or all wait for it.
type killer struct {
	storm   *storm
	random  *rand.Rand
	victims []victim
	killed  map[string]int
}

func (k *killer) run(t *testing.T, mails int, done <-chan struct{}) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	until := func(enough func() bool) bool {
		for !enough() {
			select {
			case <-done:
				return false
			case <-tick.C:
			}
		}
		return true
	}
	// Eight rounds: each victim dies once in every one.
	step := mails / (9 * len(k.victims))
	for range 8 {
		for _, i := range k.random.Perm(len(k.victims)) {
			v := k.victims[i]
			mark := k.storm.accepted.Load() + int64(1+k.random.IntN(2*step))
			if !until(func() bool { return k.storm.accepted.Load() >= mark }) {
				return
			}
			felt := func() int64 { return k.storm.deferred.Load() + k.storm.broken.Load() }
			mark = felt() + int64(1+k.random.IntN(senders))
			v.kill()
			k.killed[v.name]++
			died := time.Now()
			until(func() bool { return felt() >= mark || time.Since(died) > 500*time.Millisecond })
			v.start()
		}
	}
}

// Everything that a mail passes through is killed again and again, at random,
// while twenty clients send (R36): mail daemon, key daemon, Postfix, and the
// mail server behind. What was answered 250 has arrived; it arrived twice only
// where an answer got lost, on the way to the client, to the gateway or to
// Postfix; and nothing that is to be sealed is in clear.
//
// The clients are ours, which know what became of every mail: smtp-source ends
// at its first lost connection. It runs beside as often as it ends.
func TestKillAll(t *testing.T) {
	mails := 10000
	if testing.Short() {
		mails = 1000
	}
	if *mailsFlag > 0 {
		mails = *mailsFlag
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)

	sink := openKeeper(t)
	outgoing := queue(t, sink.address)
	b := open(t, trial.Config{NextHop: sink.address})
	(&company{Box: b}).reconfigure(t, "[next-hop.outbound]\naddress = \""+sink.address+"\"", "[next-hop.outbound]\naddress = \""+outgoing.Listen+"\"")
	c := correspond(t, b)
	all := posts(c, b, mails)

	s := &storm{clients: senders}
	must := func(f func(context.Context) error) func() {
		return func() {
			if err := f(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	k := &killer{storm: s, random: rand.New(rand.NewPCG(seed, 0)), killed: map[string]int{}, victims: []victim{
		{"filterd", func() { b.Filterd.Kill() }, must(b.StartFilterd)},
		{"keyd", func() { b.Keyd.Kill() }, must(b.StartKeyd)},
		{"Postfix", outgoing.Kill, outgoing.Run},
		{"sink", sink.kill, func() { sink.start(t) }},
	}}
	done := make(chan struct{})
	began := time.Now()
	go func() { defer close(done); s.run(t, all) }()
	noise := beside(b.Inside, done)
	k.run(t, mails, done)
	<-done
	t.Logf("%d mails in %v, killed %v; smtp-source sent %d times", mails, time.Since(began).Round(time.Second), k.killed, <-noise)
	for _, v := range k.victims {
		if k.killed[v.name] < 3 {
			t.Errorf("%s was killed %d times, want 3 at least", v.name, k.killed[v.name])
		}
	}
	s.judgeKept(t, sink, outgoing, c, all)
}

// noiseMark is what smtp-source's subjects begin with.
const noiseMark = "noise of smtp-source"

// beside lets smtp-source send in four sessions until done, and tells how often
// it was started.
func beside(server string, done <-chan struct{}) <-chan int64 {
	ended := make(chan int64, 1)
	var times atomic.Int64
	go func() {
		defer func() { ended <- times.Load() }()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { <-done; cancel() }()
		for ctx.Err() == nil {
			times.Add(1)
			exec.CommandContext(ctx, "smtp-source", "-A", "-s", "4", "-m", "50", "-f", "noise@company1.example", "-t", bob, "-S", noiseMark, server).Run()
		}
	}()
	return ended
}

// judgeKept compares what was taken with what is in the sink, or still on its
// way there out of Postfix's queue.
func (s *storm) judgeKept(t *testing.T, sink *keeper, outgoing *postfixtest.Postfix, c *correspondent, all []post) {
	t.Helper()
	for _, r := range s.refused {
		t.Errorf("got %s, want 250 or 4xx", r)
	}
	if got := s.accepted.Load(); got != int64(len(all)) {
		t.Errorf("got %d mails taken, want %d", got, len(all))
	}
	var got map[string][]kept
	eventually(t, 2*patience, func() (bool, string) {
		missing := 0
		got = sink.mails(t)
		for _, p := range all {
			if len(got[p.id]) == 0 {
				missing++
			}
		}
		if missing > 0 { // one that was still under way when Postfix died waits five minutes by itself
			outgoing.Flush()
		}
		return missing == 0, fmt.Sprintf("%d mails were taken and are not in the sink", missing)
	})
	twice, lost := 0, 0
	for _, p := range all {
		copies := got[p.id]
		unheard := 0
		for _, k := range copies {
			if !k.heard {
				unheard++
			}
			p.judge(t, c, k.mail)
		}
		if most := 1 + s.uncertain[p.id] + unheard; len(copies) > most {
			t.Errorf("%s: got %d copies in the sink, want %d at most; its answers were %q", p.id, len(copies), most, s.answers[p.id])
		}
		if len(copies) > 1 {
			twice++
		}
		lost += unheard
		delete(got, p.id)
	}
	for id, copies := range got { // of smtp-source, or of nobody
		for _, k := range copies {
			if strings.Contains(k.mail, noiseMark) || !strings.HasPrefix(field(k.mail, "Content-Type"), "multipart/encrypted") {
				t.Errorf("mail %q is in clear:\n%.2000s", id, k.mail)
			} else if text, err := c.open(k.mail); err != nil || !strings.Contains(text, noiseMark) {
				t.Errorf("mail %q: got %.300q, %v, want one of smtp-source", id, text, err)
			}
		}
	}
	t.Logf("%d taken, %d deferred, %d connections broken, %d replies uncertain to clients, %d to who brought a mail to the sink; %d mails arrived more than once",
		s.accepted.Load(), s.deferred.Load(), s.broken.Load(), len(s.uncertain), lost, twice)
}
