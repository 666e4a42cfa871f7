package p11

import (
	"crypto"
	"errors"
	"testing"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// The habits of crypto11 that this package works around, as v1.6.2 has them.
// Where one of these tests fails after an upgrade, a work-around may go.

// Its templates leave a signing key able to decrypt; the audit refuses such a key.
func TestCrypto11WideTemplates(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	if _, err := tok.m.house.context.GenerateRSAKeyPairWithLabel([]byte("wide"), []byte("wide"), 2048); err != nil {
		t.Fatal(err)
	}
	_, findings, err := tok.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := findingOf(findings, "wide")
	if got.Served || len(got.Faults) == 0 {
		t.Errorf("crypto11's own template: got %+v, want it refused", got)
	}
}

// Its search for all keys fails as a whole where one is Ed25519, and its
// search for one that is not there is an error without a code. Load sees all,
// and the search by CKA_ID finds the others.
func TestCrypto11FindAll(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	ec, ed := generate(t, tok, hsm.P256, hsm.Sign), generate(t, tok, hsm.Ed25519, hsm.Sign)
	if keys, err := tok.m.house.context.FindAllKeyPairs(); err == nil {
		t.Errorf("crypto11 finds %d pairs beside an Ed25519 one: it did not do that before", len(keys))
	}
	if s, err := tok.m.house.context.FindKeyPair([]byte("nowhere"), nil); err == nil || s != nil {
		t.Errorf("a key that is not there: got %v, %v", s, err)
	}
	keys, findings, err := tok.Load()
	if err != nil || len(keys) != 2 || len(findings) != 2 {
		t.Fatalf("load: got %d keys, %d findings, %v want 2, 2", len(keys), len(findings), err)
	}
	for _, k := range []hsm.Key{ec, ed} {
		if err := exercise(tok, k); err != nil {
			t.Errorf("%s: %v", k.Label, err)
		}
	}
}

// It takes any PIN while somebody is logged in, so it is never given one.
func TestCrypto11TakesAnyPIN(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := ready(t, f)
	c, err := crypto11.Configure(&crypto11.Config{Path: f.Module, TokenLabel: f.Label, Pin: "wrong-pin", MaxSessions: 2})
	if err != nil {
		t.Fatalf("crypto11 looks at PINs now: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if tok.m.house.config.Pin != "" || !tok.m.house.config.LoginNotSupported {
		t.Error("crypto11 is given a PIN")
	}
	if err := tok.Health(); err != nil {
		t.Errorf("a context that closed took the login with it: %v", err)
	}
}

// It puts a session back whatever happened to it, so that one failure sticks.
func TestCrypto11KeepsSessions(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture, func(c *Config) { c.Workers = 1 })
	k := generate(t, tok, hsm.P256, hsm.Sign)
	signer, err := tok.m.house.context.FindKeyPair(tok.m.keys[k.ID].cka, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Set("C_Sign 0x6 1")
	for i, want := range []pkcs11.Error{pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_ACTIVE} {
		if _, err := signer.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, want) {
			t.Errorf("bare crypto11, signature %d: got %v want %v", i, err, want)
		}
	}
	// Ours replaces the context, and the same key signs.
	for range 2 {
		if _, err := tok.Sign(k.ID, hsm.ECDSA, make([]byte, 32)); err != nil {
			t.Errorf("through the house: %v", err)
		}
	}
}

// SoftHSM makes X25519 keys among the Edwards ones only, with the OID of
// RFC 8410; the mechanism of PKCS#11 v3.0 for them is not there.
func TestX25519Quirk(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	if tok.m.offers(ckmMontgomeryKeyPairGen, pkcs11.CKF_GENERATE_KEY_PAIR) {
		t.Error("SoftHSM offers the Montgomery mechanism now: its profile can be like others")
	}
	k := generate(t, tok, hsm.X25519, hsm.Unwrap)
	err := tok.m.pool.with(func(s pkcs11.SessionHandle) error {
		a, err := tok.m.read(s, tok.m.keys[k.ID].priv, []uint{pkcs11.CKA_KEY_TYPE})
		if got := a.number(pkcs11.CKA_KEY_TYPE); got != ckkEdwards {
			t.Errorf("key type: got 0x%x want 0x%x", got, ckkEdwards)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := exercise(tok, k); err != nil {
		t.Error(err)
	}
}
