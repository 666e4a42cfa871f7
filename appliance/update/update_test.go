package update

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/image"
	"postern/image/releasetest"
)

// An update that is good stays; one that is not falls back; the earlier one is
// refused. The status says so at every point.
func TestLifeOfABox(t *testing.T) {
	who := releasetest.New(t)
	w := newWorld(t, who)
	old, n1, n2, n3 := publish(t, who, "1", "0"), publish(t, who, "3", "0"), publish(t, who, "4", "0"), publish(t, who, "5", "0")
	if v, err := w.box.Confirm(false); err != nil || v != "2" {
		t.Fatalf("got %s, %v, want 2", v, err)
	}
	w.status("2", "2", "2", "")

	w.apply(n1, nil)
	w.status("2", "3", "2", entered)
	if got, want := w.names(), []string{"other.efi", "postern_2.efi", "postern_3+1-0.efi"}; !slices.Equal(got, want) {
		t.Errorf("got files %v, want %v", got, want)
	}
	if got := w.start(); got != "3" {
		t.Fatalf("got %q started, want 3", got)
	}
	w.status("3", "2", "2", onTrial)
	w.apply(n2, ErrTrial)
	if _, err := w.box.Confirm(false); !errors.Is(err, ErrTrial) {
		t.Errorf("confirm on trial: got %v, want %v", err, ErrTrial)
	}
	w.bless()
	if _, err := w.box.Confirm(false); err != nil {
		t.Fatal(err)
	}
	w.status("3", "3", "3", committed)

	// 4 is broken: it starts once, is never blessed, and 3 is back.
	w.apply(n2, nil)
	for range tries {
		if got := w.start(); got != "4" {
			t.Fatalf("got %q started, want 4", got)
		}
	}
	if got := w.start(); got != "3" {
		t.Fatalf("got %q started, want 3", got)
	}
	w.status("3", "3", "3", fellBack)
	if _, err := w.box.Confirm(false); err != nil {
		t.Fatal(err)
	}
	w.status("3", "3", "3", fellBack)

	w.apply(old, image.ErrDowngrade)
	if w.apply(n1, nil); w.running != "3" {
		t.Error("the release that runs was installed")
	}
	w.status("3", "3", "3", fellBack)

	// What was bad can be tried again, and the next one goes over it.
	w.apply(n2, nil)
	w.status("3", "4", "3", entered)
	if got := w.apply(n3, nil); got.From != "3" || got.Version != "5" {
		t.Errorf("got %s from %s, want 5 from 3", got.Version, got.From)
	}
	if got := w.start(); got != "5" {
		t.Fatalf("got %q started, want 5", got)
	}
	w.bless()
	if _, err := w.box.Confirm(false); err != nil {
		t.Fatal(err)
	}
	w.status("5", "5", "5", committed)

	// An operator goes back, and the floor stays.
	if to, err := w.box.Rollback(true); err != nil || to != "3" {
		t.Fatalf("got %s, %v, want 3", to, err)
	}
	if to, err := w.box.Rollback(false); err != nil || to != "3" {
		t.Fatalf("got %s, %v, want 3", to, err)
	}
	w.status("5", "3", "5", takenBack)
	if got := w.start(); got != "3" {
		t.Fatalf("got %q started, want 3", got)
	}
	if _, err := w.box.Confirm(false); err != nil {
		t.Fatal(err)
	}
	w.status("3", "3", "5", takenBack)
	w.apply(n2, image.ErrDowngrade)
	w.apply(n3, nil)
	w.status("3", "5", "5", entered)
	if _, err := w.box.Rollback(false); err != nil {
		t.Errorf("to what was never started: %v", err)
	}
}

// errCut is the power that fails.
var errCut = errors.New("the power fails")

// The power fails at every step of an update, each write, rename and removal.
// What ran starts again, untouched, or the new release starts whole, with what ran
// behind it; and saying it again completes the update.
func TestPowerFailsAtEveryStep(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	bad, next := publish(t, who, "4", "0"), publish(t, who, "5", "0")
	// The world before: 3 runs, 4 fell back and lies in the other slot.
	begin := func(t *testing.T) *world {
		w := newWorld(t, who)
		w.apply(who.Path("3"), nil)
		w.start()
		w.bless()
		if _, err := w.box.Confirm(false); err != nil {
			t.Fatal(err)
		}
		w.apply(bad, nil)
		for range tries + 1 {
			w.start()
		}
		if w.running != "3" {
			t.Fatalf("got %s running, want 3", w.running)
		}
		return w
	}
	whole := begin(t)
	var steps []string
	whole.box.cut = func(step string) error { steps = append(steps, step); return nil }
	whole.apply(next, nil)
	if len(steps) < 30 {
		t.Fatalf("got %d steps, want more: %q", len(steps), steps)
	}
	entries := 0
	for i, at := range steps {
		w := begin(t)
		slot := w.slotOf("3")
		n := 0
		w.box.cut = func(string) error {
			if n++; n > i {
				return errCut
			}
			return nil
		}
		w.apply(next, errCut)
		w.box.cut = nil
		for path, want := range map[string][]byte{
			filepath.Join(w.box.Entries, "postern_3.efi"):     release(t, "3").files[".efi"],
			filepath.Join(w.disk, slot, ".root.raw"):          release(t, "3").files[".root.raw"],
			filepath.Join(w.disk, slot, ".verity.raw"):        release(t, "3").files[".verity.raw"],
			filepath.Join(w.disk, slot, "label"):              []byte("3"),
			filepath.Join(w.box.Entries, "other.efi"):         []byte("not ours"),
			filepath.Join(w.box.State, "floor"):               []byte("3\n"),
			filepath.Join(who.Dir, "postern_5.manifest.json"): nil,
		} {
			got, err := os.ReadFile(path)
			if err != nil || want != nil && !bytes.Equal(got, want) {
				t.Fatalf("cut at %d %q: %s was touched: %v", i, at, path, err)
			}
		}
		if s, err := w.box.Status(); err != nil || s.Running != "3" || s.Last.Version == "" {
			t.Fatalf("cut at %d %q: got status %+v, %v", i, at, s, err)
		}
		switch got := w.start(); got {
		case "3":
		case "5":
			entries++
			for range tries {
				w.start() // it is not healthy
			}
			if w.running != "3" {
				t.Fatalf("cut at %d %q: got %s after a fall back, want 3", i, at, w.running)
			}
		default:
			t.Fatalf("cut at %d %q: got %q started, want 3 or 5", i, at, got)
		}
		w.apply(next, nil)
		if got := w.start(); got != "5" {
			t.Fatalf("cut at %d %q, and again: got %q started, want 5", i, at, got)
		}
	}
	t.Logf("%d steps; after %d of them the new release starts", len(steps), entries)
	if entries == 0 || entries > 8 {
		t.Errorf("the new release starts after %d of %d steps, want a few at the end", entries, len(steps))
	}
}

// What is refused is refused before anything is changed.
func TestRefusedBeforeAnything(t *testing.T) {
	who := releasetest.New(t)
	good := publish(t, who, "3", "0")
	late := publish(t, who, "6", "5")
	for _, c := range []struct {
		name   string
		change func(t *testing.T, w *world)
		from   string
		want   error
	}{
		{"on trial", func(t *testing.T, w *world) {
			releasetest.Put(t, filepath.Join(w.box.Entries, "postern_2+2-1.efi"), []byte("x"))
			os.Remove(filepath.Join(w.box.Entries, "postern_2.efi"))
		}, good, ErrTrial},
		{"no entry", func(t *testing.T, w *world) { os.Remove(filepath.Join(w.box.Entries, "postern_2.efi")) }, good, ErrEntry},
		{"strange keys", func(t *testing.T, w *world) { w.box.Keys = releasetest.New(t).Keys }, good, image.ErrKey},
		{"no keys", func(t *testing.T, w *world) { w.box.Keys = t.TempDir() }, good, image.ErrKeys},
		{"downgrade", func(t *testing.T, w *world) {
			w.apply(good, nil)
			releasetest.Put(t, filepath.Join(w.box.State, "floor"), []byte("4\n"))
		}, good, image.ErrDowngrade},
		{"a floor that says nothing", func(t *testing.T, w *world) {
			w.apply(good, nil)
			releasetest.Put(t, filepath.Join(w.box.State, "floor"), nil)
		}, good, nil},
		{"a leap", func(t *testing.T, w *world) {}, late, image.ErrFrom},
		{"debug", func(t *testing.T, w *world) { w.profile = "debug" }, good, ErrProfile},
		{"plain http", func(t *testing.T, w *world) {}, "http://release.example/postern_3.manifest.json", ErrPlain},
		{"another scheme", func(t *testing.T, w *world) {}, "file:///postern_3.manifest.json", ErrPlain},
		{"a password in it", func(t *testing.T, w *world) {}, "https://a:b@release.example/postern_3.manifest.json", ErrPlain},
		{"no release", func(t *testing.T, w *world) {}, filepath.Join(t.TempDir(), "hello.txt"), image.ErrUnnamed},
		{"nothing there", func(t *testing.T, w *world) {}, filepath.Join(t.TempDir(), "postern_3.manifest.json"), image.ErrAbsent},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, who)
			c.change(t, w)
			before := w.names0()
			_, err := w.box.Apply(t.Context(), c.from, false)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if after := w.names0(); !slices.Equal(before, after) {
				t.Errorf("got entries %v, want %v", after, before)
			}
		})
	}
}

// names0 are the boot entries.
func (w *world) names0() []string {
	w.Helper()
	list, err := w.box.entries()
	if err != nil {
		w.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name)
	}
	return names
}

// A part that is not the manifest's stops the update while it is staged; a slot
// that is not what was written stops it before there is an entry.
func TestWhatIsWrongOnTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(t *testing.T, w *world)
		want error
	}{
		"root":   {bent(".root.raw"), image.ErrRoot},
		"verity": {bent(".verity.raw"), image.ErrVerity},
		"kernel": {bent(".efi"), image.ErrKernel},
		"slot": {func(t *testing.T, w *world) {
			w.box.cut = func(step string) error { // the disk lies
				if step == "veritysetup" {
					path := filepath.Join(w.disk, "b", ".root.raw")
					b, err := os.ReadFile(path)
					if err != nil {
						return err
					}
					b[100] ^= 1
					return os.WriteFile(path, b, 0o644)
				}
				return nil
			}
		}, ErrSlot},
		"entry": {func(t *testing.T, w *world) {
			w.box.cut = func(step string) error {
				if step == "sync stage" {
					return nil
				}
				if strings.HasPrefix(step, "create postern_3+1-0.efi") {
					return errCut
				}
				return nil
			}
		}, errCut},
	} {
		t.Run(name, func(t *testing.T) {
			who := releasetest.New(t)
			from := publish(t, who, "3", "0")
			w := newWorld(t, who)
			c.bend(t, w)
			w.apply(from, c.want)
			if s, err := w.box.Status(); err != nil || c.want != errCut && !strings.Contains(s.Last.Outcome, c.want.Error()) {
				t.Errorf("got outcome %q, %v, want %q in it", s.Last.Outcome, err, c.want)
			}
			if got, want := w.names0(), []string{"postern_2.efi"}; !slices.Equal(got, want) {
				t.Errorf("got entries %v, want %v", got, want)
			}
			if got := w.start(); got != "2" {
				t.Errorf("got %q started, want 2", got)
			}
		})
	}
}

// bent changes a byte of a published file, packed or not.
func bent(end string) func(t *testing.T, w *world) {
	return func(t *testing.T, w *world) {
		path := filepath.Join(w.who.Dir, "postern_3"+end)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/3] ^= 4
		releasetest.Put(t, path, b)
	}
}

// Two updates do not meet.
func TestOneUpdateAtATime(t *testing.T) {
	who := releasetest.New(t)
	from := publish(t, who, "3", "0")
	w := newWorld(t, who)
	lock, err := w.box.lock()
	if err != nil {
		t.Fatal(err)
	}
	w.apply(from, ErrBusy)
	lock.Close()
	w.apply(from, nil)
}

// A log that does not continue what this box has seen ends the update.
func TestForkIsRefused(t *testing.T) {
	one := releasetest.New(t)
	w := newWorld(t, one)
	w.apply(publish(t, one, "3", "0"), nil)
	if err := os.RemoveAll(filepath.Join(one.Dir, "log")); err != nil {
		t.Fatal(err)
	}
	publish(t, one, "4", "0") // the log begins anew, without 3
	w.apply(publish(t, one, "5", "0"), image.ErrFork)
}

func TestEntries(t *testing.T) {
	for name, want := range map[string]Entry{
		"postern_2.efi":          {Version: "2"},
		"postern_0.1.20+3-0.efi": {Version: "0.1.20", Counted: true, Left: 3},
		"postern_2+0-3.efi":      {Version: "2", Counted: true, Done: 3},
		"postern_2+1.efi":        {Version: "2", Counted: true, Left: 1},
	} {
		want.Name = name
		if got, ok := parseEntry(name); !ok || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "postern.efi", "postern_.efi", "postern_2", "postern_2.efi.part", "postern_x.efi", "postern_2+.efi", "postern_2+a-1.efi", "postern_2+1-.efi", "other_2.efi", "postern_2+-1.efi"} {
		if got, ok := parseEntry(name); ok {
			t.Errorf("%s: got %+v, want no entry", name, got)
		}
	}
}
