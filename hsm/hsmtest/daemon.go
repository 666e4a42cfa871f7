package hsmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/keyd"
)

// Daemon is a key daemon in this process, on two sockets and with a state
// folder of its own, that can be stopped and started again on them.
type Daemon struct {
	Config    keyd.Config // as the next Start takes it
	Use, Keep string      // the sockets
	Keyd      *keyd.Keyd  // that of the last Start

	t      testing.TB
	log    text
	audit  text
	cancel context.CancelFunc
	ended  chan error
}

// text is a log that a test reads while it is written.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// NewDaemon prepares a daemon for device, with the credential pin; it is not
// started. Its waits are short. It goes with the test.
func NewDaemon(t testing.TB, device keyd.Device, pin string) *Daemon {
	t.Helper()
	// Not below t.TempDir: the path of a socket holds 107 bytes.
	dir, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &Daemon{t: t, Use: filepath.Join(dir, "use.sock"), Keep: filepath.Join(dir, "keep.sock")}
	d.Config = keyd.Config{
		Device: device, PINFile: filepath.Join(dir, "pin"), StateDir: filepath.Join(dir, "state"),
		Health: 20 * time.Millisecond, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Log:     slog.New(slog.NewJSONHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Audit:   slog.New(slog.NewJSONHandler(&d.audit, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Version: "test",
	}
	d.SetPIN(pin)
	t.Cleanup(func() { d.Stop() })
	return d
}

// SetPIN writes the credential; "" removes it.
func (d *Daemon) SetPIN(pin string) {
	d.t.Helper()
	err := os.WriteFile(d.Config.PINFile, []byte(pin+"\n"), 0o600)
	if pin == "" {
		err = os.Remove(d.Config.PINFile)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// Start listens and runs.
func (d *Daemon) Start() {
	d.t.Helper()
	c := d.Config
	var err error
	if c.UseListener, err = keyd.Listen(d.Use, 0o600, -1); err != nil {
		d.t.Fatal(err)
	}
	if c.KeepListener, err = keyd.Listen(d.Keep, 0o600, -1); err != nil {
		d.t.Fatal(err)
	}
	if d.Keyd, err = keyd.New(c); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	d.cancel, d.ended = cancel, ended
	k := d.Keyd
	go func() { ended <- k.Run(ctx) }()
}

// Stop ends the daemon and returns how it ended.
func (d *Daemon) Stop() error {
	if d.cancel == nil {
		return nil
	}
	d.cancel()
	d.cancel = nil
	return <-d.ended
}

// Ended waits for a daemon that ends by itself.
func (d *Daemon) Ended() error {
	d.t.Helper()
	select {
	case err := <-d.ended:
		d.cancel()
		d.cancel = nil
		return err
	case <-time.After(20 * time.Second):
		d.t.Fatal("the daemon did not end by itself")
		return nil
	}
}

// Open starts it, waits until it serves, and gives a client of each socket,
// which go with the test.
func (d *Daemon) Open() (keep, use *client.Client) {
	d.t.Helper()
	d.Start()
	d.Reach(hsm.Ready)
	keep, use = client.Dial(d.Keep), client.Dial(d.Use)
	d.t.Cleanup(func() { _, _ = keep.Close(), use.Close() })
	return keep, use
}

// Reach waits until the daemon is in a state.
func (d *Daemon) Reach(want hsm.State) {
	d.t.Helper()
	Eventually(d.t, func() (bool, string) {
		state, reason := d.Keyd.State()
		return state == want, "state: got " + state.String() + " (" + reason + "), want " + want.String()
	})
}

// Eventually waits up to 20 s until ok; what it had last is the complaint.
func Eventually(t testing.TB, ok func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		good, what := ok()
		if good {
			return
		}
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// Log is what the daemon logged, at debug level too.
func (d *Daemon) Log() string { return d.log.String() }

// Audit are the records of operations so far, each by its fields.
func (d *Daemon) Audit() []map[string]any {
	d.t.Helper()
	var records []map[string]any
	for line := range strings.Lines(d.audit.String()) {
		record := map[string]any{}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			d.t.Fatalf("audit record %q: %v", line, err)
		}
		records = append(records, record)
	}
	return records
}
