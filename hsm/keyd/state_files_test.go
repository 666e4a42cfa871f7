package keyd_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// TestNew refuses what cannot work, before the token is touched.
func TestNew(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	good := keyd.Config{Device: hsmtest.NewSoft(), Log: quiet, Audit: quiet}
	id := strings.Repeat("ab", 32)
	for name, x := range map[string]struct {
		change func(c *keyd.Config)
		good   bool
	}{
		"good":      {func(*keyd.Config) {}, true},
		"no device": {func(c *keyd.Config) { c.Device = nil }, false},
		"no log":    {func(c *keyd.Config) { c.Log = nil }, false},
		"no audit":  {func(c *keyd.Config) { c.Audit = nil }, false},
		"bad rule":  {func(c *keyd.Config) { c.Rules = []keyd.Rule{{Label: "[", UIDs: nil}} }, false},
		"state folder that is a file": {func(c *keyd.Config) {
			c.StateDir = filepath.Join(c.StateDir, "retired")
			if err := os.WriteFile(c.StateDir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		"good notes":              {note(t, "failures", id+" 12 3\n"), true},
		"retired key of no name":  {note(t, "retired", "abcd\n"), false},
		"failures of no name":     {note(t, "failures", "abcd 1 1\n"), false},
		"failures without number": {note(t, "failures", id+" 1\n"), false},
		"failures below zero":     {note(t, "failures", id+" 1 -1\n"), false},
		"good notes on origins":   {note(t, "origins", id+" 192.0.2.7 12 3\n"), true},
		"origin of no key":        {note(t, "origins", "abcd 192.0.2.7 1 1\n"), false},
		"origin without number":   {note(t, "origins", id+" 192.0.2.7 1\n"), false},
		"origin below zero":       {note(t, "origins", id+" 192.0.2.7 1 -1\n"), false},
	} {
		c := good
		c.StateDir = t.TempDir()
		x.change(&c)
		k, err := keyd.New(c)
		if (err == nil) != x.good {
			t.Errorf("%s: got %v, want success: %v", name, err, x.good)
		}
		if err == nil {
			k.Close()
		}
	}
}

func note(t *testing.T, name, text string) func(c *keyd.Config) {
	return func(c *keyd.Config) {
		if err := os.WriteFile(filepath.Join(c.StateDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRetireNotNoted: a retirement that is not on disk has not happened, and
// is not said to have.
func TestRetireNotNoted(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	block := filepath.Join(d.Config.StateDir, ".retired.new")
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Keyd.Retire(t.Context(), key.ID); err == nil || !hsm.Temporary(err) {
		t.Errorf("got %v, want a temporary error", err)
	}
	if _, err := d.Keyd.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
		t.Errorf("sign: %v", err)
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if err := d.Keyd.Retire(t.Context(), key.ID); err != nil {
		t.Error(err)
	}
}

// TestAuditAway: a token that goes while it is read again is away, and comes back.
func TestAuditAway(t *testing.T) {
	soft := newSwitchboard(hsmtest.NewSoft())
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	soft.fail(hsm.ErrLocked, "Load")
	if _, err := d.Keyd.Audit(t.Context()); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("got %v, want %v", err, hsm.ErrAway)
	}
	soft.fail(nil)
	d.Reach(hsm.Ready)
}
