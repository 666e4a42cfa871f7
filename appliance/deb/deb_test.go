// Package deb judges the Debian package: what is in it, that it is the same
// twice, and what lintian says.
package deb

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const version = "0.1.7"

// run is what a program says, which must end with 0.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd, err, out, stderr.String())
	}
	return string(out)
}

// pack is a package, built anew.
func pack(t *testing.T) (file string) {
	t.Helper()
	return strings.TrimSpace(run(t, "./build", "--version", version, "--out", t.TempDir()))
}

func TestPackage(t *testing.T) {
	file := pack(t)
	if got := filepath.Base(file); !strings.HasPrefix(got, "postern_"+version+"_") {
		t.Errorf("got file %s", got)
	}

	t.Run("the same twice", func(t *testing.T) {
		one, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(pack(t))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("got %d and %d other bytes for the same tree", len(one), len(two))
		}
	})

	t.Run("control", func(t *testing.T) {
		for field, want := range map[string]string{"Package": "postern", "Version": version, "Section": "mail"} {
			if got := strings.TrimSpace(run(t, "dpkg-deb", "--field", file, field)); got != want {
				t.Errorf("%s: got %q, want %q", field, got, want)
			}
		}
		depends := run(t, "dpkg-deb", "--field", file, "Depends")
		for _, want := range []string{"libc6 (>= 2.", "systemd (>= 252)"} {
			if !strings.Contains(depends, want) {
				t.Errorf("Depends: got %s, want %s in it", depends, want)
			}
		}
	})

	// Errors and warnings fail, also those that another lintian finds.
	t.Run("lintian", func(t *testing.T) {
		out, err := exec.Command("lintian", "--allow-root", "--no-cfg", "--fail-on", "error,warning", file).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})

	// No clock is believed that shows an earlier time.
	seconds, err := strconv.ParseInt(strings.TrimSpace(run(t, "git", "log", "-1", "--format=%ct")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	commit := time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	root := t.TempDir()
	run(t, "dpkg-deb", "--extract", file, root)
	t.Run("programs", func(t *testing.T) {
		for _, program := range []string{"usr/bin/postern", "usr/lib/postern/filterd", "usr/lib/postern/keyd"} {
			path := filepath.Join(root, program)
			want := filepath.Base(program) + " " + version + "\n"
			if program == "usr/bin/postern" {
				want += "of " + commit + "\n"
			}
			if got := run(t, path, "--version"); got != want {
				t.Errorf("%s --version: got %q, want %q", program, got, want)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			here, err := filepath.Abs("../..")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte(here)) {
				t.Errorf("%s: has %s in it, where it was built", program, here)
			}
		}
	})

	// Everything that a gateway has, and nothing that only a box has.
	t.Run("units", func(t *testing.T) {
		units := filepath.Join(root, "usr/lib/systemd/system")
		entries, err := os.ReadDir(units)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
			ours, err := os.ReadFile(filepath.Join("../units", e.Name()))
			if err != nil {
				t.Error(err)
			}
			if b, err := os.ReadFile(filepath.Join(units, e.Name())); err != nil || !bytes.Equal(b, ours) {
				t.Errorf("%s: %v, want the one in appliance/units", e.Name(), err)
			}
		}
		want := []string{"postern-access.service", "postern-clock.service", "postern-enrol.service", "postern-enrol.timer", "postern-filterd-inside.socket", "postern-filterd-outside.socket", "postern-filterd-policy.socket", "postern-filterd.service",
			"postern-keyd-keep.socket", "postern-keyd-use.socket", "postern-keyd.service", "postern-pdf.socket", "postern-pdf@.service", "postern-postfix.service", "postern-unbound.service"}
		if !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
	})

	// The examples are those that the programs of the package read.
	t.Run("examples", func(t *testing.T) {
		examples := filepath.Join(root, "usr/share/doc/postern/examples")
		for program, file := range map[string]string{"filterd": "filterd.toml", "keyd": "keyd.toml"} {
			run(t, filepath.Join(root, "usr/lib/postern", program), "--check", "--config", filepath.Join(examples, file))
		}
	})

	t.Run("copyright", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(root, "usr/share/doc/postern/copyright"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(run(t, "go", "version", "-m", filepath.Join(root, "usr/lib/postern/filterd"), filepath.Join(root, "usr/lib/postern/keyd"))) {
			if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" && !strings.Contains(string(b), "\n"+f[1]+" "+f[2]+"\n") {
				t.Errorf("%s %s is linked in, and not named", f[1], f[2])
			}
		}
	})
}
