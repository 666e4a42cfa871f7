package clock

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/hsm"
)

// machine is a clock that people can set, above one that they cannot.
type machine struct {
	wall time.Time
	up   time.Duration
}

func (m *machine) pass(d time.Duration) { m.wall, m.up = m.wall.Add(d), m.up+d }

func (m *machine) gate(t *testing.T) Gate {
	return Gate{
		Floor: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Mark: filepath.Join(t.TempDir(), "mark"),
		Now: func() time.Time { return m.wall }, Boot: func() (time.Duration, error) { return m.up, nil },
	}
}

// What becomes of a machine, step by step, and whether its clock is believed.
func TestGate(t *testing.T) {
	day := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	synced, not := State{Synchronised: true, MaxError: time.Millisecond}, State{MaxError: 16 * time.Second}
	type step struct {
		name  string
		do    func(*machine)
		state State // what the kernel says then
		want  string
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"an empty battery", []step{
			{"1970", func(m *machine) { m.wall = time.Unix(60, 0) }, not, "before 2026-11-01T00:00:00Z"},
			{"somebody sets it", func(m *machine) { m.wall = day }, not, "no time service has set it since the start"},
			{"a time service sets it", func(m *machine) { m.pass(time.Minute) }, synced, ""},
		}},
		{"a battery, and no network yet", []step{
			{"started", func(m *machine) {}, not, "no time service has set it since the start"},
			{"the network is there", func(m *machine) { m.pass(time.Hour) }, synced, ""},
			{"and gone", func(m *machine) { m.pass(48 * time.Hour) }, not, ""},
			{"for a month", func(m *machine) { m.pass(29 * 24 * time.Hour) }, not, "no time service has set it for 744h0m0s"},
			{"and back", func(m *machine) { m.pass(time.Hour) }, synced, ""},
		}},
		{"somebody sets it", []step{
			{"right", func(m *machine) {}, synced, ""},
			{"back a year", func(m *machine) { m.wall = m.wall.AddDate(0, 0, -20) }, not, "it was set by -480h0m0s since"},
			{"and right again", func(m *machine) { m.wall = m.wall.AddDate(0, 0, 20) }, not, ""},
			{"on by an hour", func(m *machine) { m.wall = m.wall.Add(time.Hour) }, not, "it was set by 1h0m0s since"},
			{"which a time service says", func(m *machine) {}, synced, ""},
		}},
		{"a time service that lies", []step{
			{"before the build", func(m *machine) { m.wall = day.AddDate(-3, 0, 0) }, synced, "before 2026-11-01T00:00:00Z"},
		}},
		{"a time service that does not know", []step{
			{"off by minutes", func(m *machine) {}, State{Synchronised: true, MaxError: time.Minute}, "no time service has set it"},
		}},
		{"a quartz goes astray", []step{
			{"right", func(m *machine) {}, synced, ""},
			{"a minute in a week", func(m *machine) { m.pass(7 * 24 * time.Hour); m.wall = m.wall.Add(time.Minute) }, not, ""},
			{"an hour in a week", func(m *machine) { m.pass(7 * 24 * time.Hour); m.wall = m.wall.Add(time.Hour) }, not, "it was set by 1h1m0s since"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &machine{wall: day, up: time.Minute}
			g := m.gate(t)
			for _, s := range c.steps {
				s.do(m)
				Watcher{Gate: g, State: func() (State, error) { return s.state, nil }}.once()
				err := g.Check()
				if s.want == "" && err != nil || s.want != "" && (!errors.Is(err, hsm.ErrClock) || !strings.Contains(err.Error(), s.want)) {
					t.Errorf("%s: got %v, want %q", s.name, err, s.want)
				}
			}
		})
	}
}

// A mark that says nothing is none.
func TestGateAgainstMarks(t *testing.T) {
	m := &machine{wall: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC), up: time.Hour}
	good := string(mark{m.wall, m.up}.text())
	for _, c := range []struct{ text, want string }{
		{good, ""}, {"", "read mark"}, {strings.TrimSuffix(good, "\n"), "read mark"}, {good + good, "read mark"}, {"postern-clock-1 now 5\n", "read mark"},
		{strings.Replace(good, " 36", " -36", 1), "read mark"}, {strings.Repeat("x", 1<<20), "read mark"},
		{string(mark{m.wall, m.up + time.Minute}.text()), "for -1m0s"}, // of another run of the machine
	} {
		g := m.gate(t)
		if err := os.WriteFile(g.Mark, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := g.Check(); c.want == "" && err != nil || c.want != "" && (!errors.Is(err, hsm.ErrClock) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.60q: got %v, want %q", c.text, err, c.want)
		}
	}
	g := m.gate(t)
	g.Boot = func() (time.Duration, error) { return 0, errors.New("away") }
	if err := os.WriteFile(g.Mark, []byte(good), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Check(); !errors.Is(err, hsm.ErrClock) {
		t.Errorf("no time since the start: got %v, want %v", err, hsm.ErrClock)
	}
	if err := (Gate{}).Check(); err != nil {
		t.Errorf("no gate: got %v", err)
	}
}

// What Watch sees it says once, and the gate opens by itself.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		g := Gate{Mark: filepath.Join(t.TempDir(), "mark"), Boot: func() (time.Duration, error) { return time.Since(started), nil }}
		var said []string
		ctx, stop := context.WithCancel(t.Context())
		var synchronised atomic.Bool
		done := make(chan error)
		go func() {
			done <- Watcher{Gate: g, State: func() (State, error) { return State{Synchronised: synchronised.Load()}, nil }, Log: slog.New(slog.DiscardHandler)}.Watch(ctx, func(s string) { said = append(said, s) })
		}()
		for _, s := range []struct {
			synchronised, open bool
		}{{false, false}, {true, true}, {false, true}, {true, true}} {
			synchronised.Store(s.synchronised)
			time.Sleep(2 * every) // of the test's clock
			synctest.Wait()
			if err := g.Check(); (err == nil) != s.open {
				t.Errorf("synchronised %v: got %v, want open %v", s.synchronised, err, s.open)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := "no time service sets it, right, no time service sets it; what it showed before still holds, right"
		if got := strings.Join(said, ", "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// The kernel of this machine answers, and its own clock is one that a gate
// with a fresh mark believes.
func TestHere(t *testing.T) {
	if _, err := Kernel(); err != nil {
		t.Error(err)
	}
	g := Gate{Mark: filepath.Join(t.TempDir(), "mark")}
	if got := (Watcher{Gate: g, State: func() (State, error) { return State{Synchronised: true}, nil }}).once(); got != "right" {
		t.Errorf("got %q, want right", got)
	}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzMark(f *testing.F) {
	f.Add(mark{time.Unix(1800000000, 5), time.Hour}.text())
	f.Add([]byte("postern-clock-1 2026-12-01T12:00:00Z 5\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		again, err := parse(m.text())
		if err != nil || !again.wall.Equal(m.wall) || again.up != m.up {
			t.Errorf("%q: got %v, %v, want %v", b, again, err, m)
		}
		if bytes.Count(m.text(), []byte("\n")) != 1 {
			t.Errorf("%q has more than a line", m.text())
		}
	})
}
