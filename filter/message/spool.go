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
	seal   cipher.AEAD
	cached int64 // number of the piece in plain, or -1
	plain  []byte
	sealed []byte
	closed bool
}

var _ Source = (*Spool)(nil)

// Size is how many bytes were written.
func (s *Spool) Size() int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.size
}

// Write adds p, or nothing of it: ErrTooBig, or an error of the disk.
func (s *Spool) Write(p []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case s.closed:
		return 0, errClosed
	case s.size+int64(len(p)) > s.max:
		return 0, fmt.Errorf("write spool: more than %d bytes: %w", s.max, ErrTooBig)
	}
	if s.file == nil && s.size+int64(len(p)) > s.limit {
		if err := s.spill(); err != nil {
			return 0, fmt.Errorf("write spool: %w", err)
		}
	}
	if s.file == nil {
		s.memory = append(s.memory, p...)
		s.size += int64(len(p))
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		n := copy(s.memory[len(s.memory):chunk], rest)
		s.memory = s.memory[:len(s.memory)+n]
		rest = rest[n:]
		if len(s.memory) == chunk {
			if err := s.put(); err != nil {
				return 0, fmt.Errorf("write spool: %w", err)
			}
		}
		s.size += int64(n)
	}
	return len(p), nil
}

// spill moves what is in memory to a file.
func (s *Spool) spill() error {
	file, err := unnamed(s.dir)
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	clear(key)
	if err == nil {
		s.seal, err = cipher.NewGCM(block)
	}
	if err != nil {
		file.Close()
		return err
	}
	s.file = file
	all := s.memory
	s.size, s.memory = 0, make([]byte, 0, chunk)
	for rest := all; len(rest) > 0; {
		n := copy(s.memory[:chunk], rest)
		s.memory = s.memory[:n]
		rest = rest[n:]
		if n == chunk {
			if err := s.put(); err != nil {
				return err
			}
		}
	}
	s.size = int64(len(all))
	clear(all)
	return nil
}

// put seals the full piece in memory behind those in the file. Each piece is
// written once, so that its number can be the nonce.
func (s *Spool) put() error {
	at, err := s.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	number := at / int64(chunk+s.seal.Overhead())
	s.sealed = s.seal.Seal(s.sealed[:0], s.nonce(number), s.memory, nil)
	if _, err := s.file.Write(s.sealed); err != nil {
		return errors.Join(err, s.file.Truncate(at))
	}
	s.memory = s.memory[:0]
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
	if s.closed {
		return 0, errClosed
	}
	if off < 0 {
		return 0, fmt.Errorf("read spool: offset %d", off)
	}
	for n < len(p) && off < s.size {
		var from []byte
		switch tail := s.size - int64(len(s.memory)); {
		case s.file == nil:
			from = s.memory[off:]
		case off >= tail:
			from = s.memory[off-tail:]
		default:
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
	whole := chunk + s.seal.Overhead()
	if cap(s.sealed) < whole {
		s.sealed = make([]byte, whole)
	}
	s.sealed = s.sealed[:whole]
	if _, err := s.file.ReadAt(s.sealed, number*int64(whole)); err != nil {
		return err
	}
	if s.plain == nil {
		s.plain = make([]byte, 0, chunk)
	}
	var err error
	if s.plain, err = s.seal.Open(s.plain[:0], s.nonce(number), s.sealed, nil); err != nil {
		s.plain = s.plain[:0]
		return err
	}
	s.cached = number
	return nil
}

// Close forgets the bytes and the key. Further calls do nothing.
func (s *Spool) Close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	clear(s.memory)
	clear(s.plain)
	s.memory, s.plain, s.sealed, s.seal = nil, nil, nil, nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
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
