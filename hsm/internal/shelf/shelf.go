// Package shelf is the folder of keys that are kept outside the token: of each
// the ciphertext that one token opens, its public key and its label, in a file
// of its own. Nothing in it is secret without that token.
//
// A key is there whole or not at all: its file is written last, and at once.
package shelf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/hsm"
	"postern/hsm/internal/folder"
)

// Max is how many keys there may be: as many as one list of the wire surely
// holds, and a backup.
const Max = 10_000

// suffix ends the name of a key's file; before it stands its id.
const suffix = ".wrapped"

// Shelf is one folder. Put and Remove may be called by one goroutine at a time.
type Shelf struct {
	dir string
	max int // Max, less in a test
}

// New is the shelf in a folder, which the first Put makes.
func New(dir string) *Shelf { return &Shelf{dir: dir, max: Max} }

// Book is one file of the shelf: a key, or what is wrong with the file.
type Book struct {
	Record
	Name   string   // of the file
	Digest [32]byte // of its content; zero where it could not be read
	Err    error    // nil: the record is whole
}

// All reads every file. Where one is not the key that its name says, its Err
// tells why, and of its record only the ID is set, where the name has one. What
// a Put has left that was cut off in the middle is removed. No folder holds no key.
func (s *Shelf) All() ([]Book, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read wrapped keys: %w", err)
	}
	var books []Book
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, ".") && strings.HasSuffix(name, suffix+".new") {
			if err := folder.Remove(s.dir, name); err != nil {
				return nil, fmt.Errorf("read wrapped keys: %w", err)
			}
			continue
		}
		if len(books) == s.max {
			return nil, fmt.Errorf("read wrapped keys: more than %d files in %s: %w", s.max, s.dir, hsm.ErrInvalid)
		}
		books = append(books, s.book(e.Name()))
	}
	slices.SortFunc(books, func(a, b Book) int { return strings.Compare(a.Name, b.Name) })
	return books, nil
}

// Get reads one key as it stands now.
func (s *Shelf) Get(id hsm.KeyID) Book { return s.book(id.String() + suffix) }

func (s *Shelf) book(name string) (b Book) {
	b.Name = name
	id, err := hsm.ParseKeyID(strings.TrimSuffix(name, suffix))
	if err != nil || id.String()+suffix != name {
		b.Err = errors.New("no such file is written here")
		return b
	}
	data, err := s.read(name)
	if err == nil {
		b.Digest = sha256.Sum256(data)
		b.Record, err = Parse(data)
	}
	if err == nil && b.ID != id {
		err = errors.New("the file is that of another key")
	}
	if err != nil {
		b.Record, b.Err = Record{ID: id}, err
	}
	return b
}

// read is the content of a plain file, or as much of it as is too much.
func (s *Shelf) read(name string) ([]byte, error) {
	path := filepath.Join(s.dir, name)
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, errForm)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Put writes a key, which is on the disk when Put returns. hsm.ErrExists: it is
// there; hsm.ErrRefused: there are Max keys.
func (s *Shelf) Put(r Record) error {
	data, err := r.Marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("write wrapped key: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("write wrapped key: %w", err)
	}
	if len(entries) >= s.max {
		return fmt.Errorf("write wrapped key: %d are there: %w", len(entries), hsm.ErrRefused)
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == r.ID.String()+suffix }) {
		return fmt.Errorf("write wrapped key: %w", hsm.ErrExists)
	}
	return folder.Write(s.dir, r.ID.String()+suffix, data)
}

// Remove removes a key, good or damaged. hsm.ErrNoKey: there is none. What lay
// on the disk is not overwritten: a copy opens in the token as long as the
// wrapping key is there.
func (s *Shelf) Remove(id hsm.KeyID) error {
	name := id.String() + suffix
	if _, err := os.Lstat(filepath.Join(s.dir, name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove wrapped key: %w", hsm.ErrNoKey)
	}
	return folder.Remove(s.dir, name)
}
