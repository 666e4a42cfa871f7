package e2e

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is one line of the manifest.
type sample struct {
	path, kind, sender, recipient, verdict, basis, digest string
	at                                                    time.Time // zero: judged now

	expected
}

// expected is what the verdict of a sample asks for. The zero value of a
// field asks for nothing.
type expected struct {
	opened   answerTo // an encryption layer is taken off
	verified answerTo
	plain    bool     // nothing is encrypted
	part     bool     // the ciphertext is a part of the mail only
	signer   string   // key id of a signature that GnuPG calls good
	texts    []string // in what is delivered
	subject  string   // "inner": the protected one is shown; "outer": the one inside is not
	limits   bool     // 2 s and 64 MiB
	passes   bool     // it may not be refused
	beyond   bool     // no key in a token could open it
}

// answerTo is what is wanted of a yes or no.
type answerTo string

const (
	either  answerTo = ""
	wantYes answerTo = "yes"
	wantNo  answerTo = "no"
)

// corpus is the publisher's folder, whose keys belong together.
func (s *sample) corpus() string { return strings.Split(s.path, "/")[1] }

// readManifest is every sample of the corpus, in its order.
func readManifest(t testing.TB, dir string) []*sample {
	t.Helper()
	rows := readTSV(t, filepath.Join(dir, "manifest.tsv"))
	var all []*sample
	for _, row := range rows {
		s := &sample{path: row["path"], kind: row["kind"], sender: row["sender key"], recipient: row["recipient key"],
			verdict: row["expected verdict"], basis: row["basis"], digest: row["decrypted-entity-sha256"]}
		if at := row["evaluate-at"]; at != "" {
			var err error
			if s.at, err = time.Parse(time.DateOnly, at); err != nil {
				t.Fatalf("manifest, %s: %v", s.path, err)
			}
		}
		s.expected = expect(s)
		all = append(all, s)
	}
	if len(all) == 0 {
		t.Fatal("the manifest is empty")
	}
	return all
}

// readTSV reads a table with a head line.
func readTSV(t testing.TB, path string) []map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	var head []string
	for line := range strings.SplitSeq(strings.TrimRight(string(b), "\n"), "\n") {
		cells := strings.Split(line, "\t")
		if head == nil {
			head = cells
			continue
		}
		if len(cells) > len(head) {
			t.Fatalf("%s: got %d cells, want %d: %s", path, len(cells), len(head), line)
		}
		row := map[string]string{}
		for i, c := range cells {
			row[head[i]] = c
		}
		rows = append(rows, row)
	}
	return rows
}

var (
	goodSig  = regexp.MustCompile(`GOODSIG:([0-9A-F]{16})`)
	bodyText = regexp.MustCompile(`body:"([^"]*)"`)
)

// expect reads the machine part of a verdict.
func expect(s *sample) (e expected) {
	for clause := range strings.SplitSeq(s.verdict, "; ") {
		name, value, _ := strings.Cut(clause, "=")
		word, _, _ := strings.Cut(value, " ")
		word = strings.TrimSuffix(word, ":")
		switch name {
		case "decrypt":
			switch word {
			case "ok":
				e.opened = wantYes
			case "ok-part", "must-not-merge":
				e.part = true
			case "none":
				e.opened, e.plain = wantNo, true
			case "fail", "fail-part", "no":
				e.opened = wantNo
			}
		case "sig":
			switch word {
			case "good":
				if e.verified == either && value == "good" {
					e.verified = wantYes
				}
			default:
				e.verified = wantNo
			}
		case "verified":
			e.verified = answerTo(word)
		case "text":
			e.texts = append(e.texts, unquoted(value))
		}
		switch {
		case strings.HasPrefix(clause, "sig by gpg: "):
			e.verified = wantNo
			if m := goodSig.FindStringSubmatch(clause); m != nil {
				e.verified, e.signer = wantYes, m[1]
			}
		case strings.HasPrefix(clause, "inner (protected) Subject must be used"):
			e.subject = "inner"
		case strings.Contains(clause, "must NOT replace the Subject"):
			e.subject = "outer"
		case strings.HasPrefix(clause, "reject"), strings.HasPrefix(clause, "must be rejected"):
			e.opened, e.verified = wantNo, wantNo
		case strings.Contains(clause, "must not be accepted"), strings.Contains(clause, "never verified=yes"), strings.Contains(clause, "pass through"):
			e.opened, e.verified = wantNo, wantNo
		case strings.HasPrefix(clause, "text contains "):
			e.texts = append(e.texts, unquoted(strings.TrimPrefix(clause, "text contains ")))
		case s.smime() && clause == "same": // as the one before it: a password recipient
			e.opened, e.verified = wantNo, wantNo
		case strings.HasSuffix(clause, "=> verified=no"):
			e.verified = wantNo
		case strings.Contains(clause, "AEAD sample: decrypt=no"):
			e.opened, e.verified = wantNo, wantNo
		case strings.HasPrefix(clause, "upstream UI asserts") && e.opened == wantYes:
			for _, m := range bodyText.FindAllStringSubmatch(clause, -1) {
				e.texts = append(e.texts, m[1])
			}
		}
	}
	if strings.HasPrefix(s.kind, "openpgp-bomb") || strings.HasPrefix(s.kind, "openpgp-fuzz") {
		e.verified = wantNo
	}
	e.passes = strings.Contains(s.verdict, "passes")
	e.limits = strings.Contains(s.verdict, "64 MiB") || strings.Contains(s.verdict, "no crash") || strings.Contains(s.verdict, "without crash")
	return e
}

// unquoted is the text of a literal in Python's or in C's manner.
func unquoted(s string) string {
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' {
		return s
	}
	return strings.NewReplacer(`\n`, "\n", `\'`, "'", `\"`, `"`, `\\`, `\`).Replace(s[1 : len(s)-1])
}

// work is what the runner does with a sample.
type work string

const (
	workMail   work = "mail"      // fed as it is
	workRaw    work = "raw"       // an OpenPGP message, put into a mail
	workCMS    work = "cms"       // a CMS message, put into a mail
	workCert   work = "cert"      // a certificate, imported
	workSMTP   work = "smtp"      // what a session may hold
	workBeside work = "beside"    // run by the tests of the package that it is about
	workNext   work = "next work" // not mail
)

// besides are the kinds that packages test themselves, and which.
var besides = map[string][]string{
	"x509-path":           {"filter/chain"},
	"crypto-vectors-json": {"hsm/internal/p11", "hsm/keyd", "filter/cms"},
	"dkim":                {"filter/dkim"},
	"arc-yaml":            {"filter/arc"},
}

// besideList is besides in words.
func besideList() string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(besides)) {
		all = append(all, "`"+kind+"` by "+strings.Join(besides[kind], ", "))
	}
	return strings.Join(all, "; ")
}

func (s *sample) work() work {
	switch k := s.kind; {
	case strings.HasPrefix(k, "openpgp-cert-"):
		return workCert
	case k == "smtp-smuggling", k == "smtp-fuzz-seed":
		return workSMTP
	case strings.HasPrefix(k, "openpgp-"):
		return workRaw
	case strings.HasPrefix(k, "cms-"):
		return workCMS
	case s.smime():
		return workMail
	case besides[k] != nil:
		return workBeside
	case slices.Contains([]string{"plain", "decrypt-oracle", "header-from-parsing", "sign-oracle-html"}, k):
		return workMail
	}
	for _, p := range []string{"pgp-", "mime-", "control-", "spoof-", "header-protection-"} {
		if strings.HasPrefix(s.kind, p) || s.kind+"-" == p {
			return workMail
		}
	}
	return workNext
}

// exception is a sample that differs from its verdict, and why.
type exception struct{ path, word, what, reason string }

const exceptionsFile = "testdata/corpus-exceptions.tsv"

// readExceptions reads the file of samples that may differ. "exception" is a
// lasting one, "todo" is one that work goes on at.
func readExceptions(t testing.TB) map[string]exception {
	t.Helper()
	b, err := os.ReadFile(exceptionsFile)
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma, r.Comment, r.LazyQuotes, r.FieldsPerRecord = '\t', '#', true, 4
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", exceptionsFile, err)
	}
	all := map[string]exception{}
	for _, row := range rows {
		e := exception{row[0], row[1], row[2], row[3]}
		if _, twice := all[e.path]; twice || e.word != "exception" && e.word != "todo" || e.what == "" || e.reason == "" {
			t.Fatalf("%s: %v: want path, exception or todo, what differs, and a reason, once", exceptionsFile, row)
		}
		if strings.Contains(strings.ToLower(e.reason), "not implemented") && e.word == "exception" {
			t.Fatalf("%s: %s: what is not implemented is no exception", exceptionsFile, e.path)
		}
		all[e.path] = e
	}
	return all
}

// line is the exception as it stands in the file.
func (e exception) line() string {
	return fmt.Sprintf("%s\t%s\t%s\t%s", e.path, e.word, e.what, e.reason)
}
