package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"postern/hsm"
)

// openPGPCurves are the OIDs of RFC 9580 §9.2.
var openPGPCurves = map[hsm.Algorithm][]byte{
	hsm.P256:   {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	hsm.P384:   {0x2b, 0x81, 0x04, 0x00, 0x22},
	hsm.P521:   {0x2b, 0x81, 0x04, 0x00, 0x23},
	hsm.X25519: {0x2b, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01},
}

// Wrap wraps a session key for pub as a sender does, in the scheme and with
// the choices that stand in w. It fills in what the mail would carry. A KDF
// that is not chosen is SHA-256 with AES-128, or AES-256 in CMS (see CMSWraps);
// a fingerprint is made up.
func Wrap(t testing.TB, pub crypto.PublicKey, w hsm.Wrapped, sk hsm.SessionKey) hsm.Wrapped {
	t.Helper()
	var err error
	switch w.Scheme {
	case hsm.OpenPGPRSA:
		//lint:ignore SA1019 RFC 9580 §5.1.3
		w.Ciphertext, err = rsa.EncryptPKCS1v15(rand.Reader, pub.(*rsa.PublicKey), packed(w.V6, sk))
	case hsm.PKCS1:
		w.Size = len(sk.Key)
		//lint:ignore SA1019 RFC 3370 §4.2.1
		w.Ciphertext, err = rsa.EncryptPKCS1v15(rand.Reader, pub.(*rsa.PublicKey), sk.Key)
	case hsm.OAEP:
		mgf := w.MGFHash
		if mgf == 0 {
			mgf = w.Hash
		}
		w.Ciphertext, err = rsa.EncryptOAEPWithOptions(rand.Reader, pub.(*rsa.PublicKey), sk.Key, &rsa.OAEPOptions{Hash: w.Hash, MGFHash: mgf, Label: w.Label})
	case hsm.OpenPGPECDH, hsm.OpenPGPX25519, hsm.CMSX963, hsm.CMSHKDF:
		err = agree(&w, pub, sk)
	}
	if err != nil {
		t.Fatalf("wrap session key: %v", err)
	}
	return w
}

// packed is [cipher] key checksum.
func packed(v6 bool, sk hsm.SessionKey) []byte {
	var b []byte
	if !v6 {
		b = append(b, sk.Cipher)
	}
	var sum uint16
	for _, v := range sk.Key {
		sum += uint16(v)
	}
	return binary.BigEndian.AppendUint16(append(b, sk.Key...), sum)
}

func agree(w *hsm.Wrapped, pub crypto.PublicKey, sk hsm.SessionKey) error {
	theirs, ok := pub.(*ecdh.PublicKey)
	if e, is := pub.(*ecdsa.PublicKey); is {
		var err error
		if theirs, err = e.ECDH(); err != nil {
			return err
		}
	} else if !ok {
		return hsm.ErrInvalid
	}
	ours, err := theirs.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	z, err := ours.ECDH(theirs)
	if err != nil {
		return err
	}
	w.Ephemeral = ours.PublicKey().Bytes()
	if w.Scheme == hsm.CMSX963 || w.Scheme == hsm.CMSHKDF {
		return agreeCMS(w, z, w.UKM, sk.Key)
	}
	if w.Scheme == hsm.OpenPGPX25519 {
		if !w.V6 {
			w.Cipher = sk.Cipher
		}
		kek, err := hkdf.Key(sha256.New, append(append(bytes.Clone(w.Ephemeral), theirs.Bytes()...), z...), nil, "OpenPGP X25519", 16)
		if err != nil {
			return err
		}
		w.Ciphertext, err = wrapAES(kek, sk.Key)
		return err
	}
	w.CurveOID = openPGPCurves[hsm.AlgorithmOf(pub)]
	if w.KDFHash == 0 {
		w.KDFHash, w.KDFCipher = 8, 7
	}
	if w.Fingerprint == nil {
		w.Fingerprint = bytes.Repeat([]byte{0xf1}, 20)
	}
	h := map[uint8]crypto.Hash{8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512}[w.KDFHash].New()
	h.Write([]byte{0, 0, 0, 1})
	h.Write(z)
	h.Write([]byte{byte(len(w.CurveOID))})
	h.Write(w.CurveOID)
	h.Write([]byte{18, 3, 1, w.KDFHash, w.KDFCipher})
	h.Write([]byte("Anonymous Sender    "))
	h.Write(w.Fingerprint)
	m := packed(w.V6, sk)
	padding := 8 - len(m)%8
	m = append(m, bytes.Repeat([]byte{byte(padding)}, padding)...)
	w.Ciphertext, err = wrapAES(h.Sum(nil)[:map[uint8]int{7: 16, 8: 24, 9: 32}[w.KDFCipher]], m)
	return err
}

// wrapAES is RFC 3394 §2.2.1.
func wrapAES(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	out := append(bytes.Repeat([]byte{0xa6}, 8), key...)
	n := len(key) / 8
	var b [16]byte
	copy(b[:8], out)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[8:], out[8*i:])
			block.Encrypt(b[:], b[:])
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(out[8*i:], b[8:])
		}
	}
	copy(out, b[:8])
	return out, nil
}
