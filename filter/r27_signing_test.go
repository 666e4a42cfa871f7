package filter

import (
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

// The gateway signs only on the outbound listener, only for peers that may
// send there, and only where the one From is one address of ours (R27). Where
// clients do not log in, the networks of the listener are the gate.
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
		reply := h.Data(t.Context(), e, strings.NewReader(mail(c.head)))[0]
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

// Where clients log in, an account writes as itself (R27): the envelope, the one
// From and Sender are its addresses before anything is signed, whatever RCPT and
// MAIL have let pass, and whoever has not logged in gets no signature.
func TestAccountsSignForThemselves(t *testing.T) {
	const alice = "alice@company1.example"
	inside := Listener{Name: "submission", Direction: policy.Outbound, Login: true}
	own, all := []string{alice}, []string{"*@company1.example"}
	for _, c := range []struct {
		name    string
		user    string
		senders []string
		from    string
		head    string
		code    int
		signs   int
	}{
		{"her own", "alice", own, alice, "From: Alice <alice@company1.example>\n", 250, 1},
		{"her own, in capitals", "alice", own, alice, "From: ALICE@Company1.example\n", 250, 1},
		{"her own, with Sender", "alice", own, alice, "From: alice@company1.example\nSender: alice@company1.example\n", 250, 1},
		{"a report", "alice", own, "", "From: alice@company1.example\n", 250, 1},
		{"a colleague's, by a server for all", "server", all, "boss@company1.example", "From: boss@company1.example\n", 250, 1},

		{"nobody's", "", own, alice, "From: alice@company1.example\n", 550, 0},
		{"nobody's, no sender", "", nil, "", "From: alice@company1.example\n", 550, 0},
		{"without addresses", "alice", nil, alice, "From: alice@company1.example\n", 550, 0},
		{"a colleague's envelope", "alice", own, "boss@company1.example", "From: alice@company1.example\n", 550, 0},
		{"a colleague's From", "alice", own, alice, "From: boss@company1.example\n", 550, 0},
		{"a colleague's From, no sender", "alice", own, "", "From: boss@company1.example\n", 550, 0},
		{"a colleague's Sender", "alice", own, alice, "From: alice@company1.example\nSender: boss@company1.example\n", 550, 0},
		{"a second Sender", "alice", own, alice, "From: alice@company1.example\nSender: alice@company1.example\nSender: boss@company1.example\n", 550, 0},
		{"a Sender of two", "alice", own, alice, "From: alice@company1.example\nSender: alice@company1.example, boss@company1.example\n", 550, 0},
		{"a colleague's From, hers as a name", "alice", own, alice, "From: \"alice@company1.example\" <boss@company1.example>\n", 550, 0},
		{"two From", "alice", own, alice, "From: alice@company1.example\nFrom: boss@company1.example\n", 550, 0},
		{"two addresses", "alice", own, alice, "From: alice@company1.example, boss@company1.example\n", 550, 0},
		{"no From", "alice", own, alice, "", 550, 0},
		{"a From that can't be read", "alice", own, alice, "From: <<alice@company1.example>>\n", 550, 0},
		{"a domain below", "server", all, alice, "From: alice@sub.company1.example\n", 550, 0},
		{"a stranger's, by a server for all", "server", all, alice, "From: mallory@evil.example\n", 550, 0},
		{"a mail passed on", "alice", own, alice, "From: boss@company1.example\nResent-From: alice@company1.example\n", 550, 0},
	} {
		w := newWorld(t)
		e := w.envelope(c.from, "carol@other.example")
		e.User, e.Senders = c.user, c.senders
		w.token.signs = 0
		reply := w.gate.Handler(inside).Data(t.Context(), e, strings.NewReader(crlf(c.head+"To: carol@other.example\nSubject: s\n\nPay him.\n")))[0]
		if reply.Code != c.code || w.token.signs != c.signs {
			t.Errorf("%s: got %v and %d signatures, want %d and %d", c.name, reply, w.token.signs, c.code, c.signs)
		}
		if c.code == 550 && (reply.Enhanced != [3]int{5, 7, 1} || len(w.hop.got) > 0) {
			t.Errorf("%s: got %v, and %d mails went on", c.name, reply, len(w.hop.got))
		}
		if (w.gate.Handler(inside).Sender(t.Context(), e) != nil) != (c.user == "" || c.senders == nil || c.name == "a colleague's envelope") {
			t.Errorf("%s: MAIL was judged otherwise", c.name)
		}
	}
	// Inbound nothing is signed, whoever has logged in.
	w := newWorld(t)
	e := w.envelope(alice, alice)
	e.User, e.Senders = "alice", own
	w.token.signs = 0
	if w.deliver(policy.Inbound, e, strings.NewReader(crlf("From: alice@company1.example\n\nx\n"))); w.token.signs != 0 {
		t.Errorf("inbound: got %d signatures", w.token.signs)
	}
}

// What is signed is what was submitted (R27): read as a mail program reads it,
// every part of the signed payload has the bytes of the mail that came, in the
// same order, under the same types, and nothing was added; the fields that the
// payload protects are the mail's.
func TestSignsWhatWasSubmitted(t *testing.T) {
	for name, mail := range map[string]string{
		"text":       out,
		"blanks":     strings.Replace(out, "Marker-Text-7f3a", "From here  \r\n-- \r\n.\r\n..\r\n\r\n\r\nend \t", 1),
		"no newline": strings.TrimSuffix(out, "\r\n"),
		"parts": crlf("From: Alice <alice@company1.example>\nTo: carol@other.example\nSubject: out\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n\n<a href=\"=3D\">a  \n--x\n" +
			"Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nAAECAw==\n--x--\n"),
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
		came := parsed(t, []byte(mail))
		if got, want := leaves(t, got, got.Root.Parts[0]), leaves(t, came, came.Root); !slices.Equal(got, want) {
			t.Errorf("%s: signed was\n%q\nwant\n%q", name, got, want)
		}
		for _, f := range got.Root.Parts[0].Header {
			value, err := got.Value(f)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(strings.ToLower(f.Name), "content-") && strings.TrimSpace(value) != came.Get(f.Name) {
				t.Errorf("%s: signed was %s: %q, want %q", name, f.Name, value, came.Get(f.Name))
			}
		}
		r := protect.OpenRequest{Message: got, At: noon, NewSpool: w.spool, Certs: []keyring.Cert{w.people["alice@company1.example"].Cert, w.people["company1.example"].Cert}}
		if _, f, err := w.guard.Protector.Open(t.Context(), r); err != nil || !f.Good {
			t.Errorf("%s: got %+v, %v, want a good signature", name, f, err)
		}
	}
}

// leaves are the types of all parts below p, with what stands in them under
// their transfer encoding. One line end at the end of all may come or go.
func leaves(t *testing.T, m *message.Message, p *message.Part) (list []string) {
	t.Helper()
	if list = append(list, p.Type); len(p.Parts) > 0 {
		for _, part := range p.Parts {
			list = append(list, leaves(t, m, part)...)
		}
		return list
	}
	var body io.Reader = message.SectionReader(m.Source, p.Body)
	switch p.Encoding {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return append(list, strings.TrimSuffix(string(text), "\r\n"))
}
