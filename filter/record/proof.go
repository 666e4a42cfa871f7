package record

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"time"
)

// How much is remembered of mails that prove addresses to authorities.
const (
	proofFor      = 30 * 24 * time.Hour
	maxProofs     = 200_000
	maxProofsEach = 8  // of one order from one sender; further ones are not taken
	maxProofsAll  = 64 // of one order
)

// Proof is what an authority wrote in a mail that proves an address to it
// (RFC 8823 §3.1), and that was awaited and signed as it must be.
type Proof struct {
	Token     string    `json:"token"`              // its first half
	Sender    string    `json:"sender"`             // message.Address.Key
	ReplyTo   string    `json:"reply_to,omitempty"` // "": the sender
	MessageID string    `json:"message_id"`
	At        time.Time `json:"at"`
}

// Prove remembers a proof for an order; not ok: that mail has been one already,
// or the order has too many.
func (r *Record) Prove(ctx context.Context, order string, p Proof) (ok bool, err error) {
	if r == nil {
		return false, nil
	}
	facts, err := json.Marshal(p)
	if err != nil {
		return false, away("remember proof", err)
	}
	message, name, now := nameOf(p.MessageID), sha256.Sum256([]byte(order)), r.Now()
	err = r.change(ctx, "remember proof", func(tx *sql.Tx) error {
		ok = false
		var known, from, others int
		if err := tx.QueryRow("SELECT count(*) FILTER (WHERE message = ?1), count(*) FILTER (WHERE facts ->> 'sender' = ?3), count(*) FROM proof WHERE message = ?1 OR order_name = ?2",
			message, name[:], p.Sender).Scan(&known, &from, &others); err != nil {
			return err
		}
		if known > 0 || from >= maxProofsEach || others >= maxProofsAll {
			return nil
		}
		if err := r.proof.makeRoom(tx, now); err != nil {
			return err
		}
		ok = true
		return r.proof.insert(tx, "INSERT INTO proof VALUES (?, ?, ?, ?)", message, name[:], string(facts), now.Unix())
	})
	return ok && err == nil, err
}

// Proved is the latest proof for an order from a sender.
func (r *Record) Proved(ctx context.Context, order, sender string) (p Proof, ok bool, err error) {
	if r == nil {
		return p, false, nil
	}
	name := sha256.Sum256([]byte(order))
	var facts string
	err = r.read.QueryRowContext(ctx, "SELECT facts FROM proof WHERE order_name = ? AND facts ->> 'sender' = ? ORDER BY at DESC, message LIMIT 1", name[:], sender).Scan(&facts)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return p, false, nil
	case err == nil:
		err = json.Unmarshal([]byte(facts), &p)
	}
	if err != nil {
		return p, false, away("look up proof", err)
	}
	return p, true, nil
}
