package cms

import (
	"crypto"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm"
)

const (
	// maxRecipients bounds those that are looked at, and those that are kept: a
	// list of thousands costs no more than that.
	maxRecipients = 16
	// maxRecipientInfo bounds one RecipientInfo, in bytes. A key agreement may
	// be one for all recipients (RFC 5652 §6.2.2), of 100 to 300 bytes each.
	maxRecipientInfo = 128 << 10
)

// Recipient is one for whom the content key is in the message.
type Recipient struct {
	CertID              // of his certificate
	Wrapped hsm.Wrapped // the content key, for hsm.Token
}

// parseRecipient reads the two kinds of RecipientInfo (RFC 5652 §6.2) that a
// key pair opens. What is neither, or asks for what nothing here has, is of no
// use and no error: the message may be for somebody else as well.
func parseRecipient(der []byte) []Recipient {
	in := cryptobyte.String(der)
	var body cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&body, &tag) || !in.Empty() {
		return nil
	}
	switch tag {
	case cbasn1.SEQUENCE:
		return parseTransport(body)
	case context1.Constructed():
		return parseAgreement(body)
	}
	return nil
}

// parseTransport reads a KeyTransRecipientInfo (RFC 5652 §6.2.1).
func parseTransport(in cryptobyte.String) []Recipient {
	var version int
	var r Recipient
	var a algorithm
	if !in.ReadASN1Integer(&version) || version != 0 && version != 2 ||
		!r.readID(&in, context0) ||
		!readAlgorithm(&in, &a) ||
		!parseOctets(&in, &r.Wrapped.Ciphertext) || !in.Empty() {
		return nil
	}
	switch {
	case a.oid.Equal(oidRSA) && a.bare(): // RFC 3370 §4.2.1
		r.Wrapped.Scheme = hsm.PKCS1
	case a.oid.Equal(oidOAEP) && parseOAEP(a.params, &r.Wrapped):
		r.Wrapped.Scheme = hsm.OAEP
	default:
		return nil
	}
	return []Recipient{r}
}

// readID reads what names a certificate: IssuerAndSerialNumber, or an
// identifier of its key under the given tag (RFC 5652 §6.2.1, §6.2.2).
func (r *Recipient) readID(in *cryptobyte.String, keyID cbasn1.Tag) bool {
	var body cryptobyte.String
	if in.PeekASN1Tag(cbasn1.SEQUENCE) {
		return in.ReadASN1(&body, cbasn1.SEQUENCE) && r.readIssuerAndSerial(body)
	}
	if !in.ReadASN1(&body, keyID) {
		return false
	}
	r.KeyID = body
	if keyID == context0.Constructed() { // RecipientKeyIdentifier; what else is in it says nothing of the key
		return parseOctets(&body, &r.KeyID)
	}
	return true
}

// oidSpecified is the label of OAEP, given as it is (RFC 4055 §3.1).
var oidSpecified = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 9}

// parseOAEP reads RSAES-OAEP-params (RFC 4055 §4.1), which may all be left out.
func parseOAEP(der []byte, w *hsm.Wrapped) bool {
	w.Hash, w.MGFHash = crypto.SHA1, crypto.SHA1
	in, seq := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return false
	}
	field := func(number uint8) (a algorithm, there, ok bool) {
		var body cryptobyte.String
		ok = seq.ReadOptionalASN1(&body, &there, cbasn1.Tag(number).ContextSpecific().Constructed()) &&
			(!there || readAlgorithm(&body, &a) && body.Empty())
		return a, there, ok
	}
	hash := func(a algorithm, h *crypto.Hash) bool {
		*h = hashOf(a)
		return *h != 0 && *h != crypto.MD5
	}
	if a, there, ok := field(0); !ok || there && !hash(a, &w.Hash) {
		return false
	}
	if a, there, ok := field(1); !ok || there {
		inner, is := parseAlgorithm(a.params)
		if !ok || !is || !a.oid.Equal(oidMGF1) || !hash(inner, &w.MGFHash) {
			return false
		}
	}
	if a, there, ok := field(2); !ok || there {
		label := cryptobyte.String(a.params)
		if !ok || !a.oid.Equal(oidSpecified) || !parseOctets(&label, &w.Label) || !label.Empty() {
			return false
		}
	}
	return seq.Empty()
}

// agreements are the ways to agree on a key-encryption key, by their object
// identifiers. On the curves of this package the cofactor is one, and cofactor
// Diffie-Hellman the same as the plain one.
var agreements = map[string]struct {
	scheme hsm.Scheme
	hash   crypto.Hash
}{
	"1.3.133.16.840.63.0.2": {hsm.CMSX963, crypto.SHA1}, // dhSinglePass-stdDH-…, RFC 5753 §7.1.4
	"1.3.132.1.11.0":        {hsm.CMSX963, crypto.SHA224},
	"1.3.132.1.11.1":        {hsm.CMSX963, crypto.SHA256},
	"1.3.132.1.11.2":        {hsm.CMSX963, crypto.SHA384},
	"1.3.132.1.11.3":        {hsm.CMSX963, crypto.SHA512},
	"1.3.133.16.840.63.0.3": {hsm.CMSX963, crypto.SHA1}, // dhSinglePass-cofactorDH-…
	"1.3.132.1.14.0":        {hsm.CMSX963, crypto.SHA224},
	"1.3.132.1.14.1":        {hsm.CMSX963, crypto.SHA256},
	"1.3.132.1.14.2":        {hsm.CMSX963, crypto.SHA384},
	"1.3.132.1.14.3":        {hsm.CMSX963, crypto.SHA512},

	"1.2.840.113549.1.9.16.3.19": {hsm.CMSHKDF, crypto.SHA256}, // dhSinglePass-stdDH-hkdf-…, RFC 8418 §2.2
	"1.2.840.113549.1.9.16.3.20": {hsm.CMSHKDF, crypto.SHA384},
	"1.2.840.113549.1.9.16.3.21": {hsm.CMSHKDF, crypto.SHA512},
}

// parseAgreement reads a KeyAgreeRecipientInfo (RFC 5652 §6.2.2) with an
// ephemeral key of the sender (RFC 5753 §3.1.1, RFC 8418 §2), which may be for
// several recipients.
func parseAgreement(in cryptobyte.String) []Recipient {
	var version int
	var originator, key, point, keys cryptobyte.String
	var a algorithm
	var ukm cryptobyte.String
	var unused uint8
	var hasUKM bool
	if !in.ReadASN1Integer(&version) || version != 3 ||
		!in.ReadASN1(&originator, context0.Constructed()) ||
		!originator.ReadASN1(&key, context1.Constructed()) || !originator.Empty() ||
		!key.SkipASN1(cbasn1.SEQUENCE) || !key.ReadASN1(&point, cbasn1.BIT_STRING) || !key.Empty() ||
		!point.ReadUint8(&unused) || unused != 0 ||
		!in.ReadOptionalASN1(&ukm, &hasUKM, context1.Constructed()) ||
		!readAlgorithm(&in, &a) ||
		!in.ReadASN1(&keys, cbasn1.SEQUENCE) || !in.Empty() {
		return nil
	}
	way, known := agreements[a.oid.String()]
	if _, ok := parseAlgorithm(a.params); !known || !ok {
		return nil
	}
	w := hsm.Wrapped{Scheme: way.scheme, Hash: way.hash, Ephemeral: point, WrapAlgorithm: a.params}
	if hasUKM && (!parseOctets(&ukm, &w.UKM) || !ukm.Empty()) {
		return nil
	}
	var out []Recipient
	for !keys.Empty() && len(out) < maxRecipients {
		var one cryptobyte.String
		r := Recipient{Wrapped: w}
		if !keys.ReadASN1(&one, cbasn1.SEQUENCE) {
			return nil
		}
		if r.readID(&one, context0.Constructed()) && parseOctets(&one, &r.Wrapped.Ciphertext) && one.Empty() {
			out = append(out, r)
		}
	}
	return out
}
