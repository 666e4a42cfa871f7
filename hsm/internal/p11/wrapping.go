package p11

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// wrappingLabel is CKA_LABEL of the key that opens the keys outside.
const wrappingLabel = "postern/wrapping"

// wrappingSize is its length in bytes: AES-256.
const wrappingSize = 32

// ckmKeyWrapKWP is RFC 5649 in PKCS#11 v3.0.
const ckmKeyWrapKWP = 0x210b

// wrapMechanisms are AES key wrap with padding, all with an integrity of their
// own (RFC 5649), the name of the standard first.
var wrapMechanisms = []uint{ckmKeyWrapKWP, pkcs11.CKM_AES_KEY_WRAP_PAD, pkcs11.CKM_NSS_AES_KEY_WRAP_PAD}

// wrapMechanism is how this module wraps private keys, or 0.
func (m *module) wrapMechanism() uint {
	if !m.offers(pkcs11.CKM_AES_KEY_GEN, pkcs11.CKF_GENERATE) {
		return 0
	}
	for _, mech := range wrapMechanisms {
		if m.offers(mech, pkcs11.CKF_WRAP) && m.offers(mech, pkcs11.CKF_UNWRAP) {
			return mech
		}
	}
	return 0
}

// strict is what every key is that comes out of its ciphertext. The wrapping
// key demands it of whoever unwraps (CKA_UNWRAP_TEMPLATE), so that even the PIN
// does not get a key out of the token by its ciphertext.
var strict = []flag{
	{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_EXTRACTABLE, false}, {pkcs11.CKA_MODIFIABLE, false},
}

// wrapping is a key that opens keys outside.
type wrapping struct {
	handle pkcs11.ObjectHandle
	cka    []byte
	faults []string
}

// askedOfWrapping are the attributes that a wrapping key is judged by: what it
// may do beside wrapping would open the ciphertexts in another way.
var askedOfWrapping = []struct {
	flag
	name string
}{
	{flag{pkcs11.CKA_PRIVATE, true}, "CKA_PRIVATE"},
	{flag{pkcs11.CKA_LOCAL, true}, "CKA_LOCAL"},
	{flag{pkcs11.CKA_SENSITIVE, true}, "CKA_SENSITIVE"},
	{flag{pkcs11.CKA_ALWAYS_SENSITIVE, true}, "CKA_ALWAYS_SENSITIVE"},
	{flag{pkcs11.CKA_EXTRACTABLE, false}, "CKA_EXTRACTABLE"},
	{flag{pkcs11.CKA_NEVER_EXTRACTABLE, true}, "CKA_NEVER_EXTRACTABLE"},
	{flag{pkcs11.CKA_MODIFIABLE, false}, "CKA_MODIFIABLE"},
	{flag{pkcs11.CKA_COPYABLE, false}, "CKA_COPYABLE"},
	{flag{pkcs11.CKA_ENCRYPT, false}, "CKA_ENCRYPT"},
	{flag{pkcs11.CKA_DECRYPT, false}, "CKA_DECRYPT"},
	{flag{pkcs11.CKA_DERIVE, false}, "CKA_DERIVE"},
	{flag{pkcs11.CKA_WRAP, true}, "CKA_WRAP"},
	{flag{pkcs11.CKA_UNWRAP, true}, "CKA_UNWRAP"},
}

// makeWrapping makes a wrapping key, in the token or for a session.
func (m *module) makeWrapping(s pkcs11.SessionHandle, persistent bool) (pkcs11.ObjectHandle, []byte, error) {
	cka := newCKA(hsm.Unwrap)
	template := append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, wrappingSize),
		pkcs11.NewAttribute(pkcs11.CKA_ID, cka),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, wrappingLabel),
	}, of([]flag{
		{pkcs11.CKA_TOKEN, persistent}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_EXTRACTABLE, false}, {pkcs11.CKA_MODIFIABLE, false},
		{pkcs11.CKA_ENCRYPT, false}, {pkcs11.CKA_DECRYPT, false}, {pkcs11.CKA_SIGN, false}, {pkcs11.CKA_VERIFY, false}, {pkcs11.CKA_DERIVE, false},
		{pkcs11.CKA_WRAP, true}, {pkcs11.CKA_UNWRAP, true},
	})...)
	if m.profile.copyable {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false))
	}
	if m.profile.unwrapTemplate {
		a, free := nested(pkcs11.CKA_UNWRAP_TEMPLATE, strict)
		defer free()
		template = append(template, a)
	}
	o, err := m.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
	return o, cka, err
}

// wrappings finds the wrapping keys in the token and judges them.
func (m *module) wrappings(s pkcs11.SessionHandle) ([]wrapping, error) {
	if m.wrapMechanism() == 0 {
		return nil, nil
	}
	handles, err := m.objects(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, wrappingLabel),
	})
	if err != nil {
		return nil, err
	}
	var list []wrapping
	for _, h := range handles {
		w, err := m.judgeWrapping(s, h)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b wrapping) int { return bytes.Compare(a.cka, b.cka) })
	return list, nil
}

// judgeWrapping reads what a wrapping key says of itself, and tries to get a
// secret out by it.
func (m *module) judgeWrapping(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (wrapping, error) {
	types := []uint{pkcs11.CKA_ID}
	for _, rule := range askedOfWrapping {
		types = append(types, rule.typ)
	}
	a, err := m.read(s, h, types)
	if err != nil {
		return wrapping{}, err
	}
	w := wrapping{handle: h, cka: bytes.Clone(a[pkcs11.CKA_ID])}
	for _, rule := range askedOfWrapping {
		if slices.Contains(m.profile.unreliable, rule.typ) || rule.typ == pkcs11.CKA_COPYABLE && !m.profile.copyable {
			continue
		}
		if v, known := a.flag(rule.typ); !known {
			w.faults = append(w.faults, rule.name+" cannot be read")
		} else if v != rule.value {
			w.faults = append(w.faults, fmt.Sprintf("%s is %t", rule.name, v))
		}
	}
	if len(w.cka) == 0 {
		w.faults = append(w.faults, "CKA_ID is empty")
	}
	leaks, err := m.leaks(s, h)
	if err != nil {
		return wrapping{}, err
	}
	if leaks {
		w.faults = append(w.faults, "with the PIN it opens a ciphertext to a key that can be read")
	}
	return w, nil
}

// leaks reports whether a wrapping key opens a ciphertext to something that can
// be read: then whoever has the PIN and a ciphertext has the key. It is tried
// with an AES key of no use, which every token makes in no time; where that
// cannot be tried, it is taken for granted.
func (m *module) leaks(s pkcs11.SessionHandle, wrapping pkcs11.ObjectHandle) (bool, error) {
	mech := pkcs11.NewMechanism(m.wrapMechanism(), nil)
	kind := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES)}
	open := of([]flag{{pkcs11.CKA_TOKEN, false}, {pkcs11.CKA_SENSITIVE, false}, {pkcs11.CKA_EXTRACTABLE, true}})
	bait, err := m.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)},
		append(append(slices.Clone(kind), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16)), open...))
	if err != nil {
		return false, err
	}
	defer m.ctx.DestroyObject(s, bait)
	ciphertext, err := m.wrapKey(s, mech, wrapping, bait)
	if is(err, gone...) {
		return false, err
	}
	if err != nil || len(ciphertext) == 0 { // nothing is shown
		return true, nil
	}
	o, err := m.ctx.UnwrapKey(s, []*pkcs11.Mechanism{mech}, wrapping, ciphertext, append(slices.Clone(kind), open...))
	if is(err, gone...) {
		return false, err
	}
	if err != nil {
		return false, nil
	}
	defer m.ctx.DestroyObject(s, o)
	return true, nil
}

// ownWrapping is the key that new keys are wrapped by: the first that is as it
// must be, or one that is made.
func (m *module) ownWrapping(s pkcs11.SessionHandle, allowImported bool) (*wrapping, error) {
	m.mu.RLock()
	list := m.wraps
	m.mu.RUnlock()
	for i := range list {
		if allowImported || len(list[i].faults) == 0 {
			return &list[i], nil
		}
	}
	h, _, err := m.makeWrapping(s, true)
	if err != nil {
		return nil, fmt.Errorf("make wrapping key: %w", err)
	}
	w, err := m.judgeWrapping(s, h)
	if err != nil {
		return nil, fmt.Errorf("check wrapping key: %w", err)
	}
	if len(w.faults) > 0 && !allowImported {
		if err := m.ctx.DestroyObject(s, h); err != nil {
			return nil, fmt.Errorf("remove wrapping key: %w", err)
		}
		return nil, fmt.Errorf("%w: the wrapping key is not as it must be: %v", hsm.ErrInvalid, w.faults)
	}
	m.mu.Lock()
	m.wraps = append(slices.Clone(m.wraps), w)
	m.mu.Unlock()
	return &w, nil
}

// wrappingOf is the wrapping key with a CKA_ID, or nil.
func (m *module) wrappingOf(cka []byte) *wrapping {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range m.wraps {
		if bytes.Equal(m.wraps[i].cka, cka) {
			return &m.wraps[i]
		}
	}
	return nil
}
