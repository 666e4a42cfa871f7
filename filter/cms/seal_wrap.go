package cms

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// wrap is a RecipientInfo (RFC 5652 §6.2) with the content key for c, and
// whether it is one of key agreement.
func (r SealRequest) wrap(c *x509.Certificate, key []byte) (info []byte, agreed bool, err error) {
	holder := c.PublicKey
	if holder == nil { // crypto/x509 leaves keys alone that make no signatures
		if holder, err = x509.ParsePKIXPublicKey(c.RawSubjectPublicKeyInfo); err != nil {
			return nil, false, fmt.Errorf("key of the certificate: %w", ErrAlgorithm)
		}
	}
	switch pub := holder.(type) {
	case *rsa.PublicKey:
		info, err = wrapTransport(c, pub, key, r.OAEP)
		return info, false, err
	case *ecdsa.PublicKey:
		point, err := pub.ECDH()
		if err != nil {
			return nil, false, fmt.Errorf("curve of the key: %w", ErrAlgorithm)
		}
		info, err = wrapAgreement(c, point, key)
		return info, true, err
	case *ecdh.PublicKey:
		info, err = wrapAgreement(c, pub, key)
		return info, true, err
	}
	return nil, false, fmt.Errorf("key of type %T: %w", holder, ErrAlgorithm)
}

// addIssuerAndSerial prints an IssuerAndSerialNumber (RFC 5652 §10.2.4), which
// everybody reads.
func addIssuerAndSerial(b *cryptobyte.Builder, c *x509.Certificate) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(c.RawIssuer)
		b.AddASN1BigInt(c.SerialNumber)
	})
}

// oaepParams are RSAES-OAEP-params with SHA-256 in both places and no label
// (RFC 4055 §4.1): rSAES-OAEP-SHA256-Params.
var oaepParams = []byte{
	0x30, 0x2f,
	0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
	0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08,
	0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
}

// wrapTransport is a KeyTransRecipientInfo (RFC 5652 §6.2.1).
func wrapTransport(c *x509.Certificate, pub *rsa.PublicKey, key []byte, oaep bool) ([]byte, error) {
	a := algorithm{oidRSA, null}
	var wrapped []byte
	var err error
	if oaep {
		a = algorithm{oidOAEP, oaepParams}
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, key, nil)
	} else {
		//lint:ignore SA1019 RFC 3370 §4.2.1: for many the only one
		wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	}
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		addIssuerAndSerial(b, c)
		a.add(b)
		b.AddASN1OctetString(wrapped)
	})
	return b.Bytes()
}

// agreement is how a sender agrees with the keys of a curve.
type agreement struct {
	key    algorithm // of the ephemeral key
	scheme asn1.ObjectIdentifier
	hash   crypto.Hash
	hkdf   bool
}

func agreementOf(curve ecdh.Curve) (agreement, bool) {
	ec := algorithm{oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}} // RFC 5753 §3.1.1: no parameters
	switch curve {
	case ecdh.P256():
		return agreement{ec, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 1}, crypto.SHA256, false}, true
	case ecdh.P384():
		return agreement{ec, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 2}, crypto.SHA384, false}, true
	case ecdh.P521():
		return agreement{ec, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 3}, crypto.SHA512, false}, true
	case ecdh.X25519(): // RFC 8418 §2, RFC 8410 §3
		x := algorithm{oid: asn1.ObjectIdentifier{1, 3, 101, 110}}
		return agreement{x, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 3, 19}, crypto.SHA256, true}, true
	}
	return agreement{}, false
}

// keyWraps are the AES key wraps (RFC 3565 §2.3.2) by the length of the key.
var keyWraps = map[int]asn1.ObjectIdentifier{
	16: {2, 16, 840, 1, 101, 3, 4, 1, 5},
	24: {2, 16, 840, 1, 101, 3, 4, 1, 25},
	32: {2, 16, 840, 1, 101, 3, 4, 1, 45},
}

// wrapAgreement is a KeyAgreeRecipientInfo (RFC 5652 §6.2.2) with an ephemeral
// key of its own.
func wrapAgreement(c *x509.Certificate, theirs *ecdh.PublicKey, key []byte) ([]byte, error) {
	how, ok := agreementOf(theirs.Curve())
	if !ok {
		return nil, fmt.Errorf("curve of the key: %w", ErrAlgorithm)
	}
	ours, err := theirs.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := ours.ECDH(theirs) // as long as the field: leading zeros stay
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	wrap, err := algorithm{oid: keyWraps[len(key)]}.der()
	if err != nil {
		return nil, err
	}
	kek, err := how.derive(secret, wrap, len(key))
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	wrapped, err := wrapAES(kek, key)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1Int64(3)
		b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) {
				how.key.add(b)
				b.AddASN1BitString(ours.PublicKey().Bytes())
			})
		})
		algorithm{how.scheme, wrap}.add(b)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addIssuerAndSerial(b, c)
				b.AddASN1OctetString(wrapped)
			})
		})
	})
	return b.Bytes()
}

// derive is the key-encryption key of size bytes from a shared secret, bound
// to the algorithm that it is for by ECC-CMS-SharedInfo (RFC 5753 §7.2).
func (a agreement) derive(secret, wrap []byte, size int) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(wrap)
		b.AddASN1(context2.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(binary.BigEndian.AppendUint32(nil, uint32(size)*8))
		})
	})
	info, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	if a.hkdf { // RFC 8418 §2.2
		return hkdf.Key(a.hash.New, secret, nil, string(info), size)
	}
	h := a.hash.New() // X9.63: one round, as no hash here is shorter than a key
	h.Write(secret)
	h.Write([]byte{0, 0, 0, 1})
	h.Write(info)
	return h.Sum(nil)[:size], nil
}

// wrapAES is RFC 3394 §2.2.1.
func wrapAES(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	const half = aes.BlockSize / 2
	out := append([]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}, key...)
	n := len(key) / half
	var b [aes.BlockSize]byte
	copy(b[:], out[:half])
	for t := 1; t <= 6*n; t++ {
		r := out[(1+(t-1)%n)*half:][:half]
		copy(b[half:], r)
		block.Encrypt(b[:], b[:])
		copy(r, b[half:])
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])^uint64(t))
	}
	copy(out, b[:half])
	clear(b[:])
	return out, nil
}
