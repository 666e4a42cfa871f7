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

// fetches is updates with what box.toml says of releases. A box that belongs to
// nobody has no such file, and takes a release from a file or a public server.
func fetches() (*update.Box, config.Update, error) {
	b := updates()
	c, err := config.LoadBox(provisioning.DefaultBox)
	if errors.Is(err, fs.ErrNotExist) {
		return b, config.Update{}, nil
	}
	if err != nil {
		return nil, config.Update{}, err
	}
	b.Client = update.WebClient(c.Update.Authorities())
	return b, c.Update, nil
}

// request is where Start leaves for the service what it is to install.
func request() string { return filepath.Join(update.StateDir, "request") }

// Apply implements provisioning.Updates. Without a release it takes what Start has
// left, then the latest of the box's source.
func (slots) Apply(ctx context.Context, from string, dry bool) (string, bool, error) {
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
	return apply(ctx, from, dry)
}

// apply installs a release; "": the latest of the box's source.
func apply(ctx context.Context, from string, dry bool) (string, bool, error) {
	b, c, err := fetches()
	if err != nil {
		return "", false, err
	}
	if from == "" {
		if c.Source == "" {
			return "", false, errNoSource
		}
		if from, err = b.Latest(ctx, c.Source); err != nil {
			return "", false, err
		}
	}
	done, err := b.Apply(ctx, from, dry)
	return string(done.Version), done.Already, err
}

var errNoSource = errors.New("box.toml has no source in [update] (hint: name a release, or set source to the https address of a folder of releases)")

// Start implements provisioning.Updates. The release is judged first, by all that
// is small: whoever asks from elsewhere hears why it is refused.
func (slots) Start(ctx context.Context, from string, dry bool) (string, bool, error) {
	if from != "" && !strings.HasPrefix(from, "https://") {
		return "", false, fmt.Errorf("%.200q: %w", from, update.ErrPlain)
	}
	v, already, err := apply(ctx, from, true)
	if err != nil || already || dry {
		return v, already, err
	}
	if err := os.WriteFile(request(), []byte(from+"\n"), 0o600); err != nil {
		return v, false, err
	}
	out, err := exec.CommandContext(ctx, "/usr/bin/systemctl", "--no-block", "start", updateUnit).CombinedOutput()
	if err != nil {
		return v, false, fmt.Errorf("start %s: %w: %.200s", updateUnit, err, out)
	}
	return v, false, nil
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
		case e.Counted && e.Version == s.Running:
			state = "on trial: it runs"
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
