package mtasts

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/filter/database"
)

var (
	// ErrNoStore says that filterd has not made the file yet.
	ErrNoStore = errors.New("no MTA-STS policies yet")
	// ErrVersion says that a newer or older program made the file.
	ErrVersion = errors.New("MTA-STS policies of another version")
)

//go:embed migrations/*.sql
var migrations embed.FS

var files = &database.Kind{
	Name: "MTA-STS policies", Migrations: migrations, Version: 1, ErrMissing: ErrNoStore, ErrVersion: ErrVersion,
	Upgrade: "filterd brings the file up to date when it starts",
}

// maxKept is how many policies are kept. Those go first that end first.
const maxKept = 20_000

// Store keeps policies over a restart: whoever could make us forget one could
// have a mail for it. It is one file, which filterd alone writes.
type Store struct{ db *sql.DB }

// Open opens the store in the file path, and makes it where there is none.
func Open(path string) (*Store, error) { return open(path, database.Write) }

// OpenForeign opens the store of a user who is not to be believed, as an
// operator reads what filterd wrote.
func OpenForeign(path string) (*Store, error) { return open(path, database.Foreign) }

func open(path string, mode database.Mode) (*Store, error) {
	db, err := files.Open(path, mode)
	if err != nil {
		return nil, err
	}
	return &Store{db}, nil
}

// Close frees the file.
func (s *Store) Close() error { return s.db.Close() }

// get is what is known of domain, expired or not; nil where nothing is.
func (s *Store) get(ctx context.Context, domain string) (*Policy, error) {
	var p Policy
	var mx string
	var age, fetched, expires int64
	err := s.db.QueryRowContext(ctx, "SELECT id, mode, mx, age, fetched, expires FROM policy WHERE domain = ?", domain).Scan(&p.ID, &p.Mode, &mx, &age, &fetched, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up policy of %.100q: %w", domain, err)
	}
	p.MX = strings.Fields(mx)
	p.MaxAge, p.Fetched, p.Expires = time.Duration(age)*time.Second, time.Unix(fetched, 0), time.Unix(expires, 0)
	return &p, nil
}

// put keeps the policy of domain in the place of the one before.
func (s *Store) put(ctx context.Context, domain string, p Policy) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keep policy of %.100q: %w", domain, err)
	}
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO policy (domain, id, mode, mx, age, fetched, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
		domain, p.ID, string(p.Mode), strings.Join(p.MX, " "), int64(p.MaxAge/time.Second), p.Fetched.Unix(), p.Expires.Unix())
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM policy WHERE domain IN (SELECT domain FROM policy ORDER BY expires DESC LIMIT -1 OFFSET ?)", maxKept)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("keep policy of %.100q: %w", domain, err)
	}
	return nil
}
