package p11

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
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
