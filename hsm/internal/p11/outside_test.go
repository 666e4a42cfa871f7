package p11

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/shelf"
)

// wrapped lets a token keep keys outside, in a folder of the test.
func wrapped(dir string, more ...func(*Config)) func(*Config) {
	return func(c *Config) {
		c.AllowWrapped, c.Shelf = true, dir
		for _, do := range more {
			do(c)
		}
	}
}

func generateWrapped(t testing.TB, tok *Token, a hsm.Algorithm, u hsm.Usage, label string) hsm.Key {
	t.Helper()
	k, err := tok.Generate(hsm.KeySpec{Algorithm: a, Usage: u, Label: label, Wrapped: true})
	if err != nil {
		t.Fatalf("generate wrapped %s to %s: %v", a, u, err)
	}
	if k.Class != hsm.OutsideWrapped || k.Usage != u || k.Label != label || hsm.AlgorithmOf(k.Public) != a {
		t.Fatalf("generated %+v", k)
	}
	return k
}

// Every algorithm that a module wraps: generate, use, load anew in a new
// process's place, use, destroy. SoftHSM wraps no Edwards and no Montgomery keys
// and says so; NSS needs leave for copies, since it wraps out what it unwraps.
func TestWrappedAlgorithms(t *testing.T) {
	for _, module := range []struct {
		name    string
		fixture func(testing.TB) *hsmtest.Fixture
		copies  bool
		lacks   []hsm.Algorithm
	}{
		{"softhsm", hsmtest.SoftHSM, false, []hsm.Algorithm{hsm.Ed25519, hsm.X25519}},
		{"nss", hsmtest.NSS, true, []hsm.Algorithm{hsm.Ed25519, hsm.X25519}},
	} {
		t.Run(module.name, func(t *testing.T) {
			f := module.fixture(t)
			tok := ready(t, f, wrapped(filepath.Join(t.TempDir(), "wrapped"), func(c *Config) { c.AllowImported = module.copies }))
			var made []hsm.Key
			for _, p := range pairs {
				if p.algorithm == hsm.RSA3072 && p.usage == hsm.Sign || p.algorithm == hsm.RSA4096 && p.usage == hsm.Unwrap {
					continue // made in seconds, and told by the others
				}
				spec := hsm.KeySpec{Algorithm: p.algorithm, Usage: p.usage, Label: fmt.Sprintf("test/%s/%s", p.algorithm, p.usage), Wrapped: true}
				if slices.Contains(module.lacks, p.algorithm) {
					if _, err := tok.Generate(spec); !errors.Is(err, hsm.ErrInvalid) {
						t.Errorf("generate wrapped %s: got %v want %v", p.algorithm, err, hsm.ErrInvalid)
					}
					continue
				}
				k := generateWrapped(t, tok, p.algorithm, p.usage, spec.Label)
				if err := exercise(tok, k); err != nil {
					t.Errorf("%s to %s: %v", p.algorithm, p.usage, err)
				}
				if _, err := tok.Generate(spec); !errors.Is(err, hsm.ErrExists) {
					t.Errorf("generate %s to %s again: got %v want %v", p.algorithm, p.usage, err, hsm.ErrExists)
				}
				made = append(made, k)
			}
			if err := reopen(tok, f.PIN); err != nil {
				t.Fatal(err)
			}
			keys, findings, err := tok.Load()
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) != len(made) {
				t.Errorf("loaded %d keys, want %d: %+v", len(keys), len(made), findings)
			}
			for _, f := range findings {
				if f.Label == wrappingLabel && module.copies && strings.Contains(strings.Join(f.Faults, " "), "with the PIN it opens a ciphertext") {
					continue
				}
				if !f.Served || f.Class != hsm.OutsideWrapped || len(f.Faults) > 0 {
					t.Errorf("finding %+v", f)
				}
			}
			for _, k := range made {
				if err := exercise(tok, k); err != nil {
					t.Errorf("%s after loading: %v", k.Label, err)
				}
				if err := tok.Destroy(k.ID); err != nil {
					t.Errorf("destroy %s: %v", k.Label, err)
				}
				if err := exercise(tok, k); !errors.Is(err, hsm.ErrNoKey) {
					t.Errorf("%s after it was destroyed: got %v want %v", k.Label, err, hsm.ErrNoKey)
				}
			}
			if keys, _, err := tok.Load(); err != nil || len(keys) != 0 {
				t.Errorf("after all were destroyed: got %d keys, %v", len(keys), err)
			}
		})
	}
}

// shelved is a SoftHSM token that keeps keys outside, with the folder of them.
func shelved(t *testing.T, f *hsmtest.Fixture, more ...func(*Config)) (*Token, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wrapped")
	return ready(t, f, wrapped(dir, more...)), dir
}

func fileOf(dir string, k hsm.Key) string { return filepath.Join(dir, k.ID.String()+".wrapped") }

// change rewrites the file of a key.
func change(t testing.TB, dir string, k hsm.Key, do func(r *shelf.Record)) {
	t.Helper()
	data, err := os.ReadFile(fileOf(dir, k))
	if err != nil {
		t.Fatal(err)
	}
	r, err := shelf.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	do(&r)
	if data, err = r.Marshal(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fileOf(dir, k), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// sessionKeys counts the private keys that are in the token for a session only.
func sessionKeys(t testing.TB, tok *Token) (n int) {
	t.Helper()
	err := tok.m.pool.with(func(s pkcs11.SessionHandle) error {
		all, err := tok.m.objects(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
		n = len(all)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Many keys in few places, from many goroutines: each works, and never more are
// open than there are places. A scan of the token takes none of them for its own.
func TestWrappedMany(t *testing.T) {
	tok, _ := shelved(t, hsmtest.QuickSoftHSM(t), func(c *Config) { c.Open, c.Workers = 4, 3 })
	var keys []hsm.Key
	for i := range 24 {
		keys = append(keys, generateWrapped(t, tok, hsm.P256, hsm.Usage(1+i%2), fmt.Sprintf("user/%d", i)))
	}
	keys = append(keys, generateWrapped(t, tok, hsm.RSA2048, hsm.Unwrap, "user/rsa"), generate(t, tok, hsm.P256, hsm.Sign))
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() {
			for i := range 3 * len(keys) {
				k := keys[(i*(2*n+1)+n)%len(keys)]
				if err := exercise(tok, k); err != nil {
					t.Errorf("%s: %v", k.Label, err)
				}
			}
		})
	}
	group.Wait()
	if n := sessionKeys(t, tok); n == 0 || n > 4 {
		t.Errorf("got %d open keys want 1 to 4", n)
	}
	if served, findings, err := tok.Load(); err != nil || len(served) != len(keys) || len(findings) != len(keys) {
		t.Errorf("load: got %d keys, %d findings, %v want %d", len(served), len(findings), err, len(keys))
	}
	if n := sessionKeys(t, tok); n != 0 {
		t.Errorf("after loading: got %d open keys want none", n)
	}
	if err := tok.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
}

// What a thief with the PIN gets of a key that is kept outside (R33): nothing that can
// be read, not by the key while it is open, and not by its ciphertext.
func TestWrappedStays(t *testing.T) {
	tok, dir := shelved(t, hsmtest.SoftHSM(t))
	for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.P256} {
		k := generateWrapped(t, tok, a, hsm.Sign, string(a))
		b := shelf.New(dir).Get(k.ID)
		err := tok.m.on(tok.m.keys[k.ID], func(s pkcs11.SessionHandle, open *key) error {
			thief, err := tok.m.thief(s)
			if err != nil {
				return err
			}
			defer thief.end()
			kind := uint(pkcs11.CKK_EC)
			if a == hsm.RSA2048 {
				kind = pkcs11.CKK_RSA
			}
			if readable, out, err := thief.rob(open.priv, kind); readable || out != "" || err != nil || len(thief.with) == 0 {
				t.Errorf("%s: readable %t, wrapped out by %q, %v", a, readable, out, err)
			}
			w := tok.m.wrappingOf(b.Wrapping)
			mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(uint(b.Mechanism), nil)}
			base := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind)}
			for name, flags := range map[string][]flag{
				"readable":       {{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, false}, {pkcs11.CKA_EXTRACTABLE, true}, {pkcs11.CKA_MODIFIABLE, false}},
				"extractable":    {{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_EXTRACTABLE, true}, {pkcs11.CKA_MODIFIABLE, false}},
				"for good":       {{pkcs11.CKA_TOKEN, true}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_EXTRACTABLE, false}, {pkcs11.CKA_MODIFIABLE, false}},
				"says nothing":   nil,
				"to be modified": {{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_EXTRACTABLE, false}, {pkcs11.CKA_MODIFIABLE, true}},
			} {
				if _, err := tok.m.ctx.UnwrapKey(s, mech, w.handle, b.Ciphertext, append(slices.Clone(base), of(flags)...)); err == nil {
					t.Errorf("%s: the ciphertext opens to a key that is %s", a, name)
				}
			}
			// The wrapping key does nothing but that, and stays so.
			for name, err := range map[string]error{
				"decrypts":      tok.m.ctx.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_ECB, nil)}, w.handle),
				"may be let":    tok.m.ctx.SetAttributeValue(s, w.handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true)}),
				"may be copied": second(tok.m.ctx.CopyObject(s, w.handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})),
				"can be read":   second(tok.m.ctx.GetAttributeValue(s, w.handle, ask(pkcs11.CKA_VALUE))),
			} {
				if err == nil {
					t.Errorf("the wrapping key %s", name)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Damage of every kind: the key is refused by the use that meets it, the audit
// says why, and a file that is put right serves again. Other keys go on.
func TestWrappedDamage(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok, dir := shelved(t, f)
	good := generateWrapped(t, tok, hsm.P256, hsm.Sign, "good")
	rsa := generateWrapped(t, tok, hsm.RSA2048, hsm.Unwrap, "rsa")
	curve := generateWrapped(t, tok, hsm.P256, hsm.Unwrap, "ec")
	other := shelf.New(dir).Get(generateWrapped(t, tok, hsm.P256, hsm.Unwrap, "other").ID)
	otherRSA := shelf.New(dir).Get(generateWrapped(t, tok, hsm.RSA2048, hsm.Unwrap, "other-rsa").ID)
	otherCurve := shelf.New(dir).Get(generateWrapped(t, tok, hsm.P384, hsm.Unwrap, "other-curve").ID)
	raw := func(do func(b []byte) []byte) func(k hsm.Key) {
		return func(k hsm.Key) {
			b, err := os.ReadFile(fileOf(dir, k))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(fileOf(dir, k), do(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	record := func(do func(r *shelf.Record)) func(k hsm.Key) { return func(k hsm.Key) { change(t, dir, k, do) } }
	const form, open, wrong = "its file is no key: ", "its ciphertext does not open: ", "another key came out: "
	for _, c := range []struct {
		name   string
		key    hsm.Key
		damage func(k hsm.Key)
		why    string
	}{
		{"empty", curve, raw(func([]byte) []byte { return nil }), form},
		{"truncated", curve, raw(func(b []byte) []byte { return b[:len(b)-7] }), form},
		{"a bit of the file", curve, raw(func(b []byte) []byte { b[len(b)/2] ^= 4; return b }), form},
		{"gone", curve, func(k hsm.Key) { os.Remove(fileOf(dir, k)) }, form},
		{"of another key", curve, raw(func([]byte) []byte { b, _ := other.Marshal(); return b }), form},
		{"a bit of the ciphertext", rsa, record(func(r *shelf.Record) { r.Ciphertext[100] ^= 1 }), open},
		{"end of the ciphertext", rsa, record(func(r *shelf.Record) { r.Ciphertext = r.Ciphertext[:len(r.Ciphertext)-8] }), open},
		{"random ciphertext", curve, record(func(r *shelf.Record) { rand.Read(r.Ciphertext) }), open},
		{"swapped, curve", curve, record(func(r *shelf.Record) { r.Ciphertext = other.Ciphertext }), wrong},
		{"swapped, RSA", rsa, record(func(r *shelf.Record) { r.Ciphertext = otherRSA.Ciphertext }), wrong},
		{"swapped, another curve", curve, record(func(r *shelf.Record) { r.Ciphertext = otherCurve.Ciphertext }), ""},
		{"swapped, another kind", curve, record(func(r *shelf.Record) { r.Ciphertext = otherRSA.Ciphertext }), ""},
		{"swapped, another kind yet", rsa, record(func(r *shelf.Record) { r.Ciphertext = other.Ciphertext }), ""},
		{"another mechanism", curve, record(func(r *shelf.Record) { r.Mechanism = pkcs11.CKM_AES_CBC_PAD }), open},
		{"no mechanism", curve, record(func(r *shelf.Record) { r.Mechanism = 0x7fffffff }), open},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, err := os.ReadFile(fileOf(dir, c.key))
			if err != nil {
				t.Fatal(err)
			}
			if err := exercise(tok, c.key); err != nil {
				t.Fatalf("before: %v", err)
			}
			tok.m.vault.clear()
			c.damage(c.key)
			if err := exercise(tok, c.key); !errors.Is(err, hsm.ErrBroken) || !hsm.Temporary(err) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v want %v: %s", err, hsm.ErrBroken, c.why)
			}
			if err := exercise(tok, good); err != nil {
				t.Errorf("another key: %v", err)
			}
			served, findings, err := tok.Load()
			if err != nil {
				t.Fatal(err)
			}
			if c.name != "gone" {
				i := slices.IndexFunc(findings, func(f hsm.Finding) bool { return f.ID == c.key.ID })
				if i < 0 || findings[i].Served || len(findings[i].Faults) != 1 || !strings.Contains(findings[i].Faults[0], c.why) || findings[i].Class != hsm.OutsideWrapped {
					t.Errorf("finding of it: %+v want %q", findings, c.why)
				}
			}
			if slices.ContainsFunc(served, func(k hsm.Key) bool { return k.ID == c.key.ID }) {
				t.Error("it is served")
			}
			if err := os.WriteFile(fileOf(dir, c.key), whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := tok.Load(); err != nil {
				t.Fatal(err)
			}
			if err := exercise(tok, c.key); err != nil {
				t.Errorf("put right: %v", err)
			}
			if n := sessionKeys(t, tok); n > len(tok.m.vault.at) {
				t.Errorf("got %d open keys, the vault knows %d", n, len(tok.m.vault.at))
			}
		})
	}
}

// The shelf beside another token: nothing of it is served, and all of it is told.
func TestWrappedOtherToken(t *testing.T) {
	tok, dir := shelved(t, hsmtest.SoftHSM(t))
	k := generateWrapped(t, tok, hsm.P256, hsm.Sign, "mine")
	tok.Close()
	f := hsmtest.SoftHSM(t)
	tok = ready(t, f, wrapped(dir))
	own := generateWrapped(t, tok, hsm.P256, hsm.Sign, "own")
	served, findings, err := tok.Load()
	if err != nil || len(served) != 1 || served[0].ID != own.ID {
		t.Errorf("got %+v, %v want the own key", served, err)
	}
	if got := findingOf(findings, "mine"); got.Served || got.ID != k.ID || !slices.Equal(got.Faults, []string{"the key that opens it is not in this token"}) {
		t.Errorf("got %+v", got)
	}
	// Its ciphertext under our wrapping key's name, as somebody would try it.
	wrapping := shelf.New(dir).Get(own.ID).Wrapping
	change(t, dir, k, func(r *shelf.Record) { r.Wrapping = wrapping })
	if served, _, err := tok.Load(); err != nil || len(served) != 2 {
		t.Fatalf("got %d keys, %v", len(served), err)
	}
	if err := exercise(tok, k); !errors.Is(err, hsm.ErrBroken) {
		t.Errorf("got %v want %v", err, hsm.ErrBroken)
	}
	if _, _, err := tok.Load(); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "mine", Wrapped: true}); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("its label: got %v want %v", err, hsm.ErrExists)
	}
	if err := tok.Destroy(k.ID); err != nil {
		t.Errorf("destroy it: %v", err)
	}
	if _, err := os.Stat(fileOf(dir, k)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file: got %v want none", err)
	}
	if err := tok.Destroy(k.ID); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("destroy it again: got %v want %v", err, hsm.ErrNoKey)
	}
	generateWrapped(t, tok, hsm.P256, hsm.Sign, "mine")
}

// Without leave no such key is made, and those that are there are not served.
func TestWrappedNotAllowed(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok, dir := shelved(t, f)
	k := generateWrapped(t, tok, hsm.P256, hsm.Sign, "mine")
	tok.Close()
	tok = ready(t, f, func(c *Config) { c.Shelf = dir })
	served, findings, err := tok.Load()
	if got := findingOf(findings, "mine"); err != nil || len(served) != 0 || got.Served || len(got.Faults) != 1 || !strings.Contains(got.Faults[0], "allow-wrapped is not set") {
		t.Errorf("got %+v, %+v, %v", served, findings, err)
	}
	if err := exercise(tok, k); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("got %v want %v", err, hsm.ErrNoKey)
	}
	if _, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "new", Wrapped: true}); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("generate: got %v want %v", err, hsm.ErrRefused)
	}
}
