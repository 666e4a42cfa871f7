package p11

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

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
// every private key. Earlier handles are dropped. Reading the secret of each
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
	var privates []private
	var publics []public
	for _, h := range handles {
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

// thief tries what a thief with the PIN would: to read a secret, and to wrap
// it under a key of his own.
type thief struct {
	m    *module
	s    pkcs11.SessionHandle
	key  pkcs11.ObjectHandle // an AES key that may wrap, or 0
	with []*pkcs11.Mechanism
}

func (m *module) thief(s pkcs11.SessionHandle) (*thief, error) {
	t := &thief{m: m, s: s}
	for _, mech := range []*pkcs11.Mechanism{
		pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil),
		pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil),
		pkcs11.NewMechanism(pkcs11.CKM_NSS_AES_KEY_WRAP_PAD, nil),
		pkcs11.NewMechanism(pkcs11.CKM_AES_CBC_PAD, make([]byte, 16)),
	} {
		if m.offers(mech.Mechanism, pkcs11.CKF_WRAP) {
			t.with = append(t.with, mech)
		}
	}
	if len(t.with) == 0 || !m.offers(pkcs11.CKM_AES_KEY_GEN, pkcs11.CKF_GENERATE) {
		t.with = nil
		return t, nil
	}
	var err error
	t.key, err = m.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	})
	if is(err, gone...) {
		return nil, err
	}
	if err != nil { // no such key, so no such theft
		t.with = nil
	}
	return t, nil
}

// rob reports what could be taken of a private key. What was taken is wiped.
func (t *thief) rob(k pkcs11.ObjectHandle, kind uint) (readable bool, wrapped string, err error) {
	secret := uint(pkcs11.CKA_VALUE)
	if kind == pkcs11.CKK_RSA {
		secret = pkcs11.CKA_PRIVATE_EXPONENT
	}
	list, err := t.m.ctx.GetAttributeValue(t.s, k, ask(secret))
	if is(err, gone...) {
		return false, "", err
	}
	if err == nil && len(list) == 1 && len(list[0].Value) > 0 {
		readable = true
		clear(list[0].Value)
	}
	for _, mech := range t.with {
		out, err := t.m.ctx.WrapKey(t.s, []*pkcs11.Mechanism{mech}, t.key, k)
		if is(err, gone...) {
			return false, "", err
		}
		if err == nil {
			clear(out)
			return readable, fmt.Sprintf("mechanism 0x%x", mech.Mechanism), nil
		}
	}
	return readable, "", nil
}

func (t *thief) end() {
	if t.key != 0 {
		t.m.ctx.DestroyObject(t.s, t.key)
	}
}

// judge pairs private with public keys and decides which are served. A CKA_ID
// or a public key that stands twice is served in no form: nobody could say
// which one a name means.
func judge(p *profile, allowImported bool, privates []private, publics []public) (served []*key, findings []hsm.Finding, taken map[name]int) {
	taken = map[name]int{}
	byCKA := map[string][]public{}
	for _, pub := range publics {
		id := string(pub.a[pkcs11.CKA_ID])
		byCKA[id] = append(byCKA[id], pub)
	}
	ckas := map[string]int{}
	for _, priv := range privates {
		ckas[string(priv.a[pkcs11.CKA_ID])]++
	}
	keys := make([]*key, len(privates))
	ids := map[hsm.KeyID]int{}
	reasons := make([]error, len(privates))
	for i, priv := range privates {
		keys[i], reasons[i] = pair(priv, byCKA[string(priv.a[pkcs11.CKA_ID])])
		if keys[i] != nil {
			ids[keys[i].ID]++
		}
	}
	for i, priv := range privates {
		f := hsm.Finding{Label: printable(priv.a[pkcs11.CKA_LABEL])}
		usage, class, good, faults := audit(p, allowImported, priv)
		taken[name{f.Label, usage}]++
		if reasons[i] != nil {
			good, faults = false, append(faults, reasons[i].Error())
		}
		if len(priv.a[pkcs11.CKA_ID]) == 0 {
			good, faults = false, append(faults, "CKA_ID is empty")
		} else if ckas[string(priv.a[pkcs11.CKA_ID])] > 1 {
			good, faults = false, append(faults, "several private keys have this CKA_ID")
		}
		if k := keys[i]; k != nil {
			f.ID = k.ID
			k.Usage, k.Class, k.Label = usage, class, f.Label
			if ids[k.ID] > 1 {
				good, faults = false, append(faults, "this key stands in the token more than once")
			}
			if why := fits(hsm.AlgorithmOf(k.Public), usage); why != "" && usage != 0 {
				good, faults = false, append(faults, why)
			}
			if good {
				f.Served = true
				served = append(served, k)
			}
		}
		f.Faults = faults
		findings = append(findings, f)
	}
	return served, findings, taken
}

// fits says why a key of an algorithm cannot have a usage, or "".
func fits(a hsm.Algorithm, u hsm.Usage) string {
	switch {
	case a == "":
		return "algorithm or size is not one of ours"
	case a == hsm.Ed25519 && u != hsm.Sign, a == hsm.X25519 && u != hsm.Unwrap:
		return fmt.Sprintf("%s cannot %s", a, u)
	case u != hsm.Sign && u != hsm.Unwrap:
		return "usage is neither sign nor unwrap"
	}
	return ""
}

// audit judges the attributes of one private key. Faults are listed even
// where they are tolerated because allowImported says so.
func audit(p *profile, allowImported bool, k private) (usage hsm.Usage, class hsm.Class, good bool, faults []string) {
	good, class = true, hsm.Resident
	for _, rule := range []struct {
		typ  uint
		name string
		want bool
		copy bool // otherwise a copy of the key may exist
		lax  bool // tolerated where copies are
	}{
		{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, false, false},
		{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, true, true},
		{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, true, true},
		{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, true, true},
		{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, true, true},
		{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, true, true},
		{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, false, true},
	} {
		if contains(p.unreliable, rule.typ) {
			continue
		}
		v, known := k.a.flag(rule.typ)
		if known && v == rule.want {
			continue
		}
		if known {
			faults = append(faults, fmt.Sprintf("%s is %t", rule.name, v))
		} else {
			faults = append(faults, rule.name+" cannot be read")
		}
		if rule.copy {
			class = hsm.Imported
		}
		if !rule.lax {
			good = false
		}
	}
	if k.readable {
		class, faults = hsm.Imported, append(faults, "the secret can be read")
	}
	if k.wrapped != "" {
		class, faults = hsm.Imported, append(faults, "the key can be wrapped out by "+k.wrapped)
	}
	if len(faults) > 0 && !(class == hsm.Imported && allowImported) {
		good = false
	}
	if v, _ := k.a.flag(pkcs11.CKA_ALWAYS_AUTHENTICATE); v {
		good, faults = false, append(faults, "CKA_ALWAYS_AUTHENTICATE is true: it wants a person for each use")
	}
	usage, why := usageOf(p, k.a)
	if why != "" {
		good, faults = false, append(faults, why)
	}
	return usage, class, good, faults
}

// usageOf is the one usage of a key, or 0 and why it has not one.
func usageOf(p *profile, a attributes) (hsm.Usage, string) {
	any := func(types ...uint) bool {
		for _, typ := range types {
			if v, _ := a.flag(typ); v {
				return true
			}
		}
		return false
	}
	if !p.usageBits { // the token cannot tell, but whoever made the key could
		if id := a[pkcs11.CKA_ID]; len(id) == ckaSize && (hsm.Usage(id[0]) == hsm.Sign || hsm.Usage(id[0]) == hsm.Unwrap) {
			return hsm.Usage(id[0]), ""
		}
		return 0, "CKA_ID does not tell the usage"
	}
	sign := any(pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER)
	open := any(pkcs11.CKA_DECRYPT, pkcs11.CKA_DERIVE, pkcs11.CKA_UNWRAP)
	switch {
	case sign && open:
		return 0, "it may both sign and decrypt or derive"
	case sign:
		return hsm.Sign, ""
	case open:
		return hsm.Unwrap, ""
	}
	return 0, "it may neither sign nor decrypt or derive"
}

// pair joins a private key with its public half among those with its CKA_ID.
// An RSA key brings its public half along; if both are there, they must agree.
func pair(priv private, candidates []public) (*key, error) {
	kind := priv.a.number(pkcs11.CKA_KEY_TYPE)
	k := &key{priv: priv.handle, cka: bytes.Clone(priv.a[pkcs11.CKA_ID])}
	source, found := priv.a, false
	for _, c := range candidates {
		if c.a.number(pkcs11.CKA_KEY_TYPE) != kind {
			continue
		}
		if found {
			return nil, errors.New("several public keys have this CKA_ID")
		}
		k.pub, source, found = c.handle, c.a, true
	}
	if !found && kind != pkcs11.CKK_RSA {
		return nil, errors.New("the public key is missing")
	}
	n, c := priv.a[pkcs11.CKA_MODULUS], priv.a[pkcs11.CKA_EC_PARAMS]
	if len(n) > 0 && !bytes.Equal(bytes.TrimLeft(n, "\x00"), bytes.TrimLeft(source[pkcs11.CKA_MODULUS], "\x00")) ||
		len(c) > 0 && curveOf(c) != curveOf(source[pkcs11.CKA_EC_PARAMS]) { // SoftHSM spells a curve in two ways
		return nil, errors.New("private and public key do not belong together")
	}
	pub, err := publicKey(kind, source)
	if err != nil {
		return nil, err
	}
	k.Public = pub
	if k.ID, err = hsm.IDOf(pub); err != nil {
		return nil, err
	}
	k.size = size(pub)
	return k, nil
}

// size is the length of an RSA modulus or of a coordinate, in bytes.
func size(pub crypto.PublicKey) int {
	switch p := pub.(type) {
	case *rsa.PublicKey:
		return p.Size()
	case *ecdsa.PublicKey:
		return (p.Curve.Params().BitSize + 7) / 8
	}
	return 32
}

// publicKey reads a public key from the attributes of its object. The types
// are those of hsm.Key.
func publicKey(kind uint, a attributes) (crypto.PublicKey, error) {
	switch kind {
	case pkcs11.CKK_RSA:
		n, e := new(big.Int).SetBytes(a[pkcs11.CKA_MODULUS]), new(big.Int).SetBytes(a[pkcs11.CKA_PUBLIC_EXPONENT])
		if n.BitLen() < 1024 || n.BitLen() > 16384 || n.Bit(0) == 0 || e.BitLen() < 2 || e.BitLen() > 31 || e.Bit(0) == 0 {
			return nil, errors.New("the RSA public key is malformed")
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case pkcs11.CKK_EC, ckkEdwards, ckkMontgomery:
	default:
		return nil, fmt.Errorf("key type 0x%x is not one of ours", kind)
	}
	point := a[pkcs11.CKA_EC_POINT]
	if len(point) == 0 {
		return nil, errors.New("the public point cannot be read")
	}
	// By the standard an OCTET STRING in DER, in some modules the bare bytes.
	var bare []byte
	if rest, err := asn1.Unmarshal(point, &bare); err == nil && len(rest) == 0 {
		point = bare
	}
	switch c := curveOf(a[pkcs11.CKA_EC_PARAMS]); c {
	case hsm.P256, hsm.P384, hsm.P521:
		pub, err := ecdsa.ParseUncompressedPublicKey(nist[c].curve, point)
		if err != nil {
			return nil, errors.New("the public point is not on its curve")
		}
		return pub, nil
	case hsm.Ed25519:
		if len(point) != ed25519.PublicKeySize {
			return nil, errors.New("the Ed25519 public key is malformed")
		}
		return ed25519.PublicKey(bytes.Clone(point)), nil
	case hsm.X25519:
		pub, err := ecdh.X25519().NewPublicKey(point)
		if err != nil {
			return nil, errors.New("the X25519 public key is malformed")
		}
		return pub, nil
	}
	return nil, errors.New("the curve is not one of ours")
}

// nist are the curves that are offered, with the DER of their names (RFC 5480 §2.1.1.1).
var nist = map[hsm.Algorithm]struct {
	curve elliptic.Curve
	dh    ecdh.Curve
	oid   []byte
}{
	hsm.P256: {elliptic.P256(), ecdh.P256(), []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}},
	hsm.P384: {elliptic.P384(), ecdh.P384(), []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}},
	hsm.P521: {elliptic.P521(), ecdh.P521(), []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}},
}

// curveOf names the curve of CKA_EC_PARAMS, or "". The curves of RFC 8410
// may be given as PrintableString too (PKCS#11 v3.0 §2.3.10).
func curveOf(params []byte) hsm.Algorithm {
	for a, c := range nist {
		if bytes.Equal(params, c.oid) {
			return a
		}
	}
	var word string
	if rest, err := asn1.Unmarshal(params, &word); err != nil || len(rest) > 0 {
		word = ""
	}
	switch {
	case bytes.Equal(params, oidEd25519), word == "edwards25519":
		return hsm.Ed25519
	case bytes.Equal(params, oidX25519), word == "curve25519":
		return hsm.X25519
	}
	return ""
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

func contains(list []uint, v uint) bool {
	for _, w := range list {
		if v == w {
			return true
		}
	}
	return false
}
