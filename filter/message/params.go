package message

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/ianaindex"
)

// What is read of a Content-Type. The parameters of all parts of a mail stay in memory.
const (
	maxContentType = 4 << 10 // bytes
	maxParams      = 64
)

// contentType reads the value of a Content-Type field (RFC 2045 §5.1). What
// can't be read is text/plain, as RFC 2045 §5.2 has it. Values need not be
// quoted where they should be. A parameter has no value where readers differ:
// when it stands there twice, when something stands between the value and the
// next semicolon, and when it says how the body is built and is written as
// RFC 2231 has it. Of 64 parameters or more none has a value.
func contentType(v string) (string, map[string]string) {
	if len(v) > maxContentType {
		return "text/plain", nil
	}
	v = stripComments(v)
	t, rest, _ := strings.Cut(v, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	major, minor, ok := strings.Cut(t, "/")
	if !ok || !isToken(major) || !isToken(minor) {
		return "text/plain", nil
	}
	return t, parameters(rest)
}

// Disposition is what the header of a part says of how it is shown (RFC 2183 §2):
// "attachment", "inline" or another word, in lower case, with its parameters; ""
// where it says nothing, says it twice, or can't be read.
func Disposition(src Source, p *Part) (kind string, params map[string]string) {
	fields := all(p.Header, "Content-Disposition")
	if len(fields) != 1 || fields[0].Value.Len() > maxContentType {
		return "", nil
	}
	v, err := value(src, fields[0])
	if err != nil {
		return "", nil
	}
	kind, rest, _ := strings.Cut(stripComments(v), ";")
	if kind = strings.ToLower(strings.TrimSpace(kind)); !isToken(kind) {
		return "", nil
	}
	return kind, parameters(rest)
}

// parameters reads ";"-separated parameters, with those of RFC 2231.
func parameters(s string) map[string]string {
	plain, twice := map[string]string{}, map[string]bool{}
	for s != "" && len(plain) < maxParams {
		s = strings.TrimLeft(s, " \t;")
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		if i := strings.IndexByte(name, ';'); i >= 0 { // a word without a value
			s = s[i+1:]
			continue
		}
		name = strings.ToLower(strings.TrimSpace(name))
		rest = strings.TrimLeft(rest, " \t")
		var val string
		if strings.HasPrefix(rest, `"`) {
			n := quotedLen(rest)
			if n == 0 {
				break
			}
			val, s = unquote(rest[1:n-1]), rest[n:]
		} else {
			end := strings.IndexAny(rest, "; \t")
			if end < 0 {
				end = len(rest)
			}
			val, s = rest[:end], rest[end:]
			if strings.ContainsAny(val, `"\`) {
				twice[name] = true
			}
		}
		if s = strings.TrimLeft(s, " \t"); s != "" && s[0] != ';' {
			twice[name] = true // where the value ends is anybody's guess
			s = s[max(strings.IndexByte(s, ';'), 0):]
			if s[0] != ';' {
				s = ""
			}
		}
		if _, known := plain[name]; known || !isToken(name) {
			twice[name] = true
		}
		if base, _, ok := strings.Cut(name, "*"); ok && slices.Contains(structural, base) {
			twice[name], twice[base] = true, true
		}
		plain[name] = val
	}
	if len(plain) == maxParams {
		return nil
	}
	for name := range twice {
		delete(plain, name)
	}
	return extended(plain)
}

// structural are the parameters by which a body is read.
var structural = []string{"boundary", "protocol", "micalg", "smime-type"}

// extended joins continuations and decodes charsets (RFC 2231 §3, §4). Where
// there is a value without all that, it counts.
func extended(plain map[string]string) map[string]string {
	params, starts := map[string]string{}, map[string][]string{}
	for name, val := range plain {
		base, tail, ok := strings.Cut(name, "*")
		switch {
		case !ok:
			params[name] = val
		case base != "" && (tail == "" || tail == "0" || tail == "0*"):
			starts[base] = append(starts[base], name)
		}
	}
	for base, names := range starts {
		if _, known := params[base]; !known && len(names) == 1 {
			params[base] = joined(plain, base, names[0])
		}
	}
	return params
}

// joined is the value of base, whose first piece is the parameter first.
func joined(plain map[string]string, base, first string) string {
	charset, raw := "", []byte(plain[first])
	if strings.HasSuffix(first, "*") {
		charset, raw = initial(plain[first])
	}
	for i := 1; first != base+"*"; i++ {
		number := base + "*" + strconv.Itoa(i)
		if v, ok := plain[number+"*"]; ok {
			raw = append(raw, percent(v)...)
		} else if v, ok := plain[number]; ok {
			raw = append(raw, v...)
		} else {
			break
		}
	}
	return decodeCharset(charset, raw)
}

// initial reads charset'language'text.
func initial(v string) (charset string, raw []byte) {
	charset, rest, ok := strings.Cut(v, "'")
	if !ok {
		return "", percent(v)
	}
	_, text, ok := strings.Cut(rest, "'")
	if !ok {
		return "", percent(v)
	}
	return charset, percent(text)
}

// percent decodes %XX.
func percent(s string) []byte { return unescape(s, '%') }

// unescape decodes two hexadecimal digits behind mark; what is not that stays.
func unescape(s string, mark byte) []byte {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == mark && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(n))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return b
}

// decodeCharset gives UTF-8. What nobody knows stays as it is where it is valid.
func decodeCharset(charset string, raw []byte) string {
	if text, ok := toUTF8(charset, raw); ok {
		return text
	}
	return strings.ToValidUTF8(string(raw), string(utf8.RuneError))
}

// toUTF8 is false for a charset that nobody knows.
func toUTF8(charset string, raw []byte) (string, bool) {
	if !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		e, err := ianaindex.MIME.Encoding(charset)
		if err != nil || e == nil {
			return "", false
		}
		if raw, err = e.NewDecoder().Bytes(raw); err != nil {
			return "", false
		}
	}
	return strings.ToValidUTF8(string(raw), string(utf8.RuneError)), true
}

// unquote takes the backslashes of quoted pairs away.
func unquote(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isToken reports whether s is a token of RFC 2045 §5.1.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`()<>@,;:\"/[]?=`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// stripComments takes comments out (RFC 5322 §3.2.2), but not in quotes.
func stripComments(s string) string {
	if !strings.Contains(s, "(") {
		return s
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			if depth == 0 {
				b.WriteString(s[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			depth++
			continue
		case c == ')' && depth > 0:
			depth--
			continue
		}
		if depth == 0 {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
