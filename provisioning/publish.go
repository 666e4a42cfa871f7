package provisioning

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/publish"
	"postern/filter/smime"
)

// publishCommands write what others are to find of our identities.
var publishCommands = []command{
	{noun: "publish", verb: "wkd", about: "write the Web Key Directory of a domain, for a web server elsewhere",
		more: "DIR becomes a tree that is to be served at https://openpgpkey.DOMAIN/.well-known/openpgpkey/, or at the same path of the domain itself, and is replaced as a whole. In it is the OpenPGP certificate of every address of the domain that has its own, and of each --address that has the domain's: a name in such a tree cannot be found from the domain. A [[web]] of the gateway serves all addresses without any of this.",
		flags: []option{{name: "domain", value: "D", about: "the domain"}, {name: "out", value: "DIR", about: "folder of the tree"},
			{name: "address", value: "A", about: "an address of the domain that has no certificate of its own", many: true}}, run: publishWKD},
	{noun: "publish", verb: "ldif", about: "print the changes that give a directory our certificates",
		more: "LDIF (RFC 2849) for ldapmodify: userCertificate, userSMIMECertificate (the chain with it) and pgpKey of entries that are there already, in place of what they had. Addresses are those of publish wkd.",
		flags: []option{{name: "domain", value: "D", about: "the domain"}, {name: "dn", value: "TEMPLATE", about: "name of an entry, with {address}, {local} or {domain}, such as mail={address},ou=people,dc=company1,dc=example"},
			{name: "address", value: "A", about: "an address of the domain that has no certificate of its own", many: true},
			{name: "out", value: "FILE", about: "write it there"}}, run: publishLDIF},
}

// published is one address, and what is published of it.
type published struct {
	Address     string `json:"address"`
	Fingerprint string `json:"fingerprint"`
	Format      string `json:"format"`
	File        string `json:"file,omitempty"`
}

// publishedList is the result of publish wkd and publish ldif.
type publishedList struct {
	did
	Published []published `json:"published"`
	Skipped   []string    `json:"skipped,omitempty"` // addresses without a certificate that mail can be sealed to now
	LDIF      string      `json:"ldif,omitempty"`
}

func (l publishedList) text(w io.Writer) {
	if l.LDIF != "" && len(l.Done) == 0 {
		io.WriteString(w, l.LDIF)
		return
	}
	l.did.text(w)
	var rows [][]string
	for _, p := range l.Published {
		rows = append(rows, []string{p.Address, p.Format, p.Fingerprint, p.File})
	}
	table(w, []string{"ADDRESS", "FORMAT", "FINGERPRINT", "FILE"}, rows)
	for _, s := range l.Skipped {
		fmt.Fprintf(w, "note: %s has no certificate that mail can be sealed to now\n", printable(s))
	}
}

// whom are the addresses that are published: those that have identities, and
// those that are named; each once.
func (c *call) whom(ctx context.Context, store *keyring.Store) (domain string, list []message.Address, named map[string]bool, err error) {
	if c.get("domain") == "" {
		return "", nil, nil, misuse(c.cmd.synopsis(), "no --domain")
	}
	if domain, err = parseDomain(c.get("domain")); err != nil {
		return "", nil, nil, err
	}
	ours, err := store.AllIdentities(ctx)
	if err != nil {
		return "", nil, nil, err
	}
	add := func(a message.Address) {
		if strings.EqualFold(a.Domain, domain) && !slices.ContainsFunc(list, func(b message.Address) bool { return a.Key() == b.Key() }) {
			list = append(list, a)
		}
	}
	for _, i := range ours {
		if i.Domain == "" {
			add(i.Address)
		}
	}
	named = map[string]bool{}
	for _, text := range c.text["address"] {
		a, err := message.ParseAddress(text)
		if err != nil || !strings.EqualFold(a.Domain, domain) {
			return "", nil, nil, misuse("name addresses of "+domain, "address %.80q", text)
		}
		named[a.Key()] = true
		add(a)
	}
	return domain, list, named, nil
}

func publishWKD(ctx context.Context, c *call) (any, error) {
	dir := c.get("out")
	if dir == "" {
		return nil, misuse(c.cmd.synopsis(), "no --out")
	}
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	domain, list, named, err := c.whom(ctx, store)
	if err != nil {
		return nil, err
	}
	ascii, ok := message.Address{Local: "x", Domain: domain}.ASCII()
	if !ok {
		return nil, misuse("a domain looks like company1.example", "domain %.80q has no name in the DNS", domain)
	}
	_, host, _ := strings.Cut(ascii, "@")
	tree := publish.NewTree(host)
	result := publishedList{Published: []published{}, did: did{Done: []string{}, DryRun: c.dry()}}
	fit := openpgp.New(openpgp.Config{})
	for _, a := range list {
		ids, err := store.Identities(ctx, a)
		if err != nil {
			return nil, err
		}
		cert := publish.Best(ids, keyring.OpenPGP, func(k keyring.Cert) bool { return fit.Usable(k, c.now()) == nil })
		if cert == nil && named[a.Key()] {
			return nil, no("`postern identity list`", "publish %s: no OpenPGP certificate that mail can be sealed to now", a.Key())
		}
		if cert == nil {
			result.Skipped = append(result.Skipped, a.Key())
			continue
		}
		result.Published = append(result.Published, published{a.Key(), cert.Fingerprint, string(cert.Format), tree.Add(host, a.Local, cert.Raw)})
	}
	if len(result.Published) == 0 {
		return nil, no("name those that the domain's certificate serves: `--address A`", "publish %s: no address has a certificate of its own that mail can be sealed to now", domain)
	}
	same, err := tree.Same(dir)
	switch {
	case errors.Is(err, publish.ErrForeign):
		return nil, no("name a folder that holds nothing else: it is replaced as a whole", "write %s: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	case same:
		result.Already = dir + " is as it should be"
		return result, nil
	}
	result.Done = append(result.Done, fmt.Sprintf("write %d addresses of %s to %s", len(result.Published), domain, dir))
	if c.dry() {
		return result, nil
	}
	if err := tree.Write(dir); err != nil {
		return nil, fmt.Errorf("publish %s: %w", domain, err)
	}
	return result, nil
}

func publishLDIF(ctx context.Context, c *call) (any, error) {
	dn := c.get("dn")
	if !strings.Contains(dn, "{address}") && !strings.Contains(dn, "{local}") {
		return nil, misuse(c.cmd.synopsis(), "--dn has neither {address} nor {local}")
	}
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	domain, list, named, err := c.whom(ctx, store)
	if err != nil {
		return nil, err
	}
	result := publishedList{Published: []published{}, did: did{Done: []string{}, DryRun: c.dry()}}
	var entries []publish.Entry
	for _, a := range list {
		e, what, err := c.entry(ctx, store, a)
		if err != nil {
			return nil, fmt.Errorf("publish %s: %w", a.Key(), err)
		}
		if len(what) == 0 && named[a.Key()] {
			return nil, no("`postern identity list`", "publish %s: no certificate that mail can be sealed to now", a.Key())
		}
		if len(what) == 0 {
			result.Skipped = append(result.Skipped, a.Key())
			continue
		}
		entries, result.Published = append(entries, e), append(result.Published, what...)
	}
	if len(entries) == 0 {
		return nil, no("name those that the domain's certificate serves: `--address A`", "publish %s: no address has a certificate of its own that mail can be sealed to now", domain)
	}
	var text bytes.Buffer
	if err := publish.LDIF(&text, dn, entries); err != nil {
		return nil, err
	}
	result.LDIF = text.String()
	if file := c.get("out"); file != "" {
		result.Done = append(result.Done, fmt.Sprintf("write %d entries of %s to %s", len(entries), domain, file))
		if !c.dry() {
			if err := writeFile(file, 0o644, func(w io.Writer) error { _, err := w.Write(text.Bytes()); return err }); err != nil {
				return nil, fmt.Errorf("publish %s: %w", domain, err)
			}
		}
	}
	return result, nil
}

// entry is what a directory is to have of one address.
func (c *call) entry(ctx context.Context, store *keyring.Store, a message.Address) (e publish.Entry, what []published, err error) {
	e.Address = a
	ids, err := store.Identities(ctx, a)
	if err != nil {
		return e, nil, err
	}
	pgp, x509 := openpgp.New(openpgp.Config{}), smime.New(smime.Config{})
	if cert := publish.Best(ids, keyring.OpenPGP, func(k keyring.Cert) bool { return pgp.Usable(k, c.now()) == nil }); cert != nil {
		var armor bytes.Buffer
		if err := openpgp.Armor(&armor, *cert); err != nil {
			return e, nil, err
		}
		e.OpenPGP = armor.Bytes()
		what = append(what, published{a.Key(), cert.Fingerprint, string(cert.Format), ""})
	}
	if cert := publish.Best(ids, keyring.SMIME, func(k keyring.Cert) bool { return x509.Usable(k, c.now()) == nil }); cert != nil {
		of := ids[slices.IndexFunc(ids, func(i keyring.Identity) bool { return i.Fingerprint == cert.Fingerprint })].Domain
		owner := slices.DeleteFunc(slices.Clone(ids), func(i keyring.Identity) bool { return i.Format != keyring.SMIME || i.Domain != of })
		chain, err := c.exportSMIME(ctx, store, owner)
		if err != nil {
			return e, nil, err
		}
		bundle := [][]byte{cert.Raw}
		for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
			if !bytes.Equal(block.Bytes, cert.Raw) {
				bundle = append(bundle, block.Bytes)
			}
		}
		e.X509 = [][]byte{cert.Raw}
		if e.Bundle, err = cms.Bundle(bundle...); err != nil {
			return e, nil, err
		}
		what = append(what, published{a.Key(), cert.Fingerprint, string(cert.Format), ""})
	}
	return e, what, nil
}
