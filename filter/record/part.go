package record

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"postern/filter/message"
)

// How long and for how many copies it is remembered who has his.
const (
	partFor     = 5 * 24 * time.Hour // as long as a sender retries (RFC 5321 §4.5.4.1)
	maxParts    = 200_000
	maxRefusals = 10_000
)

// Name names a mail, or an envelope: a hash of what stays the same when its
// sender tries again.
type Name [sha256.Size]byte

// Parts says who has his copy of a mail, and who was refused for good.
type Parts struct {
	name Name
	rows map[Name]*string // reply that refused; nil: delivered
}

// Has says whether a has his copy. Addresses count as the envelope wrote them:
// only the next hop knows which are one mailbox.
func (p Parts) Has(a message.Address) bool {
	reply, ok := p.rows[p.row(a)]
	return ok && reply == nil
}

// Refused is the reply that refused a's copy for good, when it was tried before.
func (p Parts) Refused(a message.Address) (reply string, ok bool) {
	text, ok := p.rows[p.row(a)]
	if !ok || text == nil {
		return "", false
	}
	return *text, true
}

func (p Parts) row(a message.Address) Name {
	h := sha256.New()
	h.Write(p.name[:])
	fmt.Fprintf(h, "%q %q", a.Local, a.Domain)
	return Name(h.Sum(nil))
}

// Parted says whether any mail is remembered. It costs nothing: where it is
// false, nobody needs the name of a mail.
func (r *Record) Parted() bool { return r != nil && r.part.rows.Load() > 0 }

// Parts looks up who has his copy of the mail n.
func (r *Record) Parts(ctx context.Context, n Name) (Parts, error) {
	p := Parts{name: n, rows: map[Name]*string{}}
	if !r.Parted() {
		return p, nil
	}
	rows, err := r.read.QueryContext(ctx, "SELECT recipient, refused FROM part WHERE mark = ? AND at > ? AND recipient <> x''", n[:], r.Now().Add(-partFor).Unix())
	if err != nil {
		return p, fmt.Errorf("look up who has his copy: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var recipient []byte
		var refused *string
		if err := rows.Scan(&recipient, &refused); err != nil {
			return p, fmt.Errorf("look up who has his copy: %w", err)
		}
		p.rows[Name(recipient)] = refused
	}
	return p, rows.Err()
}

// Ready makes sure that it can be remembered who has his copy of the mail n,
// before the first one goes.
func (r *Record) Ready(ctx context.Context, n Name) error {
	if r == nil {
		return nil
	}
	return r.change(ctx, "make room for copies", func(tx *sql.Tx) error {
		if err := r.room(tx, n); err != nil {
			return err
		}
		return r.part.insert(tx, "INSERT INTO part VALUES (?, x'', NULL, ?) ON CONFLICT DO UPDATE SET at = excluded.at", n[:], r.Now().Unix())
	})
}

// Broken says that the last write failed: then a mail that may part is not begun
// without Ready.
func (r *Record) Broken() bool { return r != nil && r.broken.Load() }

// Share is what became of one recipient's copy.
type Share struct {
	To      message.Address
	Refused string // reply; "": delivered
}

// Part remembers shares of the mail n. It is on the disk when Part returns.
func (r *Record) Part(ctx context.Context, n Name, shares []Share) error {
	if r == nil || len(shares) == 0 {
		return nil
	}
	p := Parts{name: n}
	at := r.Now().Unix()
	return r.change(ctx, "remember who has his copy", func(tx *sql.Tx) error {
		if err := r.room(tx, n); err != nil {
			return err
		}
		for _, s := range shares {
			row := p.row(s.To)
			refused := sql.NullString{String: s.Refused, Valid: s.Refused != ""}
			if err := r.part.insert(tx, "INSERT INTO part VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET refused = excluded.refused, at = excluded.at", n[:], row[:], refused, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// room drops the mails that were not heard of for the longest time where too
// many rows are there.
func (r *Record) room(tx *sql.Tx, n Name) error {
	if !r.part.full() {
		return nil
	}
	res, err := tx.Exec("DELETE FROM part WHERE mark IN (SELECT DISTINCT mark FROM (SELECT mark FROM part WHERE mark <> ? ORDER BY at LIMIT ?))", n[:], maxClean)
	if err != nil {
		return err
	}
	gone, err := res.RowsAffected()
	r.part.rows.Add(-gone)
	return err
}

// Whole forgets the mail n: all have it, or its sender is told of each who has not.
func (r *Record) Whole(ctx context.Context, n Name) error {
	if !r.Parted() {
		return nil
	}
	return r.change(ctx, "forget who has his copy", func(tx *sql.Tx) error {
		res, err := tx.Exec("DELETE FROM part WHERE mark = ?", n[:])
		if err != nil {
			return err
		}
		gone, err := res.RowsAffected()
		r.part.rows.Add(-gone)
		return err
	})
}

// Refuse remembers what a recipient is answered when the envelope comes again.
func (r *Record) Refuse(ctx context.Context, envelope Name, reply string) error {
	if r == nil {
		return nil
	}
	at := r.Now().Unix()
	return r.change(ctx, "remember refusal", func(tx *sql.Tx) error {
		if r.refusal.full() {
			if _, err := r.refusal.drop(tx, "WHERE at <= ?", at, maxClean); err != nil {
				return err
			}
		}
		return r.refusal.insert(tx, "INSERT INTO refusal VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET reply = excluded.reply, at = excluded.at", envelope[:], reply, at)
	})
}

// Refusal gives that reply once, and forgets it.
func (r *Record) Refusal(ctx context.Context, envelope Name) (reply string, ok bool, err error) {
	if r == nil || r.refusal.rows.Load() <= 0 {
		return "", false, nil
	}
	var at int64
	err = r.read.QueryRowContext(ctx, "SELECT reply, at FROM refusal WHERE envelope = ?", envelope[:]).Scan(&reply, &at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("look up refusal: %w", err)
	}
	err = r.change(ctx, "forget refusal", func(tx *sql.Tx) error {
		res, err := tx.Exec("DELETE FROM refusal WHERE envelope = ?", envelope[:])
		if err != nil {
			return err
		}
		gone, err := res.RowsAffected()
		r.refusal.rows.Add(-gone)
		return err
	})
	return reply, err == nil && r.Now().Sub(time.Unix(at, 0)) < partFor, err
}
