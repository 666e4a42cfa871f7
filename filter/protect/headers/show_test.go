package headers

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"postern/filter/message"
)

// opened is the mail that a protector makes of what it opened: the outer
// header without the fields of MIME, then those of the entity, then its body.
func opened(t testing.TB, outer, entity string) (m *message.Message, header []byte) {
	t.Helper()
	head, body, ok := strings.Cut(entity, "\r\n\r\n")
	if !ok {
		head, body = strings.TrimSuffix(entity, "\r\n"), ""
	}
	header = []byte(head + "\r\n")
	var mime strings.Builder
	inner, err := parseHeader(header)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range inner.Root.Header {
		if structural(strings.ToLower(f.Name)) && !strings.EqualFold(f.Name, "MIME-Version") {
			mime.WriteString(string(header[f.Whole.Start:f.Whole.End]))
		}
	}
	return mail(t, outer+"MIME-Version: 1.0\r\n"+mime.String()+"\r\n"+body), header
}

// shown is what a reader gets.
func shown(t testing.TB, outer, entity string, signers ...string) string {
	t.Helper()
	m, header := opened(t, outer, entity)
	var list []message.Address
	for _, s := range signers {
		a, err := message.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	got, err := Show(m, header, list, message.Limits{})
	if err != nil {
		t.Fatalf("show: %v", err)
	}
	text := printed(t, got)
	again := mail(t, text)
	if !reflect.DeepEqual(again.Root, got.Root) {
		t.Errorf("the mail reads otherwise when it is written: got %+v, want %+v of\n%s", got.Root, again.Root, text)
	}
	return text
}

// outside is what everybody on the way has read.
const outside = `Received: by mx.b.example
DKIM-Signature: v=1
Subject: [...]
From: alice@a.example
To: bob@b.example
Date: Tue, 24 Nov 2026 11:00:00 +0000
Message-ID: <out@a.example>
`

// What a payload protects is shown in the place of what stands outside, at its
// root only (R22), and nothing of it raw (R19).
func TestShow(t *testing.T) {
	const hp = "Content-Type: text/plain; charset=utf-8; hp=\"cipher\"\n"
	const v1 = "Content-Type: text/plain; protected-headers=\"v1\"\n"
	const plain = "Content-Type: text/plain; charset=utf-8\n"
	for _, c := range []struct {
		name, outer, entity string
		signers             []string
		want                string
	}{
		{name: "all of it", entity: `From: Alice Stone <alice@a.example>
To: Bob <bob@b.example>
Subject: Plans
 for dinner
Date: Tue, 24 Nov 2026 12:00:00 +0100
Message-ID: <dinner@a.example>
References: <hunger@b.example>
HP-Outer: Subject: [...]
HP-Outer: From: alice@a.example
` + hp + "\nAt eight?\n", want: `Received: by mx.b.example
DKIM-Signature: v=1
Subject: Plans
 for dinner
From: Alice Stone <alice@a.example>
To: Bob <bob@b.example>
Date: Tue, 24 Nov 2026 12:00:00 +0100
Message-ID: <dinner@a.example>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8; hp="cipher"
References: <hunger@b.example>

At eight?
`},
		{name: "the draft form has a few, and the rest stays", entity: "Subject: Plans\n" + v1 + "\nAt eight?\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\n" + v1 + "\nAt eight?\n"},
		{name: "the draft form, in a multipart", entity: "Subject: Plans\nContent-Type: multipart/mixed; boundary=x;\n protected-headers=v1\n\n--x\n\nAt eight?\n--x--\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x;\n protected-headers=v1\n\n--x\n\nAt eight?\n--x--\n"},
		{name: "clear inside of encryption", entity: "Subject: Plans\nTo: bob@b.example\nContent-Type: text/plain; hp=CLEAR\n\nAt eight?\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=CLEAR\n\nAt eight?\n"},
		{name: "below a signature", entity: "Subject: Wrong\nContent-Type: multipart/signed; boundary=x; hp=cipher\n\n--x\nSubject: Plans\nTo: bob@b.example\n" + hp + "\nAt eight?\n--x\nContent-Type: application/pgp-signature\n\ns\n--x--\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: multipart/signed; boundary=x; hp=cipher\n\n--x\nSubject: Plans\nTo: bob@b.example\n" + hp + "\nAt eight?\n--x\nContent-Type: application/pgp-signature\n\ns\n--x--\n"},
		{name: "a whole message", entity: "Content-Type: message/rfc822; forwarded=no\nContent-Description: wrapper\n\nSubject: Plans\nX-Private: 1\nMIME-Version: 1.0\nContent-Type: text/html\n\n<p>At eight?\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/html\n\n<p>At eight?\n"},

		// What counts is at the root of the payload (R22).
		{name: "nothing says that it protects", entity: "Subject: Wrong\n" + plain + "\nAt eight?\n", want: outside + "MIME-Version: 1.0\n" + plain + "\nAt eight?\n"},
		{name: "another word", entity: "Subject: Wrong\nContent-Type: text/plain; hp=yes; protected-headers=v2\n\nAt eight?\n", want: outside + "MIME-Version: 1.0\nContent-Type: text/plain; hp=yes; protected-headers=v2\n\nAt eight?\n"},
		{name: "two words", entity: "Subject: Wrong\nContent-Type: text/plain; hp=cipher; hp=clear\n\nAt eight?\n", want: outside + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher; hp=clear\n\nAt eight?\n"},
		{name: "a part inside", entity: "Subject: Wrong\nContent-Type: multipart/mixed; boundary=x\n\n--x\nSubject: Wrong\n" + hp + "\nAt eight?\n--x--\n",
			want: outside + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nSubject: Wrong\n" + hp + "\nAt eight?\n--x--\n"},
		{name: "a layer that stays shut", entity: "Subject: Wrong\nContent-Type: multipart/encrypted; boundary=x; hp=cipher\n\n--x\n\n\n--x--\n",
			want: outside + "MIME-Version: 1.0\nContent-Type: multipart/encrypted; boundary=x; hp=cipher\n\n--x\n\n\n--x--\n"},
		{name: "the signature of a signature", entity: "Content-Type: multipart/signed; boundary=x\n\n--x\nSubject: Wrong\n" + plain + "\nAt eight?\n--x\nSubject: Wrong\nContent-Type: application/pgp-signature; hp=cipher\n\ns\n--x--\n",
			want: outside + "MIME-Version: 1.0\nContent-Type: multipart/signed; boundary=x\n\n--x\nSubject: Wrong\n" + plain + "\nAt eight?\n--x\nSubject: Wrong\nContent-Type: application/pgp-signature; hp=cipher\n\ns\n--x--\n"},
		{name: "a message that was forwarded", entity: "Content-Type: message/rfc822\n\nSubject: Wrong\n\nAt eight?\n", want: outside + "MIME-Version: 1.0\nContent-Type: message/rfc822\n\nSubject: Wrong\n\nAt eight?\n"},
		{name: "a message with a mark of its own", entity: "Content-Type: message/rfc822; forwarded=no\n\nSubject: Wrong\n" + hp + "\nAt eight?\n", want: outside + "MIME-Version: 1.0\nContent-Type: message/rfc822; forwarded=no\n\nSubject: Wrong\n" + hp + "\nAt eight?\n"},
		{name: "a message that is sealed itself", entity: "Content-Type: message/rfc822; forwarded=no\n\nSubject: Wrong\nContent-Type: multipart/encrypted; boundary=x\n\nAt eight?\n", want: outside + "MIME-Version: 1.0\nContent-Type: message/rfc822; forwarded=no\n\nSubject: Wrong\nContent-Type: multipart/encrypted; boundary=x\n\nAt eight?\n"},

		// Fields of others, and fields twice (R19, R20).
		{name: "fields that are for servers", entity: "Subject: Plans\nPostern-Status: v=1; verified=yes\nAuthentication-Results: gw.b.example; x-openpgp=pass\nReceived: by nobody\nX-Spam-Status: No\nBcc: eve@evil.example\nTo: bob@b.example\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n"},
		{name: "twice inside", entity: "Subject: Plans\nSUBJECT: Other plans\nFrom: alice@a.example\nFrom: eve@evil.example\nComments: 1\nComments: 2\nTo: bob@b.example\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: outside + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\nComments: 1\nComments: 2\n\nAt eight?\n"},
		{name: "twice outside", outer: "Subject: a\nFrom: alice@a.example\nSubject: b\n", entity: "Subject: Plans\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: "Subject: Plans\nFrom: alice@a.example\nMIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n"},
		{name: "put there by somebody else", outer: outside + "Cc: eve@evil.example\nReply-To: eve@evil.example\nList-Id: <list.b.example>\n", entity: "From: alice@a.example\nTo: bob@b.example\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: strings.Replace(outside, "Subject: [...]\n", "", 1) + "List-Id: <list.b.example>\nMIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n"},
		{name: "a Date that is none", entity: "Date: yesterday\nSubject: Plans\nTo: bob@b.example\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n"},
		{name: "control characters", entity: "Subject : Plans\x0b\x1b[31m\tfor\n \n dinner\nTo: bob@b.example\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n",
			want: strings.Replace(outside, "[...]", "Plans  [31m for  dinner", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nAt eight?\n"},

		// Who it is from (RFC 9788 §4.4).
		{name: "another From", entity: "From: ceo@a.example\nTo: bob@b.example\nSubject: Plans\nContent-Type: text/plain; hp=cipher\n\nPay.\n",
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nPay.\n"},
		{name: "another From, signed by the one outside", entity: "From: ceo@a.example\nTo: bob@b.example\nSubject: Plans\nContent-Type: text/plain; hp=cipher\n\nPay.\n", signers: []string{"alice@a.example"},
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nPay.\n"},
		{name: "another From, signed by himself", entity: "From: ceo@a.example\nTo: bob@b.example\nSubject: Plans\nContent-Type: text/plain; hp=cipher\n\nPay.\n", signers: []string{"alice@a.example", "CEO@a.example"},
			want: strings.Replace(strings.Replace(outside, "[...]", "Plans", 1), "alice@", "ceo@", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nPay.\n"},
		{name: "two in one From", entity: "From: alice@a.example, eve@evil.example\nTo: bob@b.example\nSubject: Plans\nContent-Type: text/plain; hp=cipher\n\nPay.\n", signers: []string{"alice@a.example", "eve@evil.example"},
			want: strings.Replace(outside, "[...]", "Plans", 1) + "MIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nPay.\n"},
		{name: "two From outside", outer: "From: alice@a.example\nFrom: eve@evil.example\n", entity: "From: alice@a.example\nContent-Type: text/plain; hp=cipher\n\nPay.\n",
			want: "From: alice@a.example\nFrom: eve@evil.example\nMIME-Version: 1.0\nContent-Type: text/plain; hp=cipher\n\nPay.\n"},
	} {
		if c.outer == "" {
			c.outer = outside
		}
		if got, want := shown(t, crlf(c.outer), crlf(c.entity), c.signers...), crlf(c.want); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

// A header that would be beyond limits stays as it is.
func TestShowLimits(t *testing.T) {
	m, entity := opened(t, crlf(outside), crlf("Subject: Plans\nComments: a\nComments: b\nComments: c\nContent-Type: text/plain; hp=cipher\n\nbody\n"))
	for _, l := range []message.Limits{{Fields: len(m.Root.Header)}, {HeaderBytes: 200}} {
		if got, err := Show(m, entity, nil, l); err != nil || got != m {
			t.Errorf("%+v: got %v, %v", l, got, err)
		}
	}
	m, entity = opened(t, crlf(outside), crlf(strings.Repeat("to:\n", 60000)+"Content-Type: text/plain; hp=cipher\n\nbody\n"))
	if got, err := Show(m, entity, nil, message.Limits{}); err != nil || got != m {
		t.Errorf("60000 fields: got %v, %v", got, err)
	}
}

// What goes out comes in again as it was, whatever was hidden on the way.
func TestProtectAndShow(t *testing.T) {
	for _, p := range []Policy{"", Baseline, Shy, None} {
		outer, payload := out(t, crlf(letter), p, true)
		got := mail(t, shown(t, outer, payload))
		was := mail(t, crlf(letter))
		for name := range read {
			if got.Count(name) != was.Count(name) || got.Get(name) != was.Get(name) {
				t.Errorf("%s: %s: got %q, want %q", p, name, got.Get(name), was.Get(name))
			}
		}
		if got.Count(record) != 0 {
			t.Errorf("%s: got a field for readers of what is sealed", p)
		}
	}
}

// Whatever a payload says, the header that is shown is that of the way, with
// each field of the inside in the place of one, and the body is not touched.
func FuzzShow(f *testing.F) {
	f.Add([]byte("Subject: Plans\r\n"), "text/plain; hp=cipher", "hello\r\n")
	f.Add([]byte("Subject: a\r\n \r\n b\r\nFrom: eve@evil.example\r\nPostern-Status: v=1\r\n"), "multipart/mixed; boundary=x; protected-headers=v1", "--x\r\n\r\n--x--\r\n")
	f.Add([]byte("From: =?utf-8?q?a=0d=0aSubject:?= <alice@a.example>\r\n"), "message/rfc822; forwarded=no", "Subject: inner\r\nContent-Type: text/plain\r\n\r\nhello\r\n")
	f.Add([]byte("To: a\x0bb\r\n"), "multipart/signed; boundary=x", "--x\r\nSubject: s\r\nContent-Type: text/plain; hp=clear\r\n\r\na\r\n--x\r\n\r\n--x--\r\n")
	f.Fuzz(func(t *testing.T, fields []byte, mediaType, body string) {
		lines := string(fields)
		if strings.ContainsAny(mediaType+lines+body, "\x00") || strings.ContainsAny(strings.ReplaceAll(mediaType+lines+body, "\r\n", ""), "\r\n") || strings.Contains(mediaType, "\n") {
			t.Skip() // the door, or the reader of the payload, has such line ends no more
		}
		if lines != "" && !strings.HasSuffix(lines, "\r\n") || strings.Contains("\r\n"+lines, "\r\n\r\n") || len(lines) > 0 && (lines[0] == ' ' || lines[0] == '\t') {
			t.Skip() // no header
		}
		if m, err := parseHeader([]byte(lines)); err != nil || slices.ContainsFunc(m.Root.Header, func(f message.Field) bool {
			return !isName(f.Name) || structural(strings.ToLower(f.Name))
		}) {
			t.Skip() // that is text, or says of the body something else than mediaType
		}
		entity := lines + "Content-Type: " + mediaType + "\r\n\r\n" + body
		wrapped := mail(t, entity).Root.Type == "message/rfc822" // its header may go, and its body be another
		text := shown(t, crlf(outside), entity)
		m := mail(t, text)
		for name, most := range map[string]int{"From": 1, "Subject": 1, "To": 1, "Date": 1, "Message-ID": 1, "MIME-Version": 1, record: 0, "Postern-Status": 0, "Authentication-Results": 0, "Bcc": 0, "Cc": 1} {
			if m.Count(name) > most {
				t.Errorf("%d times %s in\n%s", m.Count(name), name, text)
			}
		}
		if a, err := m.Author(); err != nil || a.Key() != "alice@a.example" {
			t.Errorf("author %v, %v in\n%s", a, err, text)
		}
		for _, f := range m.Root.Header {
			name := strings.ToLower(f.Name)
			if _, ok := read[name]; !ok && !structural(name) && name != "received" && name != "dkim-signature" {
				t.Errorf("field %q in\n%s", f.Name, text)
			}
		}
		for line := range strings.SplitSeq(text[:m.Root.Body.Start-2], "\r\n") {
			if strings.Trim(line, " \t") == "" && line != "" && !wrapped && strings.TrimSpace(mediaType) != "" {
				t.Errorf("a line of white space in %q", text)
			}
		}
		if !strings.HasSuffix(text, body) && !wrapped {
			t.Errorf("body: got\n%q\nwant\n%q", text, body)
		}
	})
}
