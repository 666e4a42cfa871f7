package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/image"
	"postern/image/releasetest"
)

// world is a box on files: two slots, the folder of boot entries, and a boot
// loader that takes them in the order of systemd-boot. The hash trees are
// veritysetup's.
type world struct {
	*testing.T
	box      *Box
	who      *releasetest.Publisher
	disk     string // folder of the slots
	running  image.Version
	profile  string
	restarts int
}

// made are the files of a version, with the root hash.
type made struct {
	files map[string][]byte
	hash  string
}

var rootHash = regexp.MustCompile(`(?m)^Root hash:\s+([0-9a-f]{64})$`)

// make formats a root with veritysetup.
func makeRelease(t testing.TB, v image.Version) made {
	t.Helper()
	dir := t.TempDir()
	root, tree := filepath.Join(dir, "root"), filepath.Join(dir, "tree")
	releasetest.Put(t, root, bytes.Repeat([]byte("root of "+string(v)+"\n"), 64<<10)[:256<<10])
	out, err := exec.Command("veritysetup", "format", "--salt=-", "--uuid=00000000-0000-0000-0000-000000000001", root, tree).CombinedOutput()
	m := rootHash.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("veritysetup is missing (make deps installs it) or says something else: %v: %s", err, out)
	}
	files := map[string][]byte{".efi": []byte("kernel of " + string(v) + strings.Repeat(".", 5000))}
	for end, path := range map[string]string{".root.raw": root, ".verity.raw": tree} {
		if files[end], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return made{files, string(m[1])}
}

// releases are made once.
var releases = map[image.Version]made{}

func release(t testing.TB, v image.Version) made {
	if _, ok := releases[v]; !ok {
		releases[v] = makeRelease(t, v)
	}
	return releases[v]
}

// newWorld is a box with version 2 in slot a, that was found healthy, and nothing
// in the other one.
func newWorld(t *testing.T, who *releasetest.Publisher) *world {
	t.Helper()
	w := &world{T: t, who: who, disk: t.TempDir(), running: "2", profile: "release"}
	w.box = &Box{State: filepath.Join(t.TempDir(), "update"), Entries: t.TempDir(), Keys: who.Keys, Machine: w,
		pause: func(context.Context, time.Duration) error { return nil }}
	for _, slot := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(w.disk, slot), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.fill("a", "2")
	releasetest.Put(t, filepath.Join(w.box.Entries, "postern_2.efi"), release(t, "2").files[".efi"])
	releasetest.Put(t, filepath.Join(w.box.Entries, "other.efi"), []byte("not ours"))
	return w
}

func (w *world) fill(slot string, v image.Version) {
	w.Helper()
	for end, b := range release(w, v).files {
		if end != ".efi" {
			releasetest.Put(w, filepath.Join(w.disk, slot, end), b)
		}
	}
	releasetest.Put(w, filepath.Join(w.disk, slot, "label"), []byte(v))
}

// publish makes a release that can follow.
func publish(t testing.TB, who *releasetest.Publisher, v, from image.Version) string {
	t.Helper()
	r := release(t, v)
	who.Release(t, v, from, r.hash, r.files)
	return who.Path(v)
}

// Running implements Machine.
func (w *world) Running() (image.Version, string, error) { return w.running, w.profile, nil }

// Restart implements Machine.
func (w *world) Restart(context.Context) error { w.restarts++; return nil }

// slotOf is the slot with a label, or "".
func (w *world) slotOf(v image.Version) string {
	for _, slot := range []string{"a", "b"} {
		if b, err := os.ReadFile(filepath.Join(w.disk, slot, "label")); err == nil && string(b) == string(v) {
			return slot
		}
	}
	return ""
}

// Write implements Machine as systemd-sysupdate does: into the slot that is not
// protected, its label last.
func (w *world) Write(_ context.Context, v image.Version) error {
	slot := "b"
	if w.slotOf(w.running) == "b" {
		slot = "a"
	}
	label := filepath.Join(w.disk, slot, "label")
	if b, err := os.ReadFile(label); err == nil && string(b) == string(v) {
		return nil // it is installed
	}
	if err := absent(os.Remove(label)); err != nil {
		return err
	}
	for _, end := range []string{".verity.raw", ".root.raw"} {
		found, err := filepath.Glob(filepath.Join(w.box.State, stageDir, image.Name(v)+".*"+end))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("staged for %s are %v, want 1: %v", end, found, err)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		for _, n := range []int{len(b) / 2, len(b)} {
			if err := w.box.step("sysupdate writes %s", end); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(w.disk, slot, end), b[:n], 0o644); err != nil {
				return err
			}
		}
	}
	if err := w.box.step("sysupdate writes labels"); err != nil {
		return err
	}
	return os.WriteFile(label, []byte(v), 0o644)
}

// Verify implements Machine with veritysetup.
func (w *world) Verify(ctx context.Context, root, verity, hash string) error {
	if err := w.box.step("veritysetup"); err != nil {
		return err
	}
	slot := map[string]string{"a": "b", "b": "a"}[w.slotOf(w.running)]
	if got := (image.Manifest{RootHash: hash}); !strings.HasPrefix(strings.ReplaceAll(root+verity, "-", ""), got.RootHash[:32]) {
		return fmt.Errorf("partitions %s %s are not those of %s", root, verity, hash)
	}
	return run(ctx, "veritysetup", "verify", filepath.Join(w.disk, slot, ".root.raw"), filepath.Join(w.disk, slot, ".verity.raw"), hash)
}

// start is a boot: the boot loader takes an entry and counts, the kernel looks at
// its root. It returns what runs, or "" where an entry has no whole root behind it.
func (w *world) start() image.Version {
	w.Helper()
	list, err := w.box.entries()
	if err != nil || len(list) == 0 {
		w.Fatalf("nothing to start: %v, %v", list, err)
	}
	e := list[0]
	if e.Counted {
		left := max(e.Left-1, 0)
		name := entryName(e.Version, left, e.Done+1)
		if err := os.Rename(filepath.Join(w.box.Entries, e.Name), filepath.Join(w.box.Entries, name)); err != nil {
			w.Fatal(err)
		}
		e.Name = name
	}
	kernel, err := os.ReadFile(filepath.Join(w.box.Entries, e.Name))
	if err != nil || !bytes.Equal(kernel, release(w, e.Version).files[".efi"]) {
		return ""
	}
	slot := w.slotOf(e.Version)
	for end, want := range release(w, e.Version).files {
		got, err := os.ReadFile(filepath.Join(w.disk, slot, end))
		if end != ".efi" && (err != nil || !bytes.Equal(got, want)) {
			return ""
		}
	}
	w.running = e.Version
	return e.Version
}

// bless is systemd-bless-boot: what runs was found healthy.
func (w *world) bless() {
	w.Helper()
	list, err := w.box.entries()
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range list {
		if e.Version == w.running && e.Counted {
			if err := os.Rename(filepath.Join(w.box.Entries, e.Name), filepath.Join(w.box.Entries, image.Name(e.Version)+".efi")); err != nil {
				w.Fatal(err)
			}
		}
	}
}

// apply, and say what came of it.
func (w *world) apply(from string, want error) Applied {
	w.Helper()
	done, err := w.box.Apply(w.Context(), from, false)
	if !errors.Is(err, want) {
		w.Fatalf("apply %s: got %v, want %v", filepath.Base(from), err, want)
	}
	return done
}

// status as it must be.
func (w *world) status(running, next, floor image.Version, last phase) {
	w.Helper()
	s, err := w.box.Status()
	if err != nil || s.Running != running || s.Next != next || s.Floor != floor || s.Last.Outcome != words[last] {
		w.Fatalf("got running %s, next %s, floor %q, last %q, %v; want %s, %s, %q, %q", s.Running, s.Next, s.Floor, s.Last.Outcome, err, running, next, floor, words[last])
	}
}

func (w *world) names() []string {
	w.Helper()
	names := map[string]bool{}
	for _, dir := range []string{w.box.Entries, filepath.Join(w.box.State, stageDir)} {
		files, err := os.ReadDir(dir)
		if err != nil {
			w.Fatal(err)
		}
		for _, f := range files {
			names[f.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
