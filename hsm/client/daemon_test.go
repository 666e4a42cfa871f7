package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

// daemon runs a key daemon on a real token, until it is killed. words: module,
// token, file with the PIN, keep socket, state folder.
func daemon(words []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := keyd.Listen(words[3], 0o600, -1)
	if err == nil {
		var k *keyd.Keyd
		k, err = keyd.New(keyd.Config{
			Device: p11.New(p11.Config{Module: words[0], Token: words[1], Log: log}), PINFile: words[2], StateDir: words[4],
			KeepListener: l, Log: log, Audit: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			err = k.Run(context.Background())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestMain makes this program a key daemon when its environment says so: one
// that can be killed.
func TestMain(m *testing.M) {
	if line := os.Getenv("POSTERN_TEST_DAEMON"); line != "" {
		os.Exit(daemon(strings.Split(line, ",")))
	}
	os.Exit(m.Run())
}

// TestKill: kill -9 in the middle of work. Every call ends with its right
// answer or with hsm.ErrAway, and all is well when the daemon is back.
func TestKill(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	dir, err := os.MkdirTemp("", "kill")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pin, socket := filepath.Join(dir, "pin"), filepath.Join(dir, "keep.sock")
	if err := os.WriteFile(pin, []byte(f.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(append(os.Environ(), f.Env()...), "POSTERN_TEST_DAEMON="+strings.Join([]string{f.Module, f.Label, pin, socket, filepath.Join(dir, "state")}, ","))
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	c := dial(t, socket)
	ready := func() {
		t.Helper()
		hsmtest.Eventually(t, func() (bool, string) {
			st, err := c.Status(t.Context())
			return err == nil && st.State == hsm.Ready, fmt.Sprintf("got state %s (%s), %v, want ready", st.State, st.Reason, err)
		})
	}
	cmd := start()
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	ready()
	opener := generate(t, c, hsm.RSA2048, hsm.Unwrap)
	want := hsm.SessionKey{Cipher: 9, Key: bytes.Repeat([]byte{3}, 32)}
	w := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.OpenPGPRSA}, want)

	stop := make(chan struct{})
	var done, away atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := c.Unwrap(t.Context(), opener.ID, w)
				switch {
				case err == nil && bytes.Equal(got.Key, want.Key):
					done.Add(1)
				case errors.Is(err, hsm.ErrAway):
					away.Add(1)
				default:
					t.Errorf("got %+v, %v", got, err)
					return
				}
			}
		})
	}
	for range 3 {
		some := done.Load() + 20
		hsmtest.Eventually(t, func() (bool, string) { return done.Load() >= some, "no work is done" })
		cmd.Process.Kill()
		cmd.Wait()
		cmd = start()
		ready()
	}
	some := done.Load() + 20
	hsmtest.Eventually(t, func() (bool, string) { return done.Load() >= some, "no work is done after the last start" })
	close(stop)
	group.Wait()
	if away.Load() == 0 {
		t.Error("no call met the daemon away: the test proves nothing")
	}
}
