package keyring

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"

	"postern/filter/message"
	"postern/hsm"
)

var (
	// ErrNoStore says that there is no keyring file yet. A look-up that
	// meets it must defer the mail: no certificate known is not the same
	// as nothing known of certificates.
	ErrNoStore = errors.New("no keyring yet")
	// ErrAmbiguous says that a fingerprint prefix fits several certificates.
	ErrAmbiguous = errors.New("several certificates begin so")
	// ErrVersion says that a newer or older program made the file.
	ErrVersion = errors.New("keyring of another version")
	// ErrInvalid says that a certificate or identity is not fit to be kept.
	ErrInvalid = errors.New("invalid entry")
)

const (
	maxRaw       = 1 << 20 // bytes of one certificate
	maxAddresses = 1000    // of one certificate
	maxDomains   = 1000    // of one certificate
	maxKeys      = 256     // of one certificate
	minPrefix    = 8       // hexadecimal digits that name a certificate
	version      = 1       // user_version of schema.sql
)

//go:embed schema.sql
var schema string

// Store is a KeyRing in one SQLite file of public material. Any number of
// processes may hold it open; a reader sees what was committed before its
// look-up began, and is never held up by a writer (write-ahead log).
//
// The log and its index (FILE-wal, FILE-shm) are kept when the last writer
// closes: a reader that may not write in the folder could not make them again.
type Store struct {
	path     string
	readOnly bool

	mu sync.Mutex
	db *sql.DB // nil until a read-only store finds its file
}

var _ KeyRing = (*Store)(nil)

// Open opens the keyring in the file path for reading and writing, and makes
// it (mode 0640) when there is none.
func Open(path string) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("make keyring: %w", err)
		}
	}
	db, err := dial(path, false)
	if err != nil {
		return nil, fmt.Errorf("open keyring %s: %w", path, err)
	}
	return &Store{path: path, db: db}, nil
}

// create makes the file aside and moves it in place when it is whole, so that
// of two programs that begin together neither meets a half-made keyring.
func create(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".keyring-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	aside := filepath.Join(dir, "keyring.db")
	db, err := dial(aside, false)
	if err != nil {
		return err
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil { // the log stays behind
		return errors.Join(err, db.Close())
	}
	if err := errors.Join(db.Close(), os.Chmod(aside, 0o640)); err != nil {
		return err
	}
	if err := os.Link(aside, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// OpenReadOnly opens the keyring for look-ups only. The file may be missing
// still: then every look-up answers ErrNoStore until somebody has made it.
func OpenReadOnly(path string) (*Store, error) {
	s := &Store{path: path, readOnly: true}
	if _, err := s.open(); err != nil && !errors.Is(err, ErrNoStore) {
		return nil, err
	}
	return s, nil
}

// Close frees the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

func (s *Store) open() (*sql.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return s.db, nil
	}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open keyring %s: %w", s.path, ErrNoStore)
	} else if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	db, err := dial(s.path, true)
	if err != nil {
		return nil, fmt.Errorf("open keyring %s: %w", s.path, err)
	}
	s.db = db
	return db, nil
}

func dial(path string, readOnly bool) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	q := url.Values{"_pragma": {"busy_timeout(5000)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
	if readOnly {
		q.Set("mode", "ro")
		q.Set("_txlock", "deferred")
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: abs, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	if readOnly {
		err = checkVersion(db)
	} else {
		db.SetMaxOpenConns(1)
		err = prepare(db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkVersion(db *sql.DB) error {
	var v int
	if err := db.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	switch {
	case v == 0: // made, not filled yet
		return ErrNoStore
	case v != version:
		return fmt.Errorf("version %d, not %d: %w", v, version, ErrVersion)
	}
	return nil
}

// prepare switches the file to the write-ahead log and brings it to the
// current version.
func prepare(db *sql.DB) error {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, p := range []string{"PRAGMA journal_mode = WAL", "PRAGMA journal_size_limit = 0", "PRAGMA synchronous = FULL"} {
		if _, err := conn.ExecContext(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(p), err)
		}
	}
	err = conn.Raw(func(c any) error {
		fc, ok := c.(sqlite.FileControl)
		if !ok {
			return errors.New("driver has no file control")
		}
		_, err := fc.FileControlPersistWAL("main", 1)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep write-ahead log: %w", err)
	}
	tx, err := conn.BeginTx(ctx, nil) // immediate: two programs that start together migrate once
	if err != nil {
		return fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback()
	var v int
	if err := tx.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	if v == version {
		return nil
	}
	if v != 0 {
		return fmt.Errorf("version %d, not %d: %w", v, version, ErrVersion)
	}
	if _, err := tx.Exec(schema); err != nil {
		return fmt.Errorf("make tables: %w", err)
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return tx.Commit()
}

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
	}
	return nil
}

// Import keeps c. Of a fingerprint that is known already it never changes
// what was said of it (trust, domains, first source): SetTrust and SetDomains
// do that. Its bytes replace the known ones only on an operator's word (c is
// Trusted), or when nobody has vouched for the known ones either: a
// certificate that arrives by mail must not undo a revocation.
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
		_, err = tx.ExecContext(ctx, `INSERT INTO cert (fingerprint, format, raw, created, expires, trust, source, first_seen, last_seen, partner)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			c.Fingerprint, string(c.Format), c.Raw, seconds(c.Created), seconds(c.Expires), string(c.Trust), c.Source,
			c.FirstSeen.Unix(), c.LastSeen.Unix(), partner)
		if err != nil {
			return err
		}
		if err := details(ctx, tx, c); err != nil {
			return err
		}
		return domains(ctx, tx, c.Fingerprint, c.Domains)
	case err != nil:
		return err
	}
	if partner && !known { // an identity of ours becomes somebody's certificate too: as new
		_, err = tx.ExecContext(ctx, "UPDATE cert SET partner = 1, trust = ?, source = ? WHERE fingerprint = ?", string(c.Trust), c.Source, c.Fingerprint)
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
	}
	_, err = tx.ExecContext(ctx, "UPDATE cert SET last_seen = max(last_seen, ?) WHERE fingerprint = ?", c.LastSeen.Unix(), c.Fingerprint)
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
	var key string
	if !i.Address.IsZero() {
		key = i.Address.Key()
	}
	return s.change(ctx, "bind identity", func(tx *sql.Tx) error {
		if err := put(ctx, tx, i.Cert, false); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO identity (fingerprint, address, local, domain, owner_domain) VALUES (?, ?, ?, ?, ?)",
			i.Fingerprint, key, i.Address.Local, i.Address.Domain, strings.ToLower(i.Domain))
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

// certColumns are read by scan; the lists come as JSON, so that one look-up is
// one query and one snapshot.
const certColumns = `c.fingerprint, c.format, c.raw, c.created, c.expires, c.trust, c.source, c.first_seen, c.last_seen,
	(SELECT json_group_array(json_array(local, domain)) FROM (SELECT local, domain FROM cert_address a WHERE a.fingerprint = c.fingerprint ORDER BY position)),
	(SELECT json_group_array(domain) FROM (SELECT domain FROM cert_domain d WHERE d.fingerprint = c.fingerprint ORDER BY domain)),
	(SELECT json_group_array(hex(key_id)) FROM (SELECT key_id FROM cert_key k WHERE k.fingerprint = c.fingerprint ORDER BY position))`

func scan(rows *sql.Rows, more ...any) (Cert, error) {
	var c Cert
	var created, expires, first, last sql.NullInt64
	var format, trust, addresses, domains, keys string
	dest := append([]any{&c.Fingerprint, &format, &c.Raw, &created, &expires, &trust, &c.Source, &first, &last, &addresses, &domains, &keys}, more...)
	if err := rows.Scan(dest...); err != nil {
		return c, err
	}
	c.Format, c.Trust = Format(format), Trust(trust)
	c.Created, c.Expires, c.FirstSeen, c.LastSeen = moment(created), moment(expires), moment(first), moment(last)
	var pairs [][2]string
	var ids []string
	if err := errors.Join(json.Unmarshal([]byte(addresses), &pairs), json.Unmarshal([]byte(domains), &c.Domains), json.Unmarshal([]byte(keys), &ids)); err != nil {
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
	if len(c.Domains) == 0 {
		c.Domains = nil
	}
	return c, nil
}

// seconds is NULL for the zero time.
func seconds(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.Unix(), Valid: !t.IsZero()}
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
	rows, err := db.QueryContext(ctx, "SELECT "+certColumns+" FROM cert c "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	defer rows.Close()
	var list []Cert
	for rows.Next() {
		c, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
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
	rows, err := db.QueryContext(ctx, "SELECT "+certColumns+", i.local, i.domain, i.owner_domain FROM identity i JOIN cert c USING (fingerprint) "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	defer rows.Close()
	var list []Identity
	for rows.Next() {
		var i Identity
		if i.Cert, err = scan(rows, &i.Address.Local, &i.Address.Domain, &i.Domain); err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
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
	return s.identities(ctx, `WHERE i.address = ?1 AND i.owner_domain = '' OR i.owner_domain = ?2 AND i.address = ''
		ORDER BY i.address = '', c.created DESC, c.fingerprint`, a.Key(), strings.ToLower(a.Domain))
}

// Certs are the partners' certificates for a, whatever their trust: those
// that name it, then those that an operator said serve its domain; in each
// group newest first. The domain's come even when there are some of its own,
// since an own one may be worthless: planted by a mail, distrusted, expired.
func (s *Store) Certs(ctx context.Context, a message.Address) ([]Cert, error) {
	return s.certs(ctx, `WHERE c.partner = 1 AND c.fingerprint IN (
			SELECT fingerprint FROM cert_address WHERE address = ?1 UNION SELECT fingerprint FROM cert_domain WHERE domain = ?2)
		ORDER BY c.fingerprint NOT IN (SELECT fingerprint FROM cert_address WHERE address = ?1), c.created DESC, c.fingerprint`,
		a.Key(), strings.ToLower(a.Domain))
}

// Filter narrows List; zero fields let everything pass.
type Filter struct {
	Format Format
	Trust  Trust
	Domain string // certificates that name an address there, or serve it
}

// List gives the partners' certificates in order of fingerprint.
func (s *Store) List(ctx context.Context, f Filter) ([]Cert, error) {
	return s.certs(ctx, `WHERE c.partner = 1 AND (?1 = '' OR c.format = ?1) AND (?2 = '' OR c.trust = ?2) AND (?3 = '' OR c.fingerprint IN (
		SELECT fingerprint FROM cert_address WHERE domain = ?3 UNION SELECT fingerprint FROM cert_domain WHERE domain = ?3))
		ORDER BY c.fingerprint`, string(f.Format), string(f.Trust), strings.ToLower(f.Domain))
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
