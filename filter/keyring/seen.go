package keyring

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/message"
)

// What is kept of that which arrived by itself. Whoever may write mail chooses
// what comes, so that every number has an end.
const (
	maxLearned    = 64 << 10       // bytes of one certificate
	maxOfAddress  = 8              // certificates of one address
	maxNamed      = 16             // addresses of one certificate
	maxSeen       = 20_000         // certificates in all
	maxOnTheWay   = 500            // intermediates
	learnedLately = 12 * time.Hour // what was seen since is not written again
)

// Learn keeps a certificate that arrived by itself, in a store of such: as
// Seen, with no domains, and as no anchor. Where an address has too many, or
// all have, those go that were not seen for the longest time.
//
// Never call it on the keyring of the operators: there a person is asked.
func (s *Store) Learn(ctx context.Context, c Cert) error {
	c.Trust, c.Domains = Seen, nil
	switch {
	case c.Role == Anchor:
		return fmt.Errorf("learn certificate %.64q: an anchor: %w", c.Fingerprint, ErrInvalid)
	case len(c.Raw) > maxLearned:
		return fmt.Errorf("learn certificate %.64q: %d bytes, more than %d: %w", c.Fingerprint, len(c.Raw), maxLearned, ErrInvalid)
	case len(c.Addresses) > maxNamed:
		return fmt.Errorf("learn certificate %.64q: %d addresses, more than %d: %w", c.Fingerprint, len(c.Addresses), maxNamed, ErrInvalid)
	}
	if c.LastSeen.IsZero() {
		c.LastSeen = time.Now()
	}
	return s.change(ctx, "learn certificate", func(tx *sql.Tx) error {
		if lately, err := merge(ctx, tx, &c); err != nil || lately {
			return err
		}
		if err := put(ctx, tx, c, true); err != nil {
			return err
		}
		return s.evict(ctx, tx, c)
	})
}

// merge adds to c the addresses that it was learned for before. lately: there
// is nothing to write, so that a mail costs no write to the disk.
func merge(ctx context.Context, tx *sql.Tx, c *Cert) (lately bool, err error) {
	var last int64
	var raw, capabilities []byte
	var shown bool // by the same source, before
	err = tx.QueryRowContext(ctx, `SELECT last_seen, raw, capabilities, EXISTS (SELECT 1 FROM cert_source s WHERE s.fingerprint = c.fingerprint AND s.source = ?2)
		FROM cert c WHERE fingerprint = ?1`, c.Fingerprint, c.Source).Scan(&last, &raw, &capabilities, &shown)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	rows, err := tx.QueryContext(ctx, "SELECT local, domain FROM cert_address WHERE fingerprint = ? ORDER BY position", c.Fingerprint)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	var known []message.Address
	for rows.Next() {
		var a message.Address
		if err := rows.Scan(&a.Local, &a.Domain); err != nil {
			return false, err
		}
		known = append(known, a)
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	all := slices.Clone(known)
	for _, a := range c.Addresses {
		if !names(all, a) {
			all = append(all, a)
		}
	}
	lately = shown && len(all) == len(known) && bytes.Equal(raw, c.Raw) && (len(c.Capabilities) == 0 || bytes.Equal(capabilities, c.Capabilities)) &&
		c.LastSeen.Sub(time.Unix(last, 0)) < learnedLately
	c.Addresses = all[max(0, len(all)-maxNamed):]
	return lately, nil
}

func names(list []message.Address, a message.Address) bool {
	return slices.ContainsFunc(list, func(b message.Address) bool { return a.Key() == b.Key() })
}

// planted: nobody but the header of a mail has ever shown it.
const planted = "NOT EXISTS (SELECT 1 FROM cert_source s WHERE s.fingerprint = cert.fingerprint AND s.source <> '" + ByAutocrypt + "')"

// evict makes the store small again. What was just learned goes last, but what
// headers have brought goes first of all: they are anybody's to write, and drive
// nothing out that came with a signature or from a directory.
func (s *Store) evict(ctx context.Context, tx *sql.Tx, c Cert) error {
	for _, a := range c.Addresses {
		if _, err := tx.ExecContext(ctx, `DELETE FROM cert WHERE fingerprint IN (
			SELECT fingerprint FROM cert_address JOIN cert USING (fingerprint) WHERE address = ?1
			ORDER BY `+planted+`, fingerprint = ?2 DESC, last_seen DESC, fingerprint LIMIT -1 OFFSET ?3)`, a.Key(), c.Fingerprint, maxOfAddress); err != nil {
			return err
		}
	}
	if c.Role == Intermediate {
		if _, err := tx.ExecContext(ctx, `DELETE FROM cert WHERE fingerprint IN (
			SELECT fingerprint FROM cert WHERE role <> '' ORDER BY fingerprint = ?1 DESC, last_seen DESC LIMIT -1 OFFSET ?2)`, c.Fingerprint, min(maxOnTheWay, s.room())); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM cert WHERE fingerprint IN (
		SELECT fingerprint FROM cert ORDER BY `+planted+`, fingerprint = ?1 DESC, last_seen DESC, fingerprint LIMIT -1 OFFSET ?2)`, c.Fingerprint, s.room())
	return err
}

// room is how many certificates are kept in all; tests set a smaller number.
func (s *Store) room() int {
	if s.most > 0 {
		return s.most
	}
	return maxSeen
}

// Joined answers from the keyring of the operators, and from the store of what
// arrived by itself. Of the second nothing is believed: whoever takes over the
// parser of mail can write there what he likes. Its certificates are Seen
// whatever the file says, serve no domain, are no anchors, and stand behind
// those of the first, of which they replace none.
type Joined struct {
	*Store // the operators'
	seen   *Store
}

var _ KeyRing = (*Joined)(nil)

// Join joins the two; seen may be nil. Both are the caller's to close.
func Join(trusted, seen *Store) *Joined { return &Joined{trusted, seen} }

// Certs are those of the operators, then what was seen of the very address. A
// certificate that stands in both is the operators', and gains what its owner
// lately said he reads.
func (j *Joined) Certs(ctx context.Context, a message.Address) ([]Cert, error) {
	list, err := j.Store.Certs(ctx, a)
	if err != nil || j.seen == nil {
		return list, err
	}
	learned, err := j.seen.Certs(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("seen certificates: %w", err)
	}
	for _, c := range learned {
		c, ok := Doubted(c)
		if !ok || !names(c.Addresses, a) {
			continue
		}
		i := slices.IndexFunc(list, func(known Cert) bool { return known.Fingerprint == c.Fingerprint })
		switch {
		case i < 0:
			list = append(list, c)
		case len(c.Capabilities) > 0:
			list[i].Capabilities = c.Capabilities
		}
	}
	return list, nil
}

// State names the state of both.
func (j *Joined) State(ctx context.Context) (string, error) {
	first, err := j.Store.State(ctx)
	if err != nil || j.seen == nil || first == "" {
		return first, err
	}
	second, err := j.seen.State(ctx)
	if err != nil {
		return "", fmt.Errorf("seen certificates: %w", err)
	}
	if second == "" {
		return "", nil
	}
	return first + " " + second, nil
}

// Authorities are the operators'; those that were seen are intermediates,
// which make a path and give it no trust.
func (j *Joined) Authorities(ctx context.Context) ([]Cert, error) {
	list, err := j.Store.Authorities(ctx)
	if err != nil || j.seen == nil {
		return list, err
	}
	learned, err := j.seen.Authorities(ctx)
	if err != nil {
		return nil, fmt.Errorf("seen certificates: %w", err)
	}
	for _, c := range learned {
		if c, ok := Doubted(c); ok && !slices.ContainsFunc(list, func(known Cert) bool { return known.Fingerprint == c.Fingerprint }) {
			list = append(list, c)
		}
	}
	return list, nil
}

// Doubted is what may be believed of a certificate that a store of what arrived
// by itself gave: nothing that only an operator may say. It is not ok where an
// X.509 certificate has not the name that its bytes give it, since one name
// can't stand for another's bytes.
func Doubted(c Cert) (_ Cert, ok bool) {
	c.Trust, c.Domains = Seen, nil
	if c.Role != Holder {
		c.Role = Intermediate
	}
	if c.Format != SMIME {
		return c, c.Format == OpenPGP && c.Role == Holder
	}
	sum := sha256.Sum256(c.Raw)
	return c, strings.ToUpper(hex.EncodeToString(sum[:])) == c.Fingerprint
}
