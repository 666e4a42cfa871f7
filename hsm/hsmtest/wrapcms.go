package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/des"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha1"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"postern/hsm"
)

// CMSWraps are the key wraps of CMS: AlgorithmIdentifiers in DER, by the name
// that OpenSSL has for them.
var CMSWraps = map[string][]byte{
	"aes128-wrap": {0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x05},
	"aes192-wrap": {0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x19},
	"aes256-wrap": {0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2d},
	"des3-wrap":   {0x30, 0x0f, 0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x03, 0x06, 0x05, 0x00},
}

// WrapAgreed wraps a session key in one of the schemes of CMS for a recipient
// who shares the secret z with the owner of w.Ephemeral, so that a test can
// choose both. salt is that of HKDF; senders who keep to RFC 8418 §2.2 have
// w.UKM there.
func WrapAgreed(t testing.TB, z, salt []byte, w hsm.Wrapped, sk hsm.SessionKey) hsm.Wrapped {
	t.Helper()
	if err := agreeCMS(&w, z, salt, sk.Key); err != nil {
		t.Fatalf("wrap session key: %v", err)
	}
	return w
}

// agreeCMS wraps key as RFC 5753 §7 and RFC 8418 §2 say.
func agreeCMS(w *hsm.Wrapped, z, salt, key []byte) error {
	if w.Hash == 0 {
		w.Hash = crypto.SHA256
	}
	if w.WrapAlgorithm == nil {
		w.WrapAlgorithm = CMSWraps["aes256-wrap"]
	}
	var algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(w.WrapAlgorithm, &algorithm); err != nil {
		return fmt.Errorf("read key wrap: %w", err)
	}
	size, wrap := 0, wrapAES
	switch algorithm.OID.String() {
	case "2.16.840.1.101.3.4.1.5":
		size = 16
	case "2.16.840.1.101.3.4.1.25":
		size = 24
	case "2.16.840.1.101.3.4.1.45":
		size = 32
	case "1.2.840.113549.1.9.16.3.6":
		size, wrap = 24, wrap3DES
	default:
		return fmt.Errorf("key wrap %s is unknown", algorithm.OID)
	}
	parts := [][]byte{w.WrapAlgorithm}
	if w.UKM != nil {
		parts = append(parts, element(0xa0, element(4, w.UKM)))
	}
	info := element(0x30, append(parts, element(0xa2, element(4, binary.BigEndian.AppendUint32(nil, uint32(size)*8))))...)
	var kek []byte
	var err error
	if w.Scheme == hsm.CMSHKDF {
		kek, err = hkdf.Key(w.Hash.New, z, salt, string(info), size)
	} else {
		for n := byte(1); len(kek) < size; n++ {
			h := w.Hash.New()
			h.Write(slices.Concat(z, []byte{0, 0, 0, n}, info))
			kek = h.Sum(kek)
		}
		kek = kek[:size]
	}
	if err == nil {
		w.Ciphertext, err = wrap(kek, key)
	}
	return err
}

// element is one of DER.
func element(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	n := len(content)
	head := []byte{tag, byte(n)}
	switch {
	case n > 0xff:
		head = []byte{tag, 0x82, byte(n >> 8), byte(n)}
	case n > 0x7f:
		head = []byte{tag, 0x81, byte(n)}
	}
	return append(head, content...)
}

// wrap3DES is RFC 3217 §3.1.
func wrap3DES(kek, key []byte) ([]byte, error) {
	block, err := des.NewTripleDESCipher(kek)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(key)
	b := append(make([]byte, 8), slices.Concat(key, sum[:8])...)
	rand.Read(b[:8])
	cipher.NewCBCEncrypter(block, b[:8]).CryptBlocks(b[8:], b[8:])
	slices.Reverse(b)
	cipher.NewCBCEncrypter(block, []byte{0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05}).CryptBlocks(b, b)
	return b, nil
}
