package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// crlf gives s the line ends of mail.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// show prints the structure of a part, a line each: type, body of leaves,
// what stands before and behind the parts of a multipart.
func show(src string, p *Part, indent string) string {
	cut := func(s Span) string { return src[s.Start:s.End] }
	line := indent + p.Type
	if strings.HasPrefix(p.Type, "multipart/") {
		line += fmt.Sprintf(" %q %q", cut(p.Preamble), cut(p.Epilogue))
	} else if len(p.Parts) == 0 {
		line += fmt.Sprintf(" %q", cut(p.Body))
	}
	for _, part := range p.Parts {
		line += "\n" + show(src, part, indent+" ")
	}
	return line
}

const mixed = "Content-Type: multipart/mixed; boundary=b\n\n"

func TestParseStructure(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", `text/plain ""`},
		{"header only", "A: b\n", `text/plain ""`},
		{"header and blank line", "A: b\n\n", `text/plain ""`},
		{"body only", "\nhello\n", `text/plain "hello\r\n"`},
		{"text", "A: b\n\nhello\n", `text/plain "hello\r\n"`},
		{"two parts", mixed + "--b\n\none\n--b\nContent-Type: a/b\n\ntwo\n--b--\n",
			"multipart/mixed \"\" \"\"\n text/plain \"one\"\n a/b \"two\""},
		{"words around", mixed + "before\n--b\n\none\n--b--\nafter\n",
			"multipart/mixed \"before\" \"after\\r\\n\"\n text/plain \"one\""},
		{"blank line before the boundary", mixed + "\n\n--b\n\none\n\n--b--",
			"multipart/mixed \"\\r\\n\" \"\"\n text/plain \"one\\r\\n\""},
		{"white space behind boundaries", mixed + "--b \t\n\none\n--b-- \n",
			"multipart/mixed \"\" \"\"\n text/plain \"one\""},
		{"much white space behind a boundary", mixed + "--b" + strings.Repeat(" ", 300) + "\n\none\n--b--\n",
			"multipart/mixed \"\" \"\"\n text/plain \"one\""},
		{"something far behind a boundary", mixed + "--b" + strings.Repeat(" ", 300) + "x\n--b\n\none\n--b--\n",
			"multipart/mixed \"--b" + strings.Repeat(" ", 300) + "x\" \"\"\n text/plain \"one\""},
		{"almost boundaries", mixed + "--b\n\n--bb\n-- b\n --b\n--B\n--b-\n--b--x\n-b\n--\n--b--\n",
			"multipart/mixed \"\" \"\"\n text/plain \"--bb\\r\\n-- b\\r\\n --b\\r\\n--B\\r\\n--b-\\r\\n--b--x\\r\\n-b\\r\\n--\""},
		{"no boundary", mixed + "one\n", "multipart/mixed \"one\\r\\n\" \"\""},
		{"last boundary only", mixed + "--b--\nx", "multipart/mixed \"\" \"x\""},
		{"boundary behind the last", mixed + "--b\n\none\n--b--\n--b\n\ntwo\n--b--\n",
			"multipart/mixed \"\" \"--b\\r\\n\\r\\ntwo\\r\\n--b--\\r\\n\"\n text/plain \"one\""},
		{"no last boundary", mixed + "--b\n\none\n", "multipart/mixed \"\" \"\"\n text/plain \"one\\r\\n\""},
		{"boundaries at once", mixed + "--b\n--b\n--b--\n", "multipart/mixed \"\" \"\"\n text/plain \"\"\n text/plain \"\""},
		{"boundary cuts a header", mixed + "--b\nA: b\n--b\nContent-Type: a/b\n--b--\n",
			"multipart/mixed \"\" \"\"\n text/plain \"\"\n a/b \"\""},
		{"boundary ends the mail", mixed + "--b", "multipart/mixed \"\" \"\"\n text/plain \"\""},
		{"boundary cuts the header of a message", mixed + "--b\nContent-Type: message/rfc822\n--b--\n",
			"multipart/mixed \"\" \"\"\n message/rfc822\n  text/plain \"\""},
		{"boundary cuts the header inside a message", mixed + "--b\nContent-Type: message/rfc822\n\nA: b\n--b\n\ntwo\n--b--\n",
			"multipart/mixed \"\" \"\"\n message/rfc822\n  text/plain \"\"\n text/plain \"two\""},
		{"inner multipart", mixed + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\none\n--c\n\ntwo\n--c--\nend\n--b\n\nthree\n--b--\n",
			"multipart/mixed \"\" \"\"\n multipart/alternative \"\" \"end\"\n  text/plain \"one\"\n  text/plain \"two\"\n text/plain \"three\""},
		{"inner multipart without end", mixed + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\none\n--b\n\nthree\n--b--\n",
			"multipart/mixed \"\" \"\"\n multipart/alternative \"\" \"\"\n  text/plain \"one\"\n text/plain \"three\""},
		{"inner boundary, outer boundary", mixed + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n--b--\n",
			"multipart/mixed \"\" \"\"\n multipart/alternative \"\" \"\"\n  text/plain \"\""},
		{"inner end, outer end", mixed + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c--\n--b--\n",
			"multipart/mixed \"\" \"\"\n multipart/alternative \"\" \"\""},
		{"the same boundary inside", mixed + "--b\n" + mixed + "--b\n\none\n--b--\n--b\n\ntwo\n--b--\nend",
			"multipart/mixed \"\" \"end\"\n multipart/mixed \"\" \"\"\n  text/plain \"one\"\n text/plain \"two\""},
		{"message", "Content-Type: message/rfc822\n\nContent-Type: a/b\n\nx\n", "message/rfc822\n a/b \"x\\r\\n\""},
		{"messages", "Content-Type: message/rfc822\n\nContent-Type: message/rfc822\n\n" + mixed + "--b\n\nx\n--b--\n",
			"message/rfc822\n message/rfc822\n  multipart/mixed \"\" \"\"\n   text/plain \"x\""},
		{"multipart in a message in a multipart", mixed + "--b\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\none\n--c\n\ntwo\n--b\n\nthree\n--b--\n",
			"multipart/mixed \"\" \"\"\n message/rfc822\n  multipart/mixed \"\" \"\"\n   text/plain \"one\"\n   text/plain \"two\"\n text/plain \"three\""},
		{"encoded message", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nQQ==\n", `message/rfc822 "QQ==\r\n"`},
		{"partial message", "Content-Type: message/partial\n\n" + mixed + "--b\n", `message/partial "` + strings.ReplaceAll(mixed, "\n", `\r\n`) + `--b\r\n"`},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nA: b\n\none\n--b\nContent-Type: a/b\n\ntwo\n--b--\n",
			"multipart/digest \"\" \"\"\n message/rfc822\n  text/plain \"one\"\n a/b \"two\""},
		{"two Content-Types", "Content-Type: a/b\n" + mixed + "--b\n\n--b--\n", `application/octet-stream "--b\r\n\r\n--b--\r\n"`},
		{"two boundaries", "Content-Type: multipart/mixed; boundary=b; boundary=b\n\n--b\n\n--b--\n", "multipart/mixed \"--b\\r\\n\\r\\n--b--\\r\\n\" \"\""},
		{"boundary with quotes and blanks", "Content-Type: multipart/mixed;\n boundary=\"b (c)=?\"\n\n--b (c)=?\n\none\n--b (c)=?--\n",
			"multipart/mixed \"\" \"\"\n text/plain \"one\""},
		{"boundary that is too long", "Content-Type: multipart/mixed; boundary=" + strings.Repeat("b", 71) + "\n\n--" + strings.Repeat("b", 71) + "\n\none\n",
			"multipart/mixed \"--" + strings.Repeat("b", 71) + "\\r\\n\\r\\none\\r\\n\" \"\""},
	}
	for _, test := range tests {
		in := crlf(test.in)
		m, err := Parse(text(in), Limits{})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := show(in, m.Root, ""); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
		check(t, m, Limits{}.orDefault())
	}
}

// A line end before a boundary belongs to it also where it stands on the border of a buffer.
func TestParseAtTheBuffersEnd(t *testing.T) {
	head := len(crlf(mixed + "--b\n\n"))
	for n := chunk - head - 6; n < chunk-head+3; n++ {
		for _, end := range []string{"\r\n", "\n"} {
			in := crlf(mixed+"--b\n\n") + strings.Repeat("x", n) + end + "--b--" + end
			m, err := Parse(text(in), Limits{})
			if err != nil || len(m.Root.Parts) != 1 || m.Root.Parts[0].Body.Len() != int64(n) {
				t.Errorf("%d bytes and %q: got %v, %+v", n, end, err, m.Root)
			}
		}
	}
}

// Depth, parts, fields and header size have each its bound (R29).
func TestParseLimits(t *testing.T) {
	l := Limits{Depth: 3, Parts: 5, Fields: 4, HeaderBytes: 100}
	deep := func(n int) string { // n multiparts
		s := ""
		for i := range n {
			s += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
		}
		return s + "\nx\n"
	}
	tests := []struct {
		name, in string
		want     error
	}{
		{"depth", deep(3), nil},
		{"depth too much", deep(4), ErrLimit},
		{"messages", strings.Repeat("Content-Type: message/rfc822\n\n", 3) + "\n", nil},
		{"messages too deep", strings.Repeat("Content-Type: message/rfc822\n\n", 4) + "\n", ErrLimit},
		{"parts", mixed + strings.Repeat("--b\n\n", 4), nil},
		{"parts too many", mixed + strings.Repeat("--b\n\n", 5), ErrLimit},
		{"fields", strings.Repeat("A: b\n", 4), nil},
		{"fields too many", strings.Repeat("A: b\n", 5), ErrHeaderLimit},
		{"fields with folds", strings.Repeat("A: b\n c\n", 4), nil},
		{"fields of all parts", mixed + "--b\n" + strings.Repeat("A: b\n", 4) + "--b\nA: b\n", nil},
		{"header", "A:" + strings.Repeat("b", 94) + "\n\n", nil},
		{"header one byte longer", "A:" + strings.Repeat("b", 95) + "\n\n", ErrHeaderLimit},
		{"header of many lines", "A: b\n" + strings.Repeat(" ccccccc\n", 11), ErrHeaderLimit},
		{"header of one endless line", strings.Repeat("b", 3*chunk), ErrHeaderLimit},
		{"a long body is none", "\n" + strings.Repeat("b", 3*chunk), nil},
	}
	for _, test := range tests {
		m, err := Parse(text(crlf(test.in)), l)
		if !errors.Is(err, test.want) || (err == nil) != (m != nil) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		if m != nil {
			check(t, m, l)
		}
	}
	if _, err := Parse(broken{}, l); err == nil {
		t.Errorf("a source that fails: got %v", err)
	}
	many := "Content-Type: a/b\r\nB: c\r\nC: d\r\nD: e\r\n"
	if _, err := Parse(text(crlf(mixed)+strings.Repeat("--b\r\n"+many, 11)), Limits{Fields: 4}); !errors.Is(err, ErrHeaderLimit) {
		t.Errorf("fields of all parts: got %v, want ErrHeaderLimit", err)
	}
}

// check proves what Parse promises about spans.
func check(t *testing.T, m *Message, l Limits) {
	t.Helper()
	size := m.Source.Size()
	if m.Root.Whole != (Span{0, size}) {
		t.Errorf("root: got %v, want all %d bytes", m.Root.Whole, size)
	}
	parts, fields := 0, 0
	inside := func(what string, s, in Span) {
		if s.Start < in.Start || s.Start > s.End || s.End > in.End {
			t.Errorf("%s: got %v, want it in order and inside of %v", what, s, in)
		}
	}
	var walk func(p *Part, in Span, depth int)
	walk = func(p *Part, in Span, depth int) {
		parts++
		fields += len(p.Header)
		if depth > l.Depth || len(p.Header) > l.Fields || p.Body.Start-p.Whole.Start > l.HeaderBytes {
			t.Errorf("beyond limits: depth %d, %d fields, header of %d bytes", depth, len(p.Header), p.Body.Start-p.Whole.Start)
		}
		inside("part", p.Whole, in)
		inside("body", p.Body, p.Whole)
		if p.Body.End != p.Whole.End {
			t.Errorf("body %v does not end with its part %v", p.Body, p.Whole)
		}
		at := p.Whole.Start
		for _, f := range p.Header {
			inside("field", f.Whole, Span{at, p.Body.Start})
			inside("value", f.Value, f.Whole)
			if f.Whole.Start != at || f.Whole.Len() == 0 {
				t.Errorf("field %v: want it at %d", f.Whole, at)
			}
			at = f.Whole.End
		}
		if rest := p.Body.Start - at; rest < 0 || rest > 2 {
			t.Errorf("%d bytes between the header, until %d, and the body %v", rest, at, p.Body)
		}
		multipart := strings.HasPrefix(p.Type, "multipart/")
		if !multipart && (p.Preamble != Span{} || p.Epilogue != Span{}) {
			t.Errorf("preamble %v, epilogue %v of %s", p.Preamble, p.Epilogue, p.Type)
		}
		if multipart {
			inside("preamble", p.Preamble, p.Body)
			inside("epilogue", p.Epilogue, p.Body)
			if p.Preamble.Start != p.Body.Start || p.Epilogue.End != p.Body.End {
				t.Errorf("preamble %v and epilogue %v: want them at both ends of %v", p.Preamble, p.Epilogue, p.Body)
			}
			at = p.Preamble.End
		} else if at = p.Body.Start; len(p.Parts) > 1 || len(p.Parts) == 1 && p.Parts[0].Whole != p.Body {
			t.Errorf("%s: got %d parts, want at most one that is the body", p.Type, len(p.Parts))
		}
		for _, part := range p.Parts {
			inside("part behind the last", part.Whole, Span{at, p.Body.End})
			walk(part, p.Body, depth+1)
			at = part.Whole.End
		}
		if multipart && len(p.Parts) > 0 && p.Epilogue.Start < at {
			t.Errorf("epilogue %v begins inside of a part that ends at %d", p.Epilogue, at)
		}
	}
	walk(m.Root, m.Root.Whole, 0)
	if parts > l.Parts || fields > 10*l.Fields {
		t.Errorf("beyond limits: %d parts, %d fields", parts, fields)
	}
	var out bytes.Buffer
	if n, err := m.WriteTo(&out); err != nil || n != size || n != m.Len() || int64(out.Len()) != n {
		t.Errorf("write: got %d of %d bytes, %d told, %v", out.Len(), size, n, err)
	}
	got, err := io.ReadAll(SectionReader(m.Source, m.Root.Whole))
	if err != nil || !bytes.Equal(got, out.Bytes()) {
		t.Errorf("write: got other bytes than the source, %v", err)
	}
}

func TestWriteTo(t *testing.T) {
	in := "A: 1\r\nB: 2\r\n 3\r\nC: 4\r\n\r\nbody"
	m, err := Parse(text(in), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		top  string
		drop []string
		want string
	}{
		{"", nil, in},
		{"T: x\r\n", nil, "T: x\r\n" + in},
		{"", []string{"A"}, "B: 2\r\n 3\r\nC: 4\r\n\r\nbody"},
		{"T: x\r\n", []string{"B"}, "T: x\r\nA: 1\r\nC: 4\r\n\r\nbody"},
		{"", []string{"A", "B", "C"}, "\r\nbody"},
	} {
		m.Top, m.Drop = []byte(test.top), nil
		for _, name := range test.drop {
			m.Drop = append(m.Drop, m.All(name)[0].Whole)
		}
		held := slices.Clone(m.Drop)
		var out bytes.Buffer
		n, err := m.WriteTo(&out)
		if err != nil || out.String() != test.want || n != int64(len(test.want)) || n != m.Len() {
			t.Errorf("%q without %v: got %q, %d, told %d, %v, want %q", test.top, test.drop, out.String(), n, m.Len(), err, test.want)
		}
		if !slices.Equal(held, m.Drop) {
			t.Errorf("Drop changed to %v", m.Drop)
		}
	}
	cause := errors.New("full")
	if _, err := m.WriteTo(limited{cause}); !errors.Is(err, cause) {
		t.Errorf("writer that fails: got %v", err)
	}
}

// limited is a writer that fails.
type limited struct{ err error }

func (l limited) Write([]byte) (int, error) { return 0, l.err }

func FuzzParse(f *testing.F) {
	f.Add([]byte(crlf(mixed+"x\n--b\nContent-Type: multipart/x; boundary=c\n\n--c\nA: b\n--b\n\n--b--\ny")), false)
	f.Add([]byte(crlf(mixed+"--b\nContent-Type: message/rfc822\n\nA: b\n--b\nContent-Type: message/rfc822\n--b\n\n--b--\ny")), true)
	f.Add([]byte("Content-Type: multipart/digest;\n boundary=\"b\"\n\n--b\n--b \n\n\nx\n--b--\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, small bool) {
		l := Limits{}
		if small {
			l = Limits{Depth: 3, Parts: 6, Fields: 4, HeaderBytes: 200}
		}
		m, err := Parse(bytes.NewReader(in), l)
		if err != nil {
			if !errors.Is(err, ErrLimit) && !errors.Is(err, ErrHeaderLimit) {
				t.Fatalf("got %v", err)
			}
			return
		}
		check(t, m, l.orDefault())
	})
}

func BenchmarkParse(b *testing.B) {
	small := crlf("From: a@b.example\nTo: c@d.example\nSubject: x\nDate: today\nMIME-Version: 1.0\n" + mixed + "--b\n\n" + strings.Repeat("hello world\n", 300) + "--b--\n")
	big := crlf(mixed+"--b\nContent-Transfer-Encoding: base64\n\n") + strings.Repeat(strings.Repeat("Q", 76)+"\r\n", 10<<20/78) + "--b--\r\n"
	for name, in := range map[string]string{"4KiB": small, "10MiB": big} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(text(in), Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
