package cms

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

const (
	gcmNonce      = 12 // bytes, RFC 5084 §3.2: recommended; others are read
	gcmMaxNonce   = 64
	gcmTag        = 16
	gcmMinTag     = 12
	gcmDefaultTag = 12
	gcmMax        = 1<<36 - 32 // bytes of content, NIST SP 800-38D §5.2.1.1
)

// gcm is AES-GCM (NIST SP 800-38D) over a stream. What is authenticated beside
// the content stands behind it in the message (RFC 5083 §2.1) and comes last.
type gcm struct {
	stream counter
	sum    ghash
	mask   [gcmTag]byte // what the hash is encrypted with
	tag    int
	length uint64 // of the content so far
}

func newGCM(block cipher.Block, nonce []byte, tag int) (*gcm, error) {
	g := &gcm{tag: tag}
	if err := g.sum.init(block); err != nil {
		return nil, err
	}
	first := g.sum.h.first(nonce).bytes()
	block.Encrypt(g.mask[:], first[:])
	g.stream = counter{block: block, next: first}
	g.stream.add(1)
	return g, nil
}

func (g *gcm) open(b []byte) []byte {
	g.length += uint64(len(b))
	g.sum.update(b)
	g.stream.xor(b)
	return b
}

func (g *gcm) close(attributes, tag []byte) ([]byte, bool) {
	want := g.sign(attributes)
	return nil, g.length <= gcmMax && len(tag) == g.tag && subtle.ConstantTimeCompare(want, tag) == 1
}

// sign is the tag over all that came.
func (g *gcm) sign(attributes []byte) []byte {
	total := g.sum.u
	if len(attributes) > 0 {
		before := ghash{aead: g.sum.aead, h: g.sum.h}
		before.update(attributes)
		total = total.xor(before.u.mul(g.sum.h.power(g.sum.blocks)))
	}
	lengths := element{uint64(len(attributes)) * 8, g.length * 8}
	total = total.xor(lengths.mul(g.sum.h))
	tag := total.bytes()
	subtle.XORBytes(tag[:], tag[:], g.mask[:])
	return tag[:g.tag]
}

// counter is the key stream of GCM (NIST SP 800-38D §6.2, §6.5). It counts in
// the last 32 bits of the block, where the CTR mode of the standard library
// counts in all of them.
type counter struct {
	block  cipher.Block
	next   [gcmTag]byte
	stream cipher.Stream
	left   uint64 // bytes until the 32 bits are used up
}

// add moves the counter, and begins there.
func (c *counter) add(n uint32) {
	low := binary.BigEndian.Uint32(c.next[gcmTag-4:]) + n
	binary.BigEndian.PutUint32(c.next[gcmTag-4:], low)
	c.stream = cipher.NewCTR(c.block, c.next[:])
	c.left = (1<<32 - uint64(low)) * gcmTag
}

func (c *counter) xor(b []byte) {
	for len(b) > 0 {
		n := int(min(uint64(len(b)), c.left))
		c.stream.XORKeyStream(b[:n], b[:n])
		b = b[n:]
		if c.left -= uint64(n); c.left == 0 {
			clear(c.next[gcmTag-4:])
			c.add(0)
		}
	}
}

type gcmSealer struct{ *gcm }

func (g gcmSealer) seal(b []byte) {
	g.length += uint64(len(b))
	g.stream.xor(b)
	g.sum.update(b)
}

func (g gcmSealer) close(b []byte) (last, tag []byte) {
	g.seal(b)
	return b, g.sign(nil)
}

// ghash is GHASH (NIST SP 800-38D §6.4) of blocks X1…Xn, kept as
//
//	u = X1·H^(n+1) ⊕ … ⊕ Xn·H²
//
// which is one factor H more than the standard's. The standard library has no
// GHASH, but its GCM computes one over additional data: with an empty content
// the tag is u ⊕ L·H ⊕ E, where L is a block of lengths and E a mask, both of
// which are the same for zeros of the same length, and cancel. A state goes
// into the next piece through its second block, whose weight is that of the
// state. So the long work is done by the assembly of the standard library, and
// what is left is a few multiplications for each message.
type ghash struct {
	aead   cipher.AEAD
	h, u   element
	blocks uint64
	full   element // the tag of a full piece of zeros, once there was a full piece
	known  bool    // full is there
	last   []byte  // room for a piece that is no multiple of a block
	out    [gcmTag]byte
}

var (
	noNonce   [gcmNonce]byte // its tags stay here: any nonce will do
	zeroPiece [pieceSize]byte
)

func (s *ghash) init(block cipher.Block) (err error) {
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	block.Encrypt(s.out[:], make([]byte, gcmTag))
	s.h = elementOf(s.out[:])
	return nil
}

// sum is the tag over additional data.
func (s *ghash) sum(data []byte) element {
	return elementOf(s.aead.Seal(s.out[:0], noNonce[:], nil, data))
}

// zeros is the tag over n zeros.
func (s *ghash) zeros(n int) element {
	if n < pieceSize {
		return s.sum(zeroPiece[:n])
	}
	if !s.known {
		s.full, s.known = s.sum(zeroPiece[:]), true
	}
	return s.full
}

// update adds b. Only the last piece may be no multiple of a block; it counts
// with zeros behind it. b is changed meanwhile, and not afterwards.
func (s *ghash) update(b []byte) {
	for len(b) > 0 {
		n := min(len(b), pieceSize)
		if n%gcmTag == 0 {
			s.piece(b[:n])
		} else {
			s.last = append(append(s.last[:0], b[:n]...), zeroPiece[:gcmTag-n%gcmTag]...)
			s.piece(s.last)
		}
		b = b[n:]
	}
}

func (s *ghash) piece(b []byte) {
	carried := s.u
	if len(b) == gcmTag {
		s.u = carried.mul(s.h).xor(s.sum(b))
	} else {
		state, second := carried.bytes(), b[gcmTag:2*gcmTag]
		subtle.XORBytes(second, second, state[:])
		s.u = s.sum(b)
		subtle.XORBytes(second, second, state[:])
	}
	s.u = s.u.xor(s.zeros(len(b)))
	s.blocks += uint64(len(b) / gcmTag)
}

// element is one of the field of GCM (NIST SP 800-38D §6.3): the first bit of
// the block is the coefficient of 1, and the highest bit of high.
type element struct{ high, low uint64 }

func elementOf(block []byte) element {
	return element{binary.BigEndian.Uint64(block), binary.BigEndian.Uint64(block[8:])}
}

func (e element) bytes() (b [gcmTag]byte) {
	binary.BigEndian.PutUint64(b[:], e.high)
	binary.BigEndian.PutUint64(b[8:], e.low)
	return b
}

func (e element) xor(o element) element { return element{e.high ^ o.high, e.low ^ o.low} }

// mul is the product, in constant time.
func (e element) mul(o element) (z element) {
	for i := range 128 {
		var bit uint64
		if i < 64 {
			bit = e.high >> (63 - i) & 1
		} else {
			bit = e.low >> (127 - i) & 1
		}
		z.high ^= o.high & -bit
		z.low ^= o.low & -bit
		reduce := -(o.low & 1) & (0xe1 << 56)
		o = element{o.high>>1 ^ reduce, o.low>>1 | o.high<<63}
	}
	return z
}

// first is the first counter block for a nonce, e being the key of the hash
// (NIST SP 800-38D §7.1).
func (e element) first(nonce []byte) (y element) {
	if len(nonce) == gcmNonce {
		return element{binary.BigEndian.Uint64(nonce), uint64(binary.BigEndian.Uint32(nonce[8:]))<<32 | 1}
	}
	for rest := nonce; len(rest) > 0; {
		var block [gcmTag]byte
		rest = rest[copy(block[:], rest):]
		y = y.xor(elementOf(block[:])).mul(e)
	}
	return y.xor(element{0, uint64(len(nonce)) * 8}).mul(e)
}

// power is e to the n-th, in a time that depends on n alone.
func (e element) power(n uint64) element {
	z := element{1 << 63, 0}
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			z = z.mul(e)
		}
		e = e.mul(e)
	}
	return z
}
