package p11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// What keyd proves possession by: a key that the module lets not sign gives,
// by decryption without padding, the signature under a padded digest. Asked to
// sign, module and token say no.
func TestDecryptSigns(t *testing.T) {
	for _, module := range modules {
		t.Run(module.name, func(t *testing.T) {
			tok := ready(t, module.fixture(t), importedToo)
			for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072} {
				k := generate(t, tok, a, hsm.Unwrap)
				pub := k.Public.(*rsa.PublicKey)
				digest := make([]byte, 32)
				rand.Read(digest)
				tail := append(append([]byte{0}, digestInfo[crypto.SHA256]...), digest...)
				em := bytes.Repeat([]byte{0xff}, pub.Size())
				em[0], em[1] = 0, 1
				copy(em[len(em)-len(tail):], tail)
				sig, raw, err := tok.Decrypt(k.ID, em)
				if err != nil || !raw || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest, sig) != nil {
					t.Errorf("%s: got %x, raw %v, %v, want a signature", a, sig, raw, err)
				}
				if sig, err := tok.Sign(k.ID, hsm.PKCS1SHA256, digest); !errors.Is(err, hsm.ErrRefused) {
					t.Errorf("%s: sign: got %x, %v, want %v", a, sig, err, hsm.ErrRefused)
				}
				err = tok.m.pool.with(func(s pkcs11.SessionHandle) error {
					return tok.m.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil)}, tok.m.keys[k.ID].priv)
				})
				if err == nil {
					t.Errorf("%s: the module begins a signature with a key for decryption", a)
				}
			}
		})
	}
}
