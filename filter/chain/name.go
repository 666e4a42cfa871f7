package chain

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/text/unicode/norm"
)

var (
	oidSAN             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEmailAddress    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	oidSmtpUTF8Mailbox = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 9}
)

// Tags of GeneralName (RFC 5280 §4.2.1.6).
const (
	tagOther     = 0
	tagMail      = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
)

// dn is a distinguished name in the form in which names are compared (RFC 5280
// §7.1): one string for each RDN, from the root down.
type dn []string

// key is the name as one string, equal for equal names only.
func (d dn) key() string {
	var b strings.Builder
	for _, rdn := range d {
		fmt.Fprintf(&b, "%d:%s", len(rdn), rdn)
	}
	return b.String()
}

// within reports whether d is base, or below it.
func (d dn) within(base dn) bool { return len(d) >= len(base) && slices.Equal(d[:len(base)], base) }

// verbatim reports whether d could not be read.
func (d dn) verbatim() bool { return len(d) == 1 && strings.HasPrefix(d[0], "raw:") }

// maxDN is the longest name that is normalised, in bytes. Longer ones are
// equal to the same bytes only.
const maxDN = 8 << 10

// canonical reads a DER Name. What is no Name is equal to the same bytes only.
func canonical(raw []byte) dn {
	verbatim := dn{"raw:" + string(raw)}
	input := cryptobyte.String(raw)
	var rdns cryptobyte.String
	if len(raw) > maxDN || !input.ReadASN1(&rdns, der.SEQUENCE) || !input.Empty() {
		return verbatim
	}
	d := dn{}
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, der.SET) {
			return verbatim
		}
		var values []string
		for !set.Empty() {
			oid, tag, value, ok := readAttribute(&set)
			if !ok {
				return verbatim
			}
			values = append(values, oid.String()+"="+foldValue(tag, value))
		}
		slices.Sort(values) // an RDN is a set
		rdn := strings.Builder{}
		for _, v := range values {
			fmt.Fprintf(&rdn, "%d:%s", len(v), v)
		}
		d = append(d, rdn.String())
	}
	return d
}

// readAttribute reads an AttributeTypeAndValue.
func readAttribute(set *cryptobyte.String) (oid asn1.ObjectIdentifier, tag der.Tag, value []byte, ok bool) {
	var pair, v cryptobyte.String
	ok = set.ReadASN1(&pair, der.SEQUENCE) && pair.ReadASN1ObjectIdentifier(&oid) && pair.ReadAnyASN1(&v, &tag) && pair.Empty()
	return oid, tag, v, ok
}

// foldValue normalises the value of an attribute: strings of whatever type are
// compared without case and with white space collapsed; anything else as it is.
func foldValue(tag der.Tag, value []byte) string {
	s, ok := text(tag, value)
	if !ok {
		return fmt.Sprintf("%d:%s", tag, value)
	}
	return "s:" + strings.Join(strings.Fields(strings.ToLower(norm.NFKC.String(s))), " ")
}

// text decodes the string types of X.520.
func text(tag der.Tag, value []byte) (string, bool) {
	switch tag {
	case der.UTF8String, der.PrintableString, der.IA5String, 18: // NumericString
		return string(value), utf8.Valid(value)
	case der.T61String: // Latin-1 by common practice
		runes := make([]rune, len(value))
		for i, b := range value {
			runes[i] = rune(b)
		}
		return string(runes), true
	case 30: // BMPString
		if len(value)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(value)/2)
		for i := range units {
			units[i] = uint16(value[2*i])<<8 | uint16(value[2*i+1])
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// generalName is one name of a certificate, or the base of one constraint.
type generalName struct {
	tag   int
	value string                // content bytes; of an otherName the value inside
	oid   asn1.ObjectIdentifier // type of an otherName
	dn    dn                    // of a directoryName
}

// readGeneralName reads one GeneralName.
func readGeneralName(s *cryptobyte.String) (g generalName, ok bool) {
	var content cryptobyte.String
	var tag der.Tag
	if !s.ReadAnyASN1(&content, &tag) || tag&0xc0 != 0x80 {
		return g, false
	}
	g.tag, g.value = int(tag&0x1f), string(content)
	switch g.tag {
	case tagOther:
		var value cryptobyte.String
		if !content.ReadASN1ObjectIdentifier(&g.oid) ||
			!content.ReadASN1(&value, der.Tag(0).ContextSpecific().Constructed()) || !content.Empty() {
			return g, false
		}
		g.value = string(value)
	case tagDirectory:
		g.dn = canonical(content)
	}
	return g, true
}

// readGeneralNames reads the content of GeneralNames.
func readGeneralNames(s cryptobyte.String) (all []generalName, err error) {
	for !s.Empty() {
		g, ok := readGeneralName(&s)
		if !ok {
			return nil, fmt.Errorf("read general names: not DER: %w", ErrForm)
		}
		if all = append(all, g); len(all) > maxNames {
			return nil, fmt.Errorf("read general names: more than %d: %w", maxNames, ErrForm)
		}
	}
	return all, nil
}

// extension is the content of an extension, nil if there is none.
func extension(c *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

// namesOf are all names of a certificate to which constraints apply: those of
// its subjectAltName; its subject, if it has one; and where the former has no
// mail name, the emailAddress attributes of the latter (RFC 5280 §4.2.1.10).
func namesOf(c *x509.Certificate) ([]generalName, error) {
	var all []generalName
	if raw := extension(c, oidSAN); raw != nil {
		input := cryptobyte.String(raw)
		var inner cryptobyte.String
		if !input.ReadASN1(&inner, der.SEQUENCE) || !input.Empty() {
			return nil, fmt.Errorf("read names of %s: not DER: %w", name(c), ErrForm)
		}
		var err error
		if all, err = readGeneralNames(inner); err != nil {
			return nil, fmt.Errorf("names of %s: %w", name(c), err)
		}
	}
	if !slices.ContainsFunc(all, generalName.isMail) {
		all = append(all, subjectMails(c)...)
	}
	if d := canonical(c.RawSubject); len(d) > 0 {
		all = append(all, generalName{tag: tagDirectory, dn: d})
	}
	return all, nil
}

func (g generalName) isMail() bool {
	return g.tag == tagMail || g.tag == tagOther && g.oid.Equal(oidSmtpUTF8Mailbox)
}

// subjectMails are the emailAddress attributes of the subject.
func subjectMails(c *x509.Certificate) (all []generalName) {
	input := cryptobyte.String(c.RawSubject)
	var rdns cryptobyte.String
	if len(c.RawSubject) > maxDN || !input.ReadASN1(&rdns, der.SEQUENCE) {
		return nil
	}
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, der.SET) {
			return all
		}
		for !set.Empty() {
			oid, tag, value, ok := readAttribute(&set)
			if !ok {
				return all
			}
			if s, ok := text(tag, value); ok && oid.Equal(oidEmailAddress) {
				all = append(all, generalName{tag: tagMail, value: s})
			}
		}
	}
	return all
}
