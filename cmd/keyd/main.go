// Keyd is the key daemon: it holds the PIN and the PKCS#11 module, and answers
// on two sockets. It parses no mail and speaks to no network.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"postern/appliance/config"
	"postern/appliance/service"
	"postern/hsm"
	"postern/hsm/keyd"
	"postern/hsm/module"
)

// version is set by the linker.
var version = "unknown"

// Exit statuses beside 0.
const (
	exitError   = 1
	exitUsage   = 2
	exitRecycle = 75 // start it again, all is well (EX_TEMPFAIL)
	exitPIN     = 78 // the PIN is wrong: do not start it again by itself (EX_CONFIG)
)

// slow is how long a token may take before systemd is told that the sockets
// answer all the same.
const slow = 20 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it gives the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("keyd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "/etc/postern/keyd.toml", "configuration `file`")
	check := flags.Bool("check", false, "read the configuration, say what is wrong with it, and stop")
	show := flags.Bool("version", false, "print the version and stop")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		service.Complain(stderr, "keyd", fmt.Errorf("unexpected argument %q (hint: keyd --help)", flags.Arg(0)))
		return exitUsage
	}
	if *show {
		fmt.Fprintln(stdout, "keyd", version)
		return 0
	}
	c, err := config.LoadKeyd(*path)
	if err == nil && !*check {
		err = serve(ctx, c, stderr)
	}
	if errors.Is(err, keyd.ErrPINRefused) {
		err = fmt.Errorf("%w (hint: it is not tried again; correct %s, start keyd, then: postern token unlock)", err, c.PINFile)
	}
	if err != nil {
		service.Complain(stderr, "keyd", err)
	}
	return exitOf(err)
}

// exitOf is the exit status that the unit goes by.
func exitOf(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, keyd.ErrPINRefused):
		return exitPIN
	case errors.Is(err, keyd.ErrRecycle):
		return exitRecycle
	}
	return exitError
}

// serve answers until ctx ends, or until the daemon cannot go on.
func serve(ctx context.Context, c *config.Keyd, stderr io.Writer) error {
	if err := service.Harden(); err != nil {
		return err
	}
	for name, value := range c.Environment {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set environment of the module: %w", err)
		}
	}
	log := service.Logger(stderr, c.Log.Level, c.Log.Format)
	token, err := module.New(module.Config{
		Module: c.Module, Token: c.Token, Reserved: c.ModuleConfig,
		AllowImported: c.AllowImported, Workers: c.Workers, Log: log,
		AllowWrapped: c.AllowWrapped, Open: c.WrappedOpen, Shelf: filepath.Join(c.State, "wrapped"),
	})
	if err != nil {
		return fmt.Errorf("%w (hint: set module in keyd.toml to the PKCS#11 library of the token)", err)
	}
	notify := service.NewNotifier()
	tell := &teller{notify: notify, log: log}
	k, err := assemble(c, token, log, stderr, tell.state)
	if err != nil {
		return err
	}
	late := time.AfterFunc(slow, tell.late)
	defer late.Stop()
	context.AfterFunc(ctx, func() {
		if err := notify.Stopping(); err != nil {
			log.Warn("notify", "error", err)
		}
	})
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go notify.Watch(watched, k.SelfCheck, log)
	return k.Run(ctx)
}

// teller reports states to systemd. The first is READY: by then the sockets
// answer and the token was tried, so that whoever waited finds a state that
// means something. None of them is a failure of the unit.
type teller struct {
	notify *service.Notifier
	log    *slog.Logger

	mu    sync.Mutex
	ready bool
}

// state is told each change.
func (t *teller) state(s hsm.State, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := s.String()
	if reason != "" {
		status += ": " + reason
	}
	t.say(status)
}

// late says READY for a token that has not answered yet.
func (t *teller) late() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ready {
		t.say("waiting for the token to answer")
	}
}

// say passes a status on; t.mu is held.
func (t *teller) say(status string) {
	send := t.notify.Status
	if !t.ready {
		send, t.ready = t.notify.Ready, true
	}
	if err := send(status); err != nil {
		t.log.Warn("notify", "error", err)
	}
}
