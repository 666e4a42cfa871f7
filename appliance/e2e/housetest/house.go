// Package housetest is what the tests of the house share: the programs, built
// once, a box of the test's own, and how to read what arrived.
package housetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/trial"
)

// Patience is how long anything in these tests may take before it counts as
// stuck. Nothing waits that long when all is well.
const Patience = 60 * time.Second

var built string // the folder, once there is one

var build = sync.OnceValues(func() (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "postern-bin-*")
	if err != nil {
		return "", err
	}
	built = dir
	for _, p := range []struct{ cgo, name string }{{"1", "keyd"}, {"0", "filterd"}, {"0", "postern"}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p.name), "./cmd/"+p.name)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED="+p.cgo)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

// root is the module's folder: the one above with a go.mod.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return "", errors.New("find the module: no go.mod above")
		}
		dir = above
	}
}

// Main is the TestMain of a package: the programs go with the last test.
func Main(m *testing.M) {
	status := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(status)
}

// Programs is the folder of the three programs, built once.
func Programs(t testing.TB) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatalf("build the programs: %v", err)
	}
	return dir
}

// Folder is a temporary one with a path short enough for sockets.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Open is a box of this test's own.
func Open(t testing.TB, c trial.Config) *trial.Box {
	t.Helper()
	c.Bin = Programs(t)
	if c.Dir == "" {
		c.Dir = Folder(t)
	}
	b, err := trial.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	CloseWith(t, b)
	return b
}

// CloseWith closes a box at the end of the test, and shows what its daemons
// said where the test failed.
func CloseWith(t testing.TB, b *trial.Box) {
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close box: %v", err)
		}
		if t.Failed() {
			for _, name := range []string{"keyd.log", "filterd.log"} {
				log, _ := os.ReadFile(b.Path(name))
				t.Logf("%s:\n%s", name, Tail(log, 6000))
			}
		}
	})
}

// Tail is the last n bytes.
func Tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// Field is the unfolded value of the first header field with the name.
func Field(mail, name string) string {
	head, _, _ := strings.Cut(mail, "\r\n\r\n")
	head = strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(head)
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Parameter is one of the "name=value" of a Postern-Status.
func Parameter(status, name string) string {
	for p := range strings.SplitSeq(status, ";") {
		if n, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok && n == name {
			return v
		}
	}
	return ""
}

// Contents is a whole file.
func Contents(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Eventually waits until ok; what it had last is the complaint.
func Eventually(t testing.TB, limit time.Duration, ok func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		good, what := ok()
		if good {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
