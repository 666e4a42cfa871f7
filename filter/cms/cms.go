// Package cms reads and writes the Cryptographic Message Syntax (RFC 5652) as
// mail uses it (RFC 8551): signed, enveloped, authenticated-enveloped and
// compressed data. It streams, keeps no more in memory than a few buffers and
// the bounded tables at the head and the foot of a message, and reads BER as
// well as DER. Private keys stay in the token: a signature is asked for by
// digest, and a wrapped key is handed out as it stands in the message.
//
// What a message says of itself is a claim. Nobody is trusted here, and no
// certificate is judged: that is for who knows at what time and by which
// anchors. Content that was written out counts only when the function that
// wrote it has given no error.
//
// Departures from the standards: there is no DigestedData, EncryptedData or
// AuthenticatedData; a message has at most 16 signers, and of its recipients 16
// are looked at; those with a password, a key-encryption key or a static key of
// the sender are passed over; RC2, DES and AES-CCM are refused, and
// ChaCha20-Poly1305 does not open with authenticated attributes; MD5, SHA-1,
// DSA, RSA below 2048 bits and Ed25519 without signed attributes verify
// nothing; unsigned attributes, and with them countersignatures, are passed
// over; one ContentInfo is read, and nothing may follow it.
package cms

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
)

// What may be wrong with a message. Errors of a reader or a writer that was
// handed in, and those of the token, come through as they are.
var (
	ErrForm         = ber.ErrSyntax                          // not the syntax, or not what was asked for
	ErrLimit        = ber.ErrLimit                           // too long, too deep, too many
	ErrAlgorithm    = errors.New("algorithm not accepted")   // unknown, or too weak to mean anything
	ErrBadSignature = errors.New("signature does not fit")   // wrong key, altered content, altered attributes
	ErrDecrypt      = errors.New("decrypt content: refused") // every way in which ciphertext does not open
)

// Type is the content type of a message (RFC 5652 §4).
type Type uint8

// The content types that are known.
const (
	TypeUnknown       Type = iota // none of the following
	TypeData                      // RFC 5652 §4
	TypeSigned                    // RFC 5652 §5
	TypeEnveloped                 // RFC 5652 §6
	TypeAuthEnveloped             // RFC 5083
	TypeCompressed                // RFC 3274
)

// String is the word of RFC 5652 for the type.
func (t Type) String() string {
	switch t {
	case TypeData:
		return "data"
	case TypeSigned:
		return "signedData"
	case TypeEnveloped:
		return "envelopedData"
	case TypeAuthEnveloped:
		return "authEnvelopedData"
	case TypeCompressed:
		return "compressedData"
	}
	return "unknown"
}

// Object identifiers that both halves of the package need.
var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSigned        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidEnveloped     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidAuthEnveloped = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}
	oidCompressed    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 9}

	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}

	oidRSA  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // rsaEncryption
	oidOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidPSS  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
)

// typeOf is the type that an object identifier names.
func typeOf(oid asn1.ObjectIdentifier) Type {
	switch {
	case oid.Equal(oidData):
		return TypeData
	case oid.Equal(oidSigned):
		return TypeSigned
	case oid.Equal(oidEnveloped):
		return TypeEnveloped
	case oid.Equal(oidAuthEnveloped):
		return TypeAuthEnveloped
	case oid.Equal(oidCompressed):
		return TypeCompressed
	}
	return TypeUnknown
}

// TypeOf is the type of the ContentInfo that begins with head, of which 64
// bytes are enough. It is TypeUnknown for anything else.
func TypeOf(head []byte) Type {
	oid, err := readContentInfo(ber.NewReader(bytes.NewReader(head)))
	if err != nil {
		return TypeUnknown
	}
	return typeOf(oid)
}

// readContentInfo reads a ContentInfo (RFC 5652 §3) up to what stands inside
// of its [0], which Next shows then. endContentInfo goes with it.
func readContentInfo(r *ber.Reader) (asn1.ObjectIdentifier, error) {
	if err := enter(r, ber.Universal, ber.Sequence); err != nil {
		return nil, err
	}
	oid, err := readOID(r)
	if err != nil {
		return nil, err
	}
	return oid, enter(r, ber.Context, 0)
}

// endContentInfo is an error if the ContentInfo has more in it, or anything follows.
func endContentInfo(r *ber.Reader) error {
	if err := r.Leave(); err != nil {
		return err
	}
	if err := r.Leave(); err != nil {
		return err
	}
	return r.End()
}

// expect is an error if the next element has another tag.
func expect(r *ber.Reader, class byte, number uint32) error {
	t, err := r.Next()
	if err == io.EOF || err == nil && !t.Is(class, number) {
		return malformed("another element than expected")
	}
	return err
}

// enter goes into the next element, which has to have the tag.
func enter(r *ber.Reader, class byte, number uint32) error {
	if err := expect(r, class, number); err != nil {
		return err
	}
	return r.Enter()
}

// leave leaves the open element when end, an error of Next, is its end.
func leave(r *ber.Reader, end error) error {
	if end != io.EOF {
		return end
	}
	return r.Leave()
}

func malformed(what string) error { return fmt.Errorf("%s: %w", what, ErrForm) }

// readVersion reads the next element, which has to be a small INTEGER.
func readVersion(r *ber.Reader) (int, error) {
	der, err := r.DER(8)
	if err != nil {
		return 0, err
	}
	var v int
	if s := cryptobyte.String(der); !s.ReadASN1Integer(&v) {
		return 0, malformed("version")
	}
	return v, nil
}

// nextAlgorithm reads the next element, which has to be an AlgorithmIdentifier.
func nextAlgorithm(r *ber.Reader) (a algorithm, err error) {
	der, err := r.DER(maxAlgorithm)
	if err != nil {
		return a, err
	}
	if s := cryptobyte.String(der); !readAlgorithm(&s, &a) {
		return a, malformed("algorithm")
	}
	return a, nil
}

// readOctets reads the next element, an OCTET STRING of at most max bytes.
func readOctets(r *ber.Reader, max int) ([]byte, error) {
	return readTagged(r, ber.Universal, ber.OctetString, max)
}

// readTagged reads one that has the tag.
func readTagged(r *ber.Reader, class byte, number uint32, max int) ([]byte, error) {
	if err := expect(r, class, number); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r.Octets(), int64(max)+1))
	if err == nil && len(b) > max {
		err = fmt.Errorf("octet string: %w", ErrLimit)
	}
	return b, err
}

// readOID reads the next element, which has to be an OBJECT IDENTIFIER.
func readOID(r *ber.Reader) (asn1.ObjectIdentifier, error) {
	der, err := r.DER(maxOID)
	if err != nil {
		return nil, err
	}
	var oid asn1.ObjectIdentifier
	s := cryptobyte.String(der)
	if !s.ReadASN1ObjectIdentifier(&oid) {
		return nil, malformed("object identifier")
	}
	return oid, nil
}

// maxOID bounds an object identifier, and maxAlgorithm an AlgorithmIdentifier, in bytes.
const (
	maxOID       = 64
	maxAlgorithm = 1 << 10
)

// algorithm is an AlgorithmIdentifier (RFC 5652 §10.1).
type algorithm struct {
	oid    asn1.ObjectIdentifier
	params []byte // one element in DER, or nil when absent
}

// null is NULL in DER, the parameters of many algorithms.
var null = []byte{5, 0}

// readAlgorithm reads an AlgorithmIdentifier off s.
func readAlgorithm(s *cryptobyte.String, a *algorithm) bool {
	return readTaggedAlgorithm(s, a, cbasn1.SEQUENCE)
}

// readTaggedAlgorithm reads one that is tagged implicitly.
func readTaggedAlgorithm(s *cryptobyte.String, a *algorithm, tag cbasn1.Tag) bool {
	var seq, params cryptobyte.String
	var any cbasn1.Tag
	if !s.ReadASN1(&seq, tag) || !seq.ReadASN1ObjectIdentifier(&a.oid) {
		return false
	}
	a.params = nil
	if !seq.Empty() {
		if !seq.ReadAnyASN1Element(&params, &any) {
			return false
		}
		a.params = params
	}
	return seq.Empty()
}

// bare reports whether the parameters say nothing: absent, or NULL (RFC 5754 §2).
func (a algorithm) bare() bool { return a.params == nil || bytes.Equal(a.params, null) }

// add prints a.
func (a algorithm) add(b *cryptobyte.Builder) { a.addTagged(b, cbasn1.SEQUENCE) }

// addTagged prints a with an implicit tag.
func (a algorithm) addTagged(b *cryptobyte.Builder, tag cbasn1.Tag) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.oid)
		b.AddBytes(a.params)
	})
}

// der is a alone.
func (a algorithm) der() ([]byte, error) {
	var b cryptobyte.Builder
	a.add(&b)
	return b.Bytes()
}

// digests are the hashes that are known by name (RFC 5754 §2, RFC 3370 §2).
var digests = []struct {
	hash crypto.Hash
	oid  asn1.ObjectIdentifier
}{
	{crypto.SHA256, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}},
	{crypto.SHA384, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}},
	{crypto.SHA512, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}},
	{crypto.SHA224, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 4}},
	{crypto.SHA1, asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}},
	{crypto.MD5, asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}},
}

// hashOf is the hash that a names, or 0.
func hashOf(a algorithm) crypto.Hash {
	for _, d := range digests {
		if d.oid.Equal(a.oid) && a.bare() {
			return d.hash
		}
	}
	return 0
}

// digestAlgorithm names a hash of the table, with NULL where the parameters of
// RSA want it (RFC 4055 §2.1), and without elsewhere (RFC 5754 §2).
func digestAlgorithm(h crypto.Hash, params []byte) algorithm {
	for _, d := range digests {
		if d.hash == h {
			return algorithm{d.oid, params}
		}
	}
	return algorithm{}
}
