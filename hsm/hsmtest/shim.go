//go:build cgo

package hsmtest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed testdata/shim.c
var shimSource []byte

// Shim is a module between the code under test and a fixture's module. It
// forwards every call, but for those that a test wants to fail or to be late.
// Its Module goes where the fixture's would; its own fixture is a copy of the
// first with that module in it.
type Shim struct {
	*Fixture
	control string
	turn    int
}

// NewShim builds the shim with the C compiler of the machine and puts it
// before f. A machine without one fails the test.
func NewShim(t testing.TB, f *Fixture) *Shim {
	t.Helper()
	dir := t.TempDir()
	source, library := filepath.Join(dir, "shim.c"), filepath.Join(dir, "shim.so")
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("build shim: %v\n%s", err, out)
	}
	copied := *f
	copied.Module, copied.t = library, t
	s := &Shim{Fixture: &copied, control: filepath.Join(dir, "control")}
	s.env = map[string]string{"POSTERN_SHIM_MODULE": f.Module, "POSTERN_SHIM_CONTROL": s.control}
	for k, v := range f.env {
		s.env[k] = v
	}
	if err := os.WriteFile(s.control+".calls", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Set()
	s.Use()
	return s
}

// Set replaces all faults by the rules, which testdata/shim.c describes:
// "C_Sign 0x32 2", "C_Sign delay 2000", "C_GetTokenInfo flags 0x40000", "C_GetAttributeValue trim", "* 0x32". With none everything is
// forwarded again. It works on a process that runs already.
func (s *Shim) Set(rules ...string) {
	s.t.Helper()
	s.turn++
	text := fmt.Sprintf("# %d\n%s\n", s.turn, strings.Join(rules, "\n"))
	// Renamed into place, so that no call reads half of it.
	if err := os.WriteFile(s.control+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.control+".new", s.control); err != nil {
		s.t.Fatal(err)
	}
}

// Calls counts the calls of one C function since the shim was made.
func (s *Shim) Calls(function string) int {
	s.t.Helper()
	text, err := os.ReadFile(s.control + ".calls")
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == function {
			n++
		}
	}
	return n
}
