package p11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// operations makes one key for each way into the module. The first goes
// through crypto11, the others through sessions of our own.
func operations(t *testing.T, tok *Token) map[string]func() error {
	t.Helper()
	p256, ed := generate(t, tok, hsm.P256, hsm.Sign), generate(t, tok, hsm.Ed25519, hsm.Sign)
	enc, dh := generate(t, tok, hsm.RSA2048, hsm.Unwrap), generate(t, tok, hsm.P256, hsm.Unwrap)
	_, c, err := sealed(enc.Public.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	point, _, err := peer(&key{Key: dh})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func() error{
		"sign":    func() error { _, err := tok.Sign(p256.ID, hsm.ECDSA, make([]byte, 32)); return err },
		"ed25519": func() error { _, err := tok.Sign(ed.ID, hsm.PureEdDSA, make([]byte, 32)); return err },
		"decrypt": func() error { _, _, err := tok.Decrypt(enc.ID, c); return err },
		"agree":   func() error { _, err := tok.ECDH(dh.ID, point); return err },
	}
}

// Whatever a module that is ill answers, every operation says that the token
// is away, which defers the mail; none blames key or input. Once the module is
// well and opened anew, all works again, with one login.
func TestDeviceFaults(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture)
	ops := operations(t, tok)
	for _, c := range []struct {
		name string
		code uint
	}{
		{"host memory", pkcs11.CKR_HOST_MEMORY},
		{"general", pkcs11.CKR_GENERAL_ERROR},
		{"function failed", pkcs11.CKR_FUNCTION_FAILED},
		{"device", pkcs11.CKR_DEVICE_ERROR},
		{"device memory", pkcs11.CKR_DEVICE_MEMORY},
		{"removed", pkcs11.CKR_DEVICE_REMOVED},
		{"no token", pkcs11.CKR_TOKEN_NOT_PRESENT},
		{"session closed", pkcs11.CKR_SESSION_CLOSED},
		{"session handle", pkcs11.CKR_SESSION_HANDLE_INVALID},
		{"object handle", pkcs11.CKR_OBJECT_HANDLE_INVALID},
		{"key handle", pkcs11.CKR_KEY_HANDLE_INVALID},
		{"logged out", pkcs11.CKR_USER_NOT_LOGGED_IN},
		{"not initialised", pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED},
		{"vendor", pkcs11.CKR_VENDOR_DEFINED + 7},
	} {
		s.Set(fmt.Sprintf("* 0x%x", c.code))
		for name, do := range ops {
			if err := do(); !errors.Is(err, hsm.ErrAway) || !hsm.Temporary(err) || errors.Is(err, hsm.ErrOpaque) {
				t.Errorf("%s, %s: got %v want %v", c.name, name, err, hsm.ErrAway)
			}
		}
		if err := tok.Health(); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%s, health: got %v want %v", c.name, err, hsm.ErrAway)
		}
		if st, err := tok.Info(); !errors.Is(err, hsm.ErrAway) || st.State != hsm.Failed {
			t.Errorf("%s, info: got %s, %v want %s, %v", c.name, st.State, err, hsm.Failed, hsm.ErrAway)
		}
		s.Set()
		before := s.Calls("C_Login")
		if err := reopen(tok, s.PIN); err != nil {
			t.Fatalf("%s: open anew: %v", c.name, err)
		}
		if got := s.Calls("C_Login") - before; got != 1 {
			t.Errorf("%s: %d logins to open anew, want 1", c.name, got)
		}
		for name, do := range ops {
			if err := do(); err != nil {
				t.Errorf("%s, %s after opening anew: %v", c.name, name, err)
			}
		}
	}
}

// A session in which something went wrong is never used again: an operation
// may be pending in it. One fault costs one operation, whichever of our two
// pools the session came from, and crypto11 never finalises the module while
// it sheds sessions.
func TestFailedSessionDropped(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture, func(c *Config) { c.Workers = 1 })
	ops := operations(t, tok)
	finalized := s.Calls("C_Finalize")
	for _, c := range []struct{ op, function string }{
		{"sign", "C_Sign"}, {"ed25519", "C_Sign"}, {"decrypt", "C_Decrypt"}, {"agree", "C_DeriveKey"}, {"agree", "C_DestroyObject"},
	} {
		do := ops[c.op]
		for skip := range 2 { // the length query, and the operation itself
			s.Set(fmt.Sprintf("%s 0x%x 1 %d", c.function, pkcs11.CKR_FUNCTION_FAILED, skip))
			closed := s.Calls("C_CloseSession")
			if err := do(); err == nil && !(skip == 1 && c.op == "agree") {
				t.Errorf("%s, %s fails: got no error", c.op, c.function)
			} else if err != nil && s.Calls("C_CloseSession") == closed {
				t.Errorf("%s, %s fails: the session was kept", c.op, c.function)
			}
			s.Set()
			for range 3 {
				if err := do(); err != nil {
					t.Errorf("%s after %s failed: %v", c.op, c.function, err)
				}
			}
		}
	}
	// A session that comes poisoned from elsewhere costs nothing.
	for name, rule := range map[string]string{"sign": "C_SignInit", "ed25519": "C_SignInit", "decrypt": "C_DecryptInit", "agree": "C_DeriveKey"} {
		s.Set(fmt.Sprintf("%s 0x%x 1", rule, pkcs11.CKR_OPERATION_ACTIVE))
		if err := ops[name](); err != nil {
			t.Errorf("%s on a poisoned session: %v", name, err)
		}
	}
	s.Set()
	if got := s.Calls("C_Finalize"); got != finalized {
		t.Errorf("the module was finalised %d times while it was in use", got-finalized)
	}
	if err := tok.Close(); err != nil {
		t.Error(err)
	}
	if got := s.Calls("C_Finalize"); got != finalized+1 {
		t.Errorf("close finalised the module %d times, want 1", got-finalized)
	}
}

// Many callers share few sessions, and idle ones are used again.
func TestSessionsBounded(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	const workers = 3
	tok := ready(t, s.Fixture, func(c *Config) { c.Workers = workers })
	ops := operations(t, tok)
	var group sync.WaitGroup
	for range 20 {
		for _, do := range ops {
			group.Go(func() {
				for range 5 {
					if err := do(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	// workers+1 for each of the two pools, and the anchor.
	if got := s.Calls("C_OpenSession") - s.Calls("C_CloseSession"); got > 2*(workers+1)+1 {
		t.Errorf("%d sessions are open, want %d at most", got, 2*(workers+1)+1)
	}
	if got := s.Calls("C_OpenSession"); got > 40 {
		t.Errorf("%d sessions were opened for 400 operations", got)
	}
}

// A token whose every worker hangs answers that it is busy, after a while.
func TestTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(nil, 0, 1)
		if err := p.enter(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := p.enter(); !errors.Is(err, hsm.ErrBusy) || time.Since(begun) != patience {
			t.Errorf("got %v after %v want %v after %v", err, time.Since(begun), hsm.ErrBusy, patience)
		}
		p.leave()
		if err := p.enter(); err != nil {
			t.Errorf("a turn that was given back: %v", err)
		}
	})
}

// A slow operation holds up no other, and Close waits for it.
func TestSlowToken(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture)
	ops := operations(t, tok)
	s.Set("C_Sign delay 1500 1")
	before := s.Calls("C_Sign")
	slow := make(chan error, 1)
	go func() { slow <- ops["ed25519"]() }()
	for deadline := time.Now().Add(10 * time.Second); s.Calls("C_Sign") == before; {
		if time.Now().After(deadline) {
			t.Fatal("the slow operation did not begin")
		}
	}
	if err := ops["decrypt"](); err != nil {
		t.Error(err)
	}
	select {
	case err := <-slow:
		t.Errorf("the slow operation ended before the fast one: %v", err)
	default:
	}
	tok.Close()
	select {
	case err := <-slow:
		if err != nil {
			t.Errorf("slow operation: %v", err)
		}
	case <-time.After(time.Second): // it needs a moment to be told
		t.Error("Close did not wait for an operation that ran")
	}
}

// A token that is pulled and put back is dead until it is opened anew; a
// search, a login and new sessions alone do not bring it back.
func TestTokenPulled(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := ready(t, f)
	ops := operations(t, tok)
	check := func(when string) {
		t.Helper()
		for name, do := range ops {
			if err := do(); !errors.Is(err, hsm.ErrAway) {
				t.Errorf("%s, %s: got %v want %v", when, name, err, hsm.ErrAway)
			}
		}
		if err := tok.Health(); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%s, health: got %v want %v", when, err, hsm.ErrAway)
		}
	}
	back := f.Hide()
	check("pulled")
	if err := reopen(tok, f.PIN); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("open what is pulled: got %v want %v, not that there never was one", err, hsm.ErrAway)
	}
	back()
	if err := reopen(tok, f.PIN); err != nil {
		t.Fatalf("open anew: %v", err)
	}
	for name, do := range ops {
		if err := do(); err != nil {
			t.Errorf("%s after opening anew: %v", name, err)
		}
	}
	back = f.Hide()
	check("pulled again")
	back()
	check("back, but not opened anew")
}

// The token is found by label though others come and go, and slots with them.
func TestSlotsChange(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := ready(t, f)
	k := generate(t, tok, hsm.P256, hsm.Sign)
	serial := tok.m.token.SerialNumber
	for _, args := range [][]string{
		{"--init-token", "--free", "--label", "another", "--pin", "1111", "--so-pin", "2222"},
		{"--init-token", "--free", "--label", "third", "--pin", "1111", "--so-pin", "2222"},
		{"--delete-token", "--token", "another"},
	} {
		tok.Close()
		if out, err := exec.Command("softhsm2-util", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		if err := reopen(tok, f.PIN); err != nil {
			t.Fatalf("after %v: %v", args, err)
		}
		if got := tok.m.token.SerialNumber; got != serial {
			t.Errorf("after %v: got token %s want %s", args, got, serial)
		}
		if err := exercise(tok, k); err != nil {
			t.Errorf("after %v: %v", args, err)
		}
	}
}

// In a process where somebody has logged in, a module looks at no PIN. A
// wrong one must not pass for right there, and what is not ours must not be
// ended by us while it holds the module.
func TestLoginElsewhere(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := New(config(t, f))
	defer tok.Close()
	if err := tok.Open(); err != nil {
		t.Fatal(err)
	}
	other := pkcs11.New(f.Module)
	defer other.Destroy()
	if err := other.Initialize(); !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatalf("initialise beside: got %v want CKR_CRYPTOKI_ALREADY_INITIALIZED", err)
	}
	s, err := other.OpenSession(tok.m.slot, sessionFlags)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Login(s, pkcs11.CKU_USER, f.PIN); err != nil {
		t.Fatal(err)
	}
	for _, pin := range []string{"wrong-pin", f.PIN} {
		if err := tok.Login(pin); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("log in with %q: got %v want %v: nothing was checked", pin, err, hsm.ErrAway)
		}
	}
	if _, _, err := tok.Load(); !errors.Is(err, hsm.ErrLocked) {
		t.Errorf("load: got %v want %v", err, hsm.ErrLocked)
	}
	if info, err := other.GetSessionInfo(s); err != nil || info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		t.Errorf("the other's session: got state %d, %v want %d", info.State, err, pkcs11.CKS_RW_USER_FUNCTIONS)
	}
	// Opening anew ends the other's login, and then PINs count again.
	if err := reopen(tok, "wrong-pin"); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("wrong PIN on a module of our own: got %v want %v", err, hsm.ErrPIN)
	}
	if err := reopen(tok, f.PIN); err != nil {
		t.Error(err)
	}
}

// A module that somebody holds already is not taken from him.
func TestModuleInUse(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	other := pkcs11.New(f.Module)
	defer other.Destroy()
	if err := other.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer other.Finalize()
	if err := New(config(t, f)).Open(); !errors.Is(err, hsm.ErrAway) || !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Errorf("got %v want %v for CKR_CRYPTOKI_ALREADY_INITIALIZED", err, hsm.ErrAway)
	}
	if _, err := other.GetInfo(); err != nil {
		t.Errorf("the other's module was ended: %v", err)
	}
}

// Whatever is wrong with a ciphertext of the right size, every module ends the
// same way: with a block that the caller unpads, or, on a module that unpads
// by itself, with hsm.ErrOpaque or garbage, for both of which the caller takes
// a random key. It is never the token's fault, and harms nothing after it.
func TestBadPadding(t *testing.T) {
	for _, module := range modules {
		for _, raw := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s-%t", module.name, raw), func(t *testing.T) {
				f := module.fixture(t)
				tok := ready(t, f, importedToo)
				own := *tok.m.profile
				own.rawRSA = raw
				tok.m.profile = &own
				k := generate(t, tok, hsm.RSA2048, hsm.Unwrap)
				pub := k.Public.(*rsa.PublicKey)
				for _, c := range []struct {
					name  string
					block []byte
				}{
					{"wrong type", append([]byte{0, 1}, filled(254, 0xff)...)},
					{"no end of padding", append([]byte{0, 2}, filled(254, 7)...)},
					{"padding too short", append([]byte{0, 2, 1, 1, 1, 0}, filled(250, 7)...)},
					{"first byte", append([]byte{1, 2}, filled(254, 0)...)},
					{"zero", filled(256, 0)},
					{"one", append(filled(255, 0), 1)},
				} {
					m := new(big.Int).SetBytes(c.block)
					in := new(big.Int).Exp(m, big.NewInt(int64(pub.E)), pub.N).FillBytes(make([]byte, 256))
					got, isRaw, err := tok.Decrypt(k.ID, in)
					switch {
					case raw && (err != nil || !isRaw || !slices.Equal(got, c.block)):
						t.Errorf("%s: got %x, raw %t, %v want the block as it is", c.name, got, isRaw, err)
					case !raw && (isRaw || err != nil && !errors.Is(err, hsm.ErrOpaque)):
						t.Errorf("%s: got raw %t, %v want garbage or %v", c.name, isRaw, err, hsm.ErrOpaque)
					}
				}
				// These never reach the module.
				for name, in := range map[string][]byte{"modulus": pub.N.Bytes(), "too long": filled(300, 1), "all ones": filled(256, 0xff)} {
					if _, _, err := tok.Decrypt(k.ID, in); !errors.Is(err, hsm.ErrOpaque) {
						t.Errorf("%s: got %v want %v", name, err, hsm.ErrOpaque)
					}
				}
				if err := exercise(tok, k); err != nil {
					t.Errorf("a good one after it: %v", err)
				}
			})
		}
	}
}

func filled(n int, b byte) []byte { return slices.Repeat([]byte{b}, n) }

// On a module that unpads by itself, a token that went away is not taken for
// bad padding: that would give up a mail for good.
func TestPulledOrPadding(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture)
	own := *tok.m.profile
	own.rawRSA = false
	tok.m.profile = &own
	do := operations(t, tok)["decrypt"]
	for _, c := range []struct {
		rules []string
		want  error
	}{
		{[]string{"C_Decrypt 0x5 1"}, hsm.ErrOpaque},
		{[]string{"C_Decrypt 0x40 1"}, hsm.ErrOpaque},
		{[]string{"C_Decrypt 0x30 1"}, hsm.ErrAway},
		{[]string{"C_Decrypt 0x5 1", "C_GetTokenInfo 0x32"}, hsm.ErrAway},
		{[]string{"C_Decrypt 0x5 1", "C_GetAttributeValue 0x82"}, hsm.ErrAway},
		{[]string{"C_Decrypt 0x5 1", "C_GetSessionInfo 0xb3"}, hsm.ErrAway},
		{[]string{"C_GetTokenInfo 0x32"}, hsm.ErrAway}, // asked after every message, well or not
	} {
		s.Set(c.rules...)
		if err := do(); !errors.Is(err, c.want) {
			t.Errorf("%q: got %v want %v", c.rules, err, c.want)
		}
	}
	s.Set()
	if err := do(); err != nil {
		t.Error(err)
	}
}

// OAEP with any hash and label comes out of the raw operation, which SoftHSM's
// own OAEP (SHA-1 without a label) could not do.
func TestOAEPIsRaw(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	priv := rsaKey(t, 2048)
	id := f.Import("oaep", hsm.Unwrap, priv)
	tok := ready(t, f, importedToo)
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &priv.PublicKey, []byte("session key"), []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	want := new(big.Int).Exp(new(big.Int).SetBytes(c), priv.D, priv.N).FillBytes(make([]byte, 256))
	if got, raw, err := tok.Decrypt(id, c); err != nil || !raw || !slices.Equal(got, want) {
		t.Errorf("got %x, raw %t, %v want %x", got, raw, err, want)
	}
}

// A signing key decrypts nothing and an unwrapping key signs nothing, also
// when the module itself is asked past our own check. NSS is the exception: it
// derives with any EC key, so only our check stands before that.
func TestOneUsage(t *testing.T) {
	for _, module := range modules {
		t.Run(module.name, func(t *testing.T) {
			tok := ready(t, module.fixture(t), importedToo)
			for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.P256} {
				for _, u := range []hsm.Usage{hsm.Sign, hsm.Unwrap} {
					k := tok.m.keys[generate(t, tok, a, u).ID]
					if _, err := tok.Sign(k.ID, signAlg(a), make([]byte, 32)); u == hsm.Unwrap && !errors.Is(err, hsm.ErrRefused) {
						t.Errorf("sign with %s to %s: got %v want %v", a, u, err, hsm.ErrRefused)
					}
					if _, _, err := tok.Decrypt(k.ID, make([]byte, 256)); u == hsm.Sign && !errors.Is(err, hsm.ErrRefused) {
						t.Errorf("decrypt with %s to %s: got %v want %v", a, u, err, hsm.ErrRefused)
					}
					if _, err := tok.ECDH(k.ID, nil); u == hsm.Sign && !errors.Is(err, hsm.ErrRefused) {
						t.Errorf("agree with %s to %s: got %v want %v", a, u, err, hsm.ErrRefused)
					}
					forbidden := func(what string, do func(pkcs11.SessionHandle) error) {
						if err := tok.m.pool.with(do); err == nil {
							t.Errorf("the module %s with %s to %s", what, a, u)
						}
					}
					ctx := tok.m.ctx
					switch {
					case u == hsm.Unwrap:
						forbidden("signs", func(s pkcs11.SessionHandle) error {
							_, err := tok.m.signOn(s, k, signAlg(a), make([]byte, 32))
							return err
						})
					case a == hsm.RSA2048:
						forbidden("decrypts", func(s pkcs11.SessionHandle) error {
							return ctx.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}, k.priv)
						})
					case module.name != "nss":
						point, _, err := peer(k)
						if err != nil {
							t.Fatal(err)
						}
						forbidden("agrees", func(s pkcs11.SessionHandle) error {
							_, err := tok.m.agreeOn(s, k, point)
							return err
						})
					}
				}
			}
		})
	}
}

// CKA_DESTROYABLE=false is the token's word, and stays it: the key is served
// on after a Destroy that was refused.
func TestNotDestroyable(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	id := f.Import("for good", hsm.Sign, ecKey(t, nist[hsm.P256].curve), hsmtest.Attr{Type: pkcs11.CKA_DESTROYABLE, Value: false})
	tok := ready(t, f, importedToo)
	if err := tok.Destroy(id); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("destroy: got %v want %v", err, hsm.ErrRefused)
	}
	if _, err := tok.Sign(id, hsm.ECDSA, make([]byte, 32)); err != nil {
		t.Errorf("sign afterwards: %v", err)
	}
}
