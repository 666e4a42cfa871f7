package ber

import (
	"io"
)

// octets streams the contents of an OCTET STRING.
type octets struct {
	r    *Reader
	base int   // depth outside of the string
	left int64 // of the piece that is read
	err  error
}

// Octets streams the contents of the OCTET STRING that Next shows, which may
// be primitive or constructed, and be tagged implicitly. It must be read to
// io.EOF before the Reader is used again. Every error shows in reading.
func (r *Reader) Octets() io.Reader {
	o := &octets{r: r, base: r.depth}
	h, err := r.take()
	switch {
	case err != nil:
		o.err = err
	case h.tag.Class == Universal && h.tag.Number != OctetString:
		o.err = r.fail(syntax("no octet string"))
	case h.tag.Constructed:
		o.err = r.push(h)
	default:
		o.left = h.length
	}
	r.reading = true
	return o
}

// piece goes to the next piece that is not empty. Pieces are octet strings in
// their turn (X.690 §8.7.3.2).
func (o *octets) piece() error {
	r := o.r
	for o.err == nil && o.left == 0 {
		if r.depth == o.base {
			r.reading = false
			o.err = io.EOF
			break
		}
		r.reading = false
		tag, err := r.Next()
		r.reading = true
		switch {
		case err == io.EOF:
			r.depth--
			continue
		case err != nil:
			o.err = err
		case !tag.Is(Universal, OctetString):
			o.err = r.fail(syntax("piece of an octet string is none"))
		case tag.Constructed:
			r.shown = false
			o.err = r.push(r.next)
		default:
			r.shown = false
			o.left = r.next.length
		}
	}
	return o.err
}

// Read implements io.Reader.
func (o *octets) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := o.piece(); err != nil {
		return 0, err
	}
	n, err := o.r.r.Read(p[:min(int64(len(p)), o.left)])
	o.r.at += int64(n)
	o.left -= int64(n)
	if err != nil {
		o.err = o.r.cut(err)
		return n, o.err
	}
	return n, nil
}

// WriteTo implements io.WriterTo without a buffer of its own.
func (o *octets) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := o.piece(); err != nil {
			if err == io.EOF {
				return total, nil
			}
			return total, err
		}
		b := o.r.r
		if b.Buffered() == 0 {
			if _, err := b.Peek(1); err != nil {
				o.err = o.r.cut(err)
				return total, o.err
			}
		}
		p, _ := b.Peek(int(min(o.left, int64(b.Buffered()))))
		n, err := w.Write(p)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		b.Discard(n) // they are in the buffer
		o.r.at += int64(n)
		o.left -= int64(n)
		total += int64(n)
		if err != nil {
			o.err = o.r.fail(err)
			return total, err
		}
	}
}

// Chunks writes what it is given as OCTET STRINGs of one size, the pieces of a
// constructed one (X.690 §8.7.3). Close writes the last piece; who uses it
// writes the header before, and the end of contents behind.
type Chunks struct {
	w   io.Writer
	buf []byte // header of a full piece, then what waits
	err error
	pre int // length of that header
}

// NewChunks writes pieces of size bytes to w.
func NewChunks(w io.Writer, size int) *Chunks {
	c := &Chunks{w: w}
	c.buf = make([]byte, 0, size+8)
	c.buf = AppendHeader(c.buf, Tag{Number: OctetString}, int64(size))
	c.pre = len(c.buf)
	c.buf = c.buf[: c.pre : c.pre+size]
	return c
}

// Write implements io.Writer.
func (c *Chunks) Write(p []byte) (n int, err error) {
	for len(p) > 0 && c.err == nil {
		d := copy(c.buf[len(c.buf):cap(c.buf)], p)
		c.buf = c.buf[:len(c.buf)+d]
		p = p[d:]
		n += d
		if len(c.buf) == cap(c.buf) {
			_, c.err = c.w.Write(c.buf)
			c.buf = c.buf[:c.pre]
		}
	}
	return n, c.err
}

// Close writes the last, short piece. It does not close the writer below.
func (c *Chunks) Close() error {
	if c.err == nil && len(c.buf) > c.pre {
		last := c.buf[c.pre:]
		if _, c.err = c.w.Write(AppendHeader(nil, Tag{Number: OctetString}, int64(len(last)))); c.err == nil {
			_, c.err = c.w.Write(last)
		}
	}
	c.buf = c.buf[:c.pre]
	return c.err
}
