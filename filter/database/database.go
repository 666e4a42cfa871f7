// Package database opens the SQLite files that the gateway keeps: each of one
// kind, with the migrations that made it, a write-ahead log, and one program
// that writes.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
)

// Mode is how a file is opened.
type Mode int

const (
	Read    Mode = iota // any number of connections
	Write               // one connection; every commit is on the disk before it returns
	Foreign             // as Read, and even the index of the log is left alone: the file of a user who is not to be believed
)

// Kind is what all files of one kind have in common.
type Kind struct {
	Name       string // of such a file, in errors and as the name of one that is being made
	Migrations fs.FS  // N.sql: what makes version N of the version before
	Version    int    // user_version that the last migration makes
	ErrMissing error  // there is no file yet
	ErrVersion error  // a newer or older program made it
	Upgrade    string // hint for a file that the next writer brings up to date
}

// outdated is the version of a file that the next writer brings up to date,
// and that a reader can't read.
type outdated struct {
	kind    *Kind
	version int
}

func (o outdated) Error() string {
	return fmt.Sprintf("version %d, not %d: %v", o.version, o.kind.Version, o.kind.ErrVersion)
}

func (o outdated) Hint() string  { return o.kind.Upgrade }
func (o outdated) Unwrap() error { return o.kind.ErrVersion }

// Open opens the file path. To write, it makes the file (mode 0640) when there
// is none, and brings one of an earlier version up to date.
//
// The log and its index (FILE-wal, FILE-shm) are kept when the last writer
// closes: a reader that may not write in the folder could not make them again.
func (k *Kind) Open(path string, mode Mode) (*sql.DB, error) {
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mode == Write:
		if err := k.create(path); err != nil {
			return nil, fmt.Errorf("make %s: %w", k.Name, err)
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open %s %s: %w", k.Name, path, k.ErrMissing)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", k.Name, err)
	}
	if mode == Foreign { // SQLite would make them, as files of whoever asks, and their writer could not use them
		for _, log := range []string{path + "-wal", path + "-shm"} {
			if _, err := os.Stat(log); err != nil {
				return nil, fmt.Errorf("open %s %s: no log beside it until its program has run: %w", k.Name, path, k.ErrMissing)
			}
		}
	}
	db, err := k.dial(path, mode)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", k.Name, path, err)
	}
	return db, nil
}

// create makes the file aside and moves it in place when it is whole, so that
// of two programs that begin together neither meets a half-made one.
func (k *Kind) create(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "."+k.Name+"-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	aside := filepath.Join(dir, "new.db")
	db, err := k.dial(aside, Write)
	if err != nil {
		return err
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil { // the log stays behind
		return errors.Join(err, db.Close())
	}
	if err := errors.Join(db.Close(), os.Chmod(aside, 0o640)); err != nil {
		return err
	}
	if err := os.Link(aside, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (k *Kind) dial(path string, mode Mode) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// What a file says in its schema is not to be run: one program writes what another reads.
	pragmas := []string{"busy_timeout(5000)", "foreign_keys(1)", "trusted_schema(0)"}
	q := url.Values{"_txlock": {"immediate"}}
	switch mode {
	case Write:
		pragmas = append(pragmas, "synchronous(FULL)")
	default:
		q.Set("mode", "ro")
		q.Set("_txlock", "deferred")
	}
	if mode == Foreign {
		q.Set("readonly_shm", "1")
	}
	q["_pragma"] = pragmas
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: abs, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	if mode == Write {
		db.SetMaxOpenConns(1)
		err = k.prepare(db)
	} else {
		db.SetMaxOpenConns(5) // one of them may watch for changes
		db.SetMaxIdleConns(5)
		err = k.check(db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// check refuses a file of another version.
func (k *Kind) check(db *sql.DB) error {
	var v int
	if err := db.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	switch {
	case v == 0: // made, not filled yet
		return k.ErrMissing
	case v < k.Version:
		return outdated{k, v}
	case v > k.Version:
		return k.foreign(v)
	}
	return nil
}

func (k *Kind) foreign(v int) error {
	return fmt.Errorf("version %d, not %d: %w", v, k.Version, k.ErrVersion)
}

// prepare switches the file to the write-ahead log and brings it to the
// current version.
func (k *Kind) prepare(db *sql.DB) error {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, p := range []string{"PRAGMA journal_mode = WAL", "PRAGMA journal_size_limit = 0"} {
		if _, err := conn.ExecContext(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(p), err)
		}
	}
	err = conn.Raw(func(c any) error {
		fc, ok := c.(sqlite.FileControl)
		if !ok {
			return errors.New("driver has no file control")
		}
		_, err := fc.FileControlPersistWAL("main", 1)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep write-ahead log: %w", err)
	}
	tx, err := conn.BeginTx(ctx, nil) // immediate: two programs that start together migrate once
	if err != nil {
		return fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback()
	var v int
	if err := tx.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	if v == k.Version {
		return nil
	}
	if v < 0 || v > k.Version {
		return k.foreign(v)
	}
	for next := v + 1; next <= k.Version; next++ {
		text, err := fs.ReadFile(k.Migrations, fmt.Sprintf("migrations/%d.sql", next))
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		if _, err := tx.Exec(string(text)); err != nil {
			return fmt.Errorf("migrate to version %d: %w", next, err)
		}
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", k.Version)); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return tx.Commit()
}

// Snapshot copies a file that others are using to a new one, as it is between
// two of their changes. The error wraps fs.ErrNotExist where there is no file.
func Snapshot(ctx context.Context, path, to string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return nil
}
