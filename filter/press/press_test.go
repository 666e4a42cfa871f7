package press

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
