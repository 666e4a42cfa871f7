package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a mail may cost, by README.txt of the corpora: time of the processor,
// so that a busy machine does not judge, and memory above what was there.
const (
	costTime   = 2 * time.Second
	costMemory = 64 << 20
)

// outcome is what became of a sample.
type outcome struct {
	answer
	sent      []byte
	delivered string // "" where nothing was, without our envelope fields
	copies    int
	opened    string
	verified  bool
	reason    string
	took      time.Duration
	grew      int64 // bytes
	at        time.Time
}

func (o *outcome) String() string {
	return fmt.Sprintf("%d opened=%s verified=%v reason=%s, %v, %d MiB", o.code, o.opened, o.verified, o.reason, o.took, o.grew>>20)
}

// feed sends a mail to the outside listener, as the data that follow DATA, and
// takes from the sink what came of it.
func (w *world) feed(t testing.TB, from, to string, mail, data []byte) *outcome {
	t.Helper()
	before := usage(t, w.Filterd.PID(), true)
	a, err := submit(w.Outside, from, to, data)
	if err != nil {
		a = answer{text: err.Error()}
	}
	after := usage(t, w.Filterd.PID(), false)
	o := &outcome{answer: a, sent: mail, took: after.time - before.time, grew: after.grew(before)}
	w.take(t, o)
	return o
}

// take empties the sink.
func (w *world) take(t testing.TB, o *outcome) {
	t.Helper()
	seen, err := w.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	for name := range seen {
		path := filepath.Join(w.Kept.Dir(), name)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		o.copies++
		o.delivered = string(b)
	}
	for _, name := range []string{"Return-Path:", "Delivered-To:"} { // the sink's
		if strings.HasPrefix(o.delivered, name) {
			_, o.delivered, _ = strings.Cut(o.delivered, "\r\n")
		}
	}
	o.read()
}

// read takes the claims out of the fields on top.
func (o *outcome) read() {
	status := field(o.delivered, "Postern-Status")
	o.opened, o.reason, o.verified = parameter(status, "opened"), parameter(status, "reason"), parameter(status, "verified") == "yes"
}

// process puts a mail through the same configuration, judged at another time.
func (w *world) process(t testing.TB, from, to string, mail []byte, at time.Time) *outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.Bin, "postern"), "process", "--json", "--direction", "inbound", "--from", from, "--to", to,
		"--at", at.UTC().Format(time.RFC3339), "--config", w.Path("filterd.toml"))
	var out, decision bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(mail), &out, &decision
	err := cmd.Run()
	var v struct{ Action, Reply string }
	if jerr := json.Unmarshal(decision.Bytes(), &v); jerr != nil {
		t.Fatalf("postern process: %v: %s", err, &decision)
	}
	code, _ := strconv.Atoi(strings.Fields(v.Reply + " 0")[0])
	o := &outcome{answer: answer{code: code, text: v.Reply}, sent: mail, delivered: out.String(), took: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), at: at}
	if out.Len() > 0 {
		o.copies = 1
	}
	o.read()
	return o
}

// resources are what a process used: of the processor since it began, of
// memory now and at most, since it was asked last or since it began.
type resources struct {
	time      time.Duration
	now, peak int64
	begun     bool // the peak is that of the whole life
}

// grew is how far memory rose from before until r.
func (r resources) grew(before resources) int64 {
	if before.begun && r.peak == before.peak {
		return r.now - before.now
	}
	return r.peak - before.now
}

// usage reads them; reset starts the peak anew (proc(5), clear_refs), where
// we are the superuser: filterd lets nobody else look into it.
func usage(t testing.TB, pid int, reset bool) (r resources) {
	t.Helper()
	dir := "/proc/" + strconv.Itoa(pid)
	if reset {
		switch err := os.WriteFile(dir+"/clear_refs", []byte("5"), 0); {
		case errors.Is(err, fs.ErrPermission):
			r.begun = true
		case err != nil:
			t.Fatalf("filterd is gone: %v", err)
		}
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		t.Fatalf("filterd is gone: %v", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	for _, f := range fields[11:13] {
		ticks, _ := strconv.ParseInt(f, 10, 64)
		r.time += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			r.now = kib << 10
		case "VmHWM:":
			r.peak = kib << 10
		}
	}
	return r
}

// differences are the words for all in which the outcome is not what the
// verdict asks for. "claim" is the one that no list excuses.
func (w *world) differences(s *sample, o *outcome, named bool) (words []string) {
	differ := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	if o.verified && s.verified == wantNo {
		words = append(words, "claim")
	}
	if s.limits {
		differ(o.took > costTime, "time")
		differ(o.grew > costMemory, "memory")
	}
	refused := o.code >= 500 && o.code < 600
	if s.limits && refused && !s.passes && s.opened != wantYes && s.verified != wantYes {
		differ(o.copies != 0, "copies")
		return words
	}
	if o.code != 250 {
		return append(words, "reply")
	}
	if o.copies != 1 {
		return append(words, "copies")
	}
	wasOpened := strings.Contains(o.opened, "openpgp") || strings.Contains(o.opened, "smime")
	differ(s.opened == wantYes && !wasOpened || s.opened == wantNo && !s.plain && wasOpened, "opened")
	differ(s.plain && o.opened != "none", "opened")
	differ(s.part && wasOpened && !holds(o.delivered, s.digest), "merged") // all that was sealed and nothing else is no mixture
	if s.verified == wantYes && !o.verified {
		// Of what is not old enough to be read only, and whose signer has an address.
		differ(s.signer == "" && s.work() != workRaw || named && o.reason != "weak-algorithm", "verified")
	}
	if !wasOpened {
		differ(!asItCame(o), "body")
	}
	if wasOpened && s.digest != "" && !holds(o.delivered, s.digest) {
		words = append(words, w.payload(s, o)...)
	}
	subjects := subjectsOf(o.delivered)
	switch outer := subjectsOf(string(o.sent)); {
	case s.subject == "inner" && wasOpened:
		differ(len(subjects) != 1 || subjects[0] == "...", "subject")
	case s.subject == "outer":
		differ(!slices.Equal(subjects, outer), "subject")
	}
	if len(s.texts) > 0 && (wasOpened || s.plain || s.opened == either && o.opened == "none") {
		text := readable(o.delivered)
		differ(slices.ContainsFunc(s.texts, func(want string) bool { return !strings.Contains(text, want) }), "text")
	}
	return words
}

// subjectsOf are the values of all Subject fields on top of a mail.
func subjectsOf(mail string) (values []string) {
	head, _, _ := strings.Cut(mail, "\r\n\r\n")
	head = strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(head)
	for line := range strings.SplitSeq(head, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Subject") {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// asItCame reports whether what was delivered is what was sent, below our
// fields: every field but those that are for the last hop to write or are
// counterfeits of ours, and the body, to the byte.
func asItCame(o *outcome) bool {
	sent := string(o.sent)
	if !strings.HasSuffix(sent, "\r\n") {
		sent += "\r\n"
	}
	if strings.HasSuffix(o.delivered, sent) {
		return true
	}
	head, body, whole := strings.Cut(sent, "\r\n\r\n")
	if !whole {
		head, body = sent, ""
	}
	var kept strings.Builder
	taken := true // a fold before the first field would continue one of ours
	for line := range strings.SplitAfterSeq(head+"\r\n", "\n") {
		if line == "" {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := strings.Cut(strings.ToLower(line), ":")
			name = strings.TrimSpace(name)
			taken = name == "return-path" || strings.HasPrefix(name, "postern-")
		}
		if !taken {
			kept.WriteString(line)
		}
	}
	if whole {
		kept.WriteString("\r\n" + body)
	}
	return strings.HasSuffix(o.delivered, kept.String())
}

// holds reports whether the delivered mail ends in an entity with the digest,
// from any line of its header or from its body on, whatever the line ends.
func holds(delivered, digest string) bool {
	text := strings.ReplaceAll(delivered, "\r\n", "\n")
	head := strings.Index(text, "\n\n")
	for i := 0; i >= 0 && i <= head+2; {
		for _, end := range []string{text[i:], strings.TrimSuffix(text[i:], "\n"), strings.TrimRight(text[i:], "\n")} {
			for _, form := range []string{end, strings.ReplaceAll(end, "\n", "\r\n")} {
				sum := sha256.Sum256([]byte(form))
				if hex.EncodeToString(sum[:]) == digest {
					return true
				}
			}
		}
		next := strings.IndexByte(text[i:], '\n')
		if next < 0 {
			return false
		}
		i += next + 1
	}
	return false
}

// readable is the text of a mail with every transfer encoding undone.
func readable(delivered string) string {
	var out strings.Builder
	var walk func(contentType, encoding string, body io.Reader, depth int)
	walk = func(contentType, encoding string, body io.Reader, depth int) {
		kind, params, _ := mime.ParseMediaType(contentType)
		if strings.HasPrefix(kind, "multipart/") && params["boundary"] != "" && depth < 20 {
			r := multipart.NewReader(body, params["boundary"])
			for {
				p, err := r.NextRawPart()
				if err != nil {
					return
				}
				walk(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p, depth+1)
			}
		}
		switch strings.ToLower(strings.TrimSpace(encoding)) {
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, body)
		case "quoted-printable":
			body = quotedprintable.NewReader(body)
		}
		b, _ := io.ReadAll(body)
		if m, err := mail.ReadMessage(bytes.NewReader(b)); err == nil && kind == "message/rfc822" && depth < 20 {
			walk(m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), m.Body, depth+1)
			return
		}
		out.Write(b)
		out.WriteByte('\n')
	}
	if m, err := mail.ReadMessage(strings.NewReader(delivered)); err == nil {
		walk(m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), m.Body, 0)
	}
	return strings.ReplaceAll(out.String()+delivered, "\r\n", "\n")
}
