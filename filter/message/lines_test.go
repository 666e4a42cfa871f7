package message

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestStrict(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		in string
		ok bool
	}{
		{"", true}, {"a", true}, {"a\r\n", true}, {"\r\n\r\n", true}, {"a\r\nb", true}, {long + "\r\n" + long, true}, {"\xff\x7f\x01\t\r\n", true},
		{"\n", false}, {"\r", false}, {"a\nb", false}, {"a\rb", false}, {"\r\r\n", false}, {"\n\r", false}, {"\r\n\n", false}, {"a\r\n.\n", false}, {"a\r\n\r", false},
		{"\x00", false}, {"a\x00\r\n", false}, {"\r\x00\n", false}, {long + "\n", false},
	} {
		for name, r := range map[string]io.Reader{
			"at once":      strings.NewReader(test.in),
			"byte by byte": iotest.OneByteReader(strings.NewReader(test.in)),
			"with its end": iotest.DataErrReader(strings.NewReader(test.in)),
		} {
			got, err := io.ReadAll(Strict(r))
			if test.ok && (err != nil || string(got) != test.in) {
				t.Errorf("%.20q %s: got %d bytes, %v, want all %d", test.in, name, len(got), err, len(test.in))
			}
			if !test.ok && (!errors.Is(err, ErrLineEnds) || !strings.HasPrefix(test.in, string(got))) {
				t.Errorf("%.20q %s: got %d bytes, %v, want ErrLineEnds", test.in, name, len(got), err)
			}
		}
	}
}

func TestStrictPassesErrors(t *testing.T) {
	cause := errors.New("gone")
	r := Strict(io.MultiReader(strings.NewReader("a\r"), iotest.ErrReader(cause)))
	for range 2 {
		if _, err := io.ReadAll(r); !errors.Is(err, cause) {
			t.Errorf("got %v, want the error of the source", err)
		}
	}
}

func TestScan(t *testing.T) {
	long := strings.Repeat("x", chunk)
	for _, test := range []struct {
		in   string
		want Content
	}{
		{"", Content{}},
		{"abc\r\nde\r\n", Content{Longest: 3}},
		{"ab\r\ncde", Content{Longest: 3}},
		{"ä", Content{EightBit: true, Longest: 2}},
		{"a \r\nb", Content{Longest: 2, Fragile: true}},
		{"a\t", Content{Longest: 2, Fragile: true}},
		{" \r\n", Content{Longest: 1, Fragile: true}},
		{"From x\r\n", Content{Longest: 6, Fragile: true}},
		{"From ", Content{Longest: 5, Fragile: true}},
		{"x\r\nFrom y", Content{Longest: 6, Fragile: true}},
		{"From\r\n x\r\n>From y\r\n", Content{Longest: 7}},
		{"xFrom y\r\n", Content{Longest: 7}},
		{long + "y\r\nFrom z", Content{Longest: chunk + 1, Fragile: true}},
		{long + long + "\r\n", Content{Longest: 2 * chunk}},
		{long[1:] + "\r\n", Content{Longest: chunk - 1}}, // CR and LF in two buffers
		{long[1:] + " \r\n", Content{Longest: chunk, Fragile: true}},
		{long[1:] + "\rx", Content{Longest: chunk + 1, Fragile: true}},
		{long[1:] + "x\r\n", Content{Longest: chunk}},
		{long + "From x\r\n", Content{Longest: chunk + 6}},
		{"1234567\x80", Content{EightBit: true, Longest: 8}},
		{"a\nb\r\n", Content{Longest: 1, Fragile: true}},
		{"a\rb\r\n", Content{Longest: 3, Fragile: true}},
		{"a\x00b\r\n", Content{Longest: 3, Fragile: true}},
	} {
		src := strings.NewReader("--" + test.in + "--")
		got, err := Scan(src, Span{2, 2 + int64(len(test.in))})
		if err != nil || got != test.want {
			t.Errorf("%.20q: got %+v, %v, want %+v", test.in, got, err, test.want)
		}
	}
	if _, err := Scan(broken{}, Span{0, 10}); err == nil {
		t.Error("source that can't be read: got nil")
	}
}

// broken is a source that can't be read.
type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("broken") }
func (broken) Size() int64                       { return 1000 }

// TestScannerLines: spans and beginnings of lines are right whatever their
// length is next to that of the buffer.
func TestScannerLines(t *testing.T) {
	for _, n := range []int{0, 1, 2, chunk - 3, chunk - 2, chunk - 1, chunk, chunk + 1, 2*chunk - 1, 2 * chunk} {
		for _, end := range []string{"\r\n", "\n", ""} {
			for _, head := range []int{1, lineHead, 3 * chunk} {
				text := bytes.Repeat([]byte("x"), n)
				content := append(bytes.Clone(text), end...)
				if end != "" {
					content = append(content, "tail"...)
				}
				s := newScanner(bytes.NewReader(content))
				l, ok, err := s.next(head)
				if n == 0 && end == "" {
					if ok || err != nil {
						t.Errorf("nothing: got a line, %v", err)
					}
					continue
				}
				if !ok || err != nil || l.Start != 0 || l.End != int64(n+len(end)) || !bytes.Equal(l.text, text[:min(n, head)]) {
					t.Errorf("%d bytes, end %q, head %d: got %v, %v, span %v and %d bytes", n, end, head, ok, err, l.Span, len(l.text))
				}
				if end == "" {
					continue
				}
				if l, ok, err = s.next(head); !ok || err != nil || string(l.text) != "tail"[:min(4, head)] || l.prior != len(end) {
					t.Errorf("%d bytes, end %q, head %d, behind it: got %q, prior %d, %v, %v", n, end, head, l.text, l.prior, ok, err)
				}
			}
		}
	}
}

// text is a Source in memory.
func text(s string) Source { return strings.NewReader(s) }
