package keyd_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// liar is a device that makes something else than it was asked for.
type liar struct{ *switchboard }

func (l liar) Sign(id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	sig, err := l.switchboard.Sign(id, alg, digest)
	if len(sig) > 0 {
		sig[len(sig)-1] ^= 1
	}
	return sig, err
}

func (l liar) Generate(s hsm.KeySpec) (hsm.Key, error) {
	if s.Label == "smaller" {
		s.Algorithm = hsm.P256
	}
	return l.switchboard.Generate(s)
}

// TestLiar: a signature that does not verify and a key that is not the one
// that was asked for never leave the daemon.
func TestLiar(t *testing.T) {
	d := start(t, liar{newSwitchboard(hsmtest.NewSoft())}, hsmtest.SoftPIN, hsm.Ready)
	for algorithm, alg := range map[hsm.Algorithm]hsm.SignAlg{hsm.RSA2048: hsm.PKCS1SHA256, hsm.P384: hsm.ECDSA, hsm.Ed25519: hsm.PureEdDSA} {
		key := generate(t, d.Keyd, algorithm, hsm.Sign, string(algorithm))
		if sig, err := d.Keyd.Sign(t.Context(), key.ID, alg, digest[:]); !errors.Is(err, hsm.ErrOpaque) || sig != nil {
			t.Errorf("%s: got %x, %v, want %v", algorithm, sig, err, hsm.ErrOpaque)
		}
	}
	if _, err := d.Keyd.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P521, Usage: hsm.Sign, Label: "smaller"}); !errors.Is(err, hsm.ErrOpaque) {
		t.Errorf("generate: got %v, want %v", err, hsm.ErrOpaque)
	}
}

// TestGenerateRequests: keys that no token should make are refused before it
// is asked.
func TestGenerateRequests(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	soft.fail(errors.New("the token was asked"), "Generate")
	for name, s := range map[string]hsm.KeySpec{
		"no algorithm":       {Usage: hsm.Sign, Label: "x"},
		"weak RSA":           {Algorithm: "rsa-1024", Usage: hsm.Sign, Label: "x"},
		"no usage":           {Algorithm: hsm.P256, Label: "x"},
		"Ed25519 to unwrap":  {Algorithm: hsm.Ed25519, Usage: hsm.Unwrap, Label: "x"},
		"X25519 to sign":     {Algorithm: hsm.X25519, Usage: hsm.Sign, Label: "x"},
		"no label":           {Algorithm: hsm.P256, Usage: hsm.Sign},
		"label of two lines": {Algorithm: hsm.P256, Usage: hsm.Sign, Label: "a\nb"},
		"long label":         {Algorithm: hsm.P256, Usage: hsm.Sign, Label: strings.Repeat("x", hsm.MaxLabel+1)},
	} {
		if _, err := d.Keyd.Generate(t.Context(), s); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, hsm.ErrInvalid)
		}
	}
}

// TestOneAtATime: keys are made one after the other; who stops waiting for the
// turn gets none made.
func TestOneAtATime(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	reached, release := make(chan struct{}), make(chan struct{})
	wait := func(method string) error {
		if method == "Generate" {
			reached <- struct{}{}
			<-release
		}
		return nil
	}
	soft.fault.Store(&wait)
	first := make(chan error, 1)
	go func() {
		first <- second(d.Keyd.Generate(context.Background(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "first"}))
	}()
	<-reached
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		left <- second(d.Keyd.Generate(ctx, hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "second"}))
	}()
	cancel()
	if err := <-left; !errors.Is(err, hsm.ErrAway) || !errors.Is(err, context.Canceled) {
		t.Errorf("who left: got %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("who was first: %v", err)
	}
	if keys, err := d.Keyd.Keys(t.Context()); err != nil || len(keys) != 1 {
		t.Errorf("got %v, %v, want one key", keys, err)
	}
}
