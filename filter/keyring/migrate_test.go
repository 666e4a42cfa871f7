package keyring

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"postern/filter/message"
)

// oldFile is a keyring as an earlier version left it.
func oldFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	path := filepath.Join(t.TempDir(), "keyring.db")
	db, err := sql.Open("sqlite", path)
	must(t, err)
	for _, q := range []string{"PRAGMA journal_mode = WAL", string(text)} {
		_, err := db.Exec(q)
		must(t, err)
	}
	must(t, db.Close())
	return path
}

// TestMigration: a reader of an old file says so, and what to do; the next
// writer brings it up to date, and loses nothing.
func TestMigration(t *testing.T) {
	path := oldFile(t, "version-1.sql")
	_, err := OpenReadOnly(path)
	var hinted interface{ Hint() string }
	if !errors.Is(err, ErrVersion) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "keyring upgrade") {
		t.Fatalf("read version 1: got %v, want ErrVersion with a hint", err)
	}
	var group sync.WaitGroup
	for range 3 { // that begin together
		group.Go(func() {
			if s, err := Open(path); err != nil {
				t.Errorf("open: %v", err)
			} else if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	group.Wait()
	r, err := OpenReadOnly(path)
	must(t, err)
	defer r.Close()
	certs, err := r.Certs(t.Context(), message.Address{Local: "bob", Domain: "partner.example"})
	must(t, err)
	ids, err := r.Identities(t.Context(), message.Address{Local: "anybody", Domain: "company1.example"})
	must(t, err)
	got := fmt.Sprint(certs, ids)
	want := "[{openpgp AA00000000000000000000000000000000000000 [1 2] [Bob@partner.example] [partner.example] [0101010101010101010101010101010101010101010101010101010101010101] " +
		"2023-11-14 22:13:20 +0000 UTC 0001-01-01 00:00:00 +0000 UTC distrusted  mail [{mail 2023-11-14 22:13:21 +0000 UTC 2023-11-14 22:13:22 +0000 UTC}] 2023-11-14 22:13:21 +0000 UTC 2023-11-14 22:13:22 +0000 UTC []}] " +
		"[{{openpgp BB00000000000000000000000000000000000000 [3] [] [] [] 2023-11-14 22:13:20 +0000 UTC 2027-01-15 08:00:00 +0000 UTC trusted  created " +
		"[{created 2023-11-14 22:13:23 +0000 UTC 2023-11-14 22:13:23 +0000 UTC}] 2023-11-14 22:13:23 +0000 UTC 2023-11-14 22:13:23 +0000 UTC []}  company1.example unknown}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestMigrationsAreCounted: version is the last of the files.
func TestMigrationsAreCounted(t *testing.T) {
	files, err := migrations.ReadDir("migrations")
	must(t, err)
	if len(files) != version {
		t.Errorf("got %d migrations for version %d", len(files), version)
	}
	fresh, _ := open(t)
	old := oldFile(t, "version-1.sql")
	s, err := Open(old)
	must(t, err)
	defer s.Close()
	if a, b := tables(t, fresh), tables(t, s); a != b {
		t.Errorf("a new file has\n%s\nand a migrated one\n%s", a, b)
	}
}

func tables(t *testing.T, s *Store) string {
	t.Helper()
	rows, err := s.db.Query("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
	must(t, err)
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var text string
		must(t, rows.Scan(&text))
		b.WriteString(text + "\n")
	}
	must(t, rows.Err())
	return b.String()
}
