//go:build cgo

package openpgp

import (
	"context"
	"testing"

	"postern/filter/keyring"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/module"
)

// daemon speaks with a key daemon as the programs do: operators make keys on
// one socket, the mail side uses them on the other.
type daemon struct {
	hsm.Keeper
	use hsm.Token
}

func (d daemon) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	return d.use.Sign(ctx, id, alg, digest)
}

func (d daemon) Unwrap(ctx context.Context, id hsm.KeyID, w hsm.Wrapped) (hsm.SessionKey, error) {
	return d.use.Unwrap(ctx, id, w)
}

// softHSM is a key daemon over a SoftHSM token.
func softHSM(t testing.TB) hsm.Keeper {
	t.Helper()
	f := hsmtest.SoftHSM(t)
	device, err := module.New(module.Config{Module: f.Module, Token: f.Label})
	if err != nil {
		t.Fatal(err)
	}
	keep, use := hsmtest.NewDaemon(t, device, f.PIN).Open()
	return daemon{keep, use}
}

// Keys of a real module behind the real daemon give the same as keys in memory.
func TestSoftHSM(t *testing.T) {
	token := softHSM(t)
	for _, s := range []suiteUnderTest{suites[1], suites[3], suites[4], suites[6], suites[11]} {
		alice := newIdentity(t, token, s, "alice@company1.example")
		plain := mail(t, plainMail)
		counted := hsmtest.Count(token)
		m, f, err := opening{token: counted, ids: []keyring.Identity{alice}, certs: []keyring.Cert{alice.Cert}}.open(t, seal(t, counted, plain, &alice, alice.Cert))
		if err != nil || f.Reason != protect.ReasonGood || canonical(t, m) != canonical(t, plain) {
			t.Errorf("%s: got %+v, %v", s, f, err)
		}
		if counted.Signs() != 1 || counted.Unwraps() != 1 {
			t.Errorf("%s: %d signatures and %d unwrappings, want one each", s, counted.Signs(), counted.Unwraps())
		}
	}
}

func BenchmarkSoftHSM(b *testing.B) {
	token := softHSM(b)
	s := suiteUnderTest{hsm.RSA3072, hsm.RSA3072, false}
	alice := newIdentity(b, token, s, "alice@company1.example")
	sealed := seal(b, token, benchMail(b, 4<<10), &alice, alice.Cert)
	p := New(Config{Token: token})
	b.Run("open/4KiB/rsa3072", func(b *testing.B) {
		r := protect.OpenRequest{Message: sealed, Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{alice.Cert}, At: now, NewSpool: spools(b)}
		for b.Loop() {
			if _, _, err := p.Open(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("seal/4KiB/rsa3072", func(b *testing.B) {
		r := protect.SealRequest{Message: benchMail(b, 4<<10), Signer: &alice, Recipients: []keyring.Cert{alice.Cert}, At: now, NewSpool: spools(b)}
		for b.Loop() {
			if _, err := p.Seal(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("token/sign/rsa3072", func(b *testing.B) {
		digest := make([]byte, 32)
		for b.Loop() {
			if _, err := token.Sign(b.Context(), alice.KeyIDs[0], hsm.PKCS1SHA256, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}
