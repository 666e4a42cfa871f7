package filter

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
//	protect A LEVEL, sign MODE, undecryptable MODE, client-encryption MODE
//	default LEVEL                 for whom no other rule is
//	no-key MODE, downgrade MODE, shadow
//	transport DOMAIN LEVEL        of the way to its servers; "default" for all others
//	encrypt TAG, sign-on TAG, plain TAG    a trigger: a tag, or "Field: value"
//	forget A                      the certificate of a partner is not known
//	seen A                        it arrived by itself: known, and not trusted
//	once A                        mail to the address was encrypted before
//	opened ID                     a mail with the Message-ID came encrypted, and was opened
//	archive DIRECTION…            of what goes to the archive, archive@vault.example
func TestGoldenMails(t *testing.T) { golden(t, "testdata/*.txtar", walkGolden) }

// TestGoldenExplanations runs testdata/explain/NN-name.txtar, of the same kind:
// what is wanted is what postern explain says.
func TestGoldenExplanations(t *testing.T) { golden(t, "testdata/explain/*.txtar", explainGolden) }

func golden(t *testing.T, pattern string, walk func(t *testing.T, way, mail string) string) {
	files, err := filepath.Glob(pattern)
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
			got := walk(t, string(way.Data), string(mail.Data))
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

// journey is a mail at the beginning of its way.
type journey struct {
	*world
	direction policy.Direction
	from      string
	to        []string
	mail      string
}

// set reads the lines of a way.
func set(t *testing.T, way, mail string) *journey {
	w := newWorld(t)
	j := &journey{world: w, direction: policy.Inbound, mail: crlf(mail)}
	above, once, read := "", "", ""
	rules := w.config.Policy
	for _, line := range strings.Split(strings.TrimSpace(way), "\n") {
		words := strings.Fields(line)
		switch words[0] {
		case "inbound", "outbound":
			j.direction = policy.Direction(words[0])
		case "from":
			if len(words) > 1 {
				j.from = words[1]
			}
		case "to":
			j.to = append(j.to, words[1])
		case "seal":
			j.mail = w.sealed(j.mail, strings.TrimPrefix(words[1], "-"), words[2:]...)
		case "above":
			above += strings.TrimPrefix(line, "above ") + "\r\n"
		case "protect":
			rules.Recipients[words[1]] = policy.Protect(words[2])
		case "sign":
			rules.Domains["company1.example"] = policy.Sign(words[1])
		case "client-encryption":
			rules.Client = policy.Client(words[1])
		case "default":
			rules.Default = policy.Protect(words[1])
		case "no-key":
			if rules.NoKey = policy.NoKey(words[1]); rules.NoKey == policy.NoKeyPDF {
				w.gate.PDF.Press = &printer{}
			}
		case "downgrade":
			rules.Downgrade = policy.Downgrade(words[1])
		case "shadow":
			rules.Shadow = true
		case "transport":
			level := policy.Way{Level: policy.Level(words[2])}
			if words[1] == "default" {
				rules.DefaultWay = level
			} else {
				rules.Ways = map[string]policy.Way{words[1]: level}
			}
		case "encrypt", "sign-on", "plain":
			w.gate.Triggers = append(w.gate.Triggers, trigger(words[0], strings.Join(words[1:], " ")))
			rules.Lowering = rules.Lowering || words[0] == "plain"
		case "undecryptable":
			rules.Undecryptable = policy.Undecryptable(words[1])
		case "once":
			once = words[1]
		case "opened":
			read = words[1]
		case "archive":
			w.archiving(slices.Contains(words, "inbound"), slices.Contains(words, "outbound"))
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
	if once != "" || read != "" {
		w.remembers(once, read)
	}
	j.mail = above + j.mail
	return j
}

func walkGolden(t *testing.T, way, mail string) string {
	j := set(t, way, mail)
	var b strings.Builder
	fmt.Fprintf(&b, "reply %s\n", j.send(j.direction, j.mail, j.from, j.to...))
	for i, d := range j.hop.got {
		sender := d.env.From.String()
		if d.env.Null {
			sender = "<>"
		}
		fmt.Fprintf(&b, "\n== copy %d from %s to %s\n", i+1, sender, j.hop.recipients()[i])
		j.render(&b, j.direction, d)
	}
	return b.String()
}

// explainGolden prints the explanation, with names in the place of fingerprints.
func explainGolden(t *testing.T, way, mail string) string {
	j := set(t, way, mail)
	r := Request{Direction: j.direction, Mail: strings.NewReader(j.mail)}
	if j.from != "" {
		r.From = address(t, j.from)
	}
	for _, a := range j.to {
		r.To = append(r.To, address(t, a))
	}
	o := j.gate.Process(t.Context(), r)
	defer o.Close()
	text := strings.Join(o.Explain, "\n") + "\n"
	for who, id := range j.people {
		text = strings.ReplaceAll(text, id.Fingerprint, "("+who+")")
	}
	return text
}

// trigger is one of the way's lines.
func trigger(asks, text string) Trigger {
	r := Trigger{Asks: policy.Asks{Encrypt: asks == "encrypt", Sign: asks == "sign-on", Plain: asks == "plain"}}
	if name, value, ok := strings.Cut(text, ":"); ok {
		r.Field, r.Value = name, strings.TrimSpace(value)
	} else {
		r.Tag = text
	}
	return r
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
	b.WriteString(indent(lasting(string(d.mail))))
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
			b.WriteString(indent(lasting(text)))
		}
	}
}

// lasting is a mail without what differs from run to run.
func lasting(text string) string {
	for i, m := range anyBoundary.FindAllStringSubmatch(text, -1) {
		text = strings.ReplaceAll(text, m[1], fmt.Sprintf("boundary-%d", i+1))
	}
	return anyArmor.ReplaceAllString(text, "(armor: $1)")
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
