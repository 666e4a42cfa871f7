package smime

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/keyring"
	"postern/filter/protect"
	"postern/hsm"
)

// Sizes of RSA keys that are sealed to or believed, in bits (R14). Beyond the
// upper one a signature costs more to check than to send.
const (
	minRSA = 2048
	maxRSA = 16384
)

// Kinds of recipients: programs that read the one often can't read a message
// that is also for the other.
const (
	classRSA    = "rsa"
	classEC     = "ec"
	classX25519 = "x25519"
)

// Class is "rsa", "ec" (NIST curves), "x25519", or "" for what nothing is sealed to.
func (*Protector) Class(c keyring.Cert) string {
	x, err := parseCert(c)
	if err != nil {
		return ""
	}
	return classOf(x)
}

func classOf(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return classRSA
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return classEC
		}
	case *ecdh.PublicKey:
		if k.Curve() == ecdh.X25519() {
			return classX25519
		}
	}
	return ""
}

// Usable tells whether mail can be sealed to the certificate at the time; if
// not, the error says why and is protect.ErrNoCert. Its trust is the keyring's word.
func (*Protector) Usable(c keyring.Cert, at time.Time) error {
	_, err := recipientOf(c, at)
	return err
}

// recipientOf reads a certificate to seal to.
func recipientOf(c keyring.Cert, at time.Time) (*x509.Certificate, error) {
	x, err := parseCert(c)
	switch {
	case err != nil:
	case !maySeal(x):
		err = fmt.Errorf("not for encryption")
	default:
		err = fit(x, at)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w: %w", c.Fingerprint, err, protect.ErrNoCert)
	}
	return x, nil
}

// Signs tells whether the identity can sign at the time, and why not.
func (*Protector) Signs(i keyring.Identity, at time.Time) error {
	_, err := signerOf(i, at)
	return err
}

// signerOf reads a certificate of ours to sign with.
func signerOf(i keyring.Identity, at time.Time) (*x509.Certificate, error) {
	x, err := parseCert(i.Cert)
	switch {
	case err != nil:
	case len(i.KeyIDs) != 1:
		err = fmt.Errorf("its key is none of a token: %w", hsm.ErrRefused)
	case !maySign(x) || i.Use == hsm.Unwrap:
		err = fmt.Errorf("not for signatures: %w", hsm.ErrRefused)
	default:
		if err = fit(x, at); err != nil {
			err = fmt.Errorf("%w: %w", err, hsm.ErrRefused)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", i.Fingerprint, err)
	}
	return x, nil
}

// parseCert reads the certificate of an entry of the keyring.
func parseCert(c keyring.Cert) (*x509.Certificate, error) {
	if c.Format != keyring.SMIME {
		return nil, fmt.Errorf("format %q", c.Format)
	}
	x, err := parse(c.Raw)
	if err != nil {
		return nil, fmt.Errorf("malformed")
	}
	if fingerprint(x.Raw) != c.Fingerprint {
		return nil, fmt.Errorf("its bytes are another's")
	}
	return x, nil
}

// parse is x509.ParseCertificate, and reads keys for X25519 (RFC 8410 §4),
// which that leaves out.
func parse(der []byte) (*x509.Certificate, error) {
	x, err := x509.ParseCertificate(der)
	if err != nil || x.PublicKey != nil {
		return x, err
	}
	if k, err := x509.ParsePKIXPublicKey(x.RawSubjectPublicKeyInfo); err == nil {
		x.PublicKey = k
	}
	return x, nil
}

// fingerprint names a certificate.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// fit is nil for a certificate of a user of mail that is valid at the time,
// has a key that holds, and demands nothing that is not known here.
func fit(c *x509.Certificate, at time.Time) error {
	switch {
	case at.Before(c.NotBefore):
		return fmt.Errorf("not valid yet")
	case at.After(c.NotAfter):
		return fmt.Errorf("expired")
	case weakKey(c):
		return fmt.Errorf("weak or unknown key")
	case c.IsCA:
		return fmt.Errorf("certificate of an authority")
	case !forMail(c):
		return fmt.Errorf("not for mail")
	case slices.ContainsFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool { return !id.Equal(oidSAN) }): // names are read by package chain
		return fmt.Errorf("critical extension that is not known")
	}
	return nil
}

// weakKey reports whether nothing may rest on the key (R14).
func weakKey(c *x509.Certificate) bool {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() < minRSA || k.N.BitLen() > maxRSA || k.E < 3 || k.E%2 == 0
	case ed25519.PublicKey:
		return false
	}
	return classOf(c) == ""
}

// forMail reports whether the extended key usage admits mail (RFC 8550 §4.4.4).
// Without one it is the word of the keyring that counts.
func forMail(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// maySign reports whether key and key usage are for signatures (RFC 8550 §4.4.2).
func maySign(c *x509.Certificate) bool {
	switch c.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return c.KeyUsage == 0 || c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) != 0
	}
	return false
}

// maySeal reports whether key and key usage are for content keys (RFC 8550
// §4.4.2): transported with RSA, agreed on with curves.
func maySeal(c *x509.Certificate) bool {
	switch classOf(c) {
	case classRSA:
		return c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageKeyEncipherment != 0
	case classEC, classX25519:
		return c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageKeyAgreement != 0
	}
	return false
}
