package transport

import (
	"reflect"
	"strings"
	"testing"
)

// What is accepted prints back to the same envelope, on one line.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"FROM:<a@b.example> SIZE=1", "FROM:<>", `FROM:<"a b"@c.example> BODY=8BITMIME RET=FULL ENVID=x+2B`, "FROM:<büro@b.example> SMTPUTF8",
		"TO:<a@b.example> NOTIFY=NEVER ORCPT=rfc822;x", "TO:<postmaster>", `TO:<"victim@evil> ORCPT=rfc822;x"@allowed.example>`, `TO:<"\"\\"@[IPv6:::1]>`,
	} {
		f.Add(s)
	}
	l := &link{hop: &Hop{Need: Need{TLS: TLSVerify}}, extensions: map[string]string{"SIZE": "", "8BITMIME": "", "SMTPUTF8": "", "DSN": ""}}
	f.Fuzz(func(t *testing.T, arg string) {
		for _, c := range []byte(arg) {
			if c < ' ' || c == 0x7f {
				return // the guard lets none through
			}
		}
		r := terms{domain: "ours.example", utf8: true}
		e, refused := parseMail(arg, r)
		if refused == nil {
			e.Recipients = []Recipient{{Address: address(t, "x@y.example")}}
		} else {
			to, refused := parseRcpt(arg, r)
			if refused != nil {
				return
			}
			e = Envelope{From: address(t, "x@y.example"), UTF8: true, Recipients: []Recipient{to}}
		}
		lines, err := l.envelope(&e, e.Size)
		if err != nil {
			t.Fatalf("%q: accepted, and not printed: %v", arg, err)
		}
		if strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") || len(lines) != 3 {
			t.Fatalf("%q: printed as %q", arg, lines)
		}
		again, refused := parseMail(strings.TrimPrefix(lines[0], "MAIL "), r)
		if refused != nil {
			t.Fatalf("%q: %q is refused: %v", arg, lines[0], refused)
		}
		to, refused := parseRcpt(strings.TrimPrefix(lines[1], "RCPT "), r)
		if refused != nil {
			t.Fatalf("%q: %q is refused: %v", arg, lines[1], refused)
		}
		again.Recipients = []Recipient{to}
		again.RequireTLS = e.RequireTLS
		if again.UTF8 && !e.UTF8 {
			t.Fatalf("%q: got SMTPUTF8", arg)
		}
		if !reflect.DeepEqual(again, e) {
			t.Fatalf("%q:\ngot  %+v\nwant %+v", arg, again, e)
		}
	})
}
