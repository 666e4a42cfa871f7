package main

import (
	"context"
	"log/slog"
	"os"

	"postern/appliance/clock"
	"postern/appliance/service"
)

// synchronised is provisioning.App.Clock: what the kernel says.
func synchronised(context.Context) (synchronised, known bool) {
	s, err := clock.Kernel()
	return s.Synchronised, err == nil
}

// watchClock keeps the mark that the daemons' gates read.
func watchClock(ctx context.Context, mark string) error {
	log := service.Logger(os.Stderr, "info", "auto")
	notify := service.NewNotifier()
	go notify.Watch(ctx, func(context.Context) error { return nil }, log)
	say := notify.Ready
	return clock.Watcher{Gate: clock.Gate{Floor: clock.Epoch(service.Built()), Mark: mark}, Log: log}.Watch(ctx, func(status string) {
		if err := say(status); err != nil {
			log.Warn("notify", slog.Any("error", err))
		}
		say = notify.Status
	})
}
