package keyd

import (
	"crypto"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"fmt"

	"postern/hsm"
)

// Key agreement of CMS: a key-encryption key from the secret shared with the
// sender's ephemeral key, and the session key wrapped with it.
//
// One departure: where UKM stands in the mail, HKDF is tried without salt too.
// RFC 8418 §2.2 makes the UKM its salt; Bouncy Castle leaves the salt out. The
// second try costs a hash, and its outcome is held to the same check.

// keyWrap is an algorithm that wraps session keys.
type keyWrap struct {
	size   int // of the key-encryption key, in bytes
	longer int // what wrapping adds to a session key, in bytes
	unwrap func(kek, ciphertext []byte) (key []byte, ok int)
}

// wrapOIDs are the key wraps by the DER of their object identifiers.
var wrapOIDs = map[string]keyWrap{
	"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x05":         {16, 8, unwrapAES},   // id-aes128-wrap, RFC 3565 §2.3.2
	"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x19":         {24, 8, unwrapAES},   // id-aes192-wrap
	"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2d":         {32, 8, unwrapAES},   // id-aes256-wrap
	"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x03\x06": {24, 16, unwrap3DES}, // id-alg-CMS3DESwrap, RFC 3370 §4.3.1
}

// keyWrapOf finds the key wrap of an AlgorithmIdentifier. Its parameters are
// absent or NULL: senders disagree, and the key derivation takes what stands
// in the mail. Nothing else has a meaning, so that no parser is needed.
func keyWrapOf(algorithm []byte) (keyWrap, bool) {
	n := len(algorithm)
	if n < 2 || algorithm[0] != 0x30 || int(algorithm[1]) != n-2 {
		return keyWrap{}, false
	}
	oid := algorithm[2:]
	if n > 4 && algorithm[n-2] == 5 && algorithm[n-1] == 0 {
		if k, ok := wrapOIDs[string(oid[:len(oid)-2])]; ok {
			return k, true
		}
	}
	k, ok := wrapOIDs[string(oid)]
	return k, ok
}

// checkAgree is check for the schemes of CMS.
func checkAgree(key hsm.Key, w hsm.Wrapped) (fault string) {
	if _, is := key.Public.(*rsa.PublicKey); is || curveOIDs[hsm.AlgorithmOf(key.Public)] == nil {
		return "scheme"
	}
	switch w.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	case crypto.SHA1, crypto.SHA224: // RFC 5753 §7.1.4: SHA-1 is in old mail
		if w.Scheme == hsm.CMSHKDF {
			return "hash"
		}
	default:
		return "hash"
	}
	if _, ok := keyWrapOf(w.WrapAlgorithm); !ok {
		return "key wrap"
	}
	return ""
}

// uncompressed is a point of key's curve as the token wants it: what RFC 5480
// §2.2 allows in a mail may be compressed. A point that cannot be one stays as
// it is.
func uncompressed(key hsm.Key, point []byte) []byte {
	var curve elliptic.Curve
	switch hsm.AlgorithmOf(key.Public) {
	case hsm.P256:
		curve = elliptic.P256()
	case hsm.P384:
		curve = elliptic.P384()
	case hsm.P521:
		curve = elliptic.P521()
	default:
		return point
	}
	if len(point) == 0 || (point[0] != 2 && point[0] != 3) {
		return point
	}
	x, y := elliptic.UnmarshalCompressed(curve, point)
	if x == nil {
		return point
	}
	size := len(point) - 1
	out := make([]byte, 1+2*size)
	out[0] = 4
	x.FillBytes(out[1 : 1+size])
	y.FillBytes(out[1+size:])
	return out
}

// unwrapAgreed opens a session key with the shared secret z.
func unwrapAgreed(o *opened, z []byte, w hsm.Wrapped) error {
	wrap, _ := keyWrapOf(w.WrapAlgorithm)
	n := len(w.Ciphertext) - wrap.longer
	if n < 1 || n > maxKey || (w.Size != 0 && w.Size != n) {
		return nil
	}
	info, err := sharedInfo(w, wrap.size)
	if err != nil {
		return fmt.Errorf("derive key: %w", err)
	}
	salts := [][]byte{w.UKM}
	if w.Scheme == hsm.CMSHKDF && len(w.UKM) > 0 {
		salts = append(salts, nil)
	}
	for _, salt := range salts {
		kek := x963(w.Hash, z, info, wrap.size)
		if w.Scheme == hsm.CMSHKDF {
			if kek, err = hkdf.Key(w.Hash.New, z, salt, string(info), wrap.size); err != nil {
				return fmt.Errorf("derive key: %w", err)
			}
		}
		m, ok := wrap.unwrap(kek, w.Ciphertext)
		o.take(ok, m, 0)
		clear(kek)
		clear(m)
	}
	return nil
}

// sharedInfo is the ECC-CMS-SharedInfo of RFC 5753 §7.2, which RFC 8418 §2
// takes over, for a key-encryption key of size bytes.
func sharedInfo(w hsm.Wrapped, size int) ([]byte, error) {
	return asn1.Marshal(struct {
		KeyInfo     asn1.RawValue
		EntityUInfo []byte `asn1:"explicit,optional,tag:0"` // absent when nil
		SuppPubInfo []byte `asn1:"explicit,tag:2"`
	}{asn1.RawValue{FullBytes: w.WrapAlgorithm}, w.UKM, binary.BigEndian.AppendUint32(nil, uint32(8*size))})
}

// x963 is the key derivation of ANSI X9.63 (SEC 1 §3.6.1).
func x963(hash crypto.Hash, z, info []byte, size int) []byte {
	h := hash.New()
	var key []byte
	for n := uint32(1); len(key) < size; n++ {
		h.Reset()
		h.Write(z)
		h.Write(binary.BigEndian.AppendUint32(nil, n))
		h.Write(info)
		key = h.Sum(key)
	}
	return key[:size]
}

// agreedSize is the length that an honest session key has: wrapping adds a
// known number of bytes. 0 when there is none.
func agreedSize(w hsm.Wrapped) int {
	wrap, _ := keyWrapOf(w.WrapAlgorithm)
	n := len(w.Ciphertext) - wrap.longer
	if n < 16 || n > maxKey || n%8 != 0 {
		return 0
	}
	return n
}
