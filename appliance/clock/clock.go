// Package clock tells whether the time of this machine can be believed. What is
// signed carries a time, and certificates are judged at one; a box whose battery
// is empty would sign in the past, and take expired certificates for good ones.
//
// Two halves: Watch asks the kernel whether a time service has set its clock,
// and leaves a mark; a Gate reads the mark, in the daemons, which may not ask
// the kernel themselves (ProtectClock=). No mark is no: a gate opens by itself
// once a time service has answered, and closes when somebody sets the clock to
// another time behind it.
package clock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/hsm"
)

const (
	// slack is how far the clock may be from where the mark says that it runs:
	// a time service sets right what is less. A certificate is not judged
	// wrongly by it, and no spool forgotten.
	slack = 30 * time.Second
	// drift is how far a quartz goes astray by itself, at worst.
	drift = 200e-6
	// keep is how long a mark counts that nobody renews: by then the clock
	// may be off by some ten minutes. Servers that are away for a weekend
	// hold up no mail.
	keep = 30 * 24 * time.Hour
	// maxMark is more than any mark has, in bytes.
	maxMark = 128
	// magic begins a mark.
	magic = "postern-clock-1"
)

// Gate says whether the clock can be believed. The zero Gate believes each
// clock; it must not be changed while it is asked.
type Gate struct {
	// Floor is a time that has passed for sure, as when the program was built.
	Floor time.Time
	// Mark is the file that Watch writes; "": Floor alone decides.
	Mark string

	Now  func() time.Time              // time.Now where nil
	Boot func() (time.Duration, error) // since the start of the machine, whoever sets the clock; Uptime where nil
}

// Check is nil where the clock can be believed. Its error wraps hsm.ErrClock.
func (g Gate) Check() error {
	now := g.now()
	if now.Before(g.Floor) {
		return fmt.Errorf("%w: %s is before %s, when this was built", hsm.ErrClock, stamp(now), stamp(g.Floor))
	}
	if g.Mark == "" {
		return nil
	}
	m, err := read(g.Mark)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no time service has set it since the start", hsm.ErrClock)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrClock, err)
	}
	up, err := g.boot()
	if err != nil {
		return fmt.Errorf("%w: read time since the start: %w", hsm.ErrClock, err)
	}
	since := up - m.up
	if since < 0 || since > keep {
		return fmt.Errorf("%w: no time service has set it for %v", hsm.ErrClock, since.Round(time.Second))
	}
	if off := now.Sub(m.wall.Add(since)); off.Abs() > slack+time.Duration(drift*float64(since)) {
		return fmt.Errorf("%w: it was set by %v since a time service set it", hsm.ErrClock, off.Round(time.Second))
	}
	return nil
}

func (g Gate) now() time.Time {
	if g.Now != nil {
		return g.Now().Round(0) // what the clock shows, and nothing else
	}
	return time.Now().Round(0)
}

func (g Gate) boot() (time.Duration, error) {
	if g.Boot != nil {
		return g.Boot()
	}
	return Uptime()
}

// Uptime is the time since the start of the machine, sleep included.
func Uptime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// mark says that the clock showed wall, and was right, when the machine was up
// for that long. It lies in /run, and ends with the machine's run.
type mark struct {
	wall time.Time
	up   time.Duration
}

// text is the mark as it stands in its file.
func (m mark) text() []byte {
	return fmt.Appendf(nil, "%s %s %d\n", magic, m.wall.UTC().Format(time.RFC3339Nano), m.up.Nanoseconds())
}

// parse reads what text prints.
func parse(b []byte) (mark, error) {
	wrong := fmt.Errorf("read mark: got %.100q, want %s, a time and nanoseconds", b, magic)
	line, found := bytes.CutSuffix(b, []byte("\n"))
	f := strings.Split(string(line), " ")
	if !found || len(f) != 3 || f[0] != magic {
		return mark{}, wrong
	}
	wall, err := time.Parse(time.RFC3339Nano, f[1])
	if err != nil {
		return mark{}, wrong
	}
	up, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || up < 0 {
		return mark{}, wrong
	}
	return mark{wall, time.Duration(up)}, nil
}

func read(path string) (mark, error) {
	f, err := os.Open(path)
	if err != nil {
		return mark{}, fmt.Errorf("read mark: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMark+1))
	if err != nil {
		return mark{}, fmt.Errorf("read mark: %w", err)
	}
	return parse(b)
}

// write puts a mark in its place, whole or not at all.
func (m mark) write(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".mark-*")
	if err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	_, err = f.Write(m.text())
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write mark: %w", err), os.Remove(f.Name()))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
