package chain

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// oidNoCheck says that a responder's certificate needs no status of its own
// (RFC 6960 §4.2.2.2.1).
var oidNoCheck = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}

// maxSingles bounds the certificates that one response speaks of.
const maxSingles = 256

// readResponse reads an OCSP response about a certificate and checks its
// signature: by the issuer, or by somebody whose certificate it has and that
// the issuer signed. Package ocsp does that much, and finds the certificate
// by its serial number alone; so its issuer is compared before, and the key
// that will be used is looked at before it costs anything.
func readResponse(raw []byte, c, issuer *x509.Certificate) (*ocsp.Response, error) {
	if len(raw) > maxOCSP {
		return nil, fmt.Errorf("read OCSP response: larger than %d bytes: %w", maxOCSP, ErrForm)
	}
	embedded, err := scanResponse(raw, c.SerialNumber, issuer)
	if err != nil {
		return nil, err
	}
	by := issuer
	if embedded != nil {
		signer, err := x509.ParseCertificate(embedded)
		if err != nil {
			return nil, fmt.Errorf("read OCSP response: its certificate: %w", ErrForm)
		}
		if err := strongKey(signer); err != nil {
			return nil, err
		}
		if !strong[signer.SignatureAlgorithm] && !bytes.Equal(signer.Raw, issuer.Raw) {
			return nil, fmt.Errorf("read OCSP response: its certificate: %w", ErrWeak)
		}
		if bytes.Equal(signer.Raw, issuer.Raw) {
			by = nil // it need not have signed itself
		}
	}
	response, err := ocsp.ParseResponseForCert(raw, c, by)
	if err != nil {
		if e := (ocsp.ResponseError{}); errors.As(err, &e) {
			return nil, fmt.Errorf("read OCSP response: it says %v: %w", e.Status, ErrStatus)
		}
		return nil, fmt.Errorf("read OCSP response: not as it must be, or wrongly signed: %w", ErrForm)
	}
	if !strong[response.SignatureAlgorithm] {
		return nil, fmt.Errorf("read OCSP response: signature by %v: %w", response.SignatureAlgorithm, ErrWeak)
	}
	if bytes.Equal(embedded, issuer.Raw) {
		response.Certificate = nil
	}
	return response, nil
}

// scanResponse checks that what a response says of a serial number is said of
// this issuer's, and gives the first certificate in it, which is the one that
// package ocsp goes by.
func scanResponse(raw []byte, serial *big.Int, issuer *x509.Certificate) (embedded []byte, err error) {
	bad := fmt.Errorf("read OCSP response: not as it must be: %w", ErrForm)
	context := func(n uint8) der.Tag { return der.Tag(n).ContextSpecific().Constructed() }
	input := cryptobyte.String(raw)
	var outer, wrapped, octets, basic, data, singles, certs cryptobyte.String
	var status int
	var kind asn1.ObjectIdentifier
	if !input.ReadASN1(&outer, der.SEQUENCE) || !input.Empty() || !outer.ReadASN1Enum(&status) {
		return nil, bad
	}
	if status != int(ocsp.Success) {
		return nil, fmt.Errorf("read OCSP response: the responder says %v: %w", ocsp.ResponseStatus(status), ErrStatus)
	}
	if !outer.ReadASN1(&wrapped, context(0)) || !wrapped.ReadASN1(&wrapped, der.SEQUENCE) ||
		!wrapped.ReadASN1ObjectIdentifier(&kind) || !wrapped.ReadASN1(&octets, der.OCTET_STRING) ||
		!octets.ReadASN1(&basic, der.SEQUENCE) || !basic.ReadASN1(&data, der.SEQUENCE) ||
		!basic.SkipASN1(der.SEQUENCE) || !basic.SkipASN1(der.BIT_STRING) {
		return nil, bad
	}
	if !basic.Empty() {
		var list cryptobyte.String
		if !basic.ReadASN1(&certs, context(0)) || !certs.ReadASN1(&list, der.SEQUENCE) {
			return nil, bad
		}
		if !list.Empty() {
			var first cryptobyte.String
			if !list.ReadASN1Element(&first, der.SEQUENCE) {
				return nil, bad
			}
			embedded = first
		}
	}
	var responder cryptobyte.String
	var tag der.Tag
	if !data.SkipOptionalASN1(context(0)) || !data.ReadAnyASN1(&responder, &tag) ||
		!data.SkipASN1(der.GeneralizedTime) || !data.ReadASN1(&singles, der.SEQUENCE) {
		return nil, bad
	}
	if !data.Empty() { // responseExtensions
		var extensions cryptobyte.String
		if !data.ReadASN1(&extensions, context(1)) || !extensions.ReadASN1(&extensions, der.SEQUENCE) {
			return nil, bad
		}
		for !extensions.Empty() {
			oid, critical, _, ok := readExtension(&extensions)
			if !ok {
				return nil, bad
			}
			if critical {
				return nil, fmt.Errorf("read OCSP response: critical extension %v is unknown: %w", oid, ErrForm)
			}
		}
	}
	found := false
	for n := 0; !singles.Empty(); n++ {
		var single, id, algorithm, nameHash, keyHash cryptobyte.String
		var hash asn1.ObjectIdentifier
		number := new(big.Int)
		if n == maxSingles || !singles.ReadASN1(&single, der.SEQUENCE) || !single.ReadASN1(&id, der.SEQUENCE) ||
			!id.ReadASN1(&algorithm, der.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&hash) ||
			!id.ReadASN1(&nameHash, der.OCTET_STRING) || !id.ReadASN1(&keyHash, der.OCTET_STRING) || !id.ReadASN1Integer(number) {
			return nil, bad
		}
		if number.Cmp(serial) != 0 {
			continue
		}
		if !names(issuer, hash, nameHash, keyHash) {
			return nil, fmt.Errorf("read OCSP response: it speaks of a certificate of another issuer: %w", ErrForm)
		}
		found = true
	}
	if !found {
		return nil, fmt.Errorf("read OCSP response: it does not speak of the certificate: %w", ErrForm)
	}
	return embedded, nil
}

// names reports whether the hashes of a CertID are of an issuer (RFC 6960 §4.1.1).
func names(issuer *x509.Certificate, algorithm asn1.ObjectIdentifier, nameHash, keyHash []byte) bool {
	spki := cryptobyte.String(issuer.RawSubjectPublicKeyInfo)
	var key asn1.BitString
	if !spki.ReadASN1(&spki, der.SEQUENCE) || !spki.SkipASN1(der.SEQUENCE) || !spki.ReadASN1BitString(&key) {
		return false
	}
	var sum func([]byte) []byte
	switch algorithm.String() {
	case "1.3.14.3.2.26": // an identifier only: whose response it is, its signature says
		sum = func(b []byte) []byte { h := sha1.Sum(b); return h[:] }
	case "2.16.840.1.101.3.4.2.1":
		sum = func(b []byte) []byte { h := sha256.Sum256(b); return h[:] }
	case "2.16.840.1.101.3.4.2.2":
		sum = func(b []byte) []byte { h := sha512.Sum384(b); return h[:] }
	case "2.16.840.1.101.3.4.2.3":
		sum = func(b []byte) []byte { h := sha512.Sum512(b); return h[:] }
	default:
		return false
	}
	return bytes.Equal(sum(issuer.RawSubject), nameHash) && bytes.Equal(sum(key.Bytes), keyHash)
}

// byResponses judges path[i] by OCSP responses.
func (q *inquiry) byResponses(path []*x509.Certificate, i int, responses []response) (v verdict) {
	c, issuer := path[i], path[i+1]
	for _, raw := range responses {
		err := q.spend(2, raw.brought)
		if err != nil {
			q.say("%v", err)
			continue
		}
		r, err := readResponse(raw.raw, c, issuer)
		if err == nil {
			err = q.responder(r, path, i)
		}
		switch {
		case err != nil:
			q.say("%v", err)
		case r.Status == ocsp.Revoked:
			if err := revoked(c, q.at, r.ThisUpdate, r.NextUpdate, r.RevokedAt, r.RevocationReason); err != nil {
				return verdict{err: err}
			}
		case !fresh(q.at, r.ThisUpdate, r.NextUpdate):
			q.say("an OCSP response about %s is of %s and not of the time of judgement", name(c), r.ThisUpdate.UTC().Format("2006-01-02 15:04"))
		case r.Status == ocsp.Good:
			v.good = true
		default:
			q.say("the OCSP responder does not know %s", name(c))
		}
	}
	return v
}

// responder checks who signed a response (RFC 6960 §4.2.2.2): the issuer of
// the certificate, or a responder that it issued a certificate for that.
func (q *inquiry) responder(r *ocsp.Response, path []*x509.Certificate, i int) error {
	by := r.Certificate
	if by == nil {
		return nil
	}
	no := func(what string) error {
		return fmt.Errorf("OCSP responder %s %s: %w", name(by), what, ErrPurpose)
	}
	if err := sound(by, q.at); err != nil {
		return err
	}
	switch {
	case canonical(by.RawIssuer).key() != canonical(path[i+1].RawSubject).key():
		return no("has a certificate of somebody else")
	case !slices.Contains(by.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return no("has no extended key usage OCSPSigning")
	case extension(by, oidKeyUsage) != nil && by.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return no("has no key usage digitalSignature")
	case extension(by, oidNoCheck) != nil:
		return nil
	}
	v := q.byLists(append([]*x509.Certificate{by}, path[i+1:]...), 0, false)
	switch {
	case v.err != nil:
		return v.err
	case !v.good && q.mode == Hard:
		return no("may be revoked: nobody says, and its certificate wants it checked")
	}
	return nil
}
