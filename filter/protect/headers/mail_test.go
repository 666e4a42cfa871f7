package headers

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"postern/filter/message"
	"postern/filter/message/messagetest"
)

// What reads and shows mails.
var (
	crlf    = messagetest.CRLF
	mail    = messagetest.Parse
	printed = messagetest.Text
)

// out is what a mail becomes: the header outside, and the payload.
func out(t testing.TB, text string, p Policy, sealed bool) (outer, payload string) {
	t.Helper()
	m, err := Protect(mail(t, text), p, sealed)
	if err != nil {
		t.Fatalf("protect: %v\n%s", err, text)
	}
	var b bytes.Buffer
	if err := m.WriteEntity(&b); err != nil {
		t.Fatal(err)
	}
	return string(m.outer), b.String()
}

// letter is a mail in the words of the examples of RFC 9788 appendix C.
const letter = `Received: from desk by inside.example; Tue, 24 Nov 2026 12:00:00 +0100
From: Alice Stone <alice@a.example>
To: "Bob, Q." <bob@b.example>,
 carol@b.example
Cc: nobody in particular:;
Bcc: hidden@b.example
Subject: Plans
 for dinner
Keywords: food
Comments: not for the file
Thread-Topic: Plans for dinner
Date: Tue, 24 Nov 2026 12:00:00 +0100
Message-ID: <dinner@a.example>
In-Reply-To: <hunger@b.example>
X-Desk: 7
DKIM-Signature: v=1
Postern-Status: v=1
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

At eight?
`

func TestProtect(t *testing.T) {
	const outsideOnly = "Received: from desk by inside.example; Tue, 24 Nov 2026 12:00:00 +0100\n"
	const copied = `From: Alice Stone <alice@a.example>
To: "Bob, Q." <bob@b.example>,
 carol@b.example
Cc: nobody in particular:;
Subject: Plans
 for dinner
Keywords: food
Comments: not for the file
Thread-Topic: Plans for dinner
Date: Tue, 24 Nov 2026 12:00:00 +0100
Message-ID: <dinner@a.example>
In-Reply-To: <hunger@b.example>
X-Desk: 7
`
	const body = "\nAt eight?\n"
	type split struct{ outer, payload string }
	for name, c := range map[string]struct {
		policy Policy
		sealed bool
		want   split
	}{
		"signed": {"", false, split{
			strings.Split(letter, "MIME-Version")[0],
			copied + "Content-Type: text/plain; charset=us-ascii;\n hp=\"clear\"; protected-headers=\"v1\"\n" + body,
		}},
		"none": {None, true, split{
			strings.Split(letter, "MIME-Version")[0],
			copied + `HP-Outer: From: Alice Stone <alice@a.example>
HP-Outer: To: "Bob, Q." <bob@b.example>,
 carol@b.example
HP-Outer: Cc: nobody in particular:;
HP-Outer: Subject: Plans
 for dinner
HP-Outer: Keywords: food
HP-Outer: Comments: not for the file
HP-Outer: Thread-Topic: Plans for dinner
HP-Outer: Date: Tue, 24 Nov 2026 12:00:00 +0100
HP-Outer: Message-ID: <dinner@a.example>
HP-Outer: In-Reply-To: <hunger@b.example>
HP-Outer: X-Desk: 7
Content-Type: text/plain; charset=us-ascii;
 hp="cipher"; protected-headers="v1"
` + body,
		}},
		"baseline": {Baseline, true, split{
			outsideOnly + `From: Alice Stone <alice@a.example>
To: "Bob, Q." <bob@b.example>,
 carol@b.example
Cc: nobody in particular:;
Bcc: hidden@b.example
Subject: [...]
Date: Tue, 24 Nov 2026 12:00:00 +0100
Message-ID: <dinner@a.example>
In-Reply-To: <hunger@b.example>
X-Desk: 7
DKIM-Signature: v=1
Postern-Status: v=1
`,
			copied + `HP-Outer: From: Alice Stone <alice@a.example>
HP-Outer: To: "Bob, Q." <bob@b.example>,
 carol@b.example
HP-Outer: Cc: nobody in particular:;
HP-Outer: Subject: [...]
HP-Outer: Date: Tue, 24 Nov 2026 12:00:00 +0100
HP-Outer: Message-ID: <dinner@a.example>
HP-Outer: In-Reply-To: <hunger@b.example>
HP-Outer: X-Desk: 7
Content-Type: text/plain; charset=us-ascii;
 hp="cipher"; protected-headers="v1"
` + body,
		}},
		"shy": {Shy, true, split{
			outsideOnly + `From: alice@a.example
To: bob@b.example, carol@b.example
Cc: nobody in particular:;
Bcc: hidden@b.example
Subject: [...]
Date: Tue, 24 Nov 2026 11:00:00 +0000
Message-ID: <dinner@a.example>
In-Reply-To: <hunger@b.example>
X-Desk: 7
DKIM-Signature: v=1
Postern-Status: v=1
`,
			copied + `HP-Outer: From: alice@a.example
HP-Outer: To: bob@b.example, carol@b.example
HP-Outer: Cc: nobody in particular:;
HP-Outer: Subject: [...]
HP-Outer: Date: Tue, 24 Nov 2026 11:00:00 +0000
HP-Outer: Message-ID: <dinner@a.example>
HP-Outer: In-Reply-To: <hunger@b.example>
HP-Outer: X-Desk: 7
Content-Type: text/plain; charset=us-ascii;
 hp="cipher"; protected-headers="v1"
` + body,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			outer, payload := out(t, crlf(letter), c.policy, c.sealed)
			if want := crlf(c.want.outer); outer != want {
				t.Errorf("outside: got\n%s\nwant\n%s", outer, want)
			}
			if want := crlf(c.want.payload); payload != want {
				t.Errorf("payload: got\n%s\nwant\n%s", payload, want)
			}
		})
	}
}

// The mark stands on every payload, and is seen by who reads it, whatever
// Content-Type a program wrote.
func TestMark(t *testing.T) {
	for _, c := range []struct{ name, header, want string }{
		{"none", "", "Content-Type: text/plain; charset=us-ascii"},
		{"other fields only", "Content-Language: de\n", "Content-Type: text/plain; charset=us-ascii"},
		{"parameters", "Content-Type: multipart/mixed; boundary=\"a;b\"\n", "Content-Type: multipart/mixed; boundary=\"a;b\""},
		{"folded", "Content-Type: text/html;\n charset=utf-8\n", "Content-Type: text/html;\r\n charset=utf-8"},
		{"semicolon at the end", "Content-Type: text/html ; \n", "Content-Type: text/html"},
		{"a comment", "Content-Type: text/html (hp=x; y)\n", "Content-Type: text/html (hp=x; y)"},
		{"a mark of its own", "Content-Type: text/html; HP = clear; charset=utf-8; protected-headers=\"v1\"\n", "Content-Type: text/html; charset=utf-8"},
		{"a mark in pieces", "Content-Type: text/html; hp*0=cl; hp*1=ear\n", "Content-Type: text/html"},
		{"quotes without end", "Content-Type: text/html; charset=\"utf-8\n", "Content-Type: text/html"},
		{"no type", "Content-Type: text\n", "Content-Type: text/plain"},
		{"two", "Content-Type: text/html\nContent-Type: text/plain\n", "Content-Type: application/octet-stream"},
	} {
		_, payload := out(t, "Subject: s\r\n"+crlf(c.header)+"\r\nbody\r\n", Baseline, true)
		m := mail(t, payload)
		if m.Root.Params[parameter] != inCipher || m.Root.Params[draft] != draftOne || m.Count("Content-Type") != 1 || m.Count("Subject") != 1 {
			t.Errorf("%s: got\n%s", c.name, payload)
		}
		if !strings.Contains(payload, c.want+";\r\n hp=") {
			t.Errorf("%s: got\n%s\nwant %q", c.name, payload, c.want)
		}
		if strings.Contains(c.header, "Language") != strings.Contains(payload, "Content-Language: de\r\n") {
			t.Errorf("%s: got\n%s", c.name, payload)
		}
	}
}

// What is protected by itself keeps its header and its bytes: nothing inside
// could say what was hidden.
func TestProtectLayer(t *testing.T) {
	entity := "Content-Type: multipart/signed; boundary=x; protocol=\"application/pgp-signature\"\r\n\r\n--x\r\n\r\na\r\n--x\r\nContent-Type: application/pgp-signature\r\n\r\ns\r\n--x--\r\n"
	outer, payload := out(t, "From: a@a.example\r\nSubject: s\r\n"+entity, Baseline, true)
	if outer != "From: a@a.example\r\nSubject: s\r\n" || payload != entity {
		t.Errorf("got\n%s\n%s", outer, payload)
	}
}

// A payload is ASCII in lines that travel, whatever the header was.
func TestProtectLongLines(t *testing.T) {
	for _, c := range []struct {
		name, header string
		err          error
	}{
		{"UTF-8", "Subject: Grüße\nFrom: \"Müller, J.\" <j@a.example>\n", nil},
		{"long", "References:" + strings.Repeat(" <0123456789@a.example>", 100) + "\n", nil},
		{"as long as may be", "X-Long: " + strings.Repeat("x", 990) + "\n", nil},
		{"white space only", "Subject: a\n \t\n b\n", nil},
	} {
		outer, payload := out(t, crlf(c.header)+"\r\nbody\r\n", Baseline, true)
		for line := range strings.Lines(payload) {
			if len(line) > 1000 || strings.TrimSpace(line) == "" && line != "\r\n" || strings.ContainsFunc(line, func(r rune) bool { return r > 127 }) {
				t.Errorf("%s: line %q", c.name, line)
			}
		}
		for _, name := range []string{"Subject", "From", "References", "X-Long"} {
			was, is := mail(t, crlf(c.header)+"\r\n"), mail(t, payload)
			if a, b := message.DecodeWords(was.Get(name)), message.DecodeWords(is.Get(name)); strings.Join(strings.Fields(a), " ") != strings.Join(strings.Fields(b), " ") {
				t.Errorf("%s: %s is %q inside, want %q", c.name, name, b, a)
			}
		}
		if strings.Contains(outer, "Gr") {
			t.Errorf("%s: outside\n%s", c.name, outer)
		}
	}
	_, err := Protect(mail(t, "X-Long: Grüße "+strings.Repeat("ü", 998)+"\r\n\r\n"), Baseline, true)
	if err != nil && !errors.Is(err, message.ErrSigned8Bit) {
		t.Errorf("got %v", err)
	}
}

// Whatever header and Content-Type a user's program wrote, the payload says
// that it protects, and the reader gets the subject that nobody else has read.
func FuzzProtect(f *testing.F) {
	f.Add("Subject: Plans\r\nFrom: alice@a.example\r\nContent-Type: text/plain\r\n", "hello\r\n")
	f.Add("subject : Grüße\r\n \r\n und mehr\r\nContent-Type: text/html; hp=clear; charset=\"a;b\" (c;d)\r\n", "<p>\r\n")
	f.Add("Content-Type: multipart/mixed; boundary*0=x\r\nSubject: =?utf-8?q?a?=\r\nKeywords: a\r\nKeywords: b\r\n", "--x\r\n\r\n--x--\r\n")
	f.Fuzz(func(t *testing.T, fields, body string) {
		text := fields + "\r\n" + body
		if strings.Contains(text, "\x00") || strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n") {
			t.Skip() // the door has such mail no more
		}
		m := mail(t, text)
		protected, err := Protect(m, Baseline, true)
		var b bytes.Buffer
		if err == nil {
			err = protected.WriteEntity(&b)
		}
		if err != nil {
			if !errors.Is(err, message.ErrSigned8Bit) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if isLayer(m.Root.Type) {
			return
		}
		outer, payload := mail(t, string(protected.outer)+"\r\n"), mail(t, b.String())
		if payload.Root.Params[parameter] != inCipher || payload.Root.Type != m.Root.Type || payload.Count("Content-Type") != 1 {
			t.Fatalf("payload of %q:\n%s", text, b.String())
		}
		for _, f := range outer.All("Subject") {
			if v, err := outer.Value(f); err != nil || v != obscured {
				t.Errorf("outside: subject %q, %v", v, err)
			}
		}
		if outer.Count("Keywords") > 0 || payload.Count("Subject") != m.Count("Subject") || payload.Count("Bcc") > 0 {
			t.Errorf("of %q: outside\n%s\ninside\n%s", text, protected.outer, b.String())
		}
		if !travels(b.Bytes()[:payload.Root.Body.Start]) {
			t.Errorf("payload of %q:\n%q", text, b.String())
		}
		plainly := func(m *message.Message) string {
			return strings.Join(strings.Fields(message.DecodeWords(m.Get("Subject"))), " ")
		}
		want := plainly(m)
		if m.Count("Subject") != 1 || strings.Contains(m.Get("Subject"), "=?") || strings.ContainsFunc(m.Get("Subject"), unicode.IsControl) || slices.ContainsFunc(strings.Fields(want), func(w string) bool { return len(w) > 900 }) || !utf8.ValidString(want) || strings.ContainsFunc(want, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return // two readers may take it differently
		}
		if got := plainly(mail(t, shown(t, string(protected.outer), b.String()))); got != want {
			t.Errorf("subject: got %q, want %q", got, want)
		}
	})
}
