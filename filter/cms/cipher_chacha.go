package cms

import (
	"encoding/binary"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/poly1305" //lint:ignore SA1019 chacha20poly1305 does not stream
)

// chachaMax is the content that one nonce is good for, in bytes (RFC 8439 §2.8).
const chachaMax = (1<<32 - 1) * 64

// chacha is ChaCha20-Poly1305 (RFC 8439 §2.8) over a stream. Poly1305 wants
// what is authenticated beside the content first, and it comes last (RFC 5083
// §2.1): a message that has any does not open.
type chacha struct {
	stream *chacha20.Cipher
	sum    *poly1305.MAC
	length uint64
}

func newChaCha(key, nonce []byte) (*chacha, error) {
	stream, err := chacha20.NewUnauthenticatedCipher(key, nonce)
	if err != nil {
		return nil, err
	}
	var once [32]byte
	stream.XORKeyStream(once[:], once[:])
	stream.SetCounter(1)
	return &chacha{stream: stream, sum: poly1305.New(&once)}, nil
}

func (c *chacha) open(b []byte) []byte {
	c.length += uint64(len(b))
	if c.length > chachaMax { // the stream would begin anew
		return nil
	}
	c.sum.Write(b)
	c.stream.XORKeyStream(b, b)
	return b
}

func (c *chacha) close(attributes, tag []byte) ([]byte, bool) {
	var end [32]byte
	padding := -c.length % 16
	binary.LittleEndian.PutUint64(end[padding+8:], c.length)
	c.sum.Write(end[:padding+16])
	return nil, c.sum.Verify(tag) && attributes == nil && c.length <= chachaMax
}
