package cms

import (
	"crypto/cipher"
	"crypto/subtle"
)

// cbcOpener decrypts in CBC mode with the padding of RFC 5652 §6.3. The last
// block waits until it is known for the last, so that the padding is looked
// at once, when all of the ciphertext has gone through.
type cbcOpener struct {
	mode cipher.BlockMode
	out  []byte // the block that waits stands at its end
	torn bool   // the ciphertext ends within a block
}

func (c *cbcOpener) open(b []byte) []byte {
	size := c.mode.BlockSize()
	if len(b)%size != 0 {
		c.torn = true
		b = b[:len(b)-len(b)%size]
	}
	if len(b) == 0 {
		return nil
	}
	c.mode.CryptBlocks(b, b)
	held := c.out[max(0, len(c.out)-size):]
	c.out = append(append(c.out[:0], held...), b...)
	return c.out[:len(c.out)-size]
}

func (c *cbcOpener) close(_, _ []byte) ([]byte, bool) {
	last := c.out[max(0, len(c.out)-c.mode.BlockSize()):]
	if c.torn || len(last) == 0 {
		return nil, false
	}
	n, ok := unpad(last)
	return last[:n], ok == 1
}

// unpad is the length of a last block without its padding, and 1 if that is as
// RFC 5652 §6.3 wants it, in constant time.
func unpad(block []byte) (length, ok int) {
	n := int(block[len(block)-1])
	ok = subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, len(block))
	for i, v := range block {
		inside := subtle.ConstantTimeLessOrEq(len(block)-i, n)
		ok &= subtle.ConstantTimeSelect(inside, subtle.ConstantTimeByteEq(v, byte(n)), 1)
	}
	return subtle.ConstantTimeSelect(ok, len(block)-n, 0), ok
}

// cbcSealer encrypts in CBC mode.
type cbcSealer struct{ mode cipher.BlockMode }

func (c cbcSealer) seal(b []byte) { c.mode.CryptBlocks(b, b) }

func (c cbcSealer) close(b []byte) (last, tag []byte) {
	n := c.mode.BlockSize() - len(b)%c.mode.BlockSize()
	for range n {
		b = append(b, byte(n))
	}
	c.mode.CryptBlocks(b, b)
	return b, nil
}
