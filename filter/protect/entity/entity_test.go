package entity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"postern/filter/message"
	"postern/filter/protect"
)

func parsed(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := message.Parse(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What is written comes out as an entity, or as text, whole, in whatever pieces.
func TestWriter(t *testing.T) {
	const head = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
	for _, c := range []struct{ name, plain, want, header string }{
		{name: "entity", plain: "From: eve@evil.example\nSubject: inner\n folded\nContent-Type: text/plain;\n charset=utf-8\nMIME-Version: 1.0\nContent-Language: de\n\nhello\n",
			want:   "Content-Type: text/plain;\r\n charset=utf-8\r\nContent-Language: de\r\n\r\nhello\r\n",
			header: "From: eve@evil.example\r\nSubject: inner\r\n folded\r\nContent-Type: text/plain;\r\n charset=utf-8\r\nMIME-Version: 1.0\r\nContent-Language: de\r\n"},
		{name: "text", plain: "hello", want: head + "hello"},
		{name: "text that begins like a header", plain: "Note: hello\n\nworld\n", want: head + "Note: hello\r\n\r\nworld\r\n"},
		{name: "header with a broken line", plain: "Content-Type: text/html\nbroken\n\nhello\n", want: head + "Content-Type: text/html\r\nbroken\r\n\r\nhello\r\n"},
		{name: "long line", plain: strings.Repeat("x", MaxHeader+10), want: head + strings.Repeat("x", MaxHeader+10)},
		{name: "nothing", want: head},
		{name: "empty header", plain: "\nhello\r", want: "\r\nhello\r\n"},
		{name: "header alone", plain: "Content-Type: text/plain", want: "Content-Type: text/plain\r\n\r\n", header: "Content-Type: text/plain\r\n"},
	} {
		for _, one := range []bool{false, true} {
			if one && len(c.plain) > 1000 {
				continue
			}
			var out bytes.Buffer
			w := NewWriter(&out)
			r := io.Reader(strings.NewReader(c.plain))
			if one {
				r = iotest.OneByteReader(r)
			}
			_, err := io.Copy(struct{ io.Writer }{w}, r)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if out.String() != c.want || string(w.Header()) != c.header {
				t.Errorf("%s, by byte %v: got\n%.300q, header %.300q\nwant\n%.300q, %q", c.name, one, out.String(), w.Header(), c.want, c.header)
			}
		}
	}
	if _, err := NewWriter(io.Discard).Write([]byte("a\x00")); !errors.Is(err, ErrNUL) {
		t.Errorf("NUL: got %v, want %v", err, ErrNUL)
	}
}

func TestWriteOuter(t *testing.T) {
	m := parsed(t, "From: a@b.example\nContent-Type: text/plain\nX-Gone: x\nMIME-Version: 1.0\nSubject: s\n folded\n\nbody\n")
	m.Top, m.Drop = []byte("X-Top: y\r\n"), []message.Span{m.All("X-Gone")[0].Whole}
	var out bytes.Buffer
	if err := WriteOuter(&out, m); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "X-Top: y\r\nFrom: a@b.example\r\nSubject: s\r\n folded\r\nMIME-Version: 1.0\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDecoded(t *testing.T) {
	for encoding, body := range map[string]string{"7bit": "hello", "base64": "aGVs \n\tbG8= ", "quoted-printable": "he=6Clo", "unknown": "hello"} {
		m := parsed(t, "Content-Transfer-Encoding: "+encoding+"\n\n"+body)
		if got, err := io.ReadAll(Decoded(m.Source, m.Root)); err != nil || string(got) != "hello" {
			t.Errorf("%s: got %q, %v", encoding, got, err)
		}
	}
}

func TestDecodedBase64(t *testing.T) {
	for body, ok := range map[string]bool{"aGVsbG8=": true, "aGVs\n\n  \nbG8=\n\t\n": true, "": true, "aGVsbG8=\n--\nfooter\n": false, "Hello, aGVsbG8=": false, "aGVsbG8": false, "aGVs!bG8=": false} {
		m := parsed(t, "Content-Transfer-Encoding: base64\n\n"+body)
		if got, err := io.ReadAll(Decoded(m.Source, m.Root)); (err == nil) != ok {
			t.Errorf("%q: got %q, %v, want %v", body, got, err, ok)
		}
	}
}

func TestSealed(t *testing.T) {
	const armour = "\n\n \n-----BEGIN PGP MESSAGE-----\n\nx\n"
	for _, c := range []struct {
		text string
		want bool
	}{
		{"Content-Type: multipart/encrypted; boundary=x\n\n--x--\n", true},
		{"Content-Type: Application/PKCS7-MIME\n\nx\n", true},
		{"Content-Type: application/x-pkcs7-mime\n\nx\n", true},
		{"Content-Type: multipart/mixed; boundary=x\n\n--x\n\n\n--x\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n--x--\n", true},
		{"Content-Type: multipart/mixed; boundary=x\n\n--x\n\n\n--x\nContent-Type: application/octet-stream\n\nVersion: 1\n--x--\n", false},
		{armour, true},
		{"\nhello\n" + armour, false},
		{"Content-Type: text/html\n\n" + armour, false},
		{"\nhello\n", false},
	} {
		m := parsed(t, c.text)
		if got := Sealed(m.Source, m.Root); got != c.want {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

func TestPair(t *testing.T) {
	const two = "--x\n\na\n--x\n\nb\n"
	for _, c := range []struct {
		body string
		want bool
	}{
		{two + "--x--\n", true}, {two + "--x--\n \n\n", true}, {"A line for old readers.\n" + two + "--x--\n", true}, {two, true},
		{two + "--x--\nmore\n", false}, {two + "--x\n\nc\n--x--\n", false}, {"--x\n\na\n--x--\n", false},
		{strings.Repeat("Pay me. ", 40) + "\n" + two + "--x--\n", false}, {two + "--x--\n" + strings.Repeat(" ", 2000), false},
	} {
		m := parsed(t, "Content-Type: multipart/signed; boundary=x\n\n"+c.body)
		if got := Pair(m.Source, m.Root); got != c.want {
			t.Errorf("%q: got %v, want %v", c.body, got, c.want)
		}
	}
}

func TestBoundary(t *testing.T) {
	if a, b := Boundary(), Boundary(); a == b || len(a) > 70 {
		t.Errorf("got %q and %q", a, b)
	}
}

// failing fails from a byte on.
type failing struct{ message.Source }

var errDisk = errors.New("disk")

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errDisk }

// A mail that does not open is told as one thing, and a disk as another.
func TestSource(t *testing.T) {
	src := strings.NewReader("hello")
	s := Watch(src)
	if b, err := io.ReadAll(message.SectionReader(s, message.Span{Start: 0, End: 9})); err != nil || string(b) != "hello" || s.Err() != nil || s.Refusal() != protect.ErrCannotOpen {
		t.Errorf("got %q, %v, %v, %v", b, err, s.Err(), s.Refusal())
	}
	s = Watch(failing{src})
	if _, err := s.ReadAt(make([]byte, 1), 0); err != errDisk || !errors.Is(s.Err(), errDisk) || !errors.Is(s.Refusal(), errDisk) || errors.Is(s.Refusal(), protect.ErrCannotOpen) {
		t.Errorf("got %v, %v, %v", err, s.Err(), s.Refusal())
	}
}

func TestSink(t *testing.T) {
	s := &Sink{Spool: (&message.Spools{Max: 4}).New()}
	defer s.Spool.Close()
	if _, err := s.Write([]byte("abc")); err != nil || s.Err() != nil {
		t.Errorf("got %v, %v", err, s.Err())
	}
	if _, err := s.Write([]byte("abc")); !errors.Is(err, message.ErrTooBig) || !errors.Is(s.Err(), message.ErrTooBig) {
		t.Errorf("got %v, %v", err, s.Err())
	}
}

func TestPull(t *testing.T) {
	p := Pull(func(w io.Writer) error {
		for _, s := range []string{"he", "", "llo"} {
			if _, err := io.WriteString(w, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err := iotest.TestReader(p, []byte("hello")); err != nil {
		t.Error(err)
	}
	p.Close()

	p = Pull(func(w io.Writer) error {
		io.WriteString(w, "he")
		return errDisk
	})
	if got, err := io.ReadAll(p); string(got) != "he" || err != errDisk {
		t.Errorf("got %q, %v, want the error of the function", got, err)
	}

	var ended error
	p = Pull(func(w io.Writer) error {
		for ended == nil {
			_, ended = io.WriteString(w, "hello")
		}
		_, again := io.WriteString(w, "hello")
		return again
	})
	if _, err := io.ReadFull(p, make([]byte, 7)); err != nil {
		t.Error(err)
	}
	p.Close()
	if ended != io.ErrClosedPipe {
		t.Errorf("closed: the function got %v, want %v", ended, io.ErrClosedPipe)
	}
	if _, err := p.Read(make([]byte, 1)); err != io.ErrClosedPipe {
		t.Errorf("read when closed: got %v, want %v", err, io.ErrClosedPipe)
	}

	defer func() {
		if recover() != "ouch" {
			t.Error("a panic did not come up")
		}
	}()
	Pull(func(io.Writer) error { panic("ouch") }).Read(make([]byte, 1))
}

func TestEncoder(t *testing.T) {
	data := make([]byte, 40000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for _, n := range []int{0, 1, 56, 57, 58, 114, 40000} {
		for _, step := range []int{1, 57, 100, 40000} {
			var out strings.Builder
			e := NewEncoder(&out, Line)
			for from := 0; from < n; from += step {
				if _, err := e.Write(data[from:min(n, from+step)]); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			var want strings.Builder
			text := base64.StdEncoding.EncodeToString(data[:n])
			for len(text) > 0 {
				k := min(76, len(text))
				want.WriteString(text[:k] + "\r\n")
				text = text[k:]
			}
			if out.String() != want.String() {
				t.Errorf("%d bytes by %d: got %.200q, want %.200q", n, step, out.String(), want.String())
			}
		}
	}
}
