package message

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// maxWord is the longest encoded word that is decoded, in bytes. Longer ones
// than the 75 of RFC 2047 §2 are met.
const maxWord = 4 << 10

// DecodeWords decodes the encoded words of s (RFC 2047 §2) into UTF-8. White
// space between two of them goes. Words in a charset that nobody knows stay as
// they are; those that are broken are decoded as far as lenient programs do,
// since what is hidden from us may be shown to a reader. Words can hide
// control characters and line ends: whoever prints the result has to mind.
func DecodeWords(s string) string {
	var b strings.Builder
	between := 0 // what of s comes before the next word and behind the last
	decoded := false
	for i := 0; i < len(s); {
		text, n := decodeWord(s[i:min(len(s), i+maxWord)])
		if n == 0 {
			i++
			continue
		}
		if gap := s[between:i]; !decoded || strings.Trim(gap, " \t\r\n") != "" {
			b.WriteString(gap)
		}
		b.WriteString(text)
		i += n
		between, decoded = i, true
	}
	if !decoded {
		return s
	}
	return b.String() + s[between:]
}

// decodeWord decodes the encoded word that s begins with, which is n bytes
// long. It is 0 where there is none. A language may follow the charset
// (RFC 2231 §5).
func decodeWord(s string) (text string, n int) {
	rest, ok := strings.CutPrefix(s, "=?")
	if !ok {
		return "", 0
	}
	charset, rest, _ := strings.Cut(rest, "?")
	charset, _, _ = strings.Cut(charset, "*")
	encoding, rest, _ := strings.Cut(rest, "?")
	inner, rest, ok := strings.Cut(rest, "?=")
	if !ok || charset == "" {
		return "", 0
	}
	var raw []byte
	switch encoding {
	case "q", "Q":
		raw = unescape(strings.ReplaceAll(inner, "_", " "), '=')
	case "b", "B":
		var kept bytes.Buffer
		alphabet{&kept}.Write([]byte(inner))
		for piece := range bytes.SplitSeq(kept.Bytes(), []byte("=")) { // padding inside is met, too
			part, _ := base64.RawStdEncoding.AppendDecode(nil, piece)
			raw = append(raw, part...)
		}
	default:
		return "", 0
	}
	if text, ok = toUTF8(charset, raw); !ok {
		return "", 0
	}
	return text, len(s) - len(rest)
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
