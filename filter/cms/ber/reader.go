package ber

import (
	"bufio"
	"errors"
	"io"
	"math"
)

const (
	maxDepth    = 24
	maxElements = 1 << 18
	perElement  = 16 // bytes that allow one element more
	bufferSize  = 4 << 10
)

// frame is an element that is open.
type frame struct {
	end        int64 // where the stream must stand at its end, or of what surrounds it when it is indefinite
	indefinite bool
	ended      bool // its end of contents was read
}

// header is the element that Next shows.
type header struct {
	tag    Tag
	length int64 // Indefinite, or of its contents
}

// Reader pulls elements. An error of the stream or of its syntax is final: all
// that is called later gives it again.
type Reader struct {
	r        *bufio.Reader
	at       int64 // bytes read
	began    int64 // where the element of next begins
	elements int64
	err      error

	open    [maxDepth]frame
	depth   int
	next    header // valid when shown
	shown   bool
	reading bool // the Reader of Octets is not at its end
}

// NewReader reads the elements of r. It may read ahead.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, bufferSize)}
}

// fail keeps an error.
func (r *Reader) fail(err error) error {
	if r.err == nil {
		r.err = err
	}
	return r.err
}

// cut is a read error, of which the end of the stream is one of syntax here.
func (r *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = syntax("cut off")
	}
	return r.fail(err)
}

// end is where the innermost open element ends at the latest.
func (r *Reader) end() int64 {
	if r.depth == 0 {
		return math.MaxInt64
	}
	return r.open[r.depth-1].end
}

// octet reads one byte of a header.
func (r *Reader) octet() (byte, error) {
	if r.at >= r.end() {
		return 0, r.fail(syntax("longer than what surrounds it"))
	}
	b, err := r.r.ReadByte()
	if err != nil {
		return 0, r.cut(err)
	}
	r.at++
	return b, nil
}

// Next shows the header of the next element of the one that is open, or of the
// stream, and io.EOF at its end. It shows the same one again until Enter, Skip,
// DER or Octets takes it.
func (r *Reader) Next() (Tag, error) {
	switch {
	case r.err != nil:
		return Tag{}, r.err
	case r.reading:
		return Tag{}, r.fail(syntax("octets are not read to their end"))
	case r.shown:
		return r.next.tag, nil
	}
	indefinite := false
	if r.depth == 0 {
		if _, err := r.r.Peek(1); err != nil {
			if err == io.EOF {
				return Tag{}, io.EOF
			}
			return Tag{}, r.fail(err)
		}
	} else {
		f := &r.open[r.depth-1]
		if f.ended || !f.indefinite && r.at == f.end {
			return Tag{}, io.EOF
		}
		indefinite = f.indefinite
	}
	r.began = r.at
	h, err := r.header()
	if err != nil {
		return Tag{}, err
	}
	if indefinite && h == (header{}) && r.at-r.began == 2 { // X.690 §8.1.5
		r.open[r.depth-1].ended = true
		return Tag{}, io.EOF
	}
	if err := h.tag.check(); err != nil {
		return Tag{}, r.fail(err)
	}
	if h.length == Indefinite && !h.tag.Constructed { // X.690 §8.1.3.2
		return Tag{}, r.fail(syntax("primitive without a length"))
	}
	if h.length > r.end()-r.at {
		return Tag{}, r.fail(syntax("longer than what surrounds it"))
	}
	if r.elements++; r.elements > maxElements+r.at/perElement {
		return Tag{}, r.fail(limit("too many elements"))
	}
	r.next, r.shown = h, true
	return h.tag, nil
}

// header reads identifier and length octets.
func (r *Reader) header() (h header, err error) {
	b, err := r.octet()
	if err != nil {
		return h, err
	}
	h.tag = Tag{Class: b >> 6, Number: uint32(b & 31), Constructed: b&0x20 != 0}
	if h.tag.Number == 31 { // X.690 §8.1.2.4
		if h.tag.Number, err = r.longTag(); err != nil {
			return h, err
		}
	}
	if b, err = r.octet(); err != nil {
		return h, err
	}
	switch {
	case b < 0x80:
		h.length = int64(b)
		return h, nil
	case b == 0x80:
		h.length = Indefinite
		return h, nil
	case b == 0xff: // X.690 §8.1.3.5 c
		return h, r.fail(syntax("reserved length"))
	}
	for range b & 0x7f {
		if b, err = r.octet(); err != nil {
			return h, err
		}
		if h.length>>(63-8) != 0 {
			return h, r.fail(syntax("length of more than 63 bits"))
		}
		h.length = h.length<<8 | int64(b)
	}
	return h, nil
}

func (r *Reader) longTag() (uint32, error) {
	var n uint32
	for first := true; ; first = false {
		b, err := r.octet()
		if err != nil {
			return 0, err
		}
		if first && b == 0x80 { // X.690 §8.1.2.4.2 c
			return 0, r.fail(syntax("tag with leading zeros"))
		}
		if n>>(31-7) != 0 {
			return 0, r.fail(syntax("tag of more than 31 bits"))
		}
		n = n<<7 | uint32(b&0x7f)
		if b&0x80 == 0 {
			break
		}
	}
	if n < 31 { // X.690 §8.1.2.2
		return 0, r.fail(syntax("short tag in the long form"))
	}
	return n, nil
}

// take is the element that Next shows, which is taken by that.
func (r *Reader) take() (header, error) {
	_, err := r.Next()
	if err == io.EOF {
		err = r.fail(syntax("nothing is there"))
	}
	if err != nil {
		return header{}, err
	}
	r.shown = false
	return r.next, nil
}

// Enter goes into the constructed element that Next shows.
func (r *Reader) Enter() error {
	h, err := r.take()
	if err != nil {
		return err
	}
	return r.push(h)
}

func (r *Reader) push(h header) error {
	if !h.tag.Constructed {
		return r.fail(syntax("enter a primitive element"))
	}
	if r.depth == maxDepth {
		return r.fail(limit("too deep"))
	}
	f := frame{end: r.end(), indefinite: h.length == Indefinite}
	if !f.indefinite {
		f.end = r.at + h.length
	}
	r.open[r.depth] = f
	r.depth++
	return nil
}

// Leave goes out of the element that Enter went into. What was not read of it
// is ErrSyntax: a caller that wants to ignore elements has to skip them.
func (r *Reader) Leave() error {
	switch _, err := r.Next(); {
	case err == nil:
		return r.fail(syntax("more than expected"))
	case err != io.EOF:
		return err
	case r.depth == 0:
		return r.fail(syntax("leave without enter"))
	}
	r.depth--
	return nil
}

// End is ErrSyntax if anything follows what was read.
func (r *Reader) End() error {
	switch _, err := r.Next(); {
	case err == nil:
		return r.fail(syntax("more than expected"))
	case err != io.EOF:
		return err
	case r.depth > 0:
		return r.fail(syntax("end without leave"))
	}
	return nil
}

// Skip goes past the element that Next shows.
func (r *Reader) Skip() error {
	h, err := r.take()
	if err != nil {
		return err
	}
	if h.length != Indefinite {
		return r.discard(h.length)
	}
	base := r.depth
	if err := r.push(h); err != nil {
		return err
	}
	for r.depth > base {
		_, err := r.Next()
		if err == io.EOF {
			r.depth--
			continue
		}
		if err != nil {
			return err
		}
		r.shown = false
		if r.next.length != Indefinite {
			err = r.discard(r.next.length)
		} else {
			err = r.push(r.next)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) discard(n int64) error {
	for n > 0 {
		d, err := r.r.Discard(int(min(n, 1<<30)))
		r.at += int64(d)
		n -= int64(d)
		if err != nil {
			return r.cut(err)
		}
	}
	return nil
}
