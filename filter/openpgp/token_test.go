package openpgp

import (
	"context"

	"postern/hsm"
)

// failing is a token that signs and unwraps nothing: it answers err, or
// nonsense where err is nil.
type failing struct {
	hsm.Token
	err error
}

func (f failing) Sign(context.Context, hsm.KeyID, hsm.SignAlg, []byte) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	return make([]byte, 64), nil
}

func (f failing) Unwrap(context.Context, hsm.KeyID, hsm.Wrapped) (hsm.SessionKey, error) {
	if f.err != nil {
		return hsm.SessionKey{}, f.err
	}
	return hsm.SessionKey{Cipher: 9, Key: make([]byte, 32)}, nil
}
