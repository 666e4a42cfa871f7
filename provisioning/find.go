package provisioning

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
)

// foundLine is one certificate that directories gave.
type foundLine struct {
	certLine
	By  []string `json:"by"`
	Use bool     `json:"use"`
	Why string   `json:"why"`
}

// foundList is the result of cert find --online.
type foundList struct {
	Found    []foundLine `json:"found"`
	Away     []string    `json:"away,omitempty"`
	Imported string      `json:"imported,omitempty"`
	DryRun   bool        `json:"dry_run,omitempty"`
}

func (l foundList) text(w io.Writer) {
	if len(l.Found) == 0 {
		fmt.Fprintln(w, "no certificates")
	}
	var rows [][]string
	for _, f := range l.Found {
		use := "ask"
		if f.Use {
			use = "use"
		}
		rows = append(rows, []string{f.Fingerprint, f.Format, day(f.Expires), use, f.Why})
	}
	if len(rows) > 0 {
		table(w, []string{"FINGERPRINT", "FORMAT", "EXPIRES", "USE", "WHY"}, rows)
	}
	if len(l.Away) > 0 {
		fmt.Fprintf(w, "did not answer: %s\n", strings.Join(l.Away, ", "))
	}
	switch {
	case l.Imported != "" && l.DryRun:
		fmt.Fprintf(w, "would import and trust %s\n", l.Imported)
	case l.Imported != "":
		fmt.Fprintf(w, "imported and trusted %s\n", l.Imported)
	}
}

// online asks the directories for a.
func (c *call) online(ctx context.Context, a message.Address) (any, error) {
	if c.Finder == nil {
		return nil, no("", "find %s: no directories can be asked here", a.Key())
	}
	finder, err := c.Finder(c.config())
	if err != nil {
		return nil, err
	}
	if finder == nil {
		return nil, no("add [[find.source]] to filterd.toml", "find %s: no directory is configured", a.Key())
	}
	about := finder.Find(ctx, []message.Address{a})[a.Key()]
	list := foundList{Found: []foundLine{}, Away: about.Away, DryRun: c.dry()}
	for _, f := range about.Found {
		list.Found = append(list.Found, foundLine{certLineOf(f.Cert), f.By, f.Use, f.Why})
	}
	if fpr := c.get("trust"); fpr != "" {
		i := slices.IndexFunc(about.Found, func(f directory.Found) bool { return f.Fingerprint == keyring.CanonicalFingerprint(fpr) })
		if i < 0 {
			return list, no("name the whole fingerprint of one that is listed", "trust %.80q: no directory gave it", fpr)
		}
		if list.Imported = about.Found[i].Fingerprint; !c.dry() {
			if err := c.adopt(ctx, about.Found[i], a); err != nil {
				return list, err
			}
		}
		return list, nil
	}
	switch {
	case len(list.Found) == 0 && len(list.Away) > 0:
		return list, &failure{err: fmt.Errorf("find %s: not all directories answered", a.Key()), hint: "run it again", status: ExitLater}
	case !slices.ContainsFunc(list.Found, func(f foundLine) bool { return f.Use }):
		return list, no("look at it, ask its owner for the fingerprint, and say --trust FPR", "no certificate for %s that is used without a person's word", a.Key())
	}
	return list, nil
}

// adopt takes one that a person has judged into the operators' keyring. One of a
// domain as a whole then serves the domain.
func (c *call) adopt(ctx context.Context, f directory.Found, a message.Address) error {
	read, err := readCerts("what was found", f.Raw)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(read, func(r keyring.Cert) bool { return r.Fingerprint == f.Fingerprint })
	if i < 0 {
		return fmt.Errorf("read certificate %s: %w", f.Fingerprint, keyring.ErrInvalid)
	}
	cert := read[i]
	cert.Trust, cert.Source = keyring.Trusted, f.Source
	if !slices.ContainsFunc(cert.Addresses, func(b message.Address) bool { return b.Key() == a.Key() }) {
		cert.Domains = []string{strings.ToLower(a.Domain)}
	}
	store, err := c.ring(true)
	if err != nil {
		return err
	}
	return store.Import(ctx, cert)
}
