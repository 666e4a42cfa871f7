// Package state judges the files that the gateway keeps, before it needs them:
// whether they are what they should be, who may read and write them, and
// whether there is room. It looks, and changes nothing.
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The ways in which a file is not as it must be.
var (
	ErrKind   = errors.New("not a regular file")
	ErrOpen   = errors.New("more may read or write it than should")
	ErrClosed = errors.New("whom it is for may not read or write it")
	ErrRoom   = errors.New("too little room on the disk")
)

// Room is what the file system of a state has to have free, in bytes.
const Room = 64 << 20

// Fault is what is wrong with a file, and what helps.
type Fault struct {
	Path string
	Err  error
	hint string
}

func (f *Fault) Error() string { return f.Path + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// Hint is what an operator does about it.
func (f *Fault) Hint() string { return f.hint }

// Wrong makes a Fault.
func Wrong(path string, err error, hint string) error { return &Fault{path, err, hint} }

// Nobody is the user of whom nothing is known.
const Nobody = -1

// Owner is the user of a folder: the one who writes in it. It is Nobody where
// there is no such folder.
func Owner(dir string) int {
	var s unix.Stat_t
	if unix.Stat(dir, &s) != nil {
		return Nobody
	}
	return int(s.Uid)
}

// Secret judges a file that uid has to read, that only its owner may change,
// and that not everybody may read.
func Secret(path string, uid int) error {
	info, s, err := look(path)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	switch {
	case mode&0o022 != 0:
		return Wrong(path, fmt.Errorf("mode %#o: %w", mode, ErrOpen), "chmod go-w "+path)
	case mode&0o004 != 0:
		return Wrong(path, fmt.Errorf("mode %#o: %w", mode, ErrOpen), "chmod o-r "+path)
	case !readable(s, uid):
		return Wrong(path, fmt.Errorf("mode %#o, and user %d is not among its readers: %w", mode, uid, ErrClosed), fmt.Sprintf("chgrp postern-filter %s && chmod g+r %[1]s", path))
	}
	return nil
}

// Own judges a file that uid writes, and nobody else. The error is that of
// os.Stat where there is none.
func Own(path string, uid int) error {
	info, s, err := look(path)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	switch {
	case uid != Nobody && int(s.Uid) != uid:
		return Wrong(path, fmt.Errorf("belongs to user %d, not to %d: %w", s.Uid, uid, ErrClosed), fmt.Sprintf("chown --reference=%s %s", filepath.Dir(path), path))
	case mode&0o600 != 0o600:
		return Wrong(path, fmt.Errorf("mode %#o: %w", mode, ErrClosed), "chmod u+rw "+path)
	case mode&0o022 != 0:
		return Wrong(path, fmt.Errorf("mode %#o: %w", mode, ErrOpen), "chmod go-w "+path)
	}
	return nil
}

// look does not open the file: a pipe would hold whoever does.
func look(path string) (os.FileInfo, *unix.Stat_t, error) {
	info, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, nil, Wrong(path, err, "run it as root, or as the user of filterd")
		}
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, Wrong(path, ErrKind, "move it away")
	}
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return nil, nil, err
	}
	return info, &s, nil
}

// readable tells whether the mode lets uid read. Of Nobody it says yes, and of
// root.
func readable(s *unix.Stat_t, uid int) bool {
	const bit = 4
	switch {
	case uid == Nobody || uid == 0:
		return true
	case int(s.Uid) == uid:
		return s.Mode>>6&bit != 0
	case member(uid, int(s.Gid)):
		return s.Mode>>3&bit != 0
	}
	return s.Mode&bit != 0
}

// member tells whether the group is one of the user's.
func member(uid, gid int) bool {
	if uid == os.Geteuid() {
		if own, err := os.Getgroups(); err == nil {
			for _, g := range append(own, os.Getegid()) {
				if g == gid {
					return true
				}
			}
		}
		return false
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	if err != nil {
		return false
	}
	for _, g := range groups {
		if g == strconv.Itoa(gid) {
			return true
		}
	}
	return false
}

// Space judges the file system of a folder, and gives what is free on it for
// whoever is not root, in bytes.
func Space(dir string) (free uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir, err)
	}
	free = s.Bavail * uint64(s.Bsize)
	switch {
	case s.Flags&unix.ST_RDONLY != 0:
		return free, Wrong(dir, fmt.Errorf("the file system is read only: %w", ErrClosed), "mount it read-write; the kernel's log says why it is not")
	case free < Room:
		return free, Wrong(dir, fmt.Errorf("%d MiB free, want %d: %w", free>>20, Room>>20, ErrRoom), "make room: without it mail waits")
	}
	return free, nil
}
