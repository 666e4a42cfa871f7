package pdf

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

const word = "a b-c~"

func TestPasswords(t *testing.T) {
	for _, c := range []struct {
		password string
		ok       bool
	}{{"x", true}, {word, true}, {strings.Repeat("x", 127), true}, {"", false}, {strings.Repeat("x", 128), false}, {"süß", false}, {"a\x00", false}, {"a\n", false}} {
		if _, err := New(io.Discard, c.password); errors.Is(err, ErrPassword) == c.ok || (err == nil) != c.ok {
			t.Errorf("password %q: got %v", c.password, err)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Documents of every kind are sound for qpdf and poppler, with passwords of every
// length, of which the hash takes different rounds.
func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		name, password string
		fill           func(w *Writer) error
		text           string
		files          map[string]string
	}{
		{"one line", "x", func(w *Writer) error { return w.Page([]Line{{X: 50, Y: 700, Size: 12, Text: "Ωmega Ж ä"}}) }, "Ωmega Ж ä", nil},
		{"no page", strings.Repeat("p", 127), func(w *Writer) error { return nil }, "", nil},
		{"an empty page", strings.Repeat("long", 31), func(w *Writer) error { return w.Page(nil) }, "", nil},
		{"both fonts, many pages", strings.Repeat("p", 32), func(w *Writer) error {
			for range 40 {
				if err := w.Page([]Line{{X: 50, Y: 700, Size: 12, Text: "text"}, {X: 50, Y: 600, Font: Bold, Size: 12, Text: "bold 漢"}}); err != nil {
					return err
				}
			}
			return nil
		}, "bold □", nil},
		{"files with one name", word, func(w *Writer) error {
			return errors.Join(w.Page(nil), w.Embed("Zahl €.txt", "text/plain", []byte("one")), w.Embed("zahl €.txt", "a/b c#(", nil), w.Embed(".x", "x/y", bytes.Repeat([]byte("y"), 16)), w.Embed("Zahl €.txt", "text/plain", []byte("three")))
		}, "", map[string]string{"Zahl €.txt": "one", "zahl € (2).txt": "", ".x": strings.Repeat("y", 16), "Zahl € (3).txt": "three"}},
	} {
		var b bytes.Buffer
		w, err := New(&b, c.password)
		if err == nil {
			err = c.fill(w)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		path := filepath.Join(t.TempDir(), "x.pdf")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := run(t, "qpdf", "--password="+c.password, "--check", path); strings.Contains(out, "WARNING") {
			t.Errorf("%s: qpdf: %s", c.name, out)
		}
		if len(c.password) > 32 || c.name == "no page" { // more poppler does not take from its command line, and no document without pages
			continue
		}
		if out := run(t, "pdftotext", "-upw", c.password, "-enc", "UTF-8", path, "-"); !strings.Contains(out, c.text) || strings.Contains(out, "rror") {
			t.Errorf("%s: got text %q, want %q", c.name, out, c.text)
		}
		if c.files == nil {
			continue
		}
		dir := t.TempDir()
		run(t, "pdfdetach", "-upw", c.password, "-saveall", "-o", dir, path)
		got := map[string]string{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			got[e.Name()] = string(b)
		}
		if !reflect.DeepEqual(got, c.files) {
			t.Errorf("%s: got files %q, want %q", c.name, got, c.files)
		}
	}
}

// What the document is written to may fail at any byte: the error comes, once all
// is said.
func TestWriteFails(t *testing.T) {
	for limit := range 50 {
		l := &limited{left: limit * 700}
		w, err := New(l, word)
		if err == nil {
			err = errors.Join(w.Page([]Line{{X: 1, Y: 1, Size: 1, Text: "text"}}), w.Embed("a", "b/c", []byte("d")), w.Close())
		}
		if full := l.failed; (err != nil) != full || full && !errors.Is(err, errFull) {
			t.Fatalf("after %d bytes: got %v, full %v", limit*700, err, full)
		}
	}
}

var errFull = errors.New("full")

type limited struct {
	left   int
	failed bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.failed = l.failed || len(p) > l.left; l.failed {
		return 0, errFull
	}
	l.left -= len(p)
	return len(p), nil
}

// A font keeps the outlines of what is used, with what they are put together
// from, and loses the others.
func TestThinFont(t *testing.T) {
	for _, f := range []Font{Text, Bold} {
		face, err := load(f)
		if err != nil {
			t.Fatal(err)
		}
		const used = "äßΏжA□"
		for _, r := range used {
			if face.use(r) == 0 {
				t.Errorf("font %d lacks %c", f, r)
			}
		}
		data, err := face.thin()
		if err != nil {
			t.Fatal(err)
		}
		thin, err := sfnt.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		outline := func(font *sfnt.Font, r rune) sfnt.Segments {
			var b sfnt.Buffer
			g, err := font.GlyphIndex(&b, r)
			if err != nil {
				t.Fatal(err)
			}
			s, err := font.LoadGlyph(&b, g, fixed.I(1000), nil)
			if err != nil {
				t.Fatal(err)
			}
			return append(sfnt.Segments{}, s...)
		}
		for _, r := range used {
			if got, want := outline(thin, r), outline(face.font, r); len(got) == 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("font %d: %c has another outline", f, r)
			}
		}
		for _, r := range "ZqЩ" {
			if got := outline(thin, r); len(got) > 0 {
				t.Errorf("font %d: %c is there still", f, r)
			}
		}
	}
}
