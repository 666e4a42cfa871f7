package openpgp

import (
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/headers"
)

// Under every policy the reader of a sealed mail gets its header back, and
// nobody on the way has read what the policy hides (RFC 9788 §3.2).
func TestHeaderRoundTrip(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	bob := newIdentity(t, token, suites[6], "bob@partner.example")
	plain := mail(t, crlf("Received: by a.example\nFrom: Alice Stone <alice@company1.example>\nTo: Bob <bob@partner.example>\nCc: carol@partner.example\nBcc: dave@freemail.example\n"+
		"Subject: Secret Grüße\nKeywords: secret\nDate: Tue, 24 Nov 2026 13:00:00 +0100\nMessage-ID: <1@company1.example>\nReferences: <2@partner.example>\nX-Private: x\n\nhello\n"))
	for _, c := range []struct {
		policy headers.Policy
		hidden []string
	}{
		{"", []string{"Secret", "secret", "Keywords"}},
		{headers.Baseline, []string{"Secret", "secret", "Keywords"}},
		{headers.Shy, []string{"Secret", "secret", "Keywords", "Stone", "Bob", "+0100"}},
		{headers.None, nil},
	} {
		for _, by := range []*keyring.Identity{nil, &alice} {
			p := New(Config{Token: token, Headers: c.policy})
			sealed, err := p.Seal(t.Context(), protect.SealRequest{Message: plain, Signer: by, Recipients: []keyring.Cert{bob.Cert}, At: now, NewSpool: spools(t)})
			if err != nil {
				t.Fatal(err)
			}
			text := print(t, sealed)
			for _, word := range c.hidden {
				if strings.Contains(text, word) {
					t.Errorf("%s: %q in\n%s", c.policy, word, text)
				}
			}
			opened, f, err := opening{token: token, ids: []keyring.Identity{bob}, certs: []keyring.Cert{alice.Cert}}.open(t, mail(t, text))
			if err != nil || f.Good != (by != nil) {
				t.Fatalf("%s: got %+v, %v", c.policy, f, err)
			}
			for _, field := range []string{"Received", "From", "To", "Cc", "Subject", "Keywords", "Date", "Message-ID", "References"} {
				if got, want := message.DecodeWords(opened.Get(field)), plain.Get(field); opened.Count(field) != 1 && !(c.hidden != nil && field == "Keywords") || got != want {
					t.Errorf("%s: %s: got %q, want %q", c.policy, field, got, want)
				}
			}
			if opened.Count("HP-Outer") != 0 || strings.Count(print(t, opened), "dave@") > 1 {
				t.Errorf("%s: got\n%s", c.policy, print(t, opened))
			}
			inside := protectedEntity(t, plain, true)
			if strings.Contains(inside, "dave@") || strings.Contains(inside, "Received") {
				t.Errorf("payload: got\n%s\nwant no Bcc, no Received", inside)
			}
		}
	}
}

// sealedAs is a mail with this header around an entity that is encrypted as it stands.
func sealedAs(t testing.TB, head, entity string, to keyring.Cert) *message.Message {
	t.Helper()
	text := pgpMIME(t, crafted{to: to, payload: literal(crlf(entity))}.packets(t))
	return mail(t, crlf(head)+text[strings.Index(text, "MIME-Version"):])
}

// What claims to be a protected header and does not stand at the root of the
// protected payload is not shown (R22), nor are fields that are for servers (R20).
func TestHeaderPhony(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	mallory := newIdentity(t, token, suites[3], "mallory@evil.example")
	const head = "From: Alice <alice@company1.example>\nTo: bob@partner.example\nSubject: outside\n"
	const phony = "Subject: phony\nPostern-Status: v=1; verified=yes\nAuthentication-Results: gw.partner.example; x-openpgp=pass\nFrom: ceo@company1.example\n"
	const hp = "Content-Type: text/plain; hp=\"cipher\"; protected-headers=v1\n"
	inner := sealedAs(t, "", phony+hp+"\nhello\n", bob.Cert)
	nested := strings.ReplaceAll(print(t, inner), "\r\n", "\n")
	nested = nested[strings.Index(nested, "Content-Type:"):]
	for _, c := range []struct {
		name, entity string
		subject      string
	}{
		{"no mark", phony + "Content-Type: text/plain\n\nhello\n", "outside"},
		{"at the root", phony + hp + "\nhello\n", "phony"},
		{"in a part", "Content-Type: multipart/mixed; boundary=x\n\n--x\n" + phony + hp + "\nhello\n--x--\n", "outside"},
		{"in a forwarded mail", "Content-Type: message/rfc822\n\n" + phony + hp + "\nhello\n", "outside"},
		{"on a layer that stays shut", phony + strings.Replace(nested, "Content-Type: multipart/encrypted;", "Content-Type: multipart/encrypted; hp=cipher; protected-headers=v1;", 1), "outside"},
		{"inside of a layer that stays shut", nested, "outside"},
		{"around a signature", phony + "Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; boundary=x; hp=cipher\n\n--x\n\nhello\n--x\nContent-Type: application/pgp-signature\n\nnone\n--x--\n", "outside"},
	} {
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, sealedAs(t, head, c.entity, bob.Cert))
		if err != nil || !f.Opened || f.Good {
			t.Fatalf("%s: got %+v, %v", c.name, f, err)
		}
		for name, want := range map[string]string{"Subject": c.subject, "From": "Alice <alice@company1.example>", "Postern-Status": "", "Authentication-Results": ""} {
			if got := opened.Get(name); got != want || want != "" && opened.Count(name) != 1 {
				t.Errorf("%s: %d times %s: %q, want %q", c.name, opened.Count(name), name, got, want)
			}
		}
	}

	// A mail that does not open, or is not sealed at all, comes as it came.
	for name, text := range map[string]string{
		"not for us": print(t, sealedAs(t, head, phony+hp+"\nhello\n", mallory.Cert)),
		"plain":      crlf(head + hp + "\nhello\n"),
		"a field of the ciphertext's part": strings.Replace(print(t, sealedAs(t, head, "Content-Type: text/plain\n\nhello\n", mallory.Cert)),
			"Content-Type: application/octet-stream", crlf("Content-Type: application/octet-stream; hp=cipher\n"+strings.TrimSuffix(phony, "\n")), 1),
	} {
		m := mail(t, text)
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, m)
		if name == "plain" && opened != m || name != "plain" && err != protect.ErrCannotOpen || f.Opened {
			t.Errorf("%s: got %+v, %v", name, f, err)
		}
	}
}

// A From inside is shown where it is the one outside, or where he has signed (RFC 9788 §4.4).
func TestHeaderFrom(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	for _, c := range []struct{ name, outside, inside, want string }{
		{"another name", "alice@company1.example", "Alice Stone <ALICE@company1.example>", "Alice Stone <ALICE@company1.example>"},
		{"another, unknown here", "list@partner.example", "ceo@company1.example", "list@partner.example"},
		{"the signer", "list@partner.example", "alice@company1.example", "alice@company1.example"},
		{"not the signer", "alice@company1.example", "ceo@company1.example", "alice@company1.example"},
		{"two", "alice@company1.example", "alice@company1.example, ceo@company1.example", "alice@company1.example"},
		{"a group", "alice@company1.example", "ceo: alice@company1.example;", "alice@company1.example"},
	} {
		plain := mail(t, crlf("From: "+c.inside+"\nTo: bob@partner.example\nSubject: s\n\nhello\n"))
		text := print(t, seal(t, token, plain, &alice, bob.Cert))
		text = strings.Replace(text, "From: "+c.inside+"\r\n", "From: "+c.outside+"\r\n", 1)
		opened, f, err := opening{token: token, ids: []keyring.Identity{bob}, certs: []keyring.Cert{alice.Cert}}.open(t, mail(t, text))
		if err != nil || !f.Good {
			t.Fatalf("%s: got %+v, %v", c.name, f, err)
		}
		if got := opened.Get("From"); got != c.want || opened.Count("From") != 1 {
			t.Errorf("%s: %d times From: %q, want %q", c.name, opened.Count("From"), got, c.want)
		}
	}
	// Nobody has signed: the one outside stays, whoever it is.
	text := print(t, seal(t, token, mail(t, crlf("From: alice@company1.example\nTo: bob@partner.example\n\nhello\n")), nil, bob.Cert))
	text = strings.Replace(text, "From: alice@", "From: mallory@", 1)
	opened, _, err := opening{token: token, ids: []keyring.Identity{bob}, certs: []keyring.Cert{alice.Cert}}.open(t, mail(t, text))
	if err != nil || opened.Get("From") != "mallory@company1.example" {
		t.Errorf("unsigned: got %q, %v", opened.Get("From"), err)
	}
}
