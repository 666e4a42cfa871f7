package p11

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func xKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func findingOf(findings []hsm.Finding, label string) hsm.Finding {
	for _, f := range findings {
		if f.Label == label {
			return f
		}
	}
	return hsm.Finding{}
}

// Keys brought from elsewhere are served only where that is allowed, as what
// they are, and then work like any other.
func TestImported(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	keys := map[string]struct {
		usage hsm.Usage
		priv  crypto.PrivateKey
	}{
		"rsa-sign":    {hsm.Sign, rsaKey(t, 2048)},
		"rsa-unwrap":  {hsm.Unwrap, rsaKey(t, 2048)},
		"p256-sign":   {hsm.Sign, ecKey(t, elliptic.P256())},
		"p384-unwrap": {hsm.Unwrap, ecKey(t, elliptic.P384())},
		"p521-unwrap": {hsm.Unwrap, ecKey(t, elliptic.P521())},
		"ed25519":     {hsm.Sign, edKey(t)},
		"x25519":      {hsm.Unwrap, xKey(t)},
	}
	ids := map[string]hsm.KeyID{}
	for label, k := range keys {
		ids[label] = f.Import(label, k.usage, k.priv)
	}
	strict := ready(t, f)
	served, findings, err := strict.Load()
	if err != nil || len(served) != 0 || len(findings) != len(keys) {
		t.Fatalf("strict: got %d keys, %d findings, %v want 0, %d", len(served), len(findings), err, len(keys))
	}
	for _, f := range findings {
		if f.Served || !slices.Contains(f.Faults, "CKA_LOCAL is false") || f.ID != ids[f.Label] {
			t.Errorf("strict: finding %+v", f)
		}
	}
	if _, err := strict.Sign(ids["p256-sign"], hsm.ECDSA, make([]byte, 32)); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("strict: sign: got %v want %v", err, hsm.ErrNoKey)
	}
	strict.Close()

	lax := ready(t, f, importedToo)
	served, findings, err = lax.Load()
	if err != nil || len(served) != len(keys) {
		t.Fatalf("allowed: got %d keys, %v want %d: %+v", len(served), err, len(keys), findings)
	}
	for _, k := range served {
		if k.Class != hsm.Imported || k.ID != ids[k.Label] || k.Usage != keys[k.Label].usage {
			t.Errorf("allowed: got %+v", k)
		}
		if err := exercise(lax, k); err != nil {
			t.Errorf("allowed: %s: %v", k.Label, err)
		}
	}
}

// What must never be served, and what only where copies are allowed.
func TestAuditOnToken(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	twin, other := ecKey(t, elliptic.P256()), []byte("the same id")
	f.Import("modifiable", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_MODIFIABLE, Value: true})
	f.Import("extractable", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_EXTRACTABLE, Value: true})
	f.Import("readable", hsm.Unwrap, rsaKey(t, 2048), hsmtest.Attr{Type: pkcs11.CKA_EXTRACTABLE, Value: true}, hsmtest.Attr{Type: pkcs11.CKA_SENSITIVE, Value: false})
	f.Import("both", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_DERIVE, Value: true})
	f.Import("neither", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_SIGN, Value: false})
	f.Import("public", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_PRIVATE, Value: false})
	f.Import("twin-1", hsm.Sign, twin)
	f.Import("twin-2", hsm.Unwrap, twin)
	f.Import("id-1", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_ID, Value: other})
	f.Import("id-2", hsm.Sign, edKey(t), hsmtest.Attr{Type: pkcs11.CKA_ID, Value: other})
	f.Import("no-id", hsm.Sign, ecKey(t, elliptic.P256()), hsmtest.Attr{Type: pkcs11.CKA_ID, Value: []byte{}})
	f.Import("bad\x00label\xff", hsm.Sign, ecKey(t, elliptic.P256()))
	f.Import("small", hsm.Sign, rsaKey(t, 1024))
	f.Import("small-old", hsm.Unwrap, rsaKey(t, 1024))
	f.Import("odd", hsm.Unwrap, rsaKey(t, 1536))
	f.Import("good", hsm.Sign, ecKey(t, elliptic.P256()))
	f.Import("ed-good", hsm.Sign, edKey(t))

	for _, c := range []struct {
		label  string
		lax    bool // served where copies are allowed
		faults []string
	}{
		{"modifiable", true, []string{"CKA_MODIFIABLE is true"}},
		{"extractable", true, []string{"CKA_EXTRACTABLE is true", "the key can be wrapped out by mechanism 0x210a"}},
		{"readable", true, []string{"CKA_SENSITIVE is false", "the secret can be read"}},
		{"both", false, []string{"it may both sign and decrypt or derive"}},
		{"neither", false, []string{"it may neither sign nor decrypt or derive"}},
		{"public", false, []string{"CKA_PRIVATE is false"}},
		{"twin-1", false, []string{"this key stands in the token more than once"}},
		{"twin-2", false, []string{"this key stands in the token more than once"}},
		{"id-1", false, []string{"several private keys have this CKA_ID"}},
		{"id-2", false, []string{"several private keys have this CKA_ID"}},
		{"no-id", false, []string{"CKA_ID is empty"}},
		{"bad?label?", true, nil},
		{"small", false, []string{"rsa-1024 cannot sign"}},
		{"small-old", true, nil}, // opens old mail
		{"odd", false, []string{"algorithm or size is not one of ours"}},
		{"good", true, nil},
		{"ed-good", true, nil},
	} {
		for _, allow := range []bool{false, true} {
			tok := ready(t, f, func(cfg *Config) { cfg.AllowImported = allow })
			_, findings, err := tok.Load()
			if err != nil {
				t.Fatal(err)
			}
			got := findingOf(findings, c.label)
			if got.Label == "" {
				t.Errorf("%q: no finding", c.label)
			}
			if want := allow && c.lax; got.Served != want {
				t.Errorf("%s, imported allowed %t: served %t want %t: %q", c.label, allow, got.Served, want, got.Faults)
			}
			for _, fault := range c.faults {
				if !slices.Contains(got.Faults, fault) {
					t.Errorf("%s: got %q want among them %q", c.label, got.Faults, fault)
				}
			}
			tok.Close()
		}
	}
}

// A resident key that is extractable is refused (R33), and one whose public
// half is gone, too.
func TestAuditResident(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := ready(t, f)
	m := tok.m
	for _, c := range []struct {
		label string
		typ   uint
		value bool
		lax   bool
	}{
		{"extractable", pkcs11.CKA_EXTRACTABLE, true, true},
		{"insensitive", pkcs11.CKA_SENSITIVE, false, true},
		{"modifiable", pkcs11.CKA_MODIFIABLE, true, false}, // no copy, but not as ordered either
		{"derives", pkcs11.CKA_DERIVE, true, false},
	} {
		mech, public, private, err := m.templates(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: c.label}, newCKA(hsm.Sign), true, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range private {
			if a.Type == c.typ {
				*a = *pkcs11.NewAttribute(c.typ, c.value)
			}
		}
		err = m.pool.with(func(s pkcs11.SessionHandle) error {
			_, _, err := m.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, public, private)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, allow := range []bool{false, true} {
			tok.c.AllowImported = allow
			_, findings, err := tok.Load()
			if err != nil {
				t.Fatal(err)
			}
			if got := findingOf(findings, c.label); got.Served != (allow && c.lax) || len(got.Faults) == 0 {
				t.Errorf("%s, imported allowed %t: got %+v", c.label, allow, got)
			}
		}
	}
}

func TestOrphan(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	tok := ready(t, f)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.RSA2048} {
		k := generate(t, tok, a, hsm.Sign)
		held := tok.m.keys[k.ID]
		if err := tok.m.pool.with(func(s pkcs11.SessionHandle) error { return tok.m.ctx.DestroyObject(s, held.pub) }); err != nil {
			t.Fatal(err)
		}
		_, findings, err := tok.Load()
		if err != nil {
			t.Fatal(err)
		}
		// An RSA private key carries its public half along.
		if got := findingOf(findings, k.Label); got.Served != (a == hsm.RSA2048) {
			t.Errorf("%s without its public half: got %+v", a, got)
		}
		if a == hsm.RSA2048 {
			if err := exercise(tok, k); err != nil {
				t.Errorf("%s without its public half: %v", a, err)
			}
		}
	}
}

// Every attribute of a generated key is as spelled out; crypto11's defaults
// would make a signing key that can decrypt.
func TestGeneratedAttributes(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	for _, p := range []struct {
		a    hsm.Algorithm
		u    hsm.Usage
		only uint
	}{
		{hsm.RSA2048, hsm.Sign, pkcs11.CKA_SIGN}, {hsm.RSA2048, hsm.Unwrap, pkcs11.CKA_DECRYPT},
		{hsm.P256, hsm.Sign, pkcs11.CKA_SIGN}, {hsm.P256, hsm.Unwrap, pkcs11.CKA_DERIVE},
		{hsm.Ed25519, hsm.Sign, pkcs11.CKA_SIGN}, {hsm.X25519, hsm.Unwrap, pkcs11.CKA_DERIVE},
	} {
		k := tok.m.keys[generate(t, tok, p.a, p.u).ID]
		want := map[uint]bool{
			pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_ALWAYS_SENSITIVE: true,
			pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_NEVER_EXTRACTABLE: true, pkcs11.CKA_LOCAL: true, pkcs11.CKA_MODIFIABLE: false, pkcs11.CKA_COPYABLE: false,
			pkcs11.CKA_SIGN: false, pkcs11.CKA_SIGN_RECOVER: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_UNWRAP: false, pkcs11.CKA_DERIVE: false,
		}
		want[p.only] = true
		err := tok.m.pool.with(func(s pkcs11.SessionHandle) error {
			for typ, w := range want {
				a, err := tok.m.read(s, k.priv, []uint{typ})
				if err != nil {
					return err
				}
				if got, known := a.flag(typ); !known || got != w {
					t.Errorf("%s to %s: attribute 0x%x: got %t (known %t) want %t", p.a, p.u, typ, got, known, w)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(k.cka) != ckaSize || hsm.Usage(k.cka[0]) != p.u {
			t.Errorf("%s to %s: CKA_ID %x", p.a, p.u, k.cka)
		}
	}
}

func TestGenerateRefusals(t *testing.T) {
	tok := ready(t, hsmtest.SoftHSM(t))
	generate(t, tok, hsm.P256, hsm.Sign)
	taken := fmt.Sprintf("test/%s/%s", hsm.P256, hsm.Sign)
	for _, c := range []struct {
		spec hsm.KeySpec
		want error
	}{
		{hsm.KeySpec{Algorithm: hsm.Ed25519, Usage: hsm.Unwrap, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.X25519, Usage: hsm.Sign, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.RSA1024, Usage: hsm.Sign, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.RSA1024, Usage: hsm.Unwrap, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: "", Usage: hsm.Sign, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: 0, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: 3, Label: "x"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: strings.Repeat("x", hsm.MaxLabel+1)}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "a\nb"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "é"}, hsm.ErrInvalid},
		{hsm.KeySpec{Algorithm: hsm.P384, Usage: hsm.Sign, Label: taken}, hsm.ErrExists},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Unwrap, Label: taken}, nil},
		{hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: strings.Repeat("x", hsm.MaxLabel)}, nil},
	} {
		if _, err := tok.Generate(c.spec); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v want %v", c.spec, err, c.want)
		}
	}
}

// The audit on paper: every attribute alone decides.
func TestAudit(t *testing.T) {
	soft, tpm := &profiles[0], profileOf(pkcs11.Info{ManufacturerID: "tpm2-software.github.io"})
	whole := func() attributes {
		a := attributes{}
		for typ, v := range map[uint]byte{
			pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_LOCAL: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
			pkcs11.CKA_NEVER_EXTRACTABLE: 1, pkcs11.CKA_MODIFIABLE: 0, pkcs11.CKA_SIGN: 1, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_DERIVE: 0, pkcs11.CKA_UNWRAP: 0,
		} {
			a[typ] = []byte{v}
		}
		return a
	}
	for _, c := range []struct {
		name    string
		profile *profile
		change  func(*private)
		strict  bool // served
		lax     bool // served where copies are allowed
		class   hsm.Class
		usage   hsm.Usage
	}{
		{"whole", soft, func(*private) {}, true, true, hsm.Resident, hsm.Sign},
		{"brought", soft, func(p *private) { p.a[pkcs11.CKA_LOCAL] = []byte{0} }, false, true, hsm.Imported, hsm.Sign},
		{"origin unknown", soft, func(p *private) { delete(p.a, pkcs11.CKA_LOCAL) }, false, true, hsm.Imported, hsm.Sign},
		{"was extractable", soft, func(p *private) { p.a[pkcs11.CKA_NEVER_EXTRACTABLE] = []byte{0} }, false, true, hsm.Imported, hsm.Sign},
		{"was readable", soft, func(p *private) { p.a[pkcs11.CKA_ALWAYS_SENSITIVE] = []byte{0} }, false, true, hsm.Imported, hsm.Sign},
		{"extractable", soft, func(p *private) { p.a[pkcs11.CKA_EXTRACTABLE] = []byte{1} }, false, true, hsm.Imported, hsm.Sign},
		{"insensitive", soft, func(p *private) { delete(p.a, pkcs11.CKA_SENSITIVE) }, false, true, hsm.Imported, hsm.Sign},
		{"read", soft, func(p *private) { p.readable = true }, false, true, hsm.Imported, hsm.Sign},
		{"wrapped", soft, func(p *private) { p.wrapped = "x" }, false, true, hsm.Imported, hsm.Sign},
		{"modifiable", soft, func(p *private) { p.a[pkcs11.CKA_MODIFIABLE] = []byte{1} }, false, false, hsm.Resident, hsm.Sign},
		{"modifiable copy", soft, func(p *private) {
			p.a[pkcs11.CKA_MODIFIABLE], p.a[pkcs11.CKA_LOCAL] = []byte{1}, []byte{0}
		}, false, true, hsm.Imported, hsm.Sign},
		{"for all to see", soft, func(p *private) { p.a[pkcs11.CKA_PRIVATE] = []byte{0} }, false, false, hsm.Resident, hsm.Sign},
		{"asks each time", soft, func(p *private) { p.a[pkcs11.CKA_ALWAYS_AUTHENTICATE] = []byte{1} }, false, false, hsm.Resident, hsm.Sign},
		{"recovers", soft, func(p *private) { p.a[pkcs11.CKA_SIGN], p.a[pkcs11.CKA_SIGN_RECOVER] = []byte{0}, []byte{1} }, true, true, hsm.Resident, hsm.Sign},
		{"unwraps too", soft, func(p *private) { p.a[pkcs11.CKA_UNWRAP] = []byte{1} }, false, false, hsm.Resident, 0},
		{"only unwraps", soft, func(p *private) { p.a[pkcs11.CKA_SIGN], p.a[pkcs11.CKA_UNWRAP] = []byte{0}, []byte{1} }, true, true, hsm.Resident, hsm.Unwrap},
		{"malformed flag", soft, func(p *private) { p.a[pkcs11.CKA_EXTRACTABLE] = []byte{0, 0} }, false, true, hsm.Imported, hsm.Sign},
		{"usage by name", tpm, func(p *private) { p.a[pkcs11.CKA_ID] = newCKA(hsm.Unwrap) }, true, true, hsm.Resident, hsm.Unwrap},
		{"usage unknown", tpm, func(p *private) { p.a[pkcs11.CKA_ID] = []byte("foreign") }, false, false, hsm.Resident, 0},
	} {
		for _, allow := range []bool{false, true} {
			p := private{a: whole()}
			c.change(&p)
			usage, class, good, faults := audit(c.profile, allow, p)
			want := c.strict
			if allow {
				want = c.lax
			}
			if good != want || class != c.class || usage != c.usage || !c.strict && len(faults) == 0 {
				t.Errorf("%s, imported allowed %t: got %t %s %s %q want %t %s %s", c.name, allow, good, class, usage, faults, want, c.class, c.usage)
			}
		}
	}
}

func TestProfileOf(t *testing.T) {
	for _, c := range []struct{ manufacturer, library, want string }{
		{"SoftHSM", "Implementation of PKCS11", "softhsm"},
		{"Mozilla Foundation", "NSS Internal Crypto Services", "nss-softokn"},
		{"tpm2-software.github.io", "TPM2.0 Cryptoki", "tpm2-pkcs11"},
		{"Nitrokey", "Nitrokey NetHsm PKCS#11 library", "generic"},
		{"", "", "generic"},
	} {
		if got := profileOf(pkcs11.Info{ManufacturerID: c.manufacturer, LibraryDescription: c.library}).name; got != c.want {
			t.Errorf("%q %q: got %s want %s", c.manufacturer, c.library, got, c.want)
		}
	}
}

// Whatever a module gives as public key is refused, or has a name and a size
// and can be written down.
func FuzzPublicKey(f *testing.F) {
	f.Add(uint(pkcs11.CKK_RSA), []byte{0xff, 1}, []byte{1, 0, 1})
	f.Add(uint(pkcs11.CKK_EC), nist[hsm.P256].oid, append([]byte{4, 65, 4}, make([]byte, 64)...))
	f.Add(uint(ckkEdwards), oidEd25519, append([]byte{4, 32}, make([]byte, 32)...))
	f.Add(uint(ckkMontgomery), oidX25519, make([]byte, 32))
	f.Add(uint(ckkEdwards), []byte("\x13\x0cedwards25519"), make([]byte, 32))
	f.Fuzz(func(t *testing.T, kind uint, one, two []byte) {
		pub, err := publicKey(kind, attributes{
			pkcs11.CKA_MODULUS: one, pkcs11.CKA_PUBLIC_EXPONENT: two, pkcs11.CKA_EC_PARAMS: one, pkcs11.CKA_EC_POINT: two,
		})
		if err != nil {
			return
		}
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatalf("%T cannot be written: %v", pub, err)
		}
		again, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			t.Fatalf("%T cannot be read again: %v", pub, err)
		}
		a, b := must(hsm.IDOf(pub)), must(hsm.IDOf(again))
		if a != b || size(pub) < 32 {
			t.Fatalf("%T: got id %s, size %d want id %s", pub, b, size(pub), a)
		}
	})
}

func must(id hsm.KeyID, err error) hsm.KeyID {
	if err != nil {
		return hsm.KeyID{}
	}
	return id
}
