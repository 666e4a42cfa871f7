package smime

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// What one seals in each style, the other opens; and how it is sealed.
func TestRoundTrip(t *testing.T) {
	for _, p := range pairs {
		w := newWorld(t, p)
		for _, style := range []protect.Style{{}, {Cipher: "aes-128-cbc", OAEP: true}, {Cipher: "aes-192-cbc"}, {Cipher: "aes-256-cbc", PSS: true}, {Cipher: "aes-128-gcm"}, {Cipher: "aes-256-gcm", OAEP: true, PSS: true}} {
			for _, signed := range []bool{true, false} {
				m := mail(t, letter)
				sealed := w.seal(m, signed, style, w.bob.opens.Cert)
				kind := "enveloped-data"
				if strings.HasSuffix(style.Cipher, "gcm") {
					kind = "authEnveloped-data"
				}
				root := sealed.Root
				if root.Type != "application/pkcs7-mime" || root.Params["smime-type"] != kind || root.Params["name"] != "smime.p7m" || root.Encoding != "base64" || sealed.Get("Subject") != "[...]" {
					t.Errorf("%s %+v: got\n%.600s", p, style, printed(t, sealed))
				}
				opened, f, err := w.open(sealed)
				if err != nil || !f.Opened || f.Good != signed || !strings.Contains(printed(t, opened), "the launch code is 0000\r\n") || opened.Get("Subject") != "codes" {
					t.Errorf("%s %+v: got %+v, %v", p, style, f, err)
				}
				if signed && (f.Reason != protect.ReasonGood || f.Signer != w.alice.signs.Fingerprint || !slices.Equal(f.Signers, []message.Address{w.alice.signs.Address})) {
					t.Errorf("%s %+v: got %+v", p, style, f)
				}
			}
		}
		signed := w.seal(mail(t, letter), true, protect.Style{})
		if _, f, err := w.open(signed); err != nil || !f.Good || f.Opened {
			t.Errorf("%s: signed: got %+v, %v", p, f, err)
		}
		want := map[hsm.Algorithm]string{hsm.P384: "sha-384", hsm.P521: "sha-512", hsm.Ed25519: "sha-512"}[p.sign]
		if want == "" {
			want = "sha-256"
		}
		if got := signed.Root.Params; got["micalg"] != want || got["protocol"] != "application/pkcs7-signature" {
			t.Errorf("%s: got %v, want micalg %s", p, got, want)
		}
	}
}

// Other ciphers than the default are used when every recipient has said so, or
// somebody has agreed on them; never less than AES-128 (R41).
func TestChoice(t *testing.T) {
	w := newWorld(t, rsaPair)
	readable, err := cms.Readable()
	if err != nil {
		t.Fatal(err)
	}
	der := func(c cms.Capabilities) []byte {
		b, err := c.DER()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	only := func(like ...cms.Cipher) []byte {
		return der(slices.DeleteFunc(slices.Clone(readable), func(c cms.Capability) bool {
			got := cms.Capabilities{c}.Ciphers()
			return len(got) == 0 || !slices.Contains(like, got[0])
		}))
	}
	triple := der(cms.Capabilities{{OID: []int{1, 2, 840, 113549, 3, 7}}})
	all := der(readable)
	carol := w.ca.opens(t, w.token, hsm.RSA2048, address(t, "carol@partner.example"))
	for _, c := range []struct {
		name       string
		bob, carol []byte
		style      protect.Style
		want       cms.Cipher
		oaep       bool
	}{
		{name: "nobody says anything", want: cms.AES256CBC},
		{name: "both read everything", bob: all, carol: all, want: cms.AES256GCM, oaep: true},
		{name: "one says nothing", bob: all, want: cms.AES256CBC},
		{name: "one has AES-128 only", bob: all, carol: only(cms.AES128CBC), want: cms.AES128CBC},
		{name: "one has AES-192 and AES-128", carol: only(cms.AES192CBC, cms.AES128CBC), want: cms.AES192CBC},
		{name: "one has 3DES only", bob: triple, carol: triple, want: cms.AES128CBC},
		{name: "both have GCM with 128 bits", bob: only(cms.AES128GCM), carol: only(cms.AES128GCM, cms.AES256CBC), want: cms.AES128GCM},
		{name: "one list is broken", bob: all, carol: all[:20], want: cms.AES256CBC},
		{name: "agreed", style: protect.Style{Cipher: "aes-128-gcm", OAEP: true}, want: cms.AES128GCM, oaep: true},
		{name: "agreed on less", bob: all, carol: all, style: protect.Style{Cipher: "aes-128-cbc"}, want: cms.AES128CBC, oaep: true},
	} {
		bob, other := w.bob.opens.Cert, carol.Cert
		bob.Capabilities, other.Capabilities = c.bob, c.carol
		sealed := w.seal(mail(t, letter), false, c.style, bob, other)
		e, err := cms.ReadEnvelope(streamOf(sealed.Source, sealed.Root, 1<<20).body)
		if err != nil || e.Cipher != c.want || len(e.Recipients) != 2 {
			t.Errorf("%s: got %v, %v, want %v", c.name, e.Cipher, err, c.want)
			continue
		}
		for _, r := range e.Recipients {
			if (r.Wrapped.Scheme == hsm.OAEP) != c.oaep || r.Serial == nil {
				t.Errorf("%s: got %+v, want OAEP %v", c.name, r.Wrapped.Scheme, c.oaep)
			}
		}
	}
	// A gateway of ours tells what it reads, so that the answer is sealed so.
	_, f, err := w.open(w.seal(mail(t, letter), true, protect.Style{}))
	if err != nil || len(f.Brought) != 2 {
		t.Fatalf("got %+v, %v", f, err)
	}
	if got := w.seal(mail(t, letter), false, protect.Style{}, f.Brought[1]).Root.Params["smime-type"]; got != "authEnveloped-data" {
		t.Errorf("answer: got %s", got)
	}
}

// What can't be sealed is an error, and never something else.
func TestSealErrors(t *testing.T) {
	w := newWorld(t, rsaPair)
	ec := w.ca.opens(t, w.token, hsm.P256, address(t, "carol@partner.example"))
	long := mail(t, "From: alice@company1.example\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n\xff\r\n--x\r\n\r\n--x--\r\n")
	for _, c := range []struct {
		name string
		r    protect.SealRequest
		want error
	}{
		{"two classes", protect.SealRequest{Recipients: []keyring.Cert{w.bob.opens.Cert, ec.Cert}}, errClass},
		{"unknown style", protect.SealRequest{Recipients: []keyring.Cert{w.bob.opens.Cert}, Style: protect.Style{Cipher: "rc2-40"}}, errStyle},
		{"3DES", protect.SealRequest{Recipients: []keyring.Cert{w.bob.opens.Cert}, Style: protect.Style{Cipher: "3des-cbc"}}, errStyle},
		{"who signs only", protect.SealRequest{Recipients: []keyring.Cert{w.bob.signs.Cert}}, protect.ErrNoCert},
		{"who opens only", protect.SealRequest{Signer: &w.bob.opens}, hsm.ErrRefused},
		{"8-bit in a signature", protect.SealRequest{Message: long, Signer: &w.alice.signs}, message.ErrSigned8Bit},
		{"8-bit in a signature, sealed", protect.SealRequest{Message: long, Signer: &w.alice.signs, Recipients: []keyring.Cert{w.bob.opens.Cert}}, message.ErrSigned8Bit},
		{"no room", protect.SealRequest{Signer: &w.alice.signs, Recipients: []keyring.Cert{w.bob.opens.Cert}, NewSpool: (&message.Spools{Max: 1000}).New}, message.ErrTooBig},
	} {
		c.r.At = now
		if c.r.Message == nil {
			c.r.Message = mail(t, letter)
		}
		if c.r.NewSpool == nil {
			c.r.NewSpool = spools(t)
		}
		if m, err := New(w.config).Seal(t.Context(), c.r); !errors.Is(err, c.want) || m != nil {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// The forms in which S/MIME is met, and those that only look like it.
func TestDetect(t *testing.T) {
	w := newWorld(t, ecPair)
	body := func(m *message.Message) string {
		_, b, _ := strings.Cut(printed(t, m), "\r\n\r\n")
		return b
	}
	sealed, signed := w.seal(mail(t, letter), true, protect.Style{}, w.bob.opens.Cert), w.seal(mail(t, letter), true, protect.Style{})
	cbc, gcm := body(sealed), body(w.seal(mail(t, letter), true, protect.Style{Cipher: "aes-256-gcm"}, w.bob.opens.Cert))
	opaque := body(w.opaque(letter[strings.Index(letter, "MIME-Version"):]))
	around := body(w.opaque(printed(t, sealed)[strings.Index(printed(t, sealed), "MIME-Version"):]))
	certs := base64Of(bundled(t, w.ca.cert))
	multi := printed(t, signed)
	multi = multi[strings.Index(multi, "Content-Type:"):]
	part := func(head, body string) string {
		return "From: alice@company1.example\nMIME-Version: 1.0\n" + head + "\nContent-Transfer-Encoding: base64\n\n" + body
	}
	for _, c := range []struct {
		name, text string
		want       protect.Layer
	}{
		{"enveloped", part("Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m", cbc), protect.Sealed},
		{"authEnveloped", part("Content-Type: application/pkcs7-mime; smime-type=authEnveloped-data", gcm), protect.Sealed},
		{"without smime-type", part("Content-Type: application/pkcs7-mime", cbc), protect.Sealed},
		{"with a wrong one", part("Content-Type: application/pkcs7-mime; smime-type=signed-data", cbc), protect.Sealed},
		{"with another wrong one", part("Content-Type: application/pkcs7-mime; smime-type=enveloped-data", opaque), protect.Signed},
		{"of old programs", part("Content-Type: application/x-pkcs7-mime", cbc), protect.Sealed},
		{"in capitals", part("Content-Type: APPLICATION/X-PKCS7-MIME; SMIME-TYPE=ENVELOPED-DATA", cbc), protect.Sealed},
		{"by its name", part("Content-Type: application/octet-stream; name=\"smime.p7m\"", cbc), protect.Sealed},
		{"by the name of its file", part("Content-Type: application/octet-stream\nContent-Disposition: attachment; filename=SMIME.P7M", cbc), protect.Sealed},
		{"by another name", part("Content-Type: application/octet-stream; name=\"smime.bin\"", cbc), protect.None},
		{"by two names", part("Content-Type: application/octet-stream\nContent-Disposition: attachment; filename=smime.p7m\nContent-Disposition: inline", cbc), protect.None},
		{"as text", part("Content-Type: text/plain; name=smime.p7m", cbc), protect.None},
		{"opaque", part("Content-Type: application/pkcs7-mime; smime-type=signed-data", opaque), protect.Signed},
		{"opaque by its name", part("Content-Type: application/octet-stream; name=smime.p7s", opaque), protect.Signed},
		{"opaque around encryption", part("Content-Type: application/pkcs7-mime; smime-type=signed-data", around), protect.Sealed},
		{"certificates alone", part("Content-Type: application/pkcs7-mime; smime-type=certs-only", certs), protect.None},
		{"no CMS", part("Content-Type: application/pkcs7-mime", "aGVsbG8=\n"), protect.None},
		{"nothing", part("Content-Type: application/pkcs7-mime", ""), protect.None},
		{"multipart/signed", "From: a@b.example\n" + multi, protect.Signed},
		{"multipart/signed of old programs", "From: a@b.example\n" + strings.ReplaceAll(multi, "application/pkcs7-signature", "application/x-pkcs7-signature"), protect.Signed},
		{"multipart/signed without protocol", "From: a@b.example\n" + strings.Replace(multi, "protocol=\"application/pkcs7-signature\";", "", 1), protect.Signed},
		{"multipart/signed of another format", "From: a@b.example\n" + strings.Replace(multi, "protocol=\"application/pkcs7-signature\"", "protocol=\"application/pgp-signature\"", 1), protect.None},
		{"multipart/signed with something behind it", "From: a@b.example\n" + multi + "pay me\n", protect.None},
		{"multipart/signed of another type", "From: a@b.example\n" + strings.Replace(multi, "Content-Type: application/pkcs7-signature", "Content-Type: application/octet-stream", 1), protect.None},
		{"sealed as an attachment", "From: a@b.example\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/pkcs7-mime; name=smime.p7m\nContent-Transfer-Encoding: base64\n\n" + cbc + "\n--x--\n", protect.None},
		{"plain", letter, protect.None},
	} {
		m := mail(t, crlf(strings.ReplaceAll(c.text, "\r\n", "\n")))
		if got := New(w.config).Detect(m); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
		if opened, f, err := w.open(m); c.want == protect.None && (opened != m || err != nil || f.Good || f.Opened || f.Signed) {
			t.Errorf("%s: opened: got %+v, %v", c.name, f, err)
		}
	}
}

// A certificate comes along with each good signature, and one to answer to,
// if it is the signer's.
func TestBrought(t *testing.T) {
	w := newWorld(t, ecPair)
	mallory := newAuthority(t, "Test CA") // calls itself like the real one
	alice := w.alice.opens.Address
	planted := mallory.opens(t, w.token, hsm.P256, alice)
	other := w.ca.opens(t, w.token, hsm.P256, address(t, "dave@company1.example"))
	pin := w.alice.signs.Cert
	for _, c := range []struct {
		name  string
		own   []keyring.Identity
		more  []*x509.Certificate
		judge bool
		want  []string
	}{
		{name: "both", own: w.alice.both(), judge: true, want: []string{w.alice.signs.Fingerprint, w.alice.opens.Fingerprint}},
		{name: "signature alone", judge: true, want: []string{w.alice.signs.Fingerprint}},
		{name: "somebody else's", own: []keyring.Identity{other}, judge: true, want: []string{w.alice.signs.Fingerprint}},
		{name: "planted", own: []keyring.Identity{planted}, more: []*x509.Certificate{mallory.cert}, judge: true, want: []string{w.alice.signs.Fingerprint}},
		{name: "pinned, with the issuer", own: w.alice.both(), more: []*x509.Certificate{w.ca.cert}, want: []string{w.alice.signs.Fingerprint, w.alice.opens.Fingerprint}},
		{name: "pinned, without", own: w.alice.both(), want: []string{w.alice.signs.Fingerprint}},
		{name: "pinned, planted", own: []keyring.Identity{planted}, more: []*x509.Certificate{mallory.cert, w.ca.cert}, want: []string{w.alice.signs.Fingerprint}},
	} {
		w.config = Config{Token: w.counted, Chain: func(*x509.Certificate) []*x509.Certificate { return c.more }}
		w.known = []keyring.Cert{pin}
		if c.judge {
			w.config.Judge, w.known = w.ca.judge(t), nil
		}
		sealed, err := New(w.config).Seal(t.Context(), protect.SealRequest{Message: mail(t, letter), Signer: &w.alice.signs, Own: c.own, At: now, NewSpool: spools(t)})
		if err != nil {
			t.Fatal(err)
		}
		_, f, err := w.open(sealed)
		var got []string
		for _, b := range f.Brought {
			got = append(got, b.Fingerprint)
			if b.Trust != keyring.Seen || b.Source != "mail" || b.Capabilities == nil || !slices.Equal(b.Addresses, []message.Address{alice}) {
				t.Errorf("%s: got %+v", c.name, b)
			}
		}
		if err != nil || !f.Good || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %+v, %v, want %v", c.name, got, f, err, c.want)
		}
	}
}

// Under every policy the reader of a sealed mail gets its header back, and
// nobody on the way has read what the policy hides (RFC 9788 §3.2).
func TestHeaders(t *testing.T) {
	w := newWorld(t, ecPair)
	const text = "From: Alice Stone <alice@company1.example>\r\nTo: Bob <bob@partner.example>\r\nSubject: Secret plans\r\nKeywords: secret\r\nDate: Tue, 24 Nov 2026 12:00:00 +0100\r\n\r\nhello\r\n"
	for p, hidden := range map[headers.Policy][]string{headers.Baseline: {"Secret", "secret"}, headers.Shy: {"Secret", "secret", "Stone", "+0100"}, headers.None: nil} {
		w.config.Headers = p
		for _, signed := range []bool{true, false} {
			sealed := w.seal(mail(t, text), signed, protect.Style{}, w.bob.opens.Cert)
			for _, word := range hidden {
				if strings.Contains(printed(t, sealed), word) {
					t.Errorf("%s: %q in\n%s", p, word, printed(t, sealed))
				}
			}
			opened, f, err := w.open(sealed)
			if err != nil || f.Good != signed || opened.Get("Subject") != "Secret plans" || opened.Get("From") != "Alice Stone <alice@company1.example>" || opened.Count("Subject") != 1 {
				t.Errorf("%s: got %+v, %v\n%s", p, f, err, printed(t, opened))
			}
		}
	}
	// What was signed in clear and stands otherwise outside was changed on the way.
	for _, m := range []*message.Message{w.seal(mail(t, text), true, protect.Style{}), w.opaque("Subject: Secret plans\r\nContent-Type: text/plain; hp=clear\r\n\r\nhello\r\n")} {
		for _, subject := range []string{"Secret plans", "Other plans"} {
			changed := strings.Replace(printed(t, m), "Subject: Secret plans", "Subject: "+subject, 1)
			if !strings.Contains(changed, "Subject") {
				changed = "Subject: " + subject + "\r\n" + changed
			}
			want := protect.ReasonPartial
			if subject == "Secret plans" {
				want = protect.ReasonGood
			}
			if _, f, err := w.open(mail(t, changed)); err != nil || f.Reason != want || f.Good != (want == protect.ReasonGood) {
				t.Errorf("%s: got %+v, %v, want %s\n%s", subject, f, err, want, changed)
			}
		}
	}
}

// A good signature of long before the Date of its mail was made for another
// one: the Date is not signed. One of long after says nothing.
func TestDate(t *testing.T) {
	w := newWorld(t, ecPair)
	for date, want := range map[time.Time]string{now: protect.ReasonGood, now.Add(-30 * 24 * time.Hour): protect.ReasonGood, now.Add(23 * time.Hour): protect.ReasonGood, now.Add(49 * time.Hour): protect.ReasonPartial} {
		text := strings.Replace(letter, "Tue, 24 Nov 2026 11:00:00 +0000", date.Format(time.RFC1123Z), 1)
		for _, to := range [][]keyring.Cert{nil, {w.bob.opens.Cert}} {
			if _, f, err := w.open(w.seal(mail(t, text), true, protect.Style{}, to...)); err != nil || f.Reason != want {
				t.Errorf("%s: got %+v, %v, want %s", date, f, err, want)
			}
		}
	}
	future := protect.OpenRequest{Message: w.seal(mail(t, letter), true, protect.Style{}), At: now.Add(-time.Hour), NewSpool: spools(t)}
	if _, f, err := New(w.config).Open(t.Context(), future); err != nil || f.Reason != protect.ReasonBad {
		t.Errorf("from the future: got %+v, %v, want %s", f, err, protect.ReasonBad)
	}
}
