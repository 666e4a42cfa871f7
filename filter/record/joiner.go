package record

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"postern/filter/message"
)

// How many joiners are remembered, and for how long: whoever is still there has
// another mail.
const (
	maxJoiners = 10_000 // the oldest go
	joinerFor  = 30 * 24 * time.Hour
	maxAddress = 320 // bytes; RFC 5321 §4.5.3.1
)

// Joiner is an address of ours that had a mail, and has no certificate of its own.
type Joiner struct {
	Address message.Address
	Sends   bool // the mail was his; otherwise he got it
	At      time.Time
}

// Joins reports whether a is remembered, and as one who sends where he does.
func (r *Record) Joins(ctx context.Context, a message.Address, sends bool) (known bool, err error) {
	if r == nil || r.joined.rows.Load() == 0 {
		return false, nil
	}
	var sent bool
	err = r.read.QueryRowContext(ctx, "SELECT sends FROM joiner WHERE address = ?", a.Key()).Scan(&sent)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, away("look up joiner "+a.Key(), err)
	}
	return sent || !sends, nil
}

// Join remembers j, and keeps the time of his first mail.
func (r *Record) Join(ctx context.Context, j Joiner) error {
	if r == nil {
		return nil
	}
	return r.change(ctx, "remember joiner "+j.Address.Key(), func(tx *sql.Tx) error {
		if err := r.joined.makeRoom(tx, j.At); err != nil {
			return err
		}
		return r.joined.insert(tx, "INSERT INTO joiner VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET sends = max(sends, excluded.sends)", j.Address.Key(), j.Sends, j.At.Unix())
	})
}

// Joined forgets a, who has a certificate now.
func (r *Record) Joined(ctx context.Context, a message.Address) error {
	if r == nil || r.joined.rows.Load() == 0 {
		return nil
	}
	if known, err := r.Joins(ctx, a, false); err != nil || !known {
		return err
	}
	return r.change(ctx, "forget joiner "+a.Key(), func(tx *sql.Tx) error {
		return r.joined.remove(tx, "address = ?", a.Key())
	})
}

// Joiners are those that are remembered: who sends first, and of them who came
// first. Of a record that
// is another program's nothing is believed: what is no address in its own form is
// left out.
func (r *Record) Joiners(ctx context.Context) (list []Joiner, err error) {
	if r == nil {
		return nil, nil
	}
	rows, err := r.read.QueryContext(ctx, "SELECT address, sends, at FROM joiner WHERE length(CAST(address AS BLOB)) <= ? AND at > ? ORDER BY sends DESC, at, address LIMIT ?",
		maxAddress, r.Now().Add(-joinerFor).Unix(), maxJoiners)
	if err != nil {
		return nil, away("list joiners", err)
	}
	defer rows.Close()
	for rows.Next() {
		var one Joiner
		var text string
		var at int64
		if err := rows.Scan(&text, &one.Sends, &at); err != nil {
			return nil, away("list joiners", err)
		}
		if one.Address, err = message.ParseAddress(text); err != nil || one.Address.Key() != text {
			continue
		}
		one.At = time.Unix(at, 0).UTC()
		list = append(list, one)
	}
	if err := rows.Err(); err != nil {
		return nil, away("list joiners", err)
	}
	return list, nil
}
