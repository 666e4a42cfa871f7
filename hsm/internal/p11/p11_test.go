package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// config is that of a fixture.
func config(t testing.TB, f *hsmtest.Fixture) Config {
	return Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, Workers: 4, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// ready opens the token of a fixture, logs in and loads its keys.
func ready(t testing.TB, f *hsmtest.Fixture, change ...func(*Config)) *Token {
	t.Helper()
	c := config(t, f)
	for _, do := range change {
		do(&c)
	}
	tok := New(c)
	t.Cleanup(func() { tok.Close() })
	if err := reopen(tok, f.PIN); err != nil {
		t.Fatal(err)
	}
	return tok
}

// reopen is what a caller does after hsm.ErrAway.
func reopen(tok *Token, pin string) error {
	if err := tok.Close(); err != nil {
		return err
	}
	if err := tok.Open(); err != nil {
		return err
	}
	if err := tok.Login(pin); err != nil {
		return err
	}
	_, _, err := tok.Load()
	return err
}

func importedToo(c *Config) { c.AllowImported = true }

func generate(t testing.TB, tok *Token, a hsm.Algorithm, u hsm.Usage) hsm.Key {
	t.Helper()
	k, err := tok.Generate(hsm.KeySpec{Algorithm: a, Usage: u, Label: fmt.Sprintf("test/%s/%s", a, u)})
	if err != nil {
		t.Fatalf("generate %s to %s: %v", a, u, err)
	}
	return k
}

var digests = map[hsm.SignAlg]int{
	hsm.PKCS1SHA256: 32, hsm.PKCS1SHA384: 48, hsm.PKCS1SHA512: 64,
	hsm.PSSSHA256: 32, hsm.PSSSHA384: 48, hsm.PSSSHA512: 64,
}

// exercise does with a key all it is for, and compares with Go's own algorithms.
func exercise(tok *Token, k hsm.Key) error {
	if k.Usage == hsm.Sign {
		return exerciseSign(tok, k)
	}
	if pub, ok := k.Public.(*rsa.PublicKey); ok {
		want, c, err := sealed(pub)
		if err != nil {
			return err
		}
		block, raw, err := tok.Decrypt(k.ID, c)
		return opened(block, raw, want, err)
	}
	point, want, err := peer(&key{Key: k})
	if err != nil {
		return err
	}
	got, err := tok.ECDH(k.ID, point)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("got %x want %x", got, want)
	}
	return err
}

func exerciseSign(tok *Token, k hsm.Key) error {
	try := func(alg hsm.SignAlg, n int) error {
		digest := make([]byte, n)
		rand.Read(digest)
		sig, err := tok.Sign(k.ID, alg, digest)
		if err != nil {
			return fmt.Errorf("algorithm %d with %d bytes: %w", alg, n, err)
		}
		ok := false
		switch pub := k.Public.(type) {
		case *rsa.PublicKey:
			if alg >= hsm.PSSSHA256 {
				ok = rsa.VerifyPSS(pub, alg.Hash(), digest, sig, &rsa.PSSOptions{SaltLength: n}) == nil
			} else {
				ok = rsa.VerifyPKCS1v15(pub, alg.Hash(), digest, sig) == nil
			}
		case *ecdsa.PublicKey:
			ok = ecdsa.VerifyASN1(pub, digest, sig)
		case ed25519.PublicKey:
			ok = ed25519.Verify(pub, digest, sig)
		}
		if !ok {
			return fmt.Errorf("algorithm %d with %d bytes: signature %x does not verify", alg, n, sig)
		}
		return nil
	}
	switch k.Public.(type) {
	case *rsa.PublicKey:
		for alg, n := range digests {
			if err := try(alg, n); err != nil {
				return err
			}
		}
	case *ecdsa.PublicKey:
		for _, n := range []int{32, 48, 64} {
			if err := try(hsm.ECDSA, n); err != nil {
				return err
			}
		}
	case ed25519.PublicKey:
		for _, n := range []int{0, 1, 32, 64, hsm.MaxMessage} {
			if err := try(hsm.PureEdDSA, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// pairs are all keys that can be made.
var pairs = []struct {
	algorithm hsm.Algorithm
	usage     hsm.Usage
}{
	{hsm.RSA2048, hsm.Sign}, {hsm.RSA2048, hsm.Unwrap},
	{hsm.RSA3072, hsm.Sign}, {hsm.RSA3072, hsm.Unwrap},
	{hsm.RSA4096, hsm.Sign}, {hsm.RSA4096, hsm.Unwrap},
	{hsm.P256, hsm.Sign}, {hsm.P256, hsm.Unwrap},
	{hsm.P384, hsm.Sign}, {hsm.P384, hsm.Unwrap},
	{hsm.P521, hsm.Sign}, {hsm.P521, hsm.Unwrap},
	{hsm.Ed25519, hsm.Sign}, {hsm.X25519, hsm.Unwrap},
}

// modules are the implementations that every algorithm is tried on.
var modules = []struct {
	name    string
	fixture func(testing.TB) *hsmtest.Fixture
	profile string
	class   hsm.Class
}{
	{"softhsm", hsmtest.SoftHSM, "softhsm", hsm.Resident},
	{"nss", hsmtest.NSS, "nss-softokn", hsm.Imported}, // it wraps out everything
}

// Every algorithm on every module: generate, use, load anew, use, destroy. What
// a version of it may lack stands in its profile, and works or is refused with
// hsm.ErrInvalid.
func TestAlgorithms(t *testing.T) {
	for _, module := range modules {
		t.Run(module.name, func(t *testing.T) {
			f := module.fixture(t)
			tok := ready(t, f, func(c *Config) { c.AllowImported = module.class == hsm.Imported })
			if got := tok.m.profile.name; got != module.profile {
				t.Fatalf("profile: got %s want %s", got, module.profile)
			}
			mayLack := tok.m.profile.mayLack
			var made []hsm.Key
			for _, p := range pairs {
				spec := hsm.KeySpec{Algorithm: p.algorithm, Usage: p.usage, Label: fmt.Sprintf("test/%s/%s", p.algorithm, p.usage)}
				k, err := tok.Generate(spec)
				if slices.Contains(mayLack, p.algorithm) && errors.Is(err, hsm.ErrInvalid) {
					continue
				}
				if err != nil {
					t.Errorf("generate %s to %s: %v", p.algorithm, p.usage, err)
					continue
				}
				if k.Class != module.class || k.Usage != p.usage || k.Label != spec.Label || hsm.AlgorithmOf(k.Public) != p.algorithm {
					t.Errorf("generated %+v, want %s %+v", k, module.class, spec)
				}
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
			if len(keys) != len(made) || len(findings) != len(made) {
				t.Errorf("loaded %d keys, %d findings, want %d of each", len(keys), len(findings), len(made))
			}
			for _, f := range findings {
				if !f.Served || len(f.Faults) > 0 && module.class == hsm.Resident {
					t.Errorf("finding on %s: %+v", f.Label, f)
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
			if keys, findings, err := tok.Load(); err != nil || len(keys)+len(findings) != 0 {
				t.Errorf("after all were destroyed: got %d keys, %d findings, %v", len(keys), len(findings), err)
			}
		})
	}
}
