package record

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"postern/filter/database"
	"postern/filter/state"
)

// made is a record that filterd has closed, in a folder of its own.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record", "record.db")
	must(t, os.Mkdir(filepath.Dir(path), 0o700))
	r, err := Open(path, Options{})
	must(t, err)
	must(t, r.Close())
	return path
}

func TestExamine(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(path string) error
		want error // nil: something with a hint
		fine bool
	}{
		{"as it is", func(string) error { return nil }, nil, true},
		{"not made yet", func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, nil, true},
		{"without its log", func(p string) error { return errors.Join(os.Remove(p+"-wal"), os.Remove(p+"-shm")) }, nil, true},
		{"root's own log in filterd's folder", func(p string) error { return os.Chown(filepath.Dir(p), 64321, 64321) }, state.ErrClosed, false},
		{"only one of its files", func(p string) error {
			return errors.Join(os.Chown(filepath.Dir(p), 64321, -1), os.Chown(p, 64321, -1), os.Chown(p+"-wal", 64321, -1))
		}, state.ErrClosed, false},
		{"not to be written", func(p string) error { return os.Chmod(p, 0o440) }, state.ErrClosed, false},
		{"everybody writes", func(p string) error { return os.Chmod(p, 0o666) }, state.ErrOpen, false},
		{"a folder in its place", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, state.ErrKind, false},
		{"no database", func(p string) error {
			return os.WriteFile(p, []byte("not SQLite at all, in no way whatever, is it"), 0o640)
		}, nil, false},
		{"a newer program's", func(p string) error { return edit(p, "PRAGMA user_version = 99") }, ErrVersion, false},
		{"a table is missing", func(p string) error { return edit(p, "DROP TABLE protected") }, nil, false},
		{"full", func(p string) error { return small(t, p) }, state.ErrRoom, false},
	} {
		path := made(t)
		must(t, c.do(path))
		before := listing(t, path)
		h, err := Examine(path)
		switch {
		case c.fine:
			if err != nil || h.Made == (c.name == "not made yet") {
				t.Errorf("%s: got %+v, %v", c.name, h, err)
			}
		case err == nil, c.want != nil && !errors.Is(err, c.want):
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		case c.want != ErrVersion:
			if f, ok := errors.AsType[*state.Fault](err); !ok || f.Hint() == "" {
				t.Errorf("%s: got %v, want a hint with it", c.name, err)
			}
		}
		if after := listing(t, path); after != before {
			t.Errorf("%s: got files %s, want %s as before", c.name, after, before)
		}
	}
}

// edit says something to the file that no program of ours would.
func edit(path, statement string) error {
	db, err := files.Open(path, database.Write)
	if err != nil {
		return err
	}
	_, err = db.Exec(statement)
	return errors.Join(err, db.Close())
}

// small puts a disk with little room in the place of the folder.
func small(t *testing.T, path string) error {
	dir := filepath.Dir(path)
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return syscall.Mount("record", dir, "tmpfs", 0, "size=4m")
}

func listing(t *testing.T, path string) (all string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "none"
	}
	for _, e := range list {
		info, err := e.Info()
		must(t, err)
		all += e.Name() + " " + info.Mode().String() + " "
	}
	return all
}
