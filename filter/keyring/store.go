package keyring

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"modernc.org/sqlite"
)

var (
	// ErrNoStore says that there is no keyring file yet. A look-up that
	// meets it must defer the mail: no certificate known is not the same
	// as nothing known of certificates.
	ErrNoStore = errors.New("no keyring yet")
	// ErrAmbiguous says that a fingerprint prefix fits several certificates.
	ErrAmbiguous = errors.New("several certificates begin so")
	// ErrVersion says that a newer or older program made the file.
	ErrVersion = errors.New("keyring of another version")
	// ErrInvalid says that a certificate or identity is not fit to be kept.
	ErrInvalid = errors.New("invalid entry")
)

const (
	maxRaw       = 1 << 20 // bytes of one certificate
	maxAddresses = 1000    // of one certificate
	maxDomains   = 1000    // of one certificate
	maxKeys      = 256     // of one certificate
	maxCaps      = 8 << 10 // bytes of capabilities
	maxSources   = 16      // of one certificate
	minPrefix    = 8       // hexadecimal digits that name a certificate
	version      = 3       // user_version that the last migration makes
)

// migrations are N.sql: what makes version N of the version before.
//
//go:embed migrations/*.sql
var migrations embed.FS

// outdated is the version of a file that the next writer brings up to date,
// and that a reader can't read.
type outdated int

func (v outdated) Error() string {
	return fmt.Sprintf("version %d, not %d: %v", int(v), version, ErrVersion)
}

func (outdated) Hint() string  { return "`postern keyring upgrade` brings the file up to date" }
func (outdated) Unwrap() error { return ErrVersion }

// Store is a KeyRing in one SQLite file of public material. Any number of
// processes may hold it open; a reader sees what was committed before its
// look-up began, and is never held up by a writer (write-ahead log). What
// look-ups give is shared with others: it must not be written to.
//
// The log and its index (FILE-wal, FILE-shm) are kept when the last writer
// closes: a reader that may not write in the folder could not make them again.
type Store struct {
	path     string
	readOnly bool
	foreign  bool

	cache cache // of a read-only store
	most  int   // certificates that Learn keeps, where it is not maxSeen

	mu sync.Mutex
	db *sql.DB // nil until a read-only store finds its file
}

var _ KeyRing = (*Store)(nil)

// Open opens the keyring in the file path for reading and writing, makes it
// (mode 0640) when there is none, and brings one of an earlier version up to date.
func Open(path string) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("make keyring: %w", err)
		}
	}
	db, err := dial(path, "rw")
	if err != nil {
		return nil, fmt.Errorf("open keyring %s: %w", path, err)
	}
	return &Store{path: path, db: db}, nil
}

// create makes the file aside and moves it in place when it is whole, so that
// of two programs that begin together neither meets a half-made keyring.
func create(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".keyring-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	aside := filepath.Join(dir, "keyring.db")
	db, err := dial(aside, "rw")
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

// OpenReadOnly opens the keyring for look-ups only. The file may be missing
// still: then every look-up answers ErrNoStore until somebody has made it.
func OpenReadOnly(path string) (*Store, error) { return openReader(&Store{path: path, readOnly: true}) }

// OpenForeign opens for look-ups a store that a user writes who is not to be
// believed, as an operator reads what filterd saw. It writes to none of the
// files, the index of the log neither. What it gives goes through Doubted.
func OpenForeign(path string) (*Store, error) {
	return openReader(&Store{path: path, readOnly: true, foreign: true})
}

func openReader(s *Store) (*Store, error) {
	if _, err := s.open(); err != nil && !errors.Is(err, ErrNoStore) {
		return nil, err
	}
	return s, nil
}

// Close frees the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	s.cache.mutex.Lock()
	s.cache.close()
	s.cache.mutex.Unlock()
	return s.db.Close()
}

func (s *Store) open() (*sql.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return s.db, nil
	}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open keyring %s: %w", s.path, ErrNoStore)
	} else if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	mode := "ro"
	if s.foreign {
		mode = "foreign"
	}
	db, err := dial(s.path, mode)
	if err != nil {
		return nil, fmt.Errorf("open keyring %s: %w", s.path, err)
	}
	s.db = db
	return db, nil
}

// dial opens the file to write ("rw"), to read ("ro"), or to read and leave
// even the index of its log alone ("foreign").
func dial(path, mode string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// What a file says in its schema is not to be run: filterd writes one that an operator reads.
	q := url.Values{"_pragma": {"busy_timeout(5000)", "foreign_keys(1)", "trusted_schema(0)"}, "_txlock": {"immediate"}}
	if mode != "rw" {
		q.Set("mode", "ro")
		q.Set("_txlock", "deferred")
	}
	if mode == "foreign" {
		q.Set("readonly_shm", "1")
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: abs, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(5) // one of them is the cache's
	db.SetMaxIdleConns(5)
	if mode != "rw" {
		err = checkVersion(db)
	} else {
		db.SetMaxOpenConns(1)
		err = prepare(db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkVersion(db *sql.DB) error {
	var v int
	if err := db.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	switch {
	case v == 0: // made, not filled yet
		return ErrNoStore
	case v < version:
		return outdated(v)
	case v > version:
		return fmt.Errorf("version %d, not %d: %w", v, version, ErrVersion)
	}
	return nil
}

// prepare switches the file to the write-ahead log and brings it to the
// current version.
func prepare(db *sql.DB) error {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, p := range []string{"PRAGMA journal_mode = WAL", "PRAGMA journal_size_limit = 0", "PRAGMA synchronous = FULL"} {
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
	if v == version {
		return nil
	}
	if v < 0 || v > version {
		return fmt.Errorf("version %d, not %d: %w", v, version, ErrVersion)
	}
	for next := v + 1; next <= version; next++ {
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%d.sql", next))
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		if _, err := tx.Exec(string(text)); err != nil {
			return fmt.Errorf("migrate to version %d: %w", next, err)
		}
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return tx.Commit()
}
