package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
)

// noise is n bytes that differ from each other's neighbours, the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// spoolOf makes a spool of s that holds data, written in pieces of step bytes.
func spoolOf(t testing.TB, s *Spools, data []byte, step int) *Spool {
	t.Helper()
	p := s.New()
	t.Cleanup(func() { p.Close() })
	for rest := data; len(rest) > 0; {
		n := min(step, len(rest))
		if got, err := p.Write(rest[:n]); got != n || err != nil {
			t.Fatalf("write %d bytes at %d: got %d, %v, want all", n, len(data)-len(rest), got, err)
		}
		rest = rest[n:]
	}
	return p
}

func TestSpoolKeepsBytes(t *testing.T) {
	const k = chunk
	sizes := []int{0, 1, 9, 10, 11, k - 1, k, k + 1, k + 10, 2*k - 1, 2 * k, 2*k + 1, 5*k + 7}
	for _, memory := range []int64{1, 10, k, k + 1, 3 * k} {
		for _, size := range sizes {
			for _, step := range []int{1000, k - 1, k, 3 * k} {
				data := noise(size)
				p := spoolOf(t, &Spools{Memory: memory, Dir: t.TempDir()}, data, step)
				name := fmt.Sprintf("memory %d, size %d, step %d", memory, size, step)
				if got := p.Size(); got != int64(size) {
					t.Errorf("%s: got size %d", name, got)
				}
				if got, want := p.file != nil, int64(size) > memory; got != want {
					t.Errorf("%s: got a file %v, want %v", name, got, want)
				}
				if got, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size())); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: got other bytes or %v", name, err)
				}
				p.Close()
			}
		}
	}
}

// The standard library knows how an io.ReaderAt has to behave.
func TestSpoolIsReaderAt(t *testing.T) {
	for _, size := range []int{0, 100, chunk, 2*chunk + 5} {
		data := noise(size)
		p := spoolOf(t, &Spools{Memory: 200, Dir: t.TempDir()}, data, 777)
		if err := iotest.TestReader(io.NewSectionReader(p, 0, int64(size)), data); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if n, err := p.ReadAt(make([]byte, 1), -1); n != 0 || err == nil {
			t.Errorf("size %d: read at -1: got %d, %v, want an error", size, n, err)
		}
		if n, err := p.ReadAt(make([]byte, 1), int64(size)); n != 0 || err != io.EOF {
			t.Errorf("size %d: read at the end: got %d, %v, want EOF", size, n, err)
		}
	}
}

func TestSpoolGrowsBetweenReads(t *testing.T) {
	data := noise(3*chunk + 10)
	p := spoolOf(t, &Spools{Memory: 100, Dir: t.TempDir()}, nil, 1)
	for at := 0; at < len(data); {
		n := min(chunk/3, len(data)-at)
		if _, err := p.Write(data[at : at+n]); err != nil {
			t.Fatal(err)
		}
		at += n
		got := make([]byte, at)
		if n, err := p.ReadAt(got, 0); n != at || err != nil || !bytes.Equal(got, data[:at]) {
			t.Fatalf("after %d bytes: got %d, %v, or other bytes", at, n, err)
		}
	}
}

func TestSpoolMax(t *testing.T) {
	for _, memory := range []int64{10, 1000} {
		s := Spools{Memory: memory, Max: 100, Dir: t.TempDir()}
		p := spoolOf(t, &s, noise(90), 90)
		if n, err := p.Write(noise(11)); n != 0 || !errors.Is(err, ErrTooBig) {
			t.Errorf("memory %d: one byte too much: got %d, %v, want ErrTooBig", memory, n, err)
		}
		if n, err := p.Write(noise(10)); n != 10 || err != nil {
			t.Errorf("memory %d: what fits after that: got %d, %v, want all", memory, n, err)
		}
		if got := p.Size(); got != 100 {
			t.Errorf("memory %d: got size %d, want 100", memory, got)
		}
	}
	p := (&Spools{Dir: t.TempDir()}).New()
	if p.max != DefaultMax || p.limit != DefaultMemory {
		t.Errorf("zero limits: got %d and %d", p.max, p.limit)
	}
}

func TestSpoolManyReaders(t *testing.T) {
	data := noise(4*chunk + 99)
	p := spoolOf(t, &Spools{Memory: 1, Dir: t.TempDir()}, data, chunk)
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(i)))
			for range 50 {
				at := r.IntN(len(data))
				n := r.IntN(min(2*chunk, len(data)-at))
				got := make([]byte, n)
				if _, err := p.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, data[at:at+n]) {
					t.Errorf("reader %d at %d: got %v or other bytes", i, at, err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// spilled is the file of a spool as the kernel shows it.
func spilled(p *Spool) string { return fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()) }

// R35: the control shows that the marker would be found.
func TestSpoolFileIsSealedAndHasNoName(t *testing.T) {
	marker := []byte("the quick marker of this test")
	data := bytes.Repeat(marker, 3*chunk/len(marker))
	dir := t.TempDir()
	p := spoolOf(t, &Spools{Memory: 1, Dir: dir}, data, 999)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("names in the folder: got %v, %v, want none", names, err)
	}
	raw, err := os.ReadFile(spilled(p))
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * (chunk + 16); len(raw) != want {
		t.Errorf("file: got %d bytes, want %d", len(raw), want)
	}
	if bytes.Contains(raw, marker[:8]) {
		t.Error("the file holds plaintext")
	}
	if _, err := p.file.WriteAt(marker, 7); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(spilled(p)); err != nil || !bytes.Contains(raw, marker) {
		t.Errorf("control: the marker is not found where it was written (%v)", err)
	}
	other, err := os.ReadFile(spilled(spoolOf(t, &Spools{Memory: 1, Dir: dir}, data, 999)))
	if err != nil || bytes.Equal(other[:chunk], raw[:chunk]) {
		t.Errorf("two spools sealed the same bytes the same way (%v)", err)
	}
}

func TestSpoolDamagedFile(t *testing.T) {
	whole := int64(chunk + 16)
	damage := map[string]func(f *os.File) error{
		"one bit": func(f *os.File) error {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, whole+5); err != nil {
				return err
			}
			b[0] ^= 1
			_, err := f.WriteAt(b, whole+5)
			return err
		},
		"tag": func(f *os.File) error { _, err := f.WriteAt([]byte{1, 2, 3}, 2*whole-3); return err },
		"cut": func(f *os.File) error { return f.Truncate(2*whole - 1) },
		"pieces in another order": func(f *os.File) error {
			first := make([]byte, whole)
			if _, err := f.ReadAt(first, 0); err != nil {
				return err
			}
			_, err := f.WriteAt(first, whole)
			return err
		},
	}
	for name, do := range damage {
		data := noise(2*chunk + 10)
		p := spoolOf(t, &Spools{Memory: 1, Dir: t.TempDir()}, data, chunk)
		if err := do(p.file); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if n, err := p.ReadAt(got, 0); n != chunk || err == nil || err == io.EOF || !bytes.Equal(got[:n], data[:n]) {
			t.Errorf("%s: got %d bytes, %v, want the first piece and an error", name, n, err)
		}
		if n, err := p.ReadAt(got[:10], chunk); n != 0 || err == nil {
			t.Errorf("%s: read inside: got %d bytes, %v, want an error", name, n, err)
		}
		if n, err := p.ReadAt(got[:10], 0); n != 10 || err != nil || !bytes.Equal(got[:10], data[:10]) {
			t.Errorf("%s: the whole piece: got %d, %v", name, n, err)
		}
	}
}

// full is a file to which nothing can be written.
func full(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSpoolDiskErrors(t *testing.T) {
	p := spoolOf(t, &Spools{Memory: 1, Dir: t.TempDir()}, noise(chunk+10), chunk)
	p.file.Close()
	p.file = full(t)
	if n, err := p.Write(noise(3 * chunk)); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: got %d, %v, want ENOSPC", n, err)
	}
	if n, err := p.Write(noise(1)); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write after that: got %d, %v, want ENOSPC again", n, err)
	}
	if n, err := p.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("read after that: got %d, %v, want ENOSPC again", n, err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("close after that: got %v", err)
	}

	gone := (&Spools{Memory: 4, Dir: filepath.Join(t.TempDir(), "gone")}).New()
	if n, err := gone.Write([]byte("fits")); n != 4 || err != nil {
		t.Errorf("no folder, in memory: got %d, %v", n, err)
	}
	if n, err := gone.Write([]byte("!")); n != 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: got %d, %v, want ErrNotExist", n, err)
	}
}

func TestSpoolClose(t *testing.T) {
	for _, memory := range []int64{1, 1 << 20} {
		p := spoolOf(t, &Spools{Memory: memory, Dir: t.TempDir()}, noise(chunk+100), 1000)
		if _, err := p.ReadAt(make([]byte, 10), 5); err != nil {
			t.Fatal(err)
		}
		held, plain, file := p.memory, p.plain, p.file
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Errorf("memory %d: close twice: got %v", memory, err)
		}
		for _, b := range [][]byte{held, plain} {
			if bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) {
				t.Errorf("memory %d: close left plaintext in memory", memory)
			}
		}
		if file != nil {
			if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("memory %d: close left the file open: %v", memory, err)
			}
		}
		if _, err := p.Write([]byte("x")); err == nil {
			t.Errorf("memory %d: write after close: got no error", memory)
		}
		if _, err := p.ReadAt(make([]byte, 1), 0); err == nil || err == io.EOF {
			t.Errorf("memory %d: read after close: got %v", memory, err)
		}
	}
}

// What a spool outgrows is wiped before it is given back.
func TestSpoolLeavesNothingWhileItGrows(t *testing.T) {
	p := (&Spools{Memory: 1000, Dir: t.TempDir()}).New()
	defer p.Close()
	var left [][]byte
	for range 3 * chunk / 100 {
		if held := p.memory; p.file == nil && held != nil {
			left = append(left, held)
		}
		if _, err := p.Write(bytes.Repeat([]byte{0xaa}, 100)); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range left {
		if bytes.IndexByte(b, 0xaa) >= 0 {
			t.Fatalf("memory %d of %d still holds plaintext", i, len(left))
		}
	}
}

// FuzzSpool: writes and reads in any order give what a slice of bytes gives.
// Each two bytes of the script are one step: odd writes, even reads.
func FuzzSpool(f *testing.F) {
	f.Add([]byte{1, 255, 0, 3, 3, 200, 2, 9, 255, 255, 254, 0}, uint16(100))
	f.Add([]byte{255, 255, 255, 255, 0, 0}, uint16(0))
	source := noise(1 << 16)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, script []byte, memory uint16) {
		p := (&Spools{Memory: int64(memory) + 1, Max: 1 << 19, Dir: dir}).New()
		defer p.Close()
		var want []byte
		for ; len(script) >= 2 && len(want) < 1<<19; script = script[2:] {
			n := int(script[0])*200 + int(script[1])
			if script[0]%2 == 1 {
				n, err := p.Write(source[:n])
				if big := len(want)+int(script[0])*200+int(script[1]) > 1<<19; big != errors.Is(err, ErrTooBig) || !big && err != nil {
					t.Fatalf("write: got %v, too big is %v", err, big)
				}
				want = append(want, source[:n]...)
			} else {
				at := 0
				if len(want) > 0 {
					at = n * 31 % len(want)
				}
				got := make([]byte, n)
				c, err := p.ReadAt(got, int64(at))
				if c != min(n, len(want)-at) || (err == io.EOF) != (c < n) || c == n && err != nil || !bytes.Equal(got[:c], want[at:at+c]) {
					t.Fatalf("read %d at %d of %d: got %d, %v, or other bytes", n, at, len(want), c, err)
				}
			}
			if p.Size() != int64(len(want)) {
				t.Fatalf("size: got %d, want %d", p.Size(), len(want))
			}
		}
	})
}

func BenchmarkSpool(b *testing.B) {
	for _, size := range []int{4 << 10, 10 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			data, dir := noise(size), b.TempDir()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				p := (&Spools{Dir: dir}).New()
				if _, err := io.Copy(p, bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, io.NewSectionReader(p, 0, p.Size())); err != nil {
					b.Fatal(err)
				}
				p.Close()
			}
		})
	}
}
