// Package service is what a daemon of the box has from systemd: to say that it
// is ready, sockets by name, a watchdog that believes only a check, the
// journal, and a process that leaves no memory behind. Without systemd all of
// it does nothing, or falls back on standard error, so that a daemon runs from
// a shell too.
package service

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Harden keeps the memory of this process to itself: no core dump, and no
// other process of the same user may attach to it or read /proc/PID/mem. Call
// it before the first secret is read.
func Harden() error {
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	if err == nil && core.Max != 0 { // a unit with LimitCORE=0 may forbid the call itself
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	if err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid attaching: %w", err)
	}
	return nil
}

// Listeners are the sockets that systemd handed over, by FileDescriptorName=
// of their unit. It answers once: afterwards the environment names none, so
// that a child does not take them for its own.
func Listeners() (map[string][]net.Listener, error) {
	all := map[string][]net.Listener{}
	var err error
	for _, f := range activation.Files(true) {
		l, e := net.FileListener(f) // a copy
		f.Close()
		if e != nil {
			err = errors.Join(err, fmt.Errorf("take over socket %q: %w", f.Name(), e))
			continue
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the path is systemd's
		}
		all[f.Name()] = append(all[f.Name()], l)
	}
	if err != nil {
		for _, ls := range all {
			for _, l := range ls {
				l.Close()
			}
		}
		return nil, err
	}
	return all, nil
}

// hinted finds the hint that an error's text ends in.
var hinted = regexp.MustCompile(`^(.*?) ?\(hint: ([^()]*(?:\([^()]*\)[^()]*)*)\)$`)

// Complain prints an error for people: one line, and one with a hint where the
// error has one, by a method Hint or at the end of its text as "(hint: …)".
func Complain(w io.Writer, program string, err error) {
	text, hint := line(err.Error()), ""
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = line(h.Hint())
	} else if m := hinted.FindStringSubmatch(text); m != nil {
		text, hint = m[1], m[2]
	}
	fmt.Fprintf(w, "%s: %s\n", program, text)
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

// line makes one line of s. What others said may stand in it.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
