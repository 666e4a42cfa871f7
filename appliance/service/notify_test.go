package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What is said goes to the socket of systemd, one datagram for each.
func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n := NewNotifier()
	heard := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		k, err := conn.Read(b)
		if got := string(b[:k]); err != nil || got != want {
			t.Errorf("got %q, %v want %q", got, err, want)
		}
	}
	if err := n.Ready("ready, 3 keys"); err != nil {
		t.Error(err)
	}
	heard("READY=1\nSTATUS=ready, 3 keys")
	if err := n.Status("a token called\nWATCHDOG=1"); err != nil {
		t.Error(err)
	}
	heard("STATUS=a token called WATCHDOG=1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		n.Watch(ctx, func(context.Context) error { return nil }, slog.New(slog.DiscardHandler))
		close(done)
	}()
	heard("WATCHDOG=1")
	cancel()
	<-done
	if err := n.Stopping(); err != nil {
		t.Error(err)
	}
	heard("STOPPING=1")
}

// Without systemd nothing is said and nothing is watched.
func TestNotifierAlone(t *testing.T) {
	for _, c := range []struct{ name, socket, usec, pid string }{
		{"no systemd", "", "", ""},
		{"another process", "", "60000000", "1"},
	} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		n := NewNotifier()
		if err := errors.Join(n.Ready("x"), n.Status("x"), n.Stopping()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		n.Watch(t.Context(), func(context.Context) error { t.Errorf("%s: asked", c.name); return nil }, slog.New(slog.DiscardHandler))
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := NewNotifier().Ready("x"); err == nil {
		t.Error("a malformed WATCHDOG_USEC went by in silence")
	}
}

// watched runs Watch with WatchdogSec=60 for so long, and gives the moments
// of its feeds in seconds.
func watched(t *testing.T, span time.Duration, check func(ctx context.Context, second int) error) (fed []int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		second := func() int { return int(time.Since(begun) / time.Second) }
		var mu sync.Mutex
		n := &Notifier{limit: time.Minute, send: func(state string) error {
			mu.Lock()
			defer mu.Unlock()
			if state == "WATCHDOG=1" {
				fed = append(fed, second())
			}
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), span)
		defer cancel()
		n.Watch(ctx, func(ctx context.Context) error { return check(ctx, second()) }, slog.New(slog.DiscardHandler))
	})
	return fed
}

func TestWatch(t *testing.T) {
	ill := errors.New("ill")
	for _, c := range []struct {
		name  string
		check func(context.Context, int) error
		want  []int
	}{
		{"well", func(context.Context, int) error { return nil }, []int{0, 15, 30, 45, 60, 75, 90}},
		{"ill from the start", func(context.Context, int) error { return ill }, nil},
		{"ill for a while", func(_ context.Context, s int) error {
			if s >= 30 && s < 60 {
				return ill
			}
			return nil
		}, []int{0, 15, 60, 75, 90}},
		{"slow, but in time", func(context.Context, int) error { time.Sleep(10 * time.Second); return nil }, []int{10, 25, 40, 55, 70, 85, 100}},
		{"hangs, and minds its context", func(ctx context.Context, s int) error {
			if s < 30 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, []int{0, 15}},
		{"hangs, and does not", func(ctx context.Context, s int) error {
			if s >= 30 {
				time.Sleep(70 * time.Second)
			}
			return nil
		}, []int{0, 15}},
	} {
		got := watched(t, 104*time.Second, c.check)
		if len(got) != len(c.want) {
			t.Errorf("%s: fed at %v want %v", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: fed at %v want %v", c.name, got, c.want)
				break
			}
		}
	}
}
