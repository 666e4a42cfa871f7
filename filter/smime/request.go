package smime

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

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
	Prover  Prover          // of a key that opens
}

// Prover makes the one signature of a key that opens, under its own request:
// hsm.Keeper.
type Prover interface {
	Prove(ctx context.Context, id hsm.KeyID, info []byte) ([]byte, error)
}

var (
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidEmailProtection = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}
	oidSmtpUTF8Mailbox = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 9}
)

// Request is a PKCS#10 request (RFC 2986) in DER, for the address and
// emailProtection. The token signs it, as proof that the key is there, and the
// signature is checked before it is given out.
//
// A key that signs asks for digitalSignature. One that opens asks for
// keyEncipherment and makes no signature but this one, through s.Prover; that
// goes with RSA only, so for a curve and without a Prover the error is
// hsm.ErrRefused, and PublicKey is what such a key can be certified by. With a
// module that decrypts only what is padded it is hsm.ErrInvalid.
func Request(ctx context.Context, token hsm.Token, s RequestSpec) ([]byte, error) {
	signer, err := s.signer(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	extensions, err := s.extensions()
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: s.Subject, ExtraExtensions: extensions, SignatureAlgorithm: signatureFor(s.Key.Public)}, signer)
	if errors.Is(err, hsm.ErrInvalid) && s.Key.Usage == hsm.Unwrap {
		return nil, fmt.Errorf("request certificate: key %s cannot prove itself, as the module of its token decrypts only what is padded: %w", s.Key.ID, err)
	}
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

// signer is what signs the request: the key, or the prover of one that opens.
func (s RequestSpec) signer(ctx context.Context, token hsm.Token) (crypto.Signer, error) {
	if s.Key.Usage != hsm.Unwrap {
		return client.Signer(ctx, token, s.Key)
	}
	if _, ok := s.Key.Public.(*rsa.PublicKey); !ok || s.Prover == nil || s.Key.Retired {
		return nil, fmt.Errorf("key %s opens mail and cannot sign its own request, which only an active RSA key can, where keys are kept; give the authority its public key instead: %w", s.Key.ID, hsm.ErrRefused)
	}
	return proof{ctx, s.Prover, s.Key}, nil
}

// proof is a key that opens in the clothes of crypto.MessageSigner.
type proof struct {
	ctx    context.Context
	prover Prover
	key    hsm.Key
}

// Public implements crypto.Signer.
func (p proof) Public() crypto.PublicKey { return p.key.Public }

// Sign implements crypto.Signer: no digest is signed.
func (p proof) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("sign with key %s that opens: %w", p.key.ID, hsm.ErrRefused)
}

// SignMessage implements crypto.MessageSigner.
func (p proof) SignMessage(_ io.Reader, info []byte, _ crypto.SignerOpts) ([]byte, error) {
	if len(info) > hsm.MaxInfo {
		return nil, fmt.Errorf("request of %d bytes, at most %d", len(info), hsm.MaxInfo)
	}
	return p.prover.Prove(p.ctx, p.key.ID, info)
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
	bits := asn1.BitString{Bytes: []byte{0x80}, BitLength: 1} // digitalSignature
	if s.Key.Usage == hsm.Unwrap {
		bits = asn1.BitString{Bytes: []byte{0x20}, BitLength: 3} // keyEncipherment
	}
	usage, err := asn1.Marshal(bits)
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
