package message

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strings"

	"golang.org/x/text/encoding/ianaindex"
)

// maxWords is how much of a text is searched for encoded words, in bytes.
const maxWords = 64 << 10

// DecodeWords decodes the encoded words of s (RFC 2047 §2). Words in a
// charset that nobody knows, or that are broken, stay as they are. What
// stands beyond 64 KiB is not decoded.
func DecodeWords(s string) string {
	if len(s) > maxWords || !strings.Contains(s, "=?") {
		return s
	}
	d := mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		e, err := ianaindex.MIME.Encoding(charset)
		if err != nil || e == nil {
			return nil, fmt.Errorf("charset %.40q is not known", charset)
		}
		return e.NewDecoder().Reader(r), nil
	}}
	decoded, err := d.DecodeHeader(s)
	if err != nil {
		return s
	}
	return decoded
}

// asciiField gives a field in which bytes above 127 are encoded words, inside
// of quotes too, as mail programs have long read them. Bytes that are no
// UTF-8 are of an unknown charset (RFC 1428 §3).
func asciiField(field []byte) []byte {
	var out bytes.Buffer
	for len(field) > 0 {
		from := bytes.IndexFunc(field, func(r rune) bool { return r >= 0x80 })
		if from < 0 {
			break
		}
		to := from
		for to < len(field) && field[to] >= 0x80 {
			to++
		}
		out.Write(field[:from])
		charset := "utf-8"
		if !bytes.Equal(bytes.ToValidUTF8(field[from:to], nil), field[from:to]) {
			charset = "unknown-8bit"
		}
		for piece := field[from:to]; len(piece) > 0; { // 75 characters at most, RFC 2047 §2
			n := min(15, len(piece))
			for charset == "utf-8" && n < len(piece) && piece[n]&0xc0 == 0x80 {
				n--
			}
			fmt.Fprintf(&out, "=?%s?q?%s?=", charset, hexed(piece[:n]))
			if piece = piece[n:]; len(piece) > 0 {
				out.WriteString("\r\n ")
			}
		}
		field = field[to:]
	}
	out.Write(field)
	return out.Bytes()
}

func hexed(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, "=%02X", c)
	}
	return s.String()
}
