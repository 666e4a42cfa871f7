package message

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// canonicalOf is the canonical form of the mail in.
func canonicalOf(in, fields string, l Limits) (string, error) {
	m, err := Parse(text(in), l)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = WriteCanonical(&out, m.Source, m.Root, []byte(fields))
	return out.String(), err
}

func TestWriteCanonical(t *testing.T) {
	long := strings.Repeat("x", 999)
	signed := "Content-Type: multipart/signed; boundary=s\n\nfor  old programs  \n--s\nA: b  \n\nFrom me to you \t\n--s\nContent-Type: application/pgp-signature\n\nsig\n--s--\nend \n"
	tests := []struct{ name, in, want string }{
		{"nothing", "", "\n"},
		{"clean text passes", "From: a@b.example\nSubject: x\nContent-Type: text/plain\nMIME-Version: 1.0\n\nhello\n", "Content-Type: text/plain\n\nhello\n"},
		{"only fields of MIME at the root", "Received: x\nContent-ID: <1>\nMIME-Version: 1.0\nContents: x\ncontent-language: de\nno field\n\nx", "Content-ID: <1>\ncontent-language: de\n\nx"},
		{"no line end at the end", "A: b\n\nhello", "\nhello"},
		{"empty body", "Content-Type: a/b\n\n", "Content-Type: a/b\n\n"},
		{"header only", "Content-Type: a/b\n", "Content-Type: a/b\n\n"},
		{"clean but labelled 8bit", "Content-Transfer-Encoding: 8BIT\nContent-Type: text/plain\n\nx\n", "Content-Transfer-Encoding: 7bit\nContent-Type: text/plain\n\nx\n"},
		{"clean but labelled binary, with a comment", "Content-Transfer-Encoding: binary (really)\n\nx\n", "Content-Transfer-Encoding: 7bit\n\nx\n"},
		{"8bit without anything said", "Subject: x\n\nGrüße\n", "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe\n"},
		{"8bit of no known charset", "\n\xfcber\n", "Content-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n=FCber\n"},
		{"8bit text keeps its charset", "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\n\xfcber\n", "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n=FCber\n"},
		{"8bit labelled 7bit", "Content-Type: text/html\nContent-Transfer-Encoding: 7bit\n\n\xff\n", "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n=FF\n"},
		{"white space at the end", "\na \nb\t\n \nc", "Content-Transfer-Encoding: quoted-printable\n\na=20\nb=09\n=20\nc"},
		{"From", "\nFrom me\n From me\nFrom\nfrom me\n", "Content-Transfer-Encoding: quoted-printable\n\n=46rom me\n From me\nFrom\nfrom me\n"},
		{"equal signs", "\na=b \n", "Content-Transfer-Encoding: quoted-printable\n\na=3Db=20\n"},
		{"a long line", "\n" + long + "\n", "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat(strings.Repeat("x", 75)+"=\n", 13) + strings.Repeat("x", 24) + "\n"},
		{"a line that is just not too long", "\n" + long[1:] + "\n", "\n" + long[1:] + "\n"},
		{"From behind a soft line break", "\n" + strings.Repeat("x", 74) + " From \n", "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("x", 74) + " =\n=46rom=20\n"},
		{"a boundary behind a soft line break", mixed + "--b\n\n" + strings.Repeat("x", 75) + "--b\n \n--b--\n", mixed + "--b\nContent-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("x", 75) + "=\n=2D-b\n=20\n--b--\n"},
		{"binary", "Content-Type: image/png\nContent-Transfer-Encoding: binary\n\n\x89PNG\n\x1a", "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGg==\n"},
		{"binary of many lines", "Content-Type: a/b\n\n" + strings.Repeat("x", 60) + "\xff", "Content-Type: a/b\nContent-Transfer-Encoding: base64\n\n" + strings.Repeat("eHh4", 19) + "\n" + "eHh4/w==\n"},
		{"clean base64 passes", "Content-Transfer-Encoding: base64\n\nQUJD\nREVG\n", "Content-Transfer-Encoding: base64\n\nQUJD\nREVG\n"},
		{"base64 with junk", "Content-Type: a/b\nContent-Transfer-Encoding: base64\n\nQU JD! \n\xffREVG\n\nRw==", "Content-Type: a/b\nContent-Transfer-Encoding: base64\n\nQUJDREVGRw==\n"},
		{"base64 in one line", "Content-Transfer-Encoding: base64\n\n" + strings.Repeat("QUJD", 300) + "\n", "Content-Transfer-Encoding: base64\n\n" + strings.Repeat(strings.Repeat("QUJD", 19)+"\n", 15) + strings.Repeat("QUJD", 15) + "\n"},
		{"clean quoted-printable passes", "Content-Transfer-Encoding: quoted-printable\n\na=20\nb=\nc=3d\n", "Content-Transfer-Encoding: quoted-printable\n\na=20\nb=\nc=3d\n"},
		{"quoted-printable with white space", "Content-Transfer-Encoding: quoted-printable\n\na=20 \nb= \t\nc \t d\t\n \n", "Content-Transfer-Encoding: quoted-printable\n\na=20\nb=\nc \t d\n\n"},
		{"quoted-printable with From", "Content-Transfer-Encoding: quoted-printable\n\nFrom me\nx=\nFrom you=\n.\n From x", "Content-Transfer-Encoding: quoted-printable\n\n=46rom me\nx=\n=46rom you=\n.\n From x"},
		{"quoted-printable with stray bytes", "Content-Transfer-Encoding: quoted-printable\n\na=b=\xfc=4\n= c \n=", "Content-Transfer-Encoding: quoted-printable\n\na=3Db=3D=FC=3D4\n=3D c\n="},
		{"quoted-printable, From behind a new break", "Content-Transfer-Encoding: quoted-printable\n\n" + long + "\n" + strings.Repeat("x", 75) + "From x\n", "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat(strings.Repeat("x", 75)+"=\n", 13) + strings.Repeat("x", 24) + "\n" + strings.Repeat("x", 75) + "=\n=46rom x\n"},
		{"multipart that is clean passes whole", mixed + "before\n--b\nA: b\n\nx\n--b--\nbehind\n", mixed + "before\n--b\nA: b\n\nx\n--b--\nbehind\n"},
		{"multipart with one part that is not clean", mixed + "before \n--b\nA: b\n\nx\n--b\nB: c\nContent-Type: text/plain\n\ny \n--b--\nbehind\n", mixed + "--b\nA: b\n\nx\n--b\nB: c\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\ny=20\n--b--\n"},
		{"multipart without last boundary", mixed + "--b\n\nx \n", mixed + "--b\nContent-Transfer-Encoding: quoted-printable\n\nx=20\n\n--b--\n"},
		{"multiparts labelled 8bit",
			"Content-Transfer-Encoding: 8bit\n" + mixed + "--b\nContent-Transfer-Encoding: 8bit\nContent-Type: multipart/alternative; boundary=c\n\n--c\nContent-Transfer-Encoding: 8bit\n\nx\n--c--\n\n--b--\n",
			"Content-Transfer-Encoding: 7bit\n" + mixed + "--b\nContent-Transfer-Encoding: 7bit\nContent-Type: multipart/alternative; boundary=c\n\n--c\nContent-Transfer-Encoding: 7bit\n\nx\n--c--\n\n--b--\n"},
		{"message inside", "Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nFrom: Jürgen Groß <a@b.example>\nReceived: x \n y\n\nGrüße\n",
			"Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nFrom: =?utf-8?q?=4A=C3=BC=72=67=65=6E=20=47=72=6F=C3=9F?=\n <a@b.example>\nReceived: x\n y\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe\n"},
		{"signed part as it is", signed, signed},
		{"signed part in a multipart", mixed + "--b\n" + signed + "\n--b\n\nü\n--b--\n", mixed + "--b\n" + signed + "\n--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--b--\n"},
		{"report with white space as it is", "Content-Type: message/delivery-status\n\nA: b \n\n", "Content-Type: message/delivery-status\n\nA: b \n\n"},
		{"8bit file name", "Content-Disposition: attachment;\n filename=\"übel.txt\"\n\nx", "Content-Disposition: attachment;\n filename=\"=?utf-8?q?=C3=BC=62=65=6C=2E=74=78=74?=\"\n\nx"},
		{"header with white space", "Content-Type: text/plain; \n \t\n charset=utf-8 \n\nx", "Content-Type: text/plain;\n charset=utf-8\n\nx"},
	}
	for _, test := range tests {
		got, err := canonicalOf(crlf(test.in), "", Limits{})
		if want := crlf(test.want); err != nil || got != want {
			t.Errorf("%s: got %v\n%q\nwant\n%q", test.name, err, got, want)
		}
	}
	if got, err := canonicalOf("Content-Type: a/b\r\n\r\nx", "X: y\r\nZ: z\r\n", Limits{}); err != nil || got != "X: y\r\nZ: z\r\nContent-Type: a/b\r\n\r\nx" {
		t.Errorf("with fields: got %q, %v", got, err)
	}
}

func TestWriteCanonicalRefuses(t *testing.T) {
	long := strings.Repeat("x", 999)
	for name, in := range map[string]string{
		"8bit signed":            "Content-Type: multipart/signed; boundary=s\n\n--s\n\nü\n--s\n\n--s--\n",
		"8bit signed inside":     mixed + "--b\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nü\n--s\n\n--s--\n--b--\n",
		"long line signed":       "Content-Type: multipart/signed; boundary=s\n\n--s\n\n" + long + "\n--s\n\n--s--\n",
		"8bit encrypted":         "Content-Type: multipart/encrypted; boundary=s\n\n--s\n\nü\n--s\n\n--s--\n",
		"8bit partial message":   "Content-Type: message/partial\n\nü\n",
		"multipart without part": mixed + "ü\n",
		"unknown encoding":       "Content-Transfer-Encoding: x-uuencode\n\nü\n",
		"two encodings":          "Content-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: base64\n\nü\n",
		"type that grows":        "Content-Type: multipart/mixed; c=" + strings.Repeat("ü", 1000) + "; boundary=b\n\n--b\n\nx\n--b--\n",
		"long header line":       "Content-Type: a/b;\n c=" + long + "\n\nx",
	} {
		if got, err := canonicalOf(crlf(in), "", Limits{}); !errors.Is(err, ErrSigned8Bit) {
			t.Errorf("%s: got %q, %v, want ErrSigned8Bit", name, got, err)
		}
	}
	m, err := Parse(text("\r\nx"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("full")
	if err := WriteCanonical(limited{cause}, m.Source, m.Root, nil); !errors.Is(err, cause) {
		t.Errorf("writer that fails: got %v", err)
	}
	if err := WriteCanonical(io.Discard, broken{}, m.Root, nil); err == nil {
		t.Error("source that fails: got no error")
	}
}

// counted counts the bytes that are read of a Source.
type counted struct {
	Source
	n *int64
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Source.ReadAt(p, off)
	*c.n += int64(n)
	return n, err
}

func TestWriteCanonicalReadsThreeTimesAtMost(t *testing.T) {
	in := ""
	for i := range 30 {
		b := string(rune('a' + i%26))
		in += "Content-Type: multipart/mixed; boundary=" + strings.Repeat(b, 1+i/26) + "\n\n--" + strings.Repeat(b, 1+i/26) + "\n"
	}
	in = crlf(in + "\n" + strings.Repeat("ü\n", 1<<18))
	m, err := Parse(text(in), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	if err := WriteCanonical(io.Discard, counted{m.Source, &n}, m.Root, nil); err != nil {
		t.Fatal(err)
	}
	if most := int64(len(in)) * 3; n > most {
		t.Errorf("got %d bytes read of %d, want at most %d", n, len(in), most)
	}
}

// kept reports whether a part that is not clean may stand as it is.
func kept(p *Part) bool {
	known := slices.Contains([]string{"7bit", "8bit", "binary", "quoted-printable", "base64"}, p.Encoding)
	return p.Type == "multipart/signed" || p.Type == "multipart/encrypted" ||
		len(p.Parts) == 0 && (!known || strings.HasPrefix(p.Type, "multipart/") || strings.HasPrefix(p.Type, "message/"))
}

// untouched are the bodies in p that may stand as they are.
func untouched(p *Part) []Span {
	if kept(p) {
		return []Span{p.Body}
	}
	var all []Span
	for _, part := range p.Parts {
		all = append(all, untouched(part)...)
	}
	return all
}

var lineEnds = regexp.MustCompile(`\r*\n`)

// leaves are the type and the decoded body of each leaf, without regard to line ends.
func leaves(src string, p *Part) (all []string) {
	if kept(p) || len(p.Parts) == 0 {
		body := decoded(src[p.Body.Start:p.Body.End], p.Encoding)
		return []string{p.Type + "\n" + lineEnds.ReplaceAllString(body, "\n")}
	}
	for _, part := range p.Parts {
		all = append(all, leaves(src, part)...)
	}
	return all
}

// decoded decodes a body as lenient programs do.
func decoded(s, encoding string) string {
	switch encoding {
	case "base64":
		s = strings.Map(func(r rune) rune {
			if strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", r) {
				return r
			}
			return -1
		}, s)
		if b, err := base64.StdEncoding.DecodeString(s); err == nil {
			return string(b)
		}
	case "quoted-printable":
		var b strings.Builder
		for line := range strings.Lines(s) {
			bare, ended := strings.CutSuffix(line, "\n")
			if ended {
				bare = strings.TrimSuffix(bare, "\r")
			}
			bare = strings.TrimRight(bare, " \t")
			bare, soft := strings.CutSuffix(bare, "=")
			for i := 0; i < len(bare); i++ {
				if bare[i] == '=' && i+2 < len(bare) && isHex(bare[i+1]) && isHex(bare[i+2]) {
					b.Write(percent("%" + bare[i+1:i+3]))
					i += 2
					continue
				}
				b.WriteByte(bare[i])
			}
			if ended && !soft {
				b.WriteByte('\n')
			}
		}
		return b.String()
	}
	return s
}

// checkCanonical proves what WriteCanonical promises of its output for in.
func checkCanonical(t *testing.T, in string, l Limits) {
	t.Helper()
	m, err := Parse(text(in), l)
	if err != nil {
		return
	}
	out, err := canonicalOf(in, "", l)
	if err != nil {
		if !errors.Is(err, ErrSigned8Bit) {
			t.Errorf("got %v", err)
		}
		return
	}
	again, err := Parse(text(out), Limits{})
	if err != nil {
		t.Errorf("parse it again: %v", err)
		return
	}
	bare := out
	for _, s := range slices.Backward(untouched(again.Root)) {
		c, err := Scan(again.Source, s)
		if err != nil || c.EightBit || c.Longest > maxLine {
			t.Errorf("what stands as it is: got %+v, %v in %q", c, err, out[s.Start:s.End])
		}
		bare = bare[:s.Start] + bare[s.End:]
	}
	c, err := Scan(text(bare), Span{0, int64(len(bare))})
	if err != nil || !c.clean() {
		t.Errorf("got %+v, %v in %q", c, err, bare)
	}
	if got, want := leaves(out, again.Root), leaves(in, m.Root); !slices.Equal(got, want) {
		t.Errorf("leaves: got\n%q\nwant\n%q", got, want)
	}
	for _, f := range again.Root.Header {
		if len(f.Name) <= 8 || !strings.EqualFold(f.Name[:8], "Content-") {
			t.Errorf("field %q in the header", f.Name)
		}
	}
	if twice, err := canonicalOf(out, "", Limits{}); err != nil || twice != out {
		t.Errorf("canonical form of the canonical form: got %v\n%q\nwant\n%q", err, twice, out)
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add([]byte("\r\n\xfcber From me \r\nFrom you \r\n\x00\ra\nb"))
	f.Add([]byte(crlf("Content-Transfer-Encoding: quoted-printable\n\nFrom me =\n x=  \n=4\xff =\n=")))
	f.Add([]byte(crlf("Content-Transfer-Encoding: base64\nContent-Type: a/ü; b=\"ü ö  ä\"; c=ü\n\nQUJ D\xff=")))
	f.Add([]byte(crlf(mixed + "x \n--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nA ü: ü b ü\nno field\n\nü\n--b\nContent-Type: multipart/signed; boundary=c\n\n--c\n\nx \n--c--\n--b\nContent-Type: a/b\n\n\xff\n--b--\nx")))
	f.Add([]byte(crlf("Content-Type: multipart/digest; boundary=\"a b\"\n\n--a b\n\nContent-Transfer-Encoding: binary\n\nx--a b\n \n--a b\n\nü\n")))
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(in, bytes.Repeat([]byte(" "), 500)) || len(in) > 1<<14 {
			return // blanks that nobody sees are kept when there are very many
		}
		checkCanonical(t, string(in), Limits{Parts: 500, Fields: 300, HeaderBytes: 16 << 10})
	})
}

func BenchmarkCanonical(b *testing.B) {
	clean := "Content-Type: text/plain\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10<<20/72)
	for _, bench := range []struct{ name, in string }{
		{"clean", clean},
		{"text", clean + "\xfc"},
		{"binary", "Content-Type: a/b\r\n\r\n" + string(noise(10<<20))},
		{"quoted", "Content-Transfer-Encoding: quoted-printable\r\n" + clean + " "},
	} {
		b.Run(bench.name, func(b *testing.B) {
			m, err := Parse(text(bench.in), Limits{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(bench.in)))
			b.ReportAllocs()
			for b.Loop() {
				if err := WriteCanonical(io.Discard, m.Source, m.Root, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What lasts is not changed by WriteCanonical where it stands in another entity.
func TestLasts(t *testing.T) {
	for _, c := range []struct {
		name, top, mail string
		want            bool
	}{
		{"text", "X: 1\r\n", "A: b\r\n\r\ntext\r\n", true},
		{"no body", "", "A: b\r\n", true},
		{"a blank at the end", "", "A: b\r\n\r\n-- \r\n", false},
		{"a blank in the header", "", "A: b \r\n\r\ntext\r\n", false},
		{"8-bit", "", "A: b\r\n\r\n\xc3\xbc\r\n", false},
		{"8-bit on top", "X: \xc3\xbc\r\n", "A: b\r\n\r\ntext\r\n", false},
		{"said to be 8-bit", "", "Content-Transfer-Encoding: 8bit\r\n\r\ntext\r\n", false},
		{"a part that is said to be binary", "", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\nx\r\n--b--\r\n", false},
		{"From", "", "A: b\r\n\r\nFrom x\r\n", false},
		{"a long line", "", "A: b\r\n\r\n" + strings.Repeat("x", 999) + "\r\n", false},
	} {
		m, err := Parse(strings.NewReader(c.mail), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		m.Top = []byte(c.top)
		got, err := m.Lasts()
		if err != nil || got != c.want {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
		const head = "Content-Type: multipart/mixed; boundary=outer\r\n\r\n--outer\r\nContent-Type: message/rfc822\r\n\r\n"
		whole := head + c.top + c.mail + "\r\n--outer--\r\n"
		around, err := Parse(strings.NewReader(whole), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := WriteCanonical(&b, around.Source, around.Root, nil); c.want && (err != nil || b.String() != whole) {
			t.Errorf("%s: got %q, %v, want it as it was", c.name, b.String(), err)
		}
	}
}
