package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// SoftHSM derives no key by itself, so the derivation is keyd's everywhere.
func TestNoKDFInModule(t *testing.T) {
	const ckdSHA256KDF = 6 // PKCS#11 v3.0
	tok := ready(t, hsmtest.SoftHSM(t))
	k := tok.m.keys[generate(t, tok, hsm.P256, hsm.Unwrap).ID]
	point, _, err := peer(k)
	if err != nil {
		t.Fatal(err)
	}
	err = tok.m.pool.with(func(s pkcs11.SessionHandle) error {
		params := pkcs11.NewECDH1DeriveParams(ckdSHA256KDF, []byte("info"), point)
		_, err := tok.m.ctx.DeriveKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, params)}, k.priv, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		})
		return err
	})
	if !errors.Is(err, pkcs11.Error(pkcs11.CKR_MECHANISM_PARAM_INVALID)) {
		t.Errorf("got %v, want CKR_MECHANISM_PARAM_INVALID", err)
	}
}

// A shared secret is an object of a session while it is read; none stays.
func TestAgreeLeavesNothing(t *testing.T) {
	for name, fixture := range map[string]func(testing.TB) *hsmtest.Fixture{"softhsm": hsmtest.SoftHSM, "nss": hsmtest.NSS} {
		t.Run(name, func(t *testing.T) {
			tok := ready(t, fixture(t), importedToo)
			k := generate(t, tok, hsm.P256, hsm.Unwrap)
			secrets := func() (n int) {
				err := tok.m.pool.with(func(s pkcs11.SessionHandle) error {
					if err := tok.m.ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}); err != nil {
						return err
					}
					found, _, err := tok.m.ctx.FindObjects(s, 100)
					n = len(found)
					if e := tok.m.ctx.FindObjectsFinal(s); err == nil {
						err = e
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := secrets()
			for range 20 {
				if err := exercise(tok, k); err != nil {
					t.Fatal(err)
				}
			}
			if after := secrets(); after != before {
				t.Errorf("got %d secret keys, want %d as before", after, before)
			}
		})
	}
}

// Some modules give the shared secret as a number, without its zeros.
func TestSecretsKeepZeros(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.P521, hsm.X25519} {
		k := generate(t, tok, a, hsm.Unwrap)
		for n := 0; n < 3; {
			point, want, err := peer(tok.m.keys[k.ID])
			if err != nil {
				t.Fatal(err)
			}
			if want[0] != 0 {
				continue
			}
			n++
			s.Set("C_GetAttributeValue trim")
			got, err := tok.ECDH(k.ID, point)
			s.Set()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: got %x, %v, want %x", a, got, err, want)
			}
		}
	}
}

// TestAgreeRefusesForms: the token takes points in one form; what a mail has
// is brought into it before.
func TestAgreeRefusesForms(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	k := generate(t, tok, hsm.P256, hsm.Unwrap)
	point, want, err := peer(tok.m.keys[k.ID])
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{
		"compressed":      append([]byte{2 + point[64]&1}, point[1:33]...),
		"hybrid":          append([]byte{6 + point[64]&1}, point[1:]...),
		"in OCTET STRING": append([]byte{4, 65}, point...),
		"X25519":          point[1:33],
		"none":            nil,
	} {
		if got, err := tok.ECDH(k.ID, p); !errors.Is(err, hsm.ErrOpaque) {
			t.Errorf("%s: got %x, %v, want %v", name, got, err, hsm.ErrOpaque)
		}
	}
	if got, err := tok.ECDH(k.ID, point); err != nil || !bytes.Equal(got, want) {
		t.Errorf("afterwards: got %x, %v, want %x", got, err, want)
	}
}

// softhsm2-util writes every EC key for signatures. One that is meant for
// mail to be opened is found and not used; Fixture.Import writes it rightly.
func TestImportedByTool(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("softhsm2-util", "--import", file, "--token", f.Label, "--label", "tool", "--id", "01", "--pin", f.PIN)
	cmd.Env = append(os.Environ(), f.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	tok := ready(t, f, importedToo)
	id, err := hsm.IDOf(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	_, findings, err := tok.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) != 1 || findings[0].ID != id {
		t.Fatalf("got %+v, want the key %s", findings, id)
	}
	err = tok.m.pool.with(func(s pkcs11.SessionHandle) error {
		if err := tok.m.ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}); err != nil {
			return err
		}
		found, _, err := tok.m.ctx.FindObjects(s, 2)
		if e := tok.m.ctx.FindObjectsFinal(s); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("got %d private keys, want 1", len(found))
		}
		list, err := tok.m.ctx.GetAttributeValue(s, found[0], ask(pkcs11.CKA_SIGN, pkcs11.CKA_DERIVE))
		if err == nil && (!bytes.Equal(list[0].Value, []byte{1}) || !bytes.Equal(list[1].Value, []byte{0})) {
			err = fmt.Errorf("sign %x, derive %x: got other usages than 01 and 00", list[0].Value, list[1].Value)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	point, _, err := peer(&key{Key: hsm.Key{Public: &private.PublicKey}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tok.ECDH(id, point); !errors.Is(err, hsm.ErrRefused) && !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("got %x, %v, want a refusal", got, err)
	}
}
