package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"postern/filter/credential"
	"postern/hsm"
)

// A label is use/owner/sign or use/owner/unwrap; successors of a retired key
// end in -2, -3 and so on. Owner is in ASCII: domains as A-labels. A listener
// has two keys side by side: that of RSA is tls/owner/sign-rsa.

// label names the key of an owner for a use.
func label(use string, o owner, u hsm.Usage, a hsm.Algorithm) (string, error) {
	domain := o.domain
	if domain == "" {
		domain = o.address.Domain
	}
	name := domain
	if !strings.HasPrefix(domain, "[") {
		var err error
		if name, err = idna.Lookup.ToASCII(domain); err != nil {
			return "", misuse("a domain looks like company1.example", "domain %.80q: %w", domain, err)
		}
	}
	if o.domain == "" {
		local, _, _ := strings.Cut(o.address.Key(), "@"+domain)
		name = local + "@" + name
	}
	s := use + "/" + name + "/" + u.String()
	if use == useTLS && kindOf(a) == credential.RSA {
		s += "-" + credential.RSA
	}
	if len(s)+3 > hsm.MaxLabel || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", no("labels are printable ASCII without space, at most 128 bytes; use a key of the domain", "name key %.160q: does not fit a label", s)
	}
	return s, nil
}

// uses are what keys are for, and which keys that takes.
var uses = map[string][]hsm.Usage{
	"openpgp": {hsm.Sign, hsm.Unwrap},
	"smime":   {hsm.Sign, hsm.Unwrap},
	"dkim":    {hsm.Sign},
	"tls":     {hsm.Sign},
	"ledger":  {hsm.Sign},
	"release": {hsm.Sign},
	"log":     {hsm.Sign},
	useACME:   {hsm.Sign},
}

const useWords = "openpgp, smime, dkim, tls, ledger, release, log, acme"

// algorithmFor is the algorithm of a key of a use, by name or by default.
// Ed25519 signs only; its partner for opening is X25519.
func algorithmFor(name string, use string, u hsm.Usage) (hsm.Algorithm, error) {
	a := hsm.Algorithm(strings.ToLower(name))
	switch {
	case use == useRelease && a != "" && a != hsm.P384 && a != hsm.Ed25519:
		return "", misuse("take p-384 or ed25519", "%.40q: releases are not signed with it", name)
	case use == useACME && a != "" && a != hsm.P256:
		return "", misuse("take p-256", "%.40q: accounts of ACME are not signed for with it here", name)
	case use == useLog && a != "" && a != hsm.Ed25519:
		return "", misuse("take ed25519", "%.40q: checkpoints of a log are not signed with it", name)
	}
	switch a {
	case "":
		switch use {
		case "tls", "ledger", useACME:
			return hsm.P256, nil
		case "dkim":
			return hsm.RSA2048, nil
		case useRelease:
			return hsm.P384, nil
		case useLog:
			return hsm.Ed25519, nil
		}
		return hsm.RSA3072, nil
	case hsm.P256, hsm.P384, hsm.P521:
		if use == "dkim" {
			return "", misuse("take rsa-2048 or ed25519", "%s: DKIM does not know it (RFC 8301, RFC 8463)", a)
		}
		return a, nil
	case hsm.RSA3072, hsm.RSA4096:
		return a, nil
	case hsm.RSA2048:
		if use == "openpgp" || use == "smime" || use == useTLS {
			return "", misuse("take rsa-3072", "rsa-2048 is too short for new keys of mail and TLS")
		}
		return a, nil
	case hsm.Ed25519, hsm.X25519:
		if use == useTLS {
			return "", misuse("take p-256 or rsa-3072", "%s: few mail servers know it in TLS", a)
		}
		if use == "smime" {
			return "", misuse("take rsa-3072 or p-256", "%s: S/MIME programs do not know it", a)
		}
		if u == hsm.Unwrap {
			return hsm.X25519, nil
		}
		return hsm.Ed25519, nil
	}
	return "", misuse("algorithms: rsa-2048, rsa-3072, rsa-4096, p-256, p-384, p-521, ed25519", "no algorithm %.40q", name)
}

// keyLine is one key as it is listed.
type keyLine struct {
	ID        string `json:"id"`
	Label     string `json:"label"`
	Algorithm string `json:"algorithm"`
	Usage     string `json:"usage"`
	Class     string `json:"class"`
	Retired   bool   `json:"retired"`
}

func lineOf(k hsm.Key) keyLine {
	return keyLine{ID: k.ID.String(), Label: k.Label, Algorithm: string(hsm.AlgorithmOf(k.Public)), Usage: k.Usage.String(), Class: k.Class.String(), Retired: k.Retired}
}

// keyList is the result of key list and key generate.
type keyList struct {
	Keys   []keyLine `json:"keys"`
	DryRun bool      `json:"dry_run,omitempty"`
}

func (l keyList) text(w io.Writer) {
	if len(l.Keys) == 0 {
		fmt.Fprintln(w, "no keys")
		return
	}
	if l.DryRun {
		for _, k := range l.Keys {
			class := ""
			if k.Class != "" {
				class = ", " + k.Class
			}
			fmt.Fprintf(w, "would generate %s (%s, %s%s)\n", printable(k.Label), k.Algorithm, k.Usage, class)
		}
		return
	}
	var rows [][]string
	for _, k := range l.Keys {
		state := "active"
		if k.Retired {
			state = "retired"
		}
		rows = append(rows, []string{short(k.ID), k.Label, k.Algorithm, k.Usage, k.Class, state})
	}
	table(w, []string{"ID", "LABEL", "ALGORITHM", "USAGE", "CLASS", "STATE"}, rows)
}

// short is enough of an id to name it.
func short(id string) string {
	if len(id) > 16 {
		return id[:16]
	}
	return id
}

func keyGenerate(ctx context.Context, c *call) (any, error) {
	use := c.get("use")
	if use == "" {
		return nil, misuse("uses: "+useWords, "key generate wants --use")
	}
	usages, ok := uses[use]
	if !ok {
		return nil, misuse("uses: "+useWords, "no use %.40q", use)
	}
	o, err := c.owner()
	if err != nil {
		return nil, err
	}
	if o.domain == "" && use != "openpgp" && use != "smime" {
		return nil, misuse("name the domain or host with --domain", "a %s key belongs to a domain, not to an address", use)
	}
	outside, err := c.outside(use, o)
	if err != nil {
		return nil, err
	}
	specs := make([]hsm.KeySpec, 0, len(usages))
	for _, u := range usages {
		s := hsm.KeySpec{Usage: u, Wrapped: outside}
		if s.Algorithm, err = algorithmFor(c.get("algorithm"), use, u); err != nil {
			return nil, err
		}
		if s.Label, err = label(use, o, u, s.Algorithm); err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	k, have, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	for i := range specs { // look at all before any is made
		if specs[i].Label, err = free(have, specs[i].Label, false); err != nil {
			return nil, err
		}
	}
	result := keyList{Keys: []keyLine{}, DryRun: c.dry()}
	for _, s := range specs {
		key, err := c.generate(ctx, k, s)
		if err != nil {
			return result, err
		}
		result.Keys = append(result.Keys, key)
	}
	return result, nil
}

// outside reports whether --wrapped is given, and refuses it for keys that are
// few: those of a domain, a listener or a release have room in every token.
func (c *call) outside(use string, o owner) (bool, error) {
	if c.on["wrapped"] && (use != "openpgp" && use != "smime" || o.domain != "") {
		return false, misuse("such keys stay in the token", "%s: --wrapped is for mail keys of users, with --address", c.cmd.name())
	}
	return c.on["wrapped"], nil
}

// generate makes one key, or with -n shows it.
func (c *call) generate(ctx context.Context, k hsm.Keeper, s hsm.KeySpec) (keyLine, error) {
	if c.dry() {
		line := keyLine{Label: s.Label, Algorithm: string(s.Algorithm), Usage: s.Usage.String()}
		if s.Wrapped {
			line.Class = hsm.OutsideWrapped.String()
		}
		return line, nil
	}
	key, err := makeKey(ctx, k, s)
	if err != nil {
		return keyLine{}, err
	}
	return lineOf(key), nil
}

// makeKey makes one key.
func makeKey(ctx context.Context, k hsm.Keeper, s hsm.KeySpec) (hsm.Key, error) {
	key, err := k.Generate(ctx, s)
	if s.Wrapped && errors.Is(err, hsm.ErrRefused) {
		return key, &failure{err: fmt.Errorf("generate %s (%s), wrapped: %w", s.Label, s.Algorithm, err), hint: "set allow-wrapped in keyd.toml", status: ExitNo}
	}
	if err != nil {
		return key, fmt.Errorf("generate %s (%s): %w", s.Label, s.Algorithm, err)
	}
	return key, nil
}

// free is base, or base-2 and so on when only retired keys have the names
// before; with successor it passes over active ones too.
func free(have []hsm.Key, base string, successor bool) (string, error) {
	for n, name := 2, base; ; n, name = n+1, fmt.Sprintf("%s-%d", base, n) {
		i := slices.IndexFunc(have, func(k hsm.Key) bool { return k.Label == name })
		if i < 0 {
			return name, nil
		}
		if !have[i].Retired && !successor {
			return "", fmt.Errorf("generate %s: %w", name, hsm.ErrExists)
		}
	}
}

func listKeys(ctx context.Context, c *call) (any, error) {
	_, keys, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	result := keyList{Keys: []keyLine{}}
	for _, key := range keys {
		result.Keys = append(result.Keys, lineOf(key))
	}
	slices.SortFunc(result.Keys, func(a, b keyLine) int { return strings.Compare(a.Label+a.ID, b.Label+b.ID) })
	return result, nil
}

// audited is the result of key audit.
type audited struct {
	Keys []auditLine `json:"keys"`
}

type auditLine struct {
	ID     string   `json:"id"`
	Label  string   `json:"label"`
	Class  string   `json:"class"`
	Served bool     `json:"served"`
	Faults []string `json:"faults"`
}

func (a audited) text(w io.Writer) {
	if len(a.Keys) == 0 {
		fmt.Fprintln(w, "no keys")
		return
	}
	var rows [][]string
	for _, k := range a.Keys {
		served, verdict := "served", "good"
		if !k.Served {
			served = "not served"
		}
		if len(k.Faults) > 0 {
			verdict = strings.Join(k.Faults, "; ")
		}
		rows = append(rows, []string{short(k.ID), k.Label, k.Class, served, verdict})
	}
	table(w, []string{"ID", "LABEL", "CLASS", "SERVED", "VERDICT"}, rows)
}

func (a audited) faulty() (n int) {
	for _, k := range a.Keys {
		if len(k.Faults) > 0 {
			n++
		}
	}
	return n
}

func audit(ctx context.Context, k hsm.Keeper) (audited, error) {
	findings, err := k.Audit(ctx)
	if err != nil {
		return audited{}, fmt.Errorf("audit keys: %w", err)
	}
	result := audited{Keys: []auditLine{}}
	for _, f := range findings {
		result.Keys = append(result.Keys, auditLine{ID: f.ID.String(), Label: f.Label, Class: f.Class.String(), Served: f.Served, Faults: append([]string{}, f.Faults...)})
	}
	return result, nil
}

func keyAudit(ctx context.Context, c *call) (any, error) {
	k, err := c.keeper(ctx)
	if err != nil {
		return nil, err
	}
	result, err := audit(ctx, k)
	if err != nil {
		return nil, err
	}
	if n := result.faulty(); n > 0 {
		return result, no("destroy such a key, or if it was brought from elsewhere on purpose set allow-imported in keyd.toml, and allow-wrapped for one that is kept outside", "%d of %d keys are not as they must be", n, len(result.Keys))
	}
	return result, nil
}

// findKey finds a key by its label, its id or the first 8 or more digits of it.
func findKey(keys []hsm.Key, name string) (hsm.Key, error) {
	var found []hsm.Key
	for _, k := range keys {
		if k.Label == name || len(name) >= 8 && strings.HasPrefix(k.ID.String(), strings.ToLower(name)) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return hsm.Key{}, fmt.Errorf("key %.128q: %w", name, hsm.ErrNoKey)
	case 1:
		return found[0], nil
	}
	return hsm.Key{}, no("give more digits of the id, see `postern key list --json`", "key %.128q: %d keys are called so", name, len(found))
}

func (c *call) namedKey(ctx context.Context) (hsm.Keeper, hsm.Key, error) {
	k, keys, err := c.keys(ctx)
	if err != nil {
		return nil, hsm.Key{}, err
	}
	key, err := findKey(keys, c.args[0])
	return k, key, err
}

func keyRetire(ctx context.Context, c *call) (any, error) {
	k, key, err := c.namedKey(ctx)
	if err != nil {
		return nil, err
	}
	if key.Retired {
		return c.already("%s is retired", key.Label), nil
	}
	if !c.dry() {
		if err := k.Retire(ctx, key.ID); err != nil {
			return nil, fmt.Errorf("retire %s: %w", key.Label, err)
		}
	}
	return c.did("retire %s: it signs no more, and goes on opening", key.Label), nil
}

func keyDestroy(ctx context.Context, c *call) (any, error) {
	k, key, err := c.namedKey(ctx)
	if errors.Is(err, hsm.ErrNoKey) { // one that keyd does not serve can be named by its audit
		key, err = unserved(ctx, k, c.args[0], err)
	}
	if err != nil {
		return nil, err
	}
	what, done := "mail to this key will not open any more", "destroy %s"
	if key.Class == hsm.OutsideWrapped {
		what += "; copies of its ciphertext, in backups too, stay what they were"
		done = "destroy %s: its ciphertext is removed; a copy of that is of no use without the token, and opens in it again"
	}
	if err := c.confirm(what, key.Label); err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := k.Destroy(ctx, key.ID); err != nil {
			return nil, fmt.Errorf("destroy %s: %w", key.Label, err)
		}
	}
	return c.did(done, key.Label), nil
}

func unserved(ctx context.Context, k hsm.Keeper, name string, missing error) (hsm.Key, error) {
	findings, err := k.Audit(ctx)
	if err != nil {
		return hsm.Key{}, fmt.Errorf("audit keys: %w", err)
	}
	var keys []hsm.Key
	for _, f := range findings {
		keys = append(keys, hsm.Key{ID: f.ID, Label: f.Label, Class: f.Class})
	}
	key, err := findKey(keys, name)
	if errors.Is(err, hsm.ErrNoKey) {
		return key, missing
	}
	return key, err
}
