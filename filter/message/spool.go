package message

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of a Spool.
var (
	ErrTooBig = errors.New("message too big") // beyond Spools.Max
	errClosed = errors.New("spool closed")
)

// What zero fields of Spools mean, in bytes.
const (
	DefaultMemory = 256 << 10
	DefaultMax    = 50 << 20
)

// chunk is the plaintext of one sealed piece of a spool's file, in bytes.
const chunk = 64 << 10

// least is the memory of a spool that holds anything, in bytes.
const least = 8 << 10

// Spools makes spools that share limits.
type Spools struct {
	Memory int64  // bytes a spool keeps in memory before it goes to its file; 0: DefaultMemory
	Max    int64  // bytes of one spool, beyond it ErrTooBig; 0: DefaultMax
	Dir    string // of the files; "": os.TempDir()
}

// New gives an empty spool. It costs nothing until it is written to.
func (s *Spools) New() *Spool {
	p := &Spool{limit: s.Memory, max: s.Max, dir: s.Dir, cached: -1}
	if p.limit == 0 {
		p.limit = DefaultMemory
	}
	if p.max == 0 {
		p.max = DefaultMax
	}
	return p
}

// Spool keeps the bytes of one mail: first written, then read at any place by
// any number of readers. What outgrows the memory goes to a file that has no
// name and is encrypted, in pieces that are authenticated, with a key that is
// in memory only: no plaintext reaches a disk, and nothing is left of a spool
// when its process dies. Close it in any case.
type Spool struct {
	limit, max int64
	dir        string

	mutex  sync.Mutex
	size   int64
	memory []byte // all, while there is no file; else the last piece, not yet full
	file   *os.File
	pieces int64 // in the file, each of chunk bytes and what seals it
	seal   cipher.AEAD
	cached int64 // number of the piece in plain, or -1
	plain  []byte
	sealed []byte
	broken error // what ended the spool before its time
}

var _ Source = (*Spool)(nil)

// Size is how many bytes were written.
func (s *Spool) Size() int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.size
}

// Write adds p. With ErrTooBig nothing of it is added; after an error of the
// disk nothing can be written or read any more.
func (s *Spool) Write(p []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case s.broken != nil:
		return 0, s.broken
	case s.size+int64(len(p)) > s.max:
		return 0, fmt.Errorf("write spool: more than %d bytes: %w", s.max, ErrTooBig)
	}
	if err := s.write(p); err != nil {
		s.forget(fmt.Errorf("write spool: %w", err))
		return 0, s.broken
	}
	s.size += int64(len(p))
	return len(p), nil
}

func (s *Spool) write(p []byte) error {
	if s.file == nil && s.size+int64(len(p)) <= s.limit {
		s.grow(len(p))
		s.memory = append(s.memory, p...)
		return nil
	}
	if s.file == nil {
		if err := s.spill(); err != nil {
			return err
		}
	}
	return s.fill(p)
}

// grow makes room for n more bytes in memory. Unlike append it leaves nothing
// in the memory that it gives back.
func (s *Spool) grow(n int) {
	need := len(s.memory) + n
	if need <= cap(s.memory) {
		return
	}
	old := s.memory
	s.memory = append(make([]byte, 0, max(need, 2*cap(old), least)), old...)
	clear(old)
}

// spill moves what is in memory to a file.
func (s *Spool) spill() error {
	file, err := unnamed(s.dir)
	if err != nil {
		return err
	}
	s.file = file
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return err
	}
	if s.seal, err = cipher.NewGCM(block); err != nil {
		return err
	}
	all := s.memory
	defer clear(all)
	s.memory = make([]byte, 0, chunk)
	return s.fill(all)
}

// fill adds p to the last piece, and puts each that is full into the file. The
// number of a piece is its nonce: each is written once, and the key is for
// this file only.
func (s *Spool) fill(p []byte) error {
	for len(p) > 0 {
		n := copy(s.memory[len(s.memory):chunk], p)
		s.memory, p = s.memory[:len(s.memory)+n], p[n:]
		if len(s.memory) < chunk {
			return nil
		}
		s.sealed = s.seal.Seal(s.sealed[:0], s.nonce(s.pieces), s.memory, nil)
		if _, err := s.file.WriteAt(s.sealed, s.pieces*int64(len(s.sealed))); err != nil {
			return err
		}
		s.memory = s.memory[:0]
		s.pieces++
	}
	return nil
}

func (s *Spool) nonce(number int64) []byte {
	n := make([]byte, s.seal.NonceSize())
	binary.BigEndian.PutUint64(n[len(n)-8:], uint64(number))
	return n
}

// ReadAt implements io.ReaderAt. A piece of the file that was changed is an
// error, never bytes.
func (s *Spool) ReadAt(p []byte, off int64) (n int, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.broken != nil {
		return 0, s.broken
	}
	if off < 0 {
		return 0, fmt.Errorf("read spool: offset %d", off)
	}
	tail := s.pieces * chunk // what is behind it is in memory
	for n < len(p) && off < s.size {
		var from []byte
		if off >= tail {
			from = s.memory[off-tail:]
		} else {
			if err := s.get(off / chunk); err != nil {
				return n, fmt.Errorf("read spool: %w", err)
			}
			from = s.plain[off%chunk:]
		}
		c := copy(p[n:], from)
		n, off = n+c, off+int64(c)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// get opens piece number into plain.
func (s *Spool) get(number int64) error {
	if s.cached == number {
		return nil
	}
	s.cached = -1
	if s.plain == nil {
		s.plain = make([]byte, 0, chunk)
	}
	s.sealed = s.sealed[:chunk+s.seal.Overhead()] // it was as long when it was written
	if _, err := s.file.ReadAt(s.sealed, number*int64(len(s.sealed))); err != nil {
		return err
	}
	plain, err := s.seal.Open(s.plain[:0], s.nonce(number), s.sealed, nil)
	if err != nil {
		return err
	}
	s.plain, s.cached = plain, number
	return nil
}

// Close forgets the bytes and the key. Further calls do nothing.
func (s *Spool) Close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if errors.Is(s.broken, errClosed) {
		return nil
	}
	return s.forget(errClosed)
}

// forget wipes the memory and lets go of the file. All that follows gives err.
func (s *Spool) forget(err error) error {
	s.broken = err
	clear(s.memory)
	clear(s.plain[:cap(s.plain)])
	s.memory, s.plain, s.sealed, s.seal = nil, nil, nil, nil
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}

// unnamed opens a file that is in no folder.
func unnamed(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|unix.O_EXCL, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "spool"), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, &os.PathError{Op: "open spool in", Path: dir, Err: err}
	}
	f, err := os.CreateTemp(dir, ".spool-*") // a file system without O_TMPFILE
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
