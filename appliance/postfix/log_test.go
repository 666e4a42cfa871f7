package postfix_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
)

// half leaves files in the queue as a crash does: the next start says of each
// that it should not be there, as Postfix's user.
func half(t *testing.T, p *postfixtest.Postfix) {
	t.Helper()
	path := filepath.Join(p.Queue, "incoming", "123456.789")
	if err := os.WriteFile(path, []byte("half a mail"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "postfix", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// After a crash Postfix starts only where its own user can write the log: so it
// is made, or put right.
func TestLogAfterACrash(t *testing.T) {
	p := postfixtest.Start(t, postfixtest.Config(t))
	if err := p.CheckLog(); err != nil {
		t.Errorf("as it is made: got %v", err)
	}
	p.Kill()
	half(t, p)
	if err := os.Chown(p.Log, 0, 0); err != nil { // as Postfix itself makes it
		t.Fatal(err)
	}
	if err := p.CheckLog(); !errors.Is(err, postfix.ErrLog) {
		t.Errorf("of root: got %v, want %v", err, postfix.ErrLog)
	}
	have, err := postfix.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "postfix", "-c", p.Dir, "start").CombinedOutput(); err == nil {
		if strings.HasPrefix(have.Version, "3.7.") {
			t.Errorf("of root: Postfix %s starts: %s; then none of this is needed", have.Version, out)
		}
		p.Kill() // a later one does without
		half(t, p)
	}
	before, err := os.ReadFile(p.Log)
	if err == nil {
		err = p.MakeLog()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckLog(); err != nil {
		t.Errorf("put right: got %v", err)
	}
	half(t, p)
	p.Run()
	after, err := os.ReadFile(p.Log)
	if err != nil || !strings.HasPrefix(string(after), string(before)) {
		t.Errorf("put right: got %v, %d bytes, want those %d from before at its beginning", err, len(after), len(before))
	}
	if strings.HasPrefix(have.Version, "3.7.") { // a later one tells the terminal
		p.Await("bogus file name")
	}
}

// Only a file of its own becomes the log.
func TestMakeLog(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	c := postfix.Config{Log: filepath.Join(dir, "log", "mail.log")}
	if err := c.CheckLog(); !errors.Is(err, postfix.ErrLog) {
		t.Errorf("none: got %v, want %v", err, postfix.ErrLog)
	}
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func() error{
		"none":      func() error { return nil },
		"link":      func() error { return os.Symlink(victim, c.Log) },
		"hard link": func() error { return os.Link(victim, c.Log) },
		"pipe":      func() error { return syscall.Mkfifo(c.Log, 0o600) },
		"folder":    func() error { return os.Mkdir(c.Log, 0o700) },
	} {
		if err := errors.Join(os.RemoveAll(filepath.Dir(c.Log)), os.Mkdir(filepath.Dir(c.Log), 0o755), put()); err != nil {
			t.Fatal(err)
		}
		err := c.MakeLog()
		if name == "none" {
			if err != nil || c.CheckLog() != nil {
				t.Errorf("%s: got %v, then %v", name, err, c.CheckLog())
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: got no error", name)
		}
		if err := c.CheckLog(); !errors.Is(err, postfix.ErrLog) {
			t.Errorf("%s: got %v, want %v", name, err, postfix.ErrLog)
		}
	}
	if info, err := os.Stat(victim); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
		t.Errorf("the file behind the links: got %v, %v, want it as it was", info, err)
	}
	if none := (&postfix.Config{}); none.MakeLog() != nil || none.CheckLog() != nil {
		t.Error("the system's log: got an error, want none")
	}
}
