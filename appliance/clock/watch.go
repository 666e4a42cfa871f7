package clock

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// every is how often the kernel is asked: who sets the clock right opens the
// gates within that time.
const every = 5 * time.Second

// maxError is how far off a clock may be that counts as set.
const maxError = 5 * time.Second

// State is what the kernel knows of its clock.
type State struct {
	Synchronised bool          // a time service has set it
	MaxError     time.Duration // how far off it is at most
}

// Kernel asks the kernel (adjtimex(2)). It changes nothing.
func Kernel() (State, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return State{}, fmt.Errorf("ask kernel for its clock: %w", err)
	}
	return State{t.Status&unix.STA_UNSYNC == 0, time.Duration(t.Maxerror) * time.Microsecond}, nil
}

// Watcher keeps the mark of a Gate.
type Watcher struct {
	Gate  Gate
	State func() (State, error) // Kernel where nil
	Log   *slog.Logger
}

// Watch leaves a mark whenever the clock is right, until ctx ends. ready is told
// what it found, at first and when that changes; a mark of an earlier run of the
// program stays until then, since a Gate sees by itself whether it holds.
func (w Watcher) Watch(ctx context.Context, ready func(status string)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		status := w.once()
		if status != last {
			w.Log.Info("clock", "status", status)
			ready(status)
			last = status
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// once asks, marks, and says what is so.
func (w Watcher) once() string {
	ask := w.State
	if ask == nil {
		ask = Kernel
	}
	s, err := ask()
	switch {
	case err != nil:
		return err.Error()
	case !s.Synchronised:
		return w.stands("no time service sets it")
	case s.MaxError > maxError:
		return w.stands(fmt.Sprintf("it may be off by more than %v", maxError))
	}
	floor := Gate{Floor: w.Gate.Floor, Now: w.Gate.Now}
	if err := floor.Check(); err != nil { // whoever set it, it is not right
		return err.Error()
	}
	up, err := w.Gate.boot()
	if err != nil {
		return err.Error()
	}
	if err := (mark{w.Gate.now(), up}).write(w.Gate.Mark); err != nil {
		return err.Error()
	}
	return "right"
}

// stands adds whether the gate is open all the same.
func (w Watcher) stands(why string) string {
	if w.Gate.Check() == nil {
		return why + "; what it showed before still holds"
	}
	return why
}

// Epoch is a time that has passed for sure: the newest of built and the time of
// the system's own file for that (systemd's clock-epoch, beside which the image
// was made), if there is one.
func Epoch(built time.Time) time.Time {
	if info, err := os.Stat("/usr/lib/clock-epoch"); err == nil && info.ModTime().After(built) {
		return info.ModTime()
	}
	return built
}
