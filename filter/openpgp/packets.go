package openpgp

import (
	"bufio"
	"errors"
	"io"
)

// Packet types (RFC 9580 §5).
const (
	tagSessionKey    = 1
	tagSignature     = 2
	tagPassword      = 3
	tagOnePass       = 4
	tagSecretKey     = 5
	tagPublicKey     = 6
	tagSecretSubkey  = 7
	tagCompressed    = 8
	tagNoIntegrity   = 9
	tagMarker        = 10
	tagLiteral       = 11
	tagTrust         = 12
	tagUserID        = 13
	tagPublicSubkey  = 14
	tagAttribute     = 17
	tagIntegrity     = 18
	tagLibreAEAD     = 20
	tagPadding       = 21
	tagFirstOptional = 40 // from here on unknown packets are not critical, RFC 9580 §4.3
)

// errPacket is every way in which packets are not what the grammar wants. It
// stays inside the package: whoever asked to open hears protect.ErrCannotOpen.
var errPacket = errors.New("packets malformed")

// packetReader reads the framing of packets (RFC 9580 §4.2), old and new,
// with definite and partial lengths. It looks into no packet but the marker,
// never recurses and holds no more than one buffer.
type packetReader struct {
	in   *bufio.Reader
	body packetBody
}

// packetBody is the content of the packet that next has found. It ends with
// io.EOF exactly where the packet ends, with errPacket where the stream ends first.
type packetBody struct {
	in      *bufio.Reader
	left    int64
	partial bool // another length follows
	open    bool // old format without a length: to the end of the stream
	done    bool
}

// maxBuffer is the size of the buffers that a mail is read through, in bytes.
const maxBuffer = 32 << 10

// bufferSize is maxBuffer, or less where there is less to read: most mail is
// small, and buffers were most of what it cost.
func bufferSize(r io.Reader) int {
	size := int64(maxBuffer)
	switch r := r.(type) {
	case interface{ Len() int }: // all that is left
		size = int64(r.Len()) + 1
	case interface{ Size() int64 }: // all there is
		size = r.Size() + 1
	case interface{ Size() int }: // the buffer below, that was made by need
		size = int64(r.Size())
	}
	return int(min(size, maxBuffer))
}

func newPacketReader(r io.Reader) *packetReader {
	b, ok := r.(*bufio.Reader)
	if !ok {
		b = bufio.NewReaderSize(r, bufferSize(r))
	}
	return &packetReader{in: b, body: packetBody{in: b, done: true}}
}

// Size is that of the buffer below.
func (b *packetBody) Size() int { return b.in.Size() }

// next skips what is left of the packet before, and finds the next. It gives
// io.EOF at the end of the stream, if that falls between packets.
func (p *packetReader) next() (tag int, body *packetBody, err error) {
	if !p.body.done {
		if err := p.body.skip(); err != nil {
			return 0, nil, err
		}
	}
	first, err := p.in.ReadByte()
	if err != nil {
		return 0, nil, err // io.EOF here is the regular end
	}
	if first&0x80 == 0 {
		return 0, nil, errPacket
	}
	p.body = packetBody{in: p.in}
	if first&0x40 != 0 {
		tag = int(first & 0x3f)
		err = p.body.length()
	} else {
		tag = int(first >> 2 & 0x0f)
		if size := first & 3; size == 3 {
			p.body.open = true
		} else {
			for range 1 << size {
				var b byte
				if b, err = p.in.ReadByte(); err != nil {
					break
				}
				p.body.left = p.body.left<<8 | int64(b)
			}
		}
	}
	if err != nil {
		return 0, nil, cut(err)
	}
	if tag == 0 || (p.body.partial || p.body.open) && !streams(tag) {
		return 0, nil, errPacket
	}
	if tag == tagMarker { // of all that says nothing the one that could (RFC 9580 §5.8)
		text, err := p.in.Peek(3)
		if err != nil {
			return 0, nil, cut(err)
		}
		if string(text) != "PGP" || p.body.left != 3 {
			return 0, nil, errPacket
		}
	}
	return tag, &p.body, nil
}

// streams tells the packets whose length may be unknown at first (RFC 9580 §4.2.1.4).
func streams(tag int) bool {
	switch tag {
	case tagCompressed, tagNoIntegrity, tagLiteral, tagIntegrity, tagLibreAEAD:
		return true
	}
	return false
}

// length reads one length of the new format.
func (b *packetBody) length() error {
	first, err := b.in.ReadByte()
	if err != nil {
		return err
	}
	b.partial = false
	switch {
	case first < 192:
		b.left = int64(first)
	case first < 224:
		second, err := b.in.ReadByte()
		if err != nil {
			return err
		}
		b.left = int64(first-192)<<8 + int64(second) + 192
	case first < 255:
		b.left = 1 << (first & 0x1f)
		b.partial = true
	default:
		var four [4]byte
		if _, err := io.ReadFull(b.in, four[:]); err != nil {
			return err
		}
		b.left = int64(four[0])<<24 | int64(four[1])<<16 | int64(four[2])<<8 | int64(four[3])
	}
	return nil
}

// more makes left positive, or says how the packet ends.
func (b *packetBody) more() error {
	if b.done {
		return io.EOF
	}
	for b.left == 0 && !b.open {
		if !b.partial {
			b.done = true
			return io.EOF
		}
		if err := b.length(); err != nil {
			return cut(err)
		}
	}
	return nil
}

func (b *packetBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := b.more(); err != nil {
		return 0, err
	}
	if !b.open && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.in.Read(p)
	if b.open {
		b.done = err == io.EOF
		return n, err
	}
	b.left -= int64(n)
	return n, cut(err)
}

// ReadByte lets decompressors stop exactly where their data ends.
func (b *packetBody) ReadByte() (byte, error) {
	if err := b.more(); err != nil {
		return 0, err
	}
	c, err := b.in.ReadByte()
	if b.open {
		b.done = err == io.EOF
		return c, err
	}
	if err != nil {
		return 0, cut(err)
	}
	b.left--
	return c, nil
}

// skip reads to the end of the packet.
func (b *packetBody) skip() error {
	for {
		if err := b.more(); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if b.open {
			_, err := io.Copy(io.Discard, b)
			return err
		}
		n, err := b.in.Discard(int(min(b.left, 1<<20)))
		b.left -= int64(n)
		if err != nil {
			return cut(err)
		}
	}
}

// all reads a whole packet of at most limit bytes.
func (b *packetBody) all(limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(b, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errPacket
	}
	return data, nil
}

// cut names an end of the stream inside a packet.
func cut(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return errPacket
	}
	return err
}

// filler reports whether the packet says nothing, so that it may stand
// anywhere (RFC 9580 §5.8, §5.14, §4.3).
func filler(tag int) bool {
	return tag == tagMarker || tag == tagPadding || tag >= tagFirstOptional
}

// packetLength is a length in the new format (RFC 9580 §4.2.1).
func packetLength(n int) []byte {
	switch {
	case n < 192:
		return []byte{byte(n)}
	case n < 8384:
		return []byte{byte((n-192)>>8 + 192), byte(n - 192)}
	}
	return []byte{255, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// appendPacket appends a packet in the new format to dst.
func appendPacket(dst []byte, tag int, body []byte) []byte {
	dst = append(append(dst, 0xc0|byte(tag)), packetLength(len(body))...)
	return append(dst, body...)
}
