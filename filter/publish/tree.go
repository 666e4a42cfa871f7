package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"postern/filter/directory"
)

// ErrForeign is a folder in which something stands that no Tree has.
var ErrForeign = errors.New("holds what does not belong there")

// Tree is a Web Key Directory of one domain as files, for a web server that
// serves them at /.well-known/openpgpkey of the host openpgpkey of the domain
// (advanced method) or of the domain itself (direct method): each certificate
// stands there for both. It maps paths, with slashes, to contents.
type Tree map[string][]byte

// NewTree gives the tree of a domain, in A-labels, without certificates.
func NewTree(domain string) Tree { return Tree{domain + "/policy": {}, "policy": {}} }

// Add puts the certificate of a local part there, and tells where. Local parts
// that differ in capital letters only have one place.
func (t Tree) Add(domain, local string, cert []byte) string {
	name := "hu/" + directory.HashLocal(local)
	t[name], t[domain+"/"+name] = cert, cert
	return domain + "/" + name
}

// Same reports whether dir holds the tree and nothing else. Nothing there is no
// error; ErrForeign is.
func (t Tree) Same(dir string) (bool, error) {
	found := map[string]bool{}
	same := true
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if e.IsDir() && strings.Count(name, "/") < 2 {
			return nil
		}
		if parent, base := path.Split(name); !e.Type().IsRegular() || base != "policy" && (path.Base(parent) != "hu" || len(base) != len(directory.HashLocal(""))) {
			return fmt.Errorf("%s: %w", name, ErrForeign)
		}
		found[name] = true
		want, known := t[name]
		if !known {
			same = false
			return nil
		}
		got, err := os.ReadFile(at)
		same = same && string(got) == string(want)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) && len(found) == 0 {
		return false, nil
	}
	return same && len(found) == len(t), err
}

// Write puts the tree in the place of dir, whole: whoever reads meanwhile reads
// the old one or the new one. What stood there must be a tree, too.
func (t Tree) Write(dir string) (err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if _, err := t.Same(dir); err != nil {
		return fmt.Errorf("write folder: %w", err)
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".postern-wkd-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(fresh)) }() // what stood there, then
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		at := filepath.Join(fresh, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := durable(at, t[name]); err != nil {
			return err
		}
	}
	err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(fresh, dir)
	}
	if err != nil {
		return fmt.Errorf("put folder in place: %w", err)
	}
	return nil
}

// durable writes a file that everybody may read.
func durable(at string, data []byte) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}
