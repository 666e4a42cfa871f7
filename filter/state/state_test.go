package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// filterd and group are some that nobody has.
const filterd, group = 64321, 64322

// file makes one, of somebody, with a mode.
func file(t *testing.T, uid, gid int, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
		t.Fatalf("%v (this test runs as root)", err)
	}
	return path
}

// hinted tells whether an error is of a kind, with a hint.
func hinted(err, want error) bool {
	if want == nil {
		return err == nil
	}
	f, ok := errors.AsType[*Fault](err)
	return errors.Is(err, want) && ok && f.Hint() != "" && strings.HasPrefix(err.Error(), f.Path)
}

func TestSecret(t *testing.T) {
	for _, c := range []struct {
		name     string
		uid, gid int
		mode     fs.FileMode
		reader   int
		want     error
	}{
		{"its own", filterd, group, 0o600, filterd, nil},
		{"root reads all", filterd, group, 0o600, 0, nil},
		{"reader not known", 0, 0, 0o600, Nobody, nil},
		{"root's alone", 0, 0, 0o600, filterd, ErrClosed},
		{"another group's", 0, group, 0o640, filterd, ErrClosed},
		{"unreadable for its own", filterd, group, 0o240, filterd, ErrClosed},
		{"everybody reads", filterd, group, 0o644, filterd, ErrOpen},
		{"the group writes", filterd, group, 0o660, filterd, ErrOpen},
		{"everybody writes", filterd, group, 0o602, Nobody, ErrOpen},
	} {
		if err := Secret(file(t, c.uid, c.gid, c.mode), c.reader); !hinted(err, c.want) {
			t.Errorf("%s: got %v, want %v with a hint", c.name, err, c.want)
		}
	}
	// daemon (1) has a group of its own name on every Debian.
	if err := Secret(file(t, 0, 1, 0o640), 1); err != nil {
		t.Errorf("by its group: got %v", err)
	}
	if err := Secret(filepath.Join(t.TempDir(), "none"), filterd); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v, want %v", err, fs.ErrNotExist)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir()} {
		if err := Secret(path, Nobody); !hinted(err, ErrKind) {
			t.Errorf("%s: got %v, want %v with a hint", path, err, ErrKind)
		}
	}
}

func TestOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  int
		mode fs.FileMode
		want error
	}{
		{"its own", filterd, 0o640, nil},
		{"root's", 0, 0o640, ErrClosed},
		{"not to be written", filterd, 0o440, ErrClosed},
		{"the group writes", filterd, 0o660, ErrOpen},
		{"everybody writes", filterd, 0o642, ErrOpen},
	} {
		if err := Own(file(t, c.uid, group, c.mode), filterd); !hinted(err, c.want) {
			t.Errorf("%s: got %v, want %v with a hint", c.name, err, c.want)
		}
	}
}

func TestSpace(t *testing.T) {
	if _, err := Space(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v, want %v", err, fs.ErrNotExist)
	}
	for _, c := range []struct {
		size string
		flag uintptr
		want error
	}{{"size=80m", 0, nil}, {"size=8m", 0, ErrRoom}, {"size=80m", syscall.MS_RDONLY, ErrClosed}} {
		dir := t.TempDir()
		if err := syscall.Mount("state", dir, "tmpfs", c.flag, c.size); err != nil {
			t.Fatalf("mount: %v (this test runs as root)", err)
		}
		free, err := Space(dir)
		if e := syscall.Unmount(dir, syscall.MNT_DETACH); e != nil {
			t.Error(e)
		}
		if !hinted(err, c.want) || c.want == nil && free < Room {
			t.Errorf("%s, %d: got %d, %v, want %v with a hint", c.size, c.flag, free, err, c.want)
		}
	}
}

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, filterd, group); err != nil {
		t.Fatal(err)
	}
	if got := Owner(dir); got != filterd {
		t.Errorf("got %d, want %d", got, filterd)
	}
	if got := Owner(filepath.Join(dir, "none")); got != Nobody {
		t.Errorf("none: got %d, want %d", got, Nobody)
	}
}
