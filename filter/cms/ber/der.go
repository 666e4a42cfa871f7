package ber

import (
	"io"
	"slices"
)

// built is a constructed element of the output, whose length is not known before its end.
type built struct {
	head int // where its header goes
	tag  Tag
}

// printer lays an element out in DER.
type printer struct {
	*Reader
	out    []byte
	from   int64 // where the element began in the stream
	max    int
	stack  [maxDepth]built
	joined int // depth inside of the string whose pieces are put together, or 0
}

// DER gives the element that Next shows, header and all, with the lengths that
// DER wants (X.690 §10.1) and with strings in one piece (§10.2), so that
// x/crypto/cryptobyte can parse it. It has at most max bytes in the stream and
// as many in DER: more is ErrLimit. What else makes up DER is not looked at:
// values stay as they are, and members of a set where they are. A string
// with an implicit tag is not known for one, and keeps its pieces.
func (r *Reader) DER(max int) ([]byte, error) {
	h, err := r.take()
	if err != nil {
		return nil, err
	}
	p := printer{Reader: r, from: r.began, max: max}
	for base := r.depth; ; {
		if err := p.element(h); err != nil {
			return nil, err
		}
		for {
			if r.depth == base {
				if len(p.out) > max {
					return nil, r.fail(limit("too long"))
				}
				return p.out, nil
			}
			_, err := r.Next()
			if err == nil {
				break
			}
			if err != io.EOF {
				return nil, err
			}
			p.close()
		}
		h, r.shown = r.next, false
	}
}

// element prints a primitive element, or opens a constructed one.
func (p *printer) element(h header) error {
	if h.length > int64(p.max)-(p.at-p.from) {
		return p.fail(limit("too long"))
	}
	if p.joined > 0 {
		return p.piece(h)
	}
	if !h.tag.Constructed {
		p.out = AppendHeader(p.out, h.tag, h.length)
		return p.contents(h.length)
	}
	if err := p.push(h); err != nil {
		return err
	}
	p.stack[p.depth-1] = built{len(p.out), h.tag}
	if h.tag.isString() {
		p.joined = p.depth
		p.stack[p.depth-1].tag.Constructed = false
		if h.tag.Number == BitString {
			p.out = append(p.out, 0) // unused bits
		}
	}
	return nil
}

// close puts the header before the contents of the innermost element.
func (p *printer) close() {
	p.depth--
	if p.joined > 0 && p.joined <= p.depth {
		return
	}
	p.joined = 0
	b := p.stack[p.depth]
	var head [16]byte
	p.out = slices.Insert(p.out, b.head, AppendHeader(head[:0], b.tag, int64(len(p.out)-b.head))...)
}

// piece adds a piece of the string that is put together. Those of an OCTET
// STRING and of character strings are octet strings (X.690 §8.7.3.2, §8.23.6;
// some write the type of the whole), and those of a BIT STRING are bit strings,
// of which only the last may have unused bits (§8.6.4).
func (p *printer) piece(h header) error {
	whole, around := p.stack[p.joined-1], p.stack[p.depth-1].tag.Number
	if h.tag.Class != Universal || h.tag.Number != around && (h.tag.Number != OctetString || around == BitString) {
		return p.fail(syntax("piece of a string is none"))
	}
	if whole.tag.Number == BitString && p.out[whole.head] != 0 {
		return p.fail(syntax("piece behind unused bits"))
	}
	if h.tag.Constructed {
		if err := p.push(h); err != nil {
			return err
		}
		p.stack[p.depth-1].tag = h.tag
		return nil
	}
	if whole.tag.Number == BitString {
		if h.length == 0 {
			return p.fail(syntax("bit string without a first octet"))
		}
		unused, err := p.octet()
		if err != nil {
			return err
		}
		h.length--
		if unused > 7 || unused > 0 && h.length == 0 {
			return p.fail(syntax("unused bits in a bit string"))
		}
		p.out[whole.head] = unused
	}
	return p.contents(h.length)
}

// contents copies n bytes of the stream, and gives room for them as they come.
func (p *printer) contents(n int64) error {
	for n > 0 {
		if p.r.Buffered() == 0 {
			if _, err := p.r.Peek(1); err != nil {
				return p.cut(err)
			}
		}
		b, _ := p.r.Peek(int(min(n, int64(p.r.Buffered()))))
		p.out = append(p.out, b...)
		p.r.Discard(len(b)) // they are in the buffer
		p.at += int64(len(b))
		n -= int64(len(b))
	}
	return nil
}
