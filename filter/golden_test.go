package filter

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"postern/filter/keyring"
	"postern/filter/policy"
	"postern/filter/protect"
)

// TestGoldenMails runs testdata/NN-name.txtar: what it shows, then the files
// "way", "mail" (LF line ends) and "want" (written by -update, read by a
// person). Lines of way:
//
//	inbound | outbound            the listener
//	from A, to A                  the envelope; "from" alone is the null sender
//	seal SIGNER TO…               what the partner's program does first; "-" for no signature
//	above FIELD                   a field that somebody put on top on the way
//	protect A LEVEL, sign MODE, undecryptable MODE
//	forget A                      the certificate of a partner is not known
//	seen A                        it arrived by itself: known, and not trusted
func TestGoldenMails(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d golden mails, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var way, mail, want *txtar.File
			for i := range a.Files {
				switch f := &a.Files[i]; f.Name {
				case "way":
					way = f
				case "mail":
					mail = f
				case "want":
					want = f
				default:
					t.Fatalf("file %q in %s", f.Name, file)
				}
			}
			if way == nil || mail == nil || want == nil {
				t.Fatalf("%s lacks way, mail or want", file)
			}
			got := walkGolden(t, string(way.Data), string(mail.Data))
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(want.Data) {
				t.Errorf("got\n%s\nwant\n%s", got, want.Data)
			}
		})
	}
}

func walkGolden(t *testing.T, way, mail string) string {
	w := newWorld(t)
	direction, from, above := policy.Inbound, "", ""
	var to []string
	mail = crlf(mail)
	for _, line := range strings.Split(strings.TrimSpace(way), "\n") {
		words := strings.Fields(line)
		switch words[0] {
		case "inbound", "outbound":
			direction = policy.Direction(words[0])
		case "from":
			if len(words) > 1 {
				from = words[1]
			}
		case "to":
			to = append(to, words[1])
		case "seal":
			mail = w.sealed(mail, strings.TrimPrefix(words[1], "-"), words[2:]...)
		case "above":
			above += strings.TrimPrefix(line, "above ") + "\r\n"
		case "protect":
			w.config.Policy.Recipients[words[1]] = policy.Protect(words[2])
		case "sign":
			w.config.Policy.Domains["company1.example"] = policy.Sign(words[1])
		case "undecryptable":
			w.config.Policy.Undecryptable = policy.Undecryptable(words[1])
		case "forget", "seen":
			var left []keyring.Cert
			for _, c := range w.ring.partners {
				if c.Fingerprint == w.people[words[1]].Fingerprint {
					if words[0] == "forget" {
						continue
					}
					c.Trust = keyring.Seen
				}
				left = append(left, c)
			}
			w.ring.partners = left
		default:
			t.Fatalf("way %q", line)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "reply %s\n", w.send(direction, above+mail, from, to...))
	for i, d := range w.hop.got {
		sender := d.env.From.String()
		if d.env.Null {
			sender = "<>"
		}
		fmt.Fprintf(&b, "\n== copy %d from %s to %s\n", i+1, sender, w.hop.recipients()[i])
		w.render(&b, direction, d)
	}
	return b.String()
}

// What differs from run to run in a mail that was made.
var (
	anyArmor    = regexp.MustCompile(`(?s)-----BEGIN PGP (MESSAGE|SIGNATURE)-----.*?-----END PGP (MESSAGE|SIGNATURE)-----`)
	anyBoundary = regexp.MustCompile(`boundary="?([^";\s]+)"?`)
)

// render prints a copy: as it is, with armor left out, and for each of its
// recipients outside who has keys what he reads.
func (w *world) render(b *strings.Builder, direction policy.Direction, d delivery) {
	w.t.Helper()
	text := string(d.mail)
	for i, m := range anyBoundary.FindAllStringSubmatch(text, -1) {
		text = strings.ReplaceAll(text, m[1], fmt.Sprintf("boundary-%d", i+1))
	}
	text = anyArmor.ReplaceAllString(text, "(armor: $1)")
	b.WriteString(indent(text))
	layer := w.layer(d.mail)
	if direction == policy.Inbound || layer == protect.None {
		return
	}
	author := "company1.example" // whose identity signs
	if a, err := parsed(w.t, d.mail).Author(); err == nil && w.people[a.Key()].Raw != nil {
		author = a.Key()
	}
	for _, r := range d.env.Recipients {
		who := r.Address.Key()
		if w.people[who].Raw == nil && layer == protect.Sealed {
			continue
		}
		text, finding, err := w.opened(d.mail, who, author)
		if err != nil {
			fmt.Fprintf(b, "-- %s cannot open it: %v\n", who, err)
			continue
		}
		fmt.Fprintf(b, "-- %s: opened %v, signature good %v (%s)\n", who, finding.Opened, finding.Good, finding.Reason)
		if finding.Opened {
			b.WriteString(indent(text))
		}
	}
}

// indent shows a mail so that its line ends and blanks can be read: "|" before
// each line; a line that does not end in CRLF is marked.
func indent(text string) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		switch {
		case line == "":
		case strings.HasSuffix(line, "\r\n"):
			b.WriteString("| " + strings.TrimSuffix(line, "\r\n") + "\n")
		default:
			b.WriteString("| " + strings.TrimSuffix(line, "\n") + " (no CRLF)\n")
		}
	}
	return b.String()
}
