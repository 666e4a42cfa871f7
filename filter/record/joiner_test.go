package record

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/filter/message"
)

func keys(list []Joiner) (all []string) {
	for _, j := range list {
		all = append(all, fmt.Sprint(j.Address.Key(), " ", j.Sends))
	}
	return all
}

func TestJoiners(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "record.db")
	at := time.Unix(1_700_000_000, 0).UTC()
	c := clocktest.At(at)
	r := open(t, path, Options{Now: c.Now})
	must(t, r.Join(ctx, Joiner{bob, false, at}))
	must(t, r.Join(ctx, Joiner{alice, false, at.Add(time.Hour)}))
	must(t, r.Join(ctx, Joiner{carol, true, at.Add(2 * time.Hour)}))
	must(t, r.Join(ctx, Joiner{message.Address{Local: "Alice", Domain: alice.Domain}, true, at.Add(3 * time.Hour)}))
	must(t, r.Join(ctx, Joiner{alice, false, at.Add(4 * time.Hour)}))
	got, err := r.Joiners(ctx)
	must(t, err)
	if want := []string{"alice@company1.example true", "carol@other.example true", "bob@partner.example false"}; !slices.Equal(keys(got), want) || !got[0].At.Equal(at.Add(time.Hour)) {
		t.Errorf("got %v, want %v, alice since her first mail", got, want)
	}
	for _, x := range []struct {
		a     message.Address
		sends bool
		want  bool
	}{{alice, true, true}, {alice, false, true}, {bob, false, true}, {bob, true, false}, {message.Address{Local: "x", Domain: "y.example"}, false, false}} {
		if known, err := r.Joins(ctx, x.a, x.sends); err != nil || known != x.want {
			t.Errorf("%s, sends %t: got %t, %v, want %t", x.a.Key(), x.sends, known, err, x.want)
		}
	}
	must(t, r.Joined(ctx, alice))
	must(t, r.Joined(ctx, alice))
	c.Pass(joinerFor + time.Hour)
	if got, err = r.Joiners(ctx); err != nil || !slices.Equal(keys(got), []string{"carol@other.example true"}) {
		t.Errorf("a month later: got %v, %v, want carol, who was noted last", got, err)
	}
	must(t, r.Close())
	again := open(t, path, Options{Now: c.Now}) // which cleans up
	eventually(t, "bob is still there", func() bool { return again.joined.rows.Load() == 1 })

	var none *Record
	if list, err := none.Joiners(ctx); err != nil || list != nil {
		t.Errorf("no record: got %v, %v", list, err)
	}
}

// A table that is full loses the oldest.
func TestJoinersAreBounded(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "record.db"), Options{})
	r.joined.most = 3
	at := time.Now().Truncate(time.Second)
	for n := range 5 {
		must(t, r.Join(t.Context(), Joiner{message.Address{Local: fmt.Sprint("u", n), Domain: "company1.example"}, false, at.Add(time.Duration(n) * time.Second)}))
	}
	got, err := r.Joiners(t.Context())
	must(t, err)
	if len(got) > 3 || len(got) == 0 || got[len(got)-1].Address.Local != "u4" {
		t.Errorf("got %v, want three at most, the newest among them", keys(got))
	}
}

// What a program that is not to be believed wrote is an address, or nothing.
func TestForeignJoiners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.db")
	r := open(t, path, Options{})
	must(t, r.Close())
	db, err := sql.Open("sqlite", path)
	must(t, err)
	for _, text := range []string{"alice@company1.example", "ALICE@company1.example", "x", "", "a@company1.example\nb@company1.example", "a b@company1.example", "<c@company1.example>",
		strings.Repeat("d", 400) + "@company1.example", "e@company1.example\x00f", "Mallory <m@company1.example>"} {
		_, err := db.Exec("INSERT INTO joiner VALUES (?, 1, ?)", text, time.Now().Unix())
		must(t, err)
	}
	_, err = db.Exec("INSERT INTO joiner VALUES (?, 1, ?)", "late@company1.example", int64(1)<<62)
	must(t, err)
	defer db.Close() // it would take the log away
	foreign, err := OpenForeign(path)
	must(t, err)
	defer foreign.Close()
	got, err := foreign.Joiners(t.Context())
	must(t, err)
	if want := []string{"alice@company1.example true", "late@company1.example true"}; !slices.Equal(keys(got), want) {
		t.Errorf("got %q, want %q", keys(got), want)
	}
}

// A record of an earlier version is brought up to date, and loses nothing.
func TestMigration(t *testing.T) {
	first, err := migrations.ReadFile("migrations/1.sql")
	must(t, err)
	path := filepath.Join(t.TempDir(), "record.db")
	db, err := sql.Open("sqlite", path)
	must(t, err)
	for _, q := range []string{"PRAGMA journal_mode = WAL", string(first), "PRAGMA user_version = 1", "INSERT INTO protected VALUES ('bob@partner.example', 1)"} {
		_, err := db.Exec(q)
		must(t, err)
	}
	must(t, db.Close())
	must(t, os.WriteFile(path+"-wal", nil, 0o640))
	must(t, os.WriteFile(path+"-shm", nil, 0o640))
	if _, err := OpenForeign(path); !errors.Is(err, ErrVersion) {
		t.Errorf("read version 1: got %v, want ErrVersion", err)
	}
	r := open(t, path, Options{})
	if _, ok, err := r.Protected(t.Context(), bob); !ok || err != nil {
		t.Errorf("got %t, %v, want bob known", ok, err)
	}
	must(t, r.Join(t.Context(), Joiner{alice, true, time.Now()}))
	files, err := migrations.ReadDir("migrations")
	must(t, err)
	if len(files) != version {
		t.Errorf("got %d migrations for version %d", len(files), version)
	}
}
