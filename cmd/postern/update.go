package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"postern/appliance/config"
	"postern/appliance/update"
	"postern/image"
	"postern/provisioning"
)

// slots is the image that runs, as the commands of update see it.
type slots struct{}

// updateUnit installs a release without the limits of who asks for it.
const updateUnit = "postern-update.service"

func updates() *update.Box {
	return &update.Box{State: update.StateDir, Entries: update.EntriesDir, Keys: image.Folder, Machine: update.Here()}
}

// request is where Start leaves for the service what it is to install.
func request() string { return filepath.Join(update.StateDir, "request") }

// Apply implements provisioning.Updates. Without a release it takes what Start has
// left, then the latest of the box's source.
func (slots) Apply(ctx context.Context, from string, dry bool) (string, bool, error) {
	b := updates()
	if from == "" {
		text, err := os.ReadFile(request())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", false, err
		}
		from = strings.TrimSpace(string(text))
		if !dry {
			if err := os.Remove(request()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", false, err
			}
		}
	}
	if from == "" {
		c, err := config.LoadBox(provisioning.DefaultBox)
		if err != nil {
			return "", false, err
		}
		if c.Update.Source == "" {
			return "", false, fmt.Errorf("box.toml has no source in [update]: %w", update.ErrPlain)
		}
		if from, err = b.Latest(ctx, c.Update.Source); err != nil {
			return "", false, err
		}
	}
	done, err := b.Apply(ctx, from, dry)
	return string(done.Version), done.Already, err
}

// Start implements provisioning.Updates.
func (slots) Start(ctx context.Context, from string) error {
	if from != "" && !strings.HasPrefix(from, "https://") {
		return fmt.Errorf("%.200q: %w", from, update.ErrPlain)
	}
	if err := os.MkdirAll(update.StateDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(request(), []byte(from+"\n"), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "/usr/bin/systemctl", "--no-block", "start", updateUnit).CombinedOutput()
	if err != nil {
		return fmt.Errorf("start %s: %w: %.200s", updateUnit, err, out)
	}
	return nil
}

// Status implements provisioning.Updates.
func (slots) Status(context.Context) (provisioning.UpdateStatus, error) {
	s, err := updates().Status()
	if err != nil {
		return provisioning.UpdateStatus{}, err
	}
	out := provisioning.UpdateStatus{Running: string(s.Running), Profile: s.Profile, Healthy: s.Healthy, Next: string(s.Next), Floor: string(s.Floor),
		Entries: []provisioning.BootEntry{}, Update: string(s.Last.Version), From: string(s.Last.From), Outcome: s.Last.Outcome}
	for _, e := range s.Entries {
		state := "good"
		switch {
		case e.Bad():
			state = fmt.Sprintf("bad after %d tries", e.Done)
		case e.Counted:
			state = fmt.Sprintf("on trial, %d tries left", e.Left)
		}
		out.Entries = append(out.Entries, provisioning.BootEntry{Version: string(e.Version), State: state})
	}
	return out, nil
}

// Rollback implements provisioning.Updates.
func (slots) Rollback(_ context.Context, dry bool) (string, error) {
	to, err := updates().Rollback(dry)
	return string(to), err
}

// Confirm implements provisioning.Updates.
func (slots) Confirm(_ context.Context, dry bool) (string, error) {
	v, err := updates().Confirm(dry)
	return string(v), err
}

// Restart implements provisioning.Updates.
func (slots) Restart(ctx context.Context) error { return updates().Restart(ctx) }
