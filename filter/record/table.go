package record

import (
	"database/sql"
	"fmt"
	"sync/atomic"
	"time"
)

// How many rows of a table are forgotten at once, and how often in one clean-up.
const (
	maxClean  = 1000
	maxRounds = 200
)

// table is one table of the file, with a bound on its rows.
type table struct {
	name, key string
	keep      time.Duration
	most      int64
	rows      atomic.Int64 // at least as many as there are
}

// counter is a *sql.DB or a *sql.Tx.
type counter interface {
	QueryRow(query string, args ...any) *sql.Row
}

func (t *table) count(db counter) error {
	var rows int64
	if err := db.QueryRow("SELECT count(*) FROM " + t.name).Scan(&rows); err != nil {
		return fmt.Errorf("count %s: %w", t.name, err)
	}
	t.rows.Store(rows)
	return nil
}

// full counts anew before it says yes.
func (t *table) full(tx *sql.Tx) (bool, error) {
	if t.rows.Load() < t.most {
		return false, nil
	}
	err := t.count(tx)
	return t.rows.Load() >= t.most, err
}

// insert adds a row, or changes one.
func (t *table) insert(tx *sql.Tx, query string, args ...any) error {
	t.rows.Add(1)
	_, err := tx.Exec(query, args...)
	return err
}

// remove deletes the rows of a condition.
func (t *table) remove(tx *sql.Tx, where string, args ...any) error {
	_, err := t.delete(tx, where, args...)
	return err
}

// drop deletes at most maxClean rows from before that time, the oldest first.
func (t *table) drop(tx *sql.Tx, before time.Time) (int64, error) {
	return t.delete(tx, "("+t.key+") IN (SELECT "+t.key+" FROM "+t.name+" WHERE at <= ? ORDER BY at LIMIT ?)", before.Unix(), maxClean)
}

func (t *table) delete(tx *sql.Tx, where string, args ...any) (int64, error) {
	res, err := tx.Exec("DELETE FROM "+t.name+" WHERE "+where, args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	t.rows.Add(-n)
	return n, err
}

// makeRoom drops the oldest rows of a table that has too many.
func (t *table) makeRoom(tx *sql.Tx, now time.Time) error {
	full, err := t.full(tx)
	if err == nil && full {
		_, err = t.drop(tx, now)
	}
	return err
}
