package openpgp

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"hash"
	"io"
)

// This is version 1 of the encrypted data packet (RFC 9580 §5.13.1), out of
// the standard library's CFB and SHA-1: go-crypto goes byte by byte, and takes
// three times as long. Version 2 is left to it.

// mdcSize is the length of the modification detection code packet, which begins with mdcHead.
const mdcSize = 2 + sha1.Size

var mdcHead = []byte{0xc0 | 19, sha1.Size}

// opener decrypts, and holds back what may be the code.
type opener struct {
	in     io.Reader
	stream cipher.Stream
	sum    hash.Hash
	buf    []byte
	from   int // buf[from:to] is plaintext that was not handed out; the last mdcSize bytes are not known to be
	to     int
	err    error // of in
}

func newOpener(in io.Reader, block cipher.Block) (*opener, error) {
	size := block.BlockSize()
	o := &opener{in: in, sum: sha1.New(), buf: make([]byte, max(bufferSize(in), 1<<10))}
	o.stream = cipher.NewCFBDecrypter(block, make([]byte, size)) //lint:ignore SA1019 the packet has its own integrity
	prefix := make([]byte, size+2)
	if _, err := io.ReadFull(in, prefix); err != nil {
		return nil, cut(err)
	}
	// The prefix repeats two bytes, so that a wrong key shows at once; looking
	// would tell others as well (RFC 9580 §5.13.1, last paragraph).
	o.stream.XORKeyStream(prefix, prefix)
	o.sum.Write(prefix)
	return o, nil
}

// Size is that of the buffer.
func (o *opener) Size() int { return len(o.buf) }

func (o *opener) Read(p []byte) (int, error) {
	for o.to-o.from <= mdcSize {
		if o.err != nil {
			return 0, o.err
		}
		o.to = copy(o.buf, o.buf[o.from:o.to])
		o.from = 0
		var n int
		n, o.err = o.in.Read(o.buf[o.to:])
		fresh := o.buf[o.to : o.to+n]
		o.stream.XORKeyStream(fresh, fresh)
		o.to += n
	}
	n := copy(p, o.buf[o.from:o.to-mdcSize])
	o.sum.Write(p[:n])
	o.from += n
	return n, nil
}

// Close tells whether all was read and is whole.
func (o *opener) Close() error {
	if o.err != io.EOF || o.to-o.from != mdcSize {
		return errPacket
	}
	code := o.buf[o.from:o.to]
	o.sum.Write(mdcHead)
	if subtle.ConstantTimeCompare(o.sum.Sum(nil), code[len(mdcHead):])&subtle.ConstantTimeCompare(mdcHead, code[:len(mdcHead)]) != 1 {
		return errPacket
	}
	return nil
}

// sealer encrypts what is written to it; Close writes the code and ends the packet.
type sealer struct {
	out    *partialWriter
	stream cipher.Stream
	sum    hash.Hash
	buf    []byte
}

func newSealer(w io.Writer, key []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &sealer{out: newPartialWriter(w, tagIntegrity), sum: sha1.New(), buf: make([]byte, 0, 32<<10)}
	s.stream = cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)) //lint:ignore SA1019 the packet has its own integrity
	if _, err := s.out.Write([]byte{1}); err != nil {
		return nil, err
	}
	prefix := make([]byte, aes.BlockSize, aes.BlockSize+2)
	rand.Read(prefix)
	_, err = s.Write(append(prefix, prefix[aes.BlockSize-2:]...))
	return s, err
}

func (s *sealer) Write(p []byte) (int, error) {
	total := len(p)
	s.sum.Write(p)
	for len(p) > 0 {
		part := p[:min(len(p), cap(s.buf))]
		p = p[len(part):]
		s.buf = s.buf[:len(part)]
		s.stream.XORKeyStream(s.buf, part)
		if _, err := s.out.Write(s.buf); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func (s *sealer) Close() error {
	s.sum.Write(mdcHead)
	code := append(bytes.Clone(mdcHead), s.sum.Sum(nil)...)
	s.stream.XORKeyStream(code, code)
	if _, err := s.out.Write(code); err != nil {
		return err
	}
	return s.out.Close()
}

// partialWriter writes one packet of unknown length in partial lengths (RFC 9580 §4.2.1.4).
type partialWriter struct {
	w     io.Writer
	tag   byte
	begun bool
	buf   []byte
}

// partialBits is the size of a part as a power of two: 32 KiB.
const partialBits = 15

func newPartialWriter(w io.Writer, tag byte) *partialWriter {
	return &partialWriter{w: w, tag: tag, buf: make([]byte, 0, 1<<partialBits)}
}

func (p *partialWriter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		if len(p.buf) == cap(p.buf) { // full, and not the last
			if err := p.flush([]byte{224 + partialBits}); err != nil {
				return 0, err
			}
		}
		n := copy(p.buf[len(p.buf):cap(p.buf)], b)
		p.buf = p.buf[:len(p.buf)+n]
		b = b[n:]
	}
	return total, nil
}

func (p *partialWriter) flush(length []byte) error {
	if !p.begun {
		p.begun = true
		length = append([]byte{0xc0 | p.tag}, length...)
	}
	if _, err := p.w.Write(length); err != nil {
		return err
	}
	_, err := p.w.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

// Close writes what is left as the last part.
func (p *partialWriter) Close() error { return p.flush(packetLength(len(p.buf))) }
