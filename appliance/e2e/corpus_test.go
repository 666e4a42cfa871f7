package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/hsm/hsmtest"
)

// fate is how a sample fared.
type fate string

const (
	farePassed   fate = "passed"
	fareExcepted fate = "exceptions"
	fareTodo     fate = "todo"
	fareBeside   fate = "beside"
	fareNext     fate = "next work"
	fareFailed   fate = "failed"
)

// Mails, keys and verdicts that others wrote: each mail is fed to a gateway
// that has the recipient's key and trusts the sender's certificate, and what
// comes out is what the verdict says, or the exceptions file says why not. No
// entry there excuses a claim: where the verdict is verified=no, the mail
// never says yes.
func TestCorpus(t *testing.T) {
	dir := hsmtest.Corpora(t)
	samples, exceptions := readManifest(t, dir), readExceptions(t)
	byWorld := map[string][]*sample{}
	var order []string
	for _, s := range samples {
		name := s.corpus()
		_, pgp := keysets[name]
		if _, smime := x509sets[name]; !pgp && !smime {
			name = "others"
		}
		if byWorld[name] == nil {
			order = append(order, name)
		}
		byWorld[name] = append(byWorld[name], s)
	}
	run := &corpusRun{fates: map[*sample]fate{}, exceptions: exceptions, found: map[string]exception{}}
	for _, name := range order {
		t.Run(name, func(t *testing.T) {
			var w *world
			for _, s := range byWorld[name] {
				switch s.work() {
				case workNext:
					run.fates[s] = fareNext
					continue
				case workBeside:
					run.fates[s] = fareBeside
					continue
				}
				if w == nil {
					w = openWorld(t, dir, keysets[name], x509sets[name])
				}
				run.sample(t, w, s, dir)
			}
		})
	}
	if len(run.fates) != len(samples) { // -run chose some of them
		t.Logf("ran %d of %d samples; no summary", len(run.fates), len(samples))
		return
	}
	for path, e := range exceptions {
		if !slices.ContainsFunc(samples, func(s *sample) bool { return s.path == path }) {
			t.Errorf("%s: %s is not in the manifest", exceptionsFile, e.path)
		}
	}
	t.Log(run.summary())
	if *update {
		run.writeTodo(t)
	}
	run.page(t, samples)
}

// corpusRun keeps count.
type corpusRun struct {
	fates      map[*sample]fate
	exceptions map[string]exception
	found      map[string]exception // that differ, by path
	timed      int                  // judged at another time than now
	verified   int                  // by the gateway
	refused    int                  // with 5yz
	beyond     int                  // passphrases, ElGamal
}

// sample runs one, and holds the outcome against verdict and exceptions.
func (r *corpusRun) sample(t *testing.T, w *world, s *sample, dir string) {
	t.Helper()
	file := filepath.Join(dir, s.path)
	var words []string
	var what string
	switch s.work() {
	case workCert:
		words, what = w.judgeCert(t, s, file)
	case workSMTP:
		judge := w.judgeSmuggling
		if s.kind == "smtp-fuzz-seed" {
			judge = w.judgeSeed
		}
		words, what = judge(t, file)
	default:
		from, to, mail := w.mailOf(t, s, file)
		o := w.judge(t, s, from, to, mail)
		if !o.at.IsZero() {
			r.timed++
		}
		if o.verified {
			r.verified++
		}
		if o.code >= 500 {
			r.refused++
		}
		if s.beyond {
			r.beyond++
		}
		signer := w.signer(s)
		words, what = w.differences(s, o, signer != nil && signer.address() != ""), o.String()
		switch s.kind {
		case "sign-oracle-html":
			words = append(words, w.signsAsSubmitted(t, mail)...)
		case "openpgp-fuzz":
			words = append(words, w.survives(t, file)...)
		}
		if len(words) > 0 {
			keep(t, s, o)
		}
	}
	slices.Sort(words)
	found := exception{s.path, string(fareTodo), strings.Join(words, ","), "work goes on"}
	e, listed := r.exceptions[s.path]
	switch {
	case slices.Contains(words, "claim"):
		r.fates[s] = fareFailed
		t.Errorf("%s (%s): verified=yes, which nothing excuses: got %s; verdict: %s", s.path, s.kind, what, s.verdict)
		return
	case len(words) == 0 && listed && !(*update && e.word == string(fareTodo)):
		r.fates[s] = fareFailed
		t.Errorf("%s: differs no longer; take it out of %s", s.path, exceptionsFile)
		return
	case len(words) == 0:
		r.fates[s] = farePassed
		return
	case listed && e.what == found.what:
		r.fates[s] = map[string]fate{"exception": fareExcepted, "todo": fareTodo}[e.word]
		r.found[s.path] = e
		return
	case *update && (!listed || e.word == string(fareTodo)):
		r.fates[s] = fareTodo
		if listed {
			found.reason = e.reason
		}
		r.found[s.path] = found
		t.Logf("todo: %s (%s): got %s; verdict: %s", found.line(), s.kind, what, s.verdict)
		return
	}
	r.fates[s] = fareFailed
	t.Errorf("%s (%s) differs in %s: got %s; want verdict: %s\nas a line of %s:\n%s", s.path, s.kind, found.what, what, s.verdict, exceptionsFile, found.line())
}

// keep writes what was sent and what came of it where `go test -artifacts`
// leaves it for a person to look at.
func keep(t *testing.T, s *sample, o *outcome) {
	t.Helper()
	name := strings.NewReplacer("/", "_", ":", "_").Replace(strings.TrimPrefix(s.path, "msgs/"))
	for suffix, b := range map[string][]byte{".sent": o.sent, ".delivered": []byte(o.delivered)} {
		if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// judge feeds a mail over SMTP, or where it must be judged at another time
// than now, puts it through postern process.
func (w *world) judge(t testing.TB, s *sample, from, to string, mail []byte) *outcome {
	t.Helper()
	if s.at.IsZero() {
		return w.feed(t, from, to, mail, stuffed(mail))
	}
	now := *s // over SMTP, where it may be too late to say yes
	if now.verified == wantYes {
		now.verified = either
	}
	if o := w.feed(t, from, to, mail, stuffed(mail)); len(w.differences(&now, o, false)) > 0 {
		return o
	}
	return w.process(t, from, to, mail, s.at)
}

// count is how many fared so, of a kind or of all.
func (r *corpusRun) count(kind string, f fate) (n int) {
	for s, is := range r.fates {
		if is == f && (kind == "" || s.kind == kind) {
			n++
		}
	}
	return n
}

// summary is one line about the whole run.
func (r *corpusRun) summary() string {
	kinds := map[string]bool{}
	for s, f := range r.fates {
		if f != fareNext && f != fareBeside {
			kinds[s.kind] = true
		}
	}
	line := fmt.Sprintf("%d cases: %d of %d kinds run", len(r.fates), len(r.fates)-r.count("", fareNext)-r.count("", fareBeside), len(kinds))
	for _, f := range []fate{farePassed, fareExcepted, fareTodo, fareBeside, fareNext, fareFailed} {
		if n := r.count("", f); n > 0 || f != fareFailed {
			line += fmt.Sprintf(", %d %s", n, f)
		}
	}
	return line + "."
}

// writeTodo writes the exceptions file with the samples that differ now.
// Lasting exceptions stay: only a person adds one, or takes it out.
func (r *corpusRun) writeTodo(t *testing.T) {
	t.Helper()
	old, err := os.ReadFile(exceptionsFile)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(old)) {
		if strings.HasPrefix(line, "#") {
			out.WriteString(line)
		}
	}
	var all []exception
	for _, e := range r.exceptions {
		if e.word == "exception" {
			all = append(all, e)
		}
	}
	for _, e := range r.found {
		if e.word == string(fareTodo) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b exception) int { return cmp.Or(cmp.Compare(a.word, b.word), cmp.Compare(a.path, b.path)) })
	for _, e := range all {
		fmt.Fprintln(&out, e.line())
	}
	if err := os.WriteFile(exceptionsFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// page holds appliance/docs/corpora.md against the run, or writes it.
func (r *corpusRun) page(t *testing.T, samples []*sample) {
	t.Helper()
	var kinds []string
	for _, s := range samples {
		kinds = append(kinds, s.kind)
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Corpora\n\nMails, keys and vectors that others wrote, fed to a whole gateway: what came out, against what their publishers (or GnuPG and OpenSSL) say must. Printed by `go test ./appliance/e2e -run TestCorpus -update` where the corpora are present; none of them is in this repository.\n\n%s\n\n", r.summary())
	fmt.Fprintf(&b, "%d mails are called verified, none against its verdict; %d are refused, where the verdict allows it. %d that open with a passphrase or an ElGamal key only, which no token has, pass as they came. ", r.verified, r.refused, r.beyond)
	fmt.Fprintf(&b, "%d mails are judged at the time that the corpus names, through `postern process --at`, after they came over SMTP as all the others. Beside are those that the tests of a package run: %s. Next work is what is not mail. The gateway runs with `old-ciphers = true`, and with `roots = \"own\"`, `bare-own = true` and `revocation = \"off\"` for S/MIME.\n\n", r.timed, besideList())
	columns := []fate{farePassed, fareExcepted, fareTodo, fareBeside, fareNext}
	b.WriteString("| kind | cases |")
	for _, f := range columns {
		fmt.Fprintf(&b, " %s |", f)
	}
	b.WriteString("\n|---|---|---|---|---|---|---|\n")
	for _, k := range kinds {
		n := 0
		for _, s := range samples {
			if s.kind == k {
				n++
			}
		}
		fmt.Fprintf(&b, "| %s | %d |", k, n)
		for _, f := range columns {
			cell := ""
			if n := r.count(k, f); n > 0 {
				cell = fmt.Sprint(n)
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	var lasting []exception
	for _, e := range r.found {
		if e.word == "exception" {
			lasting = append(lasting, e)
		}
	}
	slices.SortFunc(lasting, func(a, b exception) int { return cmp.Compare(a.path, b.path) })
	if len(lasting) > 0 {
		b.WriteString("\n## Exceptions\n\n")
	}
	for _, e := range lasting {
		fmt.Fprintf(&b, "- `%s` differs in %s: %s\n", strings.TrimPrefix(e.path, "msgs/"), e.what, e.reason)
	}
	path := filepath.Join(docs, "corpora.md")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what the run gives (%v); -update writes it", path, err)
	}
}
