package imagetest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Disk is a raw image that a test may change.
type Disk struct {
	t    testing.TB
	Path string
}

// Copy makes one, as small as its original is.
func Copy(t testing.TB, raw, path string) Disk {
	t.Helper()
	run(t, "cp", "--sparse=always", raw, path)
	return Disk{t, path}
}

// Offset is where the partition with a label begins, in bytes.
func (d Disk) Offset(label string) int64 {
	d.t.Helper()
	start, _ := d.Extent(label)
	return start
}

// Root is where the root of slot A begins; its label is the one of the hash tree
// before it too.
func (d Disk) Root() int64 {
	d.t.Helper()
	const root = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" // of x86-64, by the UAPI group's specification
	out := run(d.t, "partx", "--raw", "--noheadings", "--output", "START,TYPE", d.Path)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && strings.EqualFold(f[1], root) {
			n, err := strconv.ParseInt(f[0], 10, 64)
			if err != nil {
				d.t.Fatalf("root: %v", err)
			}
			return n * 512
		}
	}
	d.t.Fatalf("no root in\n%s", out)
	return 0
}

// Flip changes one bit.
func (d Disk) Flip(at int64) { flip(d.t, d.Path, at) }

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// FlipKernel changes one bit of the kernel's file in the ESP: in the middle of
// its initrd.
func (d Disk) FlipKernel() {
	d.t.Helper()
	esp := d.Path + "@@" + strconv.FormatInt(d.Offset("postern-esp"), 10)
	var name string
	for line := range strings.Lines(run(d.t, "mdir", "-b", "-i", esp, "::/EFI/Linux")) {
		if line = strings.TrimSpace(line); strings.HasSuffix(line, ".efi") {
			name = line
		}
	}
	file := filepath.Join(d.t.TempDir(), "kernel.efi")
	run(d.t, "mcopy", "-i", esp, name, file)
	data, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	// zstd: the frame of the initrd begins so.
	at := bytes.LastIndex(data, []byte{0x28, 0xb5, 0x2f, 0xfd})
	if at < 0 {
		d.t.Fatal("no initrd in the kernel's file")
	}
	flip(d.t, file, int64(at+4096))
	run(d.t, "mcopy", "-o", "-i", esp, file, name)
}

// Spoil writes over the beginning of the hash tree with a label, on the disk of a
// machine that is off: what is in that slot has no root any more.
func Spoil(t testing.TB, s Setup, label string) {
	t.Helper()
	disk := filepath.Join(s.Dir, "disk.qcow2")
	// The table of partitions, at the head of a file that is as long as the disk.
	head := filepath.Join(t.TempDir(), "head.raw")
	run(t, "qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=1M", "count=2", "if="+disk, "of="+head)
	if err := os.Truncate(head, int64(s.size())<<30); err != nil {
		t.Fatal(err)
	}
	at := Disk{t, head}.Offset(label)
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a "+strconv.FormatInt(at, 10)+" 65536", disk)
}
