package filter

import (
	"strings"
	"testing"

	"postern/filter/policy"
)

// SMTPUTF8 is asked of the next hop for mail that needs it, and not for all mail
// whose client said the word (RFC 6531): it would not pass (R39).
func TestOnlyInternationalMailAsksForSMTPUTF8(t *testing.T) {
	head := "From: bob@partner.example\nTo: alice@company1.example\nMIME-Version: 1.0\n"
	parts := head + "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
	for _, c := range []struct {
		name, mail, from string
		said, want       bool
	}{
		{"ASCII", head + "\nhello\n", "bob@partner.example", true, false},
		{"from nobody", head + "\nhello\n", "", true, false},
		{"a domain in its own letters", head + "\nhello\n", "bob@grüße.example", true, false},
		{"8-bit text", head + "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n", "bob@partner.example", true, false},
		{"a name in its own letters", head + "\nhello\n", "grüße@partner.example", true, true},
		{"a field", head + "Subject: Grüße\n\nhello\n", "bob@partner.example", true, true},
		{"a field of a part", parts + "Content-Description: Grüße\n\nhello\n--x--\n", "bob@partner.example", true, true},
		{"8-bit text of a part", parts + "\nGrüße\n--x--\n", "bob@partner.example", true, false},
		{"a field, and nothing was said", head + "Subject: Grüße\n\nhello\n", "bob@partner.example", false, false},
	} {
		w := newWorld(t)
		e := w.envelope(c.from, "alice@company1.example")
		e.UTF8 = c.said
		w.want(c.name, w.deliver(policy.Inbound, e, strings.NewReader(crlf(c.mail))), "250 2.0.0")
		if len(w.hop.got) != 1 || w.hop.got[0].env.UTF8 != c.want {
			t.Errorf("%s: got %+v, want one mail, with SMTPUTF8 %v", c.name, w.hop.got, c.want)
		}
	}
}
