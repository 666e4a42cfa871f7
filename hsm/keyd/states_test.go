package keyd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// switchboard is a Soft whose faults a test sets while it runs, and which
// counts the calls of each method.
type switchboard struct {
	*hsmtest.Soft
	fault atomic.Pointer[func(string) error]
	login atomic.Int64
}

func newSwitchboard(soft *hsmtest.Soft) *switchboard {
	s := &switchboard{Soft: soft}
	soft.Fault = func(method string) error {
		if method == "Login" {
			s.login.Add(1)
		}
		if f := s.fault.Load(); f != nil {
			return (*f)(method)
		}
		return nil
	}
	return s
}

// fail makes the methods answer err, until the next call of fail.
func (s *switchboard) fail(err error, methods ...string) {
	f := func(method string) error {
		for _, m := range methods {
			if m == method || m == "*" {
				return err
			}
		}
		return nil
	}
	s.fault.Store(&f)
}

func start(t testing.TB, device keyd.Device, pin string, want hsm.State) *hsmtest.Daemon {
	t.Helper()
	d := hsmtest.NewDaemon(t, device, pin)
	d.Start()
	d.Reach(want)
	return d
}

func generate(t testing.TB, k hsm.Keeper, a hsm.Algorithm, u hsm.Usage, label string) hsm.Key {
	t.Helper()
	key, err := k.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: label})
	if err != nil {
		t.Fatalf("generate %s: %v", a, err)
	}
	return key
}

func second[T any](_ T, err error) error { return err }

// TestInit: a box without a token refuses work, makes one on demand, never a
// second one, and finds it at its next start.
func TestInit(t *testing.T) {
	d := start(t, hsmtest.EmptySoft(), "new-pin", hsm.Unprovisioned)
	if _, err := d.Keyd.Keys(t.Context()); !errors.Is(err, hsm.ErrEmpty) {
		t.Errorf("keys before init: got %v, want %v", err, hsm.ErrEmpty)
	}
	if err := d.Keyd.Unlock(t.Context(), ""); !errors.Is(err, hsm.ErrEmpty) {
		t.Errorf("unlock before init: got %v, want %v", err, hsm.ErrEmpty)
	}
	if err := d.Keyd.Init(t.Context(), "", ""); err != nil {
		t.Fatalf("init: %v", err)
	}
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	if err := d.Keyd.Init(t.Context(), "", ""); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("init again: got %v, want %v", err, hsm.ErrExists)
	}
	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
		t.Errorf("sign after another start: %v", err)
	}
}

// TestNoPIN: without a credential it waits for an operator, and says so.
func TestNoPIN(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := hsmtest.NewDaemon(t, soft, "x")
	d.SetPIN("")
	d.Start()
	d.Reach(hsm.Locked)
	if _, reason := d.Keyd.State(); !strings.Contains(reason, "hint: ") {
		t.Errorf("got reason %q, want a hint", reason)
	}
	if err := d.Keyd.Unlock(t.Context(), ""); !errors.Is(err, hsm.ErrInvalid) || soft.login.Load() != 0 {
		t.Errorf("unlock with no PIN at all: got %v after %d logins", err, soft.login.Load())
	}
	if _, err := d.Keyd.Keys(t.Context()); !errors.Is(err, hsm.ErrLocked) {
		t.Errorf("keys: got %v, want %v", err, hsm.ErrLocked)
	}
	if err := d.Keyd.Unlock(t.Context(), "wrong"); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("unlock with a wrong PIN: got %v, want %v", err, hsm.ErrPIN)
	}
	if err := d.Keyd.Unlock(t.Context(), hsmtest.SoftPIN); err != nil {
		t.Errorf("unlock: %v", err)
	}
	d.Reach(hsm.Ready)
	if err := d.Keyd.Unlock(t.Context(), "wrong"); err != nil || soft.login.Load() != 2 {
		t.Errorf("unlock when ready: got %v and %d logins, want nothing to happen", err, soft.login.Load())
	}
	// The typed PIN is enough to come back by itself.
	soft.fail(hsm.ErrAway, "*")
	d.Reach(hsm.Failed)
	soft.fail(nil)
	d.Reach(hsm.Ready)
}

// TestPublicPIN: a credential that everybody may read is none.
func TestPublicPIN(t *testing.T) {
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	if err := os.Chmod(d.Config.PINFile, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Start()
	d.Reach(hsm.Locked)
	if _, reason := d.Keyd.State(); !strings.Contains(reason, "chmod 600") {
		t.Errorf("got reason %q, want the hint", reason)
	}
}

// TestPINOnce (R31): a wrong credential costs one login, however often the
// daemon starts; only an operator's word makes it try again.
func TestPINOnce(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := hsmtest.NewDaemon(t, soft, "wrong")
	d.Start()
	if err := d.Ended(); !errors.Is(err, keyd.ErrPINRefused) {
		t.Fatalf("first start: ended with %v, want %v", err, keyd.ErrPINRefused)
	}
	for range 3 {
		d.Start()
		d.Reach(hsm.Locked)
		d.Stop()
	}
	if got := soft.login.Load(); got != 1 {
		t.Fatalf("got %d logins over four starts, want 1", got)
	}
	d.Start()
	d.Reach(hsm.Locked)
	if err := d.Keyd.Unlock(t.Context(), ""); !errors.Is(err, hsm.ErrPIN) || soft.login.Load() != 2 {
		t.Errorf("unlock, still wrong: got %v after %d logins, want %v after 2", err, soft.login.Load(), hsm.ErrPIN)
	}
	d.SetPIN(hsmtest.SoftPIN)
	if err := d.Keyd.Unlock(t.Context(), ""); err != nil || soft.login.Load() != 3 {
		t.Errorf("unlock, corrected: got %v after %d logins, want 3", err, soft.login.Load())
	}
	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
}

// TestPINChanged: a PIN that was good and is refused when the token comes back
// is tried once then, too.
func TestPINChanged(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	soft.fail(hsm.ErrAway, "*")
	d.Reach(hsm.Failed)
	soft.fail(hsm.ErrPIN, "Login")
	before := soft.login.Load()
	d.Reach(hsm.Locked)
	d.Stop()
	d.Start()
	d.Reach(hsm.Locked)
	if got := soft.login.Load() - before; got > 1 {
		t.Errorf("got %d logins, want at most 1", got)
	}
}

// TestPINAway: a token that does not answer the login has refused nothing, and
// the daemon goes on by itself.
func TestPINAway(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	soft.fail(hsm.ErrAway, "Login")
	d := start(t, soft, hsmtest.SoftPIN, hsm.Failed)
	hsmtest.Eventually(t, func() (bool, string) { return soft.login.Load() > 2, "it does not go on trying" })
	soft.fail(nil)
	d.Reach(hsm.Ready)
}

// TestDiedInLogin: a start after a death inside the login may try once more,
// the next may not.
func TestDiedInLogin(t *testing.T) {
	for tries, want := range map[int]hsm.State{1: hsm.Ready, 2: hsm.Locked} {
		soft := newSwitchboard(hsmtest.NewSoft())
		d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
		if err := os.MkdirAll(d.Config.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.Config.StateDir, "pin-pending"), []byte(strings.Repeat("login\n", tries)), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Start()
		d.Reach(want)
		if got := soft.login.Load(); got != int64(2-tries) {
			t.Errorf("after %d: got %d logins, want %d", tries, got, 2-tries)
		}
	}
}

// TestNoNoteNoLogin: a try that could not be noted is not made.
func TestNoNoteNoLogin(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	if err := os.MkdirAll(filepath.Join(d.Config.StateDir, ".pin-pending.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.Start()
	hsmtest.Eventually(t, func() (bool, string) {
		_, reason := d.Keyd.State()
		return strings.Contains(reason, "write state"), "got reason " + reason
	})
	if got := soft.login.Load(); got != 0 {
		t.Errorf("got %d logins, want none", got)
	}
}

// TestPINSecret (R32): no log at any level holds a PIN, good or bad, typed or
// from the credential.
func TestPINSecret(t *testing.T) {
	pins := []string{"credential-7f3a", "typed-91bc", "officer-55de", "user-0c4e"}
	d := start(t, hsmtest.EmptySoft(), pins[0], hsm.Unprovisioned)
	if err := d.Keyd.Init(t.Context(), pins[2], pins[3]); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	d.Start()
	if err := d.Ended(); !errors.Is(err, keyd.ErrPINRefused) {
		t.Fatalf("got %v, want %v", err, keyd.ErrPINRefused)
	}
	d.Start()
	d.Reach(hsm.Locked)
	d.Keyd.Unlock(t.Context(), pins[1])
	if err := d.Keyd.Unlock(t.Context(), pins[3]); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	text := d.Log()
	for _, r := range d.Audit() {
		for _, v := range r {
			if s, ok := v.(string); ok {
				text += s + "\n"
			}
		}
	}
	if !strings.Contains(text, "unlock") || !strings.Contains(text, "locked") {
		t.Fatalf("the logs say nothing: %s", text)
	}
	for _, pin := range pins {
		if strings.Contains(text, pin) {
			t.Errorf("a log holds the PIN %q", pin)
		}
	}
}

// TestFailedAndBack: whichever step meets the token away, work is refused for
// now and goes on by itself later, and nobody is told that a key is gone.
func TestFailedAndBack(t *testing.T) {
	for _, methods := range [][]string{{"Sign", "Health", "Open"}, {"Health", "Open"}, {"Sign", "Health", "Load"}, {"Sign", "Health", "Info"}} {
		t.Run(strings.Join(methods, " "), func(t *testing.T) {
			soft := newSwitchboard(hsmtest.NewSoft())
			d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
			key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
			soft.fail(hsm.ErrAway, methods...)
			d.Reach(hsm.Failed)
			if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); !errors.Is(err, hsm.ErrAway) {
				t.Errorf("got %v, want %v", err, hsm.ErrAway)
			}
			soft.fail(nil)
			d.Reach(hsm.Ready)
			if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
				t.Errorf("after it came back: %v", err)
			}
		})
	}
}

// TestTokenForgotUs: a token that says "not logged in" or "no such key" in the
// middle of work is not the one that was opened: temporary, and opened anew.
func TestTokenForgotUs(t *testing.T) {
	for _, fault := range []error{hsm.ErrLocked, hsm.ErrNoKey, hsm.ErrEmpty, hsm.ErrAway} {
		soft := newSwitchboard(hsmtest.NewSoft())
		d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
		key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
		soft.fail(fault, "Sign")
		if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%v: got %v, want %v", fault, err, hsm.ErrAway)
		}
		soft.fail(nil)
		d.Reach(hsm.Ready)
		if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
			t.Errorf("%v: afterwards: %v", fault, err)
		}
	}
}

// TestGone: a token that was there and is not found again is a failure, never
// an invitation to make another.
func TestGone(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	soft.fail(hsm.ErrEmpty, "Health", "Open")
	d.Reach(hsm.Failed)
	if err := d.Keyd.Init(t.Context(), "", ""); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("init: got %v, want %v", err, hsm.ErrAway)
	}
	soft.fail(nil)
	d.Reach(hsm.Ready)
}

// TestRecycle: the daemon asks for a fresh process when enough has failed
// inside the module.
func TestRecycle(t *testing.T) {
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Recycle = 3
	d.Start()
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	for i := range byte(3) {
		if _, err := d.Keyd.Unwrap(t.Context(), key.ID, hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16, Ciphertext: []byte{i + 2}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Ended(); !errors.Is(err, keyd.ErrRecycle) {
		t.Errorf("got %v, want %v", err, keyd.ErrRecycle)
	}
}

// TestSelfCheck: well while the supervisor turns, away or not; ill when a call
// into the module does not return, and well again when it does.
func TestSelfCheck(t *testing.T) {
	soft, now := newSwitchboard(hsmtest.NewSoft()), newClock()
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	d.Config.Now = now.Now
	d.Start()
	d.Reach(hsm.Ready)
	check := func(ctx context.Context) func() (bool, string) {
		return func() (bool, string) { err := d.Keyd.SelfCheck(ctx); return err == nil, fmt.Sprint(err) }
	}
	hsmtest.Eventually(t, check(t.Context()))
	soft.fail(hsm.ErrAway, "*")
	d.Reach(hsm.Failed)
	now.forward(2 * time.Minute)
	hsmtest.Eventually(t, check(t.Context()))
	soft.fail(nil)
	d.Reach(hsm.Ready)

	release, reached := make(chan struct{}), make(chan struct{}, 1000)
	hang := func(method string) error {
		if method == "Health" {
			reached <- struct{}{}
			<-release
		}
		return nil
	}
	soft.fault.Store(&hang)
	<-reached
	now.forward(2 * time.Minute)
	if err := d.Keyd.SelfCheck(t.Context()); err == nil {
		t.Error("a module that hangs: got nil, want an error")
	}
	close(release)
	hsmtest.Eventually(t, check(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Keyd.SelfCheck(ctx); err == nil {
		t.Error("a context that has ended: got nil, want an error")
	}
}

// TestOnState is told each change once, in order.
func TestOnState(t *testing.T) {
	soft := newSwitchboard(hsmtest.EmptySoft())
	d := hsmtest.NewDaemon(t, soft, "1234")
	var told []hsm.State // OnState is called by one at a time
	d.Config.OnState = func(s hsm.State, _ string) { told = append(told, s) }
	d.Start()
	d.Reach(hsm.Unprovisioned)
	if err := d.Keyd.Init(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	soft.fail(hsm.ErrAway, "Health", "Open")
	d.Reach(hsm.Failed)
	soft.fail(nil)
	d.Reach(hsm.Ready)
	d.Stop()
	told = slices.Compact(told) // Failed has several reasons
	if want := []hsm.State{hsm.Unprovisioned, hsm.Ready, hsm.Failed, hsm.Ready, hsm.Failed}; !slices.Equal(told, want) {
		t.Errorf("got %v, want %v", told, want)
	}
}
