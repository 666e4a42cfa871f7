package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"postern/appliance/config"
	"postern/cmd/internal/gateway"
	"postern/filter/message"
	"postern/filter/record"
)

// forget changes the file that filterd writes. What stands in its folder is not
// believed: the operator becomes the user who owns that, for good, before he
// opens it, so that nothing there leads him to a file of his own.
func forget(ctx context.Context, path string, a message.Address, dry bool) (since time.Time, known bool, err error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return since, false, err
	}
	if err := become(filepath.Dir(c.Record)); errors.Is(err, fs.ErrNotExist) {
		return since, false, nil // filterd has not run yet
	} else if err != nil {
		return since, false, err
	}
	look, err := record.OpenForeign(c.Record)
	if errors.Is(err, record.ErrNoRecord) {
		return since, false, nil
	}
	if err != nil {
		return since, false, err
	}
	since, known, err = look.Protected(ctx, a)
	if err = errors.Join(err, look.Close()); err != nil || !known || dry {
		return since, known, err
	}
	rec, err := gateway.OpenRecord(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return since, false, err
	}
	known, err = rec.Forget(ctx, a)
	return since, known, errors.Join(err, rec.Close())
}

// become gives up all that the owner of a folder may not do.
func become(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Getuid() != 0 || owner.Uid == 0 {
		return nil
	}
	for _, step := range []error{syscall.Setgroups(nil), syscall.Setgid(int(owner.Gid)), syscall.Setuid(int(owner.Uid))} {
		if step != nil {
			return fmt.Errorf("become the owner of %s: %w", dir, step)
		}
	}
	return nil
}
