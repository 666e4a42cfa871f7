package e2e

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/appliance/trial"
)

// crowd is how many mails go through the box while a daemon is killed.
const (
	crowd   = 200
	clients = 8
)

// storm sends mails from several clients, again until each is taken, and keeps
// count.
type storm struct {
	clients int // 8 by default

	accepted, deferred, broken atomic.Int64

	mu        sync.Mutex
	answers   map[string][]string // by Message-ID: all but the last one
	uncertain map[string]int      // by Message-ID: how often nobody knows whether it was taken
	refused   []string
}

// post is a mail under way.
type post struct {
	id, secret       string
	server, from, to string
	mail             []byte
}

// posts are n mails, half of them sealed ones that come in and half plain ones
// that go out.
func posts(c *correspondent, b *trial.Box, n int) []post {
	var all []post
	for i := range n {
		p := post{id: fmt.Sprintf("%d@storm.example", i), secret: fmt.Sprintf("Secret number %d of the storm.", i)}
		if i%2 == 0 {
			p.server, p.from, p.to = b.Outside, bob, alice
			p.mail = c.sealedMail(p.id, "Content-Type: text/plain\r\n\r\n"+p.secret+"\r\n")
		} else {
			p.server, p.from, p.to = b.Inside, alice, bob
			p.mail = plainMail(p.id, p.secret)
		}
		all = append(all, p)
	}
	return all
}

// run sends all posts and returns when each was taken.
func (s *storm) run(t *testing.T, all []post) {
	s.uncertain, s.answers = map[string]int{}, map[string][]string{}
	queue := make(chan post)
	end := time.Now().Add(max(3*patience, time.Duration(len(all))*patience/200))
	var group sync.WaitGroup
	for range cmp.Or(s.clients, clients) {
		group.Go(func() {
			for p := range queue {
				for !s.try(p) && time.Now().Before(end) && t.Context().Err() == nil {
					<-time.After(50 * time.Millisecond) // as a mail server waits before it comes back
				}
			}
		})
	}
	for _, p := range all {
		queue <- p
	}
	close(queue)
	group.Wait()
}

// try sends a post once, and says whether it is done with.
func (s *storm) try(p post) bool {
	a := send(p.server, p.from, p.to, p.mail)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.code == 250:
		s.accepted.Add(1)
		return true
	case a.code/100 == 4:
		s.deferred.Add(1)
		if strings.HasPrefix(a.text, "4.4.2 ") { // the next hop was lost before its answer
			s.uncertain[p.id]++
		}
	case a.code == 0:
		s.broken.Add(1)
		if a.uncertain {
			s.uncertain[p.id]++
		}
	default:
		s.refused = append(s.refused, fmt.Sprintf("%s: %s", p.id, a))
		return true
	}
	s.answers[p.id] = append(s.answers[p.id], a.String())
	return false
}

// judge compares what was taken with what arrived.
func (s *storm) judge(t *testing.T, b *trial.Box, c *correspondent, all []post) {
	t.Helper()
	for _, r := range s.refused {
		t.Errorf("got %s, want 250 or 4xx", r)
	}
	if got := s.accepted.Load(); got != int64(len(all)) {
		t.Errorf("got %d mails taken, want %d", got, len(all))
	}
	got := arrived(t, b)
	for _, p := range all {
		copies := got[p.id]
		if n, most := len(copies), 1+s.uncertain[p.id]; n < 1 || n > most {
			t.Errorf("%s: got %d copies in the sink, want 1 to %d", p.id, n, most)
		}
		for _, mail := range copies {
			p.judge(t, c, mail)
		}
		delete(got, p.id)
	}
	for id := range got {
		t.Errorf("got a mail %q that nobody sent", id)
	}
	t.Logf("%d taken, %d deferred, %d connections broken, %d replies uncertain", s.accepted.Load(), s.deferred.Load(), s.broken.Load(), len(s.uncertain))
}

// judge looks at a mail that arrived: opened and verified, or sealed for Bob.
func (p post) judge(t *testing.T, c *correspondent, mail string) {
	t.Helper()
	if p.from == bob {
		if status := field(mail, "Postern-Status"); parameter(status, "opened") != "openpgp" || parameter(status, "verified") != "yes" || !strings.Contains(mail, p.secret) {
			t.Errorf("%s: got %q, want an opened and verified mail", p.id, status)
		}
		return
	}
	if strings.Contains(mail, p.secret) || !strings.HasPrefix(field(mail, "Content-Type"), "multipart/encrypted") {
		t.Errorf("%s left in clear:\n%s", p.id, mail)
	} else if text, err := c.open(mail); err != nil || !strings.Contains(text, p.secret) {
		t.Errorf("%s: Bob opens: got %q, %v", p.id, text, err)
	}
}

// A key daemon that is killed in the middle of many mails costs nothing but
// time: what needs it is deferred, nothing leaves in clear, what was taken is
// in the sink exactly once, and all goes on when it is there again.
func TestKillKeyd(t *testing.T) {
	b := open(t, trial.Config{})
	c := correspond(t, b)
	all := posts(c, b, crowd)
	s := &storm{}
	done := make(chan struct{})
	go func() { defer close(done); s.run(t, all) }()
	for _, mark := range []int64{crowd / 4, crowd / 2} {
		before := s.deferred.Load()
		eventually(t, patience, func() (bool, string) {
			return s.accepted.Load() >= mark, fmt.Sprintf("%d mails taken, want %d", s.accepted.Load(), mark)
		})
		b.Keyd.Kill()
		eventually(t, patience, func() (bool, string) {
			return s.deferred.Load() >= before+clients, fmt.Sprintf("%d mails deferred since, want %d", s.deferred.Load()-before, clients)
		})
		if err := b.StartKeyd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	s.judge(t, b, c, all)
}

// A mail daemon that is killed in the middle of many mails loses none that it
// answered with 250. Only a mail whose answer was lost may be there twice.
func TestKillFilterd(t *testing.T) {
	b := open(t, trial.Config{})
	c := correspond(t, b)
	all := posts(c, b, crowd)
	s := &storm{}
	done := make(chan struct{})
	go func() { defer close(done); s.run(t, all) }()
	for _, mark := range []int64{crowd / 4, crowd / 2, crowd * 3 / 4} {
		before := s.broken.Load()
		eventually(t, patience, func() (bool, string) {
			return s.accepted.Load() >= mark, fmt.Sprintf("%d mails taken, want %d", s.accepted.Load(), mark)
		})
		b.Filterd.Kill()
		eventually(t, patience, func() (bool, string) {
			return s.broken.Load() > before, "no session was under way"
		})
		if err := b.StartFilterd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	s.judge(t, b, c, all)
}
