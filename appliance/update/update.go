// Package update brings a box from one release to the next: it believes a
// release (package image), stages it, has it written into the slot that does not
// run, and makes the boot entry last. What runs is never touched: neither its
// slot nor its entry. The new slot has one try; when it is not found healthy in
// it, whatever the cause, the next start is the old one's.
//
// An entry is a file postern_VERSION.efi in the EFI system partition. One on
// trial has its tries in its name, postern_VERSION+LEFT-DONE.efi, as
// systemd-boot counts them (UAPI Boot Loader Specification, boot counting);
// systemd-bless-boot takes them away once the box is healthy.
package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/image"
)

// fault is a refusal with what to do.
type fault struct{ text, hint string }

// Error is what is wrong.
func (f *fault) Error() string { return f.text }

// Hint is what to do.
func (f *fault) Hint() string { return f.hint }

// What ends an update before it begins, or on its way.
var (
	ErrTrial    = &fault{"what runs is itself on trial", "a slot installs nothing before it was found healthy: wait for that, or see `postern doctor --box`"}
	ErrEntry    = &fault{"what runs has no boot entry", "it was not started by the boot loader of the box: an update could not fall back to it"}
	ErrPlain    = &fault{"not over https", "take an https:// address, or a file"}
	ErrProfile  = &fault{"release is of another profile", "an image for developers never follows one for service, nor the other way: flash it"}
	ErrSlot     = &fault{"slot is not what was written to it", "the disk may be failing; what runs is as it was. Try again, then look at the disk"}
	ErrWrite    = &fault{"slot was not written", "what runs is as it was; the journal has what systemd-sysupdate said"}
	ErrDownload = &fault{"download broke off", "say it again: it goes on where it stopped"}
	ErrBusy     = &fault{"another update is at work", "wait for it: `postern update status`"}
	ErrNoOther  = &fault{"there is no other release to go back to", "`postern update status` shows what is in the slots"}
)

// Machine is what an update asks of the machine beside its files.
type Machine interface {
	// Running is the version and the profile of what runs.
	Running() (version image.Version, profile string, err error)
	// Write puts what is staged into the slot that does not run.
	Write(ctx context.Context, v image.Version) error
	// Verify reads a slot, named by the identities of its partitions, and
	// compares it with its root hash.
	Verify(ctx context.Context, root, verity, roothash string) error
	// Restart restarts the machine.
	Restart(ctx context.Context) error
}

// Box is a box that can be updated.
type Box struct {
	State   string       // folder of what is known between starts
	Entries string       // folder of the boot entries
	Keys    string       // folder of the keys that are trusted
	Client  *http.Client // for releases from the web; nil: one that believes the system's authorities
	Machine Machine

	pause func(ctx context.Context, d time.Duration) error // between tries of a download
	cut   func(step string) error                          // tests: the power fails here
}

// Folders of a box.
const (
	StateDir   = "/var/lib/postern/update"
	EntriesDir = "/efi/EFI/Linux"
)

// tries of a new slot. With one, a box whose new release hangs, panics or ends in
// its initrd is back after one restart; so is one whose power failed during the
// trial, and there the update is said again.
const tries = 1

// record is what is known of the last update, in the state folder.
type record struct {
	Version image.Version `json:"version"`
	From    image.Version `json:"from"`
	Phase   phase         `json:"phase"`
	// Why it went no further; "" where nobody could say, as when the power failed.
	Why string `json:"why,omitempty"`
}

// phase is how far an update came.
type phase string

const (
	staging   phase = "staging"
	writing   phase = "writing"
	entered   phase = "entered" // or about to be: the entry itself says
	committed phase = "committed"
	fellBack  phase = "fell back"
	takenBack phase = "taken back"
)

// step is where the power may fail.
func (b *Box) step(format string, args ...any) error {
	if b.cut == nil {
		return nil
	}
	return b.cut(fmt.Sprintf(format, args...))
}

func (b *Box) path(name string) string { return filepath.Join(b.State, name) }

// lock keeps others out; it is held until the returned file is closed.
func (b *Box) lock() (*os.File, error) {
	if err := os.MkdirAll(b.path(stageDir), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(b.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return f, nil
}

// atWork reports whether somebody holds the lock. It does not take it itself,
// not even for a moment: an update that began then would be refused.
func (b *Box) atWork() (bool, error) {
	f, err := os.Open(b.path("lock"))
	if err != nil {
		return false, absent(err)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, err
	}
	return l.Type != unix.F_UNLCK, nil
}

// floor is the latest version that was ever good here, or "".
func (b *Box) floor() (image.Version, error) {
	text, err := os.ReadFile(b.path("floor"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return image.ParseVersion(strings.TrimSuffix(string(text), "\n"))
}

func (b *Box) record() (r record, err error) {
	text, err := os.ReadFile(b.path("record"))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

func (b *Box) note(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return b.put(b.path("record"), append(text, '\n'))
}

// Applied is what an update came to.
type Applied struct {
	Version, From image.Version
	Already       bool // it runs, or its entry is there and waits for a restart
}

// Apply installs the release at from, a file of it or the https address of its
// manifest. It returns when the next start would try it. With dry the release is
// judged, and nothing is changed.
func (b *Box) Apply(ctx context.Context, from string, dry bool) (Applied, error) {
	running, profile, err := b.Machine.Running()
	if err != nil {
		return Applied{}, err
	}
	if err := b.blessed(running); err != nil {
		return Applied{}, err
	}
	lock, err := b.lock()
	if err != nil {
		return Applied{}, err
	}
	defer lock.Close()
	place, base, err := b.source(from)
	if err != nil {
		return Applied{}, err
	}
	r, err := b.believe(ctx, place, base, running)
	if err != nil {
		return Applied{}, err
	}
	done := Applied{Version: r.Version, From: running}
	if r.Profile != profile {
		return done, fmt.Errorf("release %s: %w: %s, and this is %s", r.Version, ErrProfile, r.Profile, profile)
	}
	if r.Version == running {
		done.Already = true
		return done, nil
	}
	if dry {
		return done, nil
	}
	return done, b.install(ctx, place, r, running)
}

func (b *Box) believe(ctx context.Context, place source, base string, running image.Version) (image.Release, error) {
	keys, err := image.LoadKeys(b.Keys)
	if err != nil {
		return image.Release{}, err
	}
	floor, err := b.floor()
	if err != nil {
		return image.Release{}, fmt.Errorf("read the latest version that was good here: %w", err)
	}
	seen, err := os.ReadFile(b.path("checkpoint"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return image.Release{}, err
	}
	get := func(name string, most int64) ([]byte, error) { return place.small(ctx, name, most) }
	files, err := image.FilesOf(base, get)
	if err != nil {
		return image.Release{}, err
	}
	j := image.Judge{Keys: keys, Running: running, Floor: floor, Seen: seen,
		Log: func(path string) ([]byte, error) { return get("log/"+path, maxTile) }}
	return j.Believe(files)
}

// install installs a release, or notes why not: whoever asked for it may be
// elsewhere.
func (b *Box) install(ctx context.Context, place source, r image.Release, running image.Version) error {
	rec := record{Version: r.Version, From: running, Phase: staging}
	err := b.steps(ctx, place, r, &rec)
	if err != nil {
		rec.Why = oneLine(err.Error())
		err = errors.Join(err, b.note(rec))
	}
	return err
}

// maxWhy is how much is kept of an error, in bytes.
const maxWhy = 500

// oneLine is the beginning of a text, without what would make it several lines.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxWhy)], "")
}

// steps are those of an update in their order. Each can be the last one before
// the power fails: until the entry has its name, the old slot is all that starts;
// from then on the new one is whole.
func (b *Box) steps(ctx context.Context, place source, r image.Release, rec *record) error {
	if err := b.note(*rec); err != nil {
		return err
	}
	if err := b.put(b.path("checkpoint"), r.Head); err != nil {
		return err
	}
	if err := b.stage(ctx, place, r.Manifest); err != nil {
		return err
	}
	rec.Phase = writing
	if err := b.note(*rec); err != nil {
		return err
	}
	// The other slot is about to be written over: nothing may start it.
	if err := b.onlyEntryOf(rec.From); err != nil {
		return err
	}
	if err := b.step("write slot"); err != nil {
		return err
	}
	if err := b.Machine.Write(ctx, r.Version); err != nil {
		return fmt.Errorf("release %s: %w: %w", r.Version, ErrWrite, err)
	}
	root, verity := r.Partitions()
	if err := b.Machine.Verify(ctx, root, verity, r.RootHash); err != nil {
		return fmt.Errorf("release %s: %w: %w", r.Version, ErrSlot, err)
	}
	rec.Phase = entered
	if err := b.note(*rec); err != nil {
		return err
	}
	kernel, _ := r.Artifact(image.Kernel)
	if err := b.enter(ctx, b.stagePath(r.Manifest, kernel), kernel, r.Version); err != nil {
		return err
	}
	return b.clean(nil)
}

// Rollback makes the release in the other slot the one that starts, by marking
// the entry of what runs as bad. It takes effect with the next start.
func (b *Box) Rollback(dry bool) (to image.Version, err error) {
	running, _, err := b.Machine.Running()
	if err != nil {
		return "", err
	}
	lock, err := b.lock()
	if err != nil {
		return "", err
	}
	defer lock.Close()
	list, err := b.entries()
	if err != nil {
		return "", err
	}
	var mine *Entry
	for i, e := range list {
		switch {
		case e.Version == running:
			mine = &list[i]
		case !e.Bad():
			to = e.Version
		}
	}
	if mine == nil {
		return "", ErrEntry
	}
	if to == "" {
		return "", ErrNoOther
	}
	if dry {
		return to, nil
	}
	if err := b.note(record{Version: running, From: to, Phase: takenBack}); err != nil {
		return "", err
	}
	return to, b.rename(mine.Name, entryName(running, 0, tries))
}

// Confirm notes that what runs was found healthy: no earlier version is taken
// from then on. It fails while what runs is on trial.
func (b *Box) Confirm(dry bool) (running image.Version, err error) {
	running, _, err = b.Machine.Running()
	if err != nil {
		return "", err
	}
	if err := b.blessed(running); err != nil {
		return "", err
	}
	lock, err := b.lock()
	if err != nil {
		return "", err
	}
	defer lock.Close()
	floor, err := b.floor()
	if err != nil {
		return "", err
	}
	r, err := b.record()
	if err != nil || dry {
		return running, err
	}
	if running.Compare(floor) > 0 {
		if err := b.put(b.path("floor"), []byte(running+"\n")); err != nil {
			return "", err
		}
	}
	if r.Phase != entered {
		return running, nil
	}
	switch s, err := b.outcome(r, running); {
	case err != nil:
		return "", err
	case s == committed || s == fellBack:
		r.Phase = s
		return running, b.note(r)
	}
	return running, nil
}

// Restart restarts the machine.
func (b *Box) Restart(ctx context.Context) error { return b.Machine.Restart(ctx) }
