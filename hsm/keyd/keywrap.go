package keyd

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"slices"
)

// unwrapAES is RFC 3394 §2.2.2 with the default initial value. ok is 1 when
// the integrity check holds; otherwise key is garbage of the right length and
// must not leave the caller. A ciphertext of a length that cannot be, or a
// key-encryption key of a wrong size, gives nil and 0.
func unwrapAES(kek, ciphertext []byte) (key []byte, ok int) {
	n := len(ciphertext)/8 - 1
	if len(ciphertext)%8 != 0 || n < 2 {
		return nil, 0
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, 0
	}
	var buf [16]byte // A | R[i]
	copy(buf[:8], ciphertext)
	key = append([]byte(nil), ciphertext[8:]...)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(buf[:8], binary.BigEndian.Uint64(buf[:8])^t)
			copy(buf[8:], key[(i-1)*8:i*8])
			block.Decrypt(buf[:], buf[:])
			copy(key[(i-1)*8:], buf[8:])
		}
	}
	ok = subtle.ConstantTimeCompare(buf[:8], []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6})
	clear(buf[:])
	return key, ok
}

// unwrap3DES is RFC 3217 §3.2, for reading old mail. Like OpenSSL it takes
// session keys of any length in whole blocks, since senders wrap keys of AES
// so too, and asks for no odd parity: the checksum vouches for the key. What
// it returns is as with unwrapAES.
func unwrap3DES(kek, ciphertext []byte) (key []byte, ok int) {
	if len(ciphertext)%des.BlockSize != 0 || len(ciphertext) < 4*des.BlockSize {
		return nil, 0
	}
	block, err := des.NewTripleDESCipher(kek)
	if err != nil {
		return nil, 0
	}
	b := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, []byte{0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05}).CryptBlocks(b, ciphertext)
	slices.Reverse(b)
	iv, rest := b[:des.BlockSize], b[des.BlockSize:]
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(rest, rest)
	key, sum := rest[:len(rest)-8], rest[len(rest)-8:]
	want := sha1.Sum(key) // RFC 3217 §2: the first eight bytes
	return key, subtle.ConstantTimeCompare(sum, want[:8])
}
