package openpgp

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/hsm"
)

// signedMail is a multipart/signed around what gpg signed.
func signedMail(entity, signature string) string {
	return crlf("From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: s\nMIME-Version: 1.0\n"+
		"Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; micalg=pgp-sha256; boundary=b\n\n--b\n") +
		entity + crlf("\n--b\nContent-Type: application/pgp-signature\n\n"+signature+"\n--b--\n")
}

// Every word that verification can answer, by signatures of gpg; weak hashes
// and keys are no ground for a claim (R14).
func TestVerify(t *testing.T) {
	g := newGnuPG(t)
	g.run("", "--quick-gen-key", "Bob <bob@partner.example>", "rsa2048", "sign", "never")
	g.run("", "--quick-gen-key", "Dora <dora@partner.example>", "dsa2048", "sign", "never")
	g.run("", "--quick-gen-key", "Eve <eve@evil.example>", "ed25519", "sign", "never")
	g.run("", "--quick-gen-key", "Short <short@partner.example>", "rsa1024", "sign", "never")
	g.run("", "--quick-gen-key", "Old <old@partner.example>", "ed25519", "sign", "2d")
	cert := func(who string) keyring.Cert { return imported(t, g.run("", "--armor", "--export", who)) }
	sign := func(who, text string, args ...string) string {
		return g.run(text, append(args, "--armor", "--detach-sign", "-u", who)...)
	}
	bob, dora, eve, short, old := cert("bob"), cert("dora"), cert("eve"), cert("short"), cert("old")
	seen, distrusted, ofDomain := bob, bob, bob
	seen.Trust, distrusted.Trust = keyring.Seen, keyring.Distrusted
	ofDomain.Addresses, ofDomain.Domains = nil, []string{"partner.example"}
	e := crlf("Content-Type: text/plain\n\nhello\n")
	good := signedMail(e, sign("bob", e))
	day := 24 * time.Hour
	for _, c := range []struct {
		name  string
		mail  string
		certs []keyring.Cert
		after time.Duration
		want  string
	}{
		{"good", good, []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"good, text mode", signedMail(e, sign("bob", e, "--textmode")), []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"good, sha512", signedMail(e, sign("bob", e, "--digest-algo", "SHA512")), []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"good among others", good, []keyring.Cert{eve, dora, bob}, 0, protect.ReasonGood},
		{"good for a domain", good, []keyring.Cert{ofDomain}, 0, protect.ReasonGood},
		{"good, line for old readers", strings.Replace(good, "\r\n\r\n--b\r\n", "\r\n\r\nThis is an OpenPGP/MIME signed message (RFC 4880 and 3156)\r\n--b\r\n", 1), []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"signed again a day later", good, []keyring.Cert{bob}, day, protect.ReasonGood},
		{"bad", strings.Replace(good, "hello", "Hello", 1), []keyring.Cert{bob}, 0, protect.ReasonBad},
		{"bad header of the part", strings.Replace(good, "Content-Type: text/plain", "Content-Type: text/html", 1), []keyring.Cert{bob}, 0, protect.ReasonBad},
		{"nobody knows", good, []keyring.Cert{eve}, 0, protect.ReasonUnknownCert},
		{"nobody at all", good, nil, 0, protect.ReasonUnknownCert},
		{"seen only", good, []keyring.Cert{seen}, 0, protect.ReasonUntrusted},
		{"distrusted", good, []keyring.Cert{distrusted}, 0, protect.ReasonUntrusted},
		{"of the future", good, []keyring.Cert{bob}, -day, protect.ReasonBad},
		{"within the skew", good, []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"expired certificate", signedMail(e, sign("old", e)), []keyring.Cert{old}, 5 * day, protect.ReasonExpired},
		{"expired signature", signedMail(e, sign("bob", e, "--default-sig-expire", "1d")), []keyring.Cert{bob}, 3 * day, protect.ReasonExpired},
		{"sha-1", signedMail(e, sign("bob", e, "--digest-algo", "SHA1")), []keyring.Cert{bob}, 0, protect.ReasonWeak},
		{"ripemd-160", signedMail(e, sign("bob", e, "--digest-algo", "RIPEMD160")), []keyring.Cert{bob}, 0, protect.ReasonWeak},
		{"dsa", signedMail(e, sign("dora", e)), []keyring.Cert{dora}, 0, protect.ReasonWeak},
		{"rsa 1024", signedMail(e, sign("short", e)), []keyring.Cert{short}, 0, protect.ReasonWeak},
		{"no signature", signedMail(e, "nothing"), []keyring.Cert{bob}, 0, protect.ReasonBad},
		{"armour of a key", signedMail(e, armored(t, bob)), []keyring.Cert{bob}, 0, protect.ReasonBad},
		{"two by two", signedMail(e, sign("bob", e, "-u", "eve")), []keyring.Cert{bob, eve}, 0, protect.ReasonGood},
		{"two, one unknown", signedMail(e, sign("bob", e, "-u", "eve")), []keyring.Cert{bob}, 0, protect.ReasonGood},
		{"two, one weak", signedMail(e, sign("bob", e, "-u", "dora")), []keyring.Cert{bob, dora}, 0, protect.ReasonWeak},
	} {
		p := New(Config{})
		m := mail(t, c.mail)
		if got := p.Detect(m); got != protect.Signed {
			t.Errorf("%s: detect: got %d, want signed", c.name, got)
			continue
		}
		at := now.Add(time.Minute + c.after)
		same, f, err := p.Open(t.Context(), protect.OpenRequest{Message: m, Certs: c.certs, At: at, NewSpool: spools(t)})
		if err != nil || same != m {
			t.Errorf("%s: got %v, %v", c.name, same, err)
			continue
		}
		if f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) || f.Opened || !f.Signed {
			t.Errorf("%s: got %+v, want %s", c.name, f, c.want)
		}
		if f.Good && (f.Signer != bob.Fingerprint || !slices.Contains(f.Signers, message.Address{Local: "bob", Domain: "partner.example"})) {
			t.Errorf("%s: got signer %s, %v", c.name, f.Signer, f.Signers)
		}
		if !f.Good && (f.Signer != "" || f.Signers != nil) {
			t.Errorf("%s: got signer %s, %v of a signature that is not good", c.name, f.Signer, f.Signers)
		}
	}
}

// A revoked certificate vouches for nothing; one with a bad second signature neither.
func TestVerifyRevoked(t *testing.T) {
	g := newGnuPG(t)
	g.run("", "--quick-gen-key", "Bob <bob@partner.example>", "ed25519", "sign", "never")
	e := crlf("Content-Type: text/plain\n\nhello\n")
	text := signedMail(e, g.run(e, "--armor", "--detach-sign"))
	bob := imported(t, g.run("", "--armor", "--export"))
	rev, status, err := peer(t, "y\n0\n\ny\n", "gpg", "--homedir", g.home, "--no-tty", "--command-fd", "0", "--status-fd", "2", "--gen-revoke", bob.Fingerprint)
	if err != nil {
		t.Fatalf("revoke: %v\n%s", err, status)
	}
	g.run(rev, "--import")
	revoked := imported(t, g.run("", "--armor", "--export"))
	_, f, err := New(Config{}).Open(t.Context(), protect.OpenRequest{Message: mail(t, text), Certs: []keyring.Cert{revoked}, At: now.Add(time.Hour), NewSpool: spools(t)})
	if err != nil || f.Reason != protect.ReasonRevoked || f.Good {
		t.Errorf("got %+v, %v", f, err)
	}
}

// mangledMail is a multipart/encrypted after Exchange had it.
func mangledMail(text, armour string) string {
	return crlf("From: a@b.example\nSubject: s\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\n\n" + text +
		"\n--x\nContent-Type: application/pgp-encrypted; name=\"PGPMIME version identification\"\nContent-Disposition: attachment\n\nVersion: 1\n\n" +
		"--x\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\n\n" + armour + "\n--x--\n")
}

// What is not the root layer, or not alone there, gives no claim (R7, R10, R13).
func TestDetect(t *testing.T) {
	const armour = "-----BEGIN PGP MESSAGE-----\n\nwcBM\n-----END PGP MESSAGE-----\n"
	sealed := pgpMIMEText(armour)
	signed := signedMail("Content-Type: text/plain\r\n\r\nhello\r\n", "-----BEGIN PGP SIGNATURE-----\n\nwcBM\n-----END PGP SIGNATURE-----\n")
	text := func(s string) string {
		return crlf("From: a@b.example\nContent-Type: text/plain\n\n" + s)
	}
	for _, c := range []struct {
		name, mail string
		want       protect.Layer
	}{
		{"sealed", sealed, protect.Sealed},
		{"signed", signed, protect.Signed},
		{"inline sealed", text(armour), protect.Sealed},
		{"inline sealed, no header", crlf("From: a@b.example\n\n\n\n" + armour), protect.Sealed},
		{"inline sealed, quoted-printable", crlf("From: a@b.example\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n-----BEGIN PGP =\nMESSAGE-----\n"), protect.Sealed},
		{"inline signed", text("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n"), protect.Signed},

		{"mangled by Exchange", mangledMail("\n", armour), protect.Sealed},
		{"mangled, without a text", strings.Replace(mangledMail("\n", armour), "--x\r\nContent-Type: text/plain\r\n\r\n\r\n\r\n", "", 1), protect.Sealed},
		{"application/pgp", strings.Replace(text(armour), "text/plain", "application/pgp; x-action=encrypt; format=text", 1), protect.Sealed},
		{"application/pgp around an entity", strings.Replace(text(armour), "text/plain", "application/pgp; format=mime", 1), protect.Sealed},
		{"application/pgp, signed", strings.Replace(text("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n"), "text/plain", "application/pgp; x-action=sign", 1), protect.Signed},

		{"plain", text("hello\n"), protect.None},
		{"application/pgp that is none", strings.Replace(text("hello\n"), "text/plain", "application/pgp", 1), protect.None},
		{"mangled, with a text", mangledMail("read this\n", armour), protect.None},
		{"mangled, with HTML", strings.Replace(mangledMail("\n", armour), "text/plain", "text/html", 1), protect.None},
		{"mangled, with more", strings.Replace(mangledMail("\n", armour), "--x--", "--x\r\n\r\n\r\n--x--", 1), protect.None},
		{"mangled, text before", strings.Replace(mangledMail("\n", armour), "\r\n\r\n--x", "\r\n\r\nread this\r\n--x", 1), protect.None},
		{"mangled, text behind", mangledMail("\n", armour) + "read this\r\n", protect.None},
		{"mangled, no version", strings.Replace(mangledMail("\n", armour), "Version: 1", "Version: 2", 1), protect.None},
		{"mangled, no armour", mangledMail("\n", "hello\n"), protect.None},
		{"partitioned", crlf("From: a@b.example\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\n\n" + armour + "\n--x\nContent-Type: application/pgp-encrypted; name=a.pdf.asc\n\n" + armour + "\n--x--\n"), protect.None},
		{"text before armour", text("hello\n" + armour), protect.None},
		{"armour in html", crlf("From: a@b.example\nContent-Type: text/html\n\n" + armour), protect.None},
		{"armour as attachment", crlf("From: a@b.example\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n" + armour + "\n--b--\n"), protect.None},
		{"sealed inside mixed", crlf("From: a@b.example\nContent-Type: multipart/mixed; boundary=x\n\n--x\n") + sealed[strings.Index(sealed, "Content-Type"):] + "\r\n--x--\r\n", protect.None},
		{"signed inside mixed", crlf("From: a@b.example\nContent-Type: multipart/mixed; boundary=x\n\n--x\n") + signed[strings.Index(signed, "Content-Type"):] + "\r\n--x--\r\n", protect.None},
		{"three parts", strings.Replace(sealed, "--b--", "--b\r\n\r\nmore\r\n--b--", 1), protect.None},
		{"text behind", sealed + "more\r\n", protect.None},
		{"text before", strings.Replace(sealed, "\r\n\r\n--b\r\n", "\r\n\r\n"+strings.Repeat("read this ", 40)+"\r\n--b\r\n", 1), protect.None},
		{"version 2", strings.Replace(sealed, "\r\nVersion: 1\r\n\r\n--b", "\r\nVersion: 2\r\n\r\n--b", 1), protect.None},
		{"other protocol", strings.Replace(sealed, "protocol=\"application/pgp-encrypted\"", "protocol=\"application/x\"", 1), protect.None},
		{"parts of other types", strings.Replace(sealed, "application/octet-stream", "text/plain", 1), protect.None},
		{"signed, three parts", strings.Replace(signed, "--b--", "--b\r\n\r\nmore\r\n--b--", 1), protect.None},
		{"signed, text behind", signed + "a list's footer\r\n", protect.None},
		{"signed by S/MIME", strings.ReplaceAll(signed, "pgp-signature", "pkcs7-signature"), protect.None},
	} {
		if got := New(Config{}).Detect(mail(t, c.mail)); got != c.want {
			t.Errorf("%s: got %d, want %d\n%s", c.name, got, c.want, c.mail)
		}
	}
}

// Text that is signed in the open is verified only if it is all there is (R10).
func TestClear(t *testing.T) {
	g := newGnuPG(t)
	g.run("", "--quick-gen-key", "Bob <bob@partner.example>", "ed25519", "sign", "never")
	bob := imported(t, g.run("", "--armor", "--export"))
	clear := g.run("hello  \n- dash\n-----BEGIN x\n\nend\n", "--clearsign")
	text := func(s string) string {
		return crlf("From: Bob <bob@partner.example>\nContent-Type: text/plain; charset=utf-8\n\n" + s)
	}
	for _, c := range []struct{ name, mail, want string }{
		{"good", text(clear), protect.ReasonGood},
		{"blank around", text("\n\n" + clear + "\n\n"), protect.ReasonGood},
		{"base64", crlf("From: Bob <bob@partner.example>\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n") + lines(base64.StdEncoding.EncodeToString([]byte(clear))), protect.ReasonGood},
		{"application/pgp", strings.Replace(text(clear), "text/plain", "application/pgp", 1), protect.ReasonGood},
		{"a list's footer", text(clear + "-- \nlist@example.org\n"), protect.ReasonPartial},
		{"quoted-printable", crlf("From: Bob <bob@partner.example>\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n" + strings.ReplaceAll(clear, "=", "=3D")), protect.ReasonGood},
		{"changed", text(strings.Replace(clear, "hello", "Hello", 1)), protect.ReasonBad},
		{"text behind", text(clear + "more\n"), protect.ReasonPartial},
		{"two", text(clear + clear), protect.ReasonPartial},
		{"header field that is not signed", text(strings.Replace(clear, "Hash: ", "Comment: pay me\nHash: ", 1)), protect.ReasonPartial},
		{"no signature", text(clear[:strings.Index(clear, "-----BEGIN PGP SIGNATURE")]), protect.ReasonPartial},
	} {
		m := mail(t, c.mail)
		_, f, err := New(Config{}).Open(t.Context(), protect.OpenRequest{Message: m, Certs: []keyring.Cert{bob}, At: now.Add(time.Minute), NewSpool: spools(t)})
		if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) || !f.Signed {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
		}
	}
}

// A multipart/signed directly inside encryption is verified (R10), deeper it
// is not; a signature for another reader is none (RFC 9580 §5.2.3.36).
func TestInside(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	bob := newIdentity(t, token, suites[6], "bob@partner.example")
	carol := newIdentity(t, token, suites[4], "carol@partner.example")
	plain := mail(t, plainMail)
	inner := print(t, seal(t, token, plain, &alice))
	inner = inner[strings.Index(inner, "Content-Type: multipart/signed"):]
	deeper := crlf("Content-Type: multipart/mixed; boundary=x\n\n--x\n") + inner + "\r\n--x--\r\n"
	forBob := seal(t, token, plain, &alice, bob.Cert)
	for _, c := range []struct {
		name, entity, want string
	}{
		{"directly inside", inner, protect.ReasonGood},
		{"changed inside", strings.Replace(inner, "AAECAw", "BBECAw", 1), protect.ReasonBad},
		{"deeper", deeper, protect.ReasonNone},
		{"line ends of Unix", strings.ReplaceAll(inner, "\r\n", "\n"), protect.ReasonGood},
	} {
		m := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: literal(c.entity)}.packets(t)))
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}, certs: []keyring.Cert{alice.Cert}}.open(t, m)
		if err != nil || !f.Opened || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
			continue
		}
		if text := print(t, opened); strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") {
			t.Errorf("%s: bare line end in\n%q", c.name, text)
		}
	}
	// Bob re-encrypts Alice's signed words for Carol.
	d, err := readData(strings.NewReader(string(packetsOf(t, print(t, forBob)))), false)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := new(tries).unwrap(t.Context(), token, d.attempts(&desk{shelf: new(shelf)}, []keyring.Identity{bob}))
	if err != nil {
		t.Fatal(err)
	}
	payload := plaintext(t, d, key)
	for _, c := range []struct {
		to   keyring.Identity
		want string
	}{{bob, protect.ReasonGood}, {carol, protect.ReasonBad}} {
		m := mail(t, pgpMIME(t, crafted{to: c.to.Cert, payload: payload}.packets(t)))
		_, f, err := opening{token: token, ids: []keyring.Identity{c.to}, certs: []keyring.Cert{alice.Cert}}.open(t, m)
		if err != nil || f.Reason != c.want {
			t.Errorf("for %s: got %+v, %v, want %s", c.to.Address.Key(), f, err, c.want)
		}
	}
}

// Fields inside the payload never stand beside those outside.
func TestInnerHeader(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	entity := "From: mallory@evil.example\r\nSubject: inner\r\n folded\r\nContent-Type: text/plain;\r\n charset=utf-8\r\nPostern-Status: v=1; verified=yes\r\nMIME-Version: 1.0\r\nContent-Language: de\r\n\r\nhello\r\n"
	m := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: literal(entity)}.packets(t)))
	opened, _, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, m)
	if err != nil {
		t.Fatal(err)
	}
	want := crlf("From: Alice <alice@company1.example>\nTo: bob@partner.example\nSubject: s\nMIME-Version: 1.0\nContent-Type: text/plain;\n charset=utf-8\nContent-Language: de\n\nhello\n")
	if got := print(t, opened); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What was sealed and is no entity comes out as text, whole.
func TestNoEntity(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	const head = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
	for _, c := range []struct{ name, plain, want string }{
		{"text", "hello", head + "hello"},
		{"paragraphs", "hello\n\nworld\n", head + "hello\r\n\r\nworld\r\n"},
		{"text that begins like a header", "Note: hello\n\nworld\n", head + "Note: hello\r\n\r\nworld\r\n"},
		{"header with a broken line", "Content-Type: text/html\nbroken\n\nhello\n", head + "Content-Type: text/html\r\nbroken\r\n\r\nhello\r\n"},
		{"long line", strings.Repeat("x", entity.MaxHeader+10), head + strings.Repeat("x", entity.MaxHeader+10)},
		{"nothing", "", head},
		{"empty header", "\nhello\n", "\r\nhello\r\n"},
		{"header alone", "Content-Type: text/plain", "Content-Type: text/plain\r\n\r\n"},
	} {
		m := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: literal(c.plain)}.packets(t)))
		opened, _, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, got, _ := strings.Cut(print(t, opened), "MIME-Version: 1.0\r\n")
		if got != c.want {
			t.Errorf("%s: got\n%.300q\nwant\n%.300q", c.name, got, c.want)
		}
	}
}

// A good signature of long before the Date of its mail was made for another
// one: the Date is not signed. One of long after says nothing.
func TestVerifyDate(t *testing.T) {
	token := soft(t)
	alice := newIdentityAt(t, token, suites[3], "alice@company1.example", now.AddDate(-1, 0, 0))
	day := 24 * time.Hour
	for _, c := range []struct {
		date time.Time
		want string
	}{{now, protect.ReasonGood}, {now.Add(-5 * day), protect.ReasonGood}, {now.Add(12 * time.Hour), protect.ReasonGood}, {now.Add(-30 * day), protect.ReasonGood}, {now.AddDate(-20, 0, 0), protect.ReasonGood}, {now.Add(2 * day), protect.ReasonPartial}} {
		plain := mail(t, "Date: "+c.date.Format(time.RFC1123Z)+"\r\n"+plainMail)
		for _, to := range [][]keyring.Cert{nil, {alice.Cert}} {
			_, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{alice.Cert}}.open(t, seal(t, token, plain, &alice, to...))
			if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) {
				t.Errorf("%s: got %+v, %v, want %s", c.date, f, err, c.want)
			}
		}
	}
}

// Header fields that were signed and stand otherwise in the header were changed on the way.
func TestVerifyDenied(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	const fields = "From: Alice <alice@company1.example>\nSubject: =?utf-8?q?caf=C3=A9?=\n today\nDate: Tue, 24 Nov 2026 11:00:00 +0000\nMessage-ID: <1@company1.example>\n"
	for _, c := range []struct{ name, mark, outside, want string }{
		{"the same", "; protected-headers=\"v1\"", fields, protect.ReasonGood},
		{"the same in other words", "; hp=clear", "From: Alice\n <alice@company1.example>\nSubject: =?utf-8?b?Y2Fmw6k=?= today\nDate: Tue, 24 Nov 2026 12:00:00 +0100\nMessage-ID: <1@company1.example>\n", protect.ReasonGood},
		{"another subject", "; hp=clear", strings.Replace(fields, "today", "tomorrow", 1), protect.ReasonPartial},
		{"another name", "; hp=clear", strings.Replace(fields, "Alice", "Your bank", 1), protect.ReasonPartial},
		{"another date", "; protected-headers=v1", strings.Replace(fields, "11:00:00", "11:00:01", 1), protect.ReasonPartial},
		{"another id", "; protected-headers=v1", strings.Replace(fields, "<1@", "<2@", 1), protect.ReasonPartial},
		{"none outside", "; protected-headers=v1", strings.Replace(fields, "Message-ID", "X-Id", 1), protect.ReasonPartial},
		{"nothing protected", "", strings.Replace(fields, "<1@", "<2@", 1), protect.ReasonGood},
	} {
		entity := crlf("Content-Type: text/plain" + c.mark + "\n" + fields + "\nhello\n")
		signed := signedBy(t, token, alice, entity)
		text := crlf(c.outside) + signed[strings.Index(signed, "MIME-Version"):]
		_, f, err := opening{certs: []keyring.Cert{alice.Cert}}.open(t, mail(t, text))
		if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) || !f.Signed {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
		}
		// Inside encryption the fields outside may say less.
		m := mail(t, crlf(c.outside)+pgpMIME(t, crafted{to: alice.Cert, payload: literal(signed[strings.Index(signed, "Content-Type"):])}.packets(t))[strings.Index(pgpMIMEText(""), "MIME-Version"):])
		_, f, err = opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{alice.Cert}}.open(t, m)
		if err != nil || f.Reason != protect.ReasonGood {
			t.Errorf("%s, sealed: got %+v, %v", c.name, f, err)
		}
	}
}

// signedBy is a multipart/signed around an entity, signed by the token.
func signedBy(t testing.TB, token hsm.Token, id keyring.Identity, entity string) string {
	t.Helper()
	key, err := signingKey(id, now)
	if err != nil {
		t.Fatal(err)
	}
	by, err := newSigner(token, key)
	if err != nil {
		t.Fatal(err)
	}
	sig, h, err := by.begin(packet.SigTypeBinary, now)
	if err != nil {
		t.Fatal(err)
	}
	h.Write([]byte(entity))
	if err := by.finish(t.Context(), sig, h); err != nil {
		t.Fatal(err)
	}
	printed, err := packetOf(sig)
	if err != nil {
		t.Fatal(err)
	}
	return signedMail(entity, strings.ReplaceAll(armour(t, labelSignature, printed), "\r\n", "\n"))
}

// lines breaks base64 as mail does.
func lines(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		n := min(76, len(s))
		b.WriteString(s[:n] + "\r\n")
		s = s[n:]
	}
	return b.String()
}

// Text that was sealed inline comes out as text in its charset.
func TestInline(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	sealed := pgpMIME(t, crafted{to: bob.Cert, payload: literal("first\n\nsecond\rthird")}.packets(t))
	armour := sealed[strings.Index(sealed, "-----BEGIN"):strings.Index(sealed, "\r\n--b--")]
	head := crlf("From: a@b.example\nContent-Type: text/plain; charset=us-ascii\nSubject: s\n\n")
	for _, c := range []struct{ name, mail, charset string }{
		{"plain", head + armour, "utf-8"},
		{"charset", head + strings.Replace(armour, "-----\r\n", "-----\r\nCharset: iso-8859-1\r\n", 1), "iso-8859-1"},
		{"quoted-printable", strings.Replace(head, "Subject", "Content-Transfer-Encoding: quoted-printable\r\nSubject", 1) + strings.ReplaceAll(strings.ReplaceAll(armour, "=", "=3D"), "PGP ", "PGP=20"), "utf-8"},
		{"quoted-printable by name only", strings.Replace(head, "Subject", "Content-Transfer-Encoding: quoted-printable\r\nSubject", 1) + armour, "utf-8"},
		{"base64", strings.Replace(head, "Subject", "Content-Transfer-Encoding: base64\r\nSubject", 1) + lines(base64.StdEncoding.EncodeToString([]byte(armour))), "utf-8"},
		{"charset forged", head + strings.Replace(armour, "-----\r\n", "-----\r\nCharset: x\"; a=b\r\n", 1), "utf-8"},
	} {
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, mail(t, c.mail))
		if err != nil || !f.Opened {
			t.Errorf("%s: got %+v, %v", c.name, f, err)
			continue
		}
		want := crlf("From: a@b.example\nSubject: s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=" + c.charset + "\nContent-Transfer-Encoding: 8bit\n\nfirst\n\nsecond\nthird")
		if got := print(t, opened); got != want {
			t.Errorf("%s: got\n%q\nwant\n%q", c.name, got, want)
		}
	}
	// The same where a MIME entity was sealed, in other dress.
	sealed = pgpMIME(t, crafted{to: bob.Cert, payload: literal(simpleEntity)}.packets(t))
	whole := sealed[strings.Index(sealed, "-----BEGIN"):strings.Index(sealed, "\r\n--b--")]
	for name, text := range map[string]string{
		"application/pgp":     strings.Replace(head, "text/plain", "application/pgp; format=mime", 1) + whole,
		"mangled by Exchange": mangledMail("\n\n", strings.ReplaceAll(whole, "\r\n", "\n")),
	} {
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, mail(t, text))
		if err != nil || !f.Opened {
			t.Errorf("%s: got %+v, %v", name, f, err)
			continue
		}
		want := crlf("From: a@b.example\nSubject: s\nMIME-Version: 1.0\n") + simpleEntity
		if got := print(t, opened); got != want {
			t.Errorf("%s: got\n%q\nwant\n%q", name, got, want)
		}
	}
	if _, _, err := (opening{token: token, ids: []keyring.Identity{bob}}).open(t, mail(t, head+armour+"\r\nmore\r\n")); err != protect.ErrCannotOpen {
		t.Errorf("text behind: got %v, want %v", err, protect.ErrCannotOpen)
	}
}
