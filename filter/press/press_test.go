package press

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"postern/filter/message"
)

const word = "k7mq-x2rt-ab3d-9zfw-hhpq"

// printed is the document of a mail (with LF line ends), in a file.
func printed(t testing.TB, mail string) string {
	t.Helper()
	var b bytes.Buffer
	if err := Print([]byte(strings.ReplaceAll(mail, "\n", "\r\n")), word, &b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mail.pdf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

const everything = `From: =?utf-8?q?J=C3=B6rg_M=C3=BCller?= <joerg@company1.example>
To: Bob <bob@freemail.example>
Cc: carol@freemail.example
Date: Tue, 24 Nov 2026 11:59:00 +0000
Subject: =?utf-8?b?0J/RgNC40LLQtdGC?= Angebot
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="=_m"

--=_m
Content-Type: multipart/alternative; boundary="=_a"

--=_a
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße aus Köln, Straße & Übermaß.
Привет, мир. Καλημέρα κόσμε.
--=_a
Content-Type: text/html; charset=utf-8

<p>never shown</p>
--=_a--

--=_m
Content-Type: application/octet-stream; name="zahlen.csv"
Content-Disposition: attachment; filename="zahlen.csv"
Content-Transfer-Encoding: base64

MTsyOzMK
--=_m--
`

// The tools of others open the document with the password, and only with it.
func TestOpensElsewhere(t *testing.T) {
	path := printed(t, everything)
	if out := run(t, "qpdf", "--password="+word, "--check", path); !strings.Contains(out, "No syntax or stream encoding errors found") || strings.Contains(out, "WARNING") {
		t.Errorf("qpdf --check: got\n%s", out)
	}
	out := run(t, "qpdf", "--password="+word, "--show-encryption", path)
	for _, want := range []string{"R = 6", "stream encryption method: AESv3", "string encryption method: AESv3", "file encryption method: AESv3"} {
		if !strings.Contains(out, want) {
			t.Errorf("qpdf --show-encryption: got\n%s\nwant %s", out, want)
		}
	}
	for _, wrong := range []string{"", "k7mq-x2rt-ab3d-9zfw-hhpr", strings.ToUpper(word)} {
		if out, err := exec.Command("qpdf", "--password="+wrong, "--check", path).CombinedOutput(); err == nil || !strings.Contains(string(out), "invalid password") {
			t.Errorf("password %q: got %v\n%s", wrong, err, out)
		}
	}
	text := run(t, "pdftotext", "-upw", word, "-enc", "UTF-8", "-layout", path, "-")
	for _, want := range []string{"Jörg Müller <joerg@company1.example>", "Bob <bob@freemail.example>", "carol@freemail.example", "Привет Angebot", "24 Nov 2026",
		"Grüße aus Köln, Straße & Übermaß.", "Привет, мир. Καλημέρα κόσμε.", "zahlen.csv"} {
		if !strings.Contains(text, want) {
			t.Errorf("pdftotext: got\n%s\nwant %q in it", text, want)
		}
	}
	if strings.Contains(text, "never shown") || strings.Contains(text, "□") {
		t.Errorf("pdftotext: got\n%s", text)
	}
	dir := t.TempDir()
	run(t, "pdfdetach", "-upw", word, "-saveall", "-o", dir, path)
	if b, err := os.ReadFile(filepath.Join(dir, "zahlen.csv")); err != nil || string(b) != "1;2;3\n" {
		t.Errorf("zahlen.csv: got %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, mailFile)); err != nil || string(b) != strings.ReplaceAll(everything, "\n", "\r\n") {
		t.Errorf("%s: got %q, %v, want the mail as it was", mailFile, b, err)
	}
	if out := run(t, "pdffonts", "-upw", word, path); !strings.Contains(out, "CID TrueType") {
		t.Errorf("pdffonts: got\n%s", out)
	}
	b, _ := os.ReadFile(path)
	t.Logf("%d bytes", len(b))
	for _, secret := range []string{"Angebot", "zahlen", "joerg", "nachricht", word} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%q stands in the document in clear", secret)
		}
	}
}

// show is what the pages of a mail say.
func show(t testing.TB, mail string) string {
	t.Helper()
	return run(t, "pdftotext", "-upw", word, "-enc", "UTF-8", "-layout", printed(t, mail), "-")
}

// names are the files in the document of a mail, as pdfdetach lists them.
func names(t testing.TB, mail string) (list []string) {
	t.Helper()
	for line := range strings.Lines(run(t, "pdfdetach", "-upw", word, "-list", printed(t, mail))) {
		if n, name, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && n != "" {
			list = append(list, name)
		}
	}
	return list
}

func part(header, body string) string { return "--=_m\n" + header + "\n\n" + body + "\n" }

func mixed(parts ...string) string {
	return "From: a@b.example\nContent-Type: multipart/mixed; boundary=\"=_m\"\n\n" + strings.Join(parts, "") + "--=_m--\n"
}

func TestWhatIsShown(t *testing.T) {
	for _, c := range []struct {
		name, mail string
		shown      []string
		not        []string
		files      []string
	}{
		{"HTML alone", "Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n<p>Gr=FC=DFe</p><script>evil()</script>\n", []string{"Grüße"}, []string{"evil", "<p>"}, []string{mailFile}},
		{"plain before HTML, whatever the order", "Content-Type: multipart/alternative; boundary=\"=_m\"\n\n" + part("Content-Type: text/html", "<b>rich</b>") + part("Content-Type: text/plain", "plain") + "--=_m--\n", []string{"plain"}, []string{"rich"}, []string{mailFile}},
		{"an invitation beside its text", "Content-Type: multipart/alternative; boundary=\"=_m\"\n\n" + part("Content-Type: text/plain", "come") + part("Content-Type: text/calendar", "BEGIN:VCALENDAR") + "--=_m--\n", []string{"come"}, []string{"VCALENDAR"}, []string{mailFile, "datei.ics"}},
		{"names that lead elsewhere", mixed(part("Content-Disposition: attachment; filename=\"../../etc/passwd\"", "x"), part("Content-Disposition: attachment; filename=\"C:\\\\a\\\\b.exe\"", "x"),
			part("Content-Disposition: attachment; filename*=utf-8''r%E2%80%AEfdp.exe", "x"), part("Content-Type: application/pdf", "x"), part("Content-Type: image/png; name=\"=?utf-8?q?=C3=BC.png?=\"", "x"), part("Content-Disposition: attachment; filename=\"..\"", "x"), part("Content-Disposition: attachment; filename=\"a<b>|?.txt\"", "x")),
			nil, []string{".."}, []string{"passwd", "b.exe", "rfdp.exe", "datei.pdf", "ü.png", "datei.txt", "a_b___.txt", mailFile}},
		{"one name twice, and that of the mail", mixed(part("Content-Disposition: attachment; filename=nachricht.eml", "x"), part("Content-Disposition: attachment; filename=a.txt", "x"), part("Content-Disposition: attachment; filename=A.txt", "x")), nil, nil, []string{mailFile, "nachricht (2).eml", "a.txt", "A (2).txt"}},
		{"a mail in the mail", mixed(part("Content-Type: text/plain", "see below"), part("Content-Type: message/rfc822", "From: x@y.example\nSubject: inner\n\ninside")), []string{"see below"}, []string{"inside"}, []string{mailFile, "datei.eml"}},
		{"signed by the sender's program", "Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; micalg=pgp-sha256; boundary=\"=_m\"\n\n" + part("Content-Type: text/plain", "words") + part("Content-Type: application/pgp-signature", "sig") + "--=_m--\n", []string{"words"}, nil, []string{mailFile}},
		{"encoding that is none", "Content-Transfer-Encoding: base64\nContent-Type: text/plain\n\n!not base64!\n", []string{"!not base64!"}, nil, []string{mailFile}},
		{"charset that is none", "Content-Type: text/plain; charset=x-nobody\nContent-Transfer-Encoding: 8bit\n\nüber \xff\n", []string{"über"}, nil, []string{mailFile}},
		{"letters that the font lacks", "Subject: =?utf-8?q?=E6=BC=A2?=\nContent-Type: text/plain; charset=utf-8\n\nשלום\n", []string{"□", "cannot be shown here"}, nil, []string{mailFile}},
		{"no text", mixed(part("Content-Type: image/png", "x")), []string{"Diese Nachricht hat keinen Text."}, nil, []string{mailFile, "datei.png"}},
		{"no header", "\njust a body\n", []string{"just a body"}, nil, []string{mailFile}},
		{"nothing at all", "", nil, nil, []string{mailFile}},
		{"tabs, long words and controls", "\n\ta\x07b\x1b[31m\n" + strings.Repeat("x", 500) + "\n", []string{"ab[31m"}, []string{"\x1b", "\x07"}, []string{mailFile}},
	} {
		text := show(t, c.mail)
		for _, want := range c.shown {
			if !strings.Contains(text, want) {
				t.Errorf("%s: got\n%s\nwant %q in it", c.name, text, want)
			}
		}
		for _, not := range c.not {
			if strings.Contains(text, not) {
				t.Errorf("%s: got\n%s\nwant no %q in it", c.name, text, not)
			}
		}
		got, want := names(t, c.mail), slices.Sorted(slices.Values(c.files))
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: got files %q, want %q", c.name, got, want)
		}
	}
}

// What is too much is cut, and said; the mail itself is whole.
func TestTooMuch(t *testing.T) {
	long := "\n" + strings.Repeat("A line of a mail that does not end.\n", 90_000)
	path := printed(t, long)
	if out := run(t, "pdfinfo", "-upw", word, path); !strings.Contains(out, fmt.Sprintf("Pages:           %d\n", maxPages+1)) && !strings.Contains(out, fmt.Sprintf("Pages:           %d\n", maxPages)) {
		t.Errorf("got %s, want %d pages", out, maxPages)
	}
	if out := run(t, "pdftotext", "-upw", word, path, "-"); !strings.Contains(out, "The rest of the message is in the file nachricht.eml only.") {
		t.Error("nothing is said of the rest")
	}
	var many []string
	for i := range maxFiles + 3 {
		many = append(many, part(fmt.Sprintf("Content-Disposition: attachment; filename=f%d", i), "x"))
	}
	if got := names(t, mixed(many...)); len(got) != maxFiles+1 {
		t.Errorf("got %d files, want %d", len(got), maxFiles+1)
	}
	var deep strings.Builder
	for i := range 150 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	if got := show(t, deep.String()); !strings.Contains(got, "The text of this message cannot be shown here.") {
		t.Errorf("structure beyond limits: got %s", got)
	}
}

// The press answers each job, and says when it cannot.
func TestServe(t *testing.T) {
	serve := func(in string) (string, error) {
		var out bytes.Buffer
		err := Serve(strings.NewReader(in), &out)
		return out.String(), err
	}
	if out, err := serve("postern pdf 1\n\x01T\x04word\x00\x00\x00\x00\x00\x00\x00\x02\r\n"); err != nil || !strings.HasSuffix(out, "\x00\x00\x00\x00\x00") || !strings.Contains(out, "%PDF-2.0") {
		t.Errorf("a job: got %d bytes, %v", len(out), err)
	}
	for name, in := range map[string]string{
		"nothing":                 "",
		"another word":            "postern pdf 2\n\x01T\x04word\x00\x00\x00\x00\x00\x00\x00\x00",
		"half a mail":             "postern pdf 1\n\x01T\x04word\x00\x00\x00\x00\x00\x00\x00\x03\r\n",
		"no password":             "postern pdf 1\n\x01T\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"a password of no letter": "postern pdf 1\n\x01T\x01\x07\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		if out, err := serve(in); err == nil || out != "\x00\x00\x00\x00\x02" {
			t.Errorf("%s: got %q, %v, want that it failed", name, out, err)
		}
	}
	if out, err := serve("postern pdf 1\n\x01T\x04word\xff\x00\x00\x00\x00\x00\x00\x00"); err == nil || out != "\x00\x00\x00\x00\x01" {
		t.Errorf("a mail of an exabyte: got %q, %v, want too big", out, err)
	}
}

// Whatever a mail is: what is shown of it is text, and its files have names that
// do no harm. (That it becomes a document is not fuzzed: to compress two fonts for
// each try takes all the time there is.)
func FuzzContent(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(everything, "\n", "\r\n")))
	f.Add([]byte(strings.ReplaceAll(mixed(part("Content-Type: text/html", "<p>x"), part("Content-Disposition: attachment; filename=..", "x")), "\n", "\r\n")))
	f.Add([]byte("Content-Disposition: attachment; filename*=utf-8''%2e%2e%2f%00a\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, mail []byte) {
		m, err := message.Parse(bytes.NewReader(mail), limits)
		if err != nil {
			return
		}
		found := content{src: m.Source}
		found.read(m.Root)
		if len(found.files) > maxFiles {
			t.Errorf("got %d files, want at most %d", len(found.files), maxFiles)
		}
		for _, p := range found.texts {
			if text, _ := textOf(m.Source, p); !utf8.ValidString(text) {
				t.Errorf("got %q, want UTF-8", text)
			}
		}
		for _, p := range found.files {
			bodyOf(m.Source, p)
			name := fileName(m.Source, p)
			if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\:\x00") || strings.Trim(name, " .") != name || strings.ContainsFunc(name, unicode.IsControl) {
				t.Errorf("got name %q", name)
			}
		}
	})
}
