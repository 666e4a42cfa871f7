package cms

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// tlv prints one in DER.
func tlv(tag cbasn1.Tag, contents ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(contents, nil)) })
	return b.BytesOrPanic()
}

// implicit is a context-specific tag of a structure.
func implicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

func number(n int64) []byte {
	var b cryptobyte.Builder
	b.AddASN1Int64(n)
	return b.BytesOrPanic()
}

func identifier(oid ...int) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}

// alg is an AlgorithmIdentifier.
func alg(params []byte, oid ...int) []byte {
	return tlv(cbasn1.SEQUENCE, identifier(oid...), params)
}

// byIssuer names a certificate by IssuerAndSerialNumber.
func byIssuer(c *x509.Certificate) []byte {
	var b cryptobyte.Builder
	addIssuerAndSerial(&b, c)
	return b.BytesOrPanic()
}

var wrapSchemes = map[hsm.Scheme]map[crypto.Hash][]int{
	hsm.CMSX963: {
		crypto.SHA1: {1, 3, 133, 16, 840, 63, 0, 2}, crypto.SHA224: {1, 3, 132, 1, 11, 0}, crypto.SHA256: {1, 3, 132, 1, 11, 1},
		crypto.SHA384: {1, 3, 132, 1, 11, 2}, crypto.SHA512: {1, 3, 132, 1, 11, 3},
	},
	hsm.CMSHKDF: {
		crypto.SHA256: {1, 2, 840, 113549, 1, 9, 16, 3, 19}, crypto.SHA384: {1, 2, 840, 113549, 1, 9, 16, 3, 20}, crypto.SHA512: {1, 2, 840, 113549, 1, 9, 16, 3, 21},
	},
}

// agreed prints a KeyAgreeRecipientInfo. keys are RecipientEncryptedKeys.
func agreed(w hsm.Wrapped, keys ...[]byte) []byte {
	point := tlv(cbasn1.BIT_STRING, []byte{0}, w.Ephemeral)
	var ukm []byte
	if w.UKM != nil {
		ukm = tlv(implicit(1), tlv(cbasn1.OCTET_STRING, w.UKM))
	}
	return tlv(implicit(1), number(3),
		tlv(implicit(0), tlv(implicit(1), alg(nil, 1, 2, 840, 10045, 2, 1), point)),
		ukm, alg(w.WrapAlgorithm, wrapSchemes[w.Scheme][w.Hash]...), tlv(cbasn1.SEQUENCE, keys...))
}

// Whatever choices a sender made for the key agreement, all of them come
// through to the token, which opens the key.
func TestAgreementChoices(t *testing.T) {
	all := readers(t)
	n := 0
	for scheme, hashes := range wrapSchemes {
		for hash := range hashes {
			for _, ukm := range [][]byte{nil, {}, []byte("user keying material")} {
				for name, wrap := range hsmtest.CMSWraps {
					r := all[[]string{"p256", "p384", "p521", "x25519"}[n%4]]
					n++
					holder := r.cert.PublicKey
					if holder == nil {
						var err error
						if holder, err = x509.ParsePKIXPublicKey(r.cert.RawSubjectPublicKeyInfo); err != nil {
							t.Fatal(err)
						}
					}
					key := random(32)
					w := hsmtest.Wrap(t, holder, hsm.Wrapped{Scheme: scheme, Hash: hash, UKM: ukm, WrapAlgorithm: wrap}, hsm.SessionKey{Key: key})
					keyID := tlv(implicit(0), tlv(cbasn1.OCTET_STRING, r.cert.SubjectKeyId), tlv(cbasn1.GeneralizedTime, []byte("20261125010000Z")))
					got := parseRecipient(agreed(w,
						tlv(cbasn1.SEQUENCE, byIssuer(all["rsa"].cert), tlv(cbasn1.OCTET_STRING, random(40))),
						tlv(cbasn1.SEQUENCE, keyID, tlv(cbasn1.OCTET_STRING, w.Ciphertext))))
					if len(got) != 2 || !got[1].Names(r.cert) || got[0].Names(r.cert) || !got[0].Names(all["rsa"].cert) {
						t.Fatalf("scheme %d, %s, %s: got recipients %+v, want two, the second for %s", scheme, hash, name, got, r.name)
					}
					if sk, err := r.token.Unwrap(t.Context(), r.id, got[1].Wrapped); err != nil || !bytes.Equal(sk.Key, key) {
						t.Errorf("scheme %d, %s, %s, UKM %q for %s: got key same=%t, %v, want true, nil", scheme, hash, name, ukm, r.name, bytes.Equal(sk.Key, key), err)
					}
				}
			}
		}
	}
}

// What cannot be used is passed over, and is no error.
func TestOtherRecipients(t *testing.T) {
	all := readers(t)
	rsa, ec := all["rsa"].cert, all["p256"].cert
	octets := func(b []byte) []byte { return tlv(cbasn1.OCTET_STRING, b) }
	w := hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA256, Ephemeral: random(65), WrapAlgorithm: hsmtest.CMSWraps["aes128-wrap"]}
	forEC := tlv(cbasn1.SEQUENCE, byIssuer(ec), octets(random(24)))
	none := w
	none.WrapAlgorithm = nil
	rsaAlg := alg(null, 1, 2, 840, 113549, 1, 1, 1)
	oaep := func(fields ...[]byte) []byte {
		return tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), alg(tlv(cbasn1.SEQUENCE, fields...), 1, 2, 840, 113549, 1, 1, 7), octets(random(256)))
	}
	sha256 := alg(null, 2, 16, 840, 1, 101, 3, 4, 2, 1)
	for name, der := range map[string][]byte{
		"nothing":                           {},
		"key-encryption key":                tlv(implicit(2), number(4)),
		"password":                          tlv(implicit(3), number(0)),
		"other":                             tlv(implicit(4), identifier(1, 2, 3)),
		"transport, version 1":              tlv(cbasn1.SEQUENCE, number(1), byIssuer(rsa), rsaAlg, octets(random(256))),
		"transport, no key":                 tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), rsaAlg),
		"transport, more behind":            tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), rsaAlg, octets(random(256)), null),
		"transport by RSA-KEM":              tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), alg(nil, 1, 2, 840, 113549, 1, 9, 16, 3, 14), octets(random(256))),
		"transport by RSA with parameters":  tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), alg(number(1), 1, 2, 840, 113549, 1, 1, 1), octets(random(256))),
		"transport, serial number missing":  tlv(cbasn1.SEQUENCE, number(0), tlv(cbasn1.SEQUENCE, rsa.RawIssuer), rsaAlg, octets(random(256))),
		"OAEP with MD5":                     oaep(tlv(implicit(0), alg(null, 1, 2, 840, 113549, 2, 5))),
		"OAEP with an unknown hash":         oaep(tlv(implicit(0), alg(null, 1, 2, 3))),
		"OAEP with an unknown mask":         oaep(tlv(implicit(1), alg(sha256, 1, 2, 3))),
		"OAEP with a mask without its hash": oaep(tlv(implicit(1), alg(nil, 1, 2, 840, 113549, 1, 1, 8))),
		"OAEP with an unknown label":        oaep(tlv(implicit(2), alg(octets(nil), 1, 2, 3))),
		"OAEP with a label of no kind":      oaep(tlv(implicit(2), alg(null, 1, 2, 840, 113549, 1, 1, 9))),
		"OAEP in another order":             oaep(tlv(implicit(1), alg(sha256, 1, 2, 840, 113549, 1, 1, 8)), tlv(implicit(0), sha256)),
		"OAEP without parameters":           tlv(cbasn1.SEQUENCE, number(0), byIssuer(rsa), alg(nil, 1, 2, 840, 113549, 1, 1, 7), octets(random(256))),
		"agreement, version 0":              bytes.Replace(agreed(w, forEC), number(3), number(0), 1),
		"agreement, key without padding":    bytes.Replace(agreed(w, forEC), append([]byte{3, 66, 0}, w.Ephemeral...), append([]byte{3, 66, 1}, w.Ephemeral...), 1),
		"agreement by MQV":                  bytes.Replace(agreed(w, forEC), identifier(1, 3, 132, 1, 11, 1), identifier(1, 3, 132, 1, 15, 1), 1),
		"agreement without a wrap":          agreed(none, forEC),
		"agreement for nobody":              agreed(w),
		"agreement, key of no kind":         agreed(w, null),
		"agreement with a static key": tlv(implicit(1), number(3), tlv(implicit(0), byIssuer(ec)),
			alg(w.WrapAlgorithm, 1, 3, 132, 1, 11, 1), tlv(cbasn1.SEQUENCE, forEC)),
	} {
		if got := parseRecipient(der); len(got) != 0 {
			t.Errorf("%s: got %+v, want nobody", name, got)
		}
	}
	if got := parseRecipient(agreed(w, tlv(cbasn1.SEQUENCE, null, octets(nil)), forEC)); len(got) != 1 || !got[0].Names(ec) {
		t.Errorf("agreement with a stranger and ours: got %+v, want ours", got)
	}
	got := parseRecipient(oaep())
	if len(got) != 1 || got[0].Wrapped.Hash != crypto.SHA1 || got[0].Wrapped.MGFHash != crypto.SHA1 {
		t.Errorf("OAEP by default: got %+v, want SHA-1 in both places", got)
	}
	for i, r := range []Recipient{{}, {CertID: CertID{KeyID: []byte{}}}} {
		if r.Names(&x509.Certificate{}) {
			t.Errorf("recipient %d without a name: got the name of a certificate without one", i)
		}
	}
}

// envelopeParts is a message in parts, for what no program makes.
type envelopeParts struct {
	kind       asn1.ObjectIdentifier
	version    int64
	originator []byte
	recipients [][]byte
	cipher     []byte
	content    []byte // with its tag
	attributes []byte // with their tag
	tag        []byte
	unread     []byte // the unprotected attributes, with their tag
}

func (c envelopeParts) der() []byte {
	var tag []byte
	if c.tag != nil {
		tag = tlv(cbasn1.OCTET_STRING, c.tag)
	}
	return tlv(cbasn1.SEQUENCE, identifier(c.kind...), tlv(implicit(0), tlv(cbasn1.SEQUENCE,
		number(c.version), c.originator, tlv(cbasn1.SET, c.recipients...),
		tlv(cbasn1.SEQUENCE, identifier(oidData...), c.cipher, c.content),
		c.attributes, tag, c.unread)))
}

// encrypted gives the parts that come of encryption, the content in one piece.
func encrypted(t testing.TB, cc contentCipher, key, content []byte) (ciphertext, tag []byte) {
	t.Helper()
	s, err := cc.sealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return s.close(bytes.Clone(content))
}

func TestCrafted(t *testing.T) {
	key := random(16)
	cbc := contentCipher{Cipher: AES128CBC, iv: random(16)}
	aead := contentCipher{Cipher: AES128GCM, iv: random(12), tag: 16}
	cbcText, _ := encrypted(t, cbc, key, []byte("content"))
	aeadText, tag := encrypted(t, aead, key, []byte("content"))
	cbcDER, err := cbc.der()
	if err != nil {
		t.Fatal(err)
	}
	aeadDER, err := aead.der()
	if err != nil {
		t.Fatal(err)
	}
	primitive := cbasn1.Tag(0).ContextSpecific()
	octets := func(b ...[]byte) []byte { return tlv(cbasn1.OCTET_STRING, b...) }
	constructed := func(b ...[]byte) []byte { return tlv(cbasn1.OCTET_STRING|0x20, b...) }
	enveloped := func(change func(*envelopeParts)) []byte {
		c := envelopeParts{kind: oidEnveloped, cipher: cbcDER, content: tlv(primitive, cbcText)}
		change(&c)
		return c.der()
	}
	authenticated := func(change func(*envelopeParts)) []byte {
		c := envelopeParts{kind: oidAuthEnveloped, cipher: aeadDER, content: tlv(primitive, aeadText), tag: tag}
		change(&c)
		return c.der()
	}
	attribute := tlv(cbasn1.SEQUENCE, identifier(1, 2, 3), tlv(cbasn1.SET, null))
	for _, c := range []struct {
		name    string
		message []byte
		want    error
	}{
		{"enveloped", enveloped(func(*envelopeParts) {}), nil},
		{"version 2", enveloped(func(c *envelopeParts) { c.version = 2 }), nil},
		{"version 3", enveloped(func(c *envelopeParts) { c.version = 3 }), nil},
		{"version 4", enveloped(func(c *envelopeParts) { c.version = 4 }), nil},
		{"version 5", enveloped(func(c *envelopeParts) { c.version = 5 }), ErrForm},
		{"version -1", enveloped(func(c *envelopeParts) { c.version = -1 }), ErrForm},
		{"originator", enveloped(func(c *envelopeParts) { c.originator = tlv(implicit(0), tlv(implicit(0), attribute)) }), nil},
		{"unprotected attributes", enveloped(func(c *envelopeParts) { c.unread = tlv(implicit(1), attribute) }), nil},
		{"unprotected attributes twice", enveloped(func(c *envelopeParts) { c.unread = bytes.Repeat(tlv(implicit(1), attribute), 2) }), ErrDecrypt},
		{"a tag where none may be", enveloped(func(c *envelopeParts) { c.tag = tag }), ErrDecrypt},
		{"content in pieces", enveloped(func(c *envelopeParts) {
			c.content = tlv(implicit(0), octets(cbcText[:3]), octets(), octets(cbcText[3:]), octets())
		}), nil},
		{"content in pieces of pieces", enveloped(func(c *envelopeParts) {
			c.content = tlv(implicit(0), octets(cbcText[:3]), constructed(octets(cbcText[3:9]), constructed(octets(cbcText[9:]))))
		}), nil},
		{"content of another kind", enveloped(func(c *envelopeParts) { c.content = tlv(implicit(0), null) }), ErrDecrypt},
		{"no block", enveloped(func(c *envelopeParts) { c.content = tlv(primitive) }), ErrDecrypt},
		{"half a block", enveloped(func(c *envelopeParts) { c.content = tlv(primitive, cbcText[:8]) }), ErrDecrypt},
		{"a block and a half", enveloped(func(c *envelopeParts) { c.content = tlv(primitive, cbcText, cbcText[:8]) }), ErrDecrypt},
		{"no content", enveloped(func(c *envelopeParts) { c.content = nil }), ErrForm},
		{"content under another tag", enveloped(func(c *envelopeParts) { c.content = octets(cbcText) }), ErrForm},
		{"content twice", enveloped(func(c *envelopeParts) { c.content = bytes.Repeat(c.content, 2) }), ErrDecrypt},
		{"GCM in enveloped data", enveloped(func(c *envelopeParts) { c.cipher = aeadDER }), ErrForm},
		{"unknown cipher", enveloped(func(c *envelopeParts) { c.cipher = alg(null, 1, 2, 3) }), ErrAlgorithm},
		{"CCM", authenticated(func(c *envelopeParts) { c.cipher = alg(null, 2, 16, 840, 1, 101, 3, 4, 1, 7) }), ErrAlgorithm},
		{"signed data", enveloped(func(c *envelopeParts) { c.kind = oidSigned }), ErrForm},
		{"unknown type", enveloped(func(c *envelopeParts) { c.kind = asn1.ObjectIdentifier{1, 2, 3} }), ErrForm},
		{"authenticated", authenticated(func(*envelopeParts) {}), nil},
		{"CBC in authenticated data", authenticated(func(c *envelopeParts) { c.cipher, c.content = cbcDER, tlv(primitive, cbcText) }), ErrForm},
		{"no tag", authenticated(func(c *envelopeParts) { c.tag = nil }), ErrDecrypt},
		{"a longer tag", authenticated(func(c *envelopeParts) { c.tag = append(bytes.Clone(tag), 0) }), ErrDecrypt},
		{"a shorter tag", authenticated(func(c *envelopeParts) { c.tag = tag[:12] }), ErrDecrypt},
		{"unauthenticated attributes", authenticated(func(c *envelopeParts) { c.unread = tlv(implicit(2), attribute) }), nil},
		{"the other unprotected attributes", authenticated(func(c *envelopeParts) { c.unread = tlv(implicit(1), attribute) }), ErrDecrypt},
		{"attributes that were not there", authenticated(func(c *envelopeParts) { c.attributes = tlv(implicit(1), attribute) }), ErrDecrypt},
		{"no attribute", authenticated(func(c *envelopeParts) { c.attributes = tlv(implicit(1)) }), ErrDecrypt},
		{"attributes of no kind", authenticated(func(c *envelopeParts) { c.attributes = tlv(implicit(1), number(1)) }), ErrDecrypt},
		{"recipients of no kind", enveloped(func(c *envelopeParts) {
			c.recipients = [][]byte{null, number(1), octets(random(1 << 20)), tlv(implicit(9), random(5))}
		}), nil},
	} {
		got, err := decrypt(c.message, key)
		if !errors.Is(err, c.want) || c.want == nil && string(got) != "content" {
			t.Errorf("%s: got %q, %v, want %v", c.name, got, err, c.want)
		}
	}
}

// Authenticated attributes count in DER, in whatever order they come (RFC 5083 §2.2).
func TestAuthenticatedAttributes(t *testing.T) {
	key := random(32)
	cc := contentCipher{Cipher: AES256GCM, iv: random(12), tag: 16}
	one := tlv(cbasn1.SEQUENCE, identifier(oidContentType...), tlv(cbasn1.SET, identifier(oidData...)))
	two := tlv(cbasn1.SEQUENCE, identifier(1, 2, 840, 113549, 1, 9, 5), tlv(cbasn1.SET, tlv(cbasn1.UTCTime, []byte("261125010000Z"))))
	if bytes.Compare(one, two) > 0 {
		one, two = two, one
	}
	aad := tlv(cbasn1.SET, one, two)
	content := random(100_000)
	block, err := cc.block(key)
	if err != nil {
		t.Fatal(err)
	}
	standard, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	all := standard.Seal(nil, cc.iv, content, aad)
	der, err := cc.der()
	if err != nil {
		t.Fatal(err)
	}
	message := func(attributes ...[]byte) []byte {
		return envelopeParts{
			kind: oidAuthEnveloped, cipher: der, content: tlv(cbasn1.Tag(0).ContextSpecific(), all[:len(content)]),
			attributes: tlv(implicit(1), attributes...), tag: all[len(content):],
		}.der()
	}
	for name, c := range map[string]struct {
		message []byte
		want    error
	}{
		"in order":           {message(one, two), nil},
		"in the other order": {message(two, one), nil},
		"one is missing":     {message(one), ErrDecrypt},
		"one comes twice":    {message(one, two, two), ErrDecrypt},
		"both are missing":   {message(), ErrDecrypt},
	} {
		if got, err := decrypt(c.message, key); !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, content) {
			t.Errorf("%s: got same=%t, %v, want %v", name, bytes.Equal(got, content), err, c.want)
		}
	}
}

// chachaMessage is a ChaCha20-Poly1305 message (RFC 8103) for nobody, which is
// only read here.
func chachaMessage(t testing.TB, key, nonce, content []byte, attributes ...[]byte) []byte {
	t.Helper()
	standard, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	all := standard.Seal(nil, nonce, content, nil)
	return envelopeParts{
		kind: oidAuthEnveloped, cipher: alg(tlv(cbasn1.OCTET_STRING, nonce), 1, 2, 840, 113549, 1, 9, 16, 3, 18),
		content: tlv(context0, all[:len(content)]), attributes: bytes.Join(attributes, nil), tag: all[len(content):],
	}.der()
}

func TestReadChaCha(t *testing.T) {
	key, nonce, content := random(32), random(12), random(50_000)
	if got, err := decrypt(chachaMessage(t, key, nonce, content), key); err != nil || !bytes.Equal(got, content) {
		t.Errorf("got same=%t, %v, want true, nil", bytes.Equal(got, content), err)
	}
	attributes := tlv(implicit(1), tlv(cbasn1.SEQUENCE, identifier(1, 2, 3), tlv(cbasn1.SET, null)))
	if _, err := decrypt(chachaMessage(t, key, nonce, content, attributes), key); !errors.Is(err, ErrDecrypt) {
		t.Errorf("with attributes: got %v, want %v", err, ErrDecrypt)
	}
}

// No message costs memory or time that it does not bring along: lengths that
// are only claimed, and nesting.
func TestClaims(t *testing.T) {
	head := enveloped()
	for name, message := range map[string][]byte{
		"recipient of 2^40 bytes": append(bytes.Clone(head), 0x31, 0x80, 0x30, 0x86, 1, 0, 0, 0, 0, 0),
		"recipients, nested":      append(bytes.Clone(head), bytes.Repeat([]byte{0x31, 0x80}, 1<<20)...),
		"recipient, nested":       append(append(bytes.Clone(head), 0x31, 0x80), bytes.Repeat([]byte{0x30, 0x80}, 1<<20)...),
	} {
		if _, err := ReadEnvelope(bytes.NewReader(message)); !errors.Is(err, ErrForm) && !errors.Is(err, ErrLimit) {
			t.Errorf("%s: got %v, want %v or %v", name, err, ErrForm, ErrLimit)
		}
	}
	if _, err := ReadEnvelope(io.MultiReader(bytes.NewReader(append(head, 0x31, 0x80)), failing{io.ErrClosedPipe})); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reader fails: got %v, want %v", err, io.ErrClosedPipe)
	}
}

// enveloped is a message up to its recipients.
func enveloped() []byte {
	b := append([]byte{0x30, 0x80}, identifier(oidEnveloped...)...)
	return append(b, 0xa0, 0x80, 0x30, 0x80, 2, 1, 0)
}
