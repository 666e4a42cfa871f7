package keyd

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
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
