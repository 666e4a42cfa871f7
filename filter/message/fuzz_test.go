package message

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"net/mail"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// FuzzAddress: what is accepted prints as something that reads as the same,
// and another parser takes it for the same address.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{
		"a@b.example", `"a b"@b.example`, `"\"\\"@B.Example`, "jörg@bücher.example", "a@xn--bcher-kva.example", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]",
		"a@b@c", "<a@b>", "a@b (c)", "@r:a@b", "a.@b", "\x00@b", "a@\u212aernel.example", "a@ｂ。example",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if !errors.Is(err, ErrAddress) || !a.IsZero() {
				t.Fatalf("%q: got %v, %v, want ErrAddress", s, a, err)
			}
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: printed as %q, got %v, %v", s, a.String(), again, err)
		}
		key, err := ParseAddress(a.Key())
		if err != nil || key.Key() != a.Key() {
			t.Errorf("%q: key %q: got %v, %v", s, a.Key(), key, err)
		}
		if strings.HasPrefix(a.Domain, "[IPv6:") {
			return // which net/mail does not know
		}
		other, err := mail.ParseAddress("<" + s + ">")
		if err != nil {
			t.Fatalf("%q: net/mail: %v", s, err)
		}
		at := strings.LastIndexByte(other.Address, '@')
		domain, _, ok := canonicalDomain(other.Address[at+1:])
		if local := other.Address[:at]; local != a.Local || !ok || domain != a.Domain {
			t.Errorf("%q: got %q at %q, net/mail has %q at %q", s, a.Local, a.Domain, local, domain)
		}
	})
}

// FuzzFrom: another parser takes an accepted list for the same addresses.
func FuzzFrom(f *testing.F) {
	for _, seed := range []string{
		"a@b.example", "A <a@b.example>, c@d.example", `"x, y" <a@b.example> (z)`, "g: a@b.example, B <c@d.example>;", "=?utf-8?q?a=40b?= <a@b.example>",
		"a@b <c@d>", "<a@b> <c@d>", "A (\\) <a@b.example>", "\"a\\\" <c@d>", ",a@b", "J. R. <\"a b\"@b.example>", "(a(b)c) <a@b.example>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseFrom(s)
		if err != nil {
			if !errors.Is(err, ErrAddress) || list != nil {
				t.Fatalf("%q: got %v, %v, want ErrAddress", s, list, err)
			}
			return
		}
		if len(list) == 0 || len(list) > maxListed {
			t.Fatalf("%q: got %d addresses", s, len(list))
		}
		others, err := mail.ParseAddressList(s)
		if err != nil {
			return // it takes fewer forms of display names and groups
		}
		if len(others) != len(list) {
			t.Fatalf("%q: got %v, net/mail has %d", s, list, len(others))
		}
		for i, other := range others {
			at := strings.LastIndexByte(other.Address, '@')
			domain, _, _ := canonicalDomain(other.Address[at+1:])
			if list[i] != (Address{other.Address[:at], domain}) {
				t.Errorf("%q: got %v, net/mail has %q", s, list[i], other.Address)
			}
		}
	})
}

// FuzzStrict: exactly what has no CR, LF or NUL alone passes, unchanged,
// however it is cut up.
func FuzzStrict(f *testing.F) {
	for _, seed := range []string{"", "a\r\nb", "\r\n.\r\n", "a\nb", "a\rb", "\r\r\n", "\n\r", "a\r", "\x00", strings.Repeat("x", 5000) + "\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		want := !bytes.ContainsAny(bytes.ReplaceAll(content, []byte("\r\n"), nil), "\r\n\x00")
		for _, r := range []io.Reader{
			bytes.NewReader(content), iotest.OneByteReader(bytes.NewReader(content)), iotest.HalfReader(bytes.NewReader(content)), iotest.DataErrReader(bytes.NewReader(content)),
		} {
			got, err := io.ReadAll(Strict(r))
			switch {
			case want && (err != nil || !bytes.Equal(got, content)):
				t.Errorf("%q: got %q, %v, want it all", content, got, err)
			case !want && (!errors.Is(err, ErrLineEnds) || !bytes.HasPrefix(content, got)):
				t.Errorf("%q: got %q, %v, want ErrLineEnds", content, got, err)
			}
		}
	})
}

// FuzzDecodeWords: the result is UTF-8 where the text was, is no more than a
// few times longer, and what has no words stays.
func FuzzDecodeWords(f *testing.F) {
	for _, seed := range []string{"plain", "=?utf-8?q?J=C3=B6rg?= =?utf-8?b?SsO2cmc=?=", "=?iso-2022-jp?b?GyRCRnwbKEI=?=", "=?x?q?a?=", "=?utf-8?q?=FF?=", "=?=?utf-8?q??=", "=?utf-16?b?//4A2A==?="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := DecodeWords(s)
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("%q: got %q, want UTF-8", s, got)
		}
		if len(got) > 4*len(s) {
			t.Errorf("%q: got %d bytes of %d", s, len(got), len(s))
		}
		if !strings.Contains(s, "=?") && got != s {
			t.Errorf("%q: got %q", s, got)
		}
	})
}

// FuzzASCIIField: any header field becomes ASCII without white space lost,
// and ASCII stays as it is.
func FuzzASCIIField(f *testing.F) {
	for _, seed := range []string{"A: b\r\n", "A: é\r\n è\r\n", "A: é = è?\r\n", "é: \xff\r\n", "A: \"é\t è\" é\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, field []byte) {
		got := asciiField(field)
		if !isASCII(got) {
			t.Errorf("%q: got %q, want ASCII", field, got)
		}
		if isASCII(field) && !bytes.Equal(got, field) {
			t.Errorf("%q: got %q, want it as it was", field, got)
		}
	})
}

// FuzzContentType: type and parameters are well-formed and always the same,
// read again when they are printed, and a boundary is what another parser
// takes for it.
func FuzzContentType(f *testing.F) {
	for _, seed := range []string{
		"text/plain", "Text/Plain; charset=utf-8", `multipart/mixed; boundary="a b\"c" ; x=y (z)`, "a/b; c*0*=utf-8''%41; c*1=d; c*2*=%zz", "a/b; c*=x'y'z; c*0=w; c*0*=v",
		"a/b; c=d; c=e", "a/b;;; =x; y", `a/b; c="d`, "a/b; c=d e", "multipart/x; boundary*=a; boundary=b", "a/b (c(d)\\)) ; e=f(g)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kind, params := contentType(s)
		major, minor, ok := strings.Cut(kind, "/")
		if !ok || !isToken(major) || !isToken(minor) || strings.ToLower(kind) != kind {
			t.Errorf("%q: got type %q", s, kind)
		}
		if len(params) > maxParams {
			t.Errorf("%q: got %d parameters", s, len(params))
		}
		printed := kind
		for name, val := range params {
			if !isToken(name) || strings.ToLower(name) != name || strings.Contains(name, "*") {
				t.Errorf("%q: got parameter %q", s, name)
			}
			printed += ";" + name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(val) + `"`
		}
		if _, again := contentType(s); !maps.Equal(again, params) {
			t.Errorf("%q: got %q, and then %q", s, params, again)
		}
		if strings.ContainsAny(printed, "\r\n\x00") || len(printed) > maxContentType {
			return // which no field holds
		}
		if again, same := contentType(printed); again != kind || !maps.Equal(same, params) {
			t.Errorf("%q: got %q %q, printed and read %q %q", s, kind, params, again, same)
		}
		if strings.Contains(s, `\`) {
			return // package mime leaves backslashes in, for names of files
		}
		if _, others, err := mime.ParseMediaType(s); err == nil && params["boundary"] != "" && params["boundary"] != others["boundary"] {
			t.Errorf("%q: got boundary %q, package mime has %q", s, params["boundary"], others["boundary"])
		}
	})
}
