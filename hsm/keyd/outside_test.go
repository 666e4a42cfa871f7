package keyd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
)

// outside is a device that keeps keys outside, few of them open, with their folder.
func outside(t testing.TB, f *hsmtest.Fixture) (*p11.Token, string) {
	dir := filepath.Join(t.TempDir(), "wrapped")
	return p11.New(p11.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, AllowWrapped: true, Shelf: dir, Open: 8}), dir
}

func generateWrapped(t testing.TB, k hsm.Keeper, a hsm.Algorithm, u hsm.Usage, label string) hsm.Key {
	t.Helper()
	key, err := k.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: label, Wrapped: true})
	if err != nil {
		t.Fatalf("generate %s: %v", label, err)
	}
	return key
}

// user is somebody with two keys outside, and a session key for him.
type user struct {
	sign, open hsm.Key
	wrapped    hsm.Wrapped
}

var userSecret = hsm.SessionKey{Cipher: 9, Key: bytes.Repeat([]byte{0x5a}, 32)}

func newUser(t testing.TB, k hsm.Keeper, a hsm.Algorithm, name string) user {
	t.Helper()
	u := user{sign: generateWrapped(t, k, a, hsm.Sign, name+"/sign"), open: generateWrapped(t, k, a, hsm.Unwrap, name+"/unwrap")}
	scheme := hsm.OpenPGPECDH
	if strings.HasPrefix(string(a), "rsa") {
		scheme = hsm.OpenPGPRSA
	}
	u.wrapped = hsmtest.Wrap(t, u.open.Public, hsm.Wrapped{Scheme: scheme}, userSecret)
	return u
}

// works reports whether both keys do what they are for.
func (u user) works(t testing.TB, k hsm.Keeper) error {
	alg := hsm.ECDSA
	if hsm.AlgorithmOf(u.sign.Public) == hsm.RSA2048 {
		alg = hsm.PKCS1SHA256
	}
	if _, err := k.Sign(t.Context(), u.sign.ID, alg, digest[:]); err != nil { // keyd verifies it
		return fmt.Errorf("sign: %w", err)
	}
	got, err := k.Unwrap(t.Context(), u.open.ID, u.wrapped)
	if err == nil && !bytes.Equal(got.Key, userSecret.Key) {
		err = errors.New("a good key was rejected")
	}
	return err
}

// TestWrappedHundreds: two hundred keys in eight places sign and open, each for
// a mail, over a restart, and after the token was pulled.
func TestWrappedHundreds(t *testing.T) {
	f := hsmtest.QuickSoftHSM(t)
	device, _ := outside(t, f)
	d := opened(t, device, f.PIN)
	var users []user
	for i := range 98 {
		users = append(users, newUser(t, d.Keyd, hsm.P256, fmt.Sprintf("user-%d", i)))
	}
	for i := range 2 {
		users = append(users, newUser(t, d.Keyd, hsm.RSA2048, fmt.Sprintf("rsa-%d", i)))
	}
	all := func(when string) {
		t.Helper()
		var group sync.WaitGroup
		for n := range 4 {
			group.Go(func() {
				for i := n; i < len(users); i += 4 {
					if err := users[i].works(t, d.Keyd); err != nil {
						t.Errorf("%s, user %d: %v", when, i, err)
					}
				}
			})
		}
		group.Wait()
	}
	all("new")
	if keys, err := d.Keyd.Keys(t.Context()); err != nil || len(keys) != 200 || slices.ContainsFunc(keys, func(k hsm.Key) bool { return k.Class != hsm.OutsideWrapped }) {
		t.Errorf("got %d keys, %v want 200 of class wrapped", len(keys), err)
	}
	if st, err := d.Keyd.Status(t.Context()); err != nil || st.Keys != 200 || st.Wrapped != 200 {
		t.Errorf("status: got %+v, %v", st, err)
	}
	if findings, err := d.Keyd.Audit(t.Context()); err != nil || len(findings) != 200 || slices.ContainsFunc(findings, func(f hsm.Finding) bool { return !f.Served || len(f.Faults) > 0 }) {
		t.Errorf("audit: got %d findings, %v want 200 without a fault", len(findings), err)
	}
	d.Stop()
	d.Start()
	d.Reach(hsm.Ready)
	all("after a restart")
	back := f.Hide()
	d.Reach(hsm.Failed)
	if err := users[0].works(t, d.Keyd); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("pulled: got %v want %v", err, hsm.ErrAway)
	}
	back()
	d.Reach(hsm.Ready)
	all("after the token came back")
}

// TestWrappedBroken: a key whose file was damaged is refused for now by the use
// that meets it, then not served any more, by itself; a file that is put right
// serves again after an audit. The other keys and the state of the daemon do not
// mind, and retirement and destruction are as for any key.
func TestWrappedBroken(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	device, dir := outside(t, f)
	d := opened(t, device, f.PIN)
	a, b := newUser(t, d.Keyd, hsm.P256, "a"), newUser(t, d.Keyd, hsm.P256, "b")
	path := filepath.Join(dir, a.open.ID.String()+".wrapped")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(dir, b.open.ID.String()+".wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Keyd.Audit(t.Context()); err != nil { // closes what is open
		t.Fatal(err)
	}
	d.Stop() // or the audit's own look would find it open
	d.Start()
	d.Reach(hsm.Ready)
	write(other)
	if _, err := d.Keyd.Unwrap(t.Context(), a.open.ID, a.wrapped); !errors.Is(err, hsm.ErrBroken) || !hsm.Temporary(err) {
		t.Errorf("got %v want %v, for now", err, hsm.ErrBroken)
	}
	hsmtest.Eventually(t, func() (bool, string) {
		_, err := d.Keyd.Unwrap(t.Context(), a.open.ID, a.wrapped)
		return errors.Is(err, hsm.ErrNoKey), fmt.Sprintf("later: got %v want %v", err, hsm.ErrNoKey)
	})
	if err := b.works(t, d.Keyd); err != nil {
		t.Errorf("another key: %v", err)
	}
	if state, reason := d.Keyd.State(); state != hsm.Ready {
		t.Errorf("got %s (%s) want ready", state, reason)
	}
	if !strings.Contains(d.Log(), "the file is that of another key") {
		t.Errorf("the log does not say why: %s", d.Log())
	}
	write(whole)
	if findings, err := d.Keyd.Audit(t.Context()); err != nil || len(findings) != 4 {
		t.Errorf("audit: got %+v, %v", findings, err)
	}
	if err := a.works(t, d.Keyd); err != nil {
		t.Errorf("put right: %v", err)
	}

	// The audit finds it before any mail does.
	write(other)
	findings, err := d.Keyd.Audit(t.Context())
	if i := slices.IndexFunc(findings, func(f hsm.Finding) bool { return f.ID == a.open.ID }); err != nil || i < 0 || findings[i].Served || len(findings[i].Faults) == 0 {
		t.Errorf("audit: got %+v, %v", findings, err)
	}
	write(whole)
	if _, err := d.Keyd.Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Keyd.Retire(t.Context(), a.sign.ID); err != nil {
		t.Fatal(err)
	}
	if err := a.works(t, d.Keyd); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("retired: got %v want %v", err, hsm.ErrRefused)
	}
	for _, key := range []hsm.Key{a.sign, a.open} {
		if err := d.Keyd.Destroy(t.Context(), key.ID); err != nil {
			t.Errorf("destroy: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, key.ID.String()+".wrapped")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its file: got %v want none", err)
		}
	}
	if _, err := d.Keyd.Unwrap(t.Context(), a.open.ID, a.wrapped); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("destroyed: got %v want %v", err, hsm.ErrNoKey)
	}
	if err := b.works(t, d.Keyd); err != nil {
		t.Errorf("another key: %v", err)
	}
}
