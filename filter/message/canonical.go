package message

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/transform"
)

// ErrSigned8Bit is a part that can't be made fit for signing without breaking
// what it is: it is signed or encrypted already, or of a type or in an
// encoding that allows no other, and holds 8-bit data or lines beyond 998
// bytes; or a line of its header is that long.
var ErrSigned8Bit = errors.New("signed part holds 8-bit data")

// maxLine is the longest line of a mail without its CRLF (RFC 5322 §2.1.1), in bytes.
const maxLine = 998

// clean reports whether bytes survive every hop unchanged.
func (c Content) clean() bool { return !c.EightBit && !c.Fragile && c.Longest <= maxLine }

// WriteCanonical writes the entity p, a part of src, in the form that can be
// signed and survives every hop (RFC 3156 §3, RFC 8551 §3.1): CRLF, 7-bit,
// lines of at most 998 bytes, no white space at their ends, none that begins
// with "From ". Of the header only the fields of MIME are written, and before
// them fields, which are complete lines. What is clean already passes as it
// is; the rest is encoded, text as quoted-printable, anything else as base64.
// Parts that must not be encoded keep their line ends and white space, if they
// are 7-bit and not too long: what is signed or encrypted inside, messages and
// multiparts that can't be looked into, and unknown encodings.
//
// The error is ErrSigned8Bit, or one of src or w. Memory does not grow with
// the entity, and its bytes are read three times at most, however deep it is.
func WriteCanonical(w io.Writer, src Source, p *Part, fields []byte) error {
	b := bufio.NewWriterSize(w, int(min(chunk, p.Whole.Len()+int64(len(fields))+1)))
	b.Write(fields)
	c := canonical{src: src, w: b, contents: map[*Part]Content{}}
	err := c.survey(p)
	if err == nil {
		err = c.entity(p, func(name string) bool {
			return len(name) > 8 && strings.EqualFold(name[:8], "Content-") && isToken(name)
		})
	}
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return fmt.Errorf("write canonical form: %w", err)
	}
	return nil
}

type canonical struct {
	src      Source
	w        *bufio.Writer     // its errors stick until Flush
	contents map[*Part]Content // of bodies
}

// survey scans the body of p, and of each part in it on the way.
func (c canonical) survey(p *Part) error {
	at := p.Body.Start
	var all Content
	add := func(more Content) {
		all.EightBit = all.EightBit || more.EightBit
		all.Fragile = all.Fragile || more.Fragile
		all.Longest = max(all.Longest, more.Longest)
	}
	for _, part := range p.Parts {
		before, err := Scan(c.src, Span{at, part.Body.Start}) // its header, and the boundary
		if err == nil {
			err = c.survey(part)
		}
		if err != nil {
			return err
		}
		add(before)
		add(c.contents[part])
		at = part.Body.End
	}
	rest, err := Scan(c.src, Span{at, p.Body.End})
	add(rest)
	c.contents[p] = all
	return err
}

// how is what has to be done with a body.
type how uint8

const (
	asIs     how = iota
	inside       // canonical parts between boundaries
	toQP         // encode as quoted-printable
	toBase64     // encode as base64
	mendQP       // already quoted-printable, with lines that do not survive
	mendB64      // already base64, likewise
)

var encodings = map[how]string{toQP: "quoted-printable", toBase64: "base64"}

// entity writes the fields that keep wants, the blank line and the body.
func (c canonical) entity(p *Part, keep func(string) bool) error {
	h, err := c.judge(p)
	if err != nil {
		return err
	}
	named := false
	for _, f := range p.Header {
		if !keep(f.Name) {
			continue
		}
		if strings.EqualFold(f.Name, "Content-Transfer-Encoding") && h != mendQP && h != mendB64 {
			if encodings[h] != "" {
				continue
			}
			if p.Encoding == "8bit" || p.Encoding == "binary" {
				if !named {
					c.w.WriteString("Content-Transfer-Encoding: 7bit\r\n")
				}
				named = true
				continue
			}
		}
		if err := c.field(f); err != nil {
			return err
		}
	}
	if e := encodings[h]; e != "" {
		if len(all(p.Header, "Content-Type")) == 0 && c.contents[p].EightBit {
			charset, err := c.charset(p)
			if err != nil {
				return err
			}
			c.w.WriteString("Content-Type: text/plain; charset=" + charset + "\r\n")
		}
		c.w.WriteString("Content-Transfer-Encoding: " + e + "\r\n")
	}
	c.w.WriteString("\r\n")
	return c.body(p, h)
}

// charset guesses that of text that does not say it (RFC 1428 §3).
func (c canonical) charset(p *Part) (string, error) {
	_, err := io.Copy(io.Discard, transform.NewReader(SectionReader(c.src, p.Body), encoding.UTF8Validator))
	if errors.Is(err, encoding.ErrInvalidUTF8) {
		return "unknown-8bit", nil
	}
	return "utf-8", err
}

// judge says how the body has to be written.
func (c canonical) judge(p *Part) (how, error) {
	content := c.contents[p]
	signed := p.Type == "multipart/signed" || p.Type == "multipart/encrypted"
	switch {
	case signed && !content.EightBit && content.Longest <= maxLine:
		return asIs, nil // white space at line ends is its signer's concern
	case content.clean() && (signed || !labelled(p.Parts)):
		return asIs, nil
	case signed:
		return 0, fmt.Errorf("part %s: %w", p.Type, ErrSigned8Bit)
	case len(p.Parts) > 0 && p.Params["boundary"] != "" && bounds(p.Parts, p.Params["boundary"]):
		return 0, fmt.Errorf("multipart inside another with its boundary: %w", ErrSigned8Bit) // whose an end is, nobody could tell
	case len(p.Parts) > 0:
		return inside, nil
	case p.Encoding == "quoted-printable":
		return mendQP, nil
	case p.Encoding == "base64":
		return mendB64, nil
	case p.Encoding != "7bit" && p.Encoding != "8bit" && p.Encoding != "binary",
		strings.HasPrefix(p.Type, "multipart/"), strings.HasPrefix(p.Type, "message/"):
		if !content.EightBit && content.Longest <= maxLine {
			return asIs, nil
		}
		return 0, fmt.Errorf("part %s in %s: %w", p.Type, p.Encoding, ErrSigned8Bit)
	case strings.HasPrefix(p.Type, "text/"):
		return toQP, nil
	}
	return toBase64, nil
}

// Lasts reports whether what m writes passes every hop as it is, as an entity
// inside another one that WriteCanonical need not change either.
func (m *Message) Lasts() (bool, error) {
	for _, s := range []Source{bytes.NewReader(m.Top), m.Source} {
		c, err := Scan(s, Span{End: s.Size()})
		if err != nil || !c.clean() {
			return false, err
		}
	}
	return !labelled([]*Part{m.Root}), nil
}

// labelled reports whether a part says that it is more than 7bit, which is
// reason enough for some hops to encode it anew.
func labelled(parts []*Part) bool {
	return slices.ContainsFunc(parts, func(p *Part) bool {
		return p.Encoding == "8bit" || p.Encoding == "binary" || labelled(p.Parts)
	})
}

// bounds reports whether a multipart among the parts has the boundary.
func bounds(parts []*Part, boundary string) bool {
	return slices.ContainsFunc(parts, func(p *Part) bool {
		return strings.HasPrefix(p.Type, "multipart/") && p.Params["boundary"] == boundary || bounds(p.Parts, boundary)
	})
}

// field writes one field of a header, in ASCII and without white space at line ends.
func (c canonical) field(f Field) error {
	raw := make([]byte, f.Whole.Len())
	if _, err := io.ReadFull(SectionReader(c.src, f.Whole), raw); err != nil {
		return err
	}
	received := len(raw)
	if raw = asciiField(raw); len(raw) > received && len(raw) > maxContentType && strings.EqualFold(f.Name, "Content-Type") {
		return fmt.Errorf("content type of %d bytes: %w", len(raw), ErrSigned8Bit) // would be read as another one
	}
	for line := range bytes.Lines(raw) {
		line = line[:len(line)-lineEnd(line)]
		for i, b := range line {
			switch {
			case b != '\r' && b != 0:
			case i == 0, f.Name == "": // a blank would fold the line, or make one that is no field a boundary
				line[i] = '?'
			default:
				line[i] = ' '
			}
		}
		line = bytes.TrimRight(line, " \t")
		if len(line) > maxLine {
			return fmt.Errorf("header line of %d bytes: %w", len(line), ErrSigned8Bit)
		}
		if len(line) > 0 { // a folded line of nothing would end the header
			c.w.Write(line)
			c.w.WriteString("\r\n")
		}
	}
	return nil
}

func (c canonical) body(p *Part, h how) error {
	body := SectionReader(c.src, p.Body)
	switch h {
	case inside:
		return c.parts(p)
	case toQP:
		return encodeQP(c.w, sectionBuffer(c.src, p.Body))
	case toBase64:
		l := &wrapped{w: c.w}
		e := base64.NewEncoder(base64.StdEncoding, l)
		if _, err := Copy(e, body); err != nil {
			return err
		}
		if err := e.Close(); err != nil {
			return err
		}
		return l.end()
	case mendQP:
		return mendQuoted(c.w, sectionBuffer(c.src, p.Body))
	case mendB64:
		l := &wrapped{w: c.w}
		if _, err := Copy(alphabet{l}, body); err != nil {
			return err
		}
		return l.end()
	}
	_, err := Copy(c.w, body)
	return err
}

// parts writes what stands inside a multipart or a message. Text before the
// first and behind the last boundary is for nobody, and left out.
func (c canonical) parts(p *Part) error {
	everything := func(string) bool { return true }
	if !strings.HasPrefix(p.Type, "multipart/") {
		return c.entity(p.Parts[0], everything)
	}
	for i, part := range p.Parts {
		if i > 0 {
			c.w.WriteString("\r\n")
		}
		c.w.WriteString("--" + p.Params["boundary"] + "\r\n")
		if err := c.entity(part, everything); err != nil {
			return err
		}
	}
	_, err := c.w.WriteString("\r\n--" + p.Params["boundary"] + "--\r\n")
	return err
}

// wrapped writes base64 in lines of 76.
type wrapped struct {
	w     *bufio.Writer
	width int
}

func (l *wrapped) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if l.width == 76 {
			l.w.WriteString("\r\n")
			l.width = 0
		}
		n := min(76-l.width, len(rest))
		if _, err := l.w.Write(rest[:n]); err != nil {
			return 0, err
		}
		l.width += n
		rest = rest[n:]
	}
	return len(p), nil
}

func (l *wrapped) end() error {
	if l.width == 0 {
		return nil
	}
	_, err := l.w.WriteString("\r\n")
	return err
}

// alphabet passes on what belongs to base64; decoders ignore the rest (RFC 2045 §6.8).
type alphabet struct{ w io.Writer }

func (a alphabet) Write(p []byte) (int, error) {
	kept := make([]byte, 0, len(p))
	for _, c := range p {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' {
			kept = append(kept, c)
		}
	}
	if _, err := a.w.Write(kept); err != nil {
		return 0, err
	}
	return len(p), nil
}
