package postfix

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// small is a file system of its own with room for little.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount: %v (the tests of Postfix run as root)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// names are what stands in a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

// A file is there whole, as it was or as it is to be; a disk that is full or
// may not be written leaves it, and nothing beside it.
func TestWriteWholeOrNot(t *testing.T) {
	before := header + "a = 1\n"
	big := header + strings.Repeat("# much\n", 20_000)
	for _, c := range []struct {
		name string
		flag uintptr
		text string
		want error
	}{
		{"full", 0, big, syscall.ENOSPC},
		{"read only", syscall.MS_RDONLY, header + "a = 2\n", syscall.EROFS},
	} {
		dir := small(t)
		if err := Write(dir, []Change{{File: File{"main.cf", before}}}); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("small", dir, "tmpfs", syscall.MS_REMOUNT|c.flag, "size=64k"); err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, []Change{{File: File{"main.cf", c.text}}}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if got, err := read(filepath.Join(dir, "main.cf")); err != nil || got != before {
			t.Errorf("%s: got %d bytes, %v, want the file as it was", c.name, len(got), err)
		}
		if got := names(t, dir); got != "main.cf" {
			t.Errorf("%s: got %s, want nothing beside", c.name, got)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "etc"), []Change{{File: File{"main.cf", before}}}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("no folder: got %v, want %v", err, syscall.ENOTDIR)
	}
}

// Files belong to whoever writes them, and all may read them: Postfix's
// programs do so as their own user. Whoever has put a link there loses no file
// by it.
func TestWriteOwnerAndMode(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "etc")
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, filepath.Join(dir, "main.cf"))); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, []Change{{File: File{"main.cf", "a"}}, {File: File{"master.cf", "b"}}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main.cf", "master.cf"} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); info.Mode() != 0o644 || stat.Uid != uint32(os.Geteuid()) {
			t.Errorf("%s: got %v of %d, want -rw-r--r-- of %d", name, info.Mode(), stat.Uid, os.Geteuid())
		}
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
		t.Errorf("behind the link: got %q, %v", got, err)
	}
}

// What cannot be read is no file of ours.
func TestCompareUnreadable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "main.cf")
	if err := os.WriteFile(path, []byte(header+strings.Repeat("#\n", maxFile)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Compare(dir, []File{{"main.cf", header}}); err == nil {
		t.Error("too big: got no error")
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := Compare(dir, []File{{"main.cf", header}}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder: got %v", err)
	}
}
