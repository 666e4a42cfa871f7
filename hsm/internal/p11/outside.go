package p11

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/internal/shelf"
)

// Keys of the class hsm.OutsideWrapped: made in the token as session objects,
// wrapped there by the token's wrapping key, and kept on the shelf. In use they
// are session objects again (vault). They are extractable between their making
// and their wrapping, two calls on one session of this process, and never after.

// note is why a key on the shelf could not be used, as long as its file is the same.
type note struct {
	digest [32]byte
	why    string
}

// What is said of a file in more than one place.
const (
	notKey       = "its file is no key: "
	strangeToken = "the key that opens it is not in this token"
)

// outside judges the shelf: the keys that are served, and a finding for each
// file, and for each wrapping key that is not as it must be. taken counts labels.
func (t *Token) outside(m *module, resident []*key, taken map[name]int) (served []*key, findings []hsm.Finding, err error) {
	var wraps []wrapping
	err = m.pool.with(func(s pkcs11.SessionHandle) (err error) {
		wraps, err = m.wrappings(s)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	m.wraps = wraps
	m.mu.Unlock()
	for _, w := range wraps {
		if len(w.faults) > 0 {
			findings = append(findings, hsm.Finding{Label: wrappingLabel, Class: hsm.Resident, Served: t.c.AllowImported, Faults: w.faults})
		}
	}
	if t.shelf == nil {
		return nil, findings, nil
	}
	books, err := t.shelf.All()
	if err != nil {
		return nil, nil, err
	}
	in := map[hsm.KeyID]bool{}
	for _, k := range resident {
		in[k.ID] = true
	}
	for _, b := range books {
		f := hsm.Finding{ID: b.ID, Label: b.Label, Class: hsm.OutsideWrapped}
		if b.Err != nil {
			f.Label = printable([]byte(b.Name))
			f.Faults = append(f.Faults, notKey+b.Err.Error())
			findings = append(findings, f)
			continue
		}
		taken[name{b.Label, b.Usage}]++
		f.Faults = t.faultsOf(m, b, in[b.ID])
		f.Served = len(f.Faults) == 0
		if f.Served {
			served = append(served, keyOf(b.Record))
		}
		findings = append(findings, f)
	}
	return served, findings, nil
}

// faultsOf is what keeps a key on the shelf from being served.
func (t *Token) faultsOf(m *module, b shelf.Book, resident bool) (faults []string) {
	if !t.c.AllowWrapped {
		faults = append(faults, "it is kept outside as ciphertext, and allow-wrapped is not set")
	}
	switch w := m.wrappingOf(b.Wrapping); {
	case w == nil:
		faults = append(faults, strangeToken)
	case len(w.faults) > 0 && !t.c.AllowImported:
		faults = append(faults, "the key that opens it is not as it must be: "+strings.Join(w.faults, ", "))
	}
	if resident {
		faults = append(faults, "it is in the token too")
	}
	if why := t.complaint(b.ID, b.Digest); why != "" {
		faults = append(faults, why)
	}
	return faults
}

// complaint is why a key could not be used when it was tried last, or "".
func (t *Token) complaint(id hsm.KeyID, digest [32]byte) string {
	t.noting.Lock()
	defer t.noting.Unlock()
	n, ok := t.notes[id]
	if !ok || n.digest != digest {
		return ""
	}
	return n.why
}

// complain notes that a key could not be used: hsm.ErrBroken.
func (t *Token) complain(id hsm.KeyID, digest [32]byte, u unfit) error {
	t.noting.Lock()
	t.notes[id] = note{digest, u.why}
	t.noting.Unlock()
	t.c.Log.Error("a wrapped key cannot be opened", "key", id.String(), "reason", u.why)
	return u
}

// missing is what is said of a key that is not served: hsm.ErrNoKey, or for one
// that was until it did not open, hsm.ErrBroken. Who asked before that was seen
// must not take the token for another one.
func (t *Token) missing(id hsm.KeyID) error {
	t.noting.Lock()
	defer t.noting.Unlock()
	if n, ok := t.notes[id]; ok {
		return unfit{n.why}
	}
	return hsm.ErrNoKey
}

// forgive drops what was noted of a key that is gone.
func (t *Token) forgive(id hsm.KeyID) {
	t.noting.Lock()
	defer t.noting.Unlock()
	delete(t.notes, id)
}

// keyOf is a key on the shelf as operations see it.
func keyOf(r shelf.Record) *key {
	return &key{Key: hsm.Key{ID: r.ID, Public: r.Public, Usage: r.Usage, Label: r.Label, Class: hsm.OutsideWrapped}, size: size(r.Public)}
}

// generateOutside makes a pair of the class hsm.OutsideWrapped. Its file is
// written when all else is done, so that there is never half a key.
func (t *Token) generateOutside(m *module, spec hsm.KeySpec) (*key, error) {
	if t.shelf == nil || !t.c.AllowWrapped {
		return nil, fmt.Errorf("%w: wrapped keys are not allowed", hsm.ErrRefused)
	}
	var r shelf.Record
	err := m.pool.with(func(s pkcs11.SessionHandle) error {
		w, err := m.ownWrapping(s, t.c.AllowImported)
		if err == nil {
			r, err = m.wrapNew(s, w, spec)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	k := keyOf(r)
	if err := m.proveOutside(k, r); err != nil {
		return nil, fmt.Errorf("check wrapped key: %w", err)
	}
	if err := t.shelf.Put(r); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.keys[k.ID] = k
	m.taken[name{k.Label, k.Usage}]++
	m.mu.Unlock()
	return k, nil
}

// wrapNew makes a pair for this session and wraps its private half. Both are
// gone when it returns; should destroying fail, the session is closed, and what
// was made in it goes with it.
func (m *module) wrapNew(s pkcs11.SessionHandle, w *wrapping, spec hsm.KeySpec) (r shelf.Record, err error) {
	mech := m.wrapMechanism()
	if mech == 0 {
		return r, fmt.Errorf("%w: the module wraps no private keys", hsm.ErrInvalid)
	}
	k, err := m.fleeting(s, spec, true)
	if err != nil {
		return r, err
	}
	defer func() {
		err = errors.Join(err, m.ctx.DestroyObject(s, k.priv), m.ctx.DestroyObject(s, k.pub))
	}()
	if hsm.AlgorithmOf(k.Public) != spec.Algorithm {
		return r, fmt.Errorf("%w: got %s", hsm.ErrOpaque, hsm.AlgorithmOf(k.Public))
	}
	ciphertext, err := m.wrapKey(s, pkcs11.NewMechanism(mech, nil), w.handle, k.priv)
	if is(err, ckrKeyNotWrappable) {
		return r, fmt.Errorf("%w: the module does not wrap %s keys: %w", hsm.ErrInvalid, spec.Algorithm, err)
	}
	if err != nil {
		return r, fmt.Errorf("wrap key: %w", err)
	}
	return shelf.Record{ID: k.ID, Public: k.Public, Usage: spec.Usage, Label: spec.Label, Wrapping: w.cka, Mechanism: uint64(mech), Ciphertext: ciphertext}, nil
}

// unwrapOn opens a key from its ciphertext into the session s, for nothing but
// its usage.
func (m *module) unwrapOn(s pkcs11.SessionHandle, w *wrapping, r shelf.Record) (pkcs11.ObjectHandle, error) {
	kind, isRSA := uint(pkcs11.CKK_EC), false
	switch hsm.AlgorithmOf(r.Public) {
	case hsm.RSA1024, hsm.RSA2048, hsm.RSA3072, hsm.RSA4096:
		kind, isRSA = pkcs11.CKK_RSA, true
	case hsm.Ed25519:
		kind = ckkEdwards
	case hsm.X25519:
		kind = m.profile.xKeyType
	}
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
	}
	if m.profile.usageBits {
		template = append(template, usageBits(r.Usage, isRSA)...)
	}
	if m.profile.pointOnUnwrap && !isRSA {
		template = append(template, pkcs11.NewAttribute(ckaNSSPoint, pointOf(r.Public)))
	}
	// CKA_MODIFIABLE is the last of them: SoftHSM takes none behind it.
	template = append(template, of(strict)...)
	return m.ctx.UnwrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(uint(r.Mechanism), nil)}, w.handle, r.Ciphertext, template)
}

// auditOutside judges a key that came out of its ciphertext by the rule of its
// class: it cannot say that it was always in the token, but it can be kept from
// leaving it now.
func (m *module) auditOutside(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, w *wrapping, r shelf.Record) (faults []string, err error) {
	a, err := m.read(s, o, askedOfPrivate)
	if err != nil {
		return nil, err
	}
	for _, rule := range []struct {
		flag
		name string
	}{
		{flag{pkcs11.CKA_PRIVATE, true}, "CKA_PRIVATE"},
		{flag{pkcs11.CKA_SENSITIVE, true}, "CKA_SENSITIVE"},
		{flag{pkcs11.CKA_EXTRACTABLE, false}, "CKA_EXTRACTABLE"},
		{flag{pkcs11.CKA_MODIFIABLE, false}, "CKA_MODIFIABLE"},
	} {
		if v, known := a.flag(rule.typ); !known {
			faults = append(faults, rule.name+" cannot be read")
		} else if v != rule.value {
			faults = append(faults, fmt.Sprintf("%s is %t", rule.name, v))
		}
	}
	if m.profile.usageBits {
		if u, why := usageOf(m.profile, a); u != r.Usage {
			faults = append(faults, cmp.Or(why, "it is for another use"))
		}
	}
	thief := thief{m: m, s: s, key: w.handle, with: []*pkcs11.Mechanism{pkcs11.NewMechanism(uint(r.Mechanism), nil)}}
	readable, wrapped, err := thief.rob(o, a.number(pkcs11.CKA_KEY_TYPE))
	if err != nil {
		return nil, err
	}
	if readable {
		faults = append(faults, "the secret can be read")
	}
	if wrapped != "" {
		faults = append(faults, "the key can be wrapped out by "+wrapped)
	}
	return faults, nil
}

// belongs reports whether the private key o is that of k: hsm.ErrOpaque, or a
// code of the module, otherwise. RSA keys say their modulus; the others are used
// once, on s.
func (m *module) belongs(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, k *key) error {
	if pub, ok := k.Public.(*rsa.PublicKey); ok {
		a, err := m.read(s, o, askedOfRSA[:1])
		if err != nil {
			return err
		}
		if n := bytes.TrimLeft(a[pkcs11.CKA_MODULUS], "\x00"); len(n) > 0 {
			if !bytes.Equal(n, pub.N.Bytes()) {
				return fmt.Errorf("%w: the modulus differs", hsm.ErrOpaque)
			}
			return nil
		}
	}
	lent := *k
	lent.priv = o
	return m.tryOn(s, &lent)
}

// proveOutside opens a record that has no file yet, as a first use would, and
// uses the key once.
func (m *module) proveOutside(k *key, r shelf.Record) error {
	return m.pool.with(func(s pkcs11.SessionHandle) error {
		return m.vault.with(k, func() (pkcs11.ObjectHandle, error) { return m.vault.open(s, k, r) }, func(open *key) error { return m.tryOn(s, open) })
	})
}

// tryOn uses a key once on a session.
func (m *module) tryOn(s pkcs11.SessionHandle, k *key) error {
	if k.Usage == hsm.Sign {
		return m.trySign(s, k, signAlg(hsm.AlgorithmOf(k.Public)))
	}
	return m.tryUnwrap(s, k)
}
