//go:build cgo

package hsmtest

/*
#include <stdlib.h>
*/
import "C"

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// ckkEdwards is CKK_EC_EDWARDS, which the header of v2.40 has not.
const ckkEdwards = 0x40

// Attr replaces or adds one attribute of the private key that Import writes.
// Value is a bool, uint, string or []byte.
type Attr struct {
	Type  uint
	Value any
}

// Import writes a private key, made outside, into the token as the class
// hsm.Imported, with its public half, and returns its id. It is sensitive,
// not extractable, not modifiable and has the one usage, unless attrs say
// otherwise. priv is *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey
// or *ecdh.PrivateKey (NIST curves and X25519). A module that this process
// has open already is used as it stands and stays open.
func (f *Fixture) Import(label string, usage hsm.Usage, priv crypto.PrivateKey, attrs ...Attr) hsm.KeyID {
	f.t.Helper()
	id, err := f.create(label, usage, priv, attrs)
	if err != nil {
		f.t.Fatalf("import %s: %v", label, err)
	}
	return id
}

func (f *Fixture) create(label string, usage hsm.Usage, priv crypto.PrivateKey, extra []Attr) (hsm.KeyID, error) {
	pub, kind, public, private, err := parts(priv)
	if err != nil {
		return hsm.KeyID{}, err
	}
	id, err := hsm.IDOf(pub)
	if err != nil {
		return id, err
	}
	cka := make([]byte, 20)
	rand.Read(cka)
	rsaKey := kind == pkcs11.CKK_RSA
	public = append(public,
		Attr{pkcs11.CKA_CLASS, uint(pkcs11.CKO_PUBLIC_KEY)}, Attr{pkcs11.CKA_KEY_TYPE, kind},
		Attr{pkcs11.CKA_TOKEN, true}, Attr{pkcs11.CKA_PRIVATE, false},
		Attr{pkcs11.CKA_ID, cka}, Attr{pkcs11.CKA_LABEL, label},
		Attr{pkcs11.CKA_VERIFY, usage == hsm.Sign}, Attr{pkcs11.CKA_ENCRYPT, usage == hsm.Unwrap && rsaKey})
	private = append(private,
		Attr{pkcs11.CKA_CLASS, uint(pkcs11.CKO_PRIVATE_KEY)}, Attr{pkcs11.CKA_KEY_TYPE, kind},
		Attr{pkcs11.CKA_TOKEN, true}, Attr{pkcs11.CKA_PRIVATE, true},
		Attr{pkcs11.CKA_ID, cka}, Attr{pkcs11.CKA_LABEL, label},
		Attr{pkcs11.CKA_SENSITIVE, true}, Attr{pkcs11.CKA_EXTRACTABLE, false}, Attr{pkcs11.CKA_MODIFIABLE, false},
		Attr{pkcs11.CKA_SIGN, usage == hsm.Sign}, Attr{pkcs11.CKA_SIGN_RECOVER, false}, Attr{pkcs11.CKA_DECRYPT, usage == hsm.Unwrap && rsaKey},
		Attr{pkcs11.CKA_DERIVE, usage == hsm.Unwrap && !rsaKey}, Attr{pkcs11.CKA_UNWRAP, false})
	private = append(private, extra...)
	for _, e := range extra { // one name, so that the halves find each other
		if e.Type == pkcs11.CKA_ID || e.Type == pkcs11.CKA_LABEL {
			public = append(public, e)
		}
	}
	return id, f.session(func(c *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if err := as(c.Login(s, pkcs11.CKU_USER, f.PIN), pkcs11.CKR_USER_ALREADY_LOGGED_IN); err != nil {
			return fmt.Errorf("log in: %w", err)
		}
		if _, err := c.CreateObject(s, template(public)); err != nil {
			return fmt.Errorf("write public key: %w", err)
		}
		if _, err := c.CreateObject(s, template(private)); err != nil {
			return fmt.Errorf("write private key: %w", err)
		}
		return nil
	})
}

// initNSS sets the first PIN: the officer of a new database has an empty one.
func (f *Fixture) initNSS() {
	f.t.Helper()
	err := f.session(func(c *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if err := c.Login(s, pkcs11.CKU_SO, ""); err != nil {
			return fmt.Errorf("log in as officer: %w", err)
		}
		if err := c.InitPIN(s, f.PIN); err != nil {
			return fmt.Errorf("set PIN: %w", err)
		}
		return c.Logout(s)
	})
	if err != nil {
		f.t.Fatalf("make NSS database: %v", err)
	}
}

// session runs do on the token, and leaves the module as open or closed as it was.
func (f *Fixture) session(do func(*pkcs11.Ctx, pkcs11.SessionHandle) error) error {
	c := pkcs11.New(f.Module)
	if c == nil {
		return fmt.Errorf("load %s: no PKCS#11 module", f.Module)
	}
	defer c.Destroy()
	var options []pkcs11.InitializeOption
	if f.Reserved != "" {
		words := C.CString(f.Reserved)
		defer C.free(unsafe.Pointer(words))
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(words)))
	}
	switch err := c.Initialize(options...); {
	case err == nil:
		defer c.Finalize()
	case !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)):
		return fmt.Errorf("initialise module: %w", err)
	}
	slots, err := c.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("list tokens: %w", err)
	}
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		if err != nil || info.Label != f.Label {
			continue
		}
		s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return fmt.Errorf("open session: %w", err)
		}
		defer c.CloseSession(s)
		return do(c, s)
	}
	return fmt.Errorf("no token %q", f.Label)
}

// as takes one code for success.
func as(err error, good uint) error {
	if errors.Is(err, pkcs11.Error(good)) {
		return nil
	}
	return err
}

// template turns attrs into what C wants; of two with one type the last counts.
func template(attrs []Attr) []*pkcs11.Attribute {
	var out []*pkcs11.Attribute
	at := map[uint]int{}
	for _, a := range attrs {
		v := pkcs11.NewAttribute(a.Type, a.Value)
		if i, ok := at[a.Type]; ok {
			out[i] = v
			continue
		}
		at[a.Type] = len(out)
		out = append(out, v)
	}
	return out
}

// parts are the attributes that make the two halves of priv.
func parts(priv crypto.PrivateKey) (pub crypto.PublicKey, kind uint, public, private []Attr, err error) {
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		if len(k.Primes) != 2 {
			return nil, 0, nil, nil, errors.New("RSA key with other than two primes")
		}
		k.Precompute()
		e := Attr{pkcs11.CKA_PUBLIC_EXPONENT, []byte{byte(k.E >> 16), byte(k.E >> 8), byte(k.E)}}
		n := Attr{pkcs11.CKA_MODULUS, k.N.Bytes()}
		return &k.PublicKey, pkcs11.CKK_RSA, []Attr{n, e}, []Attr{n, e,
			{pkcs11.CKA_PRIVATE_EXPONENT, k.D.Bytes()}, {pkcs11.CKA_PRIME_1, k.Primes[0].Bytes()}, {pkcs11.CKA_PRIME_2, k.Primes[1].Bytes()},
			{pkcs11.CKA_EXPONENT_1, k.Precomputed.Dp.Bytes()}, {pkcs11.CKA_EXPONENT_2, k.Precomputed.Dq.Bytes()}, {pkcs11.CKA_COEFFICIENT, k.Precomputed.Qinv.Bytes()},
		}, nil
	case *ecdsa.PrivateKey:
		oid, ok := map[elliptic.Curve]asn1.ObjectIdentifier{
			elliptic.P256(): {1, 2, 840, 10045, 3, 1, 7}, elliptic.P384(): {1, 3, 132, 0, 34}, elliptic.P521(): {1, 3, 132, 0, 35},
		}[k.Curve]
		if !ok {
			return nil, 0, nil, nil, errors.New("unknown curve")
		}
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil, 0, nil, nil, err
		}
		d, err := k.Bytes()
		if err != nil {
			return nil, 0, nil, nil, err
		}
		params, err := asn1.Marshal(oid)
		if err != nil {
			return nil, 0, nil, nil, err
		}
		public, private, err = curve(params, point, d)
		return &k.PublicKey, pkcs11.CKK_EC, public, private, err
	case ed25519.PrivateKey:
		public, private, err = curve([]byte{6, 3, 0x2b, 0x65, 0x70}, k.Public().(ed25519.PublicKey), k.Seed())
		return k.Public(), ckkEdwards, public, private, err
	case *ecdh.PrivateKey:
		if k.Curve() != ecdh.X25519() {
			e, err := nist(k)
			if err != nil {
				return nil, 0, nil, nil, err
			}
			return parts(e)
		}
		// SoftHSM keeps X25519 among the Edwards keys.
		public, private, err = curve([]byte{6, 3, 0x2b, 0x65, 0x6e}, k.PublicKey().Bytes(), k.Bytes())
		return k.PublicKey(), ckkEdwards, public, private, err
	}
	return nil, 0, nil, nil, fmt.Errorf("key of type %T", priv)
}

func nist(k *ecdh.PrivateKey) (*ecdsa.PrivateKey, error) {
	for _, c := range []struct {
		dh    ecdh.Curve
		curve elliptic.Curve
	}{{ecdh.P256(), elliptic.P256()}, {ecdh.P384(), elliptic.P384()}, {ecdh.P521(), elliptic.P521()}} {
		if c.dh == k.Curve() {
			return ecdsa.ParseRawPrivateKey(c.curve, k.Bytes())
		}
	}
	return nil, errors.New("unknown curve")
}

func curve(params, point, scalar []byte) (public, private []Attr, err error) {
	octets, err := asn1.Marshal(point)
	p := Attr{pkcs11.CKA_EC_PARAMS, params}
	return []Attr{p, {pkcs11.CKA_EC_POINT, octets}}, []Attr{p, {pkcs11.CKA_VALUE, scalar}}, err
}
