package record

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"postern/filter/message"
)

// How much is remembered of whom mail was exchanged with.
const (
	maxProtected = 1_000_000 // addresses; a further one is ErrFull
	maxOpened    = 1_000_000 // mails; the oldest go
	openedFor    = 365 * 24 * time.Hour
)

// Protected says since when protection is used with a; not ok: it never was.
func (r *Record) Protected(ctx context.Context, a message.Address) (since time.Time, ok bool, err error) {
	if r == nil {
		return since, false, nil
	}
	var at int64
	err = r.read.QueryRowContext(ctx, "SELECT since FROM protected WHERE address = ?", a.Key()).Scan(&at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return since, false, nil
	case err != nil:
		return since, false, away("look up protection of "+a.Key(), err)
	}
	return time.Unix(at, 0).UTC(), true, nil
}

// Protect remembers for good that protection was used with a at that time, and
// keeps the first one. It is cheap where that is known.
func (r *Record) Protect(ctx context.Context, a message.Address, at time.Time) error {
	if _, known, err := r.Protected(ctx, a); r == nil || known || err != nil {
		return err
	}
	return r.change(ctx, "remember protection of "+a.Key(), func(tx *sql.Tx) error {
		if full, err := r.protected.full(tx); err != nil || full {
			return cmp.Or(err, ErrFull)
		}
		return r.protected.insert(tx, "INSERT INTO protected VALUES (?, ?) ON CONFLICT DO NOTHING", a.Key(), at.Unix())
	})
}

// Forget ends what Protect remembers of a; known says whether it did.
func (r *Record) Forget(ctx context.Context, a message.Address) (known bool, err error) {
	if r == nil {
		return false, nil
	}
	err = r.change(ctx, "forget protection of "+a.Key(), func(tx *sql.Tx) error {
		res, err := tx.Exec("DELETE FROM protected WHERE address = ?", a.Key())
		if err != nil {
			return err
		}
		gone, err := res.RowsAffected()
		r.protected.rows.Add(-gone)
		known = gone > 0
		return err
	})
	return known && err == nil, err
}

// Opened says whether a mail with that Message-ID was opened here in the last
// year. It takes an id with its angle brackets or without.
func (r *Record) Opened(ctx context.Context, messageID string) (bool, error) {
	if r == nil || bare(messageID) == "" {
		return false, nil
	}
	var at int64
	err := r.read.QueryRowContext(ctx, "SELECT at FROM opened WHERE message = ?", nameOf(messageID)).Scan(&at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, away("look up opened mail", err)
	}
	return r.Now().Sub(time.Unix(at, 0)) < openedFor, nil
}

// RememberOpened remembers that a mail with those Message-IDs was opened, in one
// write. One without an id can't be remembered.
func (r *Record) RememberOpened(ctx context.Context, messageIDs ...string) error {
	if r == nil {
		return nil
	}
	var names [][]byte
	for _, id := range messageIDs {
		if name := nameOf(id); bare(id) != "" && !slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) }) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	now := r.Now()
	return r.change(ctx, "remember opened mail", func(tx *sql.Tx) error {
		if err := r.opened.makeRoom(tx, now); err != nil {
			return err
		}
		for _, name := range names {
			if err := r.opened.insert(tx, "INSERT INTO opened VALUES (?, ?) ON CONFLICT DO UPDATE SET at = excluded.at", name, now.Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}

// bare is a Message-ID without what stands around it.
func bare(id string) string {
	id = strings.TrimSpace(id)
	return strings.TrimSuffix(strings.TrimPrefix(id, "<"), ">")
}

func nameOf(id string) []byte {
	sum := sha256.Sum256([]byte(bare(id)))
	return sum[:]
}
