// Package authres prints the result fields that a delivered mail carries, and
// recognises those that only look like ours (RFC 8601 §5).
package authres

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"

	"postern/filter/message"
)

// namespace is ours: every field whose name begins so is written by us or removed.
const namespace = "postern-"

// Status is what Postern-Status says. Every value is a fixed word, or an
// address that was parsed strictly: nothing of a mail stands here raw.
type Status struct {
	Opened   string // formats, comma separated, "none" or "failed"
	Verified bool
	Signer   message.Address // zero: none
	Reason   string
	Carried  string // TLS version and cipher of the hop that brought the mail, or "clear"
	Trace    string
}

// Method is one result of RFC 8601 §2.2. Name, Result and Reason are words of
// ours; the values of properties may be anything.
type Method struct {
	Name, Result, Reason string
	Properties           []Property
}

// Property is a part of a mail that a result speaks of, as header.from.
type Property struct{ Name, Value string }

// Results is the text of Authentication-Results: our authserv-id, and what was
// found. What stands in it comes from mail, so that every value which is not a
// plain word is quoted, and what is not printable is left out.
func Results(id string, methods ...Method) string {
	if len(methods) == 0 {
		return id + "; none"
	}
	var b strings.Builder
	b.WriteString(id)
	for _, m := range methods {
		b.WriteString("; " + m.Name + "=" + m.Result)
		if m.Reason != "" {
			b.WriteString(` reason="` + m.Reason + `"`)
		}
		for _, p := range m.Properties {
			if p.Value != "" {
				b.WriteString(" " + p.Name + "=" + value(p.Value))
			}
		}
	}
	return b.String()
}

// value is a token of RFC 2045 §5.1, an address made by Word, or a quoted string.
func value(s string) string {
	plain := true
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		if strings.ContainsRune("()<>@,;:\\\"/[]?= ", r) && r != '@' {
			plain = false
		}
		return r
	}, s)
	if plain && s != "" {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Fields are Authentication-Results and Postern-Status, complete with CRLF.
// id is our authserv-id.
func (s Status) Fields(id string, methods ...Method) []byte {
	status := "v=1; opened=" + s.Opened + "; verified=" + s.verified() + "; signer=" + s.signer() +
		"; reason=" + s.Reason + "; carried=" + s.Carried + "; trace=" + s.Trace
	return append(message.FoldField("Authentication-Results", Results(id, methods...)), message.FoldField("Postern-Status", status)...)
}

func (s Status) verified() string {
	if s.Verified {
		return "yes"
	}
	return "no"
}

func (s Status) signer() string {
	if s.Signer.IsZero() {
		return "none"
	}
	return Word(s.Signer)
}

// Scan is what Postern-Scan says. Every value is a word of ours, or one of a
// scanner that holds nothing but letters, digits and "._-/:+".
type Scan struct {
	Whole   bool     // all scanners looked at the mail as it is delivered
	Verdict string   // clean, suspect, sealed or none
	By      []string // scanners that looked
	Found   []string
	Score   string // "6.1/15.0", or ""
	Reason  string // why not whole: sealed, too-big, away or skipped; or ""
	Trace   string
}

// Field is Postern-Scan, complete with CRLF.
func (s Scan) Field() []byte {
	none := func(v string) string {
		if v == "" {
			return "none"
		}
		return v
	}
	whole := "no"
	if s.Whole {
		whole = "yes"
	}
	return message.FoldField("Postern-Scan", "v=1; scanned="+whole+"; verdict="+s.Verdict+"; by="+none(strings.Join(s.By, ","))+
		"; found="+none(strings.Join(s.Found, ","))+"; score="+none(s.Score)+"; reason="+none(s.Reason)+"; trace="+s.Trace)
}

// Word prints an address as one word: the domain in A-labels, so that an
// ASCII mail stays one, and every character of the local part that would need
// quotes as %XX. A quoted local part may hold "; verified=yes", and not every
// reader of our fields knows quotes.
func Word(a message.Address) string {
	if d, err := idna.Lookup.ToASCII(a.Domain); err == nil {
		a.Domain = d
	}
	var b strings.Builder
	for i := range len(a.Local) {
		if c := a.Local[i]; c >= 0x80 || 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&'*+-/=?^_`{|}~.", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String() + "@" + a.Domain
}

// Foreign reports whether a received field must not pass: it stands in our
// namespace, or it is an Authentication-Results that names our authserv-id, or
// one whose authserv-id can't be read. name is taken in any case, with spaces
// before the colon, or disguised as an encoded word; value is unfolded.
func Foreign(name, value, id string) bool {
	name = strings.ToLower(strings.TrimSpace(message.DecodeWords(name)))
	if strings.HasPrefix(name, namespace) {
		return true
	}
	if name != "authentication-results" {
		return false
	}
	got, ok := servID(message.DecodeWords(value))
	return !ok || strings.EqualFold(strings.TrimSuffix(got, "."), strings.TrimSuffix(id, "."))
}

// servID reads the authserv-id of RFC 8601 §2.2: a token or a quoted string,
// with comments before it.
func servID(v string) (string, bool) {
	for {
		v = strings.TrimLeft(v, " \t\r\n")
		if !strings.HasPrefix(v, "(") {
			break
		}
		rest, ok := skipComment(v)
		if !ok {
			return "", false
		}
		v = rest
	}
	if strings.HasPrefix(v, `"`) {
		var b strings.Builder
		for i := 1; i < len(v); i++ {
			switch v[i] {
			case '"':
				return b.String(), true
			case '\\':
				if i++; i == len(v) {
					return "", false
				}
			}
			b.WriteByte(v[i])
		}
		return "", false
	}
	end := strings.IndexAny(v, " \t\r\n;(")
	if end < 0 {
		end = len(v)
	}
	return v[:end], end > 0
}

// skipComment drops the comment that v begins with (RFC 5322 §3.2.2).
func skipComment(v string) (string, bool) {
	depth := 0
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return v[i+1:], true
			}
		case '\\':
			i++
		}
	}
	return "", false
}
