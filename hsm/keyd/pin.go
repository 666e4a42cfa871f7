package keyd

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"postern/hsm"
	"postern/hsm/internal/folder"
	"postern/hsm/wire"
)

// A wrong PIN that is tried again and again locks a token for good. So each
// try leaves a trace on disk before it is made:
//
//   - pin-pending: a login is under way. It is removed when the token said
//     yes, or did not answer at all. Found at a start it means that the process
//     died inside the login and nobody knows how that ended. The start may try
//     once more (a power cut must not lock a box that stands alone), a second
//     one in a row may not: a module that dies of a wrong PIN costs two tries.
//   - pin-refused: the token said no. Only an operator's Unlock or Init makes
//     the daemon try again.
const (
	pendingFile = "pin-pending"
	refusedFile = "pin-refused"
)

// maxPIN is the longest PIN, in bytes.
const maxPIN = wire.MaxPIN

// secret is a PIN that no log prints.
type secret []byte

// String hides it.
func (secret) String() string { return "[hidden]" }

// GoString hides it.
func (secret) GoString() string { return "[hidden]" }

// LogValue hides it.
func (secret) LogValue() slog.Value { return slog.StringValue("[hidden]") }

// errNoPIN is a credential that is not there.
var errNoPIN = errors.New("no PIN")

// readPIN reads the credential: its first line. A file that everybody may
// read holds no secret and is refused.
func readPIN(path string) (secret, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: no pin-file is set", errNoPIN)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist", errNoPIN, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPIN, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPIN, err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%w: %s may be read by everybody (hint: chmod 600)", errNoPIN, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPIN+3))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPIN, err)
	}
	b, _, _ = bytes.Cut(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 || len(b) > maxPIN {
		return nil, fmt.Errorf("%w: the first line of %s has %d bytes, want 1 to %d", errNoPIN, path, len(b), maxPIN)
	}
	return secret(b), nil
}

// makePIN is a security officer's PIN that nobody learns: 16 characters,
// about 79 bits.
func makePIN() string { return strings.ToLower(rand.Text()[:16]) }

// mayTry says why the credential must not be tried without an operator, or "".
func (k *Keyd) mayTry() (string, error) {
	exists := func(name string) (bool, error) {
		if k.cfg.StateDir == "" {
			return false, nil
		}
		_, err := os.Stat(filepath.Join(k.cfg.StateDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	refused, err := exists(refusedFile)
	if err != nil {
		return "", fmt.Errorf("read state: %w", err)
	}
	if refused || k.refused {
		return "the PIN was refused (hint: correct the credential, then unlock)", nil
	}
	tries, err := k.pending()
	if err != nil {
		return "", err
	}
	if tries >= 2 {
		return "the daemon died twice while it logged in (hint: look at the module, then unlock)", nil
	}
	return "", nil
}

// pending is the number of logins in a row that were begun and not ended.
func (k *Keyd) pending() (n int, err error) {
	err = readLines(k.cfg.StateDir, pendingFile, func(string) error { n++; return nil })
	return n, err
}

// login makes one attempt and leaves the traces. The caller holds k.dev.
func (k *Keyd) login(pin secret) error {
	n, err := k.pending()
	if err == nil {
		err = folder.Write(k.cfg.StateDir, pendingFile, bytes.Repeat([]byte("login\n"), n+1))
	}
	if err != nil {
		// Without a trace there is no try.
		return fmt.Errorf("log in: %w", err)
	}
	err = k.device.Login(string(pin))
	if err != nil && !errors.Is(err, hsm.ErrAway) && !errors.Is(err, hsm.ErrPIN) {
		// What is not clearly the device's absence may have been counted.
		err = fmt.Errorf("%w: %w", hsm.ErrPIN, err)
	}
	if errors.Is(err, hsm.ErrPIN) {
		k.refused = true
		if werr := folder.Write(k.cfg.StateDir, refusedFile, []byte("refused\n")); werr != nil {
			// pin-pending stays as the trace.
			k.log.Error("pin refused, and the note of it could not be written", "error", werr)
			return err
		}
	}
	if rerr := folder.Remove(k.cfg.StateDir, pendingFile); rerr != nil {
		k.log.Error("note of a login could not be removed", "error", rerr)
	}
	return err
}

// pardon is the operator's word that the next login may be tried.
func (k *Keyd) pardon() error {
	k.refused = false
	for _, name := range []string{refusedFile, pendingFile} {
		if err := folder.Remove(k.cfg.StateDir, name); err != nil {
			return err
		}
	}
	return nil
}
