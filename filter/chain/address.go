package chain

import (
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/message"
)

// maxAddresses bounds the addresses that one certificate speaks for.
const maxAddresses = 256

// Addresses are the mailboxes that a certificate names, in its order, each
// once: rfc822Name and SmtpUTF8Mailbox (RFC 9598) of its subjectAltName; only
// where there is none of these, emailAddress of its subject, as old
// certificates have it. What is no address in the strict grammar is none at
// all. Whether the certificate is to be believed is not looked at.
func Addresses(c *x509.Certificate) []message.Address {
	if len(c.Raw) > maxCert {
		return nil
	}
	names, err := namesOf(c)
	if err != nil {
		return nil
	}
	var all []message.Address
	for _, g := range names {
		if a, ok := g.mailbox(); ok && !slices.Contains(all, a) && len(all) < maxAddresses {
			all = append(all, a)
		}
	}
	return all
}

// mailbox is the address that a name holds. An rfc822Name is ASCII, and a
// SmtpUTF8Mailbox has a local part that is not (RFC 9598 §3): each address has
// one way to be written.
func (g generalName) mailbox() (message.Address, bool) {
	switch {
	case g.tag == tagMail:
		if !ascii(g.value) {
			return message.Address{}, false
		}
		a, err := message.ParseAddress(g.value)
		return a, err == nil
	case g.isMail():
		input := cryptobyte.String(g.value)
		var s cryptobyte.String
		if !input.ReadASN1(&s, der.UTF8String) || !input.Empty() {
			return message.Address{}, false
		}
		a, err := message.ParseAddress(string(s))
		return a, err == nil && !ascii(a.Local)
	}
	return message.Address{}, false
}

func ascii(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b >= 0x80 })
}
