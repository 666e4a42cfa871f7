package record

import (
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"postern/filter/state"
)

// Health is what there is to tell of a record that can be used.
type Health struct {
	Made bool   // there is a file; filterd makes it when it starts
	Free uint64 // bytes on its disk
}

// sqlite tells by its beginning whether a file is one of SQLite.
func sqlite(path string) bool {
	const magic = "SQLite format 3\x00"
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	begin := make([]byte, len(magic))
	_, err = io.ReadFull(f, begin)
	return err == nil && string(begin) == magic
}

// Examine judges the record in the file path before a mail needs it: whether
// filterd's user, who owns the folder, may write all of its files, whether this
// program understands it, and whether there is room. It changes nothing.
func Examine(path string) (h Health, err error) {
	dir := filepath.Dir(path)
	if h.Free, err = state.Space(dir); errors.Is(err, fs.ErrNotExist) {
		return h, nil
	} else if err != nil {
		return h, err
	}
	uid := state.Owner(dir)
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		switch err := state.Own(name, uid); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return h, err
		case name == path:
			h.Made = true
		}
	}
	if !h.Made {
		return h, nil
	}
	const away = "move it and its -wal and -shm away and a new one is made; what that costs stands in operations.md"
	r, err := OpenForeign(path)
	switch {
	case errors.Is(err, ErrNoRecord) && sqlite(path): // brought here without its log, which filterd makes
		return h, nil
	case errors.Is(err, fs.ErrPermission):
		return h, state.Wrong(path, err, "run it as root, or as the user of filterd")
	case errors.Is(err, ErrVersion): // it has a hint of its own, or is of a newer program
		return h, err
	case err != nil:
		return h, state.Wrong(path, err, away)
	}
	defer r.Close()
	for _, t := range []string{"part", "refusal", "opened", "protected", "mail", "proof", "joiner"} {
		row := r.read.QueryRow("SELECT 1 FROM " + t + " LIMIT 1")
		var one int
		if err := row.Scan(&one); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return h, state.Wrong(path, err, away)
		}
	}
	return h, nil
}
