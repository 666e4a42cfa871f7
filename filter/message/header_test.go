package message

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestHeaderFields(t *testing.T) {
	m, err := Parse(strings.NewReader(crlf("Subject: one\nsubject:\n  two\n\tlines \nX-Empty:\n\n")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(m.All("SUBJECT")); got != 2 || m.Count("Subject") != 2 || m.Count("To") != 0 {
		t.Errorf("Subject: got %d fields, and %d To, want 2 and 0", got, m.Count("To"))
	}
	if v, err := m.Value(m.All("Subject")[1]); err != nil || v != "two\tlines" {
		t.Errorf("unfolded: got %q, %v", v, err)
	}
	for name, want := range map[string]string{"Subject": "one", "x-empty": "", "To": ""} {
		if got := m.Get(name); got != want {
			t.Errorf("Get(%q): got %q, want %q", name, got, want)
		}
	}
}

func TestAuthor(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"From: Alice <a@b.example>\n", "a@b.example"},
		{"FROM :\n a@b.example\n", "a@b.example"},
		{"Sender: c@d.example\n", ""},
		{"From: a@b.example\nFrom: a@b.example\n", ""},
		{"From: a@b.example\nfrom : c@d.example\n", ""},
		{"From: a@b.example, c@d.example\n", ""},
		{"From: group: a@b.example;\n", ""},
		{"From: a@b.example, group:;\n", ""},
		{"From: group:;\n", ""},
		{"From: a@b.example <c@d.example>\n", ""},
		{"From:\n", ""},
	} {
		m, err := Parse(strings.NewReader(crlf(test.in+"\n")), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := m.Author()
		if a.String() != test.want || (err == nil) != (test.want != "") || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%q: got %v, %v, want %q", test.in, a, err, test.want)
		}
	}
}

func TestFoldField(t *testing.T) {
	word := strings.Repeat("w", 30)
	long := strings.Repeat("é", 1500)
	for _, test := range []struct{ name, in, want string }{
		{"short", "a b", "X: a b\r\n"},
		{"empty", "", "X:\r\n"},
		{"blank", "  \t ", "X:\r\n"},
		{"folded", strings.Join([]string{word, word, word}, " "), "X: " + word + " " + word + "\r\n " + word + "\r\n"},
		{"long word first", strings.Repeat("w", 100) + " x", "X: " + strings.Repeat("w", 100) + "\r\n x\r\n"},
		{"blanks are kept", `"a  b" c`, "X: \"a  b\" c\r\n"},
		{"a gap that nobody meant", "a" + strings.Repeat(" ", 2000) + "b", "X: a b\r\n"},
		{"a field of its own", "a\r\nBcc: b\n c\x00d\x7fe\u2028f", "X: a  Bcc: b  c d e f\r\n"},
		{"no UTF-8", "a\xffb", "X: a\uFFFDb\r\n"},
	} {
		if got := string(FoldField("X", test.in)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	got := string(FoldField("X", long))
	for line := range strings.SplitSeq(strings.TrimSuffix(got, "\r\n"), "\r\n") {
		if len(line) > 998 || !utf8.ValidString(line) {
			t.Errorf("long word: got a line of %d bytes, valid %v", len(line), utf8.ValidString(line))
		}
	}
	if strings.NewReplacer("\r\n ", "").Replace(got) != "X: "+long+"\r\n" {
		t.Error("long word: characters are lost")
	}
}
