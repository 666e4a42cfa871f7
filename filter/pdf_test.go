package filter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/paper"
	"postern/filter/policy"
	"postern/filter/press"
	"postern/filter/protect/entity"
	"postern/filter/transport"
)

// printer is a press in this process, which can be away.
type printer struct {
	err  error
	jobs []string // passwords
}

func (p *printer) Print(_ context.Context, j paper.Job, to io.Writer) error {
	var mail bytes.Buffer
	if _, err := j.Mail.WriteTo(&mail); err != nil || int64(mail.Len()) != j.Size {
		return errors.Join(err, errors.New("mail of another size"))
	}
	p.jobs = append(p.jobs, j.Password)
	if p.err != nil {
		return p.err
	}
	return press.Print(mail.Bytes(), j.Password, to)
}

// prints gives a world where people without a certificate get documents, and the
// company a mail server of its own.
func (w *world) prints() (*printer, *hop) {
	w.t.Helper()
	p, inside := &printer{}, &hop{}
	w.config.Policy.Default, w.config.Policy.NoKey = policy.Require, policy.NoKeyPDF
	w.config.Hops = map[policy.Direction]Hop{policy.Inbound: inside, policy.Outbound: w.hop}
	w.config.PDF = PDF{Press: p}
	w.gate = New(w.config)
	return p, inside
}

var (
	wordLine = regexp.MustCompile(`(?:Password|Passwort): +(\S+)`)
	fileLine = regexp.MustCompile(`nachricht-[A-Z0-9]+\.pdf`)
)

// codeword is the password that a mail tells.
func codeword(t testing.TB, mail []byte) string {
	t.Helper()
	m := parsed(t, mail)
	text, err := io.ReadAll(entity.Decoded(m.Source, m.Root))
	if err != nil {
		t.Fatal(err)
	}
	found := wordLine.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no password in %s", text)
	}
	return string(found[1])
}

// documentOf is the PDF of a mail, in a file.
func documentOf(t testing.TB, mail []byte) string {
	t.Helper()
	m := parsed(t, mail)
	var find func(p *message.Part) *message.Part
	find = func(p *message.Part) *message.Part {
		if p.Type == "application/pdf" {
			return p
		}
		for _, part := range p.Parts {
			if f := find(part); f != nil {
				return f
			}
		}
		return nil
	}
	p := find(m.Root)
	if p == nil {
		t.Fatalf("no PDF in %s", mail)
	}
	b, err := io.ReadAll(entity.Decoded(m.Source, p))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mail.pdf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readsAs opens a document with poppler.
func readsAs(t testing.TB, path, password string) (text, mail string) {
	t.Helper()
	out, err := exec.Command("pdftotext", "-upw", password, "-enc", "UTF-8", "-layout", path, "-").CombinedOutput()
	if err != nil {
		t.Fatalf("pdftotext: %v\n%s", err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("pdfdetach", "-upw", password, "-saveall", "-o", dir, path).CombinedOutput(); err != nil {
		t.Fatalf("pdfdetach: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "nachricht.eml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out), string(b)
}

// R42. Who has no certificate gets a document, and its author alone the password,
// before the document leaves. The mail around it says nothing of the mail.
func TestMailGoesAsPDF(t *testing.T) {
	w := newWorld(t)
	_, inside := w.prints()
	mail := strings.Replace(out, "Subject: out\r\n", "Subject: Secret-Subject\r\nBcc: erin@other.example\r\nReceived: from desk by mail\r\nX-Project: Secret-Name\r\n", 1)
	w.want("PDF", w.send(policy.Outbound, mail, "alice@company1.example", "carol@other.example", "erin@other.example", "bob@partner.example"), "250 2.0.0")
	if got, want := w.hop.recipients(), []string{"bob@partner.example", "carol@other.example erin@other.example"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q: a sealed copy, and one document for both others", got, want)
	}
	w.clear("PDF")
	if len(inside.got) != 1 || inside.recipients()[0] != "alice@company1.example" || !inside.got[0].env.Null {
		t.Fatalf("inside: got %d mails %v, want one from the null sender to alice", len(inside.got), inside.recipients())
	}
	told, sent := inside.got[0].mail, w.hop.got[1].mail
	password := codeword(t, told)
	for _, secret := range []string{"Secret-Subject", "Secret-Name", "erin", password} {
		if bytes.Contains(sent, []byte(secret)) {
			t.Errorf("%q stands in what leaves:\n%s", secret, sent)
		}
	}
	for _, secret := range []string{"Secret", "Marker"} {
		if bytes.Contains(told, []byte(secret)) {
			t.Errorf("%q stands in what the author is told:\n%s", secret, told)
		}
	}
	if bytes.Contains(w.log.Bytes(), []byte(password)) {
		t.Errorf("the password is in the log: %s", w.log)
	}
	if !bytes.Contains(told, []byte("carol@other.example")) || !bytes.Contains(told, []byte("erin@other.example")) || !fileLine.Match(told) || bytes.Contains(told, []byte("bob@")) {
		t.Errorf("got %s\nwant the two recipients of the document, and its name", told)
	}
	if got := w.layer(sent); got != 2 { // alice's domain signs always
		t.Errorf("got layer %v, want the mail around the document signed", got)
	}
	m := parsed(t, sent)
	if m.Get("Subject") != coverSubject || m.Get("From") != "Alice <alice@company1.example>" || m.Get("Message-ID") != "<1@company1.example>" {
		t.Errorf("got header of\n%s", sent)
	}
	text, whole := readsAs(t, documentOf(t, sent), password)
	if !strings.Contains(text, "Marker-Text-7f3a") || !strings.Contains(text, "Secret-Subject") || strings.Contains(text, "erin") {
		t.Errorf("got text %s", text)
	}
	if strings.Contains(whole, "erin") || !strings.Contains(whole, "X-Project: Secret-Name\r\n") || !strings.HasSuffix(whole, "\r\n\r\nMarker-Text-7f3a\r\n") {
		t.Errorf("got mail %s\nwant it without whom it hides", whole)
	}
}

// R26. Nothing leaves whose password its author does not have; when he comes back, he
// is not told twice, and the document has the password that he knows.
func TestPasswordGoesFirst(t *testing.T) {
	const alice, carol, x = "alice@company1.example", "carol@other.example", "x@other.example"
	for _, c := range []struct {
		name         string
		inside, over []func(*transport.Envelope) transport.Result
		first        string
		told, sent   []string // in both tries
	}{
		{"mailbox away", []func(*transport.Envelope) transport.Result{answer(451)}, nil, "451 4.4.1", []string{alice}, []string{carol + " " + x}},
		{"mail server away", []func(*transport.Envelope) transport.Result{func(*transport.Envelope) transport.Result { return transport.Result{Err: transport.ErrNextHop} }}, nil, "451 4.4.1", []string{alice}, []string{carol + " " + x}},
		{"document deferred", nil, []func(*transport.Envelope) transport.Result{answer(451, 451)}, "451 4.1.1", []string{alice}, []string{carol + " " + x, carol + " " + x}},
		{"document deferred for one", nil, []func(*transport.Envelope) transport.Result{answer(0, 451)}, "451 4.1.1", []string{alice}, []string{carol + " " + x, x}},
	} {
		w := newWorld(t)
		p, inside := w.prints()
		inside.answers, w.hop.answers = c.inside, c.over
		w.want(c.name, w.send(policy.Outbound, out, alice, carol, x), c.first)
		inside.got = slices.DeleteFunc(inside.got, func(delivery) bool { return len(c.inside) > 0 }) // the hop keeps what it refuses
		if len(c.inside) > 0 && len(w.hop.got) > 0 {
			t.Errorf("%s: a document left: %q", c.name, w.hop.recipients())
		}
		w.want(c.name+", again", w.send(policy.Outbound, out, alice, carol, x), "250 2.0.0")
		if got := inside.recipients(); !slices.Equal(got, c.told) {
			t.Errorf("%s: told %q, want %q", c.name, got, c.told)
		}
		if got := w.hop.recipients(); !slices.Equal(got, c.sent) {
			t.Errorf("%s: sent %q, want %q", c.name, got, c.sent)
		}
		if len(p.jobs) != 2 || p.jobs[0] != p.jobs[1] || codeword(t, inside.got[0].mail) != p.jobs[1] {
			t.Errorf("%s: passwords %q, want the same one as told", c.name, p.jobs)
		}
		w.want("another mail", w.send(policy.Outbound, strings.Replace(out, "out", "new", 1), alice, carol), "250 2.0.0")
		if p.jobs[2] == p.jobs[1] {
			t.Errorf("two mails with one password %q", p.jobs[2])
		}
	}
	w := newWorld(t)
	_, inside := w.prints()
	inside.answers = []func(*transport.Envelope) transport.Result{answer(550)}
	w.want("no mailbox", w.send(policy.Outbound, out, alice, carol), "550 5.7.1")
	if len(w.hop.got) > 0 {
		t.Errorf("no mailbox: a document left: %q", w.hop.recipients())
	}
}

// R26. Only one of ours who surely wrote the mail is told a password; for want of him
// the mail is refused as if no rule spoke of documents. So is what no safe way
// may stand in for either.
func TestNobodyToTell(t *testing.T) {
	const alice, carol = "alice@company1.example", "carol@other.example"
	foreign := strings.Replace(out, "From: Alice <alice@company1.example>", "From: Bob <bob@partner.example>", 1)
	for _, c := range []struct {
		name, from, mail string
		before           func(*world)
		want             string
	}{
		{"the author is none of ours", "bob@partner.example", foreign, nil, "550 5.7.3"},
		{"another sender in the envelope", "list@company1.example", out, nil, "550 5.7.3"},
		{"the null sender", "", out, nil, "550 5.7.3"},
		{"no author", alice, "From: alice@company1.example, ceo@company1.example\r\n" + out[strings.Index(out, "To:"):], func(w *world) {
			w.config.Policy.Domains["company1.example"] = policy.SignNever
		}, "550 5.7.3"},
		{"an answer to sealed mail", alice, "In-Reply-To: <1@partner.example>\r\n" + out, func(w *world) { w.remembers("", "1@partner.example") }, "550 5.7.3"},
		{"sealed before", alice, out, func(w *world) { w.remembers(carol, "") }, "550 5.7.3"},
		{"others must read along", alice, out, func(w *world) {
			w.config.Policy.Escrow = map[string]policy.Escrow{"company1.example": {"company1.example"}}
		}, "550 5.7.3"},
		{"no mail server inside", alice, out, func(w *world) { delete(w.gate.Hops, policy.Inbound) }, "451 4.3.5"},
		{"nobody makes any", alice, out, func(w *world) { w.gate.PDF.Press = nil }, "451 4.3.5"},
	} {
		w := newWorld(t)
		_, inside := w.prints()
		if c.before != nil {
			c.before(w)
		}
		w.want(c.name, w.send(policy.Outbound, c.mail, c.from, carol), c.want)
		if len(w.hop.got)+len(inside.got) > 0 {
			t.Errorf("%s: sent to %q, told %q, want nothing", c.name, w.hop.recipients(), inside.recipients())
		}
	}
}

// R45. What tells a password is as secret as mail that came sealed: an answer to it,
// which may quote it, does not leave in clear, nor as another document.
func TestAnswerToPassword(t *testing.T) {
	w := newWorld(t)
	_, inside := w.prints()
	w.want("PDF", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "250 2.0.0")
	id := parsed(t, inside.got[0].mail).Get("Message-ID")
	w.gate.Policy.Default = policy.Optional
	w.want("answer", w.send(policy.Outbound, "References: "+id+"\r\n"+out, "alice@company1.example", "carol@other.example"), "550 5.7.3")
	if len(w.hop.got) != 1 {
		t.Errorf("sent %q, want the document alone", w.hop.recipients())
	}
}

// The mail path without its relay tells nobody anything.
func TestProcessTellsNobody(t *testing.T) {
	w := newWorld(t)
	p, inside := w.prints()
	o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, From: address(t, "alice@company1.example"), To: []message.Address{address(t, "carol@other.example")}, Mail: strings.NewReader(out)})
	defer o.Close()
	if len(o.Verdict.Plans) != 1 || !o.Verdict.Plans[0].PDF || o.Verdict.Reason != policy.ReasonPDF || o.Verdict.Action != "relay" || len(p.jobs) != 1 {
		t.Errorf("got %+v, %d documents, want one", o.Verdict, len(p.jobs))
	}
	if len(inside.got) > 0 {
		t.Errorf("somebody was told: %s", inside.got[0].mail)
	}
	for _, line := range o.Explain {
		if strings.Contains(line, p.jobs[0]) {
			t.Errorf("the password is explained: %s", line)
		}
	}
}

// Where rules are only tried nobody gets a document, and nobody is told: the log
// says what would be.
func TestDocumentsInShadow(t *testing.T) {
	w := newWorld(t)
	_, inside := w.prints()
	w.gate.Policy.Shadow = true
	w.want("shadow", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "250 2.0.0")
	if len(inside.got) > 0 || len(w.hop.got) != 1 || !bytes.Contains(w.hop.got[0].mail, []byte("Marker-Text-7f3a")) {
		t.Errorf("told %q, sent %q, want the mail as it came", inside.recipients(), w.hop.recipients())
	}
	if log := w.log.String(); !strings.Contains(log, "shadow-reason=pdf") {
		t.Errorf("got log %s", log)
	}
}

// What is too much to remember is forgotten, the oldest first.
func TestCodewordsForget(t *testing.T) {
	c := newCodewords()
	to := func(i int) []transport.Recipient {
		return []transport.Recipient{{Address: message.Address{Local: strings.Repeat("x", i%50), Domain: "d" + string(rune('a'+i%26)) + ".example"}}}
	}
	names := func(i int) (n [32]byte) { n[0], n[1], n[2] = byte(i), byte(i>>8), byte(i>>16); return n }
	for i := range 3 * maxTold {
		c.note(names(i), []message.Address{to(i)[0].Address})
	}
	if len(c.told[0])+len(c.told[1]) > 2*maxTold {
		t.Errorf("got %d, want at most %d", len(c.told[0])+len(c.told[1]), 2*maxTold)
	}
	last := 3*maxTold - 1
	if len(c.untold(names(last), to(last))) != 0 || len(c.untold(names(0), to(0))) != 1 {
		t.Error("want the last remembered, and the first forgotten")
	}
	if a, b := c.of(names(1)), newCodewords().of(names(1)); a == b || len(a) != groups*perGroup+groups-1 || strings.Trim(a, letters+"-") != "" {
		t.Errorf("got %q and %q, want two of 100 bits", a, b)
	}
}
