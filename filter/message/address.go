package message

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// ErrAddress is text that is not exactly one address in the strict grammar.
var ErrAddress = errors.New("not an address")

// Limits of RFC 5321 §4.5.3.1, in bytes.
const (
	maxLocal   = 64
	maxDomain  = 255
	maxAddress = 254 // a path of 256 without its angle brackets
)

// Address is a mailbox as an envelope names it (RFC 5321 §4.1.2): Local
// without quotes and unescaped, Domain lower case and, where it is
// internationalised, in U-label form.
type Address struct{ Local, Domain string }

// ParseAddress reads one Mailbox of RFC 5321 §4.1.2 (with UTF-8 as RFC 6531
// §3.3 has it), without angle brackets, source route, comment or white space.
// What two readers could take differently is ErrAddress: there is one reading
// or none. It is the only parser of addresses; envelopes, header fields,
// certificates, rules and commands all end here.
func ParseAddress(s string) (Address, error) {
	bad := func(what string) (Address, error) {
		return Address{}, fmt.Errorf("address %.80q: %s: %w", s, what, ErrAddress)
	}
	if len(s) > 2*maxAddress || !utf8.ValidString(s) {
		return bad("too long, or not UTF-8")
	}
	local, domain, ok := splitLocal(s)
	switch {
	case !ok:
		return bad("local part")
	case local == "" || len(local) > maxLocal:
		return bad("length of the local part")
	case !norm.NFC.IsNormalString(local):
		return bad("local part in two spellings") // RFC 6532 §3.1
	}
	domain, ascii, ok := canonicalDomain(domain)
	if !ok {
		return bad("domain")
	}
	a := Address{local, domain}
	if len(ascii) > maxDomain || len(quoteLocal(local))+1+len(ascii) > maxAddress || len(a.String()) > maxAddress {
		return bad("too long")
	}
	return a, nil
}

// splitLocal takes the local part off, unquoted, and the at sign.
func splitLocal(s string) (local, domain string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		local, domain, ok = strings.Cut(s, "@")
		return local, domain, ok && isDotAtom(local)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			domain, ok = strings.CutPrefix(s[i+1:], "@")
			return b.String(), domain, ok && isText(b.String())
		case c == '\\':
			if i++; i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", false
			}
			b.WriteByte(s[i])
		case c < ' ' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// isText reports whether s has no characters that can't be seen.
func isText(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r >= 0x80 && !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S) {
			return false
		}
	}
	return true
}

// isDotAtom reports whether s is a Dot-string of RFC 5321 §4.1.2.
func isDotAtom(s string) bool {
	if s == "" || !isText(s) {
		return false
	}
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsAny(atom, ` "(),:;<>@[\]`) {
			return false
		}
	}
	return true
}

// profile is that of look-ups (RFC 5891 §5), strict about ASCII.
var profile = idna.New(idna.MapForLookup(), idna.StrictDomainName(true), idna.BidiRule(), idna.Transitional(false))

// canonicalDomain gives the form in which domains are kept, and that of DNS.
func canonicalDomain(s string) (name, ascii string, ok bool) {
	if inner, is := strings.CutPrefix(s, "["); is {
		inner, is = strings.CutSuffix(inner, "]")
		literal := inner
		v6 := len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:")
		if v6 {
			literal = inner[5:]
		}
		ip, err := netip.ParseAddr(literal)
		if !is || err != nil || ip.Zone() != "" || ip.Is6() != v6 {
			return "", "", false
		}
		if v6 {
			return "[IPv6:" + ip.String() + "]", "[IPv6:" + ip.String() + "]", true
		}
		return "[" + ip.String() + "]", "[" + ip.String() + "]", true
	}
	if s == "" || len(s) > maxDomain {
		return "", "", false
	}
	for _, r := range s { // the Kelvin sign is not a "k"
		if r >= 0x80 && unicode.ToLower(r) < 0x80 {
			return "", "", false
		}
	}
	lower := strings.ToLower(s)
	if isNumber(lower[strings.LastIndexByte(lower, '.')+1:]) {
		return "", "", false // some take 127.0.0.1 for the host of that number
	}
	plain := true
	for label := range strings.SplitSeq(lower, ".") {
		if label == "" {
			return "", "", false
		}
		plain = plain && isLDH(label) && !strings.HasPrefix(label, "xn--")
	}
	if plain {
		return lower, lower, true
	}
	// Full stops of other scripts would split labels for one reader only.
	if strings.ContainsAny(s, "。．｡") || !utf8.ValidString(s) {
		return "", "", false
	}
	ascii, err := profile.ToASCII(lower)
	if err != nil {
		return "", "", false
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if !isLDH(label) {
			return "", "", false
		}
	}
	if name, err = profile.ToUnicode(ascii); err != nil || !sameLabels(lower, name, ascii) {
		return "", "", false
	}
	if back, err := profile.ToASCII(name); err != nil || back != ascii || strings.ToLower(name) != name {
		return "", "", false // Cherokee has letters whose small forms are other labels
	}
	return name, ascii, true
}

// sameLabels reports whether each label of s is written as in name or as in
// ascii. What the mapping of IDNA had to change, such as full-width letters,
// is another name for readers that do not map.
func sameLabels(s, name, ascii string) bool {
	names, asciis := strings.Split(name, "."), strings.Split(ascii, ".")
	for i, label := range strings.Split(s, ".") {
		if i >= len(names) || i >= len(asciis) || label != names[i] && label != asciis[i] {
			return false
		}
	}
	return true
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isLDH reports whether label is letters, digits and inner hyphens (RFC 5890 §2.3.1).
func isLDH(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		if c := label[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// IsZero reports whether a is the null sender, or none at all.
func (a Address) IsZero() bool { return a == Address{} }

// Key is the form by which an address is found. RFC 5321 §2.4 leaves the case
// of local parts to their host, and says that nobody should rely on it; hosts
// that tell "Bob" from "bob" are not met, while certificates and rules are
// written in either. So ASCII letters are folded, and nothing else is: no
// sub-address, no dots.
func (a Address) Key() string {
	if a.IsZero() {
		return ""
	}
	folded := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, a.Local)
	return quoteLocal(folded) + "@" + a.Domain
}

// String prints a for an envelope, the local part quoted where it must be;
// ParseAddress reads it back.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return quoteLocal(a.Local) + "@" + a.Domain
}

// ASCII prints a for a hop without SMTPUTF8: the domain as A-labels. ok is
// false where the local part does not allow it (RFC 6531 §3.2).
func (a Address) ASCII() (s string, ok bool) {
	_, domain, ok := canonicalDomain(a.Domain)
	for i := range len(a.Local) {
		ok = ok && a.Local[i] < 0x80
	}
	return quoteLocal(a.Local) + "@" + domain, ok
}

func quoteLocal(s string) string {
	if isDotAtom(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
