package image

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"postern/hsm"
)

// Folder is where an image has the keys that it trusts.
const Folder = "/usr/lib/postern/release.d"

// Keys are those that are trusted: of releases, and of their log.
type Keys struct {
	release map[hsm.KeyID]crypto.PublicKey
	logs    []note.Verifier
}

func newKeys() *Keys { return &Keys{release: map[hsm.KeyID]crypto.PublicKey{}} }

// LoadKeys reads a folder: *.pem has the public key of a release key
// (SubjectPublicKeyInfo, RFC 7468 §13), *.vkey the key of a log (C2SP
// signed-note: name, number and key in a line). Both must be there: who trusts no
// log could be shown a release that nobody else has seen. Other files are no
// keys; a file that should be one and is not is an error.
func LoadKeys(dir string) (*Keys, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read trusted keys: %w: %w", ErrKeys, err)
	}
	k := newKeys()
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".pem":
			b, err := readFile(path, maxSignature)
			if err == nil {
				err = k.addRelease(b)
			}
			if err != nil {
				return nil, fmt.Errorf("read trusted key %s: %w: %w", path, ErrKeys, err)
			}
		case ".vkey":
			b, err := readFile(path, maxSignature)
			if err == nil {
				err = k.addLog(string(b))
			}
			if err != nil {
				return nil, fmt.Errorf("read trusted key %s: %w: %w", path, ErrKeys, err)
			}
		}
	}
	if len(k.release) == 0 || len(k.logs) == 0 {
		return nil, fmt.Errorf("%s has %d keys of releases and %d of a log: %w", dir, len(k.release), len(k.logs), ErrKeys)
	}
	return k, nil
}

func (k *Keys) addRelease(b []byte) error {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return fmt.Errorf("want one PUBLIC KEY")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err == nil {
		err = releaseKey(pub)
	}
	if err != nil {
		return err
	}
	id, err := hsm.IDOf(pub)
	if err != nil {
		return err
	}
	k.release[id] = pub
	return nil
}

func (k *Keys) addLog(line string) error {
	v, err := note.NewVerifier(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return err
	}
	k.logs = append(k.logs, v)
	return nil
}

// ReleaseKeyFile is the file of a trusted release key.
func ReleaseKeyFile(pub crypto.PublicKey) ([]byte, error) {
	if err := releaseKey(pub); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
