package smime

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"

	netmail "net/mail"

	"postern/filter/cms"
	"postern/filter/message"
	"postern/filter/protect"
)

// shownAs lists the types of all entities in a mail, as the standard library
// finds them, whatever a part is called.
func shownAs(t testing.TB, text string) (types []string) {
	t.Helper()
	var walk func(h textproto.MIMEHeader, body io.Reader)
	walk = func(h textproto.MIMEHeader, body io.Reader) {
		kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
		if err != nil {
			kind = "text/plain"
		}
		types = append(types, kind)
		switch {
		case strings.HasPrefix(kind, "multipart/"):
			r := multipart.NewReader(body, params["boundary"])
			for {
				p, err := r.NextRawPart()
				if err != nil {
					return
				}
				walk(p.Header, p)
			}
		case kind == "message/rfc822":
			if m, err := netmail.ReadMessage(body); err == nil {
				walk(textproto.MIMEHeader(m.Header), m.Body)
			}
		}
	}
	m, err := netmail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	walk(textproto.MIMEHeader(m.Header), m.Body)
	return types
}

// active reports whether a program might run one of the types.
func active(types []string) bool {
	for _, kind := range types {
		for _, word := range []string{"html", "xml", "svg", "script", "tnef", "external-body", "rtf", "enriched", "richtext"} {
			if strings.Contains(kind, word) {
				return true
			}
		}
	}
	return false
}

// R8: AES-CBC without a signature that fits is nobody's word, and nothing in
// it runs.
func TestUnauthenticated(t *testing.T) {
	w := newWorld(t, ecPair)
	stranger := newAuthority(t, "Stranger's CA").signs(t, w.token, "p-256", w.alice.signs.Address)
	alice, unknown := w.signing(w.alice.signs), w.signing(stranger)
	broken := strings.Replace(w.multipart(htmlEntity, alice), "0000", "1111", 1)
	for _, c := range []struct {
		name, entity string
		cipher       cms.Cipher
		reason       string
		inert        bool // in the form to be opened
		sealed       bool // when it is not to be opened unless somebody vouches for it
	}{
		{"text", textEntity, cms.AES128CBC, protect.ReasonUnauthenticated, false, true},
		{"HTML", htmlEntity, cms.AES256CBC, protect.ReasonUnauthenticated, true, true},
		{"HTML, authenticated", htmlEntity, cms.AES256GCM, protect.ReasonNone, false, false},
		{"HTML, signed", w.multipart(htmlEntity, alice), cms.AES256CBC, protect.ReasonGood, false, false},
		{"HTML, signed inside", holding(w.signed(htmlEntity, alice)), cms.AES256CBC, protect.ReasonGood, false, false},
		{"HTML, signed by a stranger", holding(w.signed(htmlEntity, unknown)), cms.AES256CBC, protect.ReasonUnknownCert, false, false},
		{"HTML, signed and changed", broken, cms.AES256CBC, protect.ReasonBad, true, true},
		{"HTML, signed and changed, authenticated", broken, cms.AES256GCM, protect.ReasonBad, false, false},
		{"HTML beside a signature without signer", beside(htmlEntity, bundled(t, w.ca.cert)), cms.AES256CBC, protect.ReasonBad, true, true},
	} {
		m := w.sealed(c.entity, c.cipher)
		w.config.Unauthenticated = Inert
		opened, f, err := w.open(m)
		if err != nil || !f.Opened || f.Reason != c.reason {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.reason)
			continue
		}
		types := shownAs(t, printed(t, opened))
		if got := !active(types); got != (c.inert || c.name == "text") || !strings.Contains(printed(t, opened), "0000") && c.reason != protect.ReasonBad {
			t.Errorf("%s: got %v in\n%s", c.name, types, printed(t, opened))
		}
		w.config.Unauthenticated = Sealed
		if opened, f, err := w.open(m); c.sealed && (err != protect.ErrCannotOpen || opened != nil || f.Opened) || !c.sealed && (err != nil || f.Reason != c.reason) {
			t.Errorf("%s, not to be opened: got %+v, %v", c.name, f, err)
		}
	}
	w.config.Unauthenticated = Inert
	plain := strings.Replace(letter, "Content-Type: text/plain", "Content-Type: text/html", 1)
	opened, f, err := w.open(w.seal(mail(t, plain), false, protect.Style{}, w.bob.opens.Cert))
	if err != nil || f.Reason != protect.ReasonUnauthenticated || opened.Get("Subject") != "codes" || opened.Root.Type != "text/plain" {
		t.Errorf("protected header: got %+v, %v\n%s", f, err, printed(t, opened))
	}
}

// What programs could run comes as text, and the rest as it was.
func TestInert(t *testing.T) {
	p := New(Config{})
	html := "Content-Type: text/html\n\n<b>\n"
	multi := func(kind string, parts ...string) string {
		return "Content-Type: multipart/" + kind + "; boundary=\"b x\"\n\nfor nobody\n--b x\n" + strings.Join(parts, "\n--b x\n") + "\n--b x--\n"
	}
	for _, c := range []struct {
		name, entity string
		want         string // types; "" that it stays as it is
	}{
		{"text", "Content-Type: text/plain; charset=utf-8\n\nhello\n", ""},
		{"without type", "\nhello\n", ""},
		{"attachments", multi("mixed", "\nhello\n", "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nAAEC\n", "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAEC\n"), ""},
		{"a forwarded mail", "Content-Type: message/rfc822\n\nSubject: s\n\nhello\n", ""},
		{"HTML", html, "text/plain"},
		{"HTML in capitals", "CONTENT-TYPE: TEXT/HTML\n\n<b>\n", "text/plain"},
		{"HTML with a comment", "Content-Type: text/(x)html\n\n<b>\n", "text/plain"},
		{"XHTML", "Content-Type: application/xhtml+xml\n\n<b/>\n", "text/plain"},
		{"XML", "Content-Type: text/xml\n\n<b/>\n", "text/plain"},
		{"SVG", multi("mixed", "Content-Type: image/svg+xml\n\n<svg/>\n"), "multipart/mixed text/plain"},
		{"enriched", "Content-Type: text/enriched\n\n<b>\n", "text/plain"},
		{"RTF", "Content-Type: text/rtf\n\n{}\n", "text/plain"},
		{"TNEF", multi("mixed", "\nhello\n", "Content-Type: application/ms-tnef; name=winmail.dat\n\nx\n"), "multipart/mixed text/plain application/octet-stream"},
		{"elsewhere", "Content-Type: message/external-body; access-type=URL; URL=\"http://evil.example/\"\n\nContent-Type: text/html\n\n", "application/octet-stream"},
		{"alternatives", multi("alternative", "\nhello\n", html), "multipart/mixed text/plain text/plain"},
		{"alternatives, all of them text", multi("alternative", "\nhello\n", "Content-Type: text/calendar\n\nBEGIN:VCALENDAR\n"), ""},
		{"related", multi("related", html, "Content-Type: image/png\n\nx\n"), "multipart/related text/plain image/png"},
		{"in a forwarded mail", "Content-Type: message/rfc822\n\nSubject: s\n" + html, "message/rfc822 text/plain"},
		{"in a forwarded mail in base64", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nAAEC\n", "application/octet-stream"},
		{"an unknown multipart", multi("x-replace", "\nhello\n"), "multipart/mixed text/plain"},
		{"two types", "Content-Type: text/plain\nContent-Type: text/html\n\n<b>\n", "application/octet-stream"},
		{"a type that can't be read", "Content-Type: text/html; charset=\"\n\n<b>\n", "text/plain"},
		{"an encoding that nobody knows", "Content-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\nbegin 644 a.html\n", "application/octet-stream"},
		{"a boundary for others", multi("mixed", "\nhello\n--b xy\n"+html), "multipart/mixed text/plain"},
		{"a boundary behind the last one", multi("mixed", "\nhello\n") + "--b x\n" + html, "multipart/mixed text/plain"},
		{"one boundary in another", multi("mixed", "Content-Type: multipart/mixed; boundary=\"b x\"\n\n--b x\n\nhello\n"), "multipart/mixed multipart/mixed text/plain"},
		{"a multipart without parts", "Content-Type: multipart/mixed; boundary=x\n\n--y\n" + html, "text/plain"},
		{"a multipart without boundary", "Content-Type: multipart/mixed\n\n--y\n" + html, "text/plain"},
		{"a part whose header is no header", multi("mixed", "Content-Type text/html\nContent-Type: text/plain\n\nhello\n"), "multipart/mixed text/plain"},
		{"many multiparts", strings.Repeat("Content-Type: multipart/mixed; boundary=x\n\n--x\n", 1) + nestedParts(12), ""},
	} {
		m := mail(t, "From: alice@company1.example\r\n"+crlf(c.entity))
		got, err := p.inert(m, spools(t))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.name == "many multiparts" {
			if got == m || active(shownAs(t, printed(t, got))) {
				t.Errorf("%s: got %v", c.name, shownAs(t, printed(t, got)))
			}
			continue
		}
		if c.want == "" {
			if got != m {
				t.Errorf("%s: changed to\n%s", c.name, printed(t, got))
			}
			continue
		}
		if types := strings.Join(shownAs(t, printed(t, got)), " "); types != c.want || got.Get("From") != "alice@company1.example" || got.Count("From") != 1 {
			t.Errorf("%s: got %s, want %s, in\n%s", c.name, types, c.want, printed(t, got))
		}
	}
}

func nestedParts(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("Content-Type: multipart/mixed; boundary=y" + string(rune('a'+i)) + "\n\n--y" + string(rune('a'+i)) + "\n")
	}
	return b.String() + "\nhello\n"
}

// Whatever a mail is made of: made inert, no part of it runs, by our reading
// and by another one; and what was is still there.
func FuzzInert(f *testing.F) {
	f.Add("Content-Type: text/html\r\n\r\n<b>\r\n")
	f.Add("Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\nContent-Type: text/html\r\n\r\n<b>\r\n--x--\r\n")
	f.Add("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nFrom: a\r\nContent-Type: image/svg+xml\r\n\r\n<svg/>\r\n--x--\r\n")
	f.Add("Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n--x\r\n")
	p := New(Config{})
	f.Fuzz(func(t *testing.T, text string) {
		m, err := message.Parse(strings.NewReader(text), message.Limits{})
		if err != nil || strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n\x00") {
			t.Skip()
		}
		made := (&message.Spools{Memory: 16 << 20, Max: 16 << 20}).New
		got, err := p.inert(m, made)
		if err != nil {
			t.Skip() // beyond limits
		}
		var walk func(part *message.Part)
		walk = func(part *message.Part) {
			if active([]string{part.Type}) {
				t.Errorf("%s in\n%s", part.Type, text)
			}
			for _, inner := range part.Parts {
				walk(inner)
			}
		}
		walk(got.Root)
		var out bytes.Buffer
		if _, err := got.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		if _, err := netmail.ReadMessage(bytes.NewReader(out.Bytes())); err == nil && active(shownAs(t, out.String())) {
			t.Errorf("%v in\n%s", shownAs(t, out.String()), out.String())
		}
	})
}
