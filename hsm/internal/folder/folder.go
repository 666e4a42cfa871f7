// Package folder replaces and removes files so that a crash leaves either the
// old state or the new one. Without a folder ("") nothing is kept.
package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file, or makes it. It is on the disk when Write returns; in
// between a second file begins with a dot and ends in .new.
func Write(dir, name string, b []byte) error {
	if dir == "" {
		return nil
	}
	tmp := filepath.Join(dir, "."+name+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err == nil {
		err = flush(dir)
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// Remove removes a file for good; none is fine.
func Remove(dir, name string) error {
	if dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = flush(dir)
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
