package provisioning

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/filter/credential"
	"postern/filter/keyring"
	"postern/filter/smime"
	"postern/hsm"
	"postern/hsm/client"
	"postern/provisioning/est"
)

// errWaiting is a certificate that the authority has not made yet.
var errWaiting = errors.New("the authority has not answered yet")

// plea is what an authority is asked for.
type plea struct {
	wanted
	key hsm.Key
	der []byte            // PKCS#10; nil where the key cannot sign one
	old *keyring.Identity // whose successor it is, nil where there is none
}

// file is its name in a folder: the same for the same key.
func (p plea) file() string {
	ending := "csr"
	if p.der == nil {
		ending = "pub"
	}
	return strings.Map(fileLetter, fmt.Sprintf("%s-%s-%s-%s.%s", p.owner, p.use, p.part, short(p.key.ID.String())[:8], ending))
}

// desk is an authority of the plan, as it is asked.
type desk interface {
	// certify gives the certificate of the key, and those above it as far as
	// they came along. errWaiting: not yet.
	certify(ctx context.Context, p plea) ([]keyring.Cert, error)
	// has reports whether a certificate is there without anybody being asked.
	has(k hsm.Key) bool
	// done is told when the certificate is in its place.
	done(p plea) error
	close()
}

// desks opens those that the list needs.
func (e *enrolment) desks(ctx context.Context, p Plan, list []wanted) (map[string]desk, error) {
	open := map[string]desk{}
	for _, name := range askedOf(list) {
		a, ok := p.Authorities[name]
		if !ok {
			return open, no("add it to the plan", "no authority %.40q", name)
		}
		d, err := e.openDesk(ctx, name, a)
		if err != nil {
			return open, fmt.Errorf("authority %s: %w", name, err)
		}
		open[name] = d
	}
	return open, nil
}

func (e *enrolment) openDesk(ctx context.Context, name string, a Authority) (desk, error) {
	switch {
	case a.Folder != "":
		return openFolder(a.Folder)
	case a.ACME != nil:
		return e.openPostal(ctx, name, a)
	}
	return e.openServer(ctx, a)
}

// folder is any authority, by way of a person.
type folder struct {
	dir   string
	found map[hsm.KeyID][]keyring.Cert // by the key of the first
	notes []string                     // files that could not be read
}

// Limits of a folder.
const (
	maxFolder     = 50_000  // files
	maxFolderFile = 1 << 20 // bytes of one
)

var certFiles = []string{".pem", ".crt", ".cer", ".der", ".p7b", ".p7c"}

// openFolder reads the certificates that came back.
func openFolder(dir string) (*folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir, found: map[hsm.KeyID][]keyring.Cert{}}
	if len(entries) > maxFolder {
		return nil, no("move what is bound elsewhere", "%s holds more than %d files", dir, maxFolder)
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !slices.Contains(certFiles, strings.ToLower(filepath.Ext(entry.Name()))) {
			continue
		}
		certs, err := readFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			f.notes = append(f.notes, err.Error())
			continue
		}
		f.take(certs)
	}
	return f, nil
}

func readFile(path string) ([]keyring.Cert, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFolderFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxFolderFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return readX509(path, data)
}

// take keeps each holder with the authorities in its file. Of two for one key
// the one that lasts longer counts.
func (f *folder) take(certs []keyring.Cert) {
	authorities := slices.DeleteFunc(slices.Clone(certs), func(c keyring.Cert) bool { return c.Role == keyring.Holder })
	for _, c := range certs {
		if c.Role != keyring.Holder {
			continue
		}
		for _, id := range c.KeyIDs {
			if had := f.found[id]; had == nil || had[0].Expires.Before(c.Expires) {
				f.found[id] = append([]keyring.Cert{c}, authorities...)
			}
		}
	}
}

func (f *folder) has(k hsm.Key) bool { return f.found[k.ID] != nil }

// certify writes the request where there is no certificate.
func (f *folder) certify(_ context.Context, p plea) ([]keyring.Cert, error) {
	if certs := f.found[p.key.ID]; certs != nil {
		return certs, nil
	}
	path := filepath.Join(f.dir, p.file())
	waiting := fmt.Errorf("%w: %s", errWaiting, path)
	if _, err := os.Stat(path); err == nil {
		return nil, waiting
	}
	text := pemOf("CERTIFICATE REQUEST", p.der)
	if p.der == nil {
		var err error
		if text, err = smime.PublicKey(p.key); err != nil {
			return nil, err
		}
	}
	if err := putFile(path, text); err != nil {
		return nil, err
	}
	return nil, waiting
}

// done takes the request away: what is left in the folder is still wanted.
func (f *folder) done(p plea) error {
	if err := os.Remove(filepath.Join(f.dir, p.file())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f *folder) close() {}

// server is an authority that answers by itself.
type server struct {
	*est.Server
	absence
	e           *enrolment
	reenrol     bool
	authorities []keyring.Cert // nil: not asked for yet
}

// absence counts questions in a row that nobody answered.
type absence struct {
	away int
	last error
}

// maxAway is how many of them there are before the rest is left for another run.
const maxAway = 3

func (a *absence) refuse() error {
	if a.away < maxAway {
		return nil
	}
	return fmt.Errorf("not asked any more: %w", a.last)
}

// note is told how a question ended.
func (a *absence) note(err, away error) {
	if errors.Is(err, away) {
		a.away, a.last = a.away+1, err
	} else {
		a.away = 0
	}
}

// openServer reads what the files of an authority hold; nothing is asked yet.
func (e *enrolment) openServer(ctx context.Context, a Authority) (*server, error) {
	c := est.Config{URL: a.URL, Label: a.Label, User: a.User}
	var err error
	if c.Roots, err = e.roots(a.CAFile); err != nil {
		return nil, err
	}
	if a.PasswordFile != "" {
		if c.Password, err = e.password(a.PasswordFile); err != nil {
			return nil, err
		}
	}
	if a.Client != "" {
		chain, err := credential.Read(a.Client)
		if err != nil {
			return nil, err
		}
		key, err := chain.Holds(e.keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Client, err)
		}
		if c.Client, err = e.shown(ctx, key, chain.DER); err != nil {
			return nil, err
		}
	}
	s, err := est.New(c)
	if err != nil {
		return nil, err
	}
	return &server{Server: s, e: e, reenrol: a.Reenrol}, nil
}

// shown is a certificate with its key in the token, for a handshake.
func (e *enrolment) shown(ctx context.Context, key hsm.Key, chain [][]byte) (*tls.Certificate, error) {
	signer, err := client.Signer(ctx, e.keeper, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: signer}, nil
}

func (s *server) has(hsm.Key) bool { return false }

// certify asks, at the pace of the plan.
func (s *server) certify(ctx context.Context, p plea) ([]keyring.Cert, error) {
	if err := s.refuse(); err != nil {
		return nil, err
	}
	certs, err := s.ask(ctx, p)
	s.note(err, est.ErrAway)
	if errors.Is(err, est.ErrLater) {
		return nil, fmt.Errorf("%w: %w", errWaiting, err)
	}
	return certs, err
}

func (s *server) ask(ctx context.Context, p plea) ([]keyring.Cert, error) {
	if s.authorities == nil {
		all, err := s.Authorities(ctx)
		if err != nil {
			return nil, err
		}
		if s.authorities, err = asCerts(all); err != nil {
			return nil, err
		}
	}
	if err := s.e.pace.wait(ctx); err != nil {
		return nil, err
	}
	made, err := s.post(ctx, p)
	if err != nil {
		return nil, err
	}
	certs, err := asCerts(made)
	if err != nil {
		return nil, err
	}
	return append(certs[:1:1], above(made[0], append(certs[1:], s.authorities...))...), nil
}

// post asks with the certificate that is to be followed, where the plan wants
// it so and its key can.
func (s *server) post(ctx context.Context, p plea) ([]*x509.Certificate, error) {
	if !s.reenrol || p.old == nil || p.part != hsm.Sign.String() {
		return s.Enrol(ctx, p.der)
	}
	key := holding(s.e.keys, p.old.Cert)
	if key == nil || key.Retired || !valid(p.old.Cert, s.e.now()) {
		return s.Enrol(ctx, p.der)
	}
	old, err := s.e.shown(ctx, *key, [][]byte{p.old.Raw})
	if err != nil {
		return nil, err
	}
	return s.Reenrol(ctx, p.der, *old)
}

func (s *server) done(plea) error { return nil }

func (s *server) close() { s.Close() }

// asCerts reads certificates as from a file.
func asCerts(list []*x509.Certificate) ([]keyring.Cert, error) {
	var text bytes.Buffer
	for _, x := range list {
		text.Write(pemOf("CERTIFICATE", x.Raw))
	}
	return readX509("the answer", text.Bytes())
}

// pace keeps questions apart.
type pace struct {
	every time.Duration
	next  time.Time
}

func (p *pace) wait(ctx context.Context) error {
	if p.every == 0 {
		return ctx.Err()
	}
	if d := time.Until(p.next); d > 0 {
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
	p.next = time.Now().Add(p.every)
	return nil
}
