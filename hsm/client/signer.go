package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"
	"sync"

	"postern/hsm"
	"postern/hsm/wire"
)

// tokenKey is what a signer and a decrypter have in common. Its context is
// that of its making, because the interfaces of crypto have none.
type tokenKey struct {
	ctx   context.Context
	token hsm.Token
	key   hsm.Key

	mu  sync.Mutex
	err error
}

// Public is the public half.
func (k *tokenKey) Public() crypto.PublicKey { return k.key.Public }

// Err is the last error of the key, or nil. It stays: libraries swallow the
// error of a signer and go on (go-crypto does, for all but ECDSA), so whoever
// hands a token key to one looks here before the result is believed.
func (k *tokenKey) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

func (k *tokenKey) note(err error) {
	if err != nil {
		k.mu.Lock()
		k.err = err
		k.mu.Unlock()
	}
}

// SigningKey is the crypto.Signer that Signer returns.
type SigningKey struct{ tokenKey }

// Signer makes a signing key of the token a crypto.Signer, of type
// *SigningKey: RSA (PKCS #1 v1.5, and PSS with a salt as long as the hash),
// ECDSA, Ed25519. ctx is that of all its signatures. The error is
// hsm.ErrRefused for a key that does not sign.
func Signer(ctx context.Context, token hsm.Token, key hsm.Key) (crypto.Signer, error) {
	if key.Usage != hsm.Sign || key.Retired {
		return nil, fmt.Errorf("make signer of key %s: %w", key.ID, hsm.ErrRefused)
	}
	switch key.Public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return &SigningKey{tokenKey{ctx: ctx, token: token, key: key}}, nil
	}
	return nil, fmt.Errorf("make signer of key %s: type %T: %w", key.ID, key.Public, hsm.ErrInvalid)
}

// Sign implements crypto.Signer. The randomness is the token's. What the token
// cannot do, or nobody should, is hsm.ErrInvalid: SHA-1, a PSS salt of another
// length, Ed25519ph and a context of Ed25519.
func (k *SigningKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	defer func() { k.note(err) }()
	alg, err := signAlg(k.key.Public, digest, opts)
	if err != nil {
		return nil, err
	}
	return k.token.Sign(k.ctx, k.key.ID, alg, digest)
}

func signAlg(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (hsm.SignAlg, error) {
	bad := func(what string) (hsm.SignAlg, error) { return 0, fmt.Errorf("sign: %s: %w", what, hsm.ErrInvalid) }
	if opts == nil {
		return bad("no hash is named")
	}
	hash := opts.HashFunc()
	if hash != 0 && len(digest) != hash.Size() {
		return bad(fmt.Sprintf("digest of %d bytes for %s", len(digest), hash))
	}
	switch pub.(type) {
	case ed25519.PublicKey:
		if o, ok := opts.(*ed25519.Options); hash != 0 || ok && o.Context != "" {
			return bad("Ed25519 signs messages, without a context")
		}
		if len(digest) > hsm.MaxMessage {
			return bad(fmt.Sprintf("message of %d bytes, at most %d", len(digest), hsm.MaxMessage))
		}
		return hsm.PureEdDSA, nil
	case *ecdsa.PublicKey:
		switch hash {
		case crypto.SHA256, crypto.SHA384, crypto.SHA512:
			return hsm.ECDSA, nil
		}
	case *rsa.PublicKey:
		pss, is := opts.(*rsa.PSSOptions)
		if is && pss.SaltLength != rsa.PSSSaltLengthAuto && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != hash.Size() {
			return bad("PSS salt of another length than the hash")
		}
		for _, alg := range []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PKCS1SHA384, hsm.PKCS1SHA512} {
			if !is && alg.Hash() == hash {
				return alg, nil
			}
		}
		for _, alg := range []hsm.SignAlg{hsm.PSSSHA256, hsm.PSSSHA384, hsm.PSSSHA512} {
			if is && alg.Hash() == hash {
				return alg, nil
			}
		}
	}
	return bad("hash " + hash.String())
}

// DecryptingKey is the crypto.Decrypter that Decrypter returns.
type DecryptingKey struct{ tokenKey }

// Decrypter makes an RSA unwrap key of the token a crypto.Decrypter, of type
// *DecryptingKey. ctx is that of all its work. The error is hsm.ErrRefused for
// a key that does not unwrap.
func Decrypter(ctx context.Context, token hsm.Token, key hsm.Key) (crypto.Decrypter, error) {
	if key.Usage != hsm.Unwrap {
		return nil, fmt.Errorf("make decrypter of key %s: %w", key.ID, hsm.ErrRefused)
	}
	if _, ok := key.Public.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("make decrypter of key %s: type %T: %w", key.ID, key.Public, hsm.ErrInvalid)
	}
	return &DecryptingKey{tokenKey{ctx: ctx, token: token, key: key}}, nil
}

// Decrypt implements crypto.Decrypter for *rsa.PKCS1v15DecryptOptions with a
// SessionKeyLen of 1 to 64, and *rsa.OAEPOptions around a key of at most 64
// bytes. A ciphertext that is wrong gives no error but a key that opens
// nothing, for OAEP too. Everything else is hsm.ErrInvalid: without a known
// length the answer would be a padding oracle.
func (k *DecryptingKey) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) (key []byte, err error) {
	defer func() { k.note(err) }()
	w := hsm.Wrapped{Ciphertext: ciphertext}
	switch o := opts.(type) {
	//lint:ignore SA1019 mail is wrapped so, and the key daemon rejects implicitly
	case *rsa.PKCS1v15DecryptOptions:
		if o == nil || o.SessionKeyLen < 1 || o.SessionKeyLen > wire.MaxSecret {
			return nil, fmt.Errorf("decrypt: PKCS #1 v1.5 wants the length of the session key, 1 to %d: %w", wire.MaxSecret, hsm.ErrInvalid)
		}
		w.Scheme, w.Size = hsm.PKCS1, o.SessionKeyLen
	case *rsa.OAEPOptions:
		if o == nil {
			return nil, fmt.Errorf("decrypt: no OAEP options: %w", hsm.ErrInvalid)
		}
		w.Scheme, w.Hash, w.MGFHash, w.Label = hsm.OAEP, o.Hash, o.MGFHash, o.Label
	default:
		return nil, fmt.Errorf("decrypt: options of type %T: %w", opts, hsm.ErrInvalid)
	}
	sk, err := k.token.Unwrap(k.ctx, k.key.ID, w)
	if err != nil {
		return nil, err
	}
	return sk.Key, nil
}
