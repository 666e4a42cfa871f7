package record

import (
	"database/sql"
	"fmt"
	"sync/atomic"
	"time"
)

// maxClean is how many rows are forgotten at once: nobody waits for many.
const maxClean = 1000

// table is one table of the file, with a bound on its rows.
type table struct {
	name, key string
	keep      time.Duration
	most      int64
	rows      atomic.Int64 // at least as many as there are, but for those under way
}

func (t *table) count(db *sql.DB) error {
	var rows int64
	if err := db.QueryRow("SELECT count(*) FROM " + t.name).Scan(&rows); err != nil {
		return fmt.Errorf("count %s: %w", t.name, err)
	}
	t.rows.Store(rows)
	return nil
}

func (t *table) full() bool { return t.rows.Load() >= t.most }

// insert adds a row, or changes one.
func (t *table) insert(tx *sql.Tx, query string, args ...any) error {
	t.rows.Add(1)
	_, err := tx.Exec(query, args...)
	return err
}

// drop deletes at most n rows, the oldest first. The last of args is n.
func (t *table) drop(tx *sql.Tx, where string, args ...any) (int64, error) {
	res, err := tx.Exec("DELETE FROM "+t.name+" WHERE ("+t.key+") IN (SELECT "+t.key+" FROM "+t.name+" "+where+" ORDER BY at LIMIT ?)", args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	t.rows.Add(-n)
	return n, err
}
