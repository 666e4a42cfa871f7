package imagetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/image/imagetest"
)

// hour is each command of "The first hour with a box", by how its line begins,
// and the step of TestBox that runs the line as it stands on the page.
var hour = map[string]string{
	"postern image verify ":                                     "the file that was downloaded",
	"dd if=":                                                    "the file that was downloaded",
	"postern config doc box ":                                   "first start, claim and mail",
	"postern box claim ":                                        "first start, claim and mail",
	"postern box status":                                        "first start, claim and mail",
	"postern box do -- token probe":                             "first start, claim and mail",
	"postern box do -- identity create ":                        "first start, claim and mail",
	"postern box do -- identity export ":                        "first start, claim and mail",
	"postern box do -- cert import ":                            "first start, claim and mail",
	"postern box do -- doctor":                                  "first start, claim and mail",
	"postern box do -- trace ":                                  "first start, claim and mail",
	"postern box do -- key log ":                                "first start, claim and mail",
	"postern box config ":                                       "first start, claim and mail",
	"postern box configure ":                                    "first start, claim and mail",
	"age-keygen ":                                               "first start, claim and mail",
	"postern box backup ":                                       "first start, claim and mail",
	"postern box restore box.age --identity reader.txt":         "first start, claim and mail",
	"postern box restore box.age --identity reader.txt --from ": "reset, claim and restore",
	"postern box do -- identity create --domain company1.example --successor": "reset, claim and restore",
	"postern box reset":          "reset, claim and restore",
	"postern box offer ":         "claim by a stick, and sealed start",
	"postern box meet ":          "claim by a stick, and sealed start",
	"postern box pin ":           "claim by a stick, and sealed start",
	"postern box recovery":       "claim by a stick, and sealed start",
	"postern unlock share-1.txt": "claim by a stick, and sealed start",
	"postern unlock":             "claim by a stick, and sealed start",
}

// sections are the parts of the page whose blocks are those of hour.
var sections = []string{"## The first hour with a box", "### Unlock", "### Recovery key", "### Backup", "### Reset", "### Where nobody looks at the screen"}

// pageLines are the command lines of the page, without their comments.
func pageLines(t *testing.T) (lines []string) {
	t.Helper()
	page, err := os.ReadFile("../../appliance/docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	section, block, seen := "", "", 0
	for line := range strings.Lines(string(page)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case block == "" && strings.HasPrefix(line, "```"):
			block = line
		case strings.HasPrefix(line, "```"):
			block = ""
		case block == "" && strings.HasPrefix(line, "#"):
			if strings.HasPrefix(line, "## ") && section != "" && line != sections[0] {
				if seen != len(sections) {
					t.Errorf("got %d of the sections %q", seen, sections)
				}
				return lines
			}
			if section = line; slices.Contains(sections, line) {
				seen++
			}
		case block == "```sh" && slices.Contains(sections, section):
			if command, _, _ := strings.Cut(line, " # "); strings.TrimSpace(command) != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimSpace(command))
			}
		}
	}
	t.Fatal("the page has no end of the first hour")
	return nil
}

// begins is the key of hour that a line belongs to: the longest that fits.
func begins(line string) (key string) {
	for k := range hour {
		if strings.HasPrefix(line, k) && len(k) > len(key) {
			key = k
		}
	}
	return key
}

// Every command on the page is one that TestBox runs, and the other way round.
func TestPageIsDriven(t *testing.T) {
	found := map[string]bool{}
	for _, line := range pageLines(t) {
		key := begins(line)
		if key == "" {
			t.Errorf("operations.md: %q is run by no step", line)
		}
		if found[key] {
			t.Errorf("operations.md: %q stands there twice", line)
		}
		found[key] = true
	}
	for key := range hour {
		if !found[key] {
			t.Errorf("operations.md: no line begins with %q", key)
		}
	}
}

// line is the one of the page that begins so, with words for its placeholders.
func (o *operator) line(t *testing.T, begin string, with map[string]string) (line string) {
	t.Helper()
	for _, l := range pageLines(t) {
		if begins(l) == begin {
			line = l
		}
	}
	if line == "" {
		t.Fatalf("operations.md: no line begins with %q", begin)
	}
	for word, real := range with {
		if !strings.Contains(line, word) {
			t.Fatalf("operations.md: got %q, want %s in it", line, word)
		}
		line = strings.ReplaceAll(line, word, real)
	}
	o.ran[begin] = true
	t.Logf("$ %s", line)
	return line
}

// page runs a line of the page in the operator's folder.
func (o *operator) page(t *testing.T, begin, stdin string, with map[string]string) (string, error) {
	t.Helper()
	line := o.line(t, begin, with)
	var out bytes.Buffer
	var err error
	later(t, func() bool {
		out.Reset()
		cmd := o.shell(t.Context(), line)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		return ok && exit.ExitCode() == 75
	})
	return out.String(), err
}

// must is page for a command that has to succeed.
func (o *operator) must(t *testing.T, begin, stdin string, with map[string]string) string {
	t.Helper()
	out, err := o.page(t, begin, stdin, with)
	if err != nil {
		t.Fatalf("%s: %v\n%s", begin, err, out)
	}
	return out
}

// shell is a line as it is typed on the operator's machine.
func (o *operator) shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = o.desk
	cmd.Env = append(os.Environ(), "PATH="+o.bin+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+filepath.Dir(o.dir), "HOME="+o.desk)
	return cmd
}

// typed is like page at a terminal: what answer makes of what was shown so far
// is typed once it is not "".
func (o *operator) typed(t *testing.T, begin string, with map[string]string, answer func(shown string) string) string {
	t.Helper()
	line := o.line(t, begin, with)
	ctx, cancel := context.WithTimeout(t.Context(), imagetest.Patience)
	defer cancel()
	// script(1) gives it a terminal, and its exit status on.
	cmd := o.shell(ctx, "exec script --quiet --flush --return --command \"$LINE\" /dev/null")
	cmd.Env = append(cmd.Env, "LINE="+line)
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	shown := &screen{said: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = shown, shown
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for done := false; ; {
		select {
		case text := <-shown.said:
			if a := answer(text); a != "" && !done {
				done = true
				if _, err := io.WriteString(keys, a+"\n"); err != nil {
					t.Fatalf("%s: type: %v", begin, err)
				}
			}
		case err := <-ended:
			if err != nil {
				t.Fatalf("%s: %v\n%s", begin, err, shown.text())
			}
			return shown.text()
		}
	}
}

// screen is what a terminal shows; said always has all of it.
type screen struct {
	mu   sync.Mutex
	all  bytes.Buffer
	said chan string
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.Write(p)
	select {
	case <-s.said: // older
	default:
	}
	s.said <- s.all.String()
	return len(p), nil
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// found is the last group of what fits in text.
func found(t *testing.T, text, what string) string {
	t.Helper()
	m := regexp.MustCompile(what).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q in\n%s", what, text)
	}
	return m[len(m)-1]
}

// undriven are the lines of the page that no step has run.
func (o *operator) undriven(steps map[string]bool) (list []string) {
	for begin, step := range hour {
		if steps[step] && !o.ran[begin] {
			list = append(list, fmt.Sprintf("%q (%s)", begin, step))
		}
	}
	slices.Sort(list)
	return list
}
