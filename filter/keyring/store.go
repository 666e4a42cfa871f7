package keyring

import (
	"database/sql"
	"embed"
	"errors"
	"sync"

	"postern/filter/database"
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
	version      = 4       // user_version that the last migration makes
)

//go:embed migrations/*.sql
var migrations embed.FS

// files are keyrings, the operators' and those of what was seen.
var files = &database.Kind{
	Name: "keyring", Migrations: migrations, Version: version, ErrMissing: ErrNoStore, ErrVersion: ErrVersion,
	Upgrade: "`postern keyring upgrade` brings the file up to date",
}

// Store is a KeyRing in one SQLite file of public material. Any number of
// processes may hold it open; a reader sees what was committed before its
// look-up began, and is never held up by a writer (write-ahead log). What
// look-ups give is shared with others: it must not be written to.
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
	db, err := files.Open(path, database.Write)
	if err != nil {
		return nil, err
	}
	return &Store{path: path, db: db}, nil
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
	mode := database.Read
	if s.foreign {
		mode = database.Foreign
	}
	db, err := files.Open(s.path, mode)
	if err != nil {
		return nil, err
	}
	s.db = db
	return db, nil
}
