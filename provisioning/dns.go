package provisioning

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"postern/filter/credential"
	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/zone"
	"postern/hsm"
)

// dnsCommands are about what our domains say in DNS.
var dnsCommands = []command{
	{noun: "dns", verb: "print", about: "print the records of a domain, ready to paste into its zone",
		more:  "MX, SPF, DKIM of every key that signs or will, DMARC, MTA-STS, TLS reporting, TLSA of every key for TLS (also of the next one, so that a roll-over is two pastes), OPENPGPKEY and SMIMEA of our identities (one of a domain as a wildcard for all its addresses), SRV for mail programs, and with --ca CAA. Comments say what a person has to decide.",
		flags: dnsFlags, run: dnsPrint},
	{noun: "dns", verb: "check", about: "compare those records with what the resolver sees",
		more:  "One line for each difference, with a hint. Exit status 1 where there is one, 75 where the resolver does not answer.",
		flags: dnsFlags, run: dnsCheck},
}

var dnsFlags = []option{optDomain, {name: "ca", value: "NAME", about: "authority that may certify names of the domain, as letsencrypt.org", many: true},
	{name: "reports", value: "A", about: "address for reports; postmaster of the domain by default"}}

// Mail is what the records of our domains follow from.
type Mail struct {
	MX    []string          // names of the gateway as a mail server
	Sends bool              // it brings mail to the Internet by itself
	DKIM  map[string]bool   // our domains, and whether their mail is signed
	STS   map[string]string // of those that have an MTA-STS policy, its record
}

func selectorRecord(selector, domain, record string) string {
	return zone.Record{Name: selector + "._domainkey." + domain, Type: "TXT", Data: zone.Text(record)}.String()
}

// records are those of the domain of --domain.
func (c *call) records(ctx context.Context) (domain string, list []zone.Record, err error) {
	site, err := c.site()
	if err != nil {
		return "", nil, err
	}
	if c.get("domain") == "" {
		return "", nil, misuse(c.cmd.synopsis(), "%s wants --domain", c.cmd.name())
	}
	plain, err := parseDomain(c.get("domain"))
	if err != nil {
		return "", nil, err
	}
	signs, ours := site.Mail.DKIM[plain]
	if !ours {
		return "", nil, no("name one of [domain]: "+strings.Join(slices.Sorted(maps.Keys(site.Mail.DKIM)), ", "), "%.80q is none of our domains", plain)
	}
	if domain, err = c.asciiDomain(); err != nil {
		return "", nil, err
	}
	f := zone.Facts{Domain: domain, MX: site.Mail.MX, Sends: site.Mail.Sends, Signs: signs, STS: site.Mail.STS[plain], Reports: "postmaster@" + domain, At: c.now()}
	if r := c.get("reports"); r != "" {
		a, err := message.ParseAddress(r)
		ascii, ok := a.ASCII()
		if err != nil || !ok || strings.ContainsAny(ascii, `"!,; `) {
			return "", nil, misuse("an address looks like name@company1.example", "--reports %.80q: not an address for a record", r)
		}
		f.Reports = ascii
	}
	for _, ca := range c.text["ca"] {
		name, err := idna.Lookup.ToASCII(ca)
		if err != nil || !strings.Contains(name, ".") || strings.ContainsAny(name, `"; `) {
			return "", nil, misuse("an authority is named by its domain, as letsencrypt.org", "--ca %.80q: not a domain", ca)
		}
		f.CAs = append(f.CAs, name)
	}
	var k hsm.Keeper
	if k, f.Selectors, err = c.selectors(ctx); err != nil {
		return "", nil, err
	}
	keys, err := k.Keys(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("list keys: %w", err)
	}
	for _, host := range site.Mail.MX {
		for _, key := range keys {
			if strings.HasPrefix(key.Label, credential.Prefix+host+"/") && !key.Retired {
				f.TLS = append(f.TLS, zone.TLSKey{Host: host, Key: key.ID})
			}
		}
	}
	if f.Certs, err = c.published(ctx, plain); err != nil {
		return "", nil, err
	}
	if c.Access != nil && c.Access.Settings != nil {
		settings, err := c.Access.Settings(c.config())
		if err != nil {
			return "", nil, err
		}
		for _, s := range settings {
			if s.Domain == plain && len(s.Servers) > 0 {
				f.Services = s.Records()
			}
		}
	}
	list, err = zone.Records(f)
	return domain, list, err
}

// published are the certificates of the domain for their places in DNS.
func (c *call) published(ctx context.Context, domain string) (list []zone.Cert, err error) {
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	ids, err := store.AllIdentities(ctx)
	if err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	for _, id := range ids {
		if id.Use == hsm.Sign || !id.Expires.IsZero() && c.now().After(id.Expires) {
			continue
		}
		kind, label := "OPENPGPKEY", "_openpgpkey"
		if id.Format == keyring.SMIME {
			kind, label = "SMIMEA", "_smimecert"
		}
		name, ok := "", false
		switch {
		case id.Domain == domain:
			name, ok = directory.DANEName(message.Address{Local: "x", Domain: domain}, label)
			_, rest, _ := strings.Cut(name, ".")
			name = "*." + rest // whoever has none of his own
		case id.Address.Domain == domain:
			name, ok = directory.DANEName(id.Address, label)
		}
		if ok {
			list = append(list, zone.Cert{Name: name, Type: kind, Raw: id.Raw})
		}
	}
	return list, nil
}

// printed is the result of dns print.
type printed struct {
	Domain  string        `json:"domain"`
	Records []zone.Record `json:"records"`
}

func (p printed) text(w io.Writer) {
	fmt.Fprintf(w, "; records of %s\n", p.Domain)
	for _, r := range p.Records {
		if r.Note != "" {
			fmt.Fprintf(w, "; %s\n", printable(r.Note))
		}
		fmt.Fprintln(w, r)
	}
	if !slices.ContainsFunc(p.Records, func(r zone.Record) bool { return r.Type == "CAA" }) {
		fmt.Fprintln(w, "; no CAA: name the authority of your certificates with --ca")
	}
	if slices.ContainsFunc(p.Records, func(r zone.Record) bool { return r.Signed }) {
		fmt.Fprintln(w, "; TLSA, OPENPGPKEY and SMIMEA count where the zone is signed (DNSSEC) only")
	}
}

func dnsPrint(ctx context.Context, c *call) (any, error) {
	domain, list, err := c.records(ctx)
	if err != nil {
		return nil, err
	}
	return printed{domain, zone.Standing(list)}, nil
}

// compared is the result of dns check.
type compared struct {
	Domain      string            `json:"domain"`
	Checked     int               `json:"checked"`
	Differences []zone.Difference `json:"differences"`
}

func (d compared) text(w io.Writer) {
	for _, v := range d.Differences {
		fmt.Fprintf(w, "%s %s: %s (hint: %s)\n", v.Type, v.Name, printable(v.Problem), printable(v.Hint))
	}
	if len(d.Differences) == 0 {
		fmt.Fprintf(w, "%d records of %s are as they should be\n", d.Checked, d.Domain)
	}
}

func dnsCheck(ctx context.Context, c *call) (any, error) {
	domain, list, err := c.records(ctx)
	if err != nil {
		return nil, err
	}
	names, err := c.Names(c.config())
	if err != nil {
		return nil, err
	}
	found, err := zone.Check(ctx, names, list)
	if err != nil {
		return nil, &failure{err: err, hint: "is the resolver of [resolver] running?", status: ExitLater}
	}
	result := compared{Domain: domain, Checked: len(zone.Standing(list)), Differences: append([]zone.Difference{}, found...)}
	if len(found) > 0 {
		return result, &failure{err: errSaid, status: ExitNo}
	}
	return result, nil
}
