package smime

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"mime"
	"path"
	"slices"
	"strings"

	"postern/filter/cms"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
)

// form is how an entity carries S/MIME.
type form uint8

const (
	none       form = iota
	detached        // multipart/signed (RFC 8551 §3.5.3)
	opaque          // SignedData with its content (§3.5.2)
	enveloped       // EnvelopedData, AuthEnvelopedData (§3.3, §3.4)
	compressed      // §3.6
)

const (
	maxHead   = 64 << 10 // bytes of a body that are looked at before a mail is opened
	maxType   = 64       // bytes of a CMS message that tell its type
	maxLayers = 3        // around one that is encrypted, and inside of it
)

// Types of media that hold CMS. The second ones are those of programs from
// before the registration.
var (
	signatureTypes = []string{"application/pkcs7-signature", "application/x-pkcs7-signature"}
	messageTypes   = []string{"application/pkcs7-mime", "application/x-pkcs7-mime"}
)

// Detect tells by structure whether the root of a mail is S/MIME, and nothing
// but it: what else a mail holds beside it would change its meaning unseen
// (R7, R10). Of application/pkcs7-mime the content tells, never smime-type.
// Signatures and compression around encryption are looked through, as far as
// the beginning of the body shows it.
func (p *Protector) Detect(m *message.Message) protect.Layer {
	switch formOf(m.Source, m.Root) {
	case enveloped:
		return protect.Sealed
	case detached:
		if sealedWithin(m.Source, m.Root.Parts[0]) {
			return protect.Sealed
		}
		return protect.Signed
	case opaque, compressed:
		return layerWithin(m.Source, m.Root)
	}
	return protect.None
}

// formOf tells what one entity is.
func formOf(src message.Source, p *message.Part) form {
	if p.Type == "multipart/signed" {
		protocol := strings.ToLower(p.Params["protocol"])
		if (protocol == "" || slices.Contains(signatureTypes, protocol)) && entity.Pair(src, p) && slices.Contains(signatureTypes, p.Parts[1].Type) {
			return detached
		}
		return none
	}
	if !holdsCMS(src, p) {
		return none
	}
	head, err := io.ReadAll(io.LimitReader(entity.Decoded(src, p), maxType))
	if err != nil {
		return none
	}
	return formFor(cms.TypeOf(head))
}

func formFor(t cms.Type) form {
	switch t {
	case cms.TypeEnveloped, cms.TypeAuthEnveloped:
		return enveloped
	case cms.TypeSigned:
		return opaque
	case cms.TypeCompressed:
		return compressed
	}
	return none
}

// holdsCMS reports whether a part says that it holds CMS: by its type, or by
// its name where an old program knew no type (RFC 8551 §3.2.1, §3.9).
func holdsCMS(src message.Source, p *message.Part) bool {
	if slices.Contains(messageTypes, p.Type) {
		return true
	}
	if p.Type != "application/octet-stream" {
		return false
	}
	name := p.Params["name"]
	if name == "" {
		name = fileName(src, p)
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".p7m", ".p7s", ".p7z":
		return true
	}
	return false
}

// fileName is that of the Content-Disposition (RFC 2183 §2.3), or "".
func fileName(src message.Source, p *message.Part) string {
	m := &message.Message{Source: src, Root: p}
	if m.Count("Content-Disposition") != 1 {
		return ""
	}
	_, params, err := mime.ParseMediaType(m.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}

// sealedWithin reports whether what stands in a signature is encrypted.
func sealedWithin(src message.Source, p *message.Part) bool {
	switch formOf(src, p) {
	case enveloped:
		return true
	case opaque, compressed:
		return layerWithin(src, p) == protect.Sealed
	}
	return false
}

// layerWithin looks through signatures and compression at the beginning of a
// body. Certificates that travel alone (certs-only, RFC 8551 §3.8) sign nothing.
func layerWithin(src message.Source, p *message.Part) protect.Layer {
	e := streamOf(src, p, maxHead)
	signed := false
	for range maxLayers {
		content := &prefix{left: maxHead}
		var err error
		switch e.form() {
		case enveloped:
			return protect.Sealed
		case opaque:
			_, err = cms.ReadSigned(e.body, content)
			signed = signed || err != nil || content.data != nil
		case compressed:
			err = cms.Decompress(e.body, content, maxHead)
		}
		if err == nil && content.data == nil { // neither, or certificates alone
			break
		}
		if e, err = newStream(bytes.NewReader(content.data)); err != nil {
			break
		}
	}
	if signed {
		return protect.Signed
	}
	return protect.None
}

// prefix keeps the beginning of what is written to it, and ends the writing there.
type prefix struct {
	data []byte
	left int
}

var errEnough = errors.New("enough was read")

func (p *prefix) Write(b []byte) (int, error) {
	n := min(len(b), p.left)
	p.data = append(p.data, b[:n]...)
	if p.left -= n; n < len(b) {
		return n, errEnough
	}
	return n, nil
}

// stream is an entity that is read once, as it comes out of a layer.
type stream struct {
	part   *message.Part // of the header; its spans say nothing of the body
	holds  bool          // it says that it holds CMS
	header []byte        // as it came, with the blank line
	raw    *bufio.Reader // the body as it came
	body   io.Reader     // the same without its transfer encoding
}

// streamBuffer is how much of a stream is read at a time, in bytes.
const streamBuffer = 16 << 10

// streamOf is a part that holds CMS, up to so many bytes of its content.
func streamOf(src message.Source, p *message.Part, most int64) *stream {
	e := &stream{part: p, holds: true, raw: bufio.NewReaderSize(message.SectionReader(src, p.Body), streamBuffer)}
	return e.decode(most)
}

// newStream reads the header of an entity. What is no entity holds no CMS.
func newStream(r io.Reader) (*stream, error) {
	e := &stream{part: &message.Part{}, raw: bufio.NewReaderSize(r, streamBuffer)}
	for blank := false; !blank; {
		line, err := e.raw.ReadSlice('\n')
		switch blank = err == nil && len(bytes.TrimRight(line, "\r\n")) == 0; {
		case err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case err == io.EOF, len(e.header)+len(line) > entity.MaxHeader:
			e.header = append(e.header, line...)
			return e, nil
		}
		e.header = append(e.header, line...)
	}
	m, err := message.Parse(bytes.NewReader(e.header), message.Limits{})
	if err != nil {
		return e, nil
	}
	e.part, e.holds = m.Root, holdsCMS(m.Source, m.Root)
	return e.decode(math.MaxInt64), nil
}

// decode prepares the body.
func (e *stream) decode(most int64) *stream {
	e.body = io.LimitReader(entity.Decode(e.part.Encoding, e.raw), most)
	return e
}

// form tells what the entity is, but for multipart/signed, and reads nothing.
func (e *stream) form() form {
	if !e.holds {
		return none
	}
	raw, _ := e.raw.Peek(4 * maxType) // an error shows when it is read
	head := make([]byte, maxType)
	n, _ := io.ReadFull(entity.Decode(e.part.Encoding, bytes.NewReader(raw)), head)
	return formFor(cms.TypeOf(head[:n]))
}

// whole is the entity again, as it came, while body was not read from.
func (e *stream) whole() io.Reader { return io.MultiReader(bytes.NewReader(e.header), e.raw) }
