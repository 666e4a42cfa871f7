package house

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"postern/appliance/box/tpm"
	"postern/cmd/internal/render"
	"postern/hsm"
)

// policyKeys is where systemd looks for the key that signs what a box boots.
var policyKeys = []string{"/etc/systemd/tpm2-pcr-public-key.pem", "/run/systemd/tpm2-pcr-public-key.pem", "/usr/lib/systemd/tpm2-pcr-public-key.pem"}

// sealArgs are those of systemd-creds. With a signed policy the PIN opens for
// every version whose boot was signed with the same key, and for nothing else:
// an update does not lock the box.
func sealArgs(policy bool, path string) []string {
	key := "tpm2"
	if policy {
		key = "tpm2-with-public-key"
	}
	return []string{"encrypt", "--with-key=" + key, "--name=pin", "-", path}
}

// Seal implements box.House.
func (h *House) Seal(ctx context.Context, pin []byte) error {
	if h.Do == nil {
		return errNoSystem
	}
	policy := false
	for _, path := range policyKeys {
		if _, err := os.Stat(path); err == nil {
			policy = true
		}
	}
	path := h.sealed()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_, err := h.Do(ctx, pin, "systemd-creds", sealArgs(policy, path)...)
	return err
}

var errNoSystem = errors.New("systemd does not run this machine")

// sealed is the credential that keyd's unit names.
func (h *House) sealed() string {
	return filepath.Join(filepath.Dir(h.Path), filepath.FromSlash(render.SealedPIN))
}

// noCredentials is the status of a unit whose credential does not open
// (EXIT_CREDENTIALS of systemd).
const noCredentials = "243"

// Unsealed implements box.House. Until the next start of the machine the key
// daemon does without.
func (h *House) Unsealed(ctx context.Context) (bool, error) {
	if h.Do == nil {
		return false, nil
	}
	out, err := h.Do(ctx, nil, "systemctl", "show", "--property=ExecMainStatus", "--value", "postern-keyd.service")
	if err != nil || strings.TrimSpace(string(out)) != noCredentials {
		return false, err
	}
	if err := gone(os.Remove(render.CredentialLink)); err != nil {
		return false, err
	}
	_, err = h.Do(ctx, nil, "systemctl", "restart", "postern-keyd.service")
	return err == nil, err
}

// device is the encrypted partition under the state folder; "" where there is
// none.
func (h *House) device(ctx context.Context) (string, error) {
	out, err := h.Do(ctx, nil, "findmnt", "--noheadings", "--output=SOURCE", "--target", filepath.Dir(h.Path))
	if err != nil {
		return "", fmt.Errorf("find data partition: %w", err)
	}
	// The innermost of stacked mounts comes last; a bind mount has [/folder] behind it.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	source, _, _ := strings.Cut(lines[len(lines)-1], "[")
	if !strings.HasPrefix(source, "/dev/") {
		return "", nil
	}
	resolved, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", fmt.Errorf("find data partition: %w", err)
	}
	below, err := filepath.Glob("/sys/class/block/" + filepath.Base(resolved) + "/slaves/*")
	if err != nil || len(below) != 1 {
		return "", err // a plain partition
	}
	return "/dev/" + filepath.Base(below[0]), nil
}

// recoveryKey is what systemd-cryptenroll prints: eight groups of eight
// letters of modhex.
var recoveryKey = regexp.MustCompile(`\b(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}\b`)

// enrolArgs make a recovery key for the device, and end an earlier one when it
// is there. How the device is opened for that is up to unlock.
func enrolArgs(device string, unlock ...string) []string {
	return append(append([]string{"--recovery-key", "--wipe-slot=recovery"}, unlock...), device)
}

// Recovery implements box.House. Whatever the program prints, only the key
// goes on. Without a TPM the key of the partition is no secret, and there is
// nothing to recover.
func (h *House) Recovery(ctx context.Context) (string, error) {
	if h.Do == nil {
		return "", nil
	}
	if _, err := os.Stat(tpm.Device); err != nil {
		h.Log.Warn("no TPM: the data partition protects nothing, and gets no recovery key")
		return "", nil
	}
	device, err := h.device(ctx)
	if err != nil || device == "" {
		return "", err
	}
	return h.enrol(ctx, enrolArgs(device, "--unlock-tpm2-device=auto"))
}

func (h *House) enrol(ctx context.Context, args []string) (string, error) {
	out, err := h.Do(ctx, nil, "systemd-cryptenroll", args...)
	if err != nil {
		return "", fmt.Errorf("make recovery key: %w", err)
	}
	key := recoveryKey.FindString(string(out))
	clear(out)
	if key == "" {
		return "", errors.New("make recovery key: systemd-cryptenroll prints none")
	}
	return key, nil
}

// factoryReset is the variable of the firmware that makes systemd-repart form
// the data partition anew at the next start; reset is what it is set to: kept,
// for boot and run time (attributes 7), "yes" in UTF-16.
const (
	factoryReset = "/sys/firmware/efi/efivars/FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67"
	reset        = "\x07\x00\x00\x00y\x00e\x00s\x00\x00\x00"
)

// headers is where LUKS2 has its headers and keys, and a little more, in bytes.
const headers = 16 << 20

// erase makes a LUKS partition worthless, which may be in use: nobody opens it
// without what is overwritten here.
func erase(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, headers)
	return errors.Join(err, f.Sync(), f.Close())
}

// Wipe implements box.House. First of all it makes the keys worthless, then
// what they were for; each step by itself would do, so that one that fails
// stops none of the others.
func (h *House) Wipe(ctx context.Context) error {
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			h.Log.Error("wipe", "step", what, "error", err)
		}
	}
	step("destroy keys", h.destroyKeys(ctx))
	c, err := h.load()
	if err == nil {
		step("remove token", os.RemoveAll(c.TokenDir()))
	}
	state := filepath.Dir(h.Path)
	for _, name := range []string{"box", "box.toml", "keyring.db", "keyring.db-wal", "keyring.db-shm", "revocation", "seen", "record", "tls", "accounts", "mta-sts", "spool"} {
		step("remove "+name, os.RemoveAll(filepath.Join(state, name)))
	}
	if h.Do == nil {
		return errors.Join(errs...)
	}
	if device, err := h.device(ctx); err != nil {
		step("find data partition", err)
	} else if device != "" {
		step("erase the keys of the data partition", erase(device))
		step("ask the firmware for a reset", gone(os.WriteFile(factoryReset, []byte(reset), 0o644)))
	}
	_, err = h.Do(ctx, nil, "systemctl", "--no-block", "reboot")
	step("start anew", err)
	return errors.Join(errs...)
}

// destroyKeys empties a token that is open; the keys of one that is not stay
// behind its PIN.
func (h *House) destroyKeys(ctx context.Context) error {
	k := h.Token()
	keys, err := k.Keys(ctx)
	if errors.Is(err, hsm.ErrLocked) || errors.Is(err, hsm.ErrEmpty) || errors.Is(err, hsm.ErrAway) {
		h.Log.Warn("wipe", "step", "destroy keys", "error", err)
		return nil
	}
	for _, key := range keys {
		err = errors.Join(err, k.Destroy(ctx, key.ID))
	}
	return err
}
