package record

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"postern/filter/message"
	"postern/filter/transport"
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
	rows map[Name]*transport.Reply // nil: delivered
}

// Find gives what became of a's copy in an earlier try: a refusal for good, or
// nil where he has it. Addresses count as the envelope wrote them: only the next
// hop knows which are one mailbox.
func (p Parts) Find(a message.Address) (refused *transport.Reply, known bool) {
	refused, known = p.rows[p.row(a)]
	return refused, known
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
	p := Parts{name: n, rows: map[Name]*transport.Reply{}}
	if !r.Parted() {
		return p, nil
	}
	rows, err := r.read.QueryContext(ctx, "SELECT recipient, refused FROM part WHERE mark = ? AND at > ?", n[:], r.Now().Add(-partFor).Unix())
	if err != nil {
		return p, away("look up who has his copy", err)
	}
	defer rows.Close()
	for rows.Next() {
		var recipient []byte
		var text sql.NullString
		var refused *transport.Reply
		err := rows.Scan(&recipient, &text)
		if err == nil && text.Valid {
			refused = new(transport.Reply)
			err = json.Unmarshal([]byte(text.String), refused)
		}
		if err != nil {
			return p, away("look up who has his copy", err)
		}
		p.rows[Name(recipient)] = refused
	}
	if err := rows.Err(); err != nil {
		return p, away("look up who has his copy", err)
	}
	return p, nil
}

// Ready makes sure that the file can be written, before the first copy of a mail
// goes that may part.
func (r *Record) Ready(ctx context.Context) error {
	if r == nil {
		return nil
	}
	at := r.Now().Unix()
	return r.change(ctx, "try the record", func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO probe VALUES (1, ?) ON CONFLICT DO UPDATE SET at = excluded.at", at)
		return err
	})
}

// Broken says that the last write failed.
func (r *Record) Broken() bool { return r != nil && r.broken.Load() }

// Share is what became of one recipient's copy: his for good where Refused is nil.
type Share struct {
	To      message.Address
	Refused *transport.Reply
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
			var refused sql.NullString
			if s.Refused != nil {
				text, err := json.Marshal(s.Refused)
				if err != nil {
					return err
				}
				refused = sql.NullString{String: string(text), Valid: true}
			}
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
	if full, err := r.part.full(tx); err != nil || !full {
		return err
	}
	return r.part.remove(tx, "mark IN (SELECT mark FROM part WHERE mark <> ? ORDER BY at LIMIT ?)", n[:], maxClean)
}

// Whole forgets what became of those recipients of the mail n: there is nothing
// that its sender would have to come back for.
func (r *Record) Whole(ctx context.Context, n Name, recipients []message.Address) error {
	if !r.Parted() {
		return nil
	}
	p := Parts{name: n}
	return r.change(ctx, "forget who has his copy", func(tx *sql.Tx) error {
		for _, a := range recipients {
			row := p.row(a)
			if err := r.part.remove(tx, "mark = ? AND recipient = ?", n[:], row[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Refuse remembers what a recipient is answered when the envelope comes again.
func (r *Record) Refuse(ctx context.Context, envelope Name, reply transport.Reply) error {
	if r == nil {
		return nil
	}
	now := r.Now()
	text, err := json.Marshal(reply)
	if err != nil {
		return away("remember refusal", err)
	}
	return r.change(ctx, "remember refusal", func(tx *sql.Tx) error {
		if err := r.refusal.makeRoom(tx, now); err != nil {
			return err
		}
		return r.refusal.insert(tx, "INSERT INTO refusal VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET reply = excluded.reply, at = excluded.at", envelope[:], string(text), now.Unix())
	})
}

// Refusal gives that reply once, and forgets it.
func (r *Record) Refusal(ctx context.Context, envelope Name) (reply transport.Reply, ok bool, err error) {
	if r == nil || r.refusal.rows.Load() <= 0 {
		return reply, false, nil
	}
	var text string
	var at int64
	err = r.read.QueryRowContext(ctx, "SELECT reply, at FROM refusal WHERE envelope = ?", envelope[:]).Scan(&text, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return reply, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &reply)
	}
	if err != nil {
		return reply, false, away("look up refusal", err)
	}
	err = r.change(ctx, "forget refusal", func(tx *sql.Tx) error {
		return r.refusal.remove(tx, "envelope = ?", envelope[:])
	})
	return reply, err == nil && r.Now().Sub(time.Unix(at, 0)) < partFor, err
}
