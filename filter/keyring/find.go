package keyring

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/filter/message"
	"postern/hsm"
)

// certColumns are read by scan; the lists come as JSON, so that one look-up is
// one query and one snapshot.
const certColumns = `c.fingerprint, c.format, c.raw, c.created, c.expires, c.trust, c.source, c.first_seen, c.last_seen, c.capabilities, c.role,
	(SELECT json_group_array(json_array(local, domain)) FROM (SELECT local, domain FROM cert_address a WHERE a.fingerprint = c.fingerprint ORDER BY position)),
	(SELECT json_group_array(domain) FROM (SELECT domain FROM cert_domain d WHERE d.fingerprint = c.fingerprint ORDER BY domain)),
	(SELECT json_group_array(hex(key_id)) FROM (SELECT key_id FROM cert_key k WHERE k.fingerprint = c.fingerprint ORDER BY position)),
	(SELECT json_group_array(json_array(source, first_seen, last_seen)) FROM (SELECT source, first_seen, last_seen FROM cert_source s WHERE s.fingerprint = c.fingerprint ORDER BY first_seen, source))`

func scan(rows *sql.Rows, more ...any) (Cert, error) {
	var c Cert
	var created, expires, first, last sql.NullInt64
	var format, trust, role, addresses, domains, keys, sources string
	dest := append([]any{&c.Fingerprint, &format, &c.Raw, &created, &expires, &trust, &c.Source, &first, &last, &c.Capabilities, &role, &addresses, &domains, &keys, &sources}, more...)
	if err := rows.Scan(dest...); err != nil {
		return c, err
	}
	c.Format, c.Trust, c.Role = Format(format), Trust(trust), Role(role)
	c.Created, c.Expires, c.FirstSeen, c.LastSeen = moment(created), moment(expires), moment(first), moment(last)
	var pairs [][2]string
	var ids []string
	var seen []sighting
	if err := errors.Join(json.Unmarshal([]byte(addresses), &pairs), json.Unmarshal([]byte(domains), &c.Domains), json.Unmarshal([]byte(keys), &ids), json.Unmarshal([]byte(sources), &seen)); err != nil {
		return c, fmt.Errorf("certificate %s: %w", c.Fingerprint, err)
	}
	for _, p := range pairs {
		c.Addresses = append(c.Addresses, message.Address{Local: p[0], Domain: p[1]})
	}
	for _, s := range ids {
		var id hsm.KeyID
		if _, err := hex.Decode(id[:], []byte(s)); err != nil {
			return c, fmt.Errorf("certificate %s: %w", c.Fingerprint, err)
		}
		c.KeyIDs = append(c.KeyIDs, id)
	}
	for _, s := range seen {
		c.Sources = append(c.Sources, Sighting(s))
	}
	if len(c.Domains) == 0 {
		c.Domains = nil
	}
	return c, nil
}

// sighting reads [source, first, last].
type sighting Sighting

func (s *sighting) UnmarshalJSON(b []byte) error {
	var first, last int64
	err := json.Unmarshal(b, &[]any{&s.Source, &first, &last})
	s.First, s.Last = time.Unix(first, 0).UTC(), time.Unix(last, 0).UTC()
	return err
}

// seconds is NULL for the zero time.
func seconds(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.Unix(), Valid: !t.IsZero()}
}

// blob is NULL for no bytes.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

func moment(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.Unix(n.Int64, 0).UTC()
}

func (s *Store) certs(ctx context.Context, rest string, args ...any) ([]Cert, error) {
	db, err := s.open()
	if err != nil {
		return nil, err
	}
	from := "cert c "
	if s.foreign { // whoever writes it may write what would not fit into memory
		from = fmt.Sprintf("(SELECT * FROM cert WHERE length(raw) <= %d AND coalesce(length(capabilities), 0) <= %d) c ", maxLearned, maxCaps)
	}
	rows, err := db.QueryContext(ctx, "SELECT "+certColumns+" FROM "+from+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	defer rows.Close()
	var list []Cert
	bytes := 0
	for rows.Next() {
		c, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		if bytes += len(c.Raw); bytes > maxAnswer {
			return nil, fmt.Errorf("read keyring: more than %d bytes of certificates: %w", maxAnswer, ErrInvalid)
		}
		list = append(list, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	return list, nil
}

func (s *Store) identities(ctx context.Context, rest string, args ...any) ([]Identity, error) {
	db, err := s.open()
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, "SELECT "+certColumns+", i.local, i.domain, i.owner_domain, i.use FROM identity i JOIN cert c USING (fingerprint) "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	defer rows.Close()
	var list []Identity
	for rows.Next() {
		var i Identity
		var use string
		if i.Cert, err = scan(rows, &i.Address.Local, &i.Address.Domain, &i.Domain, &use); err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		for _, u := range []hsm.Usage{hsm.Sign, hsm.Unwrap} {
			if u.String() == use {
				i.Use = u
			}
		}
		list = append(list, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	return list, nil
}

// Identities are ours for a: its own, then its domain's; in each group newest first.
func (s *Store) Identities(ctx context.Context, a message.Address) ([]Identity, error) {
	found, err := s.answer(ctx, about(ours, a), func() (found answer, err error) {
		found.identities, err = s.identities(ctx, `WHERE i.address = ?1 AND i.owner_domain = '' OR i.owner_domain = ?2 AND i.address = ''
			ORDER BY i.address = '', c.created DESC, c.fingerprint`, a.Key(), strings.ToLower(a.Domain))
		return found, err
	})
	return found.identities, err
}

// Certs are the partners' certificates for a, whatever their trust: those
// that name it, then those that an operator said serve its domain; in each
// group newest first. The domain's come even when there are some of its own,
// since an own one may be worthless: planted by a mail, distrusted, expired.
func (s *Store) Certs(ctx context.Context, a message.Address) ([]Cert, error) {
	found, err := s.answer(ctx, about(partners, a), func() (found answer, err error) {
		found.certs, err = s.certs(ctx, `WHERE c.partner = 1 AND c.role = '' AND c.fingerprint IN (
				SELECT fingerprint FROM cert_address WHERE address = ?1 UNION SELECT fingerprint FROM cert_domain WHERE domain = ?2)
			ORDER BY c.fingerprint NOT IN (SELECT fingerprint FROM cert_address WHERE address = ?1), c.created DESC, c.fingerprint`,
			a.Key(), strings.ToLower(a.Domain))
		return found, err
	})
	return found.certs, err
}

// answer asks the cache of a read-only store first. A store that writes sees no
// change of its own there, and has none.
func (s *Store) answer(ctx context.Context, q question, load func() (answer, error)) (answer, error) {
	if !s.readOnly {
		return load()
	}
	db, err := s.open()
	if err != nil {
		return answer{}, err
	}
	return s.cache.answer(ctx, db, q, load)
}

// Filter narrows List; zero fields let everything pass.
type Filter struct {
	Format      Format
	Trust       Trust
	Domain      string // certificates that name an address there, or serve it
	Authorities bool   // anchors and intermediates, in the place of their holders
}

// What is listed at most.
const (
	maxList   = 100_000   // certificates
	maxAnswer = 256 << 20 // bytes of them
)

// List gives the partners' certificates, or the authorities, in order of fingerprint.
func (s *Store) List(ctx context.Context, f Filter) ([]Cert, error) {
	return s.certs(ctx, `WHERE c.partner = 1 AND (c.role <> '') = ?4 AND (?1 = '' OR c.format = ?1) AND (?2 = '' OR c.trust = ?2) AND (?3 = '' OR c.fingerprint IN (
		SELECT fingerprint FROM cert_address WHERE domain = ?3 UNION SELECT fingerprint FROM cert_domain WHERE domain = ?3))
		ORDER BY c.fingerprint LIMIT ?5`, string(f.Format), string(f.Trust), strings.ToLower(f.Domain), f.Authorities, maxList)
}

// Ours are our identities with exactly this certificate.
func (s *Store) Ours(ctx context.Context, fingerprint string) ([]Identity, error) {
	found, err := s.answer(ctx, question{kind: named, key: fingerprint}, func() (found answer, err error) {
		found.identities, err = s.identities(ctx, "WHERE c.fingerprint = ? ORDER BY i.address, i.owner_domain", fingerprint)
		return found, err
	})
	return found.identities, err
}

// State names what look-ups answer from: where two names are equal and not
// empty, so are the answers that were given in between. A store that writes has no name.
func (s *Store) State(ctx context.Context) (string, error) {
	if !s.readOnly {
		return "", nil
	}
	db, err := s.open()
	if err != nil {
		return "", err
	}
	epoch, _, _, err := s.cache.look(ctx, db, question{kind: authorities})
	return fmt.Sprint(epoch), err
}

// Authorities are the anchors and intermediates, whatever their trust.
func (s *Store) Authorities(ctx context.Context) ([]Cert, error) {
	found, err := s.answer(ctx, question{kind: authorities}, func() (found answer, err error) {
		found.certs, err = s.List(ctx, Filter{Authorities: true})
		return found, err
	})
	return found.certs, err
}

// Get finds the one partner's certificate whose fingerprint begins with
// prefix, at least 8 hexadecimal digits. Errors: ErrNotFound, ErrAmbiguous, ErrInvalid.
func (s *Store) Get(ctx context.Context, prefix string) (Cert, error) {
	p := CanonicalFingerprint(prefix)
	if !isHex(p) || len(p) < minPrefix {
		return Cert{}, fmt.Errorf("fingerprint %.80q: want at least %d hexadecimal digits: %w", prefix, minPrefix, ErrInvalid)
	}
	list, err := s.certs(ctx, "WHERE c.partner = 1 AND c.fingerprint >= ?1 AND c.fingerprint < ?1 || 'G' ORDER BY c.fingerprint LIMIT 2", p)
	switch {
	case err != nil:
		return Cert{}, err
	case len(list) == 0:
		return Cert{}, fmt.Errorf("certificate %.64s: %w", p, ErrNotFound)
	case len(list) > 1:
		return Cert{}, fmt.Errorf("certificate %.64s: %w", p, ErrAmbiguous)
	}
	return list[0], nil
}

// AllIdentities are all of ours: users' by address, then domains' by name.
func (s *Store) AllIdentities(ctx context.Context) ([]Identity, error) {
	return s.identities(ctx, "ORDER BY i.address = '', i.address, i.owner_domain, c.created DESC, c.fingerprint")
}
