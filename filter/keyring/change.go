package keyring

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// CanonicalFingerprint takes what people copy (spaces, colons, 0x, lower
// case) and gives the form of Cert.Fingerprint, whole or in part.
func CanonicalFingerprint(s string) string {
	s = strings.ToUpper(strings.NewReplacer(" ", "", ":", "").Replace(s))
	return strings.TrimPrefix(s, "0X")
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789ABCDEF") == ""
}

func (c *Cert) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("certificate %.64q: %s: %w", c.Fingerprint, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case !isHex(c.Fingerprint) || len(c.Fingerprint) != 40 && len(c.Fingerprint) != 64:
		return bad("fingerprint is not 40 or 64 hexadecimal digits")
	case c.Format != OpenPGP && c.Format != SMIME:
		return bad("format %q", c.Format)
	case c.Trust != Seen && c.Trust != Trusted && c.Trust != Distrusted:
		return bad("trust %q", c.Trust)
	case len(c.Raw) == 0 || len(c.Raw) > maxRaw:
		return bad("%d bytes, not 1 to %d", len(c.Raw), maxRaw)
	case len(c.Addresses) > maxAddresses:
		return bad("%d addresses, more than %d", len(c.Addresses), maxAddresses)
	case len(c.Domains) > maxDomains:
		return bad("%d domains, more than %d", len(c.Domains), maxDomains)
	case len(c.KeyIDs) > maxKeys:
		return bad("%d keys, more than %d", len(c.KeyIDs), maxKeys)
	case c.Role != Holder && c.Role != Anchor && c.Role != Intermediate:
		return bad("role %q", c.Role)
	case len(c.Capabilities) > maxCaps:
		return bad("%d bytes of capabilities, more than %d", len(c.Capabilities), maxCaps)
	}
	return nil
}

// Import keeps c. Of a fingerprint that is known already it never changes
// what was said of it (trust, domains, first source): SetTrust and SetDomains
// do that. Its bytes replace the known ones only on an operator's word (c is
// Trusted), or when nobody has vouched for the known ones either: a
// certificate that arrives by mail must not undo a revocation. The same holds
// for its role, and for what its owner reads.
func (s *Store) Import(ctx context.Context, c Cert) error {
	return s.change(ctx, "import certificate", func(tx *sql.Tx) error { return put(ctx, tx, c, true) })
}

func put(ctx context.Context, tx *sql.Tx, c Cert, partner bool) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.LastSeen.IsZero() {
		c.LastSeen = time.Now()
	}
	if c.FirstSeen.IsZero() {
		c.FirstSeen = c.LastSeen
	}
	var trust string
	var known, bound bool
	err := tx.QueryRowContext(ctx, `SELECT trust, partner, EXISTS (SELECT 1 FROM identity i WHERE i.fingerprint = c.fingerprint)
		FROM cert c WHERE fingerprint = ?`, c.Fingerprint).Scan(&trust, &known, &bound)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, `INSERT INTO cert (fingerprint, format, raw, created, expires, trust, source, first_seen, last_seen, partner, capabilities, role)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			c.Fingerprint, string(c.Format), c.Raw, seconds(c.Created), seconds(c.Expires), string(c.Trust), c.Source,
			c.FirstSeen.Unix(), c.LastSeen.Unix(), partner, blob(c.Capabilities), string(c.Role))
		if err != nil {
			return err
		}
		if err := errors.Join(details(ctx, tx, c), sighted(ctx, tx, c)); err != nil {
			return err
		}
		return domains(ctx, tx, c.Fingerprint, c.Domains)
	case err != nil:
		return err
	}
	if partner && !known { // an identity of ours becomes somebody's certificate too: as new
		_, err = tx.ExecContext(ctx, "UPDATE cert SET partner = 1, trust = ?, source = ?, role = ? WHERE fingerprint = ?", string(c.Trust), c.Source, string(c.Role), c.Fingerprint)
		if err != nil {
			return err
		}
		if err := domains(ctx, tx, c.Fingerprint, c.Domains); err != nil {
			return err
		}
	}
	if c.Trust == Trusted || Trust(trust) == Seen && !bound {
		if _, err := tx.ExecContext(ctx, "UPDATE cert SET raw = ?, created = ?, expires = ? WHERE fingerprint = ?",
			c.Raw, seconds(c.Created), seconds(c.Expires), c.Fingerprint); err != nil {
			return err
		}
		if err := details(ctx, tx, c); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE cert SET role = iif(?1, ?2, role), capabilities = coalesce(?3, capabilities) WHERE fingerprint = ?4",
			partner, string(c.Role), blob(c.Capabilities), c.Fingerprint); err != nil {
			return err
		}
	}
	if err := sighted(ctx, tx, c); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE cert SET last_seen = max(last_seen, ?) WHERE fingerprint = ?", c.LastSeen.Unix(), c.Fingerprint)
	return err
}

// sighted notes when a source showed the certificate.
func sighted(ctx context.Context, tx *sql.Tx, c Cert) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO cert_source (fingerprint, source, first_seen, last_seen)
		SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM cert_source WHERE fingerprint = ?1 AND source <> ?2) < ?5
		ON CONFLICT DO UPDATE SET last_seen = max(last_seen, ?4)`, c.Fingerprint, c.Source, c.FirstSeen.Unix(), c.LastSeen.Unix(), maxSources)
	return err
}

// details writes what was read from the certificate's own bytes.
func details(ctx context.Context, tx *sql.Tx, c Cert) error {
	for _, table := range []string{"cert_address", "cert_key"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE fingerprint = ?", c.Fingerprint); err != nil {
			return err
		}
	}
	for i, a := range c.Addresses {
		if a.IsZero() {
			return fmt.Errorf("certificate %s: empty address: %w", c.Fingerprint, ErrInvalid)
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO cert_address (fingerprint, position, address, local, domain) VALUES (?, ?, ?, ?, ?)",
			c.Fingerprint, i, a.Key(), a.Local, a.Domain); err != nil {
			return err
		}
	}
	for i, id := range c.KeyIDs {
		if _, err := tx.ExecContext(ctx, "INSERT INTO cert_key (fingerprint, position, key_id) VALUES (?, ?, ?)", c.Fingerprint, i, id[:]); err != nil {
			return err
		}
	}
	return nil
}

func domains(ctx context.Context, tx *sql.Tx, fingerprint string, list []string) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM cert_domain WHERE fingerprint = ?", fingerprint); err != nil {
		return err
	}
	for _, d := range list {
		if d == "" {
			return fmt.Errorf("certificate %s: empty domain: %w", fingerprint, ErrInvalid)
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO cert_domain (fingerprint, domain) VALUES (?, ?)", fingerprint, strings.ToLower(d)); err != nil {
			return err
		}
	}
	return nil
}

// change runs f in one transaction.
func (s *Store) change(ctx context.Context, what string, f func(*sql.Tx) error) error {
	if s.readOnly {
		return fmt.Errorf("%s: keyring is open for reading only", what)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// one says whether exactly the thing that was named was changed.
func one(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// SetTrust says t of the partner's certificate with exactly this fingerprint.
func (s *Store) SetTrust(ctx context.Context, fingerprint string, t Trust) error {
	return s.change(ctx, "set trust", func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, "UPDATE cert SET trust = ? WHERE fingerprint = ? AND partner = 1", string(t), fingerprint))
	})
}

// SetDomains says that the partner's certificate serves every address of the
// domains, and of no others.
func (s *Store) SetDomains(ctx context.Context, fingerprint string, list []string) error {
	if len(list) > maxDomains {
		return fmt.Errorf("set domains: %d domains, more than %d: %w", len(list), maxDomains, ErrInvalid)
	}
	return s.change(ctx, "set domains", func(tx *sql.Tx) error {
		if err := one(tx.ExecContext(ctx, "UPDATE cert SET partner = 1 WHERE fingerprint = ? AND partner = 1", fingerprint)); err != nil {
			return err
		}
		return domains(ctx, tx, fingerprint, list)
	})
}

// Remove forgets the partner's certificate. What an identity needs of it stays.
func (s *Store) Remove(ctx context.Context, fingerprint string) error {
	return s.change(ctx, "remove certificate", func(tx *sql.Tx) error {
		if err := one(tx.ExecContext(ctx, "UPDATE cert SET partner = 0 WHERE fingerprint = ? AND partner = 1", fingerprint)); err != nil {
			return err
		}
		if err := domains(ctx, tx, fingerprint, nil); err != nil {
			return err
		}
		return sweep(ctx, tx, fingerprint)
	})
}

// sweep drops a certificate that neither a partner nor an identity needs.
func sweep(ctx context.Context, tx *sql.Tx, fingerprint string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM cert WHERE fingerprint = ?1 AND partner = 0
		AND NOT EXISTS (SELECT 1 FROM identity WHERE fingerprint = ?1)`, fingerprint)
	return err
}

// Bind makes the certificate one of our own, for exactly one of i.Address and
// i.Domain. Whether the token holds its keys is the caller's to know.
func (s *Store) Bind(ctx context.Context, i Identity) error {
	if i.Address.IsZero() == (i.Domain == "") {
		return fmt.Errorf("bind identity: want either an address or a domain: %w", ErrInvalid)
	}
	if i.Trust == "" {
		i.Trust = Trusted
	}
	var key, use string
	if !i.Address.IsZero() {
		key = i.Address.Key()
	}
	if i.Use != 0 {
		use = i.Use.String()
	}
	return s.change(ctx, "bind identity", func(tx *sql.Tx) error {
		if err := put(ctx, tx, i.Cert, false); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO identity (fingerprint, address, local, domain, owner_domain, use) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET use = excluded.use`,
			i.Fingerprint, key, i.Address.Local, i.Address.Domain, strings.ToLower(i.Domain), use)
		return err
	})
}

// Unbind ends one identity; its certificate goes with it unless something else needs it.
func (s *Store) Unbind(ctx context.Context, i Identity) error {
	var key string
	if !i.Address.IsZero() {
		key = i.Address.Key()
	}
	return s.change(ctx, "unbind identity", func(tx *sql.Tx) error {
		if err := one(tx.ExecContext(ctx, "DELETE FROM identity WHERE fingerprint = ? AND address = ? AND owner_domain = ?",
			i.Fingerprint, key, strings.ToLower(i.Domain))); err != nil {
			return err
		}
		return sweep(ctx, tx, i.Fingerprint)
	})
}
