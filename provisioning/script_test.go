package provisioning

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/filter/autoconfig"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// TestScripts runs testdata/*.txtar: a script, then "-- name --" and the
// content of each file it finds in its folder, beside the other files of
// testdata. Whatever a line says, a command with -n must leave token and
// folder as they were, and with --json must write JSON only. The lines:
//
//	postern ARG…             must exit 0
//	exit N postern ARG…      must exit N
//	stdout 'RE', stderr 'RE' must match what the last command wrote
//	! stdout 'RE'            must not
//	empty stdout             must be empty
//	json stderr              must be one JSON value
//	stdin FILE               standard input of the next command; "stdout" is what the last one wrote
//	flip FILE                changes a bit of it
//	save FILE                keeps what the last command wrote to stdout
//	keyd WORD                away, locked, empty, failed, busy or ready
//	pin TEXT                 what is typed at the next prompts; "none" for no terminal
//	clock TIME               RFC 3339, or +DURATION from now
//	let NAME 'RE'            sets $NAME to the first group of RE in stdout
//	openssl ARG…             must exit 0; a test's own authority
//	learn FILE ADDRESS       verified mail of the address brought the certificates in the file
//	shelf USE FILE… [away]   the directories gave the certificates in the files, to be used or not
//	version1                 the keyring is a file of the first version
//	told                     filterd is running, and has written of a mail
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d scripts, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { newScript(t).run(string(b)) })
	}
}

type script struct {
	t              *testing.T
	dir            string
	old            string // a keyring of version 1, in SQL
	token          hsm.Keeper
	state          string
	pins           []string
	now            time.Time
	stdin          []byte
	stdout, stderr bytes.Buffer
	vars           map[string]string
	forgot         bool
	shelf          *shelf
}

func newScript(t *testing.T) *script {
	dir := t.TempDir()
	files, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".txtar") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile("../filter/keyring/testdata/version-1.sql")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return &script{t: t, dir: dir, old: string(old), token: hsmtest.Memory(t), state: "ready", now: time.Now(), vars: map[string]string{"WORK": dir}}
}

var marker = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func (s *script) run(text string) {
	at := marker.FindAllStringSubmatchIndex(text, -1)
	lines := text
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		if i == 0 {
			lines = text[:m[0]]
		}
		if err := os.WriteFile(filepath.Join(s.dir, text[m[2]:m[3]]), []byte(s.expand(text[m[1]:end])), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	for n, line := range strings.Split(lines, "\n") {
		if words := s.words(line); len(words) > 0 {
			if err := s.step(words); err != nil {
				s.t.Fatalf("line %d: %s: %v\nstdout: %sstderr: %s", n+1, line, err, &s.stdout, &s.stderr)
			}
		}
	}
}

func (s *script) expand(text string) string {
	return os.Expand(text, func(name string) string { return s.vars[name] })
}

// words splits a line at blanks; 'single quotes' hold words together, and # begins a comment.
func (s *script) words(line string) (words []string) {
	var word strings.Builder
	in, quoted := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, in = !quoted, true
		case quoted:
			word.WriteRune(r)
		case r == '#' && !in:
			return words
		case r == ' ' || r == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

func (s *script) step(words []string) error {
	want := 0
	not := words[0] == "!"
	if not {
		words = words[1:]
	}
	stream := map[string]*bytes.Buffer{"stdout": &s.stdout, "stderr": &s.stderr}
	switch words[0] {
	case "exit":
		var err error
		if want, err = strconv.Atoi(words[1]); err != nil {
			return err
		}
		words = words[2:]
		fallthrough
	case "postern":
		args := make([]string, 0, len(words))
		for _, w := range words[1:] {
			args = append(args, s.expand(w))
		}
		before := s.world()
		if got := s.postern(args); got != want {
			return fmt.Errorf("got exit %d, want %d", got, want)
		}
		if after := s.world(); slices.Contains(args, "-n") && after != before {
			return fmt.Errorf("a dry run changed something:\n%s\nwas\n%s", after, before)
		}
		if slices.Contains(args, "--json") && args[0] != "process" && s.stdout.Len() > 0 && !json.Valid(s.stdout.Bytes()) {
			return errors.New("--json wrote something else")
		}
		return s.forEveryError(want)
	case "stdout", "stderr":
		re, err := regexp.Compile("(?m)" + s.expand(words[1]))
		if err != nil {
			return err
		}
		if re.Match(stream[words[0]].Bytes()) == not {
			return errors.New("does not hold")
		}
	case "empty":
		if stream[words[1]].Len() > 0 {
			return errors.New("not empty")
		}
	case "json":
		if !json.Valid(stream[words[1]].Bytes()) {
			return errors.New("not JSON")
		}
	case "stdin":
		if words[1] == "stdout" {
			s.stdin = bytes.Clone(s.stdout.Bytes())
			return nil
		}
		var err error
		s.stdin, err = os.ReadFile(words[1])
		return err
	case "save":
		return os.WriteFile(words[1], s.stdout.Bytes(), 0o644)
	case "flip":
		b, err := os.ReadFile(words[1])
		if err != nil || len(b) == 0 {
			return fmt.Errorf("%d bytes: %w", len(b), err)
		}
		b[0] ^= 1
		return os.WriteFile(words[1], b, 0o644)
	case "openssl":
		args := make([]string, 0, len(words))
		for _, w := range words[1:] {
			args = append(args, s.expand(w))
		}
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	case "learn":
		return s.learn(words[1], words[2])
	case "shelf":
		return s.shelve(words[1], words[2:])
	case "told":
		return s.told()
	case "joins":
		return s.joins(words[1:])
	case "version1":
		return s.version1()
	case "keyd":
		s.state = words[1]
	case "pin":
		s.pins = words[1:]
	case "clock":
		if later, ok := strings.CutPrefix(words[1], "+"); ok {
			d, err := time.ParseDuration(later)
			s.now = time.Now().Add(d)
			return err
		}
		var err error
		s.now, err = time.Parse(time.RFC3339, words[1])
		return err
	case "let":
		m := regexp.MustCompile("(?m)" + words[2]).FindSubmatch(s.stdout.Bytes())
		if m == nil {
			return errors.New("no match")
		}
		s.vars[words[1]] = string(m[1])
	default:
		return errors.New("no such step")
	}
	return nil
}

// learn is what filterd does behind a mail.
func (s *script) learn(file, from string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	certs, err := readCerts(file, data)
	if err != nil {
		return err
	}
	a, err := message.ParseAddress(from)
	if err != nil {
		return err
	}
	store, err := keyring.Open(filepath.Join(s.dir, "seen.db"))
	if err != nil {
		return err
	}
	defer store.Close()
	for _, c := range certs {
		c.Source, c.FirstSeen, c.LastSeen = "mail", s.now, s.now
		if c.Role == keyring.Holder {
			c.Addresses = []message.Address{a}
		}
		if err := store.Learn(s.t.Context(), c); err != nil {
			return err
		}
	}
	return nil
}

// told is filterd with a record of one mail; it runs on until the test ends.
func (s *script) told() error {
	r, err := record.Open(filepath.Join(s.dir, "record.db"), record.Options{Keep: time.Hour})
	if err != nil {
		return err
	}
	s.t.Cleanup(func() { r.Close() })
	tls := transport.Carriage{TLS: "TLSv1.3:TLS_AES_128_GCM_SHA256"}
	in, out := tls, tls
	in.Peer, out.Level, out.Result = "name:mail.company1.example", "verify", transport.LevelMet
	to := []record.Recipient{
		{To: "archive@vault.example", Reply: "250 2.0.0 kept", Format: "openpgp", Sealed: true, Signed: true, Archive: true},
		{To: "bob@partner.example", Reply: "250 2.0.0 taken", Onward: out, Format: "openpgp", Sealed: true, Signed: true},
		{To: "carol@other.example", Reply: "250 2.0.0 delivered earlier", Earlier: true, Format: "none"},
	}
	r.Tell(record.Mail{Trace: "TRACETRACETRACE1", At: s.now, Direction: "outbound", Listener: "inside", From: "alice\x1b[2J@company1.example", MessageID: "<1@company1.example>",
		Size: 1234, Action: "relay", Reply: "250 2.0.0 taken TRACETRACETRACE1", Rule: "default", Carried: in, Recipients: append(to, slices.Repeat(to[2:], 1004)...)})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); { // it is written behind the mail
		if found, err := r.Find(s.t.Context(), "TRACETRACETRACE1"); err != nil || len(found) > 0 {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
	return errors.New("the record has no trace")
}

func (s *script) version1() error {
	db, err := sql.Open("sqlite", filepath.Join(s.dir, "keyring.db"))
	if err != nil {
		return err
	}
	_, err = db.Exec("PRAGMA journal_mode = WAL;" + s.old)
	return errors.Join(err, db.Close())
}

// world is all that a command could change: the files and the keys. The
// write-ahead log's index is the reader's own.
func (s *script) world() string {
	var b strings.Builder
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "-shm") || strings.HasSuffix(path, "-wal") {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(content))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := s.token.Keys(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	slices.SortFunc(keys, func(a, b hsm.Key) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %s retired %v\n", k.ID, k.Label, k.Retired)
	}
	return b.String()
}

// forEveryError holds the form of errors: one line, then at most one hint.
func (s *script) forEveryError(status int) error {
	if status == ExitDone || s.stderr.Len() == 0 || strings.HasPrefix(s.stderr.String(), "{") {
		return nil
	}
	text := s.stderr.String()
	if i := strings.Index(text, "postern: "); i >= 0 {
		text = text[i:]
	}
	if !regexp.MustCompile(`^postern: [^\n]+\n(hint: [^\n]+\n)?$`).MatchString(text) && strings.Contains(text, "postern: ") {
		return errors.New("an error is one line and one hint")
	}
	return nil
}

func (s *script) postern(args []string) int {
	s.stdout.Reset()
	s.stderr.Reset()
	app := &App{Operations: journalStub, Stdin: bytes.NewReader(s.stdin), Stdout: &s.stdout, Stderr: &s.stderr, Version: "0.1-test", Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Now:    func() time.Time { return s.now },
		Names:  s.names,
		Config: s.config,
		Keeper: func(_ context.Context, socket string) (hsm.Keeper, error) {
			if s.state == "away" || strings.HasSuffix(socket, "nobody.sock") {
				return nil, fmt.Errorf("dial %s: %w", socket, hsm.ErrAway)
			}
			return keeper{s.token, s.state}, nil
		},
		Pipeline: func(_ context.Context, path string) (Pipeline, error) { return mailPath{}, nil },
		Judge: func(_ context.Context, path string) (Judge, error) {
			site, err := s.config(path)
			if err != nil {
				return nil, err
			}
			ring, err := keyring.OpenReadOnly(site.Keyring)
			return court{ring}, err
		},
		Finder: func(string) (Finder, error) {
			if s.shelf == nil {
				return nil, nil
			}
			return s.shelf, nil
		},
		Plan: func(path string) (p Plan, err error) {
			b, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(b, &p)
			}
			return p, err
		},
		Ways:  func(_ context.Context, path string) (Ways, error) { return ways{path}, nil },
		Clock: func(context.Context) (bool, bool) { return true, true },
		Greet: func(_ context.Context, h Hop) error {
			if strings.HasPrefix(h.Address, "dead") {
				return errors.New("connection refused")
			}
			return nil
		},
		Agent: agentStub,
		Access: &Access{
			Serve: func(context.Context, string) error { return nil },
			Settings: func(path string) ([]autoconfig.Site, error) {
				s := autoconfig.Site{Domain: "company1.example", Name: "Company"}
				if !strings.HasSuffix(path, "none.json") {
					s.Servers = []autoconfig.Server{{Protocol: "imap", Host: "mail.company1.example", Port: 993, Implicit: true}}
				}
				return []autoconfig.Site{s}, nil
			},
		},
		Update:    updateStub{s.dir},
		Health:    healthOf(args),
		Pause:     func(_ context.Context, d time.Duration) error { s.now = s.now.Add(d); return nil },
		ConfigDoc: configDocStub,
		Forget: func(_ context.Context, _ string, a message.Address, dry bool) (time.Time, bool, error) {
			if a.Domain == "away.example" {
				return time.Time{}, false, fs.ErrPermission
			}
			known := a.Domain == "partner.example" && !s.forgot
			s.forgot = s.forgot || known && !dry
			return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), known, nil
		},
	}
	if len(s.pins) > 0 && s.pins[0] != "none" {
		pins := s.pins
		app.Secret = func(string) (string, error) {
			if len(pins) == 0 {
				return "", io.ErrUnexpectedEOF
			}
			pin := pins[0]
			pins = pins[1:]
			return pin, nil
		}
	}
	status := app.Run(context.Background(), args)
	s.stdin = nil
	return status
}

func configDocStub(w io.Writer, daemon string) error {
	_, err := fmt.Fprintf(w, "# %s.toml\n", daemon)
	return err
}

// config reads a Site as JSON; the default one is a small company.
func (s *script) config(path string) (Site, error) {
	site := Site{Keyring: filepath.Join(s.dir, "keyring.db"), Seen: filepath.Join(s.dir, "seen.db"), Record: filepath.Join(s.dir, "record.db"), KeepSocket: "keep.sock", UseSocket: "use.sock", TLSDir: filepath.Join(s.dir, "tls"),
		Hops:   []Hop{{"inbound", "mail.company1.example:25"}},
		Policy: &policy.Policy{Domains: map[string]policy.Sign{"company1.example": policy.SignNever}, Default: policy.Optional, Undecryptable: policy.Mark}}
	if path == DefaultConfig {
		return site, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Site{}, err
	}
	if err := json.Unmarshal(b, &site); err != nil {
		return Site{}, fmt.Errorf("%s:1: %w", path, err)
	}
	return site, nil
}

// mailPath decides by the recipient's name.
type mailPath struct{}

func (mailPath) Process(_ context.Context, r ProcessRequest, mail io.Reader) (Processed, error) {
	b, err := io.ReadAll(mail)
	if err != nil {
		return Processed{}, err
	}
	p := Processed{Action: "relay", Explain: []string{"It goes from " + r.From + " at " + r.At.UTC().Format(time.RFC3339) + ".", "The rule that decided: default."}}
	for i, to := range r.To {
		local, _, _ := strings.Cut(to, "@")
		switch local {
		case "reject", "defer":
			p.Action, p.Copies = local, nil
		default:
			p.Copies = append(p.Copies, Copy{Name: fmt.Sprintf("%d.eml", i+1), Message: bytes.NewBuffer(bytes.Clone(b))})
		}
	}
	p.Decision = map[string]any{"action": p.Action, "plans": []string{}}
	return p, nil
}

// TestNoConfiguration: a box without filterd.toml has the default paths; a
// file that was asked for must be there.
func TestNoConfiguration(t *testing.T) {
	var out, complaint bytes.Buffer
	var socket string
	a := &App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaint,
		Config: func(string) (Site, error) { return Site{}, fs.ErrNotExist },
		Keeper: func(_ context.Context, s string) (hsm.Keeper, error) { socket = s; return hsmtest.Memory(t), nil }}
	if got := a.Run(t.Context(), []string{"key", "list"}); got != ExitDone || socket != DefaultSocket {
		t.Errorf("got exit %d, socket %q, want 0 and %q: %s", got, socket, DefaultSocket, &complaint)
	}
	if got := a.Run(t.Context(), []string{"key", "list", "--config", "away.toml"}); got != ExitNo {
		t.Errorf("got exit %d, want %d", got, ExitNo)
	}
}
