package e2e

import (
	"encoding/base64"
	"io/fs"
	"mime/quotedprintable"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"io"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
)

// dave is somebody outside without a certificate.
const dave = "dave@freemail.example"

// printing is a box where he gets documents, and the process that makes them.
func printing(t *testing.T) (b *trial.Box, press *housetest.Press) {
	t.Helper()
	press = housetest.OpenPress(t)
	b = open(t, trial.Config{FilterdFields: "spool-dir = \"" + folder(t) + "\"\n",
		FilterdTables: "[recipient.\"" + dave + "\"]\nprotect = \"require\"\nno-key = \"pdf\"\n" +
			"[texts]\nlanguage = \"both\"\n[limits]\nspool-memory = \"64KiB\"\n[pdf]\nsocket = \"" + press.Socket + "\"\nmax-size = \"1MiB\"\n"})
	return b, press
}

// toldAndSent submits a mail, and gives what the author and dave got.
func toldAndSent(t *testing.T, b *trial.Box, mail []byte) (told, sent string) {
	t.Helper()
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if dialogue, err := trial.Submit(t.Context(), b.Inside, alice, []string{dave}, mail); err != nil {
		t.Fatalf("submit: %v\n%s", err, dialogue)
	}
	paths, err := b.Kept.Await(t.Context(), seen, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		got := contents(t, p)
		switch to := field(got, "Delivered-To"); to {
		case alice:
			told = got
		case dave:
			sent = got
		default:
			t.Fatalf("got a mail to %q", to)
		}
	}
	if told == "" || sent == "" {
		t.Fatalf("got %d mails, want one to %s and one to %s", len(paths), alice, dave)
	}
	return told, sent
}

// documentOf is the document in a mail, in a file, and the name that it has there.
func documentOf(t *testing.T, mail string) (path, name string) {
	t.Helper()
	part := regexp.MustCompile(`(?s)Content-Disposition: attachment; filename="([^"]+)"\r\nContent-Transfer-Encoding: base64\r\n\r\n(.*?)\r\n--`).FindStringSubmatch(mail)
	if part == nil {
		t.Fatalf("no document in\n%s", tail([]byte(mail), 3000))
	}
	b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(part[2], "\r\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(folder(t), "mail.pdf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, part[1]
}

// toldText is the body of a mail that is one text.
func toldText(t *testing.T, mail string) string {
	t.Helper()
	_, body, _ := strings.Cut(mail, "\r\n\r\n")
	b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A plain mail to somebody who must get it encrypted, and has no certificate,
// arrives as a document that qpdf and poppler open with the password that only
// its author was told.
func TestMailAsPDF(t *testing.T) {
	b, press := printing(t)
	const marker = "Marker-4c1d-Grüße"
	mail := func(more string) []byte {
		return []byte("From: Alice <" + alice + ">\r\nTo: Dave <" + dave + ">\r\nSubject: Angebot-77\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@company1.example>\r\n" +
			"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_m\"\r\n\r\n--=_m\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + marker + "\r\n" +
			"--=_m\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=\"preise.csv\"\r\n\r\n7;8" + more + "\r\n--=_m--\r\n")
	}
	told, sent := toldAndSent(t, b, mail(""))
	path, name := documentOf(t, sent)
	words := regexp.MustCompile(`Passwort: +(\S+)`).FindStringSubmatch(toldText(t, told))
	if words == nil {
		t.Fatalf("no password in\n%s", told)
	}
	password := words[1]
	if return_ := field(told, "Return-Path"); return_ != "<>" || !strings.Contains(told, name) || !strings.Contains(toldText(t, told), dave) {
		t.Errorf("told by %s:\n%s\nwant the null sender, the document and the recipient", return_, told)
	}
	for _, hidden := range []string{"Angebot", "Marker", "preise"} {
		if strings.Contains(sent, hidden) || strings.Contains(told, hidden) {
			t.Errorf("%q stands in what left, or in what the author was told", hidden)
		}
	}
	if strings.Contains(sent, password) || !strings.Contains(sent, "multipart/signed") || field(sent, "Subject") != "Vertrauliche Nachricht / Confidential message" {
		t.Errorf("got\n%s\nwant a signed mail without the password and the subject", tail([]byte(sent), 3000))
	}
	run := func(ok bool, args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("%v: got %v, want success %v\n%s", args, err, ok, out)
		}
		return string(out)
	}
	run(true, "qpdf", "--password="+password, "--check", path)
	if out := run(true, "qpdf", "--password="+password, "--show-encryption", path); !strings.Contains(out, "R = 6") || !strings.Contains(out, "AESv3") {
		t.Errorf("got encryption\n%s", out)
	}
	run(false, "qpdf", "--password=another", "--check", path)
	run(false, "pdftotext", "-upw", "another", path, "-")
	if out := run(true, "pdftotext", "-upw", password, "-enc", "UTF-8", path, "-"); !strings.Contains(out, marker) || !strings.Contains(out, "Angebot-77") {
		t.Errorf("got pages\n%s", out)
	}
	dir := folder(t)
	run(true, "pdfdetach", "-upw", password, "-saveall", "-o", dir, path)
	if got := contents(t, filepath.Join(dir, "preise.csv")); got != "7;8" {
		t.Errorf("got attachment %q", got)
	}
	if got := contents(t, filepath.Join(dir, "nachricht.eml")); !strings.Contains(got, marker) || !strings.Contains(got, "Subject: Angebot-77\r\n") {
		t.Errorf("got mail\n%s", got)
	}

	// What an operator asks: the plan, and no password.
	out, err := b.Postern(t.Context(), strings.NewReader(string(mail(""))), "explain", "--direction", "outbound", "--from", alice, "--to", dave)
	if err != nil || !strings.Contains(string(out), "as a PDF with a password") || strings.Contains(string(out), password) {
		t.Errorf("explain: got %v\n%s", err, out)
	}
	if out, err := b.Postern(t.Context(), nil, "doctor"); err != nil || !strings.Contains(string(out), "documents") {
		t.Errorf("doctor: got %v\n%s", err, out)
	}

	// Too big for [pdf], and at the right place for the spool: refused, and larger
	// than what is kept in memory all the same.
	refused(t, b, b.Inside, alice, dave, mail(strings.Repeat("8;9\r\n", 250_000)), "552 5.3.4")
	_, large := toldAndSent(t, b, mail(strings.Repeat("8;9\r\n", 100_000)))
	documentOf(t, large)

	// Nobody there to make it: the mail waits, and nobody is told anything.
	press.Stop()
	refused(t, b, b.Inside, alice, dave, mail("later"), "451 4.3.0")
	if out, err := b.Postern(t.Context(), nil, "doctor"); err == nil || !strings.Contains(string(out), "documents") {
		t.Errorf("doctor without a press: got %v\n%s", err, out)
	}
	press.Start()
	toldAndSent(t, b, mail("later"))

	// Neither the mail nor the password stands anywhere but where it belongs.
	if err := b.Filterd.Stop(); err != nil { // so that the record is written
		t.Fatal(err)
	}
	looked := 0
	err = filepath.WalkDir(b.Path(), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(p, b.Kept.Dir()) {
			return err
		}
		looked++
		text := contents(t, p)
		for _, hidden := range []string{marker, "Angebot-77", password} {
			if strings.Contains(text, hidden) {
				t.Errorf("%q stands in %s", hidden, p)
			}
		}
		return nil
	})
	if err != nil || looked < 5 || !strings.Contains(contents(t, b.Path("filterd.log")), "password told") {
		t.Errorf("looked into %d files, %v", looked, err)
	}
}
