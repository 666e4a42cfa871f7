package message

import (
	"bufio"
	"bytes"
)

// CanonicalField is a header field of src in the form in which WriteCanonical
// writes those of inner parts: ASCII, without white space at line ends and
// without folded lines of nothing. The error is ErrSigned8Bit for a line of
// more than 998 bytes, or one of src.
func CanonicalField(src Source, f Field) ([]byte, error) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	if err := (canonical{src: src, w: w}).field(f); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
