package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// judgeSmuggling sends each byte sequence that some server takes for the end
// of a mail, with a second mail behind it: one mail goes in, and one or none
// comes out.
func (w *world) judgeSmuggling(t testing.TB, file string) (words []string, what string) {
	t.Helper()
	for _, row := range readTSV(t, file) {
		escaped := row["sequence (C escapes)"]
		sequence, err := strconv.Unquote(`"` + strings.ReplaceAll(escaped, `\0`, `\x00`) + `"`)
		if err != nil || sequence == "" {
			t.Fatalf("%s: sequence %q: %v", file, escaped, err)
		}
		to := "reader@" + nobody
		data := "From: " + unnamed + "\r\nTo: " + to + "\r\nSubject: one\r\n\r\nText." + sequence +
			"MAIL FROM:<" + unnamed + ">\r\nRCPT TO:<" + to + ">\r\nDATA\r\nFrom: " + unnamed + "\r\nSubject: two\r\n\r\nSmuggled.\r\n"
		o := w.feed(t, unnamed, to, []byte(data), []byte(data+".\r\n"))
		refused := o.code >= 500 && o.copies == 0
		whole := o.code == 250 && o.copies == 1 && strings.Contains(o.delivered, "Smuggled.") && !strings.Contains(o.delivered, sequence)
		if !refused && !whole {
			words, what = []string{"smuggled"}, fmt.Sprintf("%q: %d and %d mails", sequence, o.code, o.copies)
		}
	}
	return words, what
}

// signsAsSubmitted sends the body of a mail out as one of ours: what leaves
// signed is what was submitted, to the byte, whatever a reader would see of it.
func (w *world) signsAsSubmitted(t testing.TB, mail []byte) (words []string) {
	t.Helper()
	const to = "bob@partner.example"
	_, body, _ := strings.Cut(string(mail), "\r\n\r\n")
	o := &outcome{sent: []byte("From: " + alice + "\r\nTo: " + to + "\r\nSubject: signed\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n" + body)}
	var err error
	if o.answer, err = submit(w.Inside, alice, to, stuffed(o.sent)); err != nil {
		o.text = err.Error()
	}
	w.take(t, o)
	if o.code != 250 || o.copies != 1 || !strings.HasPrefix(field(o.delivered, "Content-Type"), "multipart/signed") || strings.Count(o.delivered, body) != 1 {
		return []string{"signed"}
	}
	return nil
}

// judgeSeed plays what a fuzzer of another server found: the daemon is there
// afterwards, and the cost is within limits.
func (w *world) judgeSeed(t testing.TB, file string) (words []string, what string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, literal, _ := strings.Cut(string(b), "[]byte(")
	script, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(literal), ")"))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, bytes := range []string{script, strings.ReplaceAll(script, "\n", "\r\n")} {
		before := usage(t, w.Filterd.PID(), true)
		conn, err := net.DialTimeout("tcp", w.Outside, patience)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if _, err = io.WriteString(conn, bytes); err == nil {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		answers, _ := io.ReadAll(conn) // a server that breaks off has answered enough
		conn.Close()
		after := usage(t, w.Filterd.PID(), false)
		if err != nil || len(answers) == 0 || after.time-before.time > costTime || after.grew(before) > costMemory {
			words, what = []string{"session"}, fmt.Sprintf("%v, %q", err, answers)
		}
		w.take(t, &outcome{})
	}
	return words, what
}
