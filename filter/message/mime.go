package message

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrLimit is a MIME structure beyond Limits.
var ErrLimit = errors.New("MIME structure beyond limits")

// Limits bound what Parse looks at, and with that the memory of a parsed
// mail. Zero fields have the value given here. All parts together may have
// ten times Fields header fields.
type Limits struct {
	Depth       int   // multiparts and messages inside each other; 32
	Parts       int   // of one mail; 2000
	Fields      int   // header fields of one entity; 1000
	HeaderBytes int64 // header of one entity; 256 KiB
}

func (l Limits) orDefault() Limits {
	for _, f := range []struct {
		v *int
		d int
	}{{&l.Depth, 32}, {&l.Parts, 2000}, {&l.Fields, 1000}} {
		if *f.v <= 0 {
			*f.v = f.d
		}
	}
	if l.HeaderBytes <= 0 {
		l.HeaderBytes = 256 << 10
	}
	return l
}

// Parse reads the structure of src as spans, in one pass. Nothing is repaired:
// a line of a header that is no field becomes one without a name. What can be
// read in two ways gives the harmless one: a broken or repeated Content-Type
// is no multipart. The errors are ErrLimit, ErrHeaderLimit and those of src.
//
// A part begins at a line that is the boundary of a multipart that is open,
// the innermost first, and white space (RFC 2046 §5.1.1). A multipart that is
// not closed ends with the one around it; one whose boundary is not in the
// standard's grammar has no parts. message/rfc822 is looked into,
// message/partial and message/external-body never are.
func Parse(src Source, l Limits) (*Message, error) {
	p := &parser{src: src, limits: l.orDefault(), lines: newScanner(src)}
	root, err := p.entity()
	if err == nil {
		err = p.body()
	}
	if err != nil {
		return nil, fmt.Errorf("parse mail: %w", err)
	}
	return &Message{Source: src, Root: root}, nil
}

type parser struct {
	src    Source
	limits Limits
	lines  *scanner
	open   []frame // from the outside in
	parts  int
	fields int
}

// frame is an entity that has not ended. Only multiparts have a boundary.
type frame struct {
	part     *Part
	boundary string
	inside   bool // a boundary was seen: what stands now belongs to a part
	closed   bool // the last boundary was seen: what stands now is the epilogue
}

// waits reports whether a boundary of the entity may come.
func (f frame) waits() bool { return f.boundary != "" && !f.closed }

// match tells which open multipart has the boundary in l, and whether it is
// its last one. It is -1 for other lines.
func (p *parser) match(l line) (i int, last bool) {
	t, ok := bytes.CutPrefix(l.text, []byte("--"))
	if !ok || l.cut {
		return -1, false
	}
	t = bytes.TrimRight(t, " \t")
	ends, closes := bytes.CutSuffix(t, []byte("--"))
	for i := len(p.open) - 1; i >= 0; i-- {
		f := &p.open[i]
		if !f.waits() {
			continue
		}
		if string(t) == f.boundary {
			return i, false
		}
		if closes && string(ends) == f.boundary {
			return i, true
		}
	}
	return -1, false
}

// entity reads the header of the entity that begins at the next line and puts
// it on the stack, and below it the message that it holds.
func (p *parser) entity() (*Part, error) {
	if p.parts++; p.parts > p.limits.Parts {
		return nil, fmt.Errorf("more than %d parts: %w", p.limits.Parts, ErrLimit)
	}
	if len(p.open) > p.limits.Depth {
		return nil, fmt.Errorf("more than %d levels: %w", p.limits.Depth, ErrLimit)
	}
	start := p.lines.pos()
	header, body, err := p.header(func(l line) bool { i, _ := p.match(l); return i >= 0 })
	if err != nil {
		return nil, err
	}
	part := &Part{Header: header, Whole: Span{Start: start}, Body: Span{Start: body}}
	if err := p.describe(part); err != nil {
		return nil, err
	}
	f := frame{part: part}
	if strings.HasPrefix(part.Type, "multipart/") {
		if b := part.Params["boundary"]; isBoundary(b) {
			f.boundary = b
		}
	}
	p.open = append(p.open, f)
	if part.Type == "message/rfc822" && (part.Encoding == "7bit" || part.Encoding == "8bit" || part.Encoding == "binary") {
		inner, err := p.entity()
		if err != nil {
			return nil, err
		}
		part.Parts = []*Part{inner}
	}
	return part, nil
}

// isBoundary reports whether b is a boundary of RFC 2046 §5.1.1.
func isBoundary(b string) bool {
	for i := range len(b) {
		switch c := b[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case strings.IndexByte("'()+_,-./:=? ", c) < 0:
			return false
		}
	}
	return b != "" && len(b) <= 70 && b[len(b)-1] != ' '
}

// body reads lines while a boundary may come, and opens and ends parts there.
func (p *parser) body() error {
	for {
		if !slices.ContainsFunc(p.open, frame.waits) {
			p.end(0, p.src.Size())
			return nil
		}
		l, ok, err := p.lines.next(lineHead)
		if err != nil {
			return err
		}
		if !ok {
			p.end(0, p.lines.pos())
			return nil
		}
		i, last := p.match(l)
		if i < 0 {
			continue
		}
		f := &p.open[i]
		// The line end before a boundary belongs to it.
		before := max(l.Start-int64(l.prior), f.part.Whole.Start)
		if !f.inside {
			f.part.Preamble = Span{f.part.Body.Start, max(f.part.Body.Start, before)}
		}
		p.end(i+1, before)
		f = &p.open[i]
		f.inside = true
		if last {
			f.closed = true
			f.part.Epilogue.Start = l.End
			continue
		}
		part, err := p.entity()
		if err != nil {
			return err
		}
		f = &p.open[i]
		f.part.Parts = append(f.part.Parts, part)
	}
}

// end ends every open entity from the i-th inwards at byte at, or where the
// i-th begins, when the boundary followed another one at once.
func (p *parser) end(i int, at int64) {
	if i < len(p.open) {
		at = max(at, p.open[i].part.Whole.Start)
	}
	for _, f := range p.open[i:] {
		part := f.part
		part.Whole = Span{min(part.Whole.Start, at), at}
		part.Body = Span{min(part.Body.Start, at), at}
		if strings.HasPrefix(part.Type, "multipart/") {
			if !f.inside {
				part.Preamble = part.Body // a multipart without parts
			}
			if !f.closed {
				part.Epilogue.Start = at
			}
			part.Epilogue = Span{min(part.Epilogue.Start, at), at}
		}
		for j := range part.Header { // a header that a boundary cut off
			h := &part.Header[j]
			h.Whole.End = min(h.Whole.End, at)
			h.Value.End = min(h.Value.End, at)
		}
	}
	p.open = p.open[:i]
}

// describe reads type, parameters and encoding.
func (p *parser) describe(part *Part) error {
	part.Type, part.Encoding = "text/plain", "7bit"
	if n := len(p.open); n > 0 && p.open[n-1].part.Type == "multipart/digest" {
		part.Type = "message/rfc822" // RFC 2046 §5.1.5
	}
	switch fields := all(part.Header, "Content-Type"); len(fields) {
	case 0:
	case 1:
		v, err := value(p.src, fields[0])
		if err != nil {
			return err
		}
		part.Type, part.Params = contentType(v)
	default:
		part.Type = "application/octet-stream" // which one counts is anybody's guess
	}
	switch fields := all(part.Header, "Content-Transfer-Encoding"); len(fields) {
	case 0:
	case 1:
		v, err := value(p.src, fields[0])
		if err != nil {
			return err
		}
		part.Encoding = cmp.Or(strings.ToLower(strings.TrimSpace(stripComments(v))), "7bit")
	default:
		part.Encoding = "unknown"
	}
	return nil
}

// SectionReader reads the bytes of s.
func SectionReader(src Source, s Span) *io.SectionReader {
	return io.NewSectionReader(src, s.Start, s.Len())
}

// Len is how many bytes WriteTo writes.
func (m *Message) Len() int64 {
	n := int64(len(m.Top)) + m.Source.Size()
	for _, d := range m.Drop {
		n -= d.Len()
	}
	return n
}

// WriteTo writes Top, then the source without Drop.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(m.Top)
	written, at := int64(n), int64(0)
	for _, d := range append(m.Drop[:len(m.Drop):len(m.Drop)], Span{m.Source.Size(), m.Source.Size()}) {
		if err != nil {
			break
		}
		var n int64
		n, err = Copy(w, SectionReader(m.Source, Span{at, max(at, d.Start)}))
		written, at = written+n, max(at, d.End)
	}
	if err != nil {
		return written, fmt.Errorf("write mail: %w", err)
	}
	return written, nil
}
