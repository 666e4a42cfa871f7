package openpgp

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// cipherIDEA is what PGP 2 sealed with (RFC 9580 §9.3). No library here has
// it; it is as Lai and Massey described it in 1991, and its patents ended in
// 2012. Time does not depend on the data but by the zero of mul.
const cipherIDEA packet.CipherFunction = 1

// idea has the subkeys to encrypt and to decrypt.
type idea struct{ forward, backward [52]uint16 }

var errKeySize = errors.New("IDEA key of a wrong length")

func newIDEA(key []byte) (cipher.Block, error) {
	if len(key) != 16 {
		return nil, errKeySize
	}
	c := &idea{}
	// Eight subkeys at a time; then the key turns left by 25 bits.
	high, low := binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:])
	for i := range c.forward {
		if i > 0 && i%8 == 0 {
			high, low = high<<25|low>>39, low<<25|high>>39
		}
		half := high
		if i%8 >= 4 {
			half = low
		}
		c.forward[i] = uint16(half >> (48 - 16*(i%4)))
	}
	for round := range 9 { // the subkeys of the rounds from the last to the first, inverted
		f, b := c.forward[48-6*round:], c.backward[6*round:]
		b[0], b[3] = inverse(f[0]), inverse(f[3])
		b[1], b[2] = -f[2], -f[1]
		if round == 0 || round == 8 {
			b[1], b[2] = -f[1], -f[2]
		}
		if round < 8 {
			b[4], b[5] = c.forward[46-6*round], c.forward[47-6*round]
		}
	}
	return c, nil
}

func (*idea) BlockSize() int { return 8 }

func (c *idea) Encrypt(dst, src []byte) { crypt(&c.forward, dst, src) }

func (c *idea) Decrypt(dst, src []byte) { crypt(&c.backward, dst, src) }

// crypt is eight rounds and the last half.
func crypt(k *[52]uint16, dst, src []byte) {
	a, b, c, d := binary.BigEndian.Uint16(src), binary.BigEndian.Uint16(src[2:]), binary.BigEndian.Uint16(src[4:]), binary.BigEndian.Uint16(src[6:])
	for i := 0; i < 48; i += 6 {
		a, b, c, d = mul(a, k[i]), b+k[i+1], c+k[i+2], mul(d, k[i+3])
		e := mul(a^c, k[i+4])
		f := mul((b^d)+e, k[i+5])
		e += f
		a, b, c, d = a^f, c^f, b^e, d^e
	}
	binary.BigEndian.PutUint16(dst, mul(a, k[48]))
	binary.BigEndian.PutUint16(dst[2:], c+k[49])
	binary.BigEndian.PutUint16(dst[4:], b+k[50])
	binary.BigEndian.PutUint16(dst[6:], mul(d, k[51]))
}

// mul multiplies modulo 65537, with 0 for 65536.
func mul(x, y uint16) uint16 {
	switch {
	case x == 0:
		return 1 - y
	case y == 0:
		return 1 - x
	}
	product := uint32(x) * uint32(y)
	high, low := uint16(product>>16), uint16(product)
	if low >= high {
		return low - high
	}
	return low - high + 1
}

// inverse is the other factor of 1, by Fermat: x to the power of 65535.
func inverse(x uint16) uint16 {
	result := uint16(1)
	for range 16 { // 65535 is sixteen ones
		result = mul(mul(result, result), x)
	}
	return result
}
