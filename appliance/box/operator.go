package box

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Known is a box that an operator has claimed, or was told of.
type Known struct {
	Address     string `json:"address"` // host:port
	Fingerprint string `json:"fingerprint"`
	Name        string `json:"name,omitempty"`
}

// boxFile is Known in an operator's folder.
const boxFile = "box.json"

// Operator is the operator's own key and certificate from his folder, made
// where there are none. It opens the box and signs nothing else; it is no key
// of the gateway.
func Operator(dir string) (tls.Certificate, error) { return Identity(dir, nil) }

// ReadKnown reads which box the folder is for. The error wraps fs.ErrNotExist
// where that is not known.
func ReadKnown(dir string) (k Known, err error) {
	b, err := os.ReadFile(filepath.Join(dir, boxFile))
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return k, fmt.Errorf("read box: %w", err)
	}
	return k, nil
}

// WriteKnown notes it.
func WriteKnown(dir string, k Known) error {
	b, err := json.MarshalIndent(k, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(dir, boxFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note box: %w", err)
	}
	return nil
}

// Forget removes the note: the box is another one now.
func Forget(dir string) error {
	if err := os.Remove(filepath.Join(dir, boxFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget box: %w", err)
	}
	return nil
}
