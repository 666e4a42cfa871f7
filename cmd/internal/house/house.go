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
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern/appliance/box"
	"postern/appliance/config"
	"postern/cmd/internal/gateway"
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

	mu     sync.Mutex
	socket string // of token
	token  *client.Client
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
	if err := tokenFolder(c); err != nil {
		return err
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
	if c.Token.Kind != "softhsm" && c.Token.Kind != "tpm" {
		return nil
	}
	if err := os.RemoveAll(c.TokenDir()); err != nil {
		return fmt.Errorf("remove token of an earlier claim: %w", err)
	}
	return nil
}

// keydUser is who the key daemon is on a box (units/sysusers.conf).
const keydUser = "postern-keyd"

// tokenFolder makes the folder of a token that consists of files: modules do
// not make it themselves.
func tokenFolder(c *config.Box) error {
	if c.Token.Kind != "softhsm" && c.Token.Kind != "tpm" {
		return nil
	}
	if err := os.MkdirAll(c.TokenDir(), 0o700); err != nil {
		return fmt.Errorf("make folder of the token: %w", err)
	}
	u, err := user.Lookup(keydUser)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return nil // not a box: a key daemon of whoever runs this
	}
	if err != nil {
		return fmt.Errorf("make folder of the token: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	err = errors.Join(err1, err2)
	for _, dir := range []string{c.KeydState(), c.TokenDir()} {
		if err == nil {
			err = os.Chown(dir, uid, gid)
		}
	}
	if err != nil {
		return fmt.Errorf("make folder of the token: %w", err)
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

// Token implements box.House: one client, as long as the socket is the same.
func (h *House) Token() hsm.Keeper {
	socket := defaultSocket
	if c, err := h.load(); err == nil {
		socket = c.Key.Keep
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.token == nil || h.socket != socket {
		if h.token != nil {
			h.token.Close()
		}
		h.token, h.socket = client.Dial(socket), socket
	}
	return h.token
}

// defaultSocket is where the key daemon answers on a box that says nothing else.
const defaultSocket = "/run/postern/keep.sock"

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
	// What has waited for a key or a certificate may have it now.
	if err := h.Begin(context.WithoutCancel(ctx)); err != nil {
		h.Log.Error("start units", "error", err)
	}
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

// told are the units that read a file: the first prefix that fits decides.
var told = []struct{ prefix, unit string }{
	{"/etc/systemd/network/", "systemd-networkd.service"},
	{"/etc/postern/firewall.nft", "postern-firewall.service"},
	{"/etc/chrony/", "chrony.service"},
	{"/etc/hostname", "hostname"},
	{"/etc/postern/keyd.toml", "postern-keyd.service"},
	{"/etc/postern/softhsm2.conf", "postern-keyd.service"},
	{"/etc/systemd/system/postern-keyd.service.d/", "postern-keyd.service"},
	{"/etc/postern/filterd.toml", "postern-filterd.service"},
	{"/etc/systemd/system/postern-filterd", "postern-filterd.service"},
	{"/etc/postern/unbound/", "postern-unbound.service"},
	{"/etc/postfix/", "postern-postfix.service"},
}

// ground are the units that a box has whether it belongs to somebody or not, in
// the order in which they are told.
var ground = []string{"postern-firewall.service", "systemd-networkd.service", "chrony.service"}

// sockets are those of filterd's listeners.
func sockets(c *config.Box) (list []string) {
	for _, l := range c.Listeners {
		list = append(list, "postern-filterd-"+l.Name+".socket")
	}
	return list
}

// accessUnit keeps the doors for mail programs, where there are some.
const accessUnit = "postern-access.service"

// pdfSocket is where documents with a password are made, where some are.
const pdfSocket = "postern-pdf.socket"

// mailUnits are those of a box that belongs to somebody, in the order in which
// they start. Those that need what is not in box.toml have a condition, and stay
// down.
func mailUnits(c *config.Box) []string {
	list := slices.Concat([]string{"postern-keyd-use.socket", "postern-keyd-keep.socket", "postern-keyd.service", "postern-unbound.service"},
		sockets(c), []string{"postern-filterd-policy.socket", "postern-filterd.service", "postern-postfix.service"})
	if gateway.Prints(&c.Filterd) {
		list = append(list, pdfSocket)
	}
	if len(c.Access)+len(c.Web) > 0 {
		list = append(list, accessUnit)
	}
	return list
}

// Begin starts what box.toml names and no unit of the image knows of: further
// listeners, and doors. What runs already is left alone.
func (h *House) Begin(ctx context.Context) error {
	c, err := h.load()
	if errors.Is(err, fs.ErrNotExist) || h.Do == nil {
		return nil
	}
	if err == nil {
		_, err = h.Do(ctx, nil, "systemctl", append([]string{"--no-block", "start"}, mailUnits(c)...)...)
	}
	return err
}

// tell starts what the claim was waited for with, or restarts what reads a file
// that has changed. The key daemon is restarted only where its own files did
// change: on a box that people unlock it is locked then.
func (h *House) tell(ctx context.Context, c *config.Box, changed []string, first bool) error {
	if h.Do == nil {
		return nil
	}
	affected := map[string]bool{}
	for _, path := range changed {
		for _, t := range told {
			if strings.HasPrefix(strings.TrimPrefix(path, strings.TrimSuffix(h.Root, "/")), t.prefix) {
				affected[t.unit] = true
				break
			}
		}
	}
	if len(affected) == 0 && !first {
		return nil
	}
	if _, err := h.Do(ctx, nil, "hostname", c.Box.Name); err != nil {
		h.Log.Warn("set host name", "error", err)
	}
	if _, err := h.Do(ctx, nil, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	if affected["postern-filterd.service"] || first {
		// A socket takes a new address only while its daemon does not run.
		if _, err := h.Do(ctx, nil, "systemctl", append([]string{"stop", "postern-filterd.service", accessUnit, pdfSocket}, sockets(c)...)...); err != nil {
			h.Log.Debug("stop filter", "error", err)
		}
		affected[accessUnit], affected[pdfSocket] = true, true
		for _, s := range sockets(c) {
			affected[s] = true
		}
	}
	for _, u := range slices.Concat(ground, mailUnits(c)) {
		verb := "restart"
		if first && !slices.Contains(ground, u) {
			verb = "start"
		} else if !affected[u] && !first { // a claim that is tried again finds its files there
			continue
		}
		args := []string{verb, u}
		if !slices.Contains(ground, u) && !strings.HasPrefix(u, "postern-keyd") {
			// The filter may want what only comes once the box is there, as the
			// certificates of its listeners: it goes on trying by itself.
			args = []string{"--no-block", verb, u}
		}
		if _, err := h.Do(ctx, nil, "systemctl", args...); err != nil {
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
