package p11

import (
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

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
		out, err := t.m.wrapKey(t.s, mech, t.key, k)
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
		f.Class = class
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
	case a == hsm.Ed25519 && u != hsm.Sign, (a == hsm.X25519 || a == hsm.RSA1024) && u != hsm.Unwrap:
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
		if slices.Contains(p.unreliable, rule.typ) {
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
