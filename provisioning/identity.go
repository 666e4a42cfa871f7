package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/filter/credential"
	"postern/filter/keyring"
	"postern/filter/openpgp"
	"postern/hsm"
)

// identityLine is one of our identities as it is listed.
type identityLine struct {
	Owner string `json:"owner"`
	certLine
	Use    string   `json:"use"` // what its certificate lets its keys do
	KeyIDs []string `json:"key_ids"`
}

func identityLineOf(i keyring.Identity) identityLine {
	l := identityLine{Owner: ownerOf(i).String(), certLine: certLineOf(i.Cert), Use: doesOf(i), KeyIDs: []string{}}
	for _, id := range i.KeyIDs {
		l.KeyIDs = append(l.KeyIDs, id.String())
	}
	return l
}

func ownerOf(i keyring.Identity) owner { return owner{address: i.Address, domain: i.Domain} }

// identityList is the result of identity list, create and add.
type identityList struct {
	Identities []identityLine `json:"identities"`
	Generated  []keyLine      `json:"generated,omitempty"`
	Missing    []string       `json:"missing,omitempty"` // keys of the certificate that the token does not hold
	Notes      []string       `json:"notes,omitempty"`
	DryRun     bool           `json:"dry_run,omitempty"`
}

func (l identityList) text(w io.Writer) {
	if len(l.Generated) > 0 {
		keyList{Keys: l.Generated, DryRun: l.DryRun}.text(w)
		fmt.Fprintln(w)
	}
	if len(l.Identities) == 0 {
		if len(l.Generated) == 0 {
			fmt.Fprintln(w, "no identities")
		}
		return
	}
	if l.DryRun {
		for _, i := range l.Identities {
			fmt.Fprintf(w, "would bind %s to %s\n", printable(cmpOr(i.Fingerprint, "a new "+i.Format+" certificate")), printable(i.Owner))
		}
	} else {
		var rows [][]string
		for _, i := range l.Identities {
			rows = append(rows, []string{i.Owner, i.Format, i.Fingerprint, day(i.Expires), i.Use})
		}
		table(w, []string{"OWNER", "FORMAT", "FINGERPRINT", "EXPIRES", "USE"}, rows)
	}
	for _, m := range l.Missing {
		fmt.Fprintf(w, "note: the token does not hold %s\n", m)
	}
	for _, n := range l.Notes {
		fmt.Fprintln(w, "note:", printable(n))
	}
}

func identities(ctx context.Context, c *call) (any, error) {
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	list, err := store.AllIdentities(ctx)
	if err = absent(err); err != nil {
		return nil, err
	}
	result := identityList{Identities: []identityLine{}}
	for _, i := range list {
		result.Identities = append(result.Identities, identityLineOf(i))
	}
	shown, notes, err := c.listenerIdentities()
	result.Identities, result.Notes = append(result.Identities, shown...), notes
	return result, err
}

// parseLifetime reads "2y", "18m" (months), "90d" or "0" for ever, from the
// moment of creation.
func parseLifetime(s string, from time.Time) (time.Duration, error) {
	if s == "" {
		s = "2y"
	}
	if s == "0" {
		return 0, nil
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	to := from
	switch {
	case err != nil || n <= 0 || n > 36500:
		return 0, misuse("a lifetime is like 2y, 18m or 90d; 0 is for ever", "lifetime %.40q", s)
	case s[len(s)-1] == 'y':
		to = from.AddDate(n, 0, 0)
	case s[len(s)-1] == 'm':
		to = from.AddDate(0, n, 0)
	case s[len(s)-1] == 'd':
		to = from.AddDate(0, 0, n)
	default:
		return 0, misuse("a lifetime is like 2y, 18m or 90d; 0 is for ever", "lifetime %.40q", s)
	}
	life := to.Sub(from)
	if life <= 0 || life > 100*366*24*time.Hour {
		return 0, misuse("100 years at most", "lifetime %.40q", s)
	}
	return life, nil
}

func identityCreate(ctx context.Context, c *call) (any, error) {
	if c.get("use") == useTLS {
		if c.on["wrapped"] {
			return nil, misuse("such keys stay in the token", "identity create: --wrapped is for mail keys of users, with --address")
		}
		return createTLS(ctx, c)
	}
	if c.on["self-signed"] {
		return nil, misuse("mail certificates are certified by an authority (S/MIME), or by their own key anyway (OpenPGP)", "identity create: --self-signed is for --use tls")
	}
	format, err := c.format()
	if err != nil {
		return nil, err
	}
	o, err := c.owner()
	if err != nil {
		return nil, err
	}
	name := c.get("name")
	if !isName(name) {
		return nil, misuse(nameHint, "name %.80q", name)
	}
	if format == keyring.SMIME {
		if c.get("lifetime") != "" || c.on["v6"] {
			return nil, misuse("an authority decides about that", "identity create: --lifetime and --v6 are for OpenPGP")
		}
		return requestSMIME(ctx, c, o, name)
	}
	if c.get("mailbox") != "" || c.get("out") != "" {
		return nil, misuse("`postern identity export --out FILE` writes the certificate", "identity create: --mailbox and --out are for S/MIME")
	}
	return createOpenPGP(ctx, c, o, name)
}

// format is what --use (or --format) asks for.
func (c *call) format() (keyring.Format, error) {
	use, format := c.get("use"), c.get("format")
	if use != "" && format != "" && use != format {
		return "", misuse("give one of them", "%s: --use %.40s and --format %.40s", c.cmd.name(), use, format)
	}
	switch f := keyring.Format(cmpOr(cmpOr(use, format), string(keyring.OpenPGP))); f {
	case keyring.OpenPGP, keyring.SMIME:
		return f, nil
	default:
		return "", misuse("formats: openpgp, smime", "no format %.40q", string(f))
	}
}

func createOpenPGP(ctx context.Context, c *call, o owner, name string) (any, error) {
	created := c.now().UTC().Truncate(time.Second)
	life, err := parseLifetime(c.get("lifetime"), created)
	if err != nil {
		return nil, err
	}
	if _, err := algorithmFor(c.get("algorithm"), "openpgp", hsm.Sign); err != nil {
		return nil, err
	}
	if _, err := c.keeper(ctx); err != nil {
		return nil, err
	}
	store, err := c.ring(true)
	if err != nil {
		return nil, err
	}
	ours, err := store.AllIdentities(ctx)
	if c.dry() {
		err = absent(err)
	}
	if err != nil {
		return nil, err
	}
	if !c.on["successor"] {
		for _, i := range ours {
			if i.Format == keyring.OpenPGP && o.is(i) {
				return nil, no("`--successor` makes a new one beside it; the old one goes on opening old mail", "create identity of %s: there is %s", o, i.Fingerprint)
			}
		}
	}
	result := identityList{Identities: []identityLine{}, DryRun: c.dry()}
	k, made, generated, err := c.ownKeys(ctx, "openpgp", o)
	result.Generated = generated
	if err != nil {
		return result, err
	}
	if c.dry() {
		result.Identities = append(result.Identities, identityLine{Owner: o.String(), certLine: certLine{Format: string(keyring.OpenPGP)}})
		return result, nil
	}
	id, err := c.certifyOpenPGP(ctx, k, store, openPGPWish{owner: o, name: name, created: created, life: life, v6: c.on["v6"]}, made)
	if err != nil {
		return result, err
	}
	result.Identities = append(result.Identities, identityLineOf(id))
	return result, nil
}

// openPGPWish is the certificate that is wanted for two keys.
type openPGPWish struct {
	owner   owner
	name    string
	created time.Time
	life    time.Duration
	v6      bool
}

// certifyOpenPGP makes the certificate of two keys and binds it.
func (c *call) certifyOpenPGP(ctx context.Context, k hsm.Keeper, store *keyring.Store, w openPGPWish, made map[hsm.Usage]hsm.Key) (id keyring.Identity, err error) {
	id = keyring.Identity{Address: w.owner.address, Domain: w.owner.domain}
	id.Cert, err = openpgp.Create(ctx, k, openpgp.CertSpec{Name: w.name, Address: w.owner.address, Domain: w.owner.domain,
		Primary: made[hsm.Sign], Subkey: made[hsm.Unwrap], Created: w.created, Lifetime: w.life, V6: w.v6})
	if err != nil {
		return id, fmt.Errorf("create certificate of %s: %w", w.owner, err)
	}
	id.Trust, id.Source, id.FirstSeen, id.LastSeen = keyring.Trusted, "created", w.created, w.created
	if err := c.keepRevocation(ctx, k, id.Cert); err != nil {
		return id, err
	}
	return id, store.Bind(ctx, id)
}

// newest is the active key with the label or the last of its successors.
func newest(keys []hsm.Key, base string) (found hsm.Key, ok bool) {
	best := 0
	for _, k := range keys {
		n := 1
		if rest, is := strings.CutPrefix(k.Label, base+"-"); is {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				continue
			}
		} else if k.Label != base {
			continue
		}
		if !k.Retired && n > best {
			found, ok, best = k, true, n
		}
	}
	return found, ok
}

func identityAdd(ctx context.Context, c *call) (any, error) {
	o, err := c.owner()
	if err != nil {
		return nil, err
	}
	path := c.get("cert")
	if path == "" {
		return nil, misuse(c.cmd.synopsis(), "identity add wants --cert FILE")
	}
	data, err := c.read(path, maxFile)
	if err != nil {
		return nil, no("check the path; `-` reads standard input", "read certificate: %w", err)
	}
	certs, err := readCerts(path, data)
	if err != nil {
		return nil, err
	}
	if chain, err := credential.Parse(path, data); err == nil {
		_, keys, err := c.keys(ctx)
		if err != nil {
			return nil, err
		}
		if forTLS(keys, chain) {
			return addTLS(c, o, path, data, chain, keys)
		}
	}
	if certs[0].Format == keyring.SMIME {
		return addSMIME(ctx, c, o, path, certs)
	}
	if len(certs) > 1 {
		return nil, no("export the one certificate alone", "add identity: %s holds %d certificates", path, len(certs))
	}
	cert := certs[0]
	_, keys, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	if key := holding(keys, cert); key != nil {
		if err := forMail(*key); err != nil {
			return nil, err
		}
	}
	missing := missingKeys(cert, keys)
	if len(missing) == len(cert.KeyIDs) {
		return nil, no("see `postern key list`; a certificate is bound by the public keys in it, whatever their labels", "add identity of %s: none of the %d keys of certificate %s is in the token", o, len(cert.KeyIDs), cert.Fingerprint)
	}
	if o.domain == "" && !slices.ContainsFunc(cert.Addresses, o.sameAddress) {
		return nil, no("add the address to the certificate, or bind it to the domain with --domain", "add identity: certificate %s does not name %s", cert.Fingerprint, o)
	}
	if !cert.Expires.IsZero() && cert.Expires.Before(c.now()) && !c.on["expired"] {
		return nil, no("`--expired` binds it all the same, to open old mail", "add identity: certificate %s expired on %s", cert.Fingerprint, day(stamp(cert.Expires)))
	}
	cert.Trust, cert.Source, cert.FirstSeen, cert.LastSeen = keyring.Trusted, "import", c.now(), c.now()
	id := keyring.Identity{Cert: cert, Address: o.address, Domain: o.domain}
	result := identityList{Identities: []identityLine{identityLineOf(id)}, DryRun: c.dry()}
	for _, m := range missing {
		result.Missing = append(result.Missing, m.String())
	}
	store, err := c.ring(true)
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return result, nil
	}
	return result, store.Bind(ctx, id)
}

// missingKeys are those of the certificate that the token does not hold.
func missingKeys(c keyring.Cert, keys []hsm.Key) (missing []hsm.KeyID) {
	for _, id := range c.KeyIDs {
		if !slices.ContainsFunc(keys, func(k hsm.Key) bool { return k.ID == id }) {
			missing = append(missing, id)
		}
	}
	return missing
}

// named are our identities that an address, a domain or a fingerprint names,
// the newest of each owner first.
func (c *call) named(ctx context.Context, store *keyring.Store, name string) ([]keyring.Identity, error) {
	list, err := store.AllIdentities(ctx)
	if err != nil {
		return nil, err
	}
	var domain string
	fingerprint := keyring.CanonicalFingerprint(name)
	var match func(keyring.Identity) bool
	if hex := strings.Trim(fingerprint, "0123456789ABCDEF") == ""; hex && len(fingerprint) >= 8 {
		match = func(i keyring.Identity) bool { return strings.HasPrefix(i.Fingerprint, fingerprint) }
	} else {
		o, err := parseOwner(name)
		if err != nil {
			return nil, err
		}
		match, domain = o.is, o.address.Domain
	}
	served := slices.ContainsFunc(list, func(i keyring.Identity) bool { return domain != "" && i.Domain == domain })
	list = slices.DeleteFunc(list, func(i keyring.Identity) bool { return !match(i) })
	if len(list) == 0 && served {
		return nil, no("the domain's serves it: name "+domain, "identity %.80q: it has none of its own", name)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("identity %.80q: %w", name, keyring.ErrNotFound)
	}
	return list, nil
}

// exported is the result of identity export.
type exported struct {
	Fingerprint string `json:"fingerprint"`
	Owner       string `json:"owner"`
	File        string `json:"file,omitempty"`
	DryRun      bool   `json:"dry_run,omitempty"`
	Cert        string `json:"cert"`
}

func (e exported) text(w io.Writer) {
	if e.File != "" {
		did{Done: []string{"write " + e.Fingerprint + " to " + e.File}, DryRun: e.DryRun}.text(w)
		return
	}
	io.WriteString(w, e.Cert)
}

func identityExport(ctx context.Context, c *call) (any, error) {
	store, list, err := c.ours(ctx, false)
	if err != nil {
		return nil, err
	}
	format := keyring.Format(c.get("format"))
	if format != "" && format != keyring.OpenPGP && format != keyring.SMIME {
		return nil, misuse("formats: openpgp, smime", "no format %.40q", string(format))
	}
	of := func(f keyring.Format) []keyring.Identity {
		return slices.DeleteFunc(slices.Clone(list), func(i keyring.Identity) bool { return i.Format != f })
	}
	if format == "" {
		if format = list[0].Format; len(of(format)) < len(list) {
			return nil, misuse("`--format openpgp` or `--format smime`", "identity %.80q: it has certificates of both formats", c.args[0])
		}
	}
	if list = of(format); len(list) == 0 {
		return nil, fmt.Errorf("identity %.80q in %s: %w", c.args[0], format, keyring.ErrNotFound)
	}
	id := list[0]
	var b bytes.Buffer
	if format == keyring.SMIME {
		chain, err := c.exportSMIME(ctx, store, list)
		if err != nil {
			return nil, err
		}
		b.Write(chain)
	} else if err := openpgp.Armor(&b, id.Cert); err != nil {
		return nil, fmt.Errorf("export %s: %w", id.Fingerprint, err)
	}
	e := exported{Fingerprint: id.Fingerprint, Owner: ownerOf(id).String(), File: c.get("out"), DryRun: c.dry(), Cert: b.String()}
	if e.File != "" && !c.dry() {
		if err := writeFile(e.File, 0o644, func(w io.Writer) error { _, err := w.Write(b.Bytes()); return err }); err != nil {
			return nil, fmt.Errorf("export %s: %w", id.Fingerprint, err)
		}
	}
	return e, nil
}

// writeFile puts a whole file in place, or leaves what was there.
func writeFile(path string, mode os.FileMode, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".postern-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(fill(f), f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func identityRemove(ctx context.Context, c *call) (any, error) {
	store, list, err := c.ours(ctx, true)
	if err != nil {
		return nil, err
	}
	if len(list) > 1 {
		var each []string
		for _, i := range list {
			each = append(each, i.Fingerprint+" ("+ownerOf(i).String()+")")
		}
		return nil, no("name one by its fingerprint: "+strings.Join(each, ", "), "remove identity %.80q: it names %d", c.args[0], len(list))
	}
	id := list[0]
	if err := c.confirm("mail to this identity will not be opened any more, unless its certificate was exported and is added again", ownerOf(id).String()); err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := store.Unbind(ctx, id); err != nil {
			return nil, err
		}
	}
	return c.did("remove identity %s of %s; its keys stay in the token", id.Fingerprint, ownerOf(id)), nil
}
