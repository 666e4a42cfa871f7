//go:build cgo

package hsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Where Debian and its relatives put the modules.
var (
	softHSMPaths = []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
	}
	nssPaths = []string{
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
		"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib64/libsoftokn3.so",
	}
)

// Fixture is a token that belongs to one test and goes with it.
//
// SoftHSM learns where its tokens are from the environment of the process at
// C_Initialize. So the fixture that was made or Used last is the one that
// modules opened in this process see, and tests with fixtures cannot be
// parallel; child processes get theirs through Env.
type Fixture struct {
	Module   string // path of the PKCS#11 library
	Label    string // of the token
	PIN      string
	SOPIN    string
	Dir      string // where the token lives
	Conf     string // SOFTHSM2_CONF, or "" for NSS
	Reserved string // parameters for C_Initialize, or ""

	env map[string]string
	t   testing.TB
}

// SoftHSM makes a token with a user PIN and no keys. A machine without
// SoftHSM fails the test.
func SoftHSM(t testing.TB) *Fixture {
	t.Helper()
	f := EmptySoftHSM(t)
	tool, err := exec.LookPath("softhsm2-util")
	if err != nil {
		t.Fatalf("softhsm2-util is missing: install the package softhsm2 (make deps)")
	}
	cmd := exec.Command(tool, "--init-token", "--free", "--label", f.Label, "--pin", f.PIN, "--so-pin", f.SOPIN)
	cmd.Env = append(os.Environ(), f.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make SoftHSM token: %v\n%s", err, out)
	}
	return f
}

// QuickSoftHSM is SoftHSM with its files in memory where the system has a place
// for that, for tests that write keys by the hundred: SoftHSM waits for the
// disk at every attribute. It has to come before the test's first TempDir.
func QuickSoftHSM(t testing.TB) *Fixture {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	return SoftHSM(t)
}

// EmptySoftHSM makes a place for tokens with none in it, as a new box has it.
func EmptySoftHSM(t testing.TB) *Fixture {
	t.Helper()
	dir := t.TempDir()
	f := &Fixture{
		Module: find(t, "SoftHSM (package softhsm2)", softHSMPaths),
		Label:  "postern-test",
		PIN:    "4711-user",
		SOPIN:  "0815-officer",
		Dir:    filepath.Join(dir, "tokens"),
		Conf:   filepath.Join(dir, "softhsm2.conf"),
		t:      t,
	}
	if err := os.Mkdir(f.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", f.Dir)
	if err := os.WriteFile(f.Conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.env = map[string]string{"SOFTHSM2_CONF": f.Conf}
	f.Use()
	return f
}

// NSS makes a database of NSS softokn with a PIN and no keys: a second
// implementation, against which code that only suits SoftHSM shows itself. A
// machine without NSS fails the test.
func NSS(t testing.TB) *Fixture {
	t.Helper()
	f := EmptyNSS(t)
	f.initNSS()
	return f
}

// EmptyNSS is the database before its first PIN is set.
func EmptyNSS(t testing.TB) *Fixture {
	t.Helper()
	dir := t.TempDir()
	f := &Fixture{
		Module:   find(t, "NSS softokn (package libnss3)", nssPaths),
		Label:    "NSS Certificate DB",
		PIN:      "4711-user",
		Dir:      dir,
		Reserved: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= updatedir='' updateCertPrefix='' updateKeyPrefix='' updateid='' updateTokenDescription=''", dir),
		env:      map[string]string{},
		t:        t,
	}
	f.Use()
	return f
}

// Use points this process at the fixture, for the rest of the test.
func (f *Fixture) Use() {
	f.t.Helper()
	for k, v := range f.env {
		f.t.Setenv(k, v)
	}
}

// Env is what a child process needs to see the token, as "NAME=value".
func (f *Fixture) Env() []string {
	var env []string
	for k, v := range f.env {
		env = append(env, k+"="+v)
	}
	return env
}

// Hide takes the token away as a pulled stick would, and returns what puts it back.
func (f *Fixture) Hide() (back func()) {
	f.t.Helper()
	away := f.Dir + ".away"
	if err := os.Rename(f.Dir, away); err != nil {
		f.t.Fatalf("hide token: %v", err)
	}
	return func() {
		f.t.Helper()
		if err := os.Rename(away, f.Dir); err != nil {
			f.t.Fatalf("put token back: %v", err)
		}
	}
}

func find(t testing.TB, what string, paths []string) string {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Fatalf("%s is not installed: looked for %v (make deps)", what, paths)
	return ""
}
