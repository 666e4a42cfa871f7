package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"postern/image"
)

// System is the machine itself, with the programs of systemd and cryptsetup.
type System struct {
	Release     string   // os-release
	Sysupdate   []string // systemd-sysupdate, and what runs it
	Definitions string   // folder of the *.transfer files
	Veritysetup string
	Partitions  string // folder of partitions by their identity
}

// Here is the machine this runs on.
func Here() System {
	return System{Release: "/usr/lib/os-release", Sysupdate: []string{"/usr/lib/systemd/systemd-sysupdate"}, Definitions: "/usr/lib/postern/sysupdate",
		Veritysetup: "/usr/sbin/veritysetup", Partitions: "/dev/disk/by-partuuid"}
}

// Running implements Machine by os-release.
func (s System) Running() (image.Version, string, error) {
	text, err := os.ReadFile(s.Release)
	if err != nil {
		return "", "", err
	}
	values := map[string]string{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	if values["IMAGE_ID"] != image.Product {
		return "", "", fmt.Errorf("this machine runs no image of ours: %s has IMAGE_ID %q", s.Release, values["IMAGE_ID"])
	}
	v, err := image.ParseVersion(values["IMAGE_VERSION"])
	if err != nil {
		return "", "", fmt.Errorf("read %s: %w", s.Release, err)
	}
	profile := "release"
	if values["VARIANT_ID"] != "" {
		profile = values["VARIANT_ID"]
	}
	return v, profile, nil
}

// Write implements Machine. systemd-sysupdate chooses the slot: the one that
// does not run (ProtectVersion=), by the labels of the partitions. A slot that was
// half written before is completed.
func (s System) Write(ctx context.Context, v image.Version) error {
	args := append(s.Sysupdate[1:], "--definitions="+s.Definitions, "update", string(v))
	return run(ctx, s.Sysupdate[0], args...)
}

// Verify implements Machine.
func (s System) Verify(ctx context.Context, root, verity, roothash string) error {
	root, verity = filepath.Join(s.Partitions, root), filepath.Join(s.Partitions, verity)
	// udev names partitions a while after their identities were written.
	ctx, cancel := context.WithTimeout(ctx, named)
	defer cancel()
	for _, p := range []string{root, verity} {
		if err := await(ctx, p); err != nil {
			return err
		}
	}
	return run(context.WithoutCancel(ctx), s.Veritysetup, "verify", root, verity, roothash)
}

// named is how long a partition may take to get its name.
const named = 2 * time.Minute

// await waits until there is a file.
func await(ctx context.Context, path string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", path, ctx.Err())
		}
	}
}

// Restart implements Machine.
func (s System) Restart(ctx context.Context) error { return run(ctx, "/usr/bin/systemctl", "reboot") }

// run runs a program, and says the end of what it said when it fails.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, text[max(0, len(text)-400):])
	}
	return nil
}
