// Package image is what a release of the box is, and by what it is believed: a
// manifest of all that belongs to it, a signature of the release key under that,
// and a proof that both stand in the log of all releases. One verifier serves
// the build, the update and whoever downloads an image.
//
// A release in a folder:
//
//	postern_VERSION.manifest.json             what it consists of
//	postern_VERSION.manifest.json.sig         who says so
//	postern_VERSION.manifest.json.tlog-proof  where in the log it stands
//	postern_VERSION.…                         its artifacts
//	log/                                      the log, as tiles
//
// Everything here is read from outside and bounded. Nothing here does
// cryptography of its own, nor reaches a network or a token.
package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Fault is a reason not to believe a release, with what to do.
type Fault struct{ text, hint string }

// Error is what is wrong.
func (f *Fault) Error() string { return f.text }

// Hint is what to do.
func (f *Fault) Hint() string { return f.hint }

// What is wrong with a release; each is a line of its own.
var (
	ErrForm      = &Fault{"manifest is not in its form", "it was changed, cut off, or made by another program: download it again"}
	ErrManifest  = &Fault{"manifest is not the one that was signed", "it was changed or damaged, or the signature is that of another release: download both again, and report it if it stays so"}
	ErrSignature = &Fault{"signature is wrong", "the signature was changed or damaged: download it again, and report it if it stays so"}
	ErrKey       = &Fault{"signature is of a key that is not trusted here", "an image trusts the keys in /usr/lib/postern/release.d; elsewhere name a folder of keys that you have from somebody you trust: --keys DIR"}
	ErrKeys      = &Fault{"no keys to trust", "the folder wants a release key (*.pem) and a key of the log (*.vkey): --keys DIR"}

	ErrRoot    = &Fault{"root is not the one of the manifest", "it was changed or damaged: download it again"}
	ErrVerity  = &Fault{"hash tree is not the one of the manifest", "it was changed or damaged: download it again"}
	ErrKernel  = &Fault{"kernel is not the one of the manifest", "it was changed or damaged: download it again"}
	ErrDisk    = &Fault{"disk image is not the one of the manifest", "it was changed or damaged, or has been booted: download it again"}
	ErrOther   = &Fault{"file is not the one of the manifest", "it was changed or damaged: download it again"}
	ErrUnnamed = &Fault{"file is not part of the release", "the manifest beside it names other files: take the one of the same version, and keep the names"}
	ErrAbsent  = &Fault{"part of the release is missing", "download it into the folder of the manifest"}

	ErrDowngrade = &Fault{"release is older than what was here", "a box never goes back by an update; `postern update rollback` takes the slot from before"}
	ErrFrom      = &Fault{"release cannot follow what is here", "update to a version between them first; its notes say which"}

	ErrProof   = &Fault{"release is not in the log", "its proof was changed or is that of another release: download it again, and report it if it stays so"}
	ErrLog     = &Fault{"log is not signed by a key that is trusted here", "its checkpoint was changed, or another log made it: download the proof again, and report it if it stays so"}
	ErrFork    = &Fault{"log does not continue what was seen of it", "somebody is shown another history than you: do not install it, and report it with both checkpoints"}
	ErrUnknown = &Fault{"whether the log continues what was seen of it is not known", "the folder log/ belongs beside the release, as new as the newest release you have seen: download it"}
	ErrLogFile = &Fault{"log is damaged", "take the last good copy: what is published must never change"}
)

// Bounds of what is read.
const (
	maxManifest  = 4 << 20
	maxSignature = 4 << 10
	maxProof     = 64 << 10
	maxArtifact  = 16 << 30
)

// readFile reads a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

// writeFile writes a file whole or not at all, also when the power fails.
func writeFile(path string, b []byte) (err error) {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir makes the name of a file last.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
