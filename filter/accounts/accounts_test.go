package accounts

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"postern/filter/transport"
)

var (
	office = netip.MustParseAddr("192.0.2.7")
	home   = netip.MustParseAddr("198.51.100.8")
)

// world is a book whose time the test holds.
type world struct {
	*Book
	now    time.Time
	waited time.Duration
	log    bytes.Buffer
	mutex  sync.Mutex
}

func open(t *testing.T, s Source) *world {
	t.Helper()
	w := &world{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	w.Book = (&Book{Source: s, Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: func() time.Time {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		return w.now
	}, Wait: func(_ context.Context, d time.Duration) {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.waited += d
		w.now = w.now.Add(d)
	}}).filled()
	return w
}

// try says words to a mechanism, and gives what comes of it.
func (w *world) try(t *testing.T, from netip.Addr, mechanism string, words ...string) (*transport.Account, error) {
	t.Helper()
	x := w.Begin(mechanism, from, nil)
	if x == nil {
		t.Fatalf("%s is not there", mechanism)
	}
	for i, word := range words {
		challenge, a, err := x.Next(t.Context(), []byte(word))
		if err != nil || a != nil {
			if i < len(words)-1 {
				t.Fatalf("%s: over after %d words: %v", mechanism, i+1, err)
			}
			return a, err
		}
		if challenge == nil {
			t.Fatalf("%s: got neither a challenge nor an end", mechanism)
		}
	}
	t.Fatalf("%s: goes on after %q", mechanism, words)
	return nil, nil
}

// one is a Source with one account.
type one struct {
	err   error
	asked int
}

func (o *one) Check(_ context.Context, name, password string) (*transport.Account, error) {
	o.asked++
	switch {
	case o.err != nil:
		return nil, o.err
	case name != "alice" || password != "right secret":
		return nil, transport.ErrLoginRefused
	}
	return &transport.Account{Name: "alice"}, nil
}

func TestMechanisms(t *testing.T) {
	w := open(t, &one{})
	if got := w.Mechanisms(nil); !slices.Equal(got, []string{"PLAIN", "LOGIN"}) {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5", "", "plain"} {
		if w.Begin(name, office, nil) != nil {
			t.Errorf("%q: got an exchange, want none", name)
		}
	}
	for _, name := range []string{"PLAIN", "LOGIN"} {
		if challenge, a, err := w.Begin(name, office, nil).Next(t.Context(), nil); challenge == nil || a != nil || err != nil {
			t.Errorf("%s: got %q, %v, %v, want a challenge", name, challenge, a, err)
		}
	}
	for _, test := range []struct {
		mechanism string
		words     []string
		want      error
	}{
		{"PLAIN", []string{"\x00alice\x00right secret"}, nil},
		{"PLAIN", []string{"alice\x00alice\x00right secret"}, nil},
		{"PLAIN", []string{"bob\x00alice\x00right secret"}, transport.ErrLoginRefused},
		{"PLAIN", []string{"\x00alice\x00wrong secret"}, transport.ErrLoginRefused},
		{"PLAIN", []string{"\x00alice\x00"}, transport.ErrLoginRefused},
		{"PLAIN", []string{"\x00\x00right secret"}, transport.ErrLoginRefused},
		{"PLAIN", []string{"\x00a*\x00right secret"}, transport.ErrLoginRefused},
		{"PLAIN", []string{"\x00a\xffb\x00right secret"}, transport.ErrLoginRefused},
		{"PLAIN", []string{""}, transport.ErrLoginMalformed},
		{"PLAIN", []string{"alice"}, transport.ErrLoginMalformed},
		{"PLAIN", []string{"\x00alice\x00right secret\x00"}, transport.ErrLoginMalformed},
		{"LOGIN", []string{"alice", "right secret"}, nil},
		{"LOGIN", []string{"alice", "wrong secret"}, transport.ErrLoginRefused},
		{"LOGIN", []string{"", ""}, transport.ErrLoginRefused},
		{"LOGIN", []string{"alice", "right secret\x00"}, transport.ErrLoginRefused},
	} {
		w := open(t, &one{})
		a, err := w.try(t, office, test.mechanism, test.words...)
		if err != test.want || (a != nil) != (test.want == nil) {
			t.Errorf("%s %q: got %v, %v, want %v", test.mechanism, test.words, a, err, test.want)
		}
		if strings.Contains(w.log.String(), "secret") {
			t.Errorf("%s %q: the log has the secret:\n%s", test.mechanism, test.words, &w.log)
		}
	}
	for _, err := range []error{errors.New("connection refused"), context.DeadlineExceeded, transport.ErrNextHop} {
		if _, got := open(t, &one{err: err}).try(t, office, "PLAIN", "\x00alice\x00right secret"); got != transport.ErrLoginAway {
			t.Errorf("%v: got %v, want ErrLoginAway", err, got)
		}
	}
}

// Guessing is bounded for a network, and keeps nobody else out (R27).
func TestGuessing(t *testing.T) {
	source := &one{}
	w := open(t, source)
	wrong := func(from netip.Addr, name string) error {
		_, err := w.try(t, from, "PLAIN", "\x00"+name+"\x00wrong secret")
		return err
	}
	tries := 0
	for ; tries < 1000; tries++ {
		if err := wrong(office, "alice"); err == transport.ErrLoginTooMany {
			break
		} else if err != transport.ErrLoginRefused {
			t.Fatal(err)
		}
	}
	if tries < failures || tries > 2*failures || source.asked != tries {
		t.Errorf("got %d tries, %d of them asked, want about %d", tries, source.asked, failures)
	}
	if spent := w.waited; spent < time.Duration(failures)*afterNo {
		t.Errorf("%d failures took %v", tries, spent)
	}
	if _, err := w.try(t, office, "PLAIN", "\x00alice\x00right secret"); err != transport.ErrLoginTooMany {
		t.Errorf("the right one, from there: got %v, want ErrLoginTooMany", err)
	}
	// From everywhere else she gets in, and waits no more once she is known there.
	w.waited = 0
	if _, err := w.try(t, home, "PLAIN", "\x00alice\x00right secret"); err != nil || w.waited == 0 || w.waited > slowest {
		t.Errorf("from home: got %v after %v", err, w.waited)
	}
	w.waited = 0
	if _, err := w.try(t, home, "PLAIN", "\x00alice\x00right secret"); err != nil || w.waited != 0 {
		t.Errorf("from home again: got %v after %v", err, w.waited)
	}
	// The whole world guesses, each network a little: she still gets in from anywhere.
	for i := range 2000 {
		if err := wrong(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), "alice"); err != transport.ErrLoginRefused {
			t.Fatal(err)
		}
	}
	w.waited = 0
	if _, err := w.try(t, home, "PLAIN", "\x00alice\x00right secret"); err != nil || w.waited != 0 {
		t.Errorf("from home: got %v after %v", err, w.waited)
	}
	if _, err := w.try(t, netip.MustParseAddr("192.0.2.99"), "PLAIN", "\x00alice\x00right secret"); err != nil || w.waited > slowest {
		t.Errorf("from a new place: got %v after %v", err, w.waited)
	}
	// A success and trouble at the source cost nothing.
	for range 10 * failures {
		if _, err := w.try(t, home, "PLAIN", "\x00alice\x00right secret"); err != nil {
			t.Fatal(err)
		}
	}
	source.err = errors.New("away")
	for range 10 * failures {
		if err := wrong(home, "alice"); err != transport.ErrLoginAway {
			t.Fatal(err)
		}
	}
	source.err = nil
	w.now = w.now.Add(window)
	if _, err := w.try(t, office, "PLAIN", "\x00alice\x00right secret"); err != nil {
		t.Errorf("later, from where the guesses came: got %v", err)
	}
}

// Of many that guess at once no more get through than of those that wait.
func TestGuessingAtOnce(t *testing.T) {
	source := &one{}
	w := open(t, source)
	w.Wait = func(context.Context, time.Duration) {}
	var group sync.WaitGroup
	start := make(chan struct{})
	blocked := &slow{source: source, gate: start}
	w.Source = blocked
	for range 200 {
		group.Go(func() {
			w.Begin("PLAIN", office, nil).Next(context.Background(), []byte("\x00alice\x00wrong secret"))
		})
	}
	close(start)
	group.Wait()
	if blocked.asked > failures {
		t.Errorf("got %d asked, want at most %d", blocked.asked, failures)
	}
}

type slow struct {
	source Source
	gate   chan struct{}
	mutex  sync.Mutex
	asked  int
}

func (s *slow) Check(ctx context.Context, name, password string) (*transport.Account, error) {
	<-s.gate
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.asked++
	return s.source.Check(ctx, name, password)
}

// scramClient runs a client of another's making against the book.
func scramClient(t *testing.T, w *world, mechanism, name, password string) (*transport.Account, []string, error) {
	t.Helper()
	c, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		t.Fatal(err)
	}
	talk := c.NewConversation()
	x := w.Begin(mechanism, office, nil)
	var said []byte
	var heard []string
	for range 5 {
		answer, err := talk.Step(string(said))
		if err != nil {
			return nil, heard, err
		}
		var a *transport.Account
		said, a, err = x.Next(t.Context(), []byte(answer))
		if err != nil || a != nil {
			if a != nil && !talk.Valid() {
				t.Error("the server did not prove that it has the keys")
			}
			return a, heard, err
		}
		heard = append(heard, string(said))
	}
	t.Fatal("no end")
	return nil, nil, nil
}

func TestSCRAM(t *testing.T) {
	f, _ := file(t)
	w := open(t, f)
	if got := w.Mechanisms(nil); !slices.Equal(got, []string{"SCRAM-SHA-256", "PLAIN", "LOGIN"}) {
		t.Errorf("got %q", got)
	}
	a, _, err := scramClient(t, w, "SCRAM-SHA-256", "alice", "right secret")
	if err != nil || a == nil || a.Name != "alice" || !slices.Equal(a.Senders, []string{"alice@company1.example", "*@sales.company1.example"}) {
		t.Errorf("got %+v, %v", a, err)
	}
	for _, test := range []struct{ name, password string }{
		{"alice", "wrong secret"}, {"nobody", "right secret"}, {"bob", "right secret"}, // bob has no keys
	} {
		_, heard, err := scramClient(t, w, "SCRAM-SHA-256", test.name, test.password)
		if err != transport.ErrLoginRefused || len(heard) != 1 {
			t.Errorf("%s: got %q, %v", test.name, heard, err)
		}
		// Nothing tells who is there: the same count, and a salt that stays the same.
		_, again, _ := scramClient(t, w, "SCRAM-SHA-256", test.name, test.password)
		_, salt, _ := strings.Cut(heard[0], ",s=")
		_, salt2, _ := strings.Cut(again[0], ",s=")
		if salt != salt2 || len(salt) != 24+len(",i=10000") || !strings.HasSuffix(salt, ",i=10000") {
			t.Errorf("%s: got %q, then %q", test.name, salt, salt2)
		}
	}
	for _, said := range []string{"", "x", "n,,", "n,,n=alice", "n,,m=1,n=alice,r=abc", "p=tls-unique,,n=alice,r=abc", "n,,n=al=ice,r=abc", "\xff"} {
		w := open(t, f)
		if _, _, err := w.Begin("SCRAM-SHA-256", office, nil).Next(t.Context(), []byte(said)); err == nil {
			t.Errorf("%q: got no error", said)
		}
	}
	// To act for somebody else is refused.
	x := w.Begin("SCRAM-SHA-256", home, nil)
	if _, _, err := x.Next(t.Context(), []byte("n,a=bob,n=alice,r=abc")); err != transport.ErrLoginRefused {
		t.Errorf("for somebody else: got %v", err)
	}
}

func FuzzSASL(f *testing.F) {
	for _, s := range []string{"\x00alice\x00right secret", "n,,n=alice,r=abc", "alice", "c=biws,r=abc,p=AAAA"} {
		f.Add(s, s)
	}
	source, _ := file(f)
	f.Fuzz(func(t *testing.T, first, second string) {
		w := (&Book{Source: refusing{source}, Wait: func(context.Context, time.Duration) {}}).filled()
		for _, m := range w.Mechanisms(nil) {
			x := w.Begin(m, office, nil)
			for _, s := range []string{first, second, first} {
				_, a, err := x.Next(t.Context(), []byte(s))
				if a != nil {
					t.Fatalf("%s %q %q: got in as %v", m, first, second, a)
				}
				if err != nil {
					break
				}
			}
		}
	})
}

// refusing spares the work of a hash.
type refusing struct{ *File }

func (refusing) Check(context.Context, string, string) (*transport.Account, error) {
	return nil, transport.ErrLoginRefused
}
