package cms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// RSA keys are accepted between these sizes, in bits: shorter ones are weak
// (RFC 8551 §4.3), and longer ones only cost time.
const (
	minRSA = 2048
	maxRSA = 16384
)

// scheme is a way to sign.
type scheme uint8

const (
	unknownScheme scheme = iota
	pkcs1
	pss
	ecdsaScheme
	ed25519Scheme
	dsaScheme // recognised only
)

// signatures are the SignatureAlgorithmIdentifiers. Where the hash is not part
// of the name, it is that of the signer.
var signatures = []struct {
	oid    asn1.ObjectIdentifier
	scheme scheme
	hash   crypto.Hash
}{
	{oidRSA, pkcs1, 0}, // RFC 3370 §3.2
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, pkcs1, crypto.SHA256}, // RFC 5754 §3.2
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, pkcs1, crypto.SHA384},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, pkcs1, crypto.SHA512},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 14}, pkcs1, crypto.SHA224},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, pkcs1, crypto.SHA1},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, pkcs1, crypto.MD5},
	{oidPSS, pss, 0}, // RFC 4056 §3
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, ecdsaScheme, crypto.SHA256}, // RFC 5754 §3.3
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, ecdsaScheme, crypto.SHA384},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, ecdsaScheme, crypto.SHA512},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}, ecdsaScheme, crypto.SHA224},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, ecdsaScheme, crypto.SHA1},
	{oidECKey, ecdsaScheme, 0},                                    // no standard: some name the key instead
	{oidEd25519, ed25519Scheme, crypto.SHA512},                    // RFC 8419 §3
	{asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, dsaScheme, 0}, // RFC 3370 §3.1
	{asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 3}, dsaScheme, crypto.SHA1},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 1}, dsaScheme, crypto.SHA224},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 2}, dsaScheme, crypto.SHA256},
}

var (
	oidECKey   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // id-ecPublicKey
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// verifies reports whether a digest with the hash means anything.
func verifies(h crypto.Hash) bool {
	return h == crypto.SHA256 || h == crypto.SHA384 || h == crypto.SHA512 || h == crypto.SHA224
}

func weak(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrAlgorithm)...)
}

// Verify says that the owner of the key of c signed the content and the signed
// attributes. Whether c is the certificate that the signer names (Names), is
// valid, trusted and meant for signing is for the caller to find out.
//
// The error is ErrBadSignature when anything does not fit, and ErrAlgorithm
// when an algorithm is unknown or too weak to tell: MD5, SHA-1, DSA, RSA below
// 2048 bits, other curves than P-256, P-384 and P-521, and Ed25519 without
// signed attributes, which can't be checked in a stream (RFC 8419 §3).
func (s *Signer) Verify(c *x509.Certificate) error {
	if s.fault != nil {
		return fmt.Errorf("verify signature: %w", s.fault)
	}
	if err := s.verify(c); err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	return nil
}

func (s *Signer) verify(c *x509.Certificate) error {
	if !verifies(s.Hash) {
		return weak("digest %s", s.digest.oid)
	}
	way, err := s.way()
	if err != nil {
		return err
	}
	digest := s.sum
	if s.attributes != nil {
		h := s.Hash.New()
		h.Write(s.attributes)
		digest = h.Sum(nil)
	}
	if digest == nil {
		return fmt.Errorf("content is not there: %w", ErrBadSignature)
	}
	good := false
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return weak("RSA of %d bits", n)
		}
		switch way {
		case pkcs1:
			good = rsa.VerifyPKCS1v15(k, s.Hash, digest, s.value) == nil
		case pss:
			salt, err := saltLength(s.signature.params, s.Hash)
			if err != nil {
				return err
			}
			good = rsa.VerifyPSS(k, s.Hash, digest, s.value, &rsa.PSSOptions{SaltLength: salt}) == nil
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return weak("curve %s", k.Curve.Params().Name)
		}
		good = way == ecdsaScheme && ecdsa.VerifyASN1(k, digest, s.value)
	case ed25519.PublicKey:
		if way == ed25519Scheme && s.attributes == nil {
			return weak("Ed25519 without signed attributes")
		}
		good = way == ed25519Scheme && ed25519.Verify(k, s.attributes, s.value)
	default:
		return weak("key of type %T", c.PublicKey)
	}
	if !good {
		return ErrBadSignature
	}
	return nil
}

// way is how the signature was made, if its algorithm goes with the digest.
func (s *Signer) way() (scheme, error) {
	for _, a := range signatures {
		if !a.oid.Equal(s.signature.oid) {
			continue
		}
		bare := s.signature.bare()
		switch {
		case a.scheme == dsaScheme || a.hash != 0 && !verifies(a.hash):
			return 0, weak("signature %s", a.oid)
		case a.hash != 0 && a.hash != s.Hash:
			return 0, weak("signature %s with digest %s", a.oid, s.Hash)
		case !bare && a.scheme != pss && !a.oid.Equal(oidECKey):
			return 0, weak("parameters of signature %s", a.oid)
		}
		return a.scheme, nil
	}
	return 0, weak("signature %s", s.signature.oid)
}

// saltLength reads RSASSA-PSS-params (RFC 4055 §3.1, RFC 8017 §A.2.3) and
// holds them against the digest (RFC 4056 §3). What is left out stands for
// SHA-1 with a salt of 20 bytes.
func saltLength(params []byte, hash crypto.Hash) (int, error) {
	s := cryptobyte.String(params)
	var in, field cryptobyte.String
	if !s.ReadASN1(&in, cbasn1.SEQUENCE) || !s.Empty() {
		return 0, weak("parameters of PSS")
	}
	digest, mgf := digestAlgorithm(crypto.SHA1, null), algorithm{oidMGF1, nil}
	mgfDigest, salt, trailer := digest, 20, 1
	there := false
	optional := func(tag cbasn1.Tag) bool {
		return in.ReadOptionalASN1(&field, &there, tag.ContextSpecific().Constructed())
	}
	ok := optional(0) && (!there || readAlgorithm(&field, &digest) && field.Empty()) &&
		optional(1) && (!there || readAlgorithm(&field, &mgf) && field.Empty())
	if ok && there {
		inner := cryptobyte.String(mgf.params)
		ok = readAlgorithm(&inner, &mgfDigest) && inner.Empty()
	}
	ok = ok && optional(2) && (!there || field.ReadASN1Integer(&salt) && field.Empty()) &&
		optional(3) && (!there || field.ReadASN1Integer(&trailer) && field.Empty()) && in.Empty()
	switch {
	case !ok:
		return 0, weak("parameters of PSS")
	case hashOf(digest) != hash || !mgf.oid.Equal(oidMGF1) || hashOf(mgfDigest) != hash || trailer != 1:
		return 0, weak("PSS with other hashes than %s", hash)
	case salt < 0 || salt > maxSignature:
		return 0, weak("PSS with a salt of %d bytes", salt)
	}
	return salt, nil // of 0, crypto/rsa takes any length
}

// pssParams is what saltLength reads, with a salt as long as the hash.
func pssParams(hash crypto.Hash) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(context0.Constructed(), digestAlgorithm(hash, null).add)
		b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidMGF1)
				digestAlgorithm(hash, null).add(b)
			})
		})
		b.AddASN1(context2.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(hash.Size())) })
	})
	return b.Bytes()
}
