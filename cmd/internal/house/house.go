// Package house is the machine that a box is in, as appliance/box asks for it:
// what is rendered and restarted, which programs of the system are run, and what
// is backed up. Every program is named here with its arguments, and none of them
// is a shell.
package house

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/appliance/box"
	"postern/appliance/config"
	"postern/cmd/internal/render"
	"postern/hsm"
	"postern/hsm/client"
)

// House is the machine.
type House struct {
	Path    string // of box.toml
	Root    string // where files are rendered; "/"
	Self    string // the program postern, to run commands with
	Version string
	Log     *slog.Logger
	Key     crypto.Signer // of the box, that signs backups
	// Do runs a program of the system with what it reads, and gives what it
	// prints; nil where systemd does not run, and nothing is started or told.
	Do func(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error)
}

var _ box.House = (*House)(nil)

// Command is House.Do on a real machine.
func Command(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	// What they print is read by programs.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Check implements box.House.
func (h *House) Check(text []byte) (box.Rules, error) {
	c, err := config.ParseBox("box.toml", text)
	if err != nil {
		return box.Rules{}, err
	}
	b := c.Box
	return box.Rules{Name: b.Name, TPM: b.Unlock == "tpm", Admins: b.Admins, BackupBy: b.BackupBy, BackupTo: b.BackupTo}, nil
}

// Config implements box.House.
func (h *House) Config() ([]byte, error) { return os.ReadFile(h.Path) }

// load is the configuration in force.
func (h *House) load() (*config.Box, error) { return config.LoadBox(h.Path) }

// Apply implements box.House. Where something cannot be rendered nothing is
// changed: the files are made before box.toml is put in place.
func (h *House) Apply(ctx context.Context, text []byte, first bool) error {
	c, err := config.ParseBox("box.toml", text)
	if err != nil {
		return err
	}
	files, err := render.Files(ctx, c)
	if err != nil {
		return err
	}
	if first {
		if err := h.clean(ctx, c); err != nil {
			return err
		}
	}
	if err := put(h.Path, text); err != nil {
		return fmt.Errorf("write box.toml: %w", err)
	}
	changed, err := render.Write(h.Root, files, false)
	if err != nil {
		return err
	}
	return h.tell(ctx, c, changed, first)
}

// clean removes the token of a claim that was broken off. It is of files that
// nobody has ever used, because the box belonged to nobody; a token of
// hardware, which may have come with its keys, stays.
func (h *House) clean(ctx context.Context, c *config.Box) error {
	if h.Do != nil {
		if _, err := h.Do(ctx, nil, "systemctl", "stop", "postern-keyd.service", "postern-keyd-use.socket", "postern-keyd-keep.socket"); err != nil {
			h.Log.Debug("stop key daemon", "error", err)
		}
	}
	if c.Token.Kind == "softhsm" || c.Token.Kind == "tpm" {
		if err := os.RemoveAll(c.TokenDir()); err != nil {
			return fmt.Errorf("remove token of an earlier claim: %w", err)
		}
	}
	return nil
}

// put writes a file whole.
func put(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(0o640), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Token implements box.House.
func (h *House) Token() hsm.Keeper {
	c, err := h.load()
	if err != nil {
		return client.Dial("/run/postern/keep.sock")
	}
	return client.Dial(c.Key.Keep)
}

// Addresses implements box.House.
func (h *House) Addresses() (list []string) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			list = append(list, n.IP.String())
		}
	}
	// The ones that people type first.
	slices.SortStableFunc(list, func(a, b string) int { return strings.Count(a, ":") - strings.Count(b, ":") })
	return list
}

// Bounds of the files that one command writes.
const (
	maxMade  = 64
	maxBytes = 1 << 20
)

// Run implements box.House: the command in a process of its own, because some
// of them give their rights up for good, and in an empty folder.
func (h *House) Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "postern-call-*")
	if err != nil {
		return 0, nil, fmt.Errorf("run command: %w", err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, h.Self, append([]string{"box", "call", "--config", filepath.Join(h.Root, "etc/postern/filterd.toml"), "--"}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, stdin, stdout, stderr
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	status := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		status, err = exit.ExitCode(), nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("run command: %w", err)
	}
	made, err := collect(dir)
	return status, made, err
}

// collect reads the files that a command left in its folder.
func collect(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	made, total := map[string][]byte{}, 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if total += int(info.Size()); !info.Mode().IsRegular() || total > maxBytes || len(made) == maxMade {
			return nil, fmt.Errorf("read what the command wrote: %s is too much", e.Name())
		}
		if made[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// told are what has to be done when files change: prefixes of paths, and
// units. The first that fits decides.
var told = []struct {
	prefix string
	units  []string
}{
	{"/etc/systemd/network/", []string{"systemd-networkd.service"}},
	{"/etc/postern/firewall.nft", []string{"postern-firewall.service"}},
	{"/etc/chrony/", []string{"chrony.service"}},
	{"/etc/postern/keyd.toml", []string{"postern-keyd.service"}},
	{"/etc/postern/softhsm2.conf", []string{"postern-keyd.service"}},
	{"/etc/systemd/system/postern-keyd.service.d/", []string{"postern-keyd.service"}},
	{"/etc/postern/filterd.toml", []string{"postern-filterd.service"}},
	{"/etc/systemd/system/postern-filterd", []string{"postern-filterd.service"}},
	{"/etc/postern/unbound/", []string{"postern-unbound.service"}},
	{"/etc/postfix/", []string{"postern-postfix.service"}},
}

// start are the units of a box that belongs to somebody, in order; those that
// need what is not in box.toml have a condition, and stay down.
var start = []string{"postern-keyd-use.socket", "postern-keyd-keep.socket", "postern-keyd.service", "postern-unbound.service", "postern-filterd-policy.socket", "postern-filterd.service", "postern-postfix.service"}

// tell starts what the claim was waited for with, or restarts what reads a file
// that has changed. The key daemon is restarted only where its own files did
// change: on a box that people unlock it is locked then.
func (h *House) tell(ctx context.Context, c *config.Box, changed []string, first bool) error {
	if h.Do == nil {
		return nil
	}
	if err := unix.Sethostname([]byte(c.Box.Name)); err != nil {
		h.Log.Warn("set host name", "error", err)
	}
	var units []string
	for _, path := range changed {
		for _, t := range told {
			if strings.HasPrefix(strings.TrimPrefix(path, strings.TrimSuffix(h.Root, "/")), t.prefix) {
				units = append(units, t.units...)
				break
			}
		}
	}
	slices.Sort(units)
	units = slices.Compact(units)
	if len(units) == 0 && !first {
		return nil
	}
	if _, err := h.Do(ctx, nil, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	var sockets []string
	for _, l := range c.Listeners {
		sockets = append(sockets, "postern-filterd-"+l.Name+".socket")
	}
	if slices.Contains(units, "postern-filterd.service") || first {
		// A socket takes a new address only while its daemon does not run.
		if _, err := h.Do(ctx, nil, "systemctl", append([]string{"stop", "postern-filterd.service"}, sockets...)...); err != nil {
			h.Log.Debug("stop filter", "error", err)
		}
		units = append(slices.DeleteFunc(units, func(u string) bool { return u == "postern-filterd.service" }), append(sockets, "postern-filterd.service")...)
	}
	if first {
		units = append(units, start...)
	}
	for _, u := range units {
		verb := "restart"
		if first && slices.Contains(start, u) {
			verb = "start"
		}
		if _, err := h.Do(ctx, nil, "systemctl", verb, u); err != nil {
			if missing(err) {
				continue // a unit of another kind of machine
			}
			return fmt.Errorf("%s %s: %w", verb, u, err)
		}
	}
	return nil
}

// missing reports whether systemctl knows no such unit.
func missing(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == 5 // EXIT_NOTINSTALLED of systemctl
}

// gone is nil where there is nothing to remove.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
