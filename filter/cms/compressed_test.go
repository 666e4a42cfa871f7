package cms

import (
	"bytes"
	"compress/zlib"
	"encoding/asn1"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
)

// deflated is content in zlib's format.
func deflated(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressedData is CompressedData around what should be zlib.
func compressedData(t testing.TB, version int64, algorithm, inner asn1.ObjectIdentifier, octets []byte) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidCompressed)
		b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(version)
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(algorithm) })
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(inner)
					b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(octets) })
				})
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecompress(t *testing.T) {
	z := deflated(t, []byte(entity))
	good := compressedData(t, 0, oidZlib, oidData, z)
	bomb := compressedData(t, 0, oidZlib, oidData, deflated(t, make([]byte, 64<<20)))
	text := bytes.Repeat([]byte("0123456789"), 100_000)
	damaged := bytes.Clone(z)
	damaged[len(damaged)-1] ^= 1 // Adler-32
	for _, c := range []struct {
		name string
		in   []byte
		max  int64
		want error
	}{
		{"good", good, int64(len(entity)), nil},
		{"one byte too long", good, int64(len(entity)) - 1, ErrLimit},
		{"bomb", bomb, 1 << 40, ErrLimit},
		{"below the first MiB all may be", compressedData(t, 0, oidZlib, oidData, deflated(t, text)), 1 << 20, nil},
		{"nothing", compressedData(t, 0, oidZlib, oidData, deflated(t, nil)), 1, nil},
		{"not even zlib", compressedData(t, 0, oidZlib, oidData, nil), 100, ErrForm},
		{"checksum", compressedData(t, 0, oidZlib, oidData, damaged), 100, ErrForm},
		{"cut off", compressedData(t, 0, oidZlib, oidData, z[:len(z)-5]), 100, ErrForm},
		{"something behind", compressedData(t, 0, oidZlib, oidData, append(bytes.Clone(z), 0)), 100, ErrForm},
		{"preset dictionary", compressedData(t, 0, oidZlib, oidData, []byte{0x78, 0xbb, 0, 0, 0, 1}), 100, ErrForm},
		{"version", compressedData(t, 1, oidZlib, oidData, z), 100, ErrForm},
		{"algorithm", compressedData(t, 0, oidData, oidData, z), 100, ErrAlgorithm},
		{"other content", compressedData(t, 0, oidZlib, oidSigned, z), 100, ErrForm},
		{"something behind the message", append(bytes.Clone(good), 0), 100, ErrForm},
	} {
		var out bytes.Buffer
		err := Decompress(bytes.NewReader(c.in), &out, c.max)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if int64(out.Len()) > min(c.max, freeInflation+maxRatio*int64(len(c.in))) {
			t.Errorf("%s: %d bytes came out", c.name, out.Len())
		}
		if c.name == "good" && out.String() != entity {
			t.Errorf("%s: got %q", c.name, out.String())
		}
	}
	for n := range good {
		if err := Decompress(bytes.NewReader(good[:n]), io.Discard, 100); !errors.Is(err, ErrForm) {
			t.Errorf("cut off at %d: got %v, want %v", n, err, ErrForm)
		}
	}
}

// Errors of reader and writer are not those of the message.
func TestDecompressFaults(t *testing.T) {
	good := compressedData(t, 0, oidZlib, oidData, deflated(t, []byte(entity)))
	fault := errors.New("disk")
	r := io.MultiReader(bytes.NewReader(good[:len(good)-10]), iotest.ErrReader(fault))
	if err := Decompress(r, io.Discard, 100); !errors.Is(err, fault) || errors.Is(err, ErrForm) {
		t.Errorf("got %v, want %v", err, fault)
	}
	if err := Decompress(bytes.NewReader(good), unwritable{fault}, 100); !errors.Is(err, fault) || errors.Is(err, ErrForm) {
		t.Errorf("got %v, want %v", err, fault)
	}
}

// unwritable is a writer that cannot.
type unwritable struct{ err error }

func (f unwritable) Write([]byte) (int, error) { return 0, f.err }

// endless gives n bytes of text.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.left))
	for i := range p[:n] {
		p[i] = byte('a' + i%23)
	}
	e.left -= int64(n)
	return n, nil
}

// allocated is all the memory that do asked for, garbage too.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestDecompressMemory(t *testing.T) {
	head := ber.AppendHeader(nil, ber.Tag{Number: ber.Sequence, Constructed: true}, 1<<60)
	bomb := compressedData(t, 0, oidZlib, oidData, deflated(t, make([]byte, 64<<20)))
	if got := allocated(func() {
		Decompress(bytes.NewReader(bomb), io.Discard, 1<<40)
		Decompress(bytes.NewReader(head), io.Discard, 1<<40)
	}); got > 1<<20 {
		t.Errorf("%d KiB of memory", got>>10)
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add(compressedData(f, 0, oidZlib, oidData, deflated(f, []byte(entity))))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		if err := Decompress(bytes.NewReader(in), &out, 1<<16); err == nil && out.Len() > 1<<16 {
			t.Errorf("%d bytes came out", out.Len())
		}
	})
}
