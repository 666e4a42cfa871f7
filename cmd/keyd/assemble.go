package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"
	"time"

	"postern/appliance/clock"
	"postern/appliance/config"
	"postern/appliance/service"
	"postern/hsm"
	"postern/hsm/keyd"
)

// assemble makes the daemon from its configuration, with its sockets open.
func assemble(c *config.Keyd, device keyd.Device, log *slog.Logger, stderr io.Writer, tell func(hsm.State, string)) (k *keyd.Keyd, err error) {
	handed, err := service.Listeners()
	if err != nil {
		return nil, err
	}
	var open []net.Listener
	for _, ls := range handed {
		open = append(open, ls...)
	}
	defer func() {
		if err != nil {
			for _, l := range open {
				l.Close()
			}
		}
	}()
	for name := range handed {
		if name != "use" && name != "keep" {
			return nil, fmt.Errorf("take over socket %q: no such socket (hint: FileDescriptorName= is use or keep)", name)
		}
	}
	listeners, peers := map[string]net.Listener{}, map[string]keyd.Peers{}
	for _, s := range []struct {
		name string
		config.Socket
	}{{"use", c.Socket.Use}, {"keep", c.Socket.Keep}} {
		gid, err := groupID(s.Group)
		if err != nil {
			return nil, fmt.Errorf("open %s socket: %w", s.name, err)
		}
		p := keyd.Peers{UIDs: s.UIDs, GIDs: s.GIDs}
		if gid >= 0 {
			p.GIDs = append(p.GIDs, uint32(gid))
		}
		l, err := listen(s.Socket, gid, handed[s.name])
		if err != nil {
			return nil, fmt.Errorf("open %s socket: %w", s.name, err)
		}
		open = append(open, l)
		listeners[s.name], peers[s.name] = l, p
	}
	var rules []keyd.Rule
	for _, r := range c.Rules {
		rules = append(rules, keyd.Rule{Label: r.Label, UIDs: r.UIDs})
	}
	return keyd.New(keyd.Config{
		Device: device, PINFile: c.PINFile, StateDir: c.State,
		UseListener: listeners["use"], KeepListener: listeners["keep"], Use: peers["use"], Keep: peers["keep"],
		Rules: rules, Workers: c.Workers,
		Budget: keyd.Budget{
			Failures: c.Budget.Failures, OriginFailures: c.Budget.OriginFailures, Window: time.Duration(c.Budget.Window), Trickle: time.Duration(c.Budget.Trickle),
			Rate: c.Budget.Rate, Burst: c.Budget.Burst,
		},
		// No level of the messages drops a record of what was done with a key.
		Clock: clock.Gate{Floor: clock.Epoch(service.Built()), Mark: c.Clock}.Check,
		Log:   log, Audit: service.Logger(stderr, "info", c.Log.Format).With("record", "audit"),
		OnState: tell, Version: version,
	})
}

// listen takes the socket that systemd handed over, or makes it at its path.
func listen(s config.Socket, gid int, handed []net.Listener) (net.Listener, error) {
	switch len(handed) {
	case 0:
	case 1:
		if _, ok := handed[0].(*net.UnixListener); !ok {
			return nil, errors.New("what systemd handed over is no Unix socket: it could not tell who calls")
		}
		return handed[0], nil
	default:
		return nil, fmt.Errorf("systemd handed over %d sockets, want 1", len(handed))
	}
	l, err := keyd.Listen(s.Path, os.FileMode(s.Mode), gid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (hint: make the folder of the socket, or set its path in keyd.toml)", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w (hint: the folder of the socket, or its group, is not for this user)", err)
	}
	return l, err
}

// groupID is the number of a group given by name or number; -1 for none.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("look up group %q: %w (hint: groupadd --system %s, or set another in keyd.toml)", group, err, group)
	}
	return strconv.Atoi(g.Gid)
}
