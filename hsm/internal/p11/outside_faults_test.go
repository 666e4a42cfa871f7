package p11

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/shelf"
)

// files are the names on the shelf.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A token that fails while a key is opened is not taken for a broken key, and a
// key that does not open not for a broken token.
func TestWrappedFaults(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok, _ := shelved(t, s.Fixture)
	a := generateWrapped(t, tok, hsm.P256, hsm.Sign, "a")
	b := generateWrapped(t, tok, hsm.P256, hsm.Unwrap, "b")
	for _, c := range []struct {
		name  string
		rules []string
		want  error // nil: it works all the same
	}{
		{"full once", []string{fmt.Sprintf("C_UnwrapKey %#x 1", pkcs11.CKR_DEVICE_MEMORY)}, nil},
		{"full", []string{fmt.Sprintf("C_UnwrapKey %#x", pkcs11.CKR_DEVICE_MEMORY)}, hsm.ErrBusy},
		{"general error", []string{"C_UnwrapKey 0x5 1"}, hsm.ErrBroken},
		{"general error of a token that is ill", []string{"C_UnwrapKey 0x5 1", "C_GetTokenInfo 0x30"}, hsm.ErrAway},
		{"pulled", []string{fmt.Sprintf("C_UnwrapKey %#x", pkcs11.CKR_DEVICE_REMOVED)}, hsm.ErrAway},
		{"no session", []string{fmt.Sprintf("C_UnwrapKey %#x", pkcs11.CKR_SESSION_HANDLE_INVALID)}, hsm.ErrAway},
		{"pulled at the audit", []string{fmt.Sprintf("C_WrapKey %#x", pkcs11.CKR_DEVICE_REMOVED)}, hsm.ErrAway},
		{"pulled at the use", []string{fmt.Sprintf("C_DeriveKey %#x", pkcs11.CKR_DEVICE_REMOVED)}, hsm.ErrAway},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := reopen(tok, s.PIN); err != nil {
				t.Fatal(err)
			}
			if err := exercise(tok, a); err != nil {
				t.Fatal(err)
			}
			s.Set(c.rules...)
			err := exercise(tok, b)
			s.Set()
			if !errors.Is(err, c.want) || errors.Is(err, hsm.ErrBroken) != (c.want == hsm.ErrBroken) || err != nil && !hsm.Temporary(err) {
				t.Errorf("got %v want %v", err, c.want)
			}
			tok.notes = map[hsm.KeyID]note{} // of the one that was taken for broken
			if err := reopen(tok, s.PIN); err != nil {
				t.Fatal(err)
			}
			for _, k := range []hsm.Key{a, b} {
				if err := exercise(tok, k); err != nil {
					t.Errorf("%s afterwards: %v", k.Label, err)
				}
			}
		})
	}
}

// A making that fails leaves no file, and nothing in the token but the wrapping
// key.
func TestWrappedMakingFails(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok, dir := shelved(t, s.Fixture)
	for _, rule := range []string{
		"C_GenerateKey 0x5 1", "C_GenerateKeyPair 0x5 1", "C_GetAttributeValue 0x5", "C_WrapKey 0x5", "C_WrapKey 0x69",
		"C_UnwrapKey 0x5", "C_DestroyObject 0x5", "C_DestroyObject 0x5 1 1", "C_SignInit 0x5", "C_Sign 0x5",
	} {
		s.Set(rule)
		_, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "new", Wrapped: true})
		s.Set()
		if names := files(t, dir); err == nil || len(names) != 0 {
			t.Errorf("%s: got files %v, %v want none and an error", rule, names, err)
		}
		if err := reopen(tok, s.PIN); err != nil {
			t.Fatal(err)
		}
		if n := sessionKeys(t, tok); n != 0 {
			t.Errorf("%s: %d keys are left in the token", rule, n)
		}
		if served, findings, err := tok.Load(); err != nil || len(served)+len(findings) != 0 {
			t.Errorf("%s: got %+v, %+v, %v want nothing", rule, served, findings, err)
		}
	}
	// One that cannot be written is not served either.
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "new", Wrapped: true}); err == nil {
		t.Error("made without a place to be written to")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := exercise(tok, generateWrapped(t, tok, hsm.P256, hsm.Sign, "new")); err != nil {
		t.Error(err)
	}
}

// A wrapping key that somebody else knows, or that does more than wrapping (R33),
// is told, wraps nothing, and what it has wrapped is not served.
func TestWrappingKeys(t *testing.T) {
	tok, dir := shelved(t, hsmtest.SoftHSM(t))
	plant := func(m *module, flags ...flag) {
		t.Helper()
		list := map[uint]bool{
			pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_MODIFIABLE: false,
			pkcs11.CKA_ENCRYPT: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_WRAP: true, pkcs11.CKA_UNWRAP: true,
		}
		for _, f := range flags {
			list[f.typ] = f.value
		}
		template := []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, bytes.Repeat([]byte{1}, 32)), pkcs11.NewAttribute(pkcs11.CKA_LABEL, wrappingLabel),
			pkcs11.NewAttribute(pkcs11.CKA_ID, newCKA(hsm.Unwrap)),
		}
		for typ, v := range list {
			template = append(template, pkcs11.NewAttribute(typ, v))
		}
		err := m.pool.with(func(s pkcs11.SessionHandle) error { return second(m.ctx.CreateObject(s, template)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	plant(tok.m)
	plant(tok.m, flag{pkcs11.CKA_DECRYPT, true})
	_, findings, err := tok.Load()
	if err != nil || len(findings) != 2 {
		t.Fatalf("got %+v, %v want two findings", findings, err)
	}
	for _, f := range findings {
		if f.Label != wrappingLabel || f.Served || !slices.Contains(f.Faults, "CKA_LOCAL is false") || !slices.Contains(f.Faults, "with the PIN it opens a ciphertext to a key that can be read") {
			t.Errorf("got %+v", f)
		}
	}
	if !slices.ContainsFunc(findings, func(f hsm.Finding) bool { return slices.Contains(f.Faults, "CKA_DECRYPT is true") }) {
		t.Errorf("got %+v want one that decrypts", findings)
	}
	k := generateWrapped(t, tok, hsm.P256, hsm.Sign, "new")
	own := shelf.New(dir).Get(k.ID)
	if w := tok.m.wrappingOf(own.Wrapping); w == nil || len(w.faults) > 0 {
		t.Errorf("it was wrapped by %+v", w)
	}
	bad := tok.m.wraps[slices.IndexFunc(tok.m.wraps, func(w wrapping) bool { return len(w.faults) > 0 })]
	change(t, dir, k, func(r *shelf.Record) { r.Wrapping = bad.cka })
	_, findings, err = tok.Load()
	if f := findingOf(findings, "new"); err != nil || f.Served || !strings.Contains(strings.Join(f.Faults, ";"), "the key that opens it is not as it must be: ") {
		t.Errorf("got %+v, %v", f, err)
	}
}

// No piece of a private key stands in its file. The test knows them because its
// wrapping key, for once, lets them out.
func TestWrappedMarker(t *testing.T) {
	tok, dir := shelved(t, hsmtest.SoftHSM(t), importedToo)
	loose := *tok.m.profile
	loose.unwrapTemplate = false
	tok.m.profile = &loose
	for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.P256} {
		k := generateWrapped(t, tok, a, hsm.Sign, string(a))
		b := shelf.New(dir).Get(k.ID)
		kind, secrets := uint(pkcs11.CKK_EC), []uint{pkcs11.CKA_VALUE}
		if a == hsm.RSA2048 {
			kind, secrets = pkcs11.CKK_RSA, []uint{pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1, pkcs11.CKA_PRIME_2, pkcs11.CKA_EXPONENT_1, pkcs11.CKA_EXPONENT_2, pkcs11.CKA_COEFFICIENT}
		}
		var pieces []*pkcs11.Attribute
		err := tok.m.pool.with(func(s pkcs11.SessionHandle) error {
			o, err := tok.m.ctx.UnwrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(uint(b.Mechanism), nil)}, tok.m.wrappingOf(b.Wrapping).handle, b.Ciphertext, append(
				[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind)},
				of([]flag{{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_SENSITIVE, false}, {pkcs11.CKA_EXTRACTABLE, true}})...))
			if err != nil {
				return err
			}
			defer tok.m.ctx.DestroyObject(s, o)
			pieces, err = tok.m.ctx.GetAttributeValue(s, o, ask(secrets...))
			return err
		})
		if err != nil || len(pieces) != len(secrets) {
			t.Fatalf("%s: got %d pieces, %v", a, len(pieces), err)
		}
		control := filepath.Join(t.TempDir(), "control")
		if err := os.WriteFile(control, pieces[0].Value, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{fileOf(dir, k), control} {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range pieces {
				for i := 0; i+16 <= len(p.Value); i++ { // sixteen bytes of any of them
					found = found || bytes.Contains(data, p.Value[i:i+16])
				}
			}
			if found != (path == control) {
				t.Errorf("%s: pieces of the private key in %s: got %t", a, path, found)
			}
		}
	}
}

// What the first use of a key that is kept outside costs, and later ones.
func BenchmarkWrapped(b *testing.B) {
	f := hsmtest.QuickSoftHSM(b)
	dir := filepath.Join(b.TempDir(), "wrapped")
	tok := ready(b, f, wrapped(dir))
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.RSA3072} {
		for _, u := range []hsm.Usage{hsm.Sign, hsm.Unwrap} {
			inside := generate(b, tok, a, u)
			outside := generateWrapped(b, tok, a, u, fmt.Sprintf("wrapped/%s/%s", a, u))
			use := func(b *testing.B, k hsm.Key) {
				var err error
				switch {
				case u == hsm.Sign:
					_, err = tok.Sign(k.ID, signAlg(a), make([]byte, 32))
				case a == hsm.P256:
					var point []byte
					if point, _, err = peer(&key{Key: k}); err == nil {
						_, err = tok.ECDH(k.ID, point)
					}
				default:
					_, _, err = tok.Decrypt(k.ID, append([]byte{1}, make([]byte, 383)...))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			name := string(a) + "/" + u.String()
			b.Run(name+"/resident", func(b *testing.B) {
				for b.Loop() {
					use(b, inside)
				}
			})
			b.Run(name+"/open", func(b *testing.B) {
				for b.Loop() {
					use(b, outside)
				}
			})
			b.Run(name+"/first", func(b *testing.B) {
				for b.Loop() {
					tok.m.vault.clear()
					use(b, outside)
				}
			})
		}
	}
}

// A module that says of an opened key that it may leave (R33): such a key is not
// used, and none is made.
func TestWrappedExtractable(t *testing.T) {
	tok, dir := shelved(t, hsmtest.NSS(t), importedToo) // NSS wraps out what it has opened
	k := generateWrapped(t, tok, hsm.P256, hsm.Sign, "key")
	tok.c.AllowImported = false
	tok.m.vault.clear()
	if err := exercise(tok, k); !errors.Is(err, hsm.ErrBroken) || !strings.Contains(err.Error(), "the key can be wrapped out by mechanism") {
		t.Errorf("got %v want %v", err, hsm.ErrBroken)
	}
	if served, findings, err := tok.Load(); err != nil || len(served) != 0 || len(findingOf(findings, "key").Faults) == 0 {
		t.Errorf("got %+v, %+v, %v want nothing served", served, findings, err)
	}
	if _, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "new", Wrapped: true}); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("generate: got %v want %v", err, hsm.ErrInvalid)
	}
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("got files %v want one", names)
	}
}
