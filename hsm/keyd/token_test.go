package keyd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

var _ keyd.Device = (*p11.Token)(nil)

// token is the device of a fixture.
func token(t testing.TB, f *hsmtest.Fixture) *p11.Token {
	return p11.New(p11.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved})
}

// work is one operation of each kind on a real token, with its good outcome.
type work struct {
	name     string
	function string // of PKCS#11, that does it
	do       func(ctx context.Context) error
}

func works(t *testing.T, k hsm.Keeper) []work {
	t.Helper()
	secret := hsm.SessionKey{Cipher: 9, Key: bytes.Repeat([]byte{0x5a}, 32)}
	sign := func(a hsm.Algorithm, alg hsm.SignAlg) func(context.Context) error {
		key := generate(t, k, a, hsm.Sign, "sign/"+string(a))
		return func(ctx context.Context) error { return second(k.Sign(ctx, key.ID, alg, digest[:])) }
	}
	unwrap := func(a hsm.Algorithm, scheme hsm.Scheme) func(context.Context) error {
		key := generate(t, k, a, hsm.Unwrap, "unwrap/"+string(a))
		w := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: scheme}, secret)
		return func(ctx context.Context) error {
			got, err := k.Unwrap(ctx, key.ID, w)
			if err == nil && !bytes.Equal(got.Key, secret.Key) {
				// The worst outcome: a good mail taken for a bad one.
				err = fmt.Errorf("a good key was rejected: %w", hsm.ErrInvalid)
			}
			return err
		}
	}
	return []work{
		{"RSA signature", "C_Sign", sign(hsm.RSA2048, hsm.PKCS1SHA256)},
		{"ECDSA", "C_Sign", sign(hsm.P256, hsm.ECDSA)},
		{"Ed25519", "C_Sign", sign(hsm.Ed25519, hsm.PureEdDSA)},
		{"RSA decryption", "C_Decrypt", unwrap(hsm.RSA2048, hsm.OpenPGPRSA)},
		{"ECDH", "C_DeriveKey", unwrap(hsm.P256, hsm.OpenPGPECDH)},
		{"X25519", "C_DeriveKey", unwrap(hsm.X25519, hsm.OpenPGPX25519)},
	}
}

// TestTokenFaults: whatever a module answers in the middle of work, the
// outcome is success or a temporary refusal, never a rejected key, and when
// the module is well again so is the daemon, by itself.
func TestTokenFaults(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	d := opened(t, token(t, s.Fixture), s.PIN)
	all := works(t, d.Keyd)
	for _, fault := range []struct {
		name string
		code uint
	}{
		{"device removed", pkcs11.CKR_DEVICE_REMOVED},
		{"session invalid", pkcs11.CKR_SESSION_HANDLE_INVALID},
		{"not logged in", pkcs11.CKR_USER_NOT_LOGGED_IN},
		{"operation active", pkcs11.CKR_OPERATION_ACTIVE},
		{"general error", pkcs11.CKR_GENERAL_ERROR},
		{"device error", pkcs11.CKR_DEVICE_ERROR},
	} {
		for _, times := range []string{"", " 1"} {
			for _, w := range all {
				functions := []string{w.function}
				if w.function != "C_DeriveKey" {
					functions = append(functions, w.function+"Init")
				}
				for _, function := range functions {
					name := fmt.Sprintf("%s, %s on %s%s", fault.name, w.name, function, times)
					s.Set(fmt.Sprintf("%s %#x%s", function, fault.code, times))
					if err := w.do(t.Context()); err != nil && !hsm.Temporary(err) {
						t.Errorf("%s: got %v, want success or a temporary refusal", name, err)
					}
					s.Set()
					hsmtest.Eventually(t, func() (bool, string) {
						err := w.do(t.Context())
						return err == nil, fmt.Sprintf("%s, afterwards: %v", name, err)
					})
				}
			}
		}
	}
	if state, reason := d.Keyd.State(); state != hsm.Ready {
		t.Errorf("got %s (%s), want ready", state, reason)
	}
}

// TestSlowToken: a late token is waited for, as long as the caller likes.
func TestSlowToken(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	d := opened(t, token(t, s.Fixture), s.PIN)
	for _, w := range works(t, d.Keyd)[1:5] {
		s.Set(w.function + " delay 2000 1")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := w.do(ctx); !errors.Is(err, hsm.ErrAway) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, impatient: got %v, want %v", w.name, err, context.DeadlineExceeded)
		}
		cancel()
		if err := w.do(t.Context()); err != nil {
			t.Errorf("%s, patient: %v", w.name, err)
		}
	}
}

// TestTokenPulled: the token goes and comes back, and keyd with it.
func TestTokenPulled(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	d := opened(t, token(t, f), f.PIN)
	all := works(t, d.Keyd)
	for range 2 {
		back := f.Hide()
		for _, w := range all {
			if err := w.do(t.Context()); err != nil && !hsm.Temporary(err) {
				t.Errorf("%s, hidden: got %v, want a temporary refusal", w.name, err)
			}
		}
		d.Reach(hsm.Failed)
		back()
		d.Reach(hsm.Ready)
		for _, w := range all {
			if err := w.do(t.Context()); err != nil {
				t.Errorf("%s, back: %v", w.name, err)
			}
		}
	}
}

// TestTokenPIN (R31) counts C_Login over three starts, for a wrong PIN and for
// one that the token has locked; and no log has the PIN (R32).
func TestTokenPIN(t *testing.T) {
	for name, x := range map[string]struct {
		pin   string // "" is the right one
		rules []string
	}{
		"wrong":  {"wrong-8231", nil},
		"locked": {"", []string{fmt.Sprintf("C_Login %#x", pkcs11.CKR_PIN_LOCKED)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
			s.Set(x.rules...)
			pin := x.pin
			if pin == "" {
				pin = s.PIN
			}
			d := hsmtest.NewDaemon(t, token(t, s.Fixture), pin)
			d.Start()
			if err := d.Ended(); !errors.Is(err, keyd.ErrPINRefused) {
				t.Fatalf("first start: got %v, want %v", err, keyd.ErrPINRefused)
			}
			for range 2 {
				d.Config.Device = token(t, s.Fixture)
				d.Start()
				d.Reach(hsm.Locked)
				d.Stop()
			}
			if got := s.Calls("C_Login"); got != 1 {
				t.Errorf("got %d calls of C_Login over three starts, want 1", got)
			}
			if text := d.Log(); !strings.Contains(text, "locked") || strings.Contains(text, pin) {
				t.Errorf("the log holds the PIN, or nothing: %s", text)
			}
		})
	}
}

// TestTokenInit makes a token on a new box, works with it, and finds it again.
func TestTokenInit(t *testing.T) {
	f := hsmtest.EmptySoftHSM(t)
	d := hsmtest.NewDaemon(t, token(t, f), "1234-abcd")
	d.Start()
	d.Reach(hsm.Unprovisioned)
	if err := d.Keyd.Init(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
		t.Error(err)
	}
}

// TestBadKeys (R33): an extractable key, one that was brought from elsewhere,
// and two with one id are found, said and not served; the others are.
func TestBadKeys(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	d := opened(t, token(t, f), f.PIN)
	good := generate(t, d.Keyd, hsm.P256, hsm.Sign, "good")
	d.Stop()
	twin := []byte("twin")
	bad := map[string]hsm.KeyID{}
	for label, attrs := range map[string][]hsmtest.Attr{
		"imported":    nil,
		"extractable": {{Type: pkcs11.CKA_EXTRACTABLE, Value: true}},
		"twin-1":      {{Type: pkcs11.CKA_ID, Value: twin}},
		"twin-2":      {{Type: pkcs11.CKA_ID, Value: twin}},
	} {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		bad[label] = f.Import(label, hsm.Sign, private, attrs...)
	}
	d.Start()
	d.Reach(hsm.Ready)
	if _, err := d.Keyd.Sign(t.Context(), good.ID, hsm.ECDSA, digest[:]); err != nil {
		t.Errorf("the good key: %v", err)
	}
	if keys, err := d.Keyd.Keys(t.Context()); err != nil || len(keys) != 1 || keys[0].ID != good.ID {
		t.Errorf("got keys %v, %v, want the good one", keys, err)
	}
	findings, err := d.Keyd.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for label, id := range bad {
		if _, err := d.Keyd.Sign(t.Context(), id, hsm.ECDSA, digest[:]); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("%s: got %v, want %v", label, err, hsm.ErrNoKey)
		}
		// Which of two private keys a public one belongs to cannot be told, so twins have no id.
		if !slices.ContainsFunc(findings, func(f hsm.Finding) bool { return f.Label == label && !f.Served && len(f.Faults) > 0 }) {
			t.Errorf("%s: no fault among %v", label, findings)
		}
		if !strings.Contains(d.Log(), fmt.Sprintf("%q:%q", "label", label)) {
			t.Errorf("%s: not in the log", label)
		}
		if _, err := d.Keyd.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: label}); !errors.Is(err, hsm.ErrExists) {
			t.Errorf("%s: generate with its label: got %v, want %v", label, err, hsm.ErrExists)
		}
	}
	// This device cannot destroy what it does not serve, and goes on all the same.
	if err := d.Keyd.Destroy(t.Context(), bad["extractable"]); err != nil && !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("destroy: got %v, want nil or %v", err, hsm.ErrRefused)
	}
	if err := d.Keyd.Destroy(t.Context(), hsm.KeyID{}); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("destroy what has no name: got %v, want %v", err, hsm.ErrNoKey)
	}
	if state, _ := d.Keyd.State(); state != hsm.Ready {
		t.Errorf("got state %s, want ready", state)
	}
}

// TestTokenRejection (R6): each scheme on two real modules; and a sample of
// wrong keys, answered like right ones.
func TestTokenRejection(t *testing.T) {
	for name, x := range map[string]struct {
		fixture func(testing.TB) *hsmtest.Fixture
		lacks   hsm.Algorithm
	}{
		"softhsm": {hsmtest.SoftHSM, ""},
		"nss":     {hsmtest.NSS, hsm.X25519},
	} {
		t.Run(name, func(t *testing.T) {
			f := x.fixture(t)
			// NSS takes all its keys for copies.
			d := opened(t, p11.New(p11.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, AllowImported: name == "nss"}), f.PIN)
			keys := map[hsm.Algorithm]hsm.Key{}
			for n, way := range ways {
				if way.algorithm == x.lacks {
					continue
				}
				key, there := keys[way.algorithm]
				if !there {
					key = generate(t, d.Keyd, way.algorithm, hsm.Unwrap, "test/"+string(way.algorithm))
					keys[way.algorithm] = key
				}
				secret := hsm.SessionKey{Cipher: way.cipher, Key: bytes.Repeat([]byte{7}, 32)}
				w := hsmtest.Wrap(t, key.Public, way.w, secret)
				if got, err := d.Keyd.Unwrap(t.Context(), key.ID, w); err != nil || !bytes.Equal(got.Key, secret.Key) || got.Cipher != way.cipher {
					t.Errorf("%s: got %+v, %v, want %+v", wayName(n), got, err, secret)
				}
				rejects(t, d.Keyd, key, n)
			}
			if state, reason := d.Keyd.State(); state != hsm.Ready {
				t.Errorf("got %s (%s), want ready", state, reason)
			}
		})
	}
}
