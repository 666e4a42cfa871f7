package cms

import (
	"bufio"
	"compress/zlib"
	"encoding/asn1"
	"fmt"
	"io"

	"postern/filter/cms/ber"
)

var oidZlib = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 3, 8}

// What one compressed byte may become: text reaches 20, and bombs 1000.
const (
	maxRatio      = 200
	freeInflation = 1 << 20 // bytes that are not held against the ratio
)

// Decompress writes the content of CompressedData (RFC 3274) to w, at most max
// bytes of it, and at most 200 for each compressed one beyond the first MiB:
// more is ErrLimit. What was written counts only when there is no error.
func Decompress(r io.Reader, w io.Writer, max int64) error {
	if err := decompress(ber.NewReader(r), w, max); err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	return nil
}

func decompress(r *ber.Reader, w io.Writer, max int64) error {
	oid, err := readContentInfo(r)
	if err != nil {
		return err
	}
	if typeOf(oid) != TypeCompressed {
		return malformed("content type " + oid.String())
	}
	if err := enter(r, ber.Universal, ber.Sequence); err != nil { // CompressedData, RFC 3274 §1.1
		return err
	}
	if v, err := readVersion(r); err != nil {
		return err
	} else if v != 0 {
		return malformed("version")
	}
	switch a, err := nextAlgorithm(r); {
	case err != nil:
		return err
	case !a.oid.Equal(oidZlib):
		return weak("compression %s", a.oid)
	}
	if err := enter(r, ber.Universal, ber.Sequence); err != nil {
		return err
	}
	switch oid, err := readOID(r); {
	case err != nil:
		return err
	case !oid.Equal(oidData): // RFC 8551 §3.6
		return malformed("compressed content of type " + oid.String())
	}
	if err := enter(r, ber.Context, 0); err != nil {
		return err
	}
	if err := expect(r, ber.Universal, ber.OctetString); err != nil {
		return err
	}
	if err := inflate(r.Octets(), w, max); err != nil {
		return err
	}
	for range 3 { // [0], EncapsulatedContentInfo, CompressedData
		if err := r.Leave(); err != nil {
			return err
		}
	}
	return endContentInfo(r)
}

// source counts what is read through it, and keeps the error that ended that.
type source struct {
	io.Reader
	n   int64
	err error
}

// Read implements io.Reader.
func (c *source) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if err != io.EOF {
		c.err = err
	}
	return n, err
}

// meter passes on what it is given, within the limits of Decompress.
type meter struct {
	io.Writer
	in      *source
	n, max  int64
	written error
}

// Write implements io.Writer.
func (m *meter) Write(p []byte) (n int, err error) {
	m.n += int64(len(p))
	if m.n > m.max || m.n > freeInflation+maxRatio*m.in.n {
		m.written = fmt.Errorf("content of %d bytes out of %d: %w", m.n, m.in.n, ErrLimit)
		return 0, m.written
	}
	n, m.written = m.Writer.Write(p)
	return n, m.written
}

func inflate(r io.Reader, w io.Writer, max int64) error {
	in := &source{Reader: r}
	out := &meter{Writer: w, in: in, max: max}
	buffered := bufio.NewReader(in)
	z, err := zlib.NewReader(buffered)
	if err == nil {
		_, err = io.Copy(out, z)
	}
	if err == nil {
		if _, err = buffered.Peek(1); err == io.EOF {
			return nil
		}
		err = malformed("more than the compressed content")
	}
	switch {
	case in.err != nil:
		return in.err
	case out.written != nil:
		return out.written
	}
	return fmt.Errorf("%w: %w", ErrForm, err) // of zlib
}
