package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// statements makes signed releases 1 to n without files.
func (h *house) statements(t testing.TB, n int) (list [][]byte) {
	t.Helper()
	first, err := Decode(h.build(t, "1", "0"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m := first
		m.Version = Version(fmt.Sprint(i + 1))
		m.Artifacts = nil
		for _, a := range first.Artifacts {
			a.Name = strings.Replace(a.Name, "_1.", fmt.Sprintf("_%d.", i+1), 1)
			a.Packed = nil
			m.Artifacts = append(m.Artifacts, a)
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sig, err := Sign(b, h.release)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, sig)
	}
	return list
}

// A log of several tiles: each release is proved in it when it comes and later,
// every older checkpoint is continued by every later one, and what was published
// before is there, unchanged.
func TestLogGrows(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Join(t.TempDir(), "log")
	const n = tileWidth + 3
	published := map[string][]byte{}
	var heads []checkpoint
	var list = h.statements(t, n)
	for i, sig := range list {
		l, err := OpenLog(dir, origin, h.log)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Append(sig, h.keys)
		if err != nil {
			t.Fatal(err)
		}
		s, err := signed(sig, h.keys)
		if err != nil {
			t.Fatal(err)
		}
		head, err := included(s, p, h.keys)
		if err != nil || head.tree.N != int64(i+1) {
			t.Fatalf("release %d: got a log of %d, %v", i+1, head.tree.N, err)
		}
		heads = append(heads, head)
		if i%50 != 0 && i < tileWidth-2 {
			continue
		}
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "checkpoint" {
				return err
			}
			b, err := os.ReadFile(path)
			if old, ok := published[path]; ok && !bytes.Equal(old, b) {
				t.Errorf("%s has changed", path)
			}
			published[path] = b
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	fetch := LogFolder(dir)
	for i := range heads {
		if i%37 != 0 && i < tileWidth-2 {
			continue
		}
		for _, later := range heads[i:] {
			if err := continues(heads[i], later, fetch); err != nil {
				t.Fatalf("%d to %d: %v", heads[i].tree.N, later.tree.N, err)
			}
		}
	}
	// Who logs a release again gets a proof in the log of today.
	l, err := OpenLog(dir, origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Append(list[4], h.keys)
	s, _ := signed(list[4], h.keys)
	if err != nil || len(l.leaves) != n {
		t.Fatalf("again: got %v, %d entries, want %d", err, len(l.leaves), n)
	}
	if head, err := included(s, p, h.keys); err != nil || head.tree.N != n {
		t.Errorf("again: got a log of %d, %v, want %d", head.tree.N, err, n)
	}
	for _, want := range []string{"checkpoint", "tile/0/000", "tile/0/001.p/3", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/3"} {
		if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
			t.Errorf("the layout of C2SP tlog-tiles has %s: %v", want, err)
		}
	}
}

// A version is released once.
func TestLogRefusesASecondManifest(t *testing.T) {
	h := newHouse(t)
	l, err := OpenLog(t.TempDir(), origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	for i, from := range []string{"0", "1"} {
		sig, err := Sign(h.build(t, "9", from), h.release)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(sig, h.keys); (err != nil) != (i == 1) {
			t.Errorf("manifest %d: got %v", i+1, err)
		}
	}
	if _, err := l.Append(newHouse(t).statements(t, 1)[0], h.keys); !errors.Is(err, ErrKey) {
		t.Errorf("of a strange key: got %v, want %v", err, ErrKey)
	}
}

// A log whose files were touched is not continued.
func TestLogSeesWhatWasTouched(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(dir, origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range h.statements(t, 3) {
		if _, err := l.Append(sig, h.keys); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]error{"checkpoint": ErrLog, "tile/entries/000.p/3": ErrLogFile} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1
			put(t, path, b)
			if _, err := OpenLog(dir, origin, h.log); !errors.Is(err, want) {
				t.Fatalf("%s, byte %d: got %v, want %v", name, i, err, want)
			}
		}
		put(t, path, good[:len(good)-1])
		if _, err := OpenLog(dir, origin, h.log); !errors.Is(err, want) {
			t.Errorf("%s cut off: got %v, want %v", name, err, want)
		}
		put(t, path, good)
	}
	if _, err := OpenLog(dir, "other.example/releases", h.log); !errors.Is(err, ErrLog) {
		t.Errorf("another name: got %v, want %v", err, ErrLog)
	}
}

// Power that fails while a log is written leaves it as it was, or as it is to
// be: the last thing that is written is the checkpoint.
func TestLogOutlivesACut(t *testing.T) {
	h := newHouse(t)
	list := h.statements(t, 2)
	dir := filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(dir, origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(list[0], h.keys); err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(list[1], h.keys); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "checkpoint"), head) // every tile is there, the checkpoint not yet
	put(t, filepath.Join(dir, "checkpoint.part"), []byte("half"))
	if l, err = OpenLog(dir, origin, h.log); err != nil || len(l.leaves) != 1 {
		t.Fatalf("got %v, want the log of before", err)
	}
	if _, err := l.Append(list[1], h.keys); err != nil {
		t.Errorf("on: %v", err)
	}
}

// Who is shown another history than before, is told.
func TestForksAreSeen(t *testing.T) {
	h := newHouse(t)
	list := h.statements(t, 4)
	grow := func(sigs ...[]byte) (string, []Files) {
		dir := filepath.Join(t.TempDir(), "log")
		l, err := OpenLog(dir, origin, h.log)
		if err != nil {
			t.Fatal(err)
		}
		var files []Files
		for _, sig := range sigs {
			p, err := l.Append(sig, h.keys)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, Files{Signature: sig, Proof: p})
		}
		return dir, files
	}
	head := func(f Files) checkpoint {
		s, err := signed(f.Signature, h.keys)
		if err != nil {
			t.Fatal(err)
		}
		c, err := included(s, f.Proof, h.keys)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dirA, a := grow(list[0], list[1], list[2])
	dirB, b := grow(list[0], list[3], list[2])
	for _, c := range []struct {
		name     string
		old, new checkpoint
		dir      string
		want     error
	}{
		{"on", head(a[1]), head(a[2]), dirA, nil},
		{"the same", head(a[1]), head(a[1]), dirA, nil},
		{"an older proof of the same log", head(a[2]), head(a[1]), dirA, nil},
		{"the fork of a size", head(a[2]), head(b[2]), dirB, ErrFork},
		{"a later fork", head(a[1]), head(b[2]), dirB, ErrFork},
		{"a later fork with the tiles of the true log", head(a[1]), head(b[2]), dirA, ErrUnknown},
		{"no log beside it", head(a[0]), head(a[2]), t.TempDir(), ErrUnknown},
	} {
		if err := continues(c.old, c.new, LogFolder(c.dir)); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if err := continues(head(a[0]), head(a[1]), nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("nothing to ask: got %v, want %v", err, ErrUnknown)
	}
	other := head(a[1])
	other.origin = "other.example/releases"
	if err := continues(head(a[0]), other, LogFolder(dirA)); !errors.Is(err, ErrFork) {
		t.Errorf("another log: got %v, want %v", err, ErrFork)
	}
	for i, bad := range []string{"", strings.Repeat("x", tlog.HashSize-1), strings.Repeat("x", 3*tlog.HashSize)} {
		fetch := func(string) ([]byte, error) { return []byte(bad), nil }
		if err := continues(head(a[0]), head(a[2]), fetch); !errors.Is(err, ErrUnknown) {
			t.Errorf("bad tile %d: got %v, want %v", i, err, ErrUnknown)
		}
	}
}

// What the log signs under another name, or for another thing, is no checkpoint.
func TestCheckpointIsOfThisLog(t *testing.T) {
	h := newHouse(t)
	l, err := OpenLog(t.TempDir(), origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	hash := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, c := range []struct {
		text string
		good bool
	}{
		{origin + "\n5\n" + hash + "\n", true},
		{"other.example\n5\n" + hash + "\n", false},
		{origin + "\n05\n" + hash + "\n", false},
		{origin + "\n0\n" + hash + "\n", false},
		{origin + "\n-5\n" + hash + "\n", false},
		{origin + "\n99999999\n" + hash + "\n", false},
		{origin + "\n5\nAAAA\n", false},
		{origin + "\n5\n" + hash + "\nmore\n", false},
		{origin + "\n", false},
	} {
		b, err := note.Sign(&note.Note{Text: c.text}, l.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openCheckpoint(b, h.keys.logs); (err == nil) != c.good || err != nil && !errors.Is(err, ErrLog) {
			t.Errorf("%q: got %v, want good %v", c.text, err, c.good)
		}
	}
}
