package keyd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

const (
	hostile = "192.0.2.7"
	honest  = "2001:db8:1:2::/64"
)

// copyOf is the n-th manipulated copy of a wrapped key.
func copyOf(n int) hsm.Wrapped {
	return hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16, Ciphertext: []byte{1, byte(n >> 8), byte(n)}}
}

// slow is a key daemon in a bubble of time, without sockets, on a token that
// takes a while for each decryption and counts them.
type slow struct {
	*keyd.Keyd
	key        hsm.Key
	good       hsm.Wrapped
	secret     []byte
	took       atomic.Int64 // nanoseconds of a decryption
	asked      atomic.Int64
	log, audit bytes.Buffer
}

func newSlow(t *testing.T, dir string, b keyd.Budget) *slow {
	t.Helper()
	s := &slow{secret: bytes.Repeat([]byte{0x5a}, 16)}
	s.took.Store(int64(20 * time.Millisecond))
	soft := hsmtest.NewSoft()
	soft.Fault = func(method string) error {
		if method == "Decrypt" {
			s.asked.Add(1)
			time.Sleep(time.Duration(s.took.Load()))
		}
		return nil
	}
	private, err := hsmtest.RSA(2048, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.key, err = soft.Put("test", hsm.Unwrap, hsm.Resident, private); err != nil {
		t.Fatal(err)
	}
	s.good = hsmtest.Wrap(t, s.key.Public, hsm.Wrapped{Scheme: hsm.PKCS1}, hsm.SessionKey{Key: s.secret})
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(hsmtest.SoftPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Keyd, err = keyd.New(keyd.Config{Device: soft, PINFile: pin, StateDir: dir, Budget: b, Workers: 2,
		Log: slog.New(slog.NewTextHandler(&s.log, nil)), Audit: slog.New(slog.NewTextHandler(&s.audit, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// close ends the daemon; the logs may be read then.
func (s *slow) close(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// unwrap is one operation for a mail of origin, with the time that it took.
func (s *slow) unwrap(ctx context.Context, origin string, w hsm.Wrapped) ([]byte, time.Duration, error) {
	began := time.Now()
	sk, err := s.Unwrap(hsm.WithOrigin(ctx, origin), s.key.ID, w)
	return sk.Key, time.Since(began), err
}

// TestManipulatedCopies (R3): of 10,000 of one sender the token sees as many
// as may fail, and one more at most for a second worker; each gets the same
// answer; meanwhile the good mail of another is opened without a wait, and one
// alarm is raised.
func TestManipulatedCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const copies, limit = 10_000, 50
		s := newSlow(t, "", keyd.Budget{})
		var next, goods atomic.Int64
		var senders, reader sync.WaitGroup
		for range 64 {
			senders.Go(func() {
				for n := next.Add(1); n <= copies; n = next.Add(1) {
					key, _, err := s.unwrap(t.Context(), hostile, copyOf(int(n)))
					if err != nil || len(key) != 16 {
						t.Errorf("copy %d: got %d bytes, %v, want 16", n, len(key), err)
					}
				}
			})
		}
		reader.Go(func() {
			for next.Load() < copies {
				before := next.Load()
				key, took, err := s.unwrap(t.Context(), honest, s.good)
				if goods.Add(1); err != nil || !bytes.Equal(key, s.secret) {
					t.Errorf("good mail meanwhile: got %x, %v, want %x", key, err, s.secret)
				}
				if before > copies/2 && took != 20*time.Millisecond {
					t.Errorf("good mail behind %d copies: took %v, want 20ms", before, took)
				}
			}
		})
		senders.Wait()
		reader.Wait()
		s.close(t)
		if got := s.asked.Load() - goods.Load(); got < limit || got > limit+1 {
			t.Errorf("the token saw %d copies, want %d", got, limit)
		}
		if goods.Load() < 100 {
			t.Errorf("got %d good mails meanwhile, want more", goods.Load())
		}
		audit := s.audit.String()
		rejected, limited := strings.Count(audit, "verdict=rejected"), strings.Count(audit, "verdict=limited")
		if rejected+limited != copies || rejected > limit+1 {
			t.Errorf("got %d rejected and %d limited, want %d and the rest of %d", rejected, limited, limit, copies)
		}
		if got := strings.Count(s.log.String(), "failures of a sender are used up"); got != 1 || !strings.Contains(s.log.String(), hostile) {
			t.Errorf("got %d alarms, want 1 with %s:\n%s", got, hostile, s.log.String())
		}
	})
}

// TestTurnedAwayInTime (R3): who is limited waits as long as an operation took,
// 100 ms at most, and holds no worker while he does.
func TestTurnedAwayInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newSlow(t, dir, keyd.Budget{OriginFailures: 2})
		s.took.Store(int64(80 * time.Millisecond))
		timed := func(what, origin string, w hsm.Wrapped, want time.Duration) {
			t.Helper()
			if _, took, err := s.unwrap(t.Context(), origin, w); err != nil || took != want {
				t.Errorf("%s: took %v, %v, want %v", what, took, err, want)
			}
		}
		timed("first failure", hostile, copyOf(1), 80*time.Millisecond)
		timed("second failure", hostile, copyOf(2), 80*time.Millisecond)
		var all sync.WaitGroup
		for n := range 200 { // more than may stand in the line of a worker
			all.Go(func() { timed("turned away", hostile, copyOf(n), 80*time.Millisecond) })
		}
		synctest.Wait()
		timed("good mail meanwhile", honest, s.good, 80*time.Millisecond)
		all.Wait()
		if got := s.asked.Load(); got != 3 {
			t.Errorf("the token was asked %d times, want 3", got)
		}
		s.took.Store(int64(300 * time.Millisecond))
		timed("slow good mail", honest, s.good, 300*time.Millisecond)
		timed("turned away from a slow token", hostile, copyOf(3), 100*time.Millisecond)

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, took, err := s.unwrap(ctx, hostile, copyOf(4)); !errors.Is(err, hsm.ErrAway) || took != 30*time.Millisecond {
			t.Errorf("caller that left: got %v after %v, want %v after 30ms", err, took, hsm.ErrAway)
		}
		ended := make(chan error)
		go func() {
			_, _, err := s.unwrap(t.Context(), hostile, copyOf(5))
			ended <- err
		}()
		synctest.Wait()
		s.close(t)
		if err := <-ended; !errors.Is(err, hsm.ErrAway) {
			t.Errorf("daemon that ended: got %v, want %v", err, hsm.ErrAway)
		}

		s = newSlow(t, dir, keyd.Budget{OriginFailures: 2})
		timed("turned away before any operation", hostile, copyOf(6), 20*time.Millisecond)
		s.close(t)
	})
}

// TestLimitWhileWaiting (R3): those that stand in line when the limit is
// reached are turned away there.
func TestLimitWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, "", keyd.Budget{OriginFailures: 5})
		var all sync.WaitGroup
		for n := range 60 {
			all.Go(func() {
				if key, _, err := s.unwrap(t.Context(), hostile, copyOf(n)); err != nil || len(key) != 16 {
					t.Errorf("copy %d: got %d bytes, %v, want 16", n, len(key), err)
				}
			})
		}
		all.Wait()
		if got := s.asked.Load(); got != 5 {
			t.Errorf("the token was asked %d times, want 5", got)
		}
		s.close(t)
	})
}

// TestOriginFailures (R3), over the socket: failures of one origin end its
// unwraps with one key, over a restart too, without another answer; other
// origins, none, and other keys go on, and the key's own budget stays whole.
func TestOriginFailures(t *testing.T) {
	d, now, key, good := guarded(t, keyd.Budget{OriginFailures: 3, Failures: 7, Trickle: -1})
	other := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "other")
	c := client.Dial(d.Use)
	t.Cleanup(func() { c.Close() })
	unwrap := func(what, origin string, key hsm.Key, w hsm.Wrapped, verdict string) []byte {
		t.Helper()
		before := len(d.Audit())
		sk, err := c.Unwrap(hsm.WithOrigin(t.Context(), origin), key.ID, w)
		records := d.Audit()[before:]
		if err != nil || len(sk.Key) != 16 || len(records) != 1 || records[0]["verdict"] != verdict {
			t.Errorf("%s: got %x, %v, records %v, want verdict %s", what, sk.Key, err, records, verdict)
		}
		return sk.Key
	}
	alarms := func(want int) {
		t.Helper()
		if got := strings.Count(d.Log(), "failures of a sender are used up"); got != want {
			t.Errorf("got %d alarms, want %d", got, want)
		}
	}
	first := unwrap("first failure", hostile, key, bad(1), "rejected")
	unwrap("good one below the limit", hostile, key, good, "ok")
	for n := range byte(2) {
		unwrap("failure", hostile, key, bad(2+n), "rejected")
	}
	alarms(0)
	if again := unwrap("the first again", hostile, key, bad(1), "limited"); !bytes.Equal(again, first) {
		t.Errorf("the first again: got %x, want %x as before the limit", again, first)
	}
	for range 10 {
		if got := unwrap("good one beyond the limit", hostile, key, good, "limited"); bytes.Equal(got, make([]byte, 16)) {
			t.Error("good one beyond the limit: opened")
		}
	}
	unwrap("another origin", honest, key, good, "ok")
	unwrap("no origin", "", key, good, "ok")
	for n := range byte(3) {
		unwrap("failure with another key", hostile, other, bad(n), "rejected")
	}
	unwrap("another key beyond the limit", hostile, other, bad(3), "limited")
	alarms(1)
	if _, err := c.Unwrap(hsm.WithOrigin(t.Context(), hostile), key.ID, hsm.Wrapped{}); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("malformed beyond the limit: got %v, want %v", err, hsm.ErrInvalid)
	}

	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	unwrap("after a restart", hostile, key, good, "limited")
	unwrap("another origin after a restart", honest, key, good, "ok")
	alarms(2)
	for n := range byte(3) {
		unwrap("fails where no origin is known", "", key, bad(n), "rejected")
	}
	unwrap("no origin, as often", "", key, good, "ok")
	unwrap("the seventh failure of the key", honest, key, bad(9), "rejected")
	if _, err := c.Unwrap(hsm.WithOrigin(t.Context(), honest), key.ID, good); !errors.Is(err, hsm.ErrBudget) {
		t.Errorf("beyond the budget of the key: got %v, want %v", err, hsm.ErrBudget)
	}
	unwrap("limited beyond the budget of the key", hostile, key, good, "limited")

	now.forward(66 * time.Minute)
	unwrap("after the window", hostile, key, good, "ok")
	for n := range byte(3) {
		unwrap("failure in the next window", hostile, key, bad(n), "rejected")
	}
	unwrap("limited in the next window", hostile, key, good, "limited")
	alarms(3)
	for _, k := range []hsm.Key{key, other} {
		if err := d.Keyd.Destroy(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
	}
	d.Stop()
	if b, err := os.ReadFile(filepath.Join(d.Config.StateDir, "origins")); err != nil || len(b) != 0 {
		t.Errorf("notes on keys that are gone: got %q, %v, want none", b, err)
	}
}

// TestManyOrigins (R3): a flood of origins is remembered in bounds, the last of
// them, and leaves the count of the key as it is.
func TestManyOrigins(t *testing.T) {
	const origins, kept = 10_100, 10_000
	d, _, key, good := guarded(t, keyd.Budget{Failures: origins, Trickle: -1, Rate: -1, OriginFailures: 1})
	try := func(n int, w hsm.Wrapped) error {
		_, err := d.Keyd.Unwrap(hsm.WithOrigin(t.Context(), fmt.Sprintf("origin-%d", n)), key.ID, w)
		return err
	}
	long := hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16, Ciphertext: bytes.Repeat([]byte{1}, 300)} // fails before the token is asked
	for n := range origins {
		if err := try(n, long); err != nil {
			t.Fatalf("origin %d: %v", n, err)
		}
	}
	if err := try(origins, good); !errors.Is(err, hsm.ErrBudget) {
		t.Errorf("the key: got %v, want %v", err, hsm.ErrBudget)
	}
	d.Stop()
	for range 2 {
		b, err := os.ReadFile(filepath.Join(d.Config.StateDir, "origins"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) != kept || !strings.Contains(lines[0], fmt.Sprintf(" origin-%d ", origins-kept)) || !strings.Contains(lines[kept-1], fmt.Sprintf(" origin-%d ", origins-1)) {
			t.Fatalf("got %d lines, the first %q, want the last %d origins in their order", len(lines), lines[0], kept)
		}
		d.Start()
		d.Reach(hsm.Ready)
		d.Stop()
	}
}

// TestOriginsNotWritten (R3): a count that is not on disk is tried again.
func TestOriginsNotWritten(t *testing.T) {
	d, now, key, _ := guarded(t, keyd.Budget{})
	block := filepath.Join(d.Config.StateDir, ".origins.new")
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Keyd.Unwrap(hsm.WithOrigin(t.Context(), hostile), key.ID, bad(1)); err != nil {
		t.Fatal(err)
	}
	hsmtest.Eventually(t, func() (bool, string) { return strings.Contains(d.Log(), "write counters"), "no word of it" })
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	now.forward(time.Minute)
	hsmtest.Eventually(t, func() (bool, string) {
		b, err := os.ReadFile(filepath.Join(d.Config.StateDir, "origins"))
		return strings.Contains(string(b), hostile), fmt.Sprintf("got %q, %v, want a line of %s", b, err, hostile)
	})
}
