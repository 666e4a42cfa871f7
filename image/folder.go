package image

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ends tell kinds by the ends of names; the longer ones stand first.
var ends = []struct {
	end  string
	kind Kind
}{
	{".root.raw", Root}, {".verity.raw", Verity}, {".efi", Kernel}, {".raw", Disk},
	{".qcow2", Format}, {".vmdk", Format}, {".vhdx", Format}, {".cdx.json", Contents}, {".spdx.json", Contents},
}

// Artifacts are those of a version in a folder, in order of their names. What a
// build has made is part of the release or does not belong there: a file whose
// name says no kind is an error. A .gz belongs to the file of the same name.
func Artifacts(ctx context.Context, dir string, v Version) ([]Artifact, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	list := []Artifact{}
	packed := map[string]*Packed{}
	for _, e := range entries {
		end, ours := strings.CutPrefix(e.Name(), Name(v))
		if !ours || !strings.HasPrefix(end, ".") || strings.HasPrefix(end, ManifestEnd) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sum, size, err := Sum(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if plain, is := strings.CutSuffix(e.Name(), ".gz"); is {
			packed[plain] = &Packed{Name: e.Name(), Size: size, SHA256: sum}
			continue
		}
		kind := Kind("")
		for _, one := range ends {
			if end == one.end {
				kind = one.kind
				break
			}
		}
		if kind == "" {
			// postern_1.10.root.raw begins like a file of version 1.
			if other, ok := versionOf(e.Name()); ok && other != v {
				continue
			}
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), ErrUnnamed)
		}
		list = append(list, Artifact{Name: e.Name(), Kind: kind, Size: size, SHA256: sum})
	}
	for i := range list {
		list[i].Packed = packed[list[i].Name]
		delete(packed, list[i].Name)
	}
	for name := range packed {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), ErrAbsent)
	}
	slices.SortFunc(list, func(a, b Artifact) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Sum is the SHA-256 of a file, in hexadecimal, and its size.
func Sum(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// KeysOf trusts one release key and no log: enough to put what it has signed
// into a log.
func KeysOf(pub crypto.PublicKey) (*Keys, error) {
	b, err := ReleaseKeyFile(pub)
	if err != nil {
		return nil, err
	}
	k := newKeys()
	return k, k.addRelease(b)
}
