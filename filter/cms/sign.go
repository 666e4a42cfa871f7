package cms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
	"postern/hsm"
)

// SignRequest says who signs and what goes along.
type SignRequest struct {
	Token        hsm.Token
	Key          hsm.KeyID             // the pair of Cert
	Cert         *x509.Certificate     // names the signer, and comes along
	Others       []*x509.Certificate   // come along: the chain above Cert
	EncryptTo    *x509.Certificate     // comes along, to be answered to; or nil
	Capabilities Capabilities          // of who signs; nil: not told
	PSS          bool                  // RSASSA-PSS in the place of PKCS #1 v1.5; for RSA keys only
	At           time.Time             // signing time; zero: not told
	ContentType  asn1.ObjectIdentifier // nil: data
}

// algorithms are what a key signs with: RFC 5754 §3.2, RFC 4056 §3, RFC 8419
// §3, and for ECDSA a hash of the size of the curve (RFC 5753 §7.1.3).
func (r *SignRequest) algorithms() (hash crypto.Hash, alg hsm.SignAlg, signature algorithm, err error) {
	switch k := r.Cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA {
			return 0, 0, algorithm{}, weak("RSA of %d bits", n)
		}
		if r.PSS {
			params, err := pssParams(crypto.SHA256)
			return crypto.SHA256, hsm.PSSSHA256, algorithm{oidPSS, params}, err
		}
		return crypto.SHA256, hsm.PKCS1SHA256, algorithm{oidRSA, null}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			hash = crypto.SHA256
		case elliptic.P384():
			hash = crypto.SHA384
		case elliptic.P521():
			hash = crypto.SHA512
		default:
			return 0, 0, algorithm{}, weak("curve %s", k.Curve.Params().Name)
		}
		for _, a := range signatures {
			if a.scheme == ecdsaScheme && a.hash == hash {
				signature.oid = a.oid
			}
		}
		return hash, hsm.ECDSA, signature, nil
	case ed25519.PublicKey:
		return crypto.SHA512, hsm.PureEdDSA, algorithm{oid: oidEd25519}, nil
	}
	return 0, 0, algorithm{}, weak("key of type %T", r.Cert.PublicKey)
}

// Signing is a signature that is being made: what is signed is written to it,
// and Finish makes the one call of the token.
type Signing struct {
	request   SignRequest
	hash      hash.Hash
	name      crypto.Hash
	alg       hsm.SignAlg
	signature algorithm
}

// NewSigning begins a signature. Nothing is asked of the token yet.
func NewSigning(r SignRequest) (*Signing, error) {
	if r.ContentType == nil {
		r.ContentType = oidData
	}
	s := &Signing{request: r}
	var err error
	if s.name, s.alg, s.signature, err = r.algorithms(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	switch id, err := hsm.IDOf(r.Cert.PublicKey); {
	case err != nil:
		return nil, fmt.Errorf("sign: %w", err)
	case id != r.Key:
		return nil, fmt.Errorf("sign: certificate is not of key %s: %w", r.Key, hsm.ErrInvalid)
	}
	s.hash = s.name.New()
	return s, nil
}

// Hash is the digest of the signature: micalg (RFC 8551 §3.5.3.2) names it.
func (s *Signing) Hash() crypto.Hash { return s.name }

// Write takes what is signed. It gives no error.
func (s *Signing) Write(p []byte) (int, error) { return s.hash.Write(p) }

// Finish has the token sign, and writes a detached signature in DER, but for
// the order of the certificates. Nothing is written when the token fails, or
// answers what the certificate does not verify (hsm.ErrOpaque).
func (s *Signing) Finish(ctx context.Context, w io.Writer) error {
	tail, err := s.tail(ctx)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSigned)
		b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				s.addHead(b)
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(s.request.ContentType) })
				b.AddBytes(tail)
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		return fmt.Errorf("print signature: %w", err)
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("write signature: %w", err)
	}
	return nil
}

// addHead prints version and digest algorithms (RFC 5652 §5.1).
func (s *Signing) addHead(b *cryptobyte.Builder) {
	if s.request.ContentType.Equal(oidData) {
		b.AddASN1Int64(1)
	} else {
		b.AddASN1Int64(3)
	}
	b.AddASN1(cbasn1.SET, digestAlgorithm(s.name, nil).add)
}

// tail signs, and prints what follows the content.
func (s *Signing) tail(ctx context.Context) ([]byte, error) {
	attributes, err := s.attributes()
	if err != nil {
		return nil, err
	}
	value, err := s.sign(ctx, attributes)
	if err != nil {
		return nil, err
	}
	r := &s.request
	var b cryptobyte.Builder
	b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
		var seen []*x509.Certificate
		for _, c := range append([]*x509.Certificate{r.Cert, r.EncryptTo}, r.Others...) {
			if c != nil && !slices.ContainsFunc(seen, c.Equal) {
				b.AddBytes(c.Raw)
				seen = append(seen, c)
			}
		}
	})
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // SignerInfo, RFC 5652 §5.3
			b.AddASN1Int64(1)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addCertID(b, r.Cert) })
			digestAlgorithm(s.name, nil).add(b)
			b.AddBytes(append([]byte{byte(context0.Constructed())}, attributes[1:]...))
			s.signature.add(b)
			b.AddASN1OctetString(value)
		})
	})
	return b.Bytes()
}

// addCertID prints the contents of an IssuerAndSerialNumber (RFC 5652 §10.2.4).
func addCertID(b *cryptobyte.Builder, c *x509.Certificate) {
	b.AddBytes(c.RawIssuer)
	b.AddASN1BigInt(c.SerialNumber)
}

// attributes are the signed attributes, as they are signed.
func (s *Signing) attributes() ([]byte, error) {
	var all []attribute
	var failed error
	put := func(oid asn1.ObjectIdentifier, add func(b *cryptobyte.Builder)) {
		var b cryptobyte.Builder
		add(&b)
		value, err := b.Bytes()
		failed = errors.Join(failed, err)
		all = append(all, attribute{oid, [][]byte{value}})
	}
	r := &s.request
	put(oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(r.ContentType) })
	put(oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(s.hash.Sum(nil)) })
	put(oidAlgorithmProtection, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			digestAlgorithm(s.name, nil).add(b)
			s.signature.addTagged(b, context1.Constructed())
		})
	})
	if !r.At.IsZero() {
		put(oidSigningTime, func(b *cryptobyte.Builder) { addTime(b, r.At) })
	}
	if r.Capabilities != nil {
		put(oidCapabilities, r.Capabilities.add)
	}
	if r.EncryptTo != nil {
		put(oidEncryptTo, func(b *cryptobyte.Builder) {
			b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) { addCertID(b, r.EncryptTo) })
		})
	}
	if failed != nil {
		return nil, fmt.Errorf("print attributes: %w", failed)
	}
	return printAttributes(all)
}

// sign makes the one call of the token, and checks what it answers.
func (s *Signing) sign(ctx context.Context, attributes []byte) ([]byte, error) {
	digest := attributes
	if s.alg != hsm.PureEdDSA {
		h := s.name.New()
		h.Write(attributes)
		digest = h.Sum(nil)
	}
	value, err := s.request.Token.Sign(ctx, s.request.Key, s.alg, digest)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.request.Key, err)
	}
	check := Signer{Hash: s.name, digest: digestAlgorithm(s.name, nil), signature: s.signature, value: value, attributes: attributes}
	if check.verify(s.request.Cert) != nil {
		return nil, fmt.Errorf("sign with %s: signature of the token does not fit: %w", s.request.Key, hsm.ErrOpaque)
	}
	return value, nil
}

// SignDetached writes a signature of content, and costs one token operation.
func SignDetached(ctx context.Context, w io.Writer, content io.Reader, r SignRequest) error {
	s, err := NewSigning(r)
	if err != nil {
		return err
	}
	if _, err := io.Copy(s, content); err != nil {
		return fmt.Errorf("hash content: %w", err)
	}
	return s.Finish(ctx, w)
}

// chunk is how many bytes of content are in one piece.
const chunk = 16 << 10

// SignOpaque writes content as it comes, with the signature behind it, in
// BER without lengths. It costs one token operation. What was written counts
// only when there is no error.
func SignOpaque(ctx context.Context, w io.Writer, content io.Reader, r SignRequest) error {
	s, err := NewSigning(r)
	if err != nil {
		return err
	}
	if err := s.opaque(ctx, w, content); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}

func (s *Signing) opaque(ctx context.Context, w io.Writer, content io.Reader) error {
	open := func(b *cryptobyte.Builder, t ber.Tag) {
		t.Constructed = true
		b.AddBytes(ber.AppendHeader(nil, t, ber.Indefinite))
	}
	sequence, explicit := ber.Tag{Number: ber.Sequence}, ber.Tag{Class: ber.Context}
	var b cryptobyte.Builder
	open(&b, sequence) // ContentInfo
	b.AddASN1ObjectIdentifier(oidSigned)
	open(&b, explicit)
	open(&b, sequence) // SignedData
	s.addHead(&b)
	open(&b, sequence) // EncapsulatedContentInfo
	b.AddASN1ObjectIdentifier(s.request.ContentType)
	open(&b, explicit)
	open(&b, ber.Tag{Number: ber.OctetString})
	head, err := b.Bytes()
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	chunks := ber.NewChunks(w, chunk)
	if _, err := io.Copy(io.MultiWriter(s, chunks), content); err != nil {
		return err
	}
	if err := chunks.Close(); err != nil {
		return err
	}
	tail, err := s.tail(ctx)
	if err != nil {
		return err
	}
	ends := func(n int) []byte { return make([]byte, n*len(ber.EndOfContents)) }
	_, err = w.Write(slices.Concat(ends(3), tail, ends(3)))
	return err
}
