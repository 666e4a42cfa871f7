package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
)

// certLine is one certificate as it is listed and shown.
type certLine struct {
	Format      string   `json:"format"`
	Fingerprint string   `json:"fingerprint"`
	Trust       string   `json:"trust"`
	Role        string   `json:"role,omitempty"` // anchor or intermediate
	Addresses   []string `json:"addresses"`
	Domains     []string `json:"domains"`
	Created     string   `json:"created,omitempty"`
	Expires     string   `json:"expires,omitempty"`
	Source      string   `json:"source"`
	FirstSeen   string   `json:"first_seen,omitempty"`
	LastSeen    string   `json:"last_seen,omitempty"`
	Note        string   `json:"note,omitempty"`
}

func certLineOf(c keyring.Cert) certLine {
	l := certLine{Format: string(c.Format), Fingerprint: c.Fingerprint, Trust: string(c.Trust), Role: string(c.Role), Addresses: []string{}, Domains: append([]string{}, c.Domains...),
		Created: stamp(c.Created), Expires: stamp(c.Expires), Source: c.Source, FirstSeen: stamp(c.FirstSeen), LastSeen: stamp(c.LastSeen)}
	for _, a := range c.Addresses {
		l.Addresses = append(l.Addresses, a.Key())
	}
	return l
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// day is the date of a stamp, for tables.
func day(stamp string) string {
	d, _, _ := strings.Cut(stamp, "T")
	if d == "" {
		return "never"
	}
	return d
}

// names are whom a certificate is for, in one cell.
func (l certLine) names() string {
	names := slices.Clone(l.Addresses)
	if l.Role != "" {
		names = []string{"(" + l.Role + ")"}
	}
	for _, d := range l.Domains {
		names = append(names, "*@"+d)
	}
	if len(names) > 3 {
		names = append(names[:3], fmt.Sprintf("and %d more", len(names)-3))
	}
	return strings.Join(names, ", ")
}

// certList is the result of cert import, list and find.
type certList struct {
	Certs  []certLine `json:"certs"`
	DryRun bool       `json:"dry_run,omitempty"`
	Verb   string     `json:"-"` // of an import
}

func (l certList) text(w io.Writer) {
	if len(l.Certs) == 0 {
		fmt.Fprintln(w, "no certificates")
		return
	}
	head := []string{"FINGERPRINT", "FORMAT", "TRUST", "EXPIRES", "FOR"}
	if l.Verb != "" {
		head = append(head, "NOTE")
		if l.DryRun {
			fmt.Fprintln(w, "would "+l.Verb+":")
		}
	}
	var rows [][]string
	for _, c := range l.Certs {
		row := []string{c.Fingerprint, c.Format, c.Trust, day(c.Expires), c.names()}
		if l.Verb != "" {
			row = append(row, c.Note)
		}
		rows = append(rows, row)
	}
	table(w, head, rows)
}

// readCerts reads certificates out of a file that a person handed over.
func readCerts(name string, data []byte) ([]keyring.Cert, error) {
	if what := secretKind(data); what != "" {
		return nil, no("export the public half and import that; if this key left its owner's hands, replace it", "import %s: it holds %s, which has no business here", name, what)
	}
	if isX509(data) {
		return readX509(name, data)
	}
	certs, err := openpgp.Read(data)
	if err != nil {
		return nil, no("want an OpenPGP certificate, armored or binary, or an X.509 certificate as PEM, DER or PKCS#7", "read certificate %s: %w", name, err)
	}
	if len(certs) == 0 {
		return nil, no("want an OpenPGP certificate, armored or binary, or an X.509 certificate as PEM, DER or PKCS#7", "read certificate %s: there is none in it", name)
	}
	return certs, nil
}

// secretKind names the private key that data holds, or is "".
func secretKind(data []byte) string {
	switch {
	case bytes.Contains(data, []byte("-----BEGIN PGP PRIVATE KEY BLOCK")):
		return "an OpenPGP private key"
	case bytes.Contains(data, []byte("PRIVATE KEY-----")):
		return "a private key"
	case len(data) > 0 && (data[0] == 0xC5 || data[0] == 0xC7 || data[0]&0xFC == 0x94 || data[0]&0xFC == 0x9C): // packet tags 5 and 7, RFC 9580 §4.2
		return "an OpenPGP private key"
	case len(data) > 7 && data[0] == 0x30 && bytes.Contains(data[:min(len(data), 12)], []byte{0x02, 0x01, 0x03, 0x30}): // PFX version 3, RFC 7292 §4
		return "a PKCS#12 file"
	case len(data) > 7 && data[0] == 0x30 && (bytes.Contains(data[:7], []byte{0x02, 0x01, 0x00}) || bytes.Contains(data[:7], []byte{0x02, 0x01, 0x01})): // PKCS#8, PKCS#1, SEC 1: a version stands first
		return "a private key"
	}
	return ""
}

func certImport(ctx context.Context, c *call) (any, error) {
	var all []keyring.Cert
	var origin []string
	for _, name := range c.args {
		data, err := c.read(name, maxFile)
		if err != nil {
			return nil, no("check the path; `-` reads standard input", "read certificate: %w", err)
		}
		certs, err := readCerts(name, data)
		if err == nil && c.on["anchor"] {
			err = anchors(name, certs)
		}
		if err != nil {
			return nil, err
		}
		for range certs {
			origin = append(origin, name)
		}
		all = append(all, certs...)
	}
	var domains []string
	for _, d := range c.text["domain"] {
		d, err := parseDomain(d)
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
	}
	if c.on["anchor"] && len(domains) > 0 {
		return nil, misuse("an anchor serves no domain", "cert import: --anchor and --domain do not go together")
	}
	store, err := c.ring(true)
	if err != nil {
		return nil, err
	}
	result := certList{Certs: []certLine{}, DryRun: c.dry(), Verb: "import"}
	for i, cert := range all {
		cert, note, err := c.importOne(ctx, store, cert, domains)
		if err != nil {
			return result, fmt.Errorf("%s: %w", origin[i], err)
		}
		l := certLineOf(cert)
		l.Note = note
		result.Certs = append(result.Certs, l)
	}
	return result, nil
}

// anchors makes of each certificate an anchor, if it is an authority's.
func anchors(name string, certs []keyring.Cert) error {
	for i := range certs {
		if certs[i].Format != keyring.SMIME || certs[i].Role == keyring.Holder {
			return no("import it without --anchor; what ends paths is the certificate of their authority", "import %s: %s is no authority's certificate", name, certs[i].Fingerprint)
		}
		certs[i].Role = keyring.Anchor
	}
	return nil
}

// importOne keeps a certificate on an operator's word: that makes a new one
// trusted, and one that arrived by itself too. What was distrusted stays so
// without --trust.
func (c *call) importOne(ctx context.Context, store *keyring.Store, cert keyring.Cert, domains []string) (keyring.Cert, string, error) {
	if cert.Role != keyring.Holder {
		domains = nil
	}
	cert.Trust, cert.Domains = keyring.Trusted, domains
	if cert.Source == "" {
		cert.Source = "import"
	}
	cert.FirstSeen, cert.LastSeen = c.now(), c.now()
	note := "new"
	old, err := store.Get(ctx, cert.Fingerprint)
	known := err == nil
	if err != nil && !errors.Is(err, keyring.ErrNotFound) && !(c.dry() && errors.Is(err, keyring.ErrNoStore)) {
		return cert, "", err
	}
	if known {
		note = "updated"
		cert.FirstSeen = old.FirstSeen
		if old.Role == keyring.Anchor && cert.Role == keyring.Intermediate {
			cert.Role = keyring.Anchor // what an operator said once
		}
		for _, d := range domains {
			if !slices.Contains(old.Domains, d) {
				old.Domains = append(old.Domains, d)
			}
		}
		cert.Domains = old.Domains
		if old.Trust == keyring.Distrusted && !c.on["trust"] {
			cert.Trust, note = keyring.Distrusted, "updated; stays distrusted, --trust would change that"
		}
	}
	if !cert.Expires.IsZero() && cert.Expires.Before(c.now()) {
		note += "; has expired"
	}
	if site, err := c.site(); err == nil && site.Policy != nil {
		for _, a := range cert.Addresses {
			if site.Policy.Ours(a.Domain) {
				note += "; names " + a.Key() + ", which is ours"
			}
		}
	}
	switch {
	case cert.Role == keyring.Anchor:
		note += "; paths may end here: every certificate below it is believed"
	case cert.Role == keyring.Intermediate:
		note += "; an authority's: it makes paths, and none ends here without --anchor"
	case len(cert.Addresses) == 0 && len(cert.Domains) == 0:
		note += "; names no address: nothing will be sealed to it without --domain"
	}
	note += c.pathNote(ctx, cert)
	if c.dry() {
		return cert, note, nil
	}
	word := cert
	word.Trust = keyring.Trusted // whose bytes these are; what is said of the certificate follows
	if err := store.Import(ctx, word); err != nil {
		return cert, "", err
	}
	if known && old.Trust != cert.Trust {
		if err := store.SetTrust(ctx, cert.Fingerprint, cert.Trust); err != nil {
			return cert, "", err
		}
	}
	if known && len(domains) > 0 {
		if err := store.SetDomains(ctx, cert.Fingerprint, cert.Domains); err != nil {
			return cert, "", err
		}
	}
	return cert, note, nil
}

func certs(ctx context.Context, c *call) (any, error) {
	f := keyring.Filter{Trust: keyring.Trust(c.get("trust"))}
	if t := f.Trust; t != "" && t != keyring.Seen && t != keyring.Trusted && t != keyring.Distrusted {
		return nil, misuse("trust is seen, trusted or distrusted", "no trust %.40q", string(t))
	}
	if d := c.get("domain"); d != "" {
		var err error
		if f.Domain, err = parseDomain(d); err != nil {
			return nil, err
		}
	}
	f.Authorities = c.on["authorities"]
	var list []keyring.Cert
	if c.on["seen"] {
		if f.Trust != "" {
			return nil, misuse("what was seen is trusted by nobody", "cert list: --seen and --trust do not go together")
		}
		var err error
		if list, err = c.seenCerts(func(s *keyring.Store) ([]keyring.Cert, error) { return s.List(ctx, f) }); err != nil {
			return nil, err
		}
	} else {
		store, err := c.ring(false)
		if err != nil {
			return nil, err
		}
		list, err = store.List(ctx, f)
		if err = absent(err); err != nil {
			return nil, err
		}
	}
	result := certList{Certs: []certLine{}}
	for _, cert := range list {
		result.Certs = append(result.Certs, certLineOf(cert))
	}
	return result, nil
}

// shown is the result of cert show.
type shown struct {
	certLine
	KeyIDs      []string      `json:"key_ids"`
	Sources     []sourceLine  `json:"sources"`
	Description string        `json:"description"`
	Verdicts    []pathVerdict `json:"verdicts,omitempty"`
}

// sourceLine is one place where a certificate came from.
type sourceLine struct {
	Source string `json:"source"`
	First  string `json:"first_seen"`
	Last   string `json:"last_seen"`
}

func (s shown) text(w io.Writer) {
	rows := [][]string{{"format", s.Format}, {"fingerprint", s.Fingerprint}, {"trust", s.Trust}}
	for _, a := range s.Addresses {
		rows = append(rows, []string{"address", a})
	}
	for _, d := range s.Domains {
		rows = append(rows, []string{"serves domain", d})
	}
	if s.Role != "" {
		rows = append(rows, []string{"role", s.Role})
	}
	rows = append(rows, [][]string{{"created", s.Created}, {"expires", cmpOr(s.Expires, "never")}, {"source", s.Source},
		{"first seen", s.FirstSeen}, {"last seen", s.LastSeen}}...)
	for _, o := range s.Sources {
		rows = append(rows, []string{"shown by " + o.Source, o.First + " to " + o.Last})
	}
	for _, id := range s.KeyIDs {
		rows = append(rows, []string{"key", id})
	}
	table(w, nil, rows)
	if s.Description != "" {
		fmt.Fprintln(w)
		for _, line := range strings.Split(strings.TrimRight(s.Description, "\n"), "\n") {
			fmt.Fprintln(w, printable(strings.ReplaceAll(line, "\t", "  ")))
		}
	}
	for _, v := range s.Verdicts {
		word := map[string]string{"sign": "to sign", "unwrap": "to be sealed to"}[v.Use]
		switch {
		case !v.Good:
			fmt.Fprintf(w, "\n%s: not good by its path: %s\n", word, printable(v.Reason))
		case v.Reason != "":
			fmt.Fprintf(w, "\n%s: good by its path; %s\n", word, printable(v.Reason))
		default:
			fmt.Fprintf(w, "\n%s: good by its path\n", word)
		}
		for _, subject := range v.Path {
			fmt.Fprintln(w, "  "+printable(subject))
		}
	}
}

func cmpOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func certShow(ctx context.Context, c *call) (any, error) {
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	cert, _, err := c.find(ctx, store)
	if err != nil {
		return nil, err
	}
	s := shown{certLine: certLineOf(cert), KeyIDs: []string{}, Sources: []sourceLine{}}
	for _, o := range cert.Sources {
		s.Sources = append(s.Sources, sourceLine{o.Source, stamp(o.First), stamp(o.Last)})
	}
	for _, id := range cert.KeyIDs {
		s.KeyIDs = append(s.KeyIDs, id.String())
	}
	describe := openpgp.Describe
	if cert.Format == keyring.SMIME {
		describe = describeX509
	}
	if s.Description, err = describe(cert); err != nil {
		s.Description = err.Error() // what can't be read can still be looked at, and removed
	}
	s.Verdicts, err = c.verdicts(ctx, cert)
	return s, err
}

func certRemove(ctx context.Context, c *call) (any, error) {
	store, err := c.ring(true)
	if err != nil {
		return nil, err
	}
	cert, err := store.Get(ctx, c.args[0])
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := store.Remove(ctx, cert.Fingerprint); err != nil {
			return nil, err
		}
	}
	return c.did("remove %s: %s", cert.Fingerprint, certLineOf(cert).names()), nil
}

func certFind(ctx context.Context, c *call) (any, error) {
	a, err := message.ParseAddress(c.args[0])
	if err != nil {
		return nil, misuse("an address looks like name@partner.example", "address %.80q: %w", c.args[0], err)
	}
	if c.on["online"] {
		return c.online(ctx, a)
	}
	if c.get("trust") != "" {
		return nil, misuse("one that is known is trusted by `postern cert trust FPR`", "--trust without --online")
	}
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	list, err := store.Certs(ctx, a)
	if err = absent(err); err != nil {
		return nil, err
	}
	seen, err := c.besides(func(s *keyring.Store) ([]keyring.Cert, error) { return s.Certs(ctx, a) })
	if err != nil {
		return nil, err
	}
	for _, one := range seen {
		if !slices.ContainsFunc(list, func(known keyring.Cert) bool { return known.Fingerprint == one.Fingerprint }) {
			list = append(list, one)
		}
	}
	result := certList{Certs: []certLine{}}
	usable := 0
	for _, cert := range list {
		result.Certs = append(result.Certs, certLineOf(cert))
		if cert.Trust == keyring.Trusted && sealable(cert, c.now()) == nil {
			usable++
		}
	}
	if usable == 0 {
		return result, no("import one with `postern cert import FILE`, or trust one that was seen with `postern cert trust FPR`", "no trusted certificate for %s that mail can be sealed to now", a.Key())
	}
	return result, nil
}
