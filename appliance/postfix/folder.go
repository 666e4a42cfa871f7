package postfix

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFile is the largest file of the folder that is read, in bytes.
const maxFile = 1 << 20

// shipped is the folder of what a Debian package puts in place before anybody
// has configured anything.
const shipped = "/usr/share/postfix"

// Change is what Write does to one file.
type Change struct {
	File
	Before string // "" where there was none
	New    bool   // there was none
}

// Compare finds what differs between the files and those in the folder. The
// error wraps ErrForeign where one there is neither ours nor as the package
// brought it.
func Compare(dir string, files []File) ([]Change, error) {
	var list []Change
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		before, err := read(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			list = append(list, Change{File: f, New: true})
			continue
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		case before == f.Text:
			continue
		case !strings.HasPrefix(before, header) && !untouched(f.Name, before):
			return nil, fmt.Errorf("%s: %w (hint: move it away, or name another folder as config in [postfix])", path, ErrForeign)
		}
		list = append(list, Change{File: f, Before: before})
	}
	return list, nil
}

// untouched reports whether a file is one that nobody has changed since the
// package came.
func untouched(name, text string) bool {
	dist, err := read(filepath.Join(shipped, name+".dist"))
	return err == nil && dist == text
}

func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return string(b), err
}

// Write puts the changed files in their place, each whole or not at all.
// Nothing outside of the folder is touched.
func Write(dir string, list []Change) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, c := range list {
		if err := replace(dir, c.File); err != nil {
			return fmt.Errorf("write %s: %w", c.Name, err)
		}
	}
	return nil
}

func replace(dir string, f File) error {
	t, err := os.CreateTemp(dir, "."+f.Name+".*")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	defer t.Close()
	if _, err := t.WriteString(f.Text); err != nil {
		return err
	}
	if err := errors.Join(t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return err
	}
	if err := os.Rename(t.Name(), filepath.Join(dir, f.Name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Diff shows a change as lines that go and lines that come, without those that
// stay.
func (c Change) Diff() string {
	var b bytes.Buffer
	old, now := strings.Split(c.Before, "\n"), strings.Split(c.Text, "\n")
	fmt.Fprintf(&b, "--- %s\n", c.Name)
	for _, e := range edits(old, now) {
		fmt.Fprintf(&b, "%s\n", e)
	}
	return b.String()
}

// edits are the lines outside of a longest common subsequence. Files have a few
// hundred lines.
func edits(old, now []string) (list []string) {
	longest := make([][]int, len(old)+1)
	for i := range longest {
		longest[i] = make([]int, len(now)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(now) - 1; j >= 0; j-- {
			if old[i] == now[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case i < len(old) && j < len(now) && old[i] == now[j]:
			i, j = i+1, j+1
		case j == len(now) || i < len(old) && longest[i+1][j] >= longest[i][j+1]:
			list, i = append(list, "-"+old[i]), i+1
		default:
			list, j = append(list, "+"+now[j]), j+1
		}
	}
	return list
}
