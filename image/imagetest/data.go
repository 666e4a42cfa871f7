package imagetest

import (
	"bytes"
	"crypto/aes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"
)

// block is how much is looked at at once; a multiple of every sector.
const block = 1 << 20

// Data is the data partition of a machine that is off, twice: as it lies on the
// disk, and opened with the recovery key, as somebody does who has both.
type Data struct {
	t      testing.TB
	Sealed string // file with the partition
	Plain  string // file with its file system, ext4
}

// OpenData takes the partition out of the disk in dir, and opens it. That needs
// no device mapper, which machines that test may not have: the volume key comes
// from cryptsetup, the sectors are opened here.
func OpenData(t testing.TB, dir, recovery string) Data {
	t.Helper()
	out := t.TempDir()
	raw := filepath.Join(out, "disk.raw")
	run(t, "qemu-img", "convert", "-O", "raw", filepath.Join(dir, "disk.qcow2"), raw)
	d := Data{t, filepath.Join(out, "var.luks"), filepath.Join(out, "var.ext4")}
	start, size := Disk{t, raw}.Extent("postern-var")
	copySparse(t, raw, start, size, d.Sealed, func([]byte, int64) {})
	if err := os.Remove(raw); err != nil {
		t.Fatal(err)
	}
	key, phrase := filepath.Join(out, "key"), filepath.Join(out, "phrase")
	if err := os.WriteFile(phrase, []byte(recovery), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", key, "--key-file", phrase, d.Sealed)
	var luks struct {
		Segments map[string]struct {
			Offset     string `json:"offset"`
			Encryption string `json:"encryption"`
			SectorSize int    `json:"sector_size"`
		} `json:"segments"`
	}
	if err := json.Unmarshal([]byte(run(t, "cryptsetup", "luksDump", "--dump-json-metadata", d.Sealed)), &luks); err != nil {
		t.Fatal(err)
	}
	seg := luks.Segments["0"]
	offset, err := strconv.ParseInt(seg.Offset, 10, 64)
	if err != nil || seg.Encryption != "aes-xts-plain64" || len(luks.Segments) != 1 {
		t.Fatalf("data partition: got %+v, %v, want one segment of aes-xts-plain64", luks, err)
	}
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := xts.NewCipher(aes.NewCipher, secret)
	if err != nil {
		t.Fatal(err)
	}
	// The tweak counts in 512 bytes, whatever the size of a sector (dm-crypt's
	// plain64 without iv_large_sectors).
	copySparse(t, d.Sealed, offset, size-offset, d.Plain, func(b []byte, at int64) {
		for i := 0; i+seg.SectorSize <= len(b); i += seg.SectorSize {
			cipher.Decrypt(b[i:i+seg.SectorSize], b[i:i+seg.SectorSize], uint64((at+int64(i))/512))
		}
	})
	// The magic number of ext4 stands at 0x38 of its superblock: the key was right.
	magic := make([]byte, 2)
	f, err := os.Open(d.Plain)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(magic, 1024+0x38); err != nil || !bytes.Equal(magic, []byte{0x53, 0xef}) {
		t.Fatalf("data partition: got magic %x, %v, want that of ext4", magic, err)
	}
	return d
}

// copySparse copies a part of a file, changed by turn; what is zero stays a
// hole, since no sector is ever sealed to that.
func copySparse(t testing.TB, from string, start, size int64, to string, turn func(b []byte, at int64)) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	b, zero := make([]byte, block), make([]byte, block)
	for at := int64(0); at < size; at += block {
		n := min(block, size-at)
		if _, err := in.ReadAt(b[:n], start+at); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(b[:n], zero[:n]) {
			continue
		}
		const piece = 4096 // the largest sector of LUKS
		for i := int64(0); i < n; i += piece {
			if p := b[i:min(i+piece, n)]; !bytes.Equal(p, zero[:len(p)]) {
				turn(p, at+i)
			}
		}
		if _, err := out.WriteAt(b[:n], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// Count is how often a text stands in a file.
func Count(t testing.TB, path, text string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, kept := make([]byte, block+len(text)), 0
	for {
		m, err := io.ReadFull(f, b[kept:])
		n += bytes.Count(b[:kept+m], []byte(text))
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatal(err)
			}
			return n
		}
		// Less than the text: nothing is counted twice.
		kept = copy(b, b[kept+m-(len(text)-1):kept+m])
	}
}

// Journal is everything in the journal of the machine, also what is compressed
// there, in journald's own form for export.
func (d Data) Journal() string {
	d.t.Helper()
	dir := d.t.TempDir()
	run(d.t, "debugfs", "-R", "rdump /log/journal "+dir, d.Plain)
	out := run(d.t, "journalctl", "--directory", filepath.Join(dir, "journal"), "--merge", "--all", "--output=export", "--no-pager", "--quiet")
	if !strings.Contains(out, "__CURSOR=") {
		d.t.Fatalf("the journal has no lines: %.300q", out)
	}
	return out
}

// Extent is where the partition with a label begins, and its size, in bytes.
func (d Disk) Extent(label string) (start, size int64) {
	d.t.Helper()
	out := run(d.t, "partx", "--raw", "--noheadings", "--output", "START,SECTORS,NAME", d.Path)
	for line := range strings.Lines(out) {
		var name string
		if n, _ := fmt.Sscan(line, &start, &size, &name); n == 3 && name == label {
			return start * 512, size * 512
		}
	}
	d.t.Fatalf("no partition %s in\n%s", label, out)
	return 0, 0
}
