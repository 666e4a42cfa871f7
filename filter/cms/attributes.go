package cms

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Signed attributes beside those of cms.go.
var (
	oidSigningTime         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}         // RFC 5652 §11.3
	oidCapabilities        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 15}        // RFC 8551 §2.5.2
	oidEncryptTo           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 11} // RFC 8551 §2.5.3
	oidAlgorithmProtection = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 52}        // RFC 6211 §2
)

const maxAttributeCount = 64

var (
	context0 = cbasn1.Tag(0).ContextSpecific()
	context1 = cbasn1.Tag(1).ContextSpecific()
	context2 = cbasn1.Tag(2).ContextSpecific()
)

// attribute is an Attribute (RFC 5652 §5.3).
type attribute struct {
	oid    asn1.ObjectIdentifier
	values [][]byte // elements in DER
}

// parseAttributes takes the contents of a SET OF Attribute apart.
func parseAttributes(s cryptobyte.String) (all []attribute, err error) {
	for !s.Empty() {
		if len(all) == maxAttributeCount {
			return nil, fmt.Errorf("too many attributes: %w", ErrLimit)
		}
		var a attribute
		var seq, set cryptobyte.String
		if !s.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&a.oid) || !seq.ReadASN1(&set, cbasn1.SET) || !seq.Empty() {
			return nil, malformed("attribute")
		}
		for !set.Empty() {
			var value cryptobyte.String
			var tag cbasn1.Tag
			if !set.ReadAnyASN1Element(&value, &tag) {
				return nil, malformed("attribute")
			}
			a.values = append(a.values, value)
		}
		all = append(all, a)
	}
	return all, nil
}

// printAttributes is the SET OF Attribute in DER, which is what is signed
// (RFC 5652 §5.4): members of sets in the order of their encodings (X.690 §11.6).
func printAttributes(all []attribute) ([]byte, error) {
	members := make([][]byte, 0, len(all))
	for _, a := range all {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(a.oid)
			addSet(b, slices.Clone(a.values))
		})
		member, err := b.Bytes()
		if err != nil {
			return nil, fmt.Errorf("print attribute %s: %w", a.oid, err)
		}
		members = append(members, member)
	}
	var b cryptobyte.Builder
	addSet(&b, members)
	return b.Bytes()
}

func addSet(b *cryptobyte.Builder, members [][]byte) {
	slices.SortFunc(members, bytes.Compare)
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		for _, m := range members {
			b.AddBytes(m)
		}
	})
}

// readAttributes reads signed attributes, tagged as they are in the message.
// What is wrong with one of them is a fault of the signature, not of the message.
func (s *Signer) readAttributes(der []byte) error {
	in := cryptobyte.String(der)
	if !in.ReadASN1(&in, context0.Constructed()) {
		return malformed("signed attributes")
	}
	all, err := parseAttributes(in)
	if err != nil {
		return err
	}
	if s.attributes, err = printAttributes(all); err != nil {
		return err
	}
	one := func(oid asn1.ObjectIdentifier, must bool, read func(cryptobyte.String) bool) {
		n := 0
		for _, a := range all {
			if !a.oid.Equal(oid) {
				continue
			}
			if n++; n > 1 || len(a.values) != 1 || !read(a.values[0]) {
				s.fail("attribute " + oid.String() + " is wrong")
			}
		}
		if must && n == 0 {
			s.fail("attribute " + oid.String() + " is missing")
		}
	}
	one(oidContentType, true, func(v cryptobyte.String) bool { // RFC 5652 §11.1
		return v.ReadASN1ObjectIdentifier(&s.contentType) && v.Empty()
	})
	one(oidMessageDigest, true, func(v cryptobyte.String) bool { // RFC 5652 §11.2
		return v.ReadASN1((*cryptobyte.String)(&s.messageDigest), cbasn1.OCTET_STRING) && v.Empty()
	})
	one(oidSigningTime, false, func(v cryptobyte.String) (ok bool) {
		s.SigningTime, ok = readTime(v)
		return ok
	})
	one(oidAlgorithmProtection, false, s.protected)
	// The rest are hints, and one that can't be read is none.
	for _, a := range all {
		if len(a.values) != 1 {
			continue
		}
		switch {
		case a.oid.Equal(oidCapabilities) && s.Capabilities == nil:
			s.Capabilities, _ = ParseCapabilities(a.values[0])
		case a.oid.Equal(oidEncryptTo) && s.EncryptTo == nil:
			s.EncryptTo = readEncryptTo(a.values[0])
		}
	}
	return nil
}

// readTime reads a Time (RFC 5652 §11.3).
func readTime(s cryptobyte.String) (t time.Time, ok bool) {
	if s.PeekASN1Tag(cbasn1.UTCTime) {
		ok = s.ReadASN1UTCTime(&t)
	} else {
		ok = s.ReadASN1GeneralizedTime(&t)
	}
	return t.UTC(), ok && s.Empty()
}

// addTime prints a Time: UTCTime up to 2049 (RFC 5652 §11.3).
func addTime(b *cryptobyte.Builder, t time.Time) {
	t = t.UTC()
	if y := t.Year(); y >= 1950 && y < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// protected reads a CMSAlgorithmProtection (RFC 6211 §2) and compares it.
func (s *Signer) protected(v cryptobyte.String) bool {
	var digest, signature algorithm
	return v.ReadASN1(&v, cbasn1.SEQUENCE) && readAlgorithm(&v, &digest) &&
		readTaggedAlgorithm(&v, &signature, context1.Constructed()) && v.Empty() &&
		digest.equal(s.digest) && signature.equal(s.signature)
}

// equal takes absent parameters for NULL (RFC 6211 §3).
func (a algorithm) equal(o algorithm) bool {
	return a.oid.Equal(o.oid) && (bytes.Equal(a.params, o.params) || a.bare() && o.bare())
}

// readEncryptTo reads an SMIMEEncryptionKeyPreference (RFC 8551 §2.5.3), or gives nil.
func readEncryptTo(v cryptobyte.String) *CertID {
	id := &CertID{}
	var in cryptobyte.String
	var tag cbasn1.Tag
	if !v.ReadAnyASN1(&in, &tag) || !v.Empty() {
		return nil
	}
	ok := true
	switch tag {
	case context0.Constructed():
		ok = id.readIssuerAndSerial(in)
	case context1.Constructed(): // RecipientKeyIdentifier; what else is in it says nothing of the key
		ok = in.ReadASN1((*cryptobyte.String)(&id.KeyID), cbasn1.OCTET_STRING)
	case context2:
		id.KeyID = in
	default:
		ok = false
	}
	if !ok {
		return nil
	}
	return id
}
