package smime

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/protect"
	"postern/hsm"
)

// maxIdentities bounds those whose certificates are compared with recipients.
const maxIdentities = 16

// unwrap has the token open the content key: one operation for a mail, so that
// nobody can drive the token with a mail of a thousand recipients (R4). Of
// several that may be ours the first is taken, newest certificate first. A key
// that the token does not hold costs no operation and leads on to the next;
// when there is no other, our configuration is broken, which is no property of
// the mail: the error is hsm.ErrNoKey, and defers it.
func (p *Protector) unwrap(ctx context.Context, e *cms.Envelope, identities []keyring.Identity) (hsm.SessionKey, error) {
	refusal := protect.ErrCannotOpen
	for _, id := range identities[:min(len(identities), maxIdentities)] {
		x, err := parseCert(id.Cert)
		if err != nil || len(id.KeyIDs) != 1 || !maySeal(x) || id.Use == hsm.Sign { // the refusal of a key that signs would look like a broken configuration
			continue
		}
		for i := range e.Recipients {
			to := &e.Recipients[i]
			if !to.Names(x) || !agrees(to.Wrapped, x) {
				continue
			}
			key, err := p.Token.Unwrap(ctx, id.KeyIDs[0], to.Wrapped)
			if err == nil {
				return key, nil
			}
			err = fmt.Errorf("unwrap content key with %s: %w", id.KeyIDs[0], err)
			switch {
			case errors.Is(err, hsm.ErrInvalid): // the mail's own choice of algorithms and lengths
				return hsm.SessionKey{}, protect.ErrCannotOpen
			case !errors.Is(err, hsm.ErrNoKey):
				return hsm.SessionKey{}, err
			}
			refusal = err
		}
	}
	return hsm.SessionKey{}, refusal
}

// agrees reports whether a wrapped key can be for the certificate's key.
func agrees(w hsm.Wrapped, c *x509.Certificate) bool {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return (w.Scheme == hsm.PKCS1 || w.Scheme == hsm.OAEP) && len(w.Ciphertext) <= k.Size() && new(big.Int).SetBytes(w.Ciphertext).Cmp(k.N) < 0
	case *ecdsa.PublicKey:
		size := (k.Params().BitSize + 7) / 8
		return isAgreement(w.Scheme) && len(w.Ephemeral) == 1+2*size && w.Ephemeral[0] == 4
	case *ecdh.PublicKey:
		return isAgreement(w.Scheme) && len(w.Ephemeral) == len(k.Bytes())
	}
	return false
}

func isAgreement(s hsm.Scheme) bool { return s == hsm.CMSX963 || s == hsm.CMSHKDF }
