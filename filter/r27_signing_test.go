package filter

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

// The gateway signs only on the outbound listener, only for peers that may
// send there, and only where the one From is one address of ours (R27). Until
// clients say who they are (AUTH), the networks of the listener are the gate.
func TestSigningOracle(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	mail := func(head string) string { return crlf(head + "To: carol@other.example\nSubject: s\n\nPay him.\n") }
	inside := Listener{Name: "inside", Direction: policy.Outbound, Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	elsewhere := Listener{Name: "inside", Direction: policy.Outbound, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	outside := Listener{Name: "outside", Direction: policy.Inbound}
	for _, c := range []struct {
		name     string
		listener Listener
		head     string
		from, to string
		signs    int
	}{
		{"ours", inside, "From: Alice <alice@company1.example>\n", alice, "carol@other.example", 1},
		{"ours, to a partner with a certificate", inside, "From: alice@company1.example\n", alice, bob, 1},

		{"ours, from outside", outside, "From: Alice <alice@company1.example>\n", alice, alice, 0},
		{"ours, from outside, no sender", outside, "From: Alice <alice@company1.example>\n", "", alice, 0},
		{"ours, from outside, to another", outside, "From: Alice <alice@company1.example>\n", alice, bob, 0},
		{"ours, from a peer that may not", elsewhere, "From: Alice <alice@company1.example>\n", alice, "carol@other.example", 0},
		{"a partner's", inside, "From: bob@partner.example\n", alice, "carol@other.example", 0},
		{"a stranger's", inside, "From: mallory@evil.example\n", alice, "carol@other.example", 0},
		{"a domain below ours", inside, "From: alice@sub.company1.example\n", alice, "carol@other.example", 0},
		{"a domain that ends like ours", inside, "From: alice@notcompany1.example\n", alice, "carol@other.example", 0},
		{"our address as a name", inside, "From: \"alice@company1.example\" <mallory@evil.example>\n", alice, "carol@other.example", 0},
		{"our address in a comment", inside, "From: mallory@evil.example (alice@company1.example)\n", alice, "carol@other.example", 0},
		{"ours as Sender only", inside, "From: mallory@evil.example\nSender: alice@company1.example\n", alice, "carol@other.example", 0},
		{"ours as Resent-From only", inside, "From: mallory@evil.example\nResent-From: alice@company1.example\n", alice, "carol@other.example", 0},
		{"two From", inside, "From: alice@company1.example\nFrom: mallory@evil.example\n", alice, "carol@other.example", 0},
		{"two From, ours last", inside, "From: mallory@evil.example\nFrom: alice@company1.example\n", alice, "carol@other.example", 0},
		{"two addresses", inside, "From: alice@company1.example, mallory@evil.example\n", alice, "carol@other.example", 0},
		{"a group", inside, "From: g: alice@company1.example;\n", alice, "carol@other.example", 0},
		{"no From", inside, "", alice, "carol@other.example", 0},
		{"a From that reads in two ways", inside, "From: alice@company1.example <mallory@evil.example>\n", alice, "carol@other.example", 0},
	} {
		w := newWorld(t)
		h := w.gate.Handler(c.listener)
		e := w.envelope(c.from, c.to)
		w.token.signs = 0 // those of the certificates
		// Straight to DATA: what RCPT would have refused must not sign either.
		reply := h.Data(t.Context(), e, strings.NewReader(mail(c.head)))
		if w.token.signs != c.signs {
			t.Errorf("%s: got %d signatures, want %d (%v)", c.name, w.token.signs, c.signs, reply)
		}
		for _, d := range w.hop.got {
			if signed := w.layer(d.mail) != protect.None; signed != (c.signs > 0) {
				t.Errorf("%s: protected: got %v, want %v", c.name, signed, c.signs > 0)
			}
		}
	}
}

// What is signed is what was submitted, to the last byte: the payload of the
// copy that leaves is the canonical form of the mail that came (RFC 3156 §5),
// nothing added, and the gateway's own fields stand outside of it (R27).
func TestSignsWhatWasSubmitted(t *testing.T) {
	for name, mail := range map[string]string{
		"text":       out,
		"blanks":     strings.Replace(out, "Marker-Text-7f3a", "From here  \r\n-- \r\n.\r\n..\r\n\r\n\r\nend \t", 1),
		"no newline": strings.TrimSuffix(out, "\r\n"),
		"parts": crlf("From: Alice <alice@company1.example>\nTo: carol@other.example\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\npreamble\n--x\nContent-Type: text/plain\n\na  \n--x\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n" +
			"AAECAw==\n--x--\nepilogue\n"),
		"8-bit": strings.Replace(strings.Replace(out, "Marker", "Märker", 1), "Subject", "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nSubject", 1),
	} {
		w := newWorld(t)
		w.token.signs = 0
		w.want(name, w.send(policy.Outbound, mail, "alice@company1.example", "carol@other.example"), "250 2.0.0")
		got := parsed(t, w.hop.got[0].mail)
		if w.token.signs != 1 || got.Root.Type != "multipart/signed" || len(got.Root.Parts) != 2 {
			t.Errorf("%s: got %d signatures and a %s, want a signed mail", name, w.token.signs, got.Root.Type)
			continue
		}
		if want := canonicalBody(t, parsed(t, []byte(mail))); canonicalBody(t, part(t, got, 0)) != want {
			t.Errorf("%s: signed was\n%q\nwant\n%q", name, canonicalBody(t, part(t, got, 0)), want)
		}
		r := protect.OpenRequest{Message: got, At: noon, NewSpool: w.spool, Certs: []keyring.Cert{w.people["alice@company1.example"].Cert, w.people["company1.example"].Cert}}
		if _, f, err := w.guard.Protector.Open(t.Context(), r); err != nil || !f.Good {
			t.Errorf("%s: got %+v, %v, want a good signature", name, f, err)
		}
	}
}

// part is a part as a mail of its own.
func part(t *testing.T, m *message.Message, n int) *message.Message {
	t.Helper()
	text, err := io.ReadAll(message.SectionReader(m.Source, m.Root.Parts[n].Whole))
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, text)
}

// canonicalBody is what is under the header of a mail, as it is signed.
func canonicalBody(t *testing.T, m *message.Message) string {
	t.Helper()
	var b bytes.Buffer
	if err := message.WriteCanonical(&b, m.Source, m.Root, nil); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut("\r\n"+b.String(), "\r\n\r\n")
	return body
}
