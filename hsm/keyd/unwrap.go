package keyd

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rsa"
	_ "crypto/sha1" // OAEP, and the key derivation of old mail; it is no weakness there
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"postern/hsm"
)

// maxKey is the longest session key that is given out, in bytes.
const maxKey = 64

// cipherKey is the key length of OpenPGP ciphers (RFC 9580 §9.3), 0 for those
// that are not known here.
func cipherKey(id uint8) int {
	switch id {
	case 1, 3, 4, 7, 11: // IDEA, CAST5, Blowfish, AES-128, Camellia-128
		return 16
	case 2, 8, 12: // TripleDES, AES-192, Camellia-192
		return 24
	case 9, 10, 13: // AES-256, Twofish, Camellia-256
		return 32
	}
	return 0
}

// cipherOf is the AES of a key length: what an invented session key claims.
func cipherOf(size int) uint8 {
	switch size {
	case 16:
		return 7
	case 24:
		return 8
	}
	return 9
}

// curveOIDs are the curves of RFC 9580 §9.2 as they stand in OpenPGP.
var curveOIDs = map[hsm.Algorithm][]byte{
	hsm.P256:   {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	hsm.P384:   {0x2b, 0x81, 0x04, 0x00, 0x22},
	hsm.P521:   {0x2b, 0x81, 0x04, 0x00, 0x23},
	hsm.X25519: {0x2b, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01}, // Curve25519Legacy
}

// kdfHashes are the hashes an OpenPGP ECDH key may name (RFC 9580 §9.5): those
// long enough for every cipher.
var kdfHashes = map[uint8]crypto.Hash{8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512}

// unwrapper opens wrapped session keys with a device.
type unwrapper struct {
	device Device
	secret []byte // of this process: makes invented session keys unpredictable
}

// check refuses requests that do not fit the key, before anything is tried.
// It looks only at what the caller chose, never at what came with the mail:
// its error may be told.
func check(key hsm.Key, w hsm.Wrapped) error {
	alg := hsm.AlgorithmOf(key.Public)
	_, isRSA := key.Public.(*rsa.PublicKey)
	bad := func(what string) error { return fmt.Errorf("unwrap with %s: %s: %w", alg, what, hsm.ErrInvalid) }
	if w.Size < 0 || w.Size > maxKey {
		return bad("size of session key")
	}
	switch w.Scheme {
	case hsm.OpenPGPRSA:
		if !isRSA {
			return bad("scheme")
		}
		if w.Size != 0 && w.Size != 16 && w.Size != 24 && w.Size != 32 {
			return bad("size of session key")
		}
	case hsm.PKCS1:
		if !isRSA {
			return bad("scheme")
		}
		if w.Size == 0 {
			return bad("size of session key unknown")
		}
	case hsm.OAEP:
		if !isRSA {
			return bad("scheme")
		}
		if !w.Hash.Available() || (w.MGFHash != 0 && !w.MGFHash.Available()) {
			return bad("hash")
		}
		if key.Public.(*rsa.PublicKey).Size() < 2*w.Hash.Size()+2 {
			return bad("hash longer than the key allows")
		}
	case hsm.OpenPGPECDH:
		oid, ok := curveOIDs[alg]
		if !ok || !bytes.Equal(oid, w.CurveOID) {
			return bad("curve")
		}
		if !kdfHashes[w.KDFHash].Available() || w.KDFCipher < 7 || w.KDFCipher > 9 {
			return bad("KDF parameters")
		}
		if len(w.Fingerprint) != 20 && len(w.Fingerprint) != 32 {
			return bad("fingerprint")
		}
		if w.V6 && alg == hsm.X25519 {
			return bad("Curve25519Legacy in a version 6 packet") // RFC 9580 §9.2.1
		}
	case hsm.OpenPGPX25519:
		if alg != hsm.X25519 {
			return bad("scheme")
		}
	case hsm.CMSX963, hsm.CMSHKDF:
		if fault := checkAgree(key, w); fault != "" {
			return bad(fault)
		}
	default:
		return bad("scheme")
	}
	return nil
}

// opened is the outcome of one try, kept so that the good and the bad case
// take the same path: ok is 1 or 0, and key has room for the longest.
type opened struct {
	ok     int
	n      int // length of the key
	cipher int
	key    [maxKey]byte
}

// take sets o to key when ok is 1 and leaves it otherwise, in constant time
// for one length of key.
func (o *opened) take(ok int, key []byte, cipher int) {
	o.ok |= ok
	o.n = subtle.ConstantTimeSelect(ok, len(key), o.n)
	o.cipher = subtle.ConstantTimeSelect(ok, cipher, o.cipher)
	subtle.ConstantTimeCopy(ok, o.key[:len(key)], key)
}

// open returns the session key. Whatever is wrong with what came in the mail
// (padding, checksum, integrity of the key wrap, a point off the curve, a
// length, a complaint of the module) ends in the same way: a session key of
// the expected length, the same for the same input, that opens nothing, no
// error, and rejected set for the guard. An error means that nothing was
// decided: the device is away or busy, or check would have refused.
func (u *unwrapper) open(key hsm.Key, w hsm.Wrapped) (sk hsm.SessionKey, rejected bool, err error) {
	if err := check(key, w); err != nil {
		return hsm.SessionKey{}, false, err
	}
	var o opened
	switch w.Scheme {
	case hsm.OpenPGPRSA, hsm.PKCS1, hsm.OAEP:
		err = u.rsa(&o, key, w)
	default:
		err = u.ecdh(&o, key, w)
	}
	if err != nil && !aboutInput(err) {
		return hsm.SessionKey{}, false, err
	}
	// The invented key is made in every case, so that its making tells nothing.
	fake := u.invented(key, w)
	n := subtle.ConstantTimeSelect(o.ok, o.n, len(fake.Key))
	var out [maxKey]byte
	copy(out[:], fake.Key)
	subtle.ConstantTimeCopy(o.ok, out[:], o.key[:])
	sk = hsm.SessionKey{
		Cipher: uint8(subtle.ConstantTimeSelect(o.ok, o.cipher, int(fake.Cipher))),
		Key:    append([]byte(nil), out[:n]...),
	}
	clear(o.key[:])
	clear(out[:])
	return sk, o.ok != 1, nil
}

// invented is what open gives for w when it opens nothing.
func (u *unwrapper) invented(key hsm.Key, w hsm.Wrapped) hsm.SessionKey {
	size, cipher := expects(w)
	return hsm.SessionKey{Cipher: cipher, Key: u.invent(key.ID, w, size)}
}

// aboutInput reports whether a device's error blames the input. What is not
// known to be about the device is taken for that: an error that depends on
// the plaintext must never be seen outside.
func aboutInput(err error) bool {
	for _, e := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrBusy, hsm.ErrInvalid, hsm.ErrBroken} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

// invent derives the session key of implicit rejection from a secret and the
// ciphertext, as draft-irtf-cfrg-rsa-guidance proposes.
func (u *unwrapper) invent(id hsm.KeyID, w hsm.Wrapped, size int) []byte {
	mac := hmac.New(sha256.New, u.secret)
	mac.Write(id[:])
	for _, f := range [][]byte{w.Ciphertext, w.Ephemeral, w.WrapAlgorithm, w.UKM} {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		mac.Write(f)
	}
	first := mac.Sum(nil)
	mac.Reset()
	mac.Write(first)
	return mac.Sum(first)[:size]
}

// rsa opens the three RSA schemes.
func (u *unwrapper) rsa(o *opened, key hsm.Key, w hsm.Wrapped) error {
	pub := key.Public.(*rsa.PublicKey)
	if w.Scheme != hsm.OpenPGPRSA && len(w.Ciphertext) > pub.Size() {
		return nil // RFC 8017 §7.1.2 and §7.2.2 step 1; a shorter one lost its zeros on the way
	}
	c, ok := pad(w.Ciphertext, pub.Size())
	if !ok || new(big.Int).SetBytes(c).Cmp(pub.N) >= 0 {
		return nil
	}
	block, raw, err := u.device.Decrypt(key.ID, c)
	defer clear(block)
	if w.Scheme == hsm.OAEP && !raw && (err == nil || aboutInput(err)) {
		// Such a module takes every OAEP block for bad padding: no key would
		// ever open, and nobody would learn why.
		return fmt.Errorf("unwrap with %s: the module offers no RSA without padding: %w", hsm.AlgorithmOf(key.Public), hsm.ErrInvalid)
	}
	if err != nil {
		return err
	}
	switch {
	case raw:
		em, ok := pad(block, pub.Size())
		if !ok {
			return nil
		}
		defer clear(em)
		block = em
	default:
		if len(block) > pub.Size()-11 {
			return nil
		}
		em := make([]byte, pub.Size())
		for i := range em {
			em[i] = 0xff
		}
		em[0], em[1], em[len(em)-len(block)-1] = 0, 2, 0
		copy(em[len(em)-len(block):], block)
		defer clear(em)
		block = em
	}
	switch w.Scheme {
	case hsm.OpenPGPRSA:
		unpadOpenPGP(o, block, w)
	case hsm.PKCS1:
		o.take(unpadPKCS1(block, w.Size), block[len(block)-w.Size:], 0)
	case hsm.OAEP:
		unpadOAEP(o, block, w)
	}
	return nil
}

// pad brings an integer to n bytes; false when it is longer.
func pad(b []byte, n int) ([]byte, bool) {
	for len(b) > n && b[0] == 0 {
		b = b[1:]
	}
	if len(b) > n {
		return nil, false
	}
	return append(make([]byte, n-len(b), n), b...), true
}

// ecdh opens the schemes that agree on a key.
func (u *unwrapper) ecdh(o *opened, key hsm.Key, w hsm.Wrapped) error {
	curve, own := curveOf(key.Public)
	if curve == nil {
		return nil
	}
	// A point off its curve never reaches the token; whether a module checks
	// it is not known, and the answer must not depend on it.
	cms := w.Scheme == hsm.CMSX963 || w.Scheme == hsm.CMSHKDF
	ephemeral := w.Ephemeral
	if cms {
		ephemeral = uncompressed(key, ephemeral)
	}
	point, err := curve.NewPublicKey(ephemeral)
	if err != nil {
		return nil
	}
	shared, err := u.device.ECDH(key.ID, point.Bytes())
	if err != nil {
		return err
	}
	defer clear(shared)
	size := 32
	if curve != ecdh.X25519() {
		size = (len(own) - 1) / 2
	}
	z, ok := pad(shared, size)
	if !ok {
		return nil
	}
	defer clear(z)
	// RFC 7748 §6.1: a point of small order gives zero. On the other curves
	// zero is a coordinate like others.
	if curve == ecdh.X25519() && subtle.ConstantTimeCompare(z, make([]byte, size)) == 1 {
		return nil
	}

	if cms {
		return unwrapAgreed(o, z, w)
	}
	if w.Scheme == hsm.OpenPGPX25519 {
		ikm := make([]byte, 0, 96)
		ikm = append(ikm, w.Ephemeral...)
		ikm = append(ikm, own...)
		ikm = append(ikm, z...)
		defer clear(ikm)
		kek, err := hkdf.Key(sha256.New, ikm, nil, "OpenPGP X25519", 16)
		if err != nil {
			return fmt.Errorf("derive key: %w", err)
		}
		defer clear(kek)
		m, ok := unwrapAES(kek, w.Ciphertext)
		if want := cipherKey(w.Cipher); (w.Size != 0 && len(m) != w.Size) || (want != 0 && len(m) != want) || len(m) > maxKey {
			return nil
		}
		o.take(ok, m, int(w.Cipher))
		clear(m)
		return nil
	}

	kek := kdf(z, w)
	defer clear(kek)
	m, ok1 := unwrapAES(kek, w.Ciphertext)
	defer clear(m)
	unpadECDH(o, ok1, m, w)
	return nil
}

// curveOf is the curve of a key and its public point, uncompressed.
func curveOf(pub crypto.PublicKey) (ecdh.Curve, []byte) {
	switch k := pub.(type) {
	case *ecdh.PublicKey:
		return k.Curve(), k.Bytes()
	case *ecdsa.PublicKey:
		p, err := k.ECDH()
		if err != nil {
			return nil, nil
		}
		return p.Curve(), p.Bytes()
	}
	return nil, nil
}

// kdf is RFC 9580 §11.5: one block of the concatenation KDF over the shared
// coordinate and the parameters that bind it to the recipient's key.
func kdf(z []byte, w hsm.Wrapped) []byte {
	h := kdfHashes[w.KDFHash].New()
	h.Write([]byte{0, 0, 0, 1})
	h.Write(z)
	h.Write([]byte{byte(len(w.CurveOID))})
	h.Write(w.CurveOID)
	h.Write([]byte{18, 3, 1, w.KDFHash, w.KDFCipher})
	h.Write([]byte("Anonymous Sender    "))
	h.Write(w.Fingerprint)
	return h.Sum(nil)[:cipherKey(w.KDFCipher)]
}

// unpadECDH takes [cipher] key checksum padding apart (RFC 9580 §11.5, with
// padding as in RFC 8018 §6.1.1, which GnuPG makes longer than one block).
func unpadECDH(o *opened, ok int, m []byte, w hsm.Wrapped) {
	head := 1
	if w.V6 {
		head = 0
	}
	for _, n := range []int{16, 24, 32} {
		end := head + n + 2
		if (w.Size != 0 && w.Size != n) || end >= len(m) {
			continue
		}
		padding := len(m) - end
		good, key, cipher := checkSession(m[:end], n, w.V6)
		for _, b := range m[end:] {
			good &= subtle.ConstantTimeEq(int32(b), int32(padding))
		}
		o.take(ok&good, key, cipher)
	}
}

// expects is what an honest session key of w most likely is.
func expects(w hsm.Wrapped) (size int, cipher uint8) {
	size = w.Size
	switch w.Scheme {
	case hsm.OpenPGPX25519:
		if n := cipherKey(w.Cipher); n != 0 {
			size = n
		} else if n := len(w.Ciphertext) - 8; size == 0 && (n == 16 || n == 24 || n == 32) {
			size = n
		}
		cipher = w.Cipher
	case hsm.CMSX963, hsm.CMSHKDF:
		if size == 0 {
			size = agreedSize(w)
		}
	case hsm.OpenPGPRSA, hsm.OpenPGPECDH:
		if !w.V6 {
			cipher = cipherOf(size)
		}
	}
	if size == 0 {
		size = 32
	}
	return size, cipher
}

// truncate cuts a digest to the order of an ECDSA key (SEC 1 §4.1.3 step 5):
// some modules do it, some refuse.
func truncate(pub crypto.PublicKey, digest []byte) []byte {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return digest
	}
	n := len(digest)
	switch k.Curve {
	case elliptic.P256():
		n = min(n, 32)
	case elliptic.P384():
		n = min(n, 48)
	}
	return digest[:n]
}
