package chain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Sizes of RSA keys, in bits: below, they are weak (R14); above, one check
// costs more than a mail may.
const (
	minRSA = 2048
	maxRSA = 8192
)

// strong lists the algorithms of signatures that are believed. It has no
// MD5, SHA-1 and DSA (R14), and nothing gets in by being new.
var strong = map[x509.SignatureAlgorithm]bool{
	x509.SHA256WithRSA: true, x509.SHA384WithRSA: true, x509.SHA512WithRSA: true,
	x509.SHA256WithRSAPSS: true, x509.SHA384WithRSAPSS: true, x509.SHA512WithRSAPSS: true,
	x509.ECDSAWithSHA256: true, x509.ECDSAWithSHA384: true, x509.ECDSAWithSHA512: true,
	x509.PureEd25519: true,
}

// signedBy checks that the key of a certificate made a signature; ErrWeak
// where it would not count, ErrUntrusted where it is wrong.
func signedBy(signer *x509.Certificate, algorithm x509.SignatureAlgorithm, signed, signature []byte) error {
	if !strong[algorithm] {
		return fmt.Errorf("signature by %v: %w", algorithm, ErrWeak)
	}
	if err := strongKey(signer); err != nil {
		return err
	}
	if signer.CheckSignature(algorithm, signed, signature) != nil {
		return fmt.Errorf("wrong signature: %w", ErrUntrusted)
	}
	return nil
}

// strongKey checks the public key of a certificate.
func strongKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		switch n := k.N.BitLen(); {
		case n < minRSA:
			return fmt.Errorf("%s has an RSA key of %d bits: %w", name(c), n, ErrWeak)
		case n > maxRSA:
			return fmt.Errorf("%s has an RSA key of %d bits, more than %d: %w", name(c), n, maxRSA, ErrForm)
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case nil:
		if agrees(c) {
			return nil
		}
	}
	return fmt.Errorf("%s has a key of %v, or on a curve that is not taken: %w", name(c), c.PublicKeyAlgorithm, ErrWeak)
}

// agrees reports whether the key of a certificate is for X25519 (RFC 8410 §4),
// which crypto/x509 does not read.
func agrees(c *x509.Certificate) bool {
	return len(c.RawSubjectPublicKeyInfo) == 44 && bytes.HasPrefix(c.RawSubjectPublicKeyInfo, []byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00"))
}
