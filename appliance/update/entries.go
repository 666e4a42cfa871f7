package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"postern/image"
)

// Entry is a boot entry.
type Entry struct {
	Version image.Version
	Name    string // of its file
	Counted bool   // it is on trial
	Left    int    // tries that are left of a trial
	Done    int
}

// Bad reports whether the tries of an entry are used up.
func (e Entry) Bad() bool { return e.Counted && e.Left == 0 }

// entryName is the name of an entry on trial.
func entryName(v image.Version, left, done int) string {
	return fmt.Sprintf("%s+%d-%d.efi", image.Name(v), left, done)
}

// parseEntry reads postern_1.2.efi, postern_1.2+3.efi and postern_1.2+2-1.efi.
func parseEntry(name string) (e Entry, ok bool) {
	text, ok := strings.CutSuffix(name, ".efi")
	if !ok {
		return e, false
	}
	if text, ok = strings.CutPrefix(text, image.Product+"_"); !ok {
		return e, false
	}
	text, count, counted := strings.Cut(text, "+")
	v, err := image.ParseVersion(text)
	if err != nil {
		return e, false
	}
	e = Entry{Version: v, Name: name, Counted: counted}
	if !counted {
		return e, true
	}
	left, done, both := strings.Cut(count, "-")
	if e.Left, err = number(left); err != nil {
		return e, false
	}
	if both {
		if e.Done, err = number(done); err != nil {
			return e, false
		}
	}
	return e, true
}

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// entries are those of the box, in the order in which the boot loader takes
// them: what is bad last, and the latest version first.
func (b *Box) entries() (list []Entry, err error) {
	files, err := os.ReadDir(b.Entries)
	if err != nil {
		return nil, fmt.Errorf("read boot entries: %w", err)
	}
	for _, f := range files {
		if e, ok := parseEntry(f.Name()); ok {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(x, y Entry) int {
		if x.Bad() != y.Bad() {
			if x.Bad() {
				return 1
			}
			return -1
		}
		return y.Version.Compare(x.Version)
	})
	return list, nil
}

// blessed refuses when what runs has no entry, or one on trial.
func (b *Box) blessed(running image.Version) error {
	list, err := b.entries()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(e Entry) bool { return e.Version == running })
	switch {
	case i < 0:
		return fmt.Errorf("version %s: %w", running, ErrEntry)
	case list[i].Counted:
		return fmt.Errorf("version %s, %d tries left: %w", running, list[i].Left, ErrTrial)
	}
	return nil
}

// onlyEntryOf removes every entry but that of what runs, and what an update
// that was cut off has left beside them.
func (b *Box) onlyEntryOf(running image.Version) error {
	files, err := os.ReadDir(b.Entries)
	if err != nil {
		return fmt.Errorf("read boot entries: %w", err)
	}
	for _, f := range files {
		e, ok := parseEntry(strings.TrimSuffix(f.Name(), part))
		if !ok || e.Version == running && !strings.HasSuffix(f.Name(), part) {
			continue
		}
		if err := b.step("remove %s", f.Name()); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(b.Entries, f.Name())); err != nil {
			return err
		}
	}
	return b.sync(b.Entries)
}

// part is the end of the name of a file that is not whole yet.
const part = ".part"

// enter makes the entry: a copy under a name that the boot loader does not take,
// read back and compared, and then named.
func (b *Box) enter(ctx context.Context, from string, kernel image.Artifact, v image.Version) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	path := filepath.Join(b.Entries, entryName(v, tries, 0))
	if err := b.write(path+part, text); err != nil {
		return err
	}
	back, err := os.Open(path + part)
	if err != nil {
		return err
	}
	err = kernel.Check(ctx, back)
	if err = errors.Join(err, back.Close()); err != nil {
		return err
	}
	return b.rename(filepath.Base(path)+part, filepath.Base(path))
}

// rename gives an entry another name.
func (b *Box) rename(from, to string) error {
	if err := b.step("rename %s to %s", from, to); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(b.Entries, from), filepath.Join(b.Entries, to)); err != nil {
		return err
	}
	return b.sync(b.Entries)
}

// write writes a file through to the disk.
func (b *Box) write(path string, text []byte) error {
	if err := b.step("create %s", filepath.Base(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = func() error {
		for _, half := range [][]byte{text[:len(text)/2], text[len(text)/2:]} {
			if _, err := io.Copy(f, bytes.NewReader(half)); err != nil {
				return err
			}
			if err := b.step("write %s", filepath.Base(path)); err != nil {
				return err
			}
		}
		return f.Sync()
	}()
	return errors.Join(err, f.Close())
}

// put writes a file whole or not at all.
func (b *Box) put(path string, text []byte) error {
	if err := b.write(path+part, text); err != nil {
		return err
	}
	if err := b.step("rename %s", filepath.Base(path)); err != nil {
		return err
	}
	if err := os.Rename(path+part, path); err != nil {
		return err
	}
	return b.sync(filepath.Dir(path))
}

// sync makes the names in a folder last.
func (b *Box) sync(dir string) error {
	if err := b.step("sync %s", filepath.Base(dir)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// absent takes the error of a file that is not there for none.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
