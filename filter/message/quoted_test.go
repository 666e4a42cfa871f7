package message

import (
	"bufio"
	"bytes"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
)

func encodedQP(t testing.TB, in string) string {
	t.Helper()
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	if err := encodeQP(w, bufio.NewReader(strings.NewReader(in))); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestEncodeQP(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""}, {"a=b\r\n", "a=3Db\r\n"}, {"é", "=C3=A9"}, {"a \r\nb\t", "a=20\r\nb=09"}, {"a  \r\n", "a =20\r\n"}, {"\r\n\r\n", "\r\n\r\n"},
		{"From x\r\nFrom\r\n>From x\r\n", "=46rom x\r\nFrom\r\n>From x\r\n"},
		{"--b\r\n-b\r\n", "=2D-b\r\n-b\r\n"},
		{"a\nb\rc\x00", "a\r\nb=0Dc=00"},
		{strings.Repeat("x", 75) + "\r\n", strings.Repeat("x", 75) + "\r\n"},
		{strings.Repeat("x", 75) + "--b\r\n", strings.Repeat("x", 75) + "=\r\n=2D-b\r\n"},
		{strings.Repeat("x", 75) + "From y", strings.Repeat("x", 75) + "=\r\n=46rom y"},
	} {
		if got := encodedQP(t, test.in); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

// TestCanonicalMakesNoBoundary: a line that had to be broken does not become
// a boundary, which would show other parts than those that were sent.
func TestCanonicalMakesNoBoundary(t *testing.T) {
	in := "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nü" + strings.Repeat("x", 69) + "--b\r\n" + strings.Repeat("y", 75) + "--b--\r\nz\r\n--b--\r\n"
	m, err := Parse(strings.NewReader(in), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := WriteCanonical(&out, m.Source, m.Root, nil); err != nil {
		t.Fatal(err)
	}
	again, err := Parse(bytes.NewReader(out.Bytes()), Limits{})
	if err != nil || len(again.Root.Parts) != 1 || !strings.Contains(out.String(), "=\r\n=2D-b") {
		t.Errorf("got %q, %v, want one part", out.String(), err)
	}
}

// FuzzEncodeQP: it decodes to the same text, in lines that survive.
func FuzzEncodeQP(f *testing.F) {
	for _, seed := range []string{"", "a \r\nFrom b\r\n", "é=\t\r\n--", strings.Repeat(" x", 60), strings.Repeat("x", 75) + "--b", "\r\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := encodedQP(t, s)
		c, err := Scan(strings.NewReader(got), Span{0, int64(len(got))})
		if err != nil || !c.clean() || c.Longest > 76 || strings.HasPrefix(got, "--") || strings.Contains(got, "\n--") {
			t.Errorf("%q: got %q, %+v, %v", s, got, c, err)
		}
		want := strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
		back, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(got)))
		if err != nil || string(back) != want {
			t.Errorf("%q: decoded: got %q, %v, want %q", s, back, err, want)
		}
	})
}
