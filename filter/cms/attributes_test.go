package cms

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCapabilities(t *testing.T) {
	all, err := Readable()
	if err != nil {
		t.Fatal(err)
	}
	der, err := all.DER()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseCapabilities(der)
	if err != nil {
		t.Fatal(err)
	}
	want := []Cipher{AES256GCM, AES128GCM, ChaCha20Poly1305, AES256CBC, AES192CBC, AES128CBC}
	if !slices.Equal(got.Ciphers(), want) || !got.OAEP() || !got.PSS() {
		t.Errorf("got %v, %v, %v, want %v and both", got.Ciphers(), got.OAEP(), got.PSS(), want)
	}
	known := "300b060960864801650304012e" // AES-256-GCM, RFC 8551 §2.5.2
	if !bytes.HasPrefix(der[2:], unhex(t, known)) && !bytes.HasPrefix(der[3:], unhex(t, known)) {
		t.Errorf("got %x, want %s first", der, known)
	}
	if c := (Capabilities{{OID: oidPSS}, {oidOAEP, null}, {OID: oidData}}); c.PSS() || c.OAEP() || c.Ciphers() != nil {
		t.Errorf("got %v, %v, %v of other parameters", c.PSS(), c.OAEP(), c.Ciphers())
	}
	for _, bad := range []string{"", "3000ff", "3100", "30023000", "3003300101", "30823fff"} {
		if c, err := ParseCapabilities(unhex(t, bad)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v, %v, want %v", bad, c, err, ErrForm)
		}
	}
	many, err := Capabilities(slices.Repeat(all, 10)).DER()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCapabilities(many); !errors.Is(err, ErrForm) {
		t.Errorf("%d capabilities: got %v, want %v", len(all)*10, err, ErrForm)
	}
	if c, err := ParseCapabilities([]byte{0x30, 0}); c == nil || len(c) > 0 || err != nil {
		t.Errorf("no capabilities: got %v, %v", c, err)
	}
}

// All three ways to name a certificate are read (RFC 8551 §2.5.3).
func TestEncryptTo(t *testing.T) {
	cert := issue(t, testKey(t, "p-256").Public())
	for _, c := range []struct {
		name string
		add  func(b *cryptobyte.Builder)
		want bool
	}{
		{"issuer and serial", func(b *cryptobyte.Builder) {
			b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) { addCertID(b, cert) })
		}, true},
		{"recipient key", func(b *cryptobyte.Builder) {
			b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(cert.SubjectKeyId) })
		}, true},
		{"subject key", func(b *cryptobyte.Builder) {
			b.AddASN1(context2, func(b *cryptobyte.Builder) { b.AddBytes(cert.SubjectKeyId) })
		}, true},
		{"more behind", func(b *cryptobyte.Builder) {
			b.AddASN1(context2, func(b *cryptobyte.Builder) { b.AddBytes(cert.SubjectKeyId) })
			b.AddASN1NULL()
		}, false},
		{"no serial", func(b *cryptobyte.Builder) {
			b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) { b.AddBytes(cert.RawIssuer) })
		}, false},
		{"no key", func(b *cryptobyte.Builder) { b.AddASN1(context1.Constructed(), func(b *cryptobyte.Builder) {}) }, false},
		{"something else", func(b *cryptobyte.Builder) { b.AddASN1NULL() }, false},
	} {
		id := readEncryptTo(value(c.add))
		if got := id != nil && id.Names(cert); got != c.want || (id != nil) != c.want {
			t.Errorf("%s: got %+v, want %v", c.name, id, c.want)
		}
	}
}

// RSASSA-PSS-params with what is left out, and what nobody takes.
func TestSaltLength(t *testing.T) {
	type field struct {
		tag uint8
		add func(b *cryptobyte.Builder)
	}
	digest := func(h crypto.Hash) field { return field{0, digestAlgorithm(h, null).add} }
	mgf := func(h crypto.Hash) field {
		return field{1, algorithm{oidMGF1, value(digestAlgorithm(h, null).add)}.add}
	}
	number := func(tag uint8, n int64) field {
		return field{tag, func(b *cryptobyte.Builder) { b.AddASN1Int64(n) }}
	}
	two, one := digest(crypto.SHA256), mgf(crypto.SHA256)
	for _, c := range []struct {
		name   string
		fields []field
		hash   crypto.Hash
		want   int
		err    error
	}{
		{"all", []field{two, one, number(2, 32), number(3, 1)}, crypto.SHA256, 32, nil},
		{"default salt", []field{two, one}, crypto.SHA256, 20, nil},
		{"no salt", []field{two, one, number(2, 0)}, crypto.SHA256, 0, nil},
		{"all left out is SHA-1", nil, crypto.SHA256, 0, ErrAlgorithm},
		{"all left out", nil, crypto.SHA1, 20, nil},
		{"digest left out", []field{one}, crypto.SHA256, 0, ErrAlgorithm},
		{"MGF left out", []field{two}, crypto.SHA256, 0, ErrAlgorithm},
		{"another digest", []field{digest(crypto.SHA512), one}, crypto.SHA256, 0, ErrAlgorithm},
		{"another MGF digest", []field{two, mgf(crypto.SHA1)}, crypto.SHA256, 0, ErrAlgorithm},
		{"no MGF", []field{two, {1, algorithm{oidData, value(digestAlgorithm(crypto.SHA256, null).add)}.add}}, crypto.SHA256, 0, ErrAlgorithm},
		{"negative salt", []field{two, one, number(2, -1)}, crypto.SHA256, 0, ErrAlgorithm},
		{"huge salt", []field{two, one, number(2, 1<<40)}, crypto.SHA256, 0, ErrAlgorithm},
		{"trailer", []field{two, one, number(3, 2)}, crypto.SHA256, 0, ErrAlgorithm},
		{"order", []field{one, two}, crypto.SHA256, 0, ErrAlgorithm},
		{"unknown field", []field{two, one, number(4, 1)}, crypto.SHA256, 0, ErrAlgorithm},
	} {
		params := value(func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, f := range c.fields {
					b.AddASN1(cbasn1.Tag(f.tag).ContextSpecific().Constructed(), f.add)
				}
			})
		})
		if got, err := saltLength(params, c.hash); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %d, %v, want %d, %v", c.name, got, err, c.want, c.err)
		}
	}
	for _, params := range [][]byte{nil, null, {0x30, 0, 0}} {
		if _, err := saltLength(params, crypto.SHA1); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%x: got %v, want %v", params, err, ErrAlgorithm)
		}
	}
}

func TestTypeOf(t *testing.T) {
	for _, c := range []struct {
		oid  asn1.ObjectIdentifier
		want Type
		name string
	}{
		{oidData, TypeData, "data"},
		{oidSigned, TypeSigned, "signedData"},
		{oidEnveloped, TypeEnveloped, "envelopedData"},
		{oidAuthEnveloped, TypeAuthEnveloped, "authEnvelopedData"},
		{oidCompressed, TypeCompressed, "compressedData"},
		{oidPSS, TypeUnknown, "unknown"},
	} {
		for _, head := range [][]byte{{0x30, 0x80}, {0x30, 0x83, 1, 0, 0}, {0x30, 0x88, 0, 0, 0, 0, 9, 0, 0, 0}} {
			oid := value(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(c.oid) })
			in := slices.Concat(head, oid, []byte{0xa0, 0x80, 0x30})
			if got := TypeOf(in); got != c.want || got.String() != c.name {
				t.Errorf("%x: got %v, want %v", in, got, c.want)
			}
			if got := TypeOf(in[:len(in)-3]); got != TypeUnknown {
				t.Errorf("%x: got %v, want %v", in[:len(in)-3], got, TypeUnknown)
			}
		}
	}
	for _, in := range []string{"", "From: ", "MIIB"} {
		if got := TypeOf([]byte(in)); got != TypeUnknown {
			t.Errorf("%q: got %v, want %v", in, got, TypeUnknown)
		}
	}
}

// However attributes and their values stand, they are signed in one order (X.690 §11.6).
func TestPrintAttributes(t *testing.T) {
	short, long, other := []byte{4, 1, 9}, []byte{4, 2, 0, 0}, []byte{2, 1, 1}
	want := unhex(t, "3123"+"3005"+"06012a3100"+"300b"+"06012b3106"+"020101"+"040109"+"300d"+"06022a033107"+"040109"+"04020000")
	a, b, c := one(asn1.ObjectIdentifier{1, 2}), one(asn1.ObjectIdentifier{1, 3}, short, other), one(asn1.ObjectIdentifier{1, 2, 3}, long, short)
	for _, all := range [][]attribute{{a, b, c}, {c, b, a}, {b, c, a}, {c, a, b}} {
		if got, err := printAttributes(all); !bytes.Equal(got, want) || err != nil {
			t.Errorf("got %x, %v, want %x", got, err, want)
		}
	}
}
