package keyd_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

var digest = sha256.Sum256([]byte("mail"))

// clock is a time that a test moves.
type clock struct{ nano atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nano.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time           { return time.Unix(0, c.nano.Load()) }
func (c *clock) forward(by time.Duration) { c.nano.Add(int64(by)) }

// bad is a wrapped key that opens nothing.
func bad(n byte) hsm.Wrapped {
	return hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16, Ciphertext: []byte{1, n}}
}

func guarded(t *testing.T, b keyd.Budget) (*hsmtest.Daemon, *clock, hsm.Key, hsm.Wrapped) {
	t.Helper()
	now := newClock()
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Budget, d.Config.Now = b, now.Now
	d.Start()
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	return d, now, key, hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.PKCS1}, hsm.SessionKey{Key: make([]byte, 16)})
}

// TestFailureBudget (R3): failures of one key end its unwraps for a while,
// with one alarm, over a restart too; a trickle passes; signing and other keys
// go on.
func TestFailureBudget(t *testing.T) {
	d, now, key, good := guarded(t, keyd.Budget{Failures: 5, Window: time.Hour, Trickle: time.Second})
	other := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "other")
	signer := generate(t, d.Keyd, hsm.P256, hsm.Sign, "signer")
	ctx := t.Context()
	for n := range byte(5) {
		if _, err := d.Keyd.Unwrap(ctx, key.ID, bad(n)); err != nil {
			t.Fatalf("failure %d: got %v, want a session key", n, err)
		}
	}
	// The first beyond the budget is the trickle's.
	if _, err := d.Keyd.Unwrap(ctx, key.ID, good); err != nil {
		t.Errorf("trickle: %v", err)
	}
	for range 3 {
		if _, err := d.Keyd.Unwrap(ctx, key.ID, good); !errors.Is(err, hsm.ErrBudget) || !hsm.Temporary(err) {
			t.Errorf("beyond the budget: got %v, want %v", err, hsm.ErrBudget)
		}
	}
	now.forward(time.Second)
	if _, err := d.Keyd.Unwrap(ctx, key.ID, good); err != nil {
		t.Errorf("trickle, a second later: %v", err)
	}
	if got := strings.Count(d.Log(), "failure budget of a key is used up"); got != 1 {
		t.Errorf("got %d alarms, want 1", got)
	}
	if _, err := d.Keyd.Unwrap(ctx, other.ID, bad(9)); err != nil {
		t.Errorf("another key: %v", err)
	}
	if _, err := d.Keyd.Sign(ctx, signer.ID, hsm.ECDSA, digest[:]); err != nil {
		t.Errorf("signing: %v", err)
	}

	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	d.Keyd.Unwrap(ctx, key.ID, good) // the trickle of this process
	if _, err := d.Keyd.Unwrap(ctx, key.ID, good); !errors.Is(err, hsm.ErrBudget) {
		t.Errorf("after a restart: got %v, want %v", err, hsm.ErrBudget)
	}
	now.forward(66 * time.Minute)
	for range 3 {
		if _, err := d.Keyd.Unwrap(ctx, key.ID, good); err != nil {
			t.Errorf("after the window: %v", err)
		}
	}
}

// TestClockSetBack: failures counted under a clock that ran ahead are
// forgotten a window later, not when that time comes.
func TestClockSetBack(t *testing.T) {
	d, now, key, good := guarded(t, keyd.Budget{Failures: 2, Window: time.Hour, Trickle: -1})
	for n := range byte(2) {
		d.Keyd.Unwrap(t.Context(), key.ID, bad(n))
	}
	now.forward(-5 * 365 * 24 * time.Hour)
	if _, err := d.Keyd.Unwrap(t.Context(), key.ID, good); !errors.Is(err, hsm.ErrBudget) {
		t.Errorf("just set back: got %v, want %v", err, hsm.ErrBudget)
	}
	now.forward(66 * time.Minute)
	if _, err := d.Keyd.Unwrap(t.Context(), key.ID, good); err != nil {
		t.Errorf("a window later: %v", err)
	}
}

// TestRate bounds the use of one key.
func TestRate(t *testing.T) {
	d, now, key, good := guarded(t, keyd.Budget{Rate: 10, Burst: 3})
	for range 2 {
		for range 3 {
			if _, err := d.Keyd.Unwrap(t.Context(), key.ID, good); err != nil {
				t.Errorf("within the burst: %v", err)
			}
		}
		if _, err := d.Keyd.Unwrap(t.Context(), key.ID, good); !errors.Is(err, hsm.ErrBudget) {
			t.Errorf("beyond the burst: got %v, want %v", err, hsm.ErrBudget)
		}
		now.forward(300 * time.Millisecond)
	}
}

// TestPermission: usage, owner and retirement, each alone.
func TestPermission(t *testing.T) {
	us := uint32(os.Getuid())
	other, third := us+1000, us+1001
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Rules = []keyd.Rule{{Label: "dkim/*", UIDs: []uint32{other}}, {Label: "dkim/*", UIDs: []uint32{third}}}
	d.Start()
	d.Reach(hsm.Ready)
	owned, free := generate(t, d.Keyd, hsm.P256, hsm.Sign, "dkim/a"), generate(t, d.Keyd, hsm.P256, hsm.Sign, "free/a")
	opener := generate(t, d.Keyd, hsm.P256, hsm.Unwrap, "free/b")
	for _, x := range []struct {
		name string
		uid  uint32
		key  hsm.Key
		want error
	}{
		{"owner", other, owned, nil},
		{"stranger", third, owned, hsm.ErrRefused},
		{"ourselves", us, owned, nil},
		{"root", 0, owned, nil},
		{"key without a rule", third, free, nil},
		{"signing with an unwrap key", us, opener, hsm.ErrRefused},
		{"key that is not there", us, hsm.Key{}, hsm.ErrNoKey},
	} {
		if _, err := d.Keyd.As(x.uid).Sign(t.Context(), x.key.ID, hsm.ECDSA, digest[:]); !errors.Is(err, x.want) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
	}
	if _, err := d.Keyd.Unwrap(t.Context(), free.ID, hsm.Wrapped{Scheme: hsm.OpenPGPECDH}); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("unwrapping with a signing key: got %v, want %v", err, hsm.ErrRefused)
	}
	keys, err := d.Keyd.As(third).Keys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Errorf("keys of a stranger: got %v, %v, want the two without a rule", keys, err)
	}
}

// TestRetire: on disk when it returns; the key still opens, is listed so, and
// a new start knows; what is destroyed is gone with its note.
func TestRetire(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	if err := d.Keyd.Retire(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if err := d.Keyd.Retire(t.Context(), key.ID); err != nil {
		t.Errorf("twice: %v", err)
	}
	for range 2 {
		if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); !errors.Is(err, hsm.ErrRefused) {
			t.Errorf("got %v, want %v", err, hsm.ErrRefused)
		}
		if keys, err := d.Keyd.Keys(t.Context()); err != nil || len(keys) != 1 || !keys[0].Retired {
			t.Errorf("got %+v, %v, want one retired key", keys, err)
		}
		d.Stop()
		d.Start()
		d.Reach(hsm.Ready)
	}
	if err := d.Keyd.Destroy(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if err := d.Keyd.Destroy(t.Context(), key.ID); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("twice: got %v, want %v", err, hsm.ErrNoKey)
	}
	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	if keys, err := d.Keyd.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("got %+v, %v, want no key", keys, err)
	}
	if b, err := os.ReadFile(d.Config.StateDir + "/retired"); err != nil || len(b) != 0 {
		t.Errorf("notes of retired keys: got %q, %v, want none", b, err)
	}
}

// TestRecord: exactly one audit record for each operation that was asked, with
// what a reader needs and nothing of the content.
func TestRecord(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	ctx := hsm.WithTrace(t.Context(), "mail-42")
	k := d.Keyd
	signer, opener := generate(t, k, hsm.P256, hsm.Sign, "s"), generate(t, k, hsm.RSA2048, hsm.Unwrap, "u")
	good := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.PKCS1}, hsm.SessionKey{Key: make([]byte, 16)})
	for _, x := range []struct {
		op, verdict, key string
		do               func()
	}{
		{"keys", "ok", "", func() { k.Keys(ctx) }},
		{"sign", "ok", signer.ID.String(), func() { k.Sign(ctx, signer.ID, hsm.ECDSA, digest[:]) }},
		{"sign", "invalid", signer.ID.String(), func() { k.Sign(ctx, signer.ID, hsm.ECDSA, []byte("x")) }},
		{"sign", "refused", opener.ID.String(), func() { k.Sign(ctx, opener.ID, hsm.PKCS1SHA256, digest[:]) }},
		{"unwrap", "ok", opener.ID.String(), func() { k.Unwrap(ctx, opener.ID, good) }},
		{"unwrap", "rejected", opener.ID.String(), func() { k.Unwrap(ctx, opener.ID, bad(1)) }},
		{"unwrap", "invalid", opener.ID.String(), func() { k.Unwrap(ctx, opener.ID, hsm.Wrapped{}) }},
		{"unwrap", "no-key", strings.Repeat("01", 32), func() {
			var id hsm.KeyID
			for i := range id {
				id[i] = 1
			}
			k.Unwrap(ctx, id, good)
		}},
		{"prove", "ok", opener.ID.String(), func() { k.Prove(ctx, opener.ID, infoOf(t, opener.Public)) }},
		{"prove", "invalid", opener.ID.String(), func() { k.Prove(ctx, opener.ID, digest[:]) }},
		{"prove", "refused", signer.ID.String(), func() { k.Prove(ctx, signer.ID, nil) }},
		{"status", "ok", "", func() { k.Status(ctx) }},
		{"probe", "ok", "", func() { k.Probe(ctx) }},
		{"audit", "ok", "", func() { k.Audit(ctx) }},
		{"init", "exists", "", func() { k.Init(ctx, "", "") }},
		{"unlock", "ok", "", func() { k.Unlock(ctx, "") }},
		{"generate", "exists", "", func() { k.Generate(ctx, hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "s"}) }},
		{"retire", "ok", signer.ID.String(), func() { k.Retire(ctx, signer.ID) }},
		{"destroy", "ok", signer.ID.String(), func() { k.Destroy(ctx, signer.ID) }},
	} {
		before := len(d.Audit())
		x.do()
		records := d.Audit()[before:]
		if len(records) != 1 {
			t.Errorf("%s: got %d records, want 1", x.op, len(records))
			continue
		}
		r := records[0]
		key, _ := r["key"].(string)
		if r["op"] != x.op || r["verdict"] != x.verdict || r["trace"] != "mail-42" || r["uid"] != float64(os.Getuid()) || key != x.key {
			t.Errorf("%s: got %v, want verdict %s and key %s", x.op, r, x.verdict, x.key)
		}
		for _, field := range []string{"digest", "ciphertext", "pin", "info"} {
			if _, there := r[field]; there {
				t.Errorf("%s: the record has a %s", x.op, field)
			}
		}
	}
}

// Nothing that bears a time is signed while the clock is wrong; it begins by
// itself when the clock is right. Handshakes and opening go on.
func TestNothingIsSignedAtAWrongTime(t *testing.T) {
	var wrong error
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Clock = func() error { return wrong }
	d.Start()
	d.Reach(hsm.Ready)
	mail, hello := generate(t, d.Keyd, hsm.P256, hsm.Sign, "openpgp/a.example/sign"), generate(t, d.Keyd, hsm.P256, hsm.Sign, "tls/mx.a.example/sign")
	opener := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "u")
	good := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.PKCS1}, hsm.SessionKey{Key: make([]byte, 16)})
	for _, c := range []struct {
		clock, want error
	}{{hsm.ErrClock, hsm.ErrClock}, {nil, nil}, {hsm.ErrClock, hsm.ErrClock}} {
		wrong = c.clock
		sig, err := d.Keyd.Sign(t.Context(), mail.ID, hsm.ECDSA, digest[:])
		if !errors.Is(err, c.want) || (sig == nil) != (c.want != nil) {
			t.Errorf("clock %v: sign: got %x, %v, want %v", c.clock, sig, err, c.want)
		}
		if _, err := d.Keyd.Sign(t.Context(), hello.ID, hsm.ECDSA, digest[:]); err != nil {
			t.Errorf("clock %v: handshake: %v", c.clock, err)
		}
		if _, err := d.Keyd.Unwrap(t.Context(), opener.ID, good); err != nil {
			t.Errorf("clock %v: unwrap: %v", c.clock, err)
		}
	}
}
