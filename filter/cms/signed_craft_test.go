package cms

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
	"postern/hsm"
)

// crafted is SignedData that nobody in his right mind would make.
type crafted struct {
	key         crypto.Signer
	cert        *x509.Certificate
	hash        crypto.Hash // 0: SHA-256
	named       []algorithm // at the head; nil: the digest
	contentType asn1.ObjectIdentifier
	content     string
	detached    bool
	bare        bool // no signed attributes
	attributes  []attribute
	unsorted    bool // attributes stand in the message as they are given
	digest      *algorithm
	signature   algorithm
	version     int64 // of the SignerInfo; 0: 1
	keyID       bool
	unsigned    []attribute
	certs, crls [][]byte // elements of the sets
	signers     int      // copies; 0: one
	der         func(all []byte) []byte
}

// value is one element in DER.
func value(add func(b *cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	add(&b)
	return b.BytesOrPanic()
}

func sumOf(h crypto.Hash, content string) []byte {
	d := h.New()
	io.WriteString(d, content)
	return d.Sum(nil)
}

func one(oid asn1.ObjectIdentifier, values ...[]byte) attribute { return attribute{oid, values} }

func isType(oid asn1.ObjectIdentifier) attribute {
	return one(oidContentType, value(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) }))
}

func hasDigest(content string) attribute {
	return one(oidMessageDigest, value(func(b *cryptobyte.Builder) { b.AddASN1OctetString(sumOf(crypto.SHA256, content)) }))
}

func (c crafted) bytes(t testing.TB) []byte {
	t.Helper()
	if c.hash == 0 {
		c.hash = crypto.SHA256
	}
	if c.contentType == nil {
		c.contentType = oidData
	}
	digest := digestAlgorithm(c.hash, nil)
	if c.digest != nil {
		digest = *c.digest
	}
	if c.named == nil {
		c.named = []algorithm{digest}
	}
	if c.signature.oid == nil {
		c.signature = algorithm{oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	}
	signs := sumOf(c.hash, c.content)
	var attributes []byte
	if !c.bare {
		var err error
		if attributes, err = printAttributes(c.attributes); err != nil {
			t.Fatal(err)
		}
		signs = sumOf(c.hash, string(attributes))
		if c.unsorted {
			attributes = attributes[:0]
			for _, a := range c.attributes {
				one, err := printAttributes([]attribute{a})
				if err != nil {
					t.Fatal(err)
				}
				attributes = append(attributes, one[2:]...) // all are short
			}
			attributes = append(ber.AppendHeader(nil, ber.Tag{Class: ber.Context, Constructed: true}, int64(len(attributes))), attributes...)
		}
		attributes[0] = 0xa0
	}
	signed, err := c.key.Sign(rand.Reader, signs, c.hash)
	if err != nil {
		t.Fatal(err)
	}
	set := func(tag cbasn1.Tag, elements [][]byte) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) {
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(slices.Concat(elements...)) })
		}
	}
	signer := value(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(max(1, c.version))
			if c.keyID {
				b.AddASN1(context0, func(b *cryptobyte.Builder) { b.AddBytes(c.cert.SubjectKeyId) })
			} else {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addCertID(b, c.cert) })
			}
			digest.add(b)
			b.AddBytes(attributes)
			c.signature.add(b)
			b.AddASN1OctetString(signed)
			if c.unsigned != nil {
				all, err := printAttributes(c.unsigned)
				if err != nil {
					t.Fatal(err)
				}
				all[0] = 0xa1
				b.AddBytes(all)
			}
		})
	})
	signers := [][]byte{signer}
	if c.signers != 0 {
		signers = slices.Repeat(signers, max(0, c.signers))
	}
	out := value(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidSigned)
			b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1Int64(3)
					b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
						for _, a := range c.named {
							a.add(b)
						}
					})
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(c.contentType)
						if !c.detached {
							b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(c.content)) })
						}
					})
					if c.certs != nil {
						set(context0.Constructed(), c.certs)(b)
					}
					if c.crls != nil {
						set(context1.Constructed(), c.crls)(b)
					}
					set(cbasn1.SET, signers)(b)
				})
			})
		})
	})
	if c.der != nil {
		out = c.der(out)
	}
	return out
}

// What the attributes say is held against the content and against each other
// (RFC 5652 §5.4, §11, RFC 6211 §3).
func TestSignedRules(t *testing.T) {
	key := testKey(t, hsm.P256)
	cert := issue(t, key.Public())
	sha256, sha512 := digestAlgorithm(crypto.SHA256, nil), digestAlgorithm(crypto.SHA512, nil)
	withECDSA := func(last int) algorithm {
		return algorithm{oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, last}}
	}
	protection := func(digest, signature algorithm, more ...byte) attribute {
		return one(oidAlgorithmProtection, value(func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				digest.add(b)
				if signature.oid != nil {
					signature.addTagged(b, context1.Constructed())
				}
				b.AddBytes(more)
			})
		}))
	}
	at := func(text string) attribute {
		tag := cbasn1.UTCTime
		if len(text) > 13 {
			tag = cbasn1.GeneralizedTime
		}
		return one(oidSigningTime, value(func(b *cryptobyte.Builder) {
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
		}))
	}
	typed, digested := isType(oidData), hasDigest(entity)
	both := func(more ...attribute) []attribute { return append([]attribute{typed, digested}, more...) }
	double := func(a attribute) attribute { return one(a.oid, a.values[0], a.values[0]) }
	mac := value(sha256.add)
	mac[0] = 0xa2
	asContent, err := printAttributes(both())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		crafted
		want error
	}{
		{"good", crafted{attributes: both()}, nil},
		{"without attributes", crafted{bare: true}, nil},
		{"by key identifier", crafted{attributes: both(), keyID: true, version: 3}, nil},
		{"unsorted", crafted{attributes: []attribute{digested, typed, at("261125102030Z")}, unsorted: true}, nil},
		{"unsigned attributes", crafted{attributes: both(), unsigned: []attribute{one(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 6}, mac)}}, nil},
		{"time that nobody signed", crafted{attributes: both(), unsigned: []attribute{at("261125102030Z")}}, ErrBadSignature},
		{"digest that nobody signed", crafted{bare: true, unsigned: []attribute{digested}}, ErrBadSignature},
		{"no content type", crafted{attributes: []attribute{digested}}, ErrBadSignature},
		{"content type twice", crafted{attributes: both(typed)}, ErrBadSignature},
		{"two content types in one", crafted{attributes: []attribute{double(typed), digested}}, ErrBadSignature},
		{"no value", crafted{attributes: []attribute{one(oidContentType), digested}}, ErrBadSignature},
		{"other content type", crafted{attributes: []attribute{isType(oidEnveloped), digested}}, ErrBadSignature},
		{"content of another type", crafted{contentType: oidEnveloped, attributes: both()}, ErrBadSignature},
		{"content of another type, told so", crafted{contentType: oidSigned, attributes: []attribute{isType(oidSigned), digested}}, nil},
		{"no digest", crafted{attributes: []attribute{typed}}, ErrBadSignature},
		{"digest twice", crafted{attributes: both(digested)}, ErrBadSignature},
		{"two digests in one", crafted{attributes: []attribute{typed, double(digested)}}, ErrBadSignature},
		{"another digest", crafted{attributes: []attribute{typed, hasDigest("x")}}, ErrBadSignature},
		{"digest of another kind", crafted{attributes: []attribute{typed, one(oidMessageDigest, null)}}, ErrBadSignature},
		{"time", crafted{attributes: both(at("261125102030Z"))}, nil},
		{"long time", crafted{attributes: both(at("20261125102030Z"))}, nil},
		{"time that is none", crafted{attributes: both(at("26112510203xZ"))}, ErrBadSignature},
		{"time twice", crafted{attributes: both(at("261125102030Z"), at("261125102030Z"))}, ErrBadSignature},
		{"protected algorithms", crafted{attributes: both(protection(sha256, withECDSA(2)))}, nil},
		{"protected NULL", crafted{attributes: both(protection(digestAlgorithm(crypto.SHA256, null), withECDSA(2)))}, nil},
		{"another digest is protected", crafted{attributes: both(protection(sha512, withECDSA(2)))}, ErrBadSignature},
		{"another signature is protected", crafted{attributes: both(protection(sha256, withECDSA(4)))}, ErrBadSignature},
		{"a MAC is protected", crafted{attributes: both(protection(sha256, withECDSA(2), mac...))}, ErrBadSignature},
		{"no signature is protected", crafted{attributes: both(protection(sha256, algorithm{}))}, ErrBadSignature},
		{"digest is not at the head", crafted{attributes: both(), named: []algorithm{sha512}}, ErrBadSignature},
		{"no digest is at the head", crafted{attributes: both(), named: []algorithm{}}, ErrBadSignature},
		{"nonsense at the head", crafted{attributes: both(), named: []algorithm{{oidData, mac}, sha256}}, nil},
		{"parameters of the digest", crafted{attributes: both(), digest: &algorithm{sha256.oid, mac}}, ErrAlgorithm},
		{"named by the key", crafted{attributes: both(), signature: algorithm{oid: oidECKey}}, nil},
		{"hash of signature and digest differ", crafted{attributes: both(), signature: withECDSA(4)}, ErrAlgorithm},
		{"signature of RSA", crafted{attributes: both(), signature: algorithm{oidRSA, null}}, ErrBadSignature},
		{"signature of Ed25519", crafted{attributes: both(), signature: algorithm{oid: oidEd25519}}, ErrAlgorithm},
		{"signature of nobody", crafted{attributes: both(), signature: algorithm{oid: oidData}}, ErrAlgorithm},
		{"parameters of the signature", crafted{attributes: both(), signature: algorithm{withECDSA(2).oid, mac}}, ErrAlgorithm},
		{"other content without attributes", crafted{contentType: oidSigned, bare: true}, ErrBadSignature},
		{"attributes that come back as content", crafted{content: string(asContent), bare: true}, ErrBadSignature},
	} {
		for _, detached := range []bool{false, true} {
			c.key, c.cert, c.detached = key, cert, detached
			if c.content == "" {
				c.content = entity
			}
			message := c.bytes(t)
			var s *Signed
			var err error
			if detached {
				s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(c.content))
			} else {
				s, err = ReadSigned(bytes.NewReader(message), io.Discard)
			}
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if err := s.Signers[0].Verify(cert); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
	}
}

// What else is in SignedData is kept, passed over, or too much.
func TestSignedForm(t *testing.T) {
	key := testKey(t, hsm.P256)
	cert := issue(t, key.Public())
	good := crafted{key: key, cert: cert, content: entity, attributes: []attribute{isType(oidData), hasDigest(entity)}}
	ca, caKey := authority()
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: cert.SerialNumber, ThisUpdate: signedAt, NextUpdate: signedAt.Add(time.Hour)}, ca, caKey)
	if err != nil {
		t.Fatal(err)
	}
	response := []byte{0x30, 3, 0x0a, 1, 6}
	ocsp := value(func(b *cryptobyte.Builder) {
		b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidOCSP); b.AddBytes(response) })
	})
	foreign := []byte{0xa1, 2, 5, 0} // an attribute certificate, as it were
	junk := value(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString(make([]byte, 60<<10)) })
	})
	huge := value(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString(make([]byte, 70<<10)) })
	})
	several := func(n int, a attribute) []attribute { return slices.Repeat([]attribute{a}, n) }
	for _, c := range []struct {
		name   string
		change func(*crafted)
		want   error
		check  func(*Signed) bool
	}{
		{"sets", func(c *crafted) { c.certs, c.crls = [][]byte{foreign, cert.Raw, ca.Raw}, [][]byte{crl, ocsp, foreign} }, nil, func(s *Signed) bool {
			return len(s.Certs) == 2 && bytes.Equal(s.Certs[0], cert.Raw) && len(s.CRLs) == 1 && bytes.Equal(s.CRLs[0], crl) && len(s.OCSP) == 1 && bytes.Equal(s.OCSP[0], response)
		}},
		{"no signer", func(c *crafted) { c.signers = -1 }, nil, func(s *Signed) bool { return len(s.Signers) == 0 && s.Content }},
		{"no signer and no content", func(c *crafted) { c.signers, c.detached = -1, true }, nil, func(s *Signed) bool { return len(s.Signers) == 0 && !s.Content }},
		{"16 signers", func(c *crafted) { c.signers = 16 }, nil, func(s *Signed) bool { return len(s.Signers) == 16 }},
		{"17 signers", func(c *crafted) { c.signers = 17 }, ErrLimit, nil},
		{"signed data in signed data", func(c *crafted) { c.contentType = oidSigned }, nil, func(s *Signed) bool { return s.Type() == TypeSigned }},
		{"16 digests", func(c *crafted) { c.named = slices.Repeat([]algorithm{digestAlgorithm(crypto.SHA512, nil)}, 16) }, nil, nil},
		{"17 digests", func(c *crafted) { c.named = slices.Repeat([]algorithm{digestAlgorithm(crypto.SHA512, nil)}, 17) }, ErrLimit, nil},
		{"64 attributes", func(c *crafted) { c.attributes = several(64, isType(oidData)) }, nil, nil},
		{"65 attributes", func(c *crafted) { c.attributes = several(65, isType(oidData)) }, ErrLimit, nil},
		{"attributes of 64 KiB", func(c *crafted) { c.attributes = []attribute{one(oidData, huge)} }, ErrLimit, nil},
		{"unsigned attributes of 70 KiB", func(c *crafted) { c.unsigned = []attribute{one(oidData, huge)} }, nil, nil},
		{"certificates of 960 KiB", func(c *crafted) { c.certs = slices.Repeat([][]byte{junk}, 16) }, nil, func(s *Signed) bool { return len(s.Certs) == 16 }},
		{"certificates of a MiB", func(c *crafted) { c.certs = slices.Repeat([][]byte{junk}, 18) }, ErrLimit, nil},
		{"a certificate of 70 KiB", func(c *crafted) { c.certs = [][]byte{huge} }, ErrLimit, nil},
		{"CRLs of 4 MiB", func(c *crafted) { c.crls = slices.Repeat([][]byte{huge}, 60) }, ErrLimit, nil},
		{"certificate in the wrong version", func(c *crafted) { c.version = 3 }, ErrForm, nil},
		{"key identifier in the wrong version", func(c *crafted) { c.keyID = true }, ErrForm, nil},
		{"content is missing", func(c *crafted) { c.detached = true }, ErrForm, nil},
		{"more behind", func(c *crafted) { c.der = func(all []byte) []byte { return append(all, 0) } }, ErrForm, nil},
		{"another message behind", func(c *crafted) { c.der = func(all []byte) []byte { return append(all, all...) } }, ErrForm, nil},
		{"another type", func(c *crafted) {
			c.der = func(all []byte) []byte {
				return bytes.Replace(all, value(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidSigned) }), value(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidEnveloped) }), 1)
			}
		}, ErrForm, nil},
	} {
		x := good
		c.change(&x)
		s, err := ReadSigned(bytes.NewReader(x.bytes(t)), io.Discard)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if c.check != nil && (s == nil || !c.check(s)) {
			t.Errorf("%s: got %+v", c.name, s)
		}
	}
	message := good.bytes(t)
	if s, err := ReadDetached(bytes.NewReader(message), strings.NewReader(entity)); !errors.Is(err, ErrForm) {
		t.Errorf("detached with content: got %v, %v, want %v", s, err, ErrForm)
	}
}

// Of a signer that says nothing no certificate is the right one.
func TestNames(t *testing.T) {
	key := testKey(t, hsm.P256)
	cert := issue(t, key.Public())
	blank := *cert
	blank.SubjectKeyId = nil
	for _, c := range []struct {
		name string
		id   CertID
		cert *x509.Certificate
		want bool
	}{
		{"issuer and serial", CertID{Issuer: cert.RawIssuer, Serial: cert.SerialNumber}, cert, true},
		{"other serial", CertID{Issuer: cert.RawIssuer, Serial: issue(t, key.Public()).SerialNumber}, cert, false},
		{"other issuer", CertID{Issuer: cert.RawSubject, Serial: cert.SerialNumber}, cert, false},
		{"key", CertID{KeyID: cert.SubjectKeyId}, cert, true},
		{"no key", CertID{KeyID: []byte{}}, &blank, false},
		{"nothing", CertID{}, &blank, false},
	} {
		if got := c.id.Names(c.cert); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Ed25519 signs content twice over, which no stream gives: without signed
// attributes it is refused (RFC 8419 §3).
func TestPureEd25519(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := issue(t, public)
	message := crafted{key: pure{private}, cert: cert, hash: crypto.SHA512, signature: algorithm{oid: oidEd25519}, bare: true, content: entity}.bytes(t)
	s, err := ReadSigned(bytes.NewReader(message), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Signers[0].Verify(cert); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("got %v, want %v", err, ErrAlgorithm)
	}
}

// pure signs what it is given as it is.
type pure struct{ ed25519.PrivateKey }

func (p pure) Sign(random io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return p.PrivateKey.Sign(random, message, crypto.Hash(0))
}
