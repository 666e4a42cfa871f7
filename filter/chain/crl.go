package chain

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

var (
	oidDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidCRLNumber          = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason             = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate     = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDelta              = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint       = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey       = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// allReasons are the bits of ReasonFlags that a status must cover (RFC 5280
// §4.2.1.13), of which bit 0 is not used.
const allReasons = 0x1fe

// crl is a list of which only the head is decoded; its entries, which may be
// hundreds of thousands, are walked over where one is looked for.
type crl struct {
	*x509.RevocationList                   // without entries, and with a signature over something else
	tbs                  []byte            // that was signed
	entries              cryptobyte.String // the content of revokedCertificates
	issuer               string            // canonical
	base                 *big.Int          // of a delta CRL; else nil
	point                []generalName     // of the issuing distribution point
	users, authorities   bool              // only those are in scope
	reasons              int               // that it covers
	brought              bool              // with the mail
}

// readCRL reads the head of a list; ErrForm for what can't be used whoever
// asks: another version, unknown critical extensions, indirect lists.
func readCRL(raw []byte) (*crl, error) {
	bad := fmt.Errorf("read revocation list: not as it must be: %w", ErrForm)
	if len(raw) > maxCRL {
		return nil, bad
	}
	input := cryptobyte.String(raw)
	var outer, tbsElement, tbs, tail, entries cryptobyte.String
	if !input.ReadASN1(&outer, der.SEQUENCE) || !input.Empty() || !outer.ReadASN1Element(&tbsElement, der.SEQUENCE) {
		return nil, bad
	}
	tail, tbs = outer, tbsElement
	if !tbs.ReadASN1(&tbs, der.SEQUENCE) {
		return nil, bad
	}
	// The head alone, for crypto/x509 to decode: version, algorithm, issuer,
	// times, then extensions.
	var head []byte
	for i := 0; !tbs.Empty(); i++ {
		var element cryptobyte.String
		var tag der.Tag
		if !tbs.ReadAnyASN1Element(&element, &tag) {
			return nil, bad
		}
		if tag == der.SEQUENCE && i > 3 { // behind version, algorithm, issuer and a time
			if entries != nil || !element.ReadASN1(&entries, der.SEQUENCE) {
				return nil, bad
			}
			continue
		}
		head = append(head, element...)
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(head) })
		b.AddBytes(tail)
	})
	short, err := b.Bytes()
	if err != nil {
		return nil, bad
	}
	list, err := x509.ParseRevocationList(short)
	if err != nil {
		return nil, bad
	}
	l := &crl{RevocationList: list, tbs: tbsElement, entries: entries, issuer: canonical(list.RawIssuer).key(), reasons: allReasons}
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidIssuingPoint):
			if err := l.readPoint(e.Value); err != nil {
				return nil, err
			}
		case e.Id.Equal(oidDelta):
			value := cryptobyte.String(e.Value)
			l.base = new(big.Int)
			if !value.ReadASN1Integer(l.base) || !value.Empty() {
				return nil, bad
			}
		case e.Critical && !e.Id.Equal(oidCRLNumber) && !e.Id.Equal(oidAuthorityKey):
			return nil, fmt.Errorf("read revocation list: critical extension %v is unknown: %w", e.Id, ErrForm)
		}
	}
	return l, nil
}

// readPoint reads issuingDistributionPoint (RFC 5280 §5.2.5).
func (l *crl) readPoint(raw []byte) error {
	bad := fmt.Errorf("read revocation list: issuing distribution point: %w", ErrForm)
	input := cryptobyte.String(raw)
	var body, point cryptobyte.String
	var hasPoint bool
	context := func(n uint8) der.Tag { return der.Tag(n).ContextSpecific() }
	if !input.ReadASN1(&body, der.SEQUENCE) || !input.Empty() || !body.ReadOptionalASN1(&point, &hasPoint, context(0).Constructed()) {
		return bad
	}
	if hasPoint {
		var err error
		if l.point, err = readPointName(point, l.RawIssuer); err != nil {
			return bad
		}
	}
	flags := map[uint8]bool{}
	for !body.Empty() {
		var value cryptobyte.String
		var tag der.Tag
		if !body.ReadAnyASN1(&value, &tag) || tag&0xc0 != 0x80 {
			return bad
		}
		n := uint8(tag & 0x1f)
		if n == 3 {
			l.reasons = readReasons(value)
			continue
		}
		flags[n] = len(value) == 1 && value[0] != 0
	}
	l.users, l.authorities = flags[1], flags[2]
	switch {
	case flags[4]:
		return fmt.Errorf("read revocation list: indirect lists are not taken: %w", ErrForm)
	case flags[5]: // attribute certificates only: nothing of ours is in it
		l.users, l.authorities = true, true
	}
	return nil
}

// readPointName reads DistributionPointName: full, or relative to the issuer.
func readPointName(s cryptobyte.String, issuer []byte) ([]generalName, error) {
	var names cryptobyte.String
	if s.PeekASN1Tag(der.Tag(1).ContextSpecific().Constructed()) {
		var rdn cryptobyte.String
		if !s.ReadASN1(&rdn, der.Tag(1).ContextSpecific().Constructed()) {
			return nil, ErrForm
		}
		var b cryptobyte.Builder
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			whole := cryptobyte.String(issuer)
			if !whole.ReadASN1(&whole, der.SEQUENCE) {
				b.SetError(ErrForm)
				return
			}
			b.AddBytes(whole)
			b.AddASN1(der.SET, func(b *cryptobyte.Builder) { b.AddBytes(rdn) })
		})
		full, err := b.Bytes()
		return []generalName{{tag: tagDirectory, dn: canonical(full), value: string(full)}}, err
	}
	if !s.ReadASN1(&names, der.Tag(0).ContextSpecific().Constructed()) || !s.Empty() {
		return nil, ErrForm
	}
	return readGeneralNames(names)
}

// readReasons reads the content of ReasonFlags.
func readReasons(bits []byte) (set int) {
	for i := 1; i <= 8 && 1+i/8 < len(bits); i++ {
		if bits[1+i/8]&(0x80>>(i%8)) != 0 {
			set |= 1 << i
		}
	}
	return set
}

// point is a distribution point of a certificate.
type point struct {
	names    []generalName
	reasons  int
	indirect bool
}

// pointsOf reads the distribution points of a certificate (§4.2.1.13).
func pointsOf(c *x509.Certificate) (all []point, err error) {
	raw := extension(c, oidDistributionPoints)
	if raw == nil {
		return nil, nil
	}
	bad := fmt.Errorf("read distribution points of %s: %w", name(c), ErrForm)
	input := cryptobyte.String(raw)
	var list cryptobyte.String
	if !input.ReadASN1(&list, der.SEQUENCE) || !input.Empty() {
		return nil, bad
	}
	for !list.Empty() && len(all) < maxNames {
		var one, distribution, reasons cryptobyte.String
		var hasName, hasReasons bool
		p := point{reasons: allReasons}
		if !list.ReadASN1(&one, der.SEQUENCE) ||
			!one.ReadOptionalASN1(&distribution, &hasName, der.Tag(0).ContextSpecific().Constructed()) ||
			!one.ReadOptionalASN1(&reasons, &hasReasons, der.Tag(1).ContextSpecific()) {
			return nil, bad
		}
		if hasName {
			if p.names, err = readPointName(distribution, c.RawIssuer); err != nil {
				return nil, bad
			}
		}
		if hasReasons {
			p.reasons = readReasons(reasons)
		}
		p.indirect = !one.Empty()
		all = append(all, p)
	}
	return all, nil
}

// covers says for which reasons of revocation the list can speak of the
// certificate; none where it is not in its scope (§6.3.3 (b)).
func (l *crl) covers(c *x509.Certificate, points []point) (covered int) {
	authority := c.BasicConstraintsValid && c.IsCA
	if l.users && authority || l.authorities && !authority {
		return 0
	}
	if l.point == nil {
		return l.reasons
	}
	for _, p := range points {
		if p.indirect {
			continue
		}
		for _, n := range p.names {
			if slices.ContainsFunc(l.point, n.same) {
				covered |= l.reasons & p.reasons
			}
		}
	}
	return covered
}

// same reports whether two names are the same one.
func (g generalName) same(other generalName) bool {
	if g.tag == tagDirectory && other.tag == tagDirectory {
		return slices.Equal(g.dn, other.dn)
	}
	return g.tag == other.tag && g.value == other.value && g.oid.Equal(other.oid)
}

// entry is what a list says of a serial number.
type entry struct {
	since  time.Time
	reason int
}

// find walks over the whole list: an entry that can't be understood, whose
// ever it is, makes the list useless (§5.3).
func (l *crl) find(serial *big.Int) (found *entry, err error) {
	bad := fmt.Errorf("read revocation list of %s: not as it must be: %w", printed(l.Issuer, l.RawIssuer), ErrForm)
	var b cryptobyte.Builder
	b.AddASN1BigInt(serial)
	whole, err := b.Bytes()
	written, want := cryptobyte.String(whole), cryptobyte.String(nil)
	if err != nil || !written.ReadASN1(&want, der.INTEGER) {
		return nil, fmt.Errorf("write serial number: %w", errors.Join(err, ErrForm))
	}
	entries := l.entries
	for !entries.Empty() {
		var one, number, extensions cryptobyte.String
		var when time.Time
		if !entries.ReadASN1(&one, der.SEQUENCE) || !one.ReadASN1(&number, der.INTEGER) || !readTime(&one, &when) {
			return nil, bad
		}
		e := entry{since: when}
		if !one.Empty() && !one.ReadASN1(&extensions, der.SEQUENCE) {
			return nil, bad
		}
		for !extensions.Empty() {
			oid, critical, value, ok := readExtension(&extensions)
			if !ok {
				return nil, bad
			}
			switch {
			case oid.Equal(oidReason):
				if !value.ReadASN1Enum(&e.reason) {
					return nil, bad
				}
			case critical && !oid.Equal(oidInvalidityDate):
				return nil, fmt.Errorf("read revocation list of %s: an entry has the critical extension %v, which is unknown: %w", printed(l.Issuer, l.RawIssuer), oid, ErrForm)
			}
		}
		if bytes.Equal(shortest(number), want) {
			found = &e
		}
	}
	return found, nil
}

// shortest takes off bytes that only repeat the sign of an INTEGER.
func shortest(number []byte) []byte {
	for len(number) > 1 && (number[0] == 0 && number[1] < 0x80 || number[0] == 0xff && number[1] >= 0x80) {
		number = number[1:]
	}
	return number
}

// readExtension reads an Extension (RFC 5280 §4.1).
func readExtension(s *cryptobyte.String) (oid asn1.ObjectIdentifier, critical bool, value cryptobyte.String, ok bool) {
	var ext cryptobyte.String
	ok = s.ReadASN1(&ext, der.SEQUENCE) && ext.ReadASN1ObjectIdentifier(&oid) &&
		(!ext.PeekASN1Tag(der.BOOLEAN) || ext.ReadASN1Boolean(&critical)) && ext.ReadASN1(&value, der.OCTET_STRING) && ext.Empty()
	return oid, critical, value, ok
}

// readTime reads UTCTime or GeneralizedTime.
func readTime(s *cryptobyte.String, t *time.Time) bool {
	if s.PeekASN1Tag(der.UTCTime) {
		return s.ReadASN1UTCTime(t)
	}
	return s.ReadASN1GeneralizedTime(t)
}

// byLists judges path[i] by the lists at hand. A serial number is of one
// certificate of its issuer, so that what any of the issuer's lists revokes is
// revoked; good is only what those that cover it do not have.
func (q *inquiry) byLists(path []*x509.Certificate, i int, deep bool) verdict {
	c := path[i]
	issuer := canonical(c.RawIssuer).key()
	points, err := pointsOf(c)
	if err != nil {
		q.say("%v", err) // lists without a point of their own are as good as before
	}
	if slices.ContainsFunc(points, func(p point) bool { return p.indirect }) {
		q.say("%s names an indirect revocation list, which is not taken", name(c))
	}
	covered := 0
	var signed []*crl
	for _, l := range q.lists {
		if l.issuer != issuer {
			continue
		}
		if err := q.signs(l, path, i, deep); err != nil {
			q.say("revocation list of %s: %v", printed(l.Issuer, l.RawIssuer), err)
			continue
		}
		signed = append(signed, l)
	}
	for _, l := range signed {
		e, err := l.find(c.SerialNumber)
		if err != nil {
			q.say("%v", err)
			continue
		}
		if e != nil && !(e.reason == ocsp.CertificateHold && l.base == nil && q.released(l, signed, c)) {
			if err := revoked(c, q.at, l.ThisUpdate, l.NextUpdate, e.since, e.reason); err != nil {
				return verdict{err: err}
			}
		}
		switch {
		case l.base != nil: // a delta adds to a base and covers nothing by itself
		case l.NextUpdate.IsZero() || !fresh(q.at, l.ThisUpdate, l.NextUpdate):
			q.say("the revocation list of %s is of %s and not of the time of judgement", printed(l.Issuer, l.RawIssuer), l.ThisUpdate.UTC().Format("2006-01-02"))
		default:
			covered |= l.covers(c, points)
		}
	}
	return verdict{good: covered == allReasons}
}

// released reports whether a delta to the list says that a certificate is no
// longer on hold (§5.2.4): it begins no later than the list and is newer.
func (q *inquiry) released(l *crl, signed []*crl, c *x509.Certificate) bool {
	for _, d := range signed {
		if d.base == nil || l.Number == nil || d.Number == nil || d.base.Cmp(l.Number) > 0 || d.Number.Cmp(l.Number) < 0 ||
			d.NextUpdate.IsZero() || !fresh(q.at, d.ThisUpdate, d.NextUpdate) {
			continue
		}
		if e, err := d.find(c.SerialNumber); err == nil && e != nil && e.reason == ocsp.RemoveFromCRL {
			return true
		}
	}
	return false
}

// signs checks that the issuer of path[i] signed a list: with the key of its
// certificate in the path, or with an earlier one that issued it, higher in the
// path and judged before; or, if deep, with one of a certificate beside the
// path, which this issuer, or the one above it, issued to the same name.
func (q *inquiry) signs(l *crl, path []*x509.Certificate, i int, deep bool) error {
	issuer := path[i+1]
	if err := q.spend(1, l.brought); err != nil {
		return err
	}
	err := l.signed(path[i+1:])
	if err == nil || !deep {
		return err
	}
	key := canonical(issuer.RawSubject).key()
	for _, n := range slices.Concat(q.known[key], q.brought[key]) {
		if bytes.Equal(n.cert.Raw, issuer.Raw) || sound(n.cert, q.at) != nil {
			continue
		}
		for above := i + 1; above <= i+2 && above < len(path); above++ {
			if canonical(n.cert.RawIssuer).key() != canonical(path[above].RawSubject).key() {
				continue
			}
			if q.beside++; q.beside > maxBeside {
				return err
			}
			// Its own signature first: that costs little, however long the list.
			if signedBy(path[above], n.cert.SignatureAlgorithm, n.cert.RawTBSCertificate, n.cert.Signature) != nil || l.signedBy(n.cert) != nil {
				continue
			}
			v := q.judge(append([]*x509.Certificate{n.cert}, path[above:]...), 0, false)
			if v.err == nil && (v.good || q.mode == Soft) {
				return nil
			}
		}
	}
	return err
}

// signed checks the signature of a list by the issuer that issuers begins
// with, or by one of the same name that stands higher.
func (l *crl) signed(issuers []*x509.Certificate) (err error) {
	key := canonical(issuers[0].RawSubject).key()
	for i, c := range issuers {
		if i > 0 && canonical(c.RawSubject).key() != key {
			break
		}
		if err = l.signedBy(c); err == nil {
			return nil
		}
	}
	return err
}

// signedBy checks the signature of a list by the key of a certificate.
func (l *crl) signedBy(signer *x509.Certificate) error {
	if extension(signer, oidKeyUsage) != nil && signer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return errors.New("its signer has no key usage cRLSign")
	}
	return signedBy(signer, l.SignatureAlgorithm, l.tbs, l.Signature)
}
