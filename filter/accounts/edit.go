package accounts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// minPassword is what a new one must have, in bytes.
const minPassword = 8

var (
	// ErrPassword says that a password can't be one.
	ErrPassword = errors.New("password not accepted")
	errName     = errors.New("name not accepted: want letters and digits without space, and no *")
)

// List gives the accounts of the file at path, sorted by name.
func List(path string) ([]*Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	all, err := parse(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read accounts %s: %w", path, err)
	}
	list := make([]*Entry, 0, len(all))
	for _, e := range all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Add writes a new account into the file at path, which is made where there is none.
func Add(path, name, password string, senders []string, withSCRAM bool) error {
	if !valid(name) {
		return errName
	}
	if _, err := Senders(senders); err != nil {
		return err
	}
	e := &Entry{Name: name, Senders: senders}
	if err := e.setPassword(password, withSCRAM); err != nil {
		return err
	}
	return edit(path, name, func(old *Entry) (*Entry, error) {
		if old != nil {
			return nil, ErrExists
		}
		return e, nil
	})
}

// SetPassword gives an account another one, and keys of SCRAM if it had some.
func SetPassword(path, name, password string) error {
	return edit(path, name, func(e *Entry) (*Entry, error) {
		if e == nil {
			return nil, ErrUnknown
		}
		return e, e.setPassword(password, e.SCRAM())
	})
}

// Remove takes an account out.
func Remove(path, name string) error {
	return edit(path, name, func(e *Entry) (*Entry, error) {
		if e == nil {
			return nil, ErrUnknown
		}
		return nil, nil
	})
}

func (e *Entry) setPassword(password string, withSCRAM bool) error {
	if len(password) < minPassword || len(password) > maxPassword || strings.ContainsAny(password, "\x00\r\n") {
		return fmt.Errorf("%w: want %d to %d bytes in one line", ErrPassword, minPassword, maxPassword)
	}
	e.hash, e.scram = newHash(password), nil
	if withSCRAM {
		keys, err := newKeys(e.Name, password)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPassword, err)
		}
		e.scram = &keys
	}
	return nil
}

// edit replaces the line of one account and leaves every other as it is. Readers
// see the file of before or the one of after, and two editors wait for each other.
func edit(path, name string, change func(*Entry) (*Entry, error)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("change accounts: %w", err)
		}
	}()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // which gives the lock back
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	made := errors.Is(err, fs.ErrNotExist)
	if err != nil && !made {
		return err
	}
	all, err := parse(bytes.NewReader(data))
	if err != nil {
		return err
	}
	old := all[strings.ToLower(name)]
	e, err := change(old)
	if err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); old != nil && len(words) == 4 && words[0] == old.Name {
			if e != nil {
				out.WriteString(e.String() + "\n")
			}
			continue
		}
		out.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	if old == nil && e != nil {
		out.WriteString(e.String() + "\n")
	}
	return replace(path, out.String(), made)
}

// replace writes the file beside the old one and puts it in its place, with the
// owner and the mode of the old one. A new one may be read by its group.
func replace(path, text string, made bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".accounts-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // where it is still there
	defer f.Close()
	mode := fs.FileMode(0o640)
	if !made {
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil {
			return err
		}
		mode = fs.FileMode(s.Mode & 0o777)
		if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
