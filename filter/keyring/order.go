package keyring

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"postern/filter/message"
	"postern/hsm"
)

// Order is a certificate that was ordered of an authority which proves an
// address by a mail to it (RFC 8823). Operators write orders down, so that
// filterd knows which of the mails that look like such a proof are awaited.
// Nothing in an order is secret: the half of the token in it proves nothing
// without the other one and the key of the account.
type Order struct {
	URL       string // at the authority
	Authority string // its name in the plan
	Address   message.Address
	Key       hsm.KeyID // that the certificate is for
	Challenge string    // its URL; "": the authority has not told it yet, or wants no proof
	Token     string    // the half that came over HTTPS
	Sender    string    // Address.Key of who the mail is to come from; "": not told yet
	Made      time.Time
	Expires   time.Time // zero: not told
	Answered  time.Time // zero: not yet
}

// Bounds of an order.
const (
	maxOrders   = 200_000 // in all
	maxOrderURL = 2048    // bytes
	maxToken    = 256     // bytes
)

const orderColumns = "url, authority, address, key, challenge, token, sender, made, expires, answered"

// PutOrder writes an order down, or changes it.
func (s *Store) PutOrder(ctx context.Context, o Order) error {
	if o.URL == "" || len(o.URL) > maxOrderURL || len(o.Challenge) > maxOrderURL || len(o.Token) > maxToken || o.Address.IsZero() || o.Authority == "" {
		return fmt.Errorf("keep order %.80q of %s: %w", o.URL, o.Address.Key(), ErrInvalid)
	}
	return s.change(ctx, "keep order", func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM certificate_order WHERE url <> ?", o.URL).Scan(&n); err != nil {
			return err
		}
		if n >= maxOrders {
			return fmt.Errorf("more than %d orders: %w", maxOrders, ErrInvalid)
		}
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO certificate_order ("+orderColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			o.URL, o.Authority, o.Address.Key(), o.Key[:], o.Challenge, o.Token, o.Sender, seconds(o.Made), seconds(o.Expires), seconds(o.Answered))
		return err
	})
}

// DropOrder forgets an order; that there is none is no error.
func (s *Store) DropOrder(ctx context.Context, url string) error {
	return s.change(ctx, "forget order", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM certificate_order WHERE url = ?", url)
		return err
	})
}

// DropOrdersBefore forgets the orders of an authority that have ended, and those
// without an end that were made before.
func (s *Store) DropOrdersBefore(ctx context.Context, authority string, ended, made time.Time) error {
	return s.change(ctx, "forget orders", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM certificate_order WHERE authority = ? AND iif(expires IS NULL, made < ?, expires < ?)", authority, made.Unix(), ended.Unix())
		return err
	})
}

// OrdersOf are the orders of an address, the oldest first.
func (s *Store) OrdersOf(ctx context.Context, a message.Address) ([]Order, error) {
	return s.orders(ctx, "address = ?", a.Key())
}

// OrderOf is what was ordered of an authority for a key.
func (s *Store) OrderOf(ctx context.Context, authority string, key hsm.KeyID) (o Order, ok bool, err error) {
	list, err := s.orders(ctx, "authority = ? AND key = ?", authority, key[:])
	if err != nil || len(list) == 0 {
		return o, false, err
	}
	return list[0], true, nil
}

func (s *Store) orders(ctx context.Context, where string, args ...any) (list []Order, err error) {
	db, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("look up orders: %w", err)
	}
	rows, err := db.QueryContext(ctx, "SELECT "+orderColumns+" FROM certificate_order WHERE "+where+" ORDER BY made, url", args...)
	if err != nil {
		return nil, fmt.Errorf("look up orders: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var o Order
		var address string
		var key []byte
		var made, expires, answered sql.NullInt64
		if err := rows.Scan(&o.URL, &o.Authority, &address, &key, &o.Challenge, &o.Token, &o.Sender, &made, &expires, &answered); err != nil {
			return nil, fmt.Errorf("look up orders: %w", err)
		}
		if o.Address, err = message.ParseAddress(address); err != nil {
			return nil, fmt.Errorf("look up orders: %w", err)
		}
		copy(o.Key[:], key)
		o.Made, o.Expires, o.Answered = moment(made), moment(expires), moment(answered)
		list = append(list, o)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up orders: %w", err)
	}
	return list, nil
}
