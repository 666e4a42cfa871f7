package transport

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"postern/filter/message"
)

// terms are what MAIL and RCPT are read under.
type terms struct {
	domain     string // of <postmaster> (RFC 5321 §4.5.1)
	utf8       bool   // RCPT: the transaction has SMTPUTF8
	requireTLS bool   // REQUIRETLS was offered
	login      bool   // AUTH was offered
}

// parseMail reads what stands behind "MAIL " (RFC 5321 §4.1.1.2). Every
// parameter is known and right, or the command is refused.
func parseMail(arg string, t terms) (e Envelope, refused *Reply) {
	path, params, ok := parsePath(arg, "FROM:")
	if !ok {
		return e, &badMail
	}
	seen := map[string]bool{}
	for _, p := range params {
		name, value, given := strings.Cut(p, "=")
		name = strings.ToUpper(name)
		if seen[name] {
			return e, &badParameter
		}
		seen[name] = true
		good := true
		switch name {
		case "SIZE":
			n, err := strconv.ParseUint(value, 10, 63)
			e.Size, good = int64(n), err == nil && digits(value)
		case "BODY":
			e.Body = strings.ToUpper(value)
			if e.Body == "BINARYMIME" {
				return e, &otherParameter
			}
			good = e.Body == "7BIT" || e.Body == "8BITMIME"
		case "SMTPUTF8":
			e.UTF8, good = true, !given
		case "RET":
			e.Return = strings.ToUpper(value)
			good = e.Return == "FULL" || e.Return == "HDRS"
		case "ENVID":
			e.ID, good = value, len(value) <= 100 && xtext(value)
		case "AUTH": // whoever says it, the next hop is told nothing (RFC 4954 §5)
			if !t.login {
				return e, &otherParameter
			}
			good = value == "<>" || xtext(value)
		case "REQUIRETLS":
			if !t.requireTLS {
				return e, &otherParameter
			}
			e.RequireTLS, good = true, !given
		default:
			return e, &otherParameter
		}
		if !good {
			return e, &badParameter
		}
	}
	if path == "" {
		e.Null = true
		return e, nil
	}
	if !e.UTF8 && !ascii(path) {
		return e, &needUTF8
	}
	if e.From, ok = parseAddress(path); !ok {
		return e, &badSender
	}
	return e, nil
}

// parseRcpt reads what stands behind "RCPT " (RFC 5321 §4.1.1.3).
func parseRcpt(arg string, t terms) (r Recipient, refused *Reply) {
	path, params, ok := parsePath(arg, "TO:")
	if !ok {
		return r, &badRcpt
	}
	seen := map[string]bool{}
	for _, p := range params {
		name, value, _ := strings.Cut(p, "=")
		name = strings.ToUpper(name)
		if seen[name] {
			return r, &badParameter
		}
		seen[name] = true
		good := true
		switch name {
		case "NOTIFY":
			r.Notify, good = value, notify(value)
		case "ORCPT":
			r.Original, good = value, original(value, t.utf8)
		default:
			return r, &otherParameter
		}
		if !good {
			return r, &badParameter
		}
	}
	if strings.EqualFold(path, "postmaster") {
		path += "@" + t.domain
	}
	if !t.utf8 && !ascii(path) {
		return r, &needUTF8
	}
	if r.Address, ok = parseAddress(path); !ok {
		return r, &badRecipient
	}
	return r, nil
}

// parsePath takes the keyword, the path without its brackets and the
// parameters apart. A ">" inside quotes does not end the path.
func parsePath(arg, keyword string) (path string, params []string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", nil, false
	}
	// Spaces here are wrong, common, and mean nothing.
	s := strings.TrimLeft(arg[len(keyword):], " ")
	if s == "" || s[0] != '<' {
		return "", nil, false
	}
	end, quoted := 0, false
	for i := 1; i < len(s) && end == 0; i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '>' && !quoted:
			end = i
		}
	}
	if end == 0 {
		return "", nil, false
	}
	path, s = s[1:end], s[end+1:]
	if s == "" {
		return path, nil, true
	}
	if s[0] != ' ' {
		return "", nil, false
	}
	return path, strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), true
}

// parseAddress reads an address that has one meaning only: it prints back to
// itself, and no reader who forgets the quotes sees another path in it.
func parseAddress(s string) (message.Address, bool) {
	a, err := message.ParseAddress(s)
	if err != nil || !sound(a) {
		return message.Address{}, false
	}
	return a, true
}

func sound(a message.Address) bool {
	if a.Local == "" || a.Domain == "" || !utf8.ValidString(a.Local) {
		return false
	}
	for _, r := range a.Local {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || strings.ContainsRune("<>@", r) {
			return false
		}
	}
	again, err := message.ParseAddress(a.String())
	return err == nil && again == a
}

func notify(s string) bool {
	seen := map[string]bool{}
	for _, w := range strings.Split(strings.ToUpper(s), ",") {
		switch w {
		case "NEVER", "SUCCESS", "FAILURE", "DELAY":
		default:
			return false
		}
		if seen[w] {
			return false
		}
		seen[w] = true
	}
	return !seen["NEVER"] || len(seen) == 1
}

// original checks an ORCPT (RFC 3461 §4.2, RFC 6533 §3).
func original(s string, wide bool) bool {
	kind, value, ok := strings.Cut(s, ";")
	if !ok || kind == "" || value == "" || len(s) > 500 {
		return false
	}
	for _, c := range []byte(kind) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	if strings.EqualFold(kind, "utf-8") {
		return parameter(value) && (ascii(value) || wide)
	}
	return xtext(value)
}

// xtext is RFC 3461 §4: printable ASCII, "+" only before two hexadecimal digits.
func xtext(s string) bool {
	if s == "" || !parameter(s) || !ascii(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '+' {
			if i+2 >= len(s) || !hex(s[i+1]) || !hex(s[i+2]) {
				return false
			}
		}
	}
	return true
}

func hex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

// parameter is an esmtp-value (RFC 5321 §4.1.2, RFC 6531 §3.3): no control, space or "=".
func parameter(s string) bool {
	for _, r := range s {
		if r <= ' ' || r == '=' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return false
		}
	}
	return true
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 20
}

func ascii(s string) bool {
	for _, c := range []byte(s) {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// hello checks the name a client gives: of a host, or an address in brackets.
func hello(s string) bool {
	for _, c := range []byte(s) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_:[]", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= 255
}
