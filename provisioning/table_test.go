package provisioning

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// whole is a program with every command in it.
func whole() *App {
	return &App{Version: "0.1-test", Operations: journalStub, Agent: agentStub, Update: updateStub{}, ConfigDoc: configDocStub}
}

// writers are the commands that change something, and so must be seen to
// change nothing with -n.
var writers = []string{"token init", "token unlock", "key generate", "key retire", "key destroy",
	"identity create", "identity add", "identity export", "identity remove",
	"cert import", "cert trust", "cert distrust", "cert remove", "publish wkd", "publish ldif", "keyring upgrade", "image manifest", "image sign", "image log", "image keys", "update apply", "update start", "update rollback", "update confirm", "postfix render", "process"}

// scriptLines are the command lines of all scripts, split into words.
func scriptLines(t *testing.T) (lines [][]string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d scripts, %v", len(files), err)
	}
	s := &script{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if at := marker.FindStringIndex(text); at != nil {
			text = text[:at[0]]
		}
		for _, line := range strings.Split(text, "\n") {
			words := s.words(line)
			if len(words) > 2 && words[0] == "exit" {
				words = words[2:]
			}
			if len(words) > 1 && words[0] == "postern" {
				lines = append(lines, words[1:])
			}
		}
	}
	return lines
}

// TestEveryCommandIsScripted: each command has a script line, one with
// --json, and where it writes one with -n; each of its flags is used.
func TestEveryCommandIsScripted(t *testing.T) {
	lines := scriptLines(t)
	used := func(c command, words ...string) bool {
		return slices.ContainsFunc(lines, func(line []string) bool {
			if line[0] != c.noun || c.verb != "" && (len(line) < 2 || line[1] != c.verb) {
				return false
			}
			for _, w := range words {
				if !slices.Contains(line, w) {
					return false
				}
			}
			return true
		})
	}
	for _, c := range whole().commands() {
		if !used(c) {
			t.Errorf("%s: no script line", c.name())
		}
		if !used(c, "--json") {
			t.Errorf("%s: no script line with --json", c.name())
		}
		if slices.Contains(writers, c.name()) && !used(c, "-n") {
			t.Errorf("%s: no script line with -n", c.name())
		}
		for _, o := range c.flags {
			if !used(c, "--"+o.name) {
				t.Errorf("%s: no script line with --%s", c.name(), o.name)
			}
		}
	}
	for _, name := range writers {
		if !slices.ContainsFunc(whole().commands(), func(c command) bool { return c.name() == name }) {
			t.Errorf("writers names %s, which is no command", name)
		}
	}
}

// TestEveryCommandIsDocumented: list, usage, manual page and completion know
// each command and each of its flags, and the table says something of them.
func TestEveryCommandIsDocumented(t *testing.T) {
	ask := func(args ...string) string {
		var out, complaint bytes.Buffer
		a := whole()
		a.Stdout, a.Stderr = &out, &complaint
		if got := a.Run(context.Background(), args); got != ExitDone {
			t.Fatalf("postern %s: got exit %d, want 0: %s", strings.Join(args, " "), got, &complaint)
		}
		return out.String()
	}
	list, manual, completion := ask("help"), ask("manual"), ask("completion", "bash")
	for _, c := range whole().commands() {
		if c.about == "" || strings.HasSuffix(c.about, ".") || c.about != strings.ToLower(c.about[:1])+c.about[1:] {
			t.Errorf("%s: about is %q, want a lower-case line without a full stop", c.name(), c.about)
		}
		usage := ask("help", c.name())
		for where, has := range map[string]bool{
			"the list":        strings.Contains(list, "  "+c.name()) && strings.Contains(list, c.about),
			"its usage":       strings.Contains(usage, c.synopsis()) && strings.Contains(usage, c.more),
			"the manual page": strings.Contains(manual, ".B "+roff(c.name())) && strings.Contains(manual, roff(c.more)),
			"the completion":  strings.Contains(completion, `"`+c.name()),
		} {
			if !has {
				t.Errorf("%s does not stand in %s", c.name(), where)
			}
		}
		for _, o := range append(slices.Clone(c.flags), common...) {
			if o.about == "" {
				t.Errorf("%s %s: nothing is said of it", c.name(), o.form())
			}
			if !strings.Contains(usage, o.form()) || !strings.Contains(manual, ".B "+roff(o.form())+"\n"+roff(o.about)) ||
				!strings.Contains(completion, strings.Fields(o.form())[0]) {
				t.Errorf("%s %s is not documented everywhere", c.name(), o.form())
			}
		}
	}
}

// TestNoSecretIsAnArgument: no flag takes a PIN or a passphrase as its value;
// those that have to do with one name a file.
func TestNoSecretIsAnArgument(t *testing.T) {
	for _, c := range whole().commands() {
		for _, o := range c.flags {
			word := strings.ToLower(o.name)
			if (strings.Contains(word, "pin") || strings.Contains(word, "pass") || strings.Contains(word, "secret")) && o.value != "" && o.value != "FILE" {
				t.Errorf("%s %s takes a secret on the command line", c.name(), o.form())
			}
		}
	}
}
