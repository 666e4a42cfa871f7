package smime

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/filter/message"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// prover is one whose answer a test writes.
type prover func(ctx context.Context, id hsm.KeyID, info []byte) ([]byte, error)

func (p prover) Prove(ctx context.Context, id hsm.KeyID, info []byte) ([]byte, error) {
	return p(ctx, id, info)
}

// A key that opens has its request too, as Go and OpenSSL read it, and the
// token that mail is signed with has no part in it.
func TestRequestOfOpener(t *testing.T) {
	keeper := soft(t)
	alice := message.Address{Local: "alice", Domain: "company1.example"}
	for _, alg := range []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072, hsm.RSA4096} {
		counted := hsmtest.Count(keeper)
		key := generate(t, keeper, alg, hsm.Unwrap)
		der, err := Request(t.Context(), counted, RequestSpec{Key: key, Subject: pkix.Name{CommonName: "Alice"}, Address: alice, Prover: keeper})
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		r, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.CheckSignature(); err != nil || counted.Signs()+counted.Unwraps() != 0 || !slices.Equal(r.EmailAddresses, []string{alice.Key()}) || r.Subject.CommonName != "Alice" {
			t.Errorf("%s: got %v, %d signatures, %d unwrappings, %q, %s", alg, err, counted.Signs(), counted.Unwraps(), r.EmailAddresses, r.Subject)
		}
		c := exec.Command("openssl", "req", "-inform", "DER", "-noout", "-text", "-verify")
		c.Stdin = bytes.NewReader(der)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s: openssl req: %v", alg, err)
		}
		text := strings.Join(strings.Fields(string(out)), " ")
		for _, want := range []string{"verify OK", "X509v3 Key Usage: critical Key Encipherment X509v3", "E-mail Protection", "email:alice@company1.example"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", alg, want, out)
			}
		}
	}

	key, other := generate(t, keeper, hsm.RSA2048, hsm.Unwrap), generate(t, keeper, hsm.RSA2048, hsm.Unwrap)
	answer := func(err error) Prover {
		return prover(func(context.Context, hsm.KeyID, []byte) ([]byte, error) { return nil, err })
	}
	retired := key
	retired.Retired = true
	asked := false
	for name, c := range map[string]struct {
		spec RequestSpec
		want error
		says string
	}{
		"nobody who proves":      {RequestSpec{Key: key}, hsm.ErrRefused, "public key instead"},
		"a curve":                {RequestSpec{Key: generate(t, keeper, hsm.P256, hsm.Unwrap), Prover: keeper}, hsm.ErrRefused, "public key instead"},
		"X25519":                 {RequestSpec{Key: generate(t, keeper, hsm.X25519, hsm.Unwrap), Prover: keeper}, hsm.ErrRefused, "public key instead"},
		"a retired key":          {RequestSpec{Key: retired, Prover: keeper}, hsm.ErrRefused, "active"},
		"a token that is away":   {RequestSpec{Key: key, Prover: answer(hsm.ErrAway)}, hsm.ErrAway, ""},
		"a module that strips":   {RequestSpec{Key: key, Prover: answer(hsm.ErrInvalid)}, hsm.ErrInvalid, "only what is padded"},
		"a signature of nothing": {RequestSpec{Key: key, Prover: answer(nil)}, nil, ""},
		"a proof of another key": {RequestSpec{Key: key, Prover: prover(func(ctx context.Context, _ hsm.KeyID, info []byte) ([]byte, error) {
			return keeper.Prove(ctx, other.ID, info)
		})}, hsm.ErrRefused, ""},
		"a name beyond the limit": {RequestSpec{Key: key, Subject: pkix.Name{CommonName: strings.Repeat("x", hsm.MaxInfo)}, Prover: prover(func(context.Context, hsm.KeyID, []byte) ([]byte, error) { asked = true; return nil, nil })}, nil, "at most 4096"},
	} {
		c.spec.Address = alice
		der, err := Request(t.Context(), keeper, c.spec)
		if err == nil || der != nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v with %q", name, err, c.want, c.says)
		}
	}
	if asked {
		t.Error("a request beyond the limit was sent")
	}
	// A key that signs needs no prover, and asks none.
	if _, err := Request(t.Context(), keeper, RequestSpec{Key: generate(t, keeper, hsm.RSA2048, hsm.Sign), Address: alice, Prover: answer(hsm.ErrRefused)}); err != nil {
		t.Error(err)
	}
}
