package message

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

func TestContentType(t *testing.T) {
	for _, test := range []struct {
		in, want string
		params   map[string]string
	}{
		{"text/plain", "text/plain", nil},
		{" Text/HTML ; Charset=UTF-8 ", "text/html", map[string]string{"charset": "UTF-8"}},
		{`multipart/mixed; boundary="a b"; x=y`, "multipart/mixed", map[string]string{"boundary": "a b", "x": "y"}},
		{`multipart/mixed; boundary=----=_Part_1.2; micalg=pgp-sha256`, "multipart/mixed", map[string]string{"boundary": "----=_Part_1.2", "micalg": "pgp-sha256"}},
		{`multipart/mixed;boundary="a\"b;c" ; `, "multipart/mixed", map[string]string{"boundary": `a"b;c`}},
		{`text/plain (a (b) \) c); charset=(x)utf-8`, "text/plain", map[string]string{"charset": "utf-8"}},
		{`text/plain; name="a(b)c"`, "text/plain", map[string]string{"name": "a(b)c"}},
		{"text/plain; flag; charset=x", "text/plain", map[string]string{"charset": "x"}},
		{"text/plain;;; charset = x", "text/plain", map[string]string{"charset": "x"}},
		{"text/plain; charset=", "text/plain", map[string]string{"charset": ""}},

		// Two readings: none.
		{"multipart/mixed; boundary=a; boundary=b; x=y", "multipart/mixed", map[string]string{"x": "y"}},
		{"multipart/mixed; boundary=a; BOUNDARY=a", "multipart/mixed", nil},
		{"multipart/mixed; boundary=a b; x=y", "multipart/mixed", map[string]string{"x": "y"}},
		{`multipart/mixed; boundary="a"b; x=y`, "multipart/mixed", map[string]string{"x": "y"}},
		{`multipart/mixed; boundary=a"b"; x=y`, "multipart/mixed", map[string]string{"x": "y"}},
		{`multipart/mixed; x=y; boundary="a`, "multipart/mixed", map[string]string{"x": "y"}},
		{"multipart/mixed; boundary*=utf-8''a", "multipart/mixed", nil},
		{"multipart/mixed; boundary=a; boundary*0=b", "multipart/mixed", nil},
		{"multipart/encrypted; protocol*0=application/; protocol*1=pgp-encrypted", "multipart/encrypted", nil},
		{"multipart/mixed; a b=c; x=y", "multipart/mixed", map[string]string{"x": "y"}},

		// RFC 2231.
		{"text/plain; name*=utf-8'de'J%C3%B6rg", "text/plain", map[string]string{"name": "Jörg"}},
		{"text/plain; name*=iso-8859-1''J%F6rg", "text/plain", map[string]string{"name": "Jörg"}},
		{"text/plain; name*0=a; name*1=b; name*3=d", "text/plain", map[string]string{"name": "ab"}},
		{"text/plain; name*1*=%C3%B6; name*0*=utf-8''a; name*2=%41", "text/plain", map[string]string{"name": "aö%41"}},
		{"text/plain; name=a; name*=utf-8''b", "text/plain", map[string]string{"name": "a"}},
		{"text/plain; name*=utf-8'a%zz%4", "text/plain", map[string]string{"name": "utf-8'a%zz%4"}},
		{"text/plain; name*=x-none''%FF", "text/plain", map[string]string{"name": "\uFFFD"}},
		{"text/plain; name*1=b", "text/plain", nil},

		// What can't be read is plain text.
		{"", "text/plain", nil}, {"multipart", "text/plain", nil}, {"multipart/", "text/plain", nil}, {"/mixed", "text/plain", nil},
		{"multipart/mixed boundary=a", "text/plain", nil}, {"multipart/a/b; boundary=a", "text/plain", nil}, {"multipart /mixed; boundary=a", "text/plain", nil},
		{"multipart/mixed, text/plain; boundary=a", "text/plain", nil}, {`"multipart/mixed"; boundary=a`, "text/plain", nil},
		{"multipart/mixed; boundary=" + strings.Repeat("a", maxContentType), "text/plain", nil},
	} {
		got, params := contentType(test.in)
		if got != test.want || !maps.Equal(params, test.params) {
			t.Errorf("%.80q: got %s %q, want %s %q", test.in, got, params, test.want, test.params)
		}
	}
}

func TestContentTypeManyParameters(t *testing.T) {
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, ";a%d=b", i)
	}
	if _, params := contentType("text/plain" + b.String()); len(params) > 0 {
		t.Errorf("got %d parameters, want none", len(params))
	}
}

// What could be taken in two ways has no value, every time.
func TestContentTypeInTwoWays(t *testing.T) {
	for _, in := range []string{
		"a/b; c*=u'y'z; c*0=w", "a/b; c*0=w; c*0*=v", "multipart/x; boundary=c; boundary*=d", "multipart/x; boundary*=d; boundary*=e; boundary=c", "multipart/x; boundary*0=c",
	} {
		for range 50 {
			if _, params := contentType(in); len(params) > 0 {
				t.Fatalf("%q: got %q, want no parameter", in, params)
			}
		}
	}
}
