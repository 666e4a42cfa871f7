package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/appliance/box"
	"postern/appliance/box/backup"
	"postern/appliance/box/share"
	"postern/appliance/box/tpm"
	"postern/appliance/config"
	"postern/appliance/service"
	machine "postern/cmd/internal/house"
	"postern/cmd/internal/render"
	"postern/provisioning"
)

// house is the box as the commands of box see it.
type house struct{}

// Render implements provisioning.Box.
func (house) Render(ctx context.Context, path, out string, dry bool) ([]string, error) {
	c, err := config.LoadBox(path)
	if err != nil {
		return nil, err
	}
	files, err := render.Files(ctx, c)
	if err != nil {
		return nil, err
	}
	return render.Write(out, files, dry)
}

// firstAddress is where a box answers that nobody has told anything.
const firstAddress = ":8443"

// Serve implements provisioning.Box.
func (house) Serve(ctx context.Context, s provisioning.BoxServe) error {
	if err := service.Harden(); err != nil { // the PIN passes through
		return err
	}
	log := service.Logger(os.Stderr, "info", "auto")
	chip, err := openChip(s.TPM, log)
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(s.Config), "box")
	id, err := box.Identity(dir, chip)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	h := &machine.House{Path: s.Config, Root: s.Root, Self: self, Version: version, Log: log, Key: id.PrivateKey.(crypto.Signer)}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		h.Do = machine.Command
	}
	if err := h.Begin(ctx); err != nil {
		log.Error("start units", "error", err)
	}
	l, err := net.Listen("tcp", addressOf(s, log))
	if err != nil {
		return fmt.Errorf("serve operators: %w (hint: manage in [box] says where)", err)
	}
	defer l.Close()
	server, err := box.NewServer(box.ServerConfig{Dir: dir, Identity: id, Listener: l, House: h, Log: log, Version: version})
	if err != nil {
		return err
	}
	screen, closeScreen := openScreens(s.Screens, log)
	defer closeScreen()
	drawing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Screen(drawing, screen); err != nil {
			log.Warn("screen", "error", err)
		}
	}()
	defer func() { stop(); <-done }()
	go await(drawing, server, s.Stick, log)
	log.Info("box", "address", l.Addr().String(), "fingerprint", server.Pin())
	err = server.Serve(ctx)
	if errors.Is(err, box.ErrReset) {
		log.Warn("box", "error", err)
		return nil
	}
	return err
}

// await takes a claim from a file: from systemd's credentials, which whoever
// started the machine gave it, with the pin of the owner; or from a stick, as
// long as the box belongs to nobody.
func await(ctx context.Context, server *box.Server, stick string, log *slog.Logger) {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		file, err := os.ReadFile(filepath.Join(dir, "postern.claim"))
		owner, err2 := os.ReadFile(filepath.Join(dir, "postern.owner"))
		if pin := strings.TrimSpace(string(owner)); err == nil && err2 == nil && pin != "" {
			if err := server.Take(ctx, file, pin); err != nil && !errors.Is(err, box.ErrClaimed) {
				log.Error("claim by credential", "error", err)
			}
		}
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	last := ""
	for !server.Claimed() {
		file, err := readStick(stick)
		if err == nil && string(file) != last {
			last = string(file)
			if err := server.Take(ctx, file, ""); err != nil {
				log.Error("claim by stick", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// maxStick is more than any claim has, in bytes.
const maxStick = 2 << 20

// readStick reads a plain file of a stick that anybody may have made.
func readStick(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStick {
		return nil, fmt.Errorf("%s: no file of a claim", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStick))
}

// addressOf is where the box answers. An owner whose box.toml does not load any
// more still reaches it.
func addressOf(s provisioning.BoxServe, log *slog.Logger) string {
	if s.Listen != "" {
		return s.Listen
	}
	c, err := config.LoadBox(s.Config)
	if err == nil {
		return c.Box.Manage
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Error("read box.toml", "error", err)
	}
	return firstAddress
}

// openChip is the TPM, or nil where there is none and none was named. One that
// has locked itself after power cuts is calmed, so that it opens the PIN: the key
// daemon, which the locked one keeps from starting, tries again each second.
func openChip(path string, log *slog.Logger) (box.Chip, error) {
	named := path != ""
	if !named {
		path = tpm.Device
	}
	chip, err := tpm.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := chip.Forgive(); err != nil {
		log.Warn("start box", "error", err)
	}
	return chip, nil
}

// openScreens are the terminals of the machine: every one that the kernel shows
// its messages on, HDMI as well as serial.
func openScreens(paths []string, log *slog.Logger) (io.Writer, func()) {
	if len(paths) == 0 {
		active, err := os.ReadFile("/sys/class/tty/console/active")
		if err != nil {
			log.Warn("find screens", "error", err)
		}
		for _, name := range strings.Fields(string(active)) {
			paths = append(paths, "/dev/"+name)
		}
	}
	var list screens
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			log.Warn("open screen", "error", err)
			continue
		}
		list = append(list, f)
	}
	return list, func() {
		for _, f := range list {
			f.Close()
		}
	}
}

// screens shows the same on all of them; one that is away stops none of the
// others.
type screens []*os.File

func (s screens) Write(p []byte) (int, error) {
	for _, f := range s {
		f.Write(p)
	}
	return len(p), nil
}

// Key implements provisioning.Box.
func (house) Key(dir string) (string, error) {
	own, err := box.Operator(dir)
	if err != nil {
		return "", err
	}
	return box.PinOf(own)
}

// errUnknownBox is a folder that is for no box yet.
var errUnknownBox = errors.New("no box is known here (hint: postern box claim, or postern box meet)")

// dial speaks to the box that dir is for.
func dial(dir string) (*box.Client, error) {
	k, err := box.ReadKnown(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errUnknownBox
	}
	if err != nil {
		return nil, err
	}
	own, err := box.Operator(dir)
	if err != nil {
		return nil, err
	}
	return box.Dial(k.Address, k.Fingerprint, own)
}

// ask does one thing with the box of dir.
func ask[T any](dir string, do func(c *box.Client) (T, error)) (T, error) {
	var none T
	c, err := dial(dir)
	if err != nil {
		return none, err
	}
	defer c.Close()
	v, err := do(c)
	return v, later(err)
}

// later words a refusal that may be none in a while.
func later(err error) error {
	if r, ok := errors.AsType[*box.Refused](err); ok && r.Later() {
		return provisioning.Later(err, r.Hint())
	}
	return err
}

// status is that of the box, as the commands have it.
func status(st box.Status, err error) (provisioning.BoxStatus, error) {
	return provisioning.BoxStatus{Claimed: st.Claimed, Name: st.Name, Version: st.Version, Token: st.Token, Reason: st.Reason,
		Need: st.Need, Have: st.Have, Role: st.Role, BoxUsage: provisioning.BoxUsage(st.Usage)}, err
}

// Meet implements provisioning.Box.
func (house) Meet(ctx context.Context, dir, address, fingerprint string) (provisioning.BoxStatus, error) {
	if fingerprint == "" {
		k, err := box.ReadKnown(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("no box is known here (hint: give its fingerprint, as its screen shows it, with --fingerprint)")
		}
		if err != nil {
			return provisioning.BoxStatus{}, err
		}
		fingerprint = k.Fingerprint
	}
	own, err := box.Operator(dir)
	if err != nil {
		return provisioning.BoxStatus{}, err
	}
	c, err := box.Dial(address, fingerprint, own)
	if err != nil {
		return provisioning.BoxStatus{}, err
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err == nil {
		err = box.WriteKnown(dir, box.Known{Address: address, Fingerprint: c.Pin(), Name: st.Name})
	}
	return status(st, err)
}

// Claim implements provisioning.Box. What is known of the box is noted as soon
// as it has shown that it knows the code.
func (house) Claim(ctx context.Context, dir string, b provisioning.BoxClaim) (string, []string, error) {
	own, err := box.Operator(dir)
	if err != nil {
		return "", nil, err
	}
	pin, shares, err := split(b.PIN, b.Need, b.Total)
	if err != nil {
		return "", nil, err
	}
	defer clear(pin.PIN)
	claim := box.Claim{Config: string(b.Config), PIN: pin}
	c, err := box.Dial(b.Address, b.Fingerprint, own)
	if err != nil {
		return "", nil, err
	}
	defer c.Close()
	got, err := c.Claim(ctx, b.Code, claim)
	if err != nil {
		return "", nil, later(err)
	}
	return got.Recovery, shares, box.WriteKnown(dir, box.Known{Address: b.Address, Fingerprint: c.Pin()})
}

// split shares a PIN among total people; 0: among nobody.
func split(text string, need, total int) (pin box.PIN, shares []string, err error) {
	pin.PIN = []byte(text)
	if total > 0 {
		var set *share.Set
		if set, shares, err = share.Split(pin.PIN, need, total); err == nil {
			pin.Shares = &box.SharedPIN{Set: *set}
		}
	}
	return pin, shares, err
}

// Offer implements provisioning.Box.
func (house) Offer(dir string, text []byte) ([]byte, error) {
	if _, err := config.ParseBox("box.toml", text); err != nil {
		return nil, err
	}
	own, err := box.Operator(dir)
	if err != nil {
		return nil, err
	}
	return box.Offer(own, text)
}

// PIN implements provisioning.Box.
func (house) PIN(ctx context.Context, dir, text string, need, total int) (provisioning.BoxStatus, []string, error) {
	pin, shares, err := split(text, need, total)
	if err != nil {
		return provisioning.BoxStatus{}, nil, err
	}
	defer clear(pin.PIN)
	st, err := status(ask(dir, func(c *box.Client) (box.Status, error) { return c.GivePIN(ctx, pin) }))
	return st, shares, err
}

// Confirm implements provisioning.Box.
func (house) Confirm(ctx context.Context, dir, recovery string) (provisioning.BoxStatus, error) {
	return status(ask(dir, func(c *box.Client) (box.Status, error) { return c.Confirm(ctx, recovery) }))
}

// Status implements provisioning.Box.
func (house) Status(ctx context.Context, dir string) (provisioning.BoxStatus, error) {
	return status(ask(dir, func(c *box.Client) (box.Status, error) { return c.Status(ctx) }))
}

// Unlock implements provisioning.Box.
func (house) Unlock(ctx context.Context, dir, share, pin string) (provisioning.BoxStatus, error) {
	return status(ask(dir, func(c *box.Client) (box.Status, error) {
		return c.Unlock(ctx, box.Unlock{Share: share, PIN: []byte(pin)})
	}))
}

// Config implements provisioning.Box.
func (house) Config(ctx context.Context, dir string) ([]byte, error) {
	return ask(dir, func(c *box.Client) ([]byte, error) { return c.Config(ctx) })
}

// Configure implements provisioning.Box.
func (house) Configure(ctx context.Context, dir string, text []byte) (provisioning.BoxStatus, error) {
	return status(ask(dir, func(c *box.Client) (box.Status, error) { return c.Configure(ctx, text) }))
}

// Do implements provisioning.Box.
func (house) Do(ctx context.Context, dir string, args []string, stdin []byte) (provisioning.BoxDone, error) {
	out, err := ask(dir, func(c *box.Client) (box.Called, error) { return c.Call(ctx, box.Call{Args: args, Stdin: stdin}) })
	return provisioning.BoxDone(out), err
}

// Backup implements provisioning.Box.
func (house) Backup(ctx context.Context, dir string, w io.Writer) error {
	_, err := ask(dir, func(c *box.Client) (struct{}, error) { return struct{}{}, c.Backup(ctx, w) })
	return err
}

// Restore implements provisioning.Box.
func (house) Restore(ctx context.Context, dir string, archive, identity io.Reader, from string) (provisioning.BoxStatus, error) {
	inside, err := backup.Open(archive, identity)
	if err != nil {
		return provisioning.BoxStatus{}, err
	}
	return status(ask(dir, func(c *box.Client) (box.Status, error) {
		if from == "" {
			if _, err := c.Status(ctx); err != nil {
				return box.Status{}, err
			}
			from = c.Pin()
		}
		digits, err := box.ParseFingerprint(from)
		if err == nil && len(digits) != 64 {
			err = errors.New("fingerprint: all 64 digits are wanted here")
		}
		if err != nil {
			return box.Status{}, err
		}
		return c.Restore(ctx, inside, "sha256:"+digits)
	}))
}

// Recovery implements provisioning.Box.
func (house) Recovery(ctx context.Context, dir string) (string, error) {
	return ask(dir, func(c *box.Client) (string, error) { return c.Recovery(ctx) })
}

// Reset implements provisioning.Box.
func (house) Reset(ctx context.Context, dir, name string) error {
	_, err := ask(dir, func(c *box.Client) (struct{}, error) { return struct{}{}, c.Reset(ctx, name) })
	if err != nil {
		return err
	}
	return box.Forget(dir)
}
