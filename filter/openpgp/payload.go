package openpgp

import (
	"compress/bzip2"
	"compress/flate"
	"compress/zlib"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/message"
)

// Bounds on what was encrypted.
const (
	maxSignatures     = 8
	maxSignatureBytes = 16 << 10
	freeInflation     = 1 << 20 // bytes that any compressed packet may become
)

// payload reads what was encrypted or signed as one message (RFC 9580 §10.3):
// at most one layer of compression, signatures, exactly one literal, nothing
// behind it (R18). It writes the literal's bytes to out, and knows nothing of
// integrity: out must not be released before that is known.
type payload struct {
	out      io.Writer
	ratio    int64
	verifier *verifier
	claims   []*claim
}

// read reads the message to its end.
func (p *payload) read(r io.Reader) error {
	in := newPacketReader(r)
	tag, body, err := nextPacket(in)
	if err != nil {
		return err
	}
	if tag != tagCompressed {
		return p.message(in, tag, body)
	}
	inner, err := decompress(body, p.ratio)
	if err != nil {
		return err
	}
	layer := newPacketReader(inner)
	tag, content, err := nextPacket(layer)
	if err != nil {
		return err
	}
	if err := p.message(layer, tag, content); err != nil {
		return err
	}
	if _, err := body.ReadByte(); err != io.EOF && !inner.padded {
		return errPacket
	}
	return ends(in)
}

// nextPacket is the next packet that says something.
func nextPacket(in *packetReader) (int, *packetBody, error) {
	for {
		tag, body, err := in.next()
		if err != nil {
			return 0, nil, cut(err)
		}
		if !filler(tag) {
			return tag, body, nil
		}
	}
}

// ends takes padding, and nothing else, before the end of the stream.
func ends(in *packetReader) error {
	for {
		tag, _, err := in.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filler(tag) {
			return errPacket
		}
	}
}

// message reads signatures and the literal, of which the first packet is at hand.
func (p *payload) message(in *packetReader, tag int, body *packetBody) error {
	var announced []*claim
	for tag != tagLiteral {
		if tag != tagOnePass && tag != tagSignature || len(p.claims) >= maxSignatures {
			return errPacket
		}
		content, err := body.all(maxSignatureBytes)
		if err != nil {
			return err
		}
		var c *claim
		if tag == tagOnePass {
			if c, err = p.verifier.announced(content); err != nil {
				return err
			}
			announced = append(announced, c)
		} else {
			c = p.verifier.claim(content)
		}
		p.claims = append(p.claims, c)
		if tag, body, err = nextPacket(in); err != nil {
			return err
		}
	}
	if err := p.literal(body); err != nil {
		return err
	}
	// Signatures stand in the reverse order of their announcements.
	for i := len(announced) - 1; i >= 0; i-- {
		tag, body, err := nextPacket(in)
		if err != nil {
			return err
		}
		if tag != tagSignature {
			return errPacket
		}
		content, err := body.all(maxSignatureBytes)
		if err != nil {
			return err
		}
		announced[i].complete(content)
	}
	return ends(in)
}

// literal passes the bytes of a literal data packet on (RFC 9580 §5.9). Its
// file name and date are not signed and not looked at.
func (p *payload) literal(body *packetBody) error {
	var head [2]byte
	if _, err := io.ReadFull(body, head[:]); err != nil {
		return cut(err)
	}
	switch head[0] {
	case 'b', 't', 'u', 'm':
	default:
		return errPacket
	}
	if _, err := io.CopyN(io.Discard, body, int64(head[1])+4); err != nil {
		return cut(err)
	}
	writers := []io.Writer{p.out}
	for _, c := range p.claims {
		if c.content != nil {
			writers = append(writers, c.content)
		}
	}
	_, err := message.Copy(io.MultiWriter(writers...), body)
	return err
}

// decompress opens a compressed packet (RFC 9580 §5.6).
func decompress(body *packetBody, ratio int64) (*inflation, error) {
	algorithm, err := body.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	in := &counter{packetBody: body}
	var out io.Reader
	switch packet.CompressionAlgo(algorithm) {
	case packet.CompressionNone:
		out = in
	case packet.CompressionZIP:
		out = flate.NewReader(in)
	case packet.CompressionZLIB:
		if out, err = zlib.NewReader(in); err != nil {
			return nil, cut(err)
		}
	case 3:
		out = bzip2.NewReader(in)
	default:
		return nil, errPacket
	}
	// Sequoia pads behind the end of raw deflate, which knows its own end.
	return &inflation{in: in, out: out, ratio: ratio, padded: packet.CompressionAlgo(algorithm) == packet.CompressionZIP}, nil
}

// counter counts compressed bytes.
type counter struct {
	*packetBody
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.packetBody.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.packetBody.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// inflation ends when more comes out than what went in can honestly become (R29).
type inflation struct {
	in     *counter
	out    io.Reader
	n      int64
	ratio  int64
	padded bool // bytes may follow what decompresses
}

func (i *inflation) Read(p []byte) (int, error) {
	n, err := i.out.Read(p)
	i.n += int64(n)
	if i.n > freeInflation+i.ratio*i.in.n {
		return 0, errPacket
	}
	return n, err
}
