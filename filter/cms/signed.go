package cms

import (
	"crypto"
	_ "crypto/sha256" // the hashes of digests that verify
	_ "crypto/sha512"
	"encoding/asn1"
	"fmt"
	"hash"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
)

// Bounds of SignedData.
const (
	maxDigests = 16       // algorithms named at its head
	maxCerts   = 1 << 20  // bytes of all certificates together
	maxCert    = 64 << 10 // bytes of one
	maxCRLs    = 4 << 20  // bytes of all that tells of revocation
	maxSigners = 16
)

// Signed is SignedData (RFC 5652 §5). What is in it was not judged: a Signer
// has to be verified with a certificate that somebody trusts.
type Signed struct {
	// ContentType names what is signed: data, or another structure of which
	// the contents were written out, such as SignedData in SignedData.
	ContentType asn1.ObjectIdentifier
	// Content tells that there was content in it: not when it is detached, nor
	// when it carries certificates only (RFC 8551 §3.8).
	Content bool
	Certs   [][]byte  // X.509 certificates in DER, in their order; other kinds are left out
	CRLs    [][]byte  // X.509 CRLs in DER
	OCSP    [][]byte  // OCSPResponses in DER (RFC 5940 §2.1)
	Signers []*Signer // at most 16, in their order
}

// Type is the content type if it is known.
func (s *Signed) Type() Type { return typeOf(s.ContentType) }

// ReadSigned reads SignedData with its content in it (RFC 5652 §5), and writes
// the content as it comes; it counts only when there is no error, and is
// signed only when a Signer says so. Without content there must be no signer
// either (RFC 8551 §3.8); a detached signature is ErrForm.
func ReadSigned(r io.Reader, content io.Writer) (*Signed, error) {
	s, err := (&signedReader{r: ber.NewReader(r), content: content}).read()
	if err != nil {
		return nil, fmt.Errorf("read signed data: %w", err)
	}
	return s, nil
}

// ReadDetached reads SignedData whose content stands elsewhere, and hashes that.
// With content inside it is ErrForm: nobody could say which one is signed.
// Without signers content is not read.
func ReadDetached(signature, content io.Reader) (*Signed, error) {
	s, err := (&signedReader{r: ber.NewReader(signature)}).read()
	if err != nil {
		return nil, fmt.Errorf("read detached signature: %w", err)
	}
	d := newDigester(s.hashes())
	if len(s.Signers) > 0 {
		if _, err := io.Copy(d, content); err != nil {
			return nil, fmt.Errorf("hash content: %w", err)
		}
	}
	s.settle(d)
	return s, nil
}

// signedReader reads one SignedData.
type signedReader struct {
	r       *ber.Reader
	content io.Writer     // nil: detached
	named   []crypto.Hash // at the head, those that can verify
	digests *digester     // of content that is inside
	Signed
}

func (p *signedReader) read() (*Signed, error) {
	oid, err := readContentInfo(p.r)
	if err != nil {
		return nil, err
	}
	if typeOf(oid) != TypeSigned {
		return nil, malformed("content type " + oid.String())
	}
	for _, step := range []func() error{
		func() error { return enter(p.r, ber.Universal, ber.Sequence) },
		p.version, p.digestAlgorithms, p.encapsulated, p.certificates, p.revocation, p.signers,
		p.r.Leave,
		func() error { return endContentInfo(p.r) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	for _, s := range p.Signers {
		if !slices.Contains(p.named, s.Hash) && verifies(s.Hash) {
			s.fail("digest is not named at the head") // RFC 5652 §5.1
		}
	}
	switch {
	case p.content == nil:
	case p.Content:
		p.settle(p.digests)
	case len(p.Signers) > 0:
		return nil, malformed("content is missing")
	}
	return &p.Signed, nil
}

// version is one of RFC 5652 §5.1. Which one is not held against what is there:
// too many writers have it wrong, and nothing hangs on it.
func (p *signedReader) version() error {
	v, err := readVersion(p.r)
	if err == nil && v != 1 && (v < 3 || v > 5) {
		err = malformed("version")
	}
	return err
}

func (p *signedReader) digestAlgorithms() error {
	if err := enter(p.r, ber.Universal, ber.Set); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if _, err := p.r.Next(); err != nil {
			return leave(p.r, err)
		}
		if n == maxDigests {
			return fmt.Errorf("too many digest algorithms: %w", ErrLimit)
		}
		a, err := nextAlgorithm(p.r)
		if err != nil {
			return err
		}
		if h := hashOf(a); verifies(h) && !slices.Contains(p.named, h) {
			p.named = append(p.named, h)
		}
	}
}

// encapsulated reads the EncapsulatedContentInfo (RFC 5652 §5.2).
func (p *signedReader) encapsulated() (err error) {
	if err = enter(p.r, ber.Universal, ber.Sequence); err != nil {
		return err
	}
	if p.ContentType, err = readOID(p.r); err != nil {
		return err
	}
	switch _, err = p.r.Next(); {
	case err != nil:
		return leave(p.r, err)
	case p.content == nil:
		return malformed("detached signature with content in it")
	}
	if err = enter(p.r, ber.Context, 0); err != nil {
		return err
	}
	if err = expect(p.r, ber.Universal, ber.OctetString); err != nil {
		return err
	}
	p.Content, p.digests = true, newDigester(p.named)
	if _, err = io.Copy(io.MultiWriter(p.digests, p.content), p.r.Octets()); err != nil {
		return err
	}
	if err = p.r.Leave(); err != nil {
		return err
	}
	return p.r.Leave()
}

// optional enters the next element if it has the context-specific tag.
func (p *signedReader) optional(number uint32) (bool, error) {
	switch t, err := p.r.Next(); {
	case err != nil && err != io.EOF:
		return false, err
	case err == io.EOF || !t.Is(ber.Context, number):
		return false, nil
	}
	return true, p.r.Enter()
}

// certificates reads the CertificateSet (RFC 5652 §10.2.3).
func (p *signedReader) certificates() error {
	if there, err := p.optional(0); !there {
		return err
	}
	for left := maxCerts; ; {
		t, err := p.r.Next()
		switch {
		case err != nil:
			return leave(p.r, err)
		case !t.Is(ber.Universal, ber.Sequence): // RFC 5652 §10.2.2: attribute certificates and others
			if err := p.r.Skip(); err != nil {
				return err
			}
			continue
		}
		der, err := p.r.DER(min(left, maxCert))
		if err != nil {
			return err
		}
		p.Certs = append(p.Certs, der)
		left -= len(der)
	}
}

// revocation reads the RevocationInfoChoices (RFC 5652 §10.2.1).
func (p *signedReader) revocation() error {
	if there, err := p.optional(1); !there {
		return err
	}
	for left := maxCRLs; ; {
		t, err := p.r.Next()
		if err != nil {
			return leave(p.r, err)
		}
		if !t.Is(ber.Universal, ber.Sequence) && !t.Is(ber.Context, 1) {
			return malformed("revocation information")
		}
		der, err := p.r.DER(left)
		if err != nil {
			return err
		}
		left -= len(der)
		if t.Class == ber.Universal {
			p.CRLs = append(p.CRLs, der)
		} else if ocsp := otherRevocation(der); ocsp != nil {
			p.OCSP = append(p.OCSP, ocsp)
		}
	}
}

var oidOCSP = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 16, 2}

// otherRevocation is the OCSPResponse in an OtherRevocationInfoFormat, or nil.
func otherRevocation(der []byte) []byte {
	var oid asn1.ObjectIdentifier
	var response cryptobyte.String
	s := cryptobyte.String(der)
	if !s.ReadASN1(&s, cbasn1.Tag(1).ContextSpecific().Constructed()) || !s.ReadASN1ObjectIdentifier(&oid) ||
		!oid.Equal(oidOCSP) || !s.ReadASN1Element(&response, cbasn1.SEQUENCE) {
		return nil
	}
	return response
}

func (p *signedReader) signers() error {
	if err := enter(p.r, ber.Universal, ber.Set); err != nil {
		return err
	}
	for {
		if _, err := p.r.Next(); err != nil {
			return leave(p.r, err)
		}
		if len(p.Signers) == maxSigners {
			return fmt.Errorf("too many signers: %w", ErrLimit)
		}
		s, err := readSigner(p.r)
		if err != nil {
			return fmt.Errorf("read signer: %w", err)
		}
		p.Signers = append(p.Signers, s)
	}
}

// hashes are those that the signers need.
func (s *Signed) hashes() (need []crypto.Hash) {
	for _, signer := range s.Signers {
		if verifies(signer.Hash) && !slices.Contains(need, signer.Hash) {
			need = append(need, signer.Hash)
		}
	}
	return need
}

// settle tells the signers what the content is.
func (s *Signed) settle(d *digester) {
	for _, signer := range s.Signers {
		signer.settle(s.ContentType, d)
	}
}

// digester hashes content.
type digester struct {
	names  []crypto.Hash
	hashes []hash.Hash
	head   []byte // the first bytes
}

// headSize is how much of the content the digester keeps.
const headSize = 64

func newDigester(names []crypto.Hash) *digester {
	d := &digester{names: names, head: make([]byte, 0, headSize)}
	for _, name := range names {
		d.hashes = append(d.hashes, name.New())
	}
	return d
}

// Write implements io.Writer.
func (d *digester) Write(p []byte) (int, error) {
	if len(d.head) < headSize {
		d.head = append(d.head, p[:min(len(p), headSize-len(d.head))]...)
	}
	for _, h := range d.hashes {
		h.Write(p)
	}
	return len(p), nil
}

// sum is the digest by name, or nil if there is none.
func (d *digester) sum(name crypto.Hash) []byte {
	if i := slices.Index(d.names, name); i >= 0 {
		return d.hashes[i].Sum(nil)
	}
	return nil
}
