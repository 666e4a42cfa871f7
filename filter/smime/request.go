package smime

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/message"
	"postern/hsm"
	"postern/hsm/client"
)

// RequestSpec says what certificate an authority is asked for.
type RequestSpec struct {
	Key     hsm.Key
	Subject pkix.Name       // may be empty: the address is what counts
	Address message.Address // that it shall name
}

var (
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidEmailProtection = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}
	oidSmtpUTF8Mailbox = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 9}
)

// Request is a PKCS#10 request (RFC 2986) in DER for a key that signs. It
// asks for digitalSignature, emailProtection and the address; the token signs
// it, and the signature is checked before it is given out.
//
// A request is signed by its own key, as proof that it is there. A key that
// unwraps makes no signatures, not this one either: the error is
// hsm.ErrRefused, and PublicKey is what such a key can be certified by.
func Request(ctx context.Context, token hsm.Token, s RequestSpec) ([]byte, error) {
	if s.Key.Usage != hsm.Sign {
		return nil, fmt.Errorf("request certificate: key %s opens mail and may not sign its own request; give the authority its public key instead: %w", s.Key.ID, hsm.ErrRefused)
	}
	signer, err := client.Signer(ctx, token, s.Key)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	extensions, err := s.extensions()
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: s.Subject, ExtraExtensions: extensions, SignatureAlgorithm: signatureFor(s.Key.Public)}, signer)
	if err != nil {
		return nil, fmt.Errorf("request certificate: sign with %s: %w", s.Key.ID, err)
	}
	made, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = made.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("request certificate: signature of the token does not fit: %w", hsm.ErrOpaque)
	}
	return der, nil
}

// signatureFor gives each curve the hash of its size; the rest is the
// library's choice, SHA-256 or Ed25519.
func signatureFor(pub crypto.PublicKey) x509.SignatureAlgorithm {
	if k, ok := pub.(*ecdsa.PublicKey); ok {
		switch k.Curve {
		case elliptic.P384():
			return x509.ECDSAWithSHA384
		case elliptic.P521():
			return x509.ECDSAWithSHA512
		}
	}
	return 0
}

// PublicKey is a key of the token as SubjectPublicKeyInfo in PEM (RFC 7468
// §13), for an authority that certifies it without a signature of its own: the
// site's own one (openssl x509 -new -force_pubkey), or one that proves
// possession by encrypting to it (RFC 4211 §4.2).
func PublicKey(k hsm.Key) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("print public key %s: %w", k.ID, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func (s RequestSpec) extensions() ([]pkix.Extension, error) {
	if s.Address.IsZero() {
		return nil, fmt.Errorf("no address: %w", message.ErrAddress)
	}
	name, err := subjectAltName(s.Address)
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}) // digitalSignature
	if err != nil {
		return nil, err
	}
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{oidEmailProtection})
	if err != nil {
		return nil, err
	}
	return []pkix.Extension{
		{Id: oidKeyUsage, Critical: true, Value: usage},
		{Id: oidExtKeyUsage, Value: purpose},
		{Id: oidSAN, Value: name},
	}, nil
}

// subjectAltName names an address: rfc822Name (RFC 5280 §4.2.1.6), or
// SmtpUTF8Mailbox where its local part is not ASCII (RFC 9598 §3). Domains are
// in A-labels in both.
func subjectAltName(a message.Address) ([]byte, error) {
	printed, plain := a.ASCII()
	if _, err := message.ParseAddress(printed); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if plain {
			b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(printed)) })
			return
		}
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidSmtpUTF8Mailbox)
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(printed)) })
			})
		})
	})
	return b.Bytes()
}
