package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
)

// Bounds of a SignerInfo, in bytes.
const (
	maxName       = 16 << 10
	maxKeyID      = 256
	maxAttributes = 64 << 10
	maxSignature  = 8 << 10
)

// CertID is how CMS names a certificate: by issuer and serial number, or by
// its subject key identifier (RFC 5652 §5.3).
type CertID struct {
	Issuer []byte // Name in DER, or nil
	Serial *big.Int
	KeyID  []byte // subject key identifier, or nil
}

// Names reports whether c is meant. Issuers are compared by their encoding.
func (id CertID) Names(c *x509.Certificate) bool {
	if id.Issuer != nil {
		return bytes.Equal(id.Issuer, c.RawIssuer) && id.Serial.Cmp(c.SerialNumber) == 0
	}
	return len(id.KeyID) > 0 && bytes.Equal(id.KeyID, c.SubjectKeyId)
}

// readIssuerAndSerial reads the contents of an IssuerAndSerialNumber (RFC 5652 §10.2.4).
func (id *CertID) readIssuerAndSerial(s cryptobyte.String) bool {
	var name cryptobyte.String
	id.Serial = new(big.Int)
	if !s.ReadASN1Element(&name, cbasn1.SEQUENCE) || !s.ReadASN1Integer(id.Serial) || !s.Empty() {
		return false
	}
	id.Issuer = name
	return true
}

// Signer is one SignerInfo (RFC 5652 §5.3). What it says of itself is a claim
// of the signer if Verify gives no error, and of nobody before.
type Signer struct {
	CertID       // of the certificate that it wants to be verified with
	Hash         crypto.Hash
	SigningTime  time.Time    // zero: not told
	Capabilities Capabilities // nil: not told
	EncryptTo    *CertID      // the certificate to answer to (RFC 8551 §2.5.3); nil: not told

	digest, signature algorithm
	value             []byte
	attributes        []byte // SET OF signed attributes in DER; nil: there are none
	contentType       asn1.ObjectIdentifier
	messageDigest     []byte
	sum               []byte // of the content
	fault             error  // the first thing that is wrong
}

// fail keeps why no certificate can verify the signature.
func (s *Signer) fail(why string) {
	if s.fault == nil {
		s.fault = fmt.Errorf("%s: %w", why, ErrBadSignature)
	}
}

func readSigner(r *ber.Reader) (s *Signer, err error) {
	if err = enter(r, ber.Universal, ber.Sequence); err != nil {
		return nil, err
	}
	version, err := readVersion(r)
	if err != nil {
		return nil, err
	}
	s = &Signer{}
	if err = s.readID(r, version); err != nil {
		return nil, err
	}
	if s.digest, err = nextAlgorithm(r); err != nil {
		return nil, err
	}
	s.Hash = hashOf(s.digest)
	var attributes []byte
	if t, err := r.Next(); err == nil && t.Is(ber.Context, 0) {
		if attributes, err = r.DER(maxAttributes); err != nil {
			return nil, err
		}
	}
	if s.signature, err = nextAlgorithm(r); err != nil {
		return nil, err
	}
	if attributes != nil {
		if err = s.readAttributes(attributes); err != nil {
			return nil, err
		}
	}
	if s.value, err = readOctets(r, maxSignature); err != nil {
		return nil, err
	}
	if t, err := r.Next(); err == nil && t.Is(ber.Context, 1) {
		if err := s.skipUnsigned(r); err != nil {
			return nil, err
		}
	}
	return s, r.Leave()
}

// skipUnsigned passes over the unsigned attributes, however long they are.
// Those that have to be signed may not be among them (RFC 5652 §11, RFC 6211 §2).
func (s *Signer) skipUnsigned(r *ber.Reader) error {
	if err := r.Enter(); err != nil {
		return err
	}
	for {
		if _, err := r.Next(); err != nil {
			return leave(r, err)
		}
		if err := enter(r, ber.Universal, ber.Sequence); err != nil {
			return err
		}
		oid, err := readOID(r)
		if err != nil {
			return err
		}
		for _, own := range []asn1.ObjectIdentifier{oidContentType, oidMessageDigest, oidSigningTime, oidAlgorithmProtection} {
			if oid.Equal(own) {
				s.fail("attribute " + oid.String() + " is not signed")
			}
		}
		if err := r.Skip(); err != nil {
			return err
		}
		if err := r.Leave(); err != nil {
			return err
		}
	}
}

// readID reads the SignerIdentifier, which goes with the version (RFC 5652 §5.3).
func (s *Signer) readID(r *ber.Reader, version int) error {
	t, err := r.Next()
	switch {
	case err == io.EOF:
		return malformed("no signer identifier")
	case err != nil:
		return err
	case t.Is(ber.Universal, ber.Sequence) && version == 1:
		der, err := r.DER(maxName)
		if err != nil {
			return err
		}
		in := cryptobyte.String(der)
		if !in.ReadASN1(&in, cbasn1.SEQUENCE) || !s.readIssuerAndSerial(in) {
			return malformed("issuer and serial number")
		}
		return nil
	case t.Is(ber.Context, 0) && version == 3:
		s.KeyID, err = readTagged(r, ber.Context, 0, maxKeyID)
		return err
	}
	return malformed("signer identifier, or its version")
}

// settle compares what is signed with the content, which is hashed in d.
func (s *Signer) settle(contentType asn1.ObjectIdentifier, d *digester) {
	s.sum = d.sum(s.Hash)
	switch {
	case s.sum == nil: // nothing verifies
	case s.attributes == nil:
		// RFC 5652 §5.3, and what somebody signed as attributes must not
		// come back as content.
		if !contentType.Equal(oidData) {
			s.fail("other content than data without signed attributes")
		} else if likeAttributes(d.head) {
			s.fail("content is a set of attributes")
		}
	case !s.contentType.Equal(contentType):
		s.fail("content type is another one")
	case !bytes.Equal(s.messageDigest, s.sum):
		s.fail("message digest is another one")
	}
}

// likeAttributes reports whether content begins as signed attributes do in
// DER: without attributes in a SignerInfo the same signature fits both.
func likeAttributes(head []byte) bool {
	r := ber.NewReader(bytes.NewReader(head))
	if enter(r, ber.Universal, ber.Set) != nil || enter(r, ber.Universal, ber.Sequence) != nil {
		return false
	}
	_, err := readOID(r)
	return err == nil
}
