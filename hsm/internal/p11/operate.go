package p11

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// key gives a key for one use.
func (m *module) key(id hsm.KeyID, u hsm.Usage) (*key, error) {
	m.mu.RLock()
	k := m.keys[id]
	m.mu.RUnlock()
	if k == nil {
		return nil, m.vault.t.missing(id)
	}
	if k.Usage != u {
		return nil, hsm.ErrRefused
	}
	return k, nil
}

// Sign makes one signature, in the form that hsm.SignAlg tells. Each is checked
// in software before it goes out: a signature that was disturbed while it was
// made can give an RSA key away. hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrInvalid
// for a digest or algorithm that does not fit, hsm.ErrAway.
func (t *Token) Sign(id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return nil, err
	}
	defer leave()
	k, err := m.key(id, hsm.Sign)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	sig, err := m.sign(k, alg, digest)
	return sig, fault("sign", err)
}

func (m *module) sign(k *key, alg hsm.SignAlg, digest []byte) (sig []byte, err error) {
	if err := suits(k, alg, digest); err != nil {
		return nil, err
	}
	if m.house != nil && k.pub != 0 && alg != hsm.PureEdDSA { // crypto11 finds no key without its public half
		if err := m.pool.enter(); err != nil {
			return nil, err
		}
		sig, err = m.house.sign(k, truncate(k, digest), options(alg))
		m.pool.leave()
	} else {
		err = m.on(k, func(s pkcs11.SessionHandle, k *key) error {
			sig, err = m.signOn(s, k, alg, digest)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if !verify(k.Public, alg, digest, sig) {
		m.log.Error("the token made a signature that does not verify", "key", k.ID.String())
		return nil, fmt.Errorf("%w: the signature does not verify", hsm.ErrOpaque)
	}
	return sig, nil
}

// suits reports whether key, algorithm and digest go together.
func suits(k *key, alg hsm.SignAlg, digest []byte) error {
	good := false
	switch k.Public.(type) {
	case *rsa.PublicKey:
		good = alg.Hash() != 0 && len(digest) == alg.Hash().Size()
	case *ecdsa.PublicKey:
		n := len(digest)
		good = alg == hsm.ECDSA && (n == 32 || n == 48 || n == 64)
	case ed25519.PublicKey:
		good = alg == hsm.PureEdDSA && len(digest) <= hsm.MaxMessage
	}
	if !good {
		return fmt.Errorf("%w: algorithm %d with %d bytes", hsm.ErrInvalid, alg, len(digest))
	}
	return nil
}

// truncate cuts a digest to the curve (FIPS 186-5 §6.4.1), which not all
// tokens do themselves. All our curves and hashes end on whole bytes.
func truncate(k *key, digest []byte) []byte {
	if _, ok := k.Public.(*ecdsa.PublicKey); ok && len(digest) > k.size {
		return digest[:k.size]
	}
	return digest
}

// options are those of crypto.Signer.
func options(alg hsm.SignAlg) crypto.SignerOpts {
	switch alg {
	case hsm.PSSSHA256, hsm.PSSSHA384, hsm.PSSSHA512:
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: alg.Hash()}
	}
	return alg.Hash()
}

// The DER that stands before a digest in PKCS#1 v1.5 (RFC 8017 §9.2 note 1).
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// pss are the parameters of CKM_RSA_PKCS_PSS.
var pss = map[hsm.SignAlg][2]uint{
	hsm.PSSSHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256},
	hsm.PSSSHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384},
	hsm.PSSSHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512},
}

// signOn signs without crypto11: Ed25519, session keys, and modules that
// crypto11 cannot initialise.
func (m *module) signOn(s pkcs11.SessionHandle, k *key, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	mech, input := pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil), truncate(k, digest)
	if p, ok := pss[alg]; ok {
		mech = pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(p[0], p[1], uint(alg.Hash().Size())))
	} else if prefix, ok := digestInfo[alg.Hash()]; ok {
		mech, input = pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil), append(append([]byte{}, prefix...), digest...)
	} else if alg == hsm.PureEdDSA {
		mech = pkcs11.NewMechanism(ckmEdDSA, nil)
	}
	if err := m.ctx.SignInit(s, []*pkcs11.Mechanism{mech}, k.priv); err != nil {
		return nil, err
	}
	sig, err := m.ctx.Sign(s, input)
	if err != nil || alg != hsm.ECDSA {
		return sig, err
	}
	// The token gives r and s side by side.
	if len(sig) == 0 || len(sig)%2 != 0 {
		return nil, errors.New("ECDSA signature of odd length")
	}
	half := len(sig) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
}

func verify(pub crypto.PublicKey, alg hsm.SignAlg, digest, sig []byte) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if o, ok := options(alg).(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(k, o.Hash, digest, sig, o) == nil
		}
		return rsa.VerifyPKCS1v15(k, alg.Hash(), digest, sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, sig)
	}
	return false
}

// Decrypt opens an RSA ciphertext, a big-endian integer smaller than the
// modulus. With raw, block is the padded block as long as the modulus, and
// nothing has looked at the padding: that is the caller's, in constant time.
// Without, the module removed PKCS#1 v1.5 padding itself, and hsm.ErrOpaque
// says that it complained: the caller goes on with a random session key in
// both cases. Wipe block after use.
//
// Abuse: every answer that depends on the padding is a decryption oracle
// (RFC 8017 §7.2). Raw is what keeps the module from being one.
func (t *Token) Decrypt(id hsm.KeyID, ciphertext []byte) (block []byte, raw bool, err error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return nil, false, err
	}
	defer leave()
	k, err := m.key(id, hsm.Unwrap)
	if err != nil {
		return nil, false, fmt.Errorf("decrypt: %w", err)
	}
	block, raw, err = m.decrypt(k, ciphertext)
	return block, raw, fault("decrypt", err)
}

func (m *module) decrypt(k *key, ciphertext []byte) (block []byte, raw bool, err error) {
	pub, ok := k.Public.(*rsa.PublicKey)
	if !ok {
		return nil, false, fmt.Errorf("%w: not an RSA key", hsm.ErrInvalid)
	}
	// What follows is public, so it may take its own time. Done here, no
	// module has a reason left to complain of the input.
	c := new(big.Int).SetBytes(ciphertext)
	if len(ciphertext) > k.size+8 || c.Cmp(pub.N) >= 0 {
		return nil, false, fmt.Errorf("%w: ciphertext out of range", hsm.ErrOpaque)
	}
	raw = m.raw()
	err = m.on(k, func(s pkcs11.SessionHandle, k *key) error {
		block, err = m.decryptOn(s, k, c.FillBytes(make([]byte, k.size)), raw)
		return err
	})
	if raw || is(err, gone...) {
		return block, raw, err
	}
	// A module may mean the padding by CKR_GENERAL_ERROR and the like, or
	// really be ill. It is asked after every message, well or not, so that the
	// time tells nothing.
	if ill := m.health(); ill != nil {
		return nil, false, ill
	}
	if err != nil && !worded(err) {
		return nil, false, hsm.ErrOpaque
	}
	return block, false, err
}

// raw reports whether this module decrypts without looking at the padding.
func (m *module) raw() bool {
	return m.profile.rawRSA && m.offers(pkcs11.CKM_RSA_X_509, pkcs11.CKF_DECRYPT)
}

func (m *module) decryptOn(s pkcs11.SessionHandle, k *key, ciphertext []byte, raw bool) ([]byte, error) {
	mech := pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil)
	if raw {
		mech = pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)
	}
	if err := m.ctx.DecryptInit(s, []*pkcs11.Mechanism{mech}, k.priv); err != nil {
		return nil, err
	}
	block, err := m.ctx.Decrypt(s, ciphertext)
	if err != nil || !raw || len(block) == k.size {
		return block, err
	}
	if len(block) > k.size {
		return nil, fmt.Errorf("%w: block of %d bytes from a modulus of %d", hsm.ErrOpaque, len(block), k.size)
	}
	full := make([]byte, k.size) // some modules drop leading zeros
	copy(full[k.size-len(block):], block)
	clear(block)
	return full, nil
}

// ECDH agrees on a secret with a public point: uncompressed as in SEC 1 §2.3.3
// for NIST curves, 32 bytes for X25519. The secret is the x-coordinate
// (32, 48 or 66 bytes) or the u-coordinate (32 bytes). hsm.ErrOpaque: a point
// that is malformed, not on the curve or of low order. Wipe it after the KDF.
func (t *Token) ECDH(id hsm.KeyID, point []byte) ([]byte, error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return nil, err
	}
	defer leave()
	k, err := m.key(id, hsm.Unwrap)
	if err != nil {
		return nil, fmt.Errorf("agree: %w", err)
	}
	secret, err := m.agree(k, point)
	return secret, fault("agree", err)
}

func (m *module) agree(k *key, point []byte) (secret []byte, err error) {
	if err := checkPoint(k.Public, point); err != nil {
		return nil, err
	}
	err = m.on(k, func(s pkcs11.SessionHandle, k *key) error {
		secret, err = m.agreeOn(s, k, point)
		return err
	})
	return secret, err
}

// probe is a scalar that shows whether an X25519 point is of low order: times
// any scalar that is a multiple of eight such a point gives zero (RFC 7748 §6.1).
var probe = func() *ecdh.PrivateKey {
	one := make([]byte, 32)
	one[0] = 8
	k, err := ecdh.X25519().NewPrivateKey(one)
	if err != nil {
		return nil
	}
	return k
}()

// checkPoint refuses every point that a module could complain of, or that
// would tell something of the key (invalid curves), before the module sees it.
func checkPoint(pub crypto.PublicKey, point []byte) error {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		c := nist[hsm.AlgorithmOf(p)]
		if c.dh == nil {
			return hsm.ErrInvalid
		}
		if _, err := c.dh.NewPublicKey(point); err != nil {
			return fmt.Errorf("%w: point is not on the curve", hsm.ErrOpaque)
		}
		return nil
	case *ecdh.PublicKey:
		peer, err := ecdh.X25519().NewPublicKey(point)
		if err == nil {
			_, err = probe.ECDH(peer)
		}
		if err != nil {
			return fmt.Errorf("%w: point is malformed or of low order", hsm.ErrOpaque)
		}
		return nil
	}
	return fmt.Errorf("%w: not a key for ECDH", hsm.ErrInvalid)
}

// agreeOn derives a secret as a session object, reads it and destroys it.
func (m *module) agreeOn(s pkcs11.SessionHandle, k *key, point []byte) ([]byte, error) {
	params := pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point)
	o, err := m.ctx.DeriveKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, params)}, k.priv, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, k.size),
	})
	if err != nil {
		return nil, err
	}
	list, err := m.ctx.GetAttributeValue(s, o, ask(pkcs11.CKA_VALUE))
	// When this fails, the session is closed, and the object with it.
	if e := m.ctx.DestroyObject(s, o); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	secret := list[0].Value
	if len(secret) == 0 || len(secret) > k.size {
		return nil, fmt.Errorf("%w: secret of %d bytes, want %d", hsm.ErrOpaque, len(secret), k.size)
	}
	full := make([]byte, k.size)
	copy(full[k.size-len(secret):], secret)
	clear(secret)
	return full, nil
}
