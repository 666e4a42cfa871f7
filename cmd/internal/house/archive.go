package house

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postern/appliance/box/backup"
	"postern/appliance/config"
	"postern/cmd/internal/gateway"
	"postern/filter/database"
)

// piece is one thing of a backup.
type piece struct {
	name     string // in the archive: a file, or a folder of files
	path     string // on the box
	database bool
	folder   bool
	keyd     bool // the key daemon reads it at its start
}

// What the key daemon has of its own: the list of keys that sign no more, and
// the ciphertexts of keys that it keeps outside the token, which are no keys
// without that.
const (
	retired = "retired"
	wrapped = "wrapped"
)

// pieces are all that is backed up: never the token, nor the box's own folder.
func pieces(c *config.Box) []piece {
	list := []piece{
		{name: "keyring.db", path: c.Keyring, database: true},
		{name: "revocation", path: filepath.Join(filepath.Dir(c.Keyring), "revocation"), folder: true},
		{name: "tls", path: gateway.TLSDir(&c.Filterd), folder: true},
		{name: retired, path: c.KeydState() + "/" + retired, keyd: true},
		{name: wrapped, path: c.KeydState() + "/" + wrapped, folder: true, keyd: true},
	}
	if c.Accounts.Source == "file" {
		list = append(list, piece{name: "accounts", path: c.Accounts.File})
	}
	if c.Box.BackupRecord {
		list = append(list, piece{name: "record.db", path: c.Record, database: true}, piece{name: "seen.db", path: c.Seen, database: true})
	}
	return list
}

// errOtherUnlock is a backup that would change who unlocks the token.
var errOtherUnlock = errors.New("a backup of a box that is unlocked otherwise (hint: claim this one anew, with unlock as in the backup)")

// audit is the name of the key operations in a backup: the journal's records.
const audit = "audit.json"

// Backup implements box.House. Databases that are in use are copied as they
// are between two changes.
func (h *House) Backup(ctx context.Context, w io.Writer, to []string) error {
	c, err := h.load()
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Dir(h.Path), ".backup-*")
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	defer os.RemoveAll(stage)
	text, err := h.Config()
	if err == nil {
		err = os.WriteFile(filepath.Join(stage, "box.toml"), text, 0o600)
	}
	for _, p := range pieces(c) {
		if err == nil {
			err = gone(h.stage(ctx, stage, p))
		}
	}
	if err == nil && h.Do != nil {
		var records []byte
		if records, err = h.Do(ctx, nil, "journalctl", operations()...); err == nil {
			err = os.WriteFile(filepath.Join(stage, audit), records, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	m := backup.Manifest{Box: c.Box.Name, Made: time.Now().UTC().Truncate(time.Second), Program: h.Version}
	return backup.Write(w, to, os.DirFS(stage), m, h.Key)
}

func (h *House) stage(ctx context.Context, stage string, p piece) error {
	to := filepath.Join(stage, p.name)
	switch {
	case p.database:
		return database.Snapshot(ctx, p.path, to)
	case p.folder:
		return copyFolder(p.path, to)
	}
	return copyFile(p.path, to)
}

// copyFolder copies plain files; there are no others.
func copyFolder(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return errors.Join(err, out.Close())
}

// Restore implements box.House. Nothing is touched before the whole archive was
// read and found sound. box.toml is put in place, and applied by who called.
func (h *House) Restore(ctx context.Context, r io.Reader, from string) error {
	stage, err := os.MkdirTemp(filepath.Dir(h.Path), ".restore-*")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(stage)
	root, err := os.OpenRoot(stage)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	_, err = backup.Read(r, from, root)
	if err := errors.Join(err, root.Close()); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(stage, "box.toml"))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	c, err := config.ParseBox("box.toml", text)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	// The box knows the PIN no more, to seal it or to forget it.
	if now, err := h.load(); err == nil && now.Box.Unlock != c.Box.Unlock {
		return fmt.Errorf("restore: %w: it has unlock = %q, and the box %q", errOtherUnlock, c.Box.Unlock, now.Box.Unlock)
	}
	if h.Do != nil {
		if _, err := h.Do(ctx, nil, "systemctl", "stop", "postern-filterd.service"); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		// Also where something goes wrong mail is to be carried again.
		defer h.Do(context.WithoutCancel(ctx), nil, "systemctl", "start", "postern-filterd.service")
	}
	for _, p := range pieces(c) {
		bring := h.bring
		if p.keyd {
			bring = func(stage string, p piece) error { return h.bringKeyd(ctx, stage, p) }
		}
		if err := gone(bring(stage, p)); err != nil {
			return fmt.Errorf("restore %s: %w", p.name, err)
		}
	}
	return put(h.Path, text)
}

// bringKeyd stops the key daemon for what is not as it has it: it reads that at
// the start, and would write its own list again. On a box that people unlock they
// do so anew. Keys outside the token that are not in the archive stay.
func (h *House) bringKeyd(ctx context.Context, stage string, p piece) error {
	if same, err := unchanged(filepath.Join(stage, p.name), p.path); err != nil || same {
		return err
	}
	if h.Do != nil {
		if _, err := h.Do(ctx, nil, "systemctl", "stop", "postern-keyd.service"); err != nil {
			return err
		}
		defer h.Do(context.WithoutCancel(ctx), nil, "systemctl", "start", "postern-keyd.service")
	}
	return h.bring(stage, p)
}

// unchanged reports whether a file, or every file of a folder, is what stands at
// its place.
func unchanged(from, to string) (bool, error) {
	same := true
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fresh, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		have, err := os.ReadFile(to + strings.TrimPrefix(path, from))
		same = same && err == nil && bytes.Equal(have, fresh)
		return nil
	})
	return same, err
}

// bring moves a piece to its place.
func (h *House) bring(stage string, p piece) error {
	from := filepath.Join(stage, p.name)
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.IsDir() != p.folder {
		return backup.ErrForm
	}
	if !p.folder {
		return settle(from, p.path, p.database)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := settle(filepath.Join(from, e.Name()), filepath.Join(p.path, e.Name()), false); err != nil {
			return err
		}
	}
	return nil
}

// inherit gives path to whom dir belongs.
func inherit(path, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
		return os.Chown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// settle moves one file to its place, where it belongs to whom the folder does.
func settle(from, to string, database bool) error {
	dir := filepath.Dir(to)
	_, err := os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if fresh {
		if err := inherit(dir, filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := inherit(from, dir); err != nil {
		return err
	}
	if err := os.Chmod(from, 0o640); err != nil {
		return err
	}
	if database { // its log is of the file that goes
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(to + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return os.Rename(from, to)
}
