package p11

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// key is a pair in the token with its handles, which live as long as the
// module stays initialised.
type key struct {
	hsm.Key
	priv, pub pkcs11.ObjectHandle
	cka       []byte // CKA_ID
	size      int    // RSA: bytes of the modulus; curves: bytes of a coordinate
}

// name is what may stand only once among the private keys.
type name struct {
	label string
	usage hsm.Usage
}

// attributes are what an object says of itself; what it would not say is missing.
type attributes map[uint][]byte

// flag is a CK_BBOOL, and whether it is known.
func (a attributes) flag(typ uint) (value, known bool) {
	v, ok := a[typ]
	return ok && len(v) == 1 && v[0] != 0, ok && len(v) == 1
}

// number is a CK_ULONG, or its greatest value when it is not known.
func (a attributes) number(typ uint) uint {
	switch v := a[typ]; len(v) {
	case 8:
		return uint(binary.NativeEndian.Uint64(v))
	case 4:
		return uint(binary.NativeEndian.Uint32(v))
	}
	return pkcs11.CK_UNAVAILABLE_INFORMATION
}

// What is read of each object, in one call where the object has all of it.
var (
	askedOfPrivate = []uint{
		pkcs11.CKA_ID, pkcs11.CKA_LABEL, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_PRIVATE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_ALWAYS_SENSITIVE,
		pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_NEVER_EXTRACTABLE, pkcs11.CKA_LOCAL, pkcs11.CKA_MODIFIABLE,
		pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE, pkcs11.CKA_ALWAYS_AUTHENTICATE,
	}
	askedOfPublic = []uint{pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE}
	askedOfRSA    = []uint{pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT}
	askedOfCurve  = []uint{pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT}
)

func ask(types ...uint) []*pkcs11.Attribute {
	list := make([]*pkcs11.Attribute, len(types))
	for i, typ := range types {
		list[i] = pkcs11.NewAttribute(typ, nil)
	}
	return list
}

// read asks an object for attributes. One that it has not or keeps secret
// spoils a call for all, so then each is asked for alone and it is left out.
func (m *module) read(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types []uint) (attributes, error) {
	a := attributes{}
	list, err := m.ctx.GetAttributeValue(s, o, ask(types...))
	if err == nil {
		for _, v := range list {
			if v.Value != nil {
				a[v.Type] = v.Value
			}
		}
		return a, nil
	}
	if is(err, gone...) || len(types) == 1 && !is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE) {
		return nil, err
	}
	if len(types) == 1 {
		return a, nil
	}
	for _, typ := range types {
		one, err := m.read(s, o, []uint{typ})
		if err != nil {
			return nil, err
		}
		for k, v := range one {
			a[k] = v
		}
	}
	return a, nil
}

// private is a private key as it was found, before it is judged.
type private struct {
	handle   pkcs11.ObjectHandle
	a        attributes
	readable bool   // its secret could be read
	wrapped  string // mechanism that wrapped it out, or ""
}

// public is a public key object as it was found.
type public struct {
	handle pkcs11.ObjectHandle
	a      attributes
}

// Load looks through the token once, judges every private key and keeps the
// handles of those that may be served. It answers those, and a finding for
// every private key, those that are kept outside too, which are opened at their
// first use. Earlier handles are dropped. Reading the secret of each
// key and wrapping it out are tried, and must fail.
func (t *Token) Load() ([]hsm.Key, []hsm.Finding, error) {
	m, leave, err := t.unlocked()
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	var privates []private
	var publics []public
	err = m.pool.with(func(s pkcs11.SessionHandle) (err error) {
		privates, publics, err = m.scan(s, nil)
		return err
	})
	if err != nil {
		return nil, nil, fault("load keys", err)
	}
	served, findings, taken := judge(m.profile, t.c.AllowImported, privates, publics)
	m.vault.clear()
	outside, more, err := t.outside(m, served, taken)
	if err != nil {
		return nil, nil, fault("load wrapped keys", err)
	}
	served, findings = append(served, outside...), append(findings, more...)
	m.mu.Lock()
	m.keys, m.taken = make(map[hsm.KeyID]*key, len(served)), taken
	for _, k := range served {
		m.keys[k.ID] = k
	}
	m.mu.Unlock()
	keys := make([]hsm.Key, len(served))
	for i, k := range served {
		keys[i] = k.Key
	}
	return keys, findings, nil
}

// scan finds the keys that fit the template, in one pass over the token, and
// tries to get their secrets out.
func (m *module) scan(s pkcs11.SessionHandle, template []*pkcs11.Attribute) ([]private, []public, error) {
	handles, err := m.objects(s, template)
	if err != nil {
		return nil, nil, err
	}
	thief, err := m.thief(s)
	if err != nil {
		return nil, nil, err
	}
	defer thief.end()
	open := m.vault.holds()
	var privates []private
	var publics []public
	for _, h := range handles {
		if open[h] {
			continue
		}
		class, err := m.read(s, h, []uint{pkcs11.CKA_CLASS})
		if err != nil {
			return nil, nil, err
		}
		switch class.number(pkcs11.CKA_CLASS) {
		case pkcs11.CKO_PRIVATE_KEY:
			p := private{handle: h}
			if p.a, err = m.read(s, h, askedOfPrivate); err != nil {
				return nil, nil, err
			}
			more := askedOfCurve[:1]
			if p.a.number(pkcs11.CKA_KEY_TYPE) == pkcs11.CKK_RSA {
				more = askedOfRSA
			}
			if err := m.add(s, h, p.a, more); err != nil {
				return nil, nil, err
			}
			if p.readable, p.wrapped, err = thief.rob(h, p.a.number(pkcs11.CKA_KEY_TYPE)); err != nil {
				return nil, nil, err
			}
			privates = append(privates, p)
		case pkcs11.CKO_PUBLIC_KEY:
			p := public{handle: h}
			if p.a, err = m.read(s, h, askedOfPublic); err != nil {
				return nil, nil, err
			}
			more := askedOfCurve
			if p.a.number(pkcs11.CKA_KEY_TYPE) == pkcs11.CKK_RSA {
				more = askedOfRSA
			}
			if err := m.add(s, h, p.a, more); err != nil {
				return nil, nil, err
			}
			publics = append(publics, p)
		}
	}
	return privates, publics, nil
}

func (m *module) add(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a attributes, types []uint) error {
	more, err := m.read(s, o, types)
	for k, v := range more {
		a[k] = v
	}
	return err
}

func (m *module) objects(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	if err := m.ctx.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	for {
		some, _, err := m.ctx.FindObjects(s, 256)
		if err != nil {
			return nil, err // the session is closed, and the search with it
		}
		if len(some) == 0 {
			return all, m.ctx.FindObjectsFinal(s)
		}
		all = append(all, some...)
	}
}

// ckaSize is the length of the CKA_ID of keys made here.
const ckaSize = 20

// newCKA makes a CKA_ID: the usage, then random bytes. It cannot come from the
// public key, which is not known before, nor be set afterwards, since the
// key is not modifiable.
func newCKA(u hsm.Usage) []byte {
	id := make([]byte, ckaSize)
	rand.Read(id)
	id[0] = byte(u)
	return id
}

// printable is a label as it may stand in logs: ASCII, at most hsm.MaxLabel bytes.
func printable(label []byte) string {
	if len(label) > hsm.MaxLabel {
		label = label[:hsm.MaxLabel]
	}
	return string(bytes.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, label))
}
