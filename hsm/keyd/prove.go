package keyd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm"
)

// digestInfo stands before a SHA-256 digest in PKCS#1 v1.5 (RFC 8017 §9.2 note 1).
var digestInfo = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

// Prove implements hsm.Keeper. The key may not sign in the token (CKA_SIGN is
// false), but decryption without padding is the same power modulo the same
// number, so the padded digest is "decrypted". The signature is checked with
// the public key before it leaves.
//
// Abuse: with a digest, or a block, chosen by the caller this would be a
// signing service for every key that opens, and with any block a decryption
// service that no padding limits. So the caller brings the text that is
// signed, it is a request for a certificate of this very key and nothing else
// (checkInfo), and digest and padding are made here.
func (c caller) Prove(ctx context.Context, id hsm.KeyID, info []byte) (sig []byte, err error) {
	r := c.begin(ctx, "prove", id)
	defer r.end(&err)
	key, err := c.admit(r, id, hsm.Unwrap)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("prove possession of %s: only an RSA key for unwrapping can: %w", hsm.AlgorithmOf(key.Public), hsm.ErrRefused)
	case key.Retired:
		return nil, fmt.Errorf("prove possession: key is retired: %w", hsm.ErrRefused)
	}
	if err := checkInfo(pub, info); err != nil {
		return nil, fmt.Errorf("prove possession: %w", err)
	}
	digest := sha256.Sum256(info)
	em := emsa(digest[:], pub.Size())
	return enqueue(ctx, c.k.queueOf(key), func() ([]byte, error) {
		sig, err := use(c.k, func() ([]byte, error) {
			block, raw, err := c.k.device.Decrypt(id, em)
			if !raw && (err == nil || aboutInput(err)) {
				clear(block)
				return nil, fmt.Errorf("prove possession: the module offers no RSA without padding: %w", hsm.ErrInvalid)
			}
			return block, err
		})
		if err == nil && rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
			clear(sig)
			c.k.log.Error("the token made a wrong proof of possession", "key", id.String())
			return nil, hsm.ErrOpaque
		}
		return sig, err
	})
}

// emsa is EMSA-PKCS1-v1_5 of a SHA-256 digest in size bytes (RFC 8017 §9.2),
// at least 62; that of the smallest key has 128.
func emsa(digest []byte, size int) []byte {
	em := bytes.Repeat([]byte{0xff}, size)
	tail := append(append([]byte{0}, digestInfo...), digest...)
	em[0], em[1] = 0, 1
	copy(em[size-len(tail):], tail)
	return em
}

// checkInfo holds that info is the CertificationRequestInfo (RFC 2986 §4.1) of
// a request for key, in DER, and that nothing is before, between or behind:
// version 0, a Name, exactly this public key, attributes. hsm.ErrRefused for
// another key, hsm.ErrInvalid for the rest.
//
// What is inside of names and attributes is the authority's to judge. It is
// looked at only so far that nothing else begins so: in a certificate or a
// list without a version an algorithm stands where the name is here, the
// signed attributes of CMS are a SET, OCSP and CRMF have other fields, and no
// other text that is signed holds the signer's own key in this place.
func checkInfo(key *rsa.PublicKey, info []byte) error {
	bad := func(what string) error { return fmt.Errorf("certification request: %s: %w", what, hsm.ErrInvalid) }
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return bad("public key")
	}
	if len(info) > hsm.MaxInfo {
		return bad(fmt.Sprintf("more than %d bytes", hsm.MaxInfo))
	}
	var s, version, name, public, attributes cryptobyte.String
	rest := cryptobyte.String(info)
	if !rest.ReadASN1(&s, asn1.SEQUENCE) || !rest.Empty() {
		return bad("not one SEQUENCE")
	}
	if !s.ReadASN1(&version, asn1.INTEGER) || !bytes.Equal(version, []byte{0}) {
		return bad("version")
	}
	if !s.ReadASN1(&name, asn1.SEQUENCE) {
		return bad("subject")
	}
	for !name.Empty() {
		if !name.SkipASN1(asn1.SET) {
			return bad("subject")
		}
	}
	if !s.ReadASN1Element(&public, asn1.SEQUENCE) {
		return bad("public key")
	}
	if !s.ReadASN1(&attributes, asn1.Tag(0).ContextSpecific().Constructed()) || !s.Empty() {
		return bad("attributes")
	}
	for !attributes.Empty() {
		var a cryptobyte.String
		if !attributes.ReadASN1(&a, asn1.SEQUENCE) || !a.SkipASN1(asn1.OBJECT_IDENTIFIER) || !a.SkipASN1(asn1.SET) || !a.Empty() {
			return bad("attributes")
		}
	}
	if !bytes.Equal(public, spki) {
		return fmt.Errorf("certification request for another key: %w", hsm.ErrRefused)
	}
	return nil
}
