package service

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells systemd how the daemon fares. Without $NOTIFY_SOCKET it is
// silent. Its methods may be called from many goroutines.
type Notifier struct {
	send  func(state string) error
	limit time.Duration // of WatchdogSec=, or 0
	err   error         // the environment was malformed
}

// NewNotifier reads the environment that systemd set.
func NewNotifier() *Notifier {
	n := &Notifier{send: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
	n.limit, n.err = daemon.SdWatchdogEnabled(false)
	return n
}

// Ready says that the sockets answer; units that wait for this one start now.
func (n *Notifier) Ready(status string) error {
	if n.err != nil {
		return n.err
	}
	return n.send(daemon.SdNotifyReady + "\nSTATUS=" + line(status))
}

// Status is the line that systemctl status shows.
func (n *Notifier) Status(status string) error { return n.send("STATUS=" + line(status)) }

// Stopping says that the end is wanted.
func (n *Notifier) Stopping() error { return n.send(daemon.SdNotifyStopping) }

// Watch feeds the watchdog until ctx ends, and returns at once where there is
// none. Before each feeding check must say nil: it is called four times in
// WatchdogSec=, and its context ends after half of that. While it fails or
// hangs nothing is fed, and systemd ends and restarts the daemon. A timer that
// feeds by itself would keep a dead daemon alive.
func (n *Notifier) Watch(ctx context.Context, check func(context.Context) error, log *slog.Logger) {
	if n.limit <= 0 {
		return
	}
	tick := time.NewTicker(n.limit / 4)
	defer tick.Stop()
	for {
		if err := n.ask(ctx, check, log); ctx.Err() != nil {
			return
		} else if err != nil {
			log.Error("self-check failed, the watchdog is not fed", "error", err)
		} else if err := n.send(daemon.SdNotifyWatchdog); err != nil {
			log.Error("feed watchdog", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ask runs check once. It does not leave a check that hangs behind: then
// nobody is there to feed.
func (n *Notifier) ask(ctx context.Context, check func(context.Context) error, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, n.limit/2)
	defer cancel()
	late := time.AfterFunc(n.limit/2, func() { log.Error("self-check hangs, the watchdog is not fed") })
	defer late.Stop()
	if err := check(ctx); err != nil {
		return err
	}
	return ctx.Err() // too late is no
}
