package p11

import (
	"bytes"
	"crypto/rsa"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// trials are what Probe does, in this order.
var trials = []struct {
	algorithm hsm.Algorithm
	usage     hsm.Usage
	with      []hsm.SignAlg
}{
	{hsm.RSA2048, hsm.Sign, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
	{hsm.RSA2048, hsm.Unwrap, nil},
	{hsm.RSA3072, hsm.Sign, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
	{hsm.RSA3072, hsm.Unwrap, nil},
	{hsm.RSA4096, hsm.Sign, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
	{hsm.RSA4096, hsm.Unwrap, nil},
	{hsm.P256, hsm.Sign, []hsm.SignAlg{hsm.ECDSA}},
	{hsm.P256, hsm.Unwrap, nil},
	{hsm.P384, hsm.Sign, []hsm.SignAlg{hsm.ECDSA}},
	{hsm.P384, hsm.Unwrap, nil},
	{hsm.P521, hsm.Sign, []hsm.SignAlg{hsm.ECDSA}},
	{hsm.P521, hsm.Unwrap, nil},
	{hsm.Ed25519, hsm.Sign, []hsm.SignAlg{hsm.PureEdDSA}},
	{hsm.X25519, hsm.Unwrap, nil},
}

// algNames are the words for signatures in the name of a probe.
var algNames = map[hsm.SignAlg]string{
	hsm.PKCS1SHA256: " PKCS1-SHA256", hsm.PSSSHA256: " PSS-SHA256", hsm.ECDSA: " ECDSA", hsm.PureEdDSA: "",
}

// Probe tries every operation with a new key that exists in a session only,
// and checks the outcome in software: signatures verify, a random secret comes
// back, both sides agree. What the module does not offer, or not rightly, is
// told in the probe; the error is for a token that went away. It takes some
// seconds, most of them to make RSA keys.
func (t *Token) Probe() ([]hsm.Probe, error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return nil, err
	}
	defer leave()
	var all []hsm.Probe
	for _, trial := range trials {
		names := []string{probeName(trial.algorithm, trial.usage, 0)}
		if trial.usage == hsm.Sign {
			names = names[:0]
			for _, alg := range trial.with {
				names = append(names, probeName(trial.algorithm, trial.usage, alg))
			}
		}
		results := make([]error, len(names))
		err := m.pool.with(func(s pkcs11.SessionHandle) error {
			k, err := m.fleeting(s, hsm.KeySpec{Algorithm: trial.algorithm, Usage: trial.usage, Label: "probe"}, false)
			if err != nil {
				return err
			}
			defer m.ctx.DestroyObject(s, k.priv)
			defer m.ctx.DestroyObject(s, k.pub)
			for i := range names {
				if trial.usage == hsm.Sign {
					results[i] = m.trySign(s, k, trial.with[i])
				} else {
					results[i] = m.tryUnwrap(s, k)
				}
				if results[i] != nil {
					return results[i] // the session is not fit for the next
				}
			}
			return nil
		})
		if is(err, gone...) {
			return nil, fault("probe", err)
		}
		for i, n := range names {
			p := hsm.Probe{Name: n, OK: true}
			if results[i] == nil && err != nil && (i == 0 || results[i-1] != nil) {
				results[i] = err
			}
			if results[i] != nil {
				p.OK, p.Reason = false, results[i].Error()
			}
			all = append(all, p)
		}
	}
	for _, a := range outsideTrials {
		p := hsm.Probe{Name: algName(a) + " wrapped", OK: true}
		if err := m.tryWrapping(a); is(err, gone...) {
			return nil, fault("probe", err)
		} else if err != nil {
			p.OK, p.Reason = false, err.Error()
		}
		all = append(all, p)
	}
	return all, nil
}

// outsideTrials are the algorithms of keys that are kept outside.
var outsideTrials = []hsm.Algorithm{hsm.RSA3072, hsm.P256, hsm.Ed25519, hsm.X25519}

// tryWrapping wraps a new key and opens it again, with a wrapping key of the
// session, and judges both.
func (m *module) tryWrapping(a hsm.Algorithm) error {
	spec := hsm.KeySpec{Algorithm: a, Usage: hsm.Sign, Label: "probe"}
	if a == hsm.X25519 {
		spec.Usage = hsm.Unwrap
	}
	if m.wrapMechanism() == 0 {
		return fmt.Errorf("%w: the module has no AES key wrap", hsm.ErrInvalid)
	}
	return m.pool.with(func(s pkcs11.SessionHandle) error {
		h, _, err := m.makeWrapping(s, false)
		if err != nil {
			return fmt.Errorf("make wrapping key: %w", err)
		}
		defer m.ctx.DestroyObject(s, h)
		w, err := m.judgeWrapping(s, h)
		if err != nil {
			return fmt.Errorf("check wrapping key: %w", err)
		}
		r, err := m.wrapNew(s, &w, spec)
		if err != nil {
			return err
		}
		o, err := m.unwrapOn(s, &w, r)
		if err != nil {
			return fmt.Errorf("unwrap key: %w", err)
		}
		defer m.ctx.DestroyObject(s, o)
		faults, err := m.auditOutside(s, o, &w, r)
		if err != nil {
			return err
		}
		if err := m.belongs(s, o, keyOf(r)); err != nil {
			return err
		}
		if faults = append(faults, w.faults...); len(faults) > 0 {
			return fmt.Errorf("%w: it works, but %s", hsm.ErrRefused, strings.Join(faults, ", "))
		}
		return nil
	})
}

// probeName is "RSA-3072 sign PKCS1-SHA256", "RSA-3072 decrypt", "P-256 ECDH".
func probeName(a hsm.Algorithm, u hsm.Usage, alg hsm.SignAlg) string {
	n := algName(a)
	switch {
	case u == hsm.Sign:
		return n + " sign" + algNames[alg]
	case rsaBits[a] != 0:
		return n + " decrypt"
	}
	return n + " ECDH"
}

// algName is "RSA-3072", "P-256", "Ed25519", "X25519".
func algName(a hsm.Algorithm) string {
	switch a {
	case hsm.Ed25519:
		return "Ed25519"
	case hsm.X25519:
		return "X25519"
	}
	return strings.Replace(strings.Replace(string(a), "rsa", "RSA", 1), "p-", "P-", 1)
}

// fleeting makes a pair that goes with the session, extractable or not.
func (m *module) fleeting(s pkcs11.SessionHandle, spec hsm.KeySpec, extractable bool) (*key, error) {
	cka := newCKA(spec.Usage)
	mech, pub, priv, err := m.templates(spec, cka, false, extractable)
	if err != nil {
		return nil, err
	}
	if !m.offers(mech, pkcs11.CKF_GENERATE_KEY_PAIR) {
		return nil, fmt.Errorf("%w: the module does not make such keys (mechanism 0x%x)", hsm.ErrInvalid, mech)
	}
	hPub, hPriv, err := m.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, pub, priv)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	half := public{handle: hPub, a: attributes{}}
	for _, types := range [][]uint{askedOfPublic, askedOfRSA, askedOfCurve} {
		if err := m.add(s, hPub, half.a, types); err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
	}
	return pair(private{handle: hPriv, a: attributes{pkcs11.CKA_ID: cka, pkcs11.CKA_KEY_TYPE: half.a[pkcs11.CKA_KEY_TYPE]}}, []public{half})
}

func (m *module) trySign(s pkcs11.SessionHandle, k *key, alg hsm.SignAlg) error {
	digest := bytes.Repeat([]byte{0x5a}, 32)
	sig, err := m.signOn(s, k, alg, digest)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	if !verify(k.Public, alg, digest, sig) {
		return fmt.Errorf("%w: the signature does not verify", hsm.ErrOpaque)
	}
	return nil
}

func (m *module) tryUnwrap(s pkcs11.SessionHandle, k *key) error {
	if pub, ok := k.Public.(*rsa.PublicKey); ok {
		want, c, err := sealed(pub)
		if err != nil {
			return err
		}
		block, err := m.decryptOn(s, k, c, m.raw())
		return opened(block, m.raw(), want, err)
	}
	point, want, err := peer(k)
	if err != nil {
		return err
	}
	got, err := m.agreeOn(s, k, point)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%w: the secrets differ", hsm.ErrOpaque)
	}
	return err
}
