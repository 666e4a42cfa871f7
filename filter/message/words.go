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

// DecodeWords decodes the encoded words of s (RFC 2047 §2) into UTF-8. White
// space between two of them goes. Words in a charset that nobody knows, or
// that are broken, stay as they are, and so does what is longer than 64 KiB.
// Words can hide control characters and line ends: whoever prints the result
// has to mind.
func DecodeWords(s string) string {
	if len(s) > maxWords {
		return s
	}
	d := mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		e, err := ianaindex.MIME.Encoding(charset)
		if err != nil || e == nil {
			return nil, fmt.Errorf("charset %.40q is not known", charset)
		}
		return e.NewDecoder().Reader(r), nil
	}}
	var b strings.Builder
	between := 0 // what of s comes before the next word and behind the last
	decoded := false
	for i := 0; i < len(s); {
		n := wordLen(s[i:])
		if n == 0 {
			i++
			continue
		}
		text, err := d.Decode(s[i : i+n])
		if err != nil {
			i++
			continue
		}
		if gap := s[between:i]; !decoded || strings.Trim(gap, " \t\r\n") != "" {
			b.WriteString(gap)
		}
		b.WriteString(strings.ToValidUTF8(text, "\uFFFD"))
		i += n
		between, decoded = i, true
	}
	if !decoded {
		return s
	}
	return b.String() + s[between:]
}

// wordLen is the length of the encoded word that s begins with, or 0. Longer
// ones than the 75 bytes of the standard are met.
func wordLen(s string) int {
	const longest = 1024
	if !strings.HasPrefix(s, "=?") {
		return 0
	}
	s = s[:min(len(s), longest)]
	at := 2
	for range 2 { // behind the charset, and the encoding
		n := strings.IndexByte(s[at:], '?')
		if n < 0 {
			return 0
		}
		at += n + 1
	}
	n := strings.Index(s[at:], "?=")
	if n < 0 {
		return 0
	}
	return at + n + 2
}

// asciiField gives a field in which words with bytes above 127 are encoded
// words, inside of quotes too, as mail programs have long read them. Bytes
// that are no UTF-8 are of an unknown charset (RFC 1428 §3).
func asciiField(field []byte) []byte {
	var out bytes.Buffer
	for {
		from := bytes.IndexFunc(field, func(r rune) bool { return r >= 0x80 })
		if from < 0 {
			break
		}
		for from > 0 && isPlain(field[from-1]) {
			from--
		}
		out.Write(field[:from])
		field = field[from:]
		to := runLen(field)
		charset := "utf-8"
		if !bytes.Equal(bytes.ToValidUTF8(field[:to], nil), field[:to]) {
			charset = "unknown-8bit"
		}
		for piece := bytes.Join(bytes.FieldsFunc(field[:to], isLineEnd), nil); len(piece) > 0; { // 75 characters at most, RFC 2047 §2
			n := min(15, len(piece))
			for charset == "utf-8" && n < len(piece) && piece[n]&0xc0 == 0x80 {
				n--
			}
			fmt.Fprintf(&out, "=?%s?q?%s?=", charset, hexed(piece[:n]))
			if piece = piece[n:]; len(piece) > 0 {
				out.WriteString("\r\n ")
			}
		}
		if field = field[to:]; len(field) > 0 && isBlank(field[0]) {
			out.WriteString("\r\n") // encoding made the line longer
		}
	}
	out.Write(field)
	return out.Bytes()
}

// runLen is the length of what becomes encoded words together: words with
// bytes above 127 and the blanks and folds between them, which would be lost
// between two encoded words.
func runLen(b []byte) int {
	end, at, wide := 0, 0, false
	for at < len(b) {
		switch c := b[at]; {
		case c >= 0x80:
			wide = true
		case isBlank(c), c == '\r', c == '\n':
			if wide {
				end = at
			}
			wide = false
		case !isPlain(c):
			if wide {
				end = at
			}
			return end
		}
		at++
	}
	if wide {
		end = at
	}
	return end
}

func isLineEnd(r rune) bool { return r == '\r' || r == '\n' }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// isPlain reports whether c may be part of a word that becomes an encoded word.
func isPlain(c byte) bool { return c < 0x80 && c != '=' && c != '?' && isWordByte(c) }

func hexed(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, "=%02X", c)
	}
	return s.String()
}
