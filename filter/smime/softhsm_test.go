//go:build cgo

package smime

import (
	"testing"

	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/module"
)

// Keys of a real module behind the real daemon give the same as keys in memory.
func TestSoftHSM(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	device, err := module.New(module.Config{Module: f.Module, Token: f.Label})
	if err != nil {
		t.Fatal(err)
	}
	keep, use := hsmtest.NewDaemon(t, device, f.PIN).Open()
	for _, p := range []pair{{hsm.RSA3072, hsm.RSA3072}, ecPair, {hsm.P384, hsm.P384}, {hsm.Ed25519, hsm.X25519}} {
		for _, style := range []protect.Style{{}, {Cipher: "aes-256-gcm", OAEP: true, PSS: true}} {
			w := &world{TB: t, token: keep, counted: hsmtest.Count(use), ca: newAuthority(t, "Test CA")}
			w.alice = w.ca.person(t, keep, p, "alice@company1.example")
			w.ids = w.alice.both()
			w.config = Config{Token: w.counted, Judge: w.ca.judge(t)}
			_, got, err := w.open(w.seal(mail(t, letter), true, style, w.alice.opens.Cert))
			if err != nil || !got.Good || !got.Opened {
				t.Errorf("%s %+v: got %+v, %v", p, style, got, err)
			}
			if w.counted.Signs() != 1 || w.counted.Unwraps() != 1 {
				t.Errorf("%s: %d signatures and %d unwrappings, want one each", p, w.counted.Signs(), w.counted.Unwraps())
			}
		}
	}
}
