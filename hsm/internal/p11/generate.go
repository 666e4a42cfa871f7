package p11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// rsaBits are the sizes of the RSA keys that are made.
var rsaBits = map[hsm.Algorithm]int{hsm.RSA2048: 2048, hsm.RSA3072: 3072, hsm.RSA4096: 4096}

// Generate makes a pair in the token, with one usage, sensitive, not
// extractable and not modifiable. Afterwards the token is asked what it made,
// and the pair is used once; a pair that is not as ordered is removed again.
// hsm.ErrExists: the label is taken for this usage; hsm.ErrInvalid: the spec
// is wrong, or the module has not the algorithm. RSA takes seconds. A module
// that cannot keep a secret (NSS wraps out what is not extractable) makes keys
// of the class hsm.Imported, and none unless those are allowed. With Wrapped the
// pair ends on the shelf (outside.go): hsm.ErrRefused where that is not allowed.
func (t *Token) Generate(spec hsm.KeySpec) (hsm.Key, error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return hsm.Key{}, err
	}
	defer leave()
	t.making.Lock()
	defer t.making.Unlock()
	if why := fits(spec.Algorithm, spec.Usage); why != "" {
		return hsm.Key{}, fmt.Errorf("generate key: %w: %s", hsm.ErrInvalid, why)
	}
	if n := len(spec.Label); n == 0 || n > hsm.MaxLabel || printable([]byte(spec.Label)) != spec.Label {
		return hsm.Key{}, fmt.Errorf("generate key: %w: label of %d bytes, want 1 to %d of printable ASCII", hsm.ErrInvalid, n, hsm.MaxLabel)
	}
	m.mu.RLock()
	exists := m.taken[name{spec.Label, spec.Usage}] > 0
	m.mu.RUnlock()
	if exists {
		return hsm.Key{}, fmt.Errorf("generate key: %w", hsm.ErrExists)
	}
	if spec.Wrapped {
		k, err := t.generateOutside(m, spec)
		if err != nil {
			return hsm.Key{}, fault("generate wrapped key", err)
		}
		return k.Key, nil
	}
	cka := newCKA(spec.Usage)
	if err := m.generate(spec, cka); err != nil {
		return hsm.Key{}, fault("generate key", err)
	}
	k, err := m.adopt(spec, cka, t.c.AllowImported)
	if err != nil {
		m.log.Error("the token made a key that is not as ordered", "algorithm", string(spec.Algorithm), "error", err)
		if e := m.discard(cka); e != nil {
			err = errors.Join(err, fmt.Errorf("remove it: %w", e))
		}
		return hsm.Key{}, fault("check generated key", err)
	}
	return k.Key, nil
}

// generate makes the pair in the token.
func (m *module) generate(spec hsm.KeySpec, cka []byte) error {
	mech, public, private, err := m.templates(spec, cka, true, false)
	if err != nil {
		return err
	}
	if !m.offers(mech, pkcs11.CKF_GENERATE_KEY_PAIR) {
		return fmt.Errorf("%w: the module does not make %s keys", hsm.ErrInvalid, spec.Algorithm)
	}
	if m.house == nil || mech != pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN && mech != pkcs11.CKM_EC_KEY_PAIR_GEN {
		return m.pool.with(func(s pkcs11.SessionHandle) error {
			_, _, err := m.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, public, private)
			return err
		})
	}
	if err := m.pool.enter(); err != nil {
		return err
	}
	defer m.pool.leave()
	return m.house.with(func(c *crypto11.Context, _ *binding) (err error) {
		if bits, ok := rsaBits[spec.Algorithm]; ok {
			_, err = c.GenerateRSAKeyPairWithAttributes(set(public), set(private), bits)
		} else {
			_, err = c.GenerateECDSAKeyPairWithAttributes(set(public), set(private), nist[spec.Algorithm].curve)
		}
		return err
	})
}

// templates are the mechanism and the attributes of a new pair. Defaults are
// never relied on: those of modules and of crypto11 make a signing key that
// can decrypt.
func (m *module) templates(spec hsm.KeySpec, cka []byte, persistent, extractable bool) (mech uint, public, private []*pkcs11.Attribute, err error) {
	var kind uint
	var params []*pkcs11.Attribute
	bits, isRSA := rsaBits[spec.Algorithm]
	curve, isNIST := nist[spec.Algorithm]
	switch {
	case isRSA:
		mech, kind = pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA
		params = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}
	case isNIST:
		mech, kind = pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC
		params = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve.oid)}
	case spec.Algorithm == hsm.Ed25519:
		mech, kind = ckmEdwardsKeyPairGen, ckkEdwards
		params = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oidEd25519)}
	case spec.Algorithm == hsm.X25519:
		mech, kind = m.profile.xKeyGen, m.profile.xKeyType
		params = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oidX25519)}
	default:
		return 0, nil, nil, hsm.ErrInvalid
	}
	sign := spec.Usage == hsm.Sign
	decrypt := !sign && isRSA
	public = append(params,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, persistent),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, cka),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, sign),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, decrypt),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
	)
	private = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, persistent),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, extractable),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, cka),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label),
	}
	if m.profile.copyable {
		private = append(private, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false))
	}
	if m.profile.usageBits {
		private = append(private, usageBits(spec.Usage, isRSA)...)
	}
	return mech, public, private, nil
}

// usageBits are all that say what a private key may do.
func usageBits(u hsm.Usage, isRSA bool) []*pkcs11.Attribute {
	sign := u == hsm.Sign
	return of([]flag{
		{pkcs11.CKA_SIGN, sign}, {pkcs11.CKA_SIGN_RECOVER, false}, {pkcs11.CKA_DECRYPT, !sign && isRSA},
		{pkcs11.CKA_UNWRAP, false}, {pkcs11.CKA_DERIVE, !sign && !isRSA},
	})
}

// adopt finds the new pair, judges it like any other, proves it and serves it.
func (m *module) adopt(spec hsm.KeySpec, cka []byte, allowImported bool) (*key, error) {
	var privates []private
	var publics []public
	err := m.pool.with(func(s pkcs11.SessionHandle) (err error) {
		privates, publics, err = m.scan(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, cka)})
		return err
	})
	if err != nil {
		return nil, err
	}
	served, findings, _ := judge(m.profile, allowImported, privates, publics)
	if len(findings) != 1 {
		return nil, fmt.Errorf("%w: %d private keys were made", hsm.ErrOpaque, len(findings))
	}
	if len(served) != 1 {
		return nil, fmt.Errorf("%w: %v", hsm.ErrOpaque, findings[0].Faults)
	}
	k := served[0]
	if k.Usage != spec.Usage || k.Label != spec.Label || hsm.AlgorithmOf(k.Public) != spec.Algorithm {
		return nil, fmt.Errorf("%w: got %s to %s called %q", hsm.ErrOpaque, hsm.AlgorithmOf(k.Public), k.Usage, k.Label)
	}
	if err := m.prove(k); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.keys[k.ID] = k
	m.taken[name{k.Label, k.Usage}]++
	m.mu.Unlock()
	return k, nil
}

// prove uses a pair once, through the way that operations take later.
func (m *module) prove(k *key) error {
	if k.Usage == hsm.Sign {
		_, err := m.sign(k, signAlg(hsm.AlgorithmOf(k.Public)), make([]byte, 32)) // verifies
		return err
	}
	if pub, ok := k.Public.(*rsa.PublicKey); ok {
		want, c, err := sealed(pub)
		if err != nil {
			return err
		}
		block, raw, err := m.decrypt(k, c)
		return opened(block, raw, want, err)
	}
	point, want, err := peer(k)
	if err != nil {
		return err
	}
	got, err := m.agree(k, point)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%w: the secrets differ", hsm.ErrOpaque)
	}
	return err
}

// signAlg is the algorithm that a key is tried with.
func signAlg(a hsm.Algorithm) hsm.SignAlg {
	switch {
	case rsaBits[a] != 0:
		return hsm.PKCS1SHA256
	case a == hsm.Ed25519:
		return hsm.PureEdDSA
	}
	return hsm.ECDSA
}

// sealed makes a random secret and its RSA ciphertext.
func sealed(pub *rsa.PublicKey) (secret, ciphertext []byte, err error) {
	secret = make([]byte, 32)
	rand.Read(secret)
	//lint:ignore SA1019 it is the padding of RFC 9580 §5.1.3, around a secret that protects nothing
	ciphertext, err = rsa.EncryptPKCS1v15(rand.Reader, pub, secret)
	return secret, ciphertext, err
}

// opened compares what Decrypt gave with the secret that was sealed. It looks
// at the padding openly, which is right for a secret of our own only.
func opened(block []byte, raw bool, want []byte, err error) error {
	if err != nil {
		return err
	}
	if raw {
		if len(block) < 11+len(want) || block[0] != 0 || block[1] != 2 || block[len(block)-len(want)-1] != 0 {
			return fmt.Errorf("%w: wrong padding", hsm.ErrOpaque)
		}
		block = block[len(block)-len(want):]
	}
	if !bytes.Equal(block, want) {
		return fmt.Errorf("%w: decrypted to something else", hsm.ErrOpaque)
	}
	return nil
}

// peer is the other side of an agreement with k: its point, and the secret
// that must come out.
func peer(k *key) (point, secret []byte, err error) {
	var own *ecdh.PublicKey
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if own, err = p.ECDH(); err != nil {
			return nil, nil, err
		}
	case *ecdh.PublicKey:
		own = p
	default:
		return nil, nil, hsm.ErrInvalid
	}
	other, err := own.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	secret, err = other.ECDH(own)
	return other.PublicKey().Bytes(), secret, err
}

// Destroy removes both halves of a pair from the token, or the file of one that
// is kept outside. There is no way back.
func (t *Token) Destroy(id hsm.KeyID) error {
	m, leave, err := t.unlocked()
	if err != nil {
		return err
	}
	defer leave()
	t.making.Lock()
	defer t.making.Unlock()
	m.mu.RLock()
	k := m.keys[id]
	m.mu.RUnlock()
	if k == nil && t.shelf != nil { // one that does not open can go all the same
		k = keyOf(t.shelf.Get(id).Record)
	}
	switch {
	case k == nil:
		return fmt.Errorf("destroy key: %w", hsm.ErrNoKey)
	case k.Class == hsm.OutsideWrapped:
		if err := t.shelf.Remove(id); err != nil {
			return fmt.Errorf("destroy key: %w", err)
		}
		m.vault.drop(id)
		t.forgive(id)
	default:
		if err := m.discard(k.cka); err != nil {
			return fault("destroy key", err)
		}
	}
	m.mu.Lock()
	delete(m.keys, id)
	n := name{k.Label, k.Usage}
	if m.taken[n]--; m.taken[n] <= 0 {
		delete(m.taken, n)
	}
	m.mu.Unlock()
	if m.house != nil {
		m.house.forget(id)
	}
	return nil
}

// discard removes the key objects with a CKA_ID. The private key goes first:
// should the second call fail, what is left is harmless.
func (m *module) discard(cka []byte) error {
	return m.pool.with(func(s pkcs11.SessionHandle) error {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			objects, err := m.objects(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, cka)})
			if err != nil {
				return err
			}
			for _, o := range objects {
				if err := m.ctx.DestroyObject(s, o); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
