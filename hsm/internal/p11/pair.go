package p11

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

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

// pointOf is the public point of a key on a curve, as SEC 1 §2.3.3 or RFC 8032
// and RFC 7748 write it.
func pointOf(pub crypto.PublicKey) []byte {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		if own, err := p.ECDH(); err == nil {
			return own.Bytes()
		}
	case ed25519.PublicKey:
		return p
	case *ecdh.PublicKey:
		return p.Bytes()
	}
	return nil
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
