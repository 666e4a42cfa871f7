package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"postern/image"
)

const stageDir = "stage"

// stagePath is where an artifact is staged, under the name by which
// systemd-sysupdate takes it: partitions have their identity in it.
func (b *Box) stagePath(m image.Manifest, a image.Artifact) string {
	root, verity := m.Partitions()
	name := a.Name
	switch a.Kind {
	case image.Root:
		name = fmt.Sprintf("%s.%s.root.raw", image.Name(m.Version), root)
	case image.Verity:
		name = fmt.Sprintf("%s.%s.verity.raw", image.Name(m.Version), verity)
	}
	return filepath.Join(b.State, stageDir, name)
}

// stage brings the parts of a release here, each whole and compared with the
// manifest before it has its name. What an earlier try has left is used.
func (b *Box) stage(ctx context.Context, place source, m image.Manifest) error {
	wanted := map[string]bool{}
	var list []image.Artifact
	for _, k := range []image.Kind{image.Root, image.Verity, image.Kernel} {
		a, ok := m.Artifact(k)
		if !ok {
			return fmt.Errorf("release %s: %s: %w", m.Version, k, image.ErrAbsent)
		}
		list = append(list, a)
		wanted[filepath.Base(b.stagePath(m, a))] = true
		wanted[a.Name+came] = true
		if a.Packed != nil {
			wanted[a.Packed.Name+came] = true
		}
	}
	if err := b.clean(wanted); err != nil {
		return err
	}
	for _, a := range list {
		if err := b.stageOne(ctx, place, m, a); err != nil {
			return fmt.Errorf("release %s: %w", m.Version, err)
		}
	}
	return b.sync(b.path(stageDir))
}

// came is the end of the name of a file as it comes, perhaps not whole.
const came = ".came"

func (b *Box) stageOne(ctx context.Context, place source, m image.Manifest, a image.Artifact) error {
	path := b.stagePath(m, a)
	if f, err := os.Open(path); err == nil {
		err := a.Check(ctx, f)
		f.Close()
		if err == nil {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	// A download that went on where an earlier one had stopped may have come
	// to something else: then, once, it starts anew.
	for again := false; ; again = true {
		had, err := b.fetchOne(ctx, place, a, path)
		_, wrong := errors.AsType[*image.Fault](err)
		if err == nil || !wrong || !had || again {
			return err
		}
	}
}

// fetchOne brings one artifact; had tells whether it went on with what was here.
func (b *Box) fetchOne(ctx context.Context, place source, a image.Artifact, path string) (had bool, err error) {
	name, size := a.Name, a.Size
	if a.Packed != nil && place.packed(a.Name) {
		name, size = a.Packed.Name, a.Packed.Size
	} else {
		a.Packed = nil
	}
	if err := b.step("fetch %s", name); err != nil {
		return false, err
	}
	whole := filepath.Join(b.State, stageDir, name+came)
	if had, err = place.fetch(ctx, name, size, whole); err != nil {
		return had, err
	}
	in, err := os.Open(whole)
	if err != nil {
		return had, err
	}
	defer in.Close()
	out, err := os.OpenFile(path+part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return had, err
	}
	err = a.Unpack(ctx, in, out)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return had, errors.Join(err, os.Remove(whole), os.Remove(path+part))
	}
	if err := b.step("name %s", filepath.Base(path)); err != nil {
		return had, err
	}
	if err := os.Rename(path+part, path); err != nil {
		return had, err
	}
	return had, os.Remove(whole)
}

// clean removes from the stage what is not wanted.
func (b *Box) clean(wanted map[string]bool) error {
	files, err := os.ReadDir(b.path(stageDir))
	if err != nil {
		return absent(err)
	}
	for _, f := range files {
		if wanted[strings.TrimSuffix(f.Name(), part)] {
			continue
		}
		if err := b.step("remove %s", f.Name()); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(b.path(stageDir), f.Name())); err != nil {
			return err
		}
	}
	return nil
}
