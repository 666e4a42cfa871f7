package provisioning

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"postern/filter/dkim"
	"postern/hsm"
)

// leadDays is how many days before it signs a new key of DKIM is made, so that
// its record stands in DNS everywhere by then.
const leadDays = 7

// dkimCommands are about keys that sign for domains.
var dkimCommands = []command{
	{noun: "dkim", verb: "rotate", about: "make the next DKIM keys of a domain",
		more:  "One of each kind, rsa-2048 and ed25519, or the one of --algorithm. Their selectors begin with the day from which on they sign (UTC): the first keys of a domain at once, later ones after --lead days, 7 by default. Printed is what to put in DNS before that day; it stays there until the key is retired, which `postern dkim list` says when to do. Nothing is made where a successor waits already.",
		flags: []option{optDomain, {name: "algorithm", value: "ALG", about: "rsa-2048 or ed25519; both by default"}, {name: "lead", value: "DAYS", about: "days until they sign; 7 by default"}}, run: dkimRotate},
	{noun: "dkim", verb: "list", about: "list DKIM keys, and which of them sign",
		more:  "coming: to be published, signs from its day on. signing: the newest of its kind. going: signs no more; its record stays for mail that is on its way, about a week, then `postern key retire`. retired: its record is to be taken out.",
		flags: []option{{name: "domain", value: "D", about: "of this domain only"}}, run: dkimList},
}

// selectorLine is one key of DKIM.
type selectorLine struct {
	Domain    string `json:"domain"`
	Selector  string `json:"selector"`
	Algorithm string `json:"algorithm"`
	State     string `json:"state"`
	From      string `json:"from,omitempty"` // day
	Key       string `json:"key,omitempty"`
	Record    string `json:"record,omitempty"` // line of a zone file
}

// selectorList is the result of dkim list and dkim rotate.
type selectorList struct {
	Selectors []selectorLine `json:"selectors"`
	Already   string         `json:"already,omitempty"`
	DryRun    bool           `json:"dry_run,omitempty"`
	made      bool
}

func (l selectorList) text(w io.Writer) {
	if l.Already != "" {
		fmt.Fprintln(w, "nothing to do:", l.Already)
		return
	}
	if l.made {
		for _, s := range l.Selectors {
			if l.DryRun {
				fmt.Fprintf(w, "would make %s of %s (%s), to sign from %s on\n", s.Selector, s.Domain, s.Algorithm, s.From)
				continue
			}
			fmt.Fprintf(w, "; made %s, signs from %s on\n%s\n", s.Selector, s.From, s.Record)
		}
		return
	}
	if len(l.Selectors) == 0 {
		fmt.Fprintln(w, "no DKIM keys; `postern dkim rotate --domain D` makes the first")
		return
	}
	var rows [][]string
	for _, s := range l.Selectors {
		rows = append(rows, []string{s.Domain, s.Selector, s.Algorithm, s.State, s.From, short(s.Key)})
	}
	table(w, []string{"DOMAIN", "SELECTOR", "ALGORITHM", "STATE", "FROM", "KEY"}, rows)
}

func lineOfSelector(s dkim.Selector, all []dkim.Selector, at time.Time) (selectorLine, error) {
	record, err := dkim.Record(s.Key.Public)
	if err != nil {
		return selectorLine{}, err
	}
	l := selectorLine{Domain: s.Domain, Selector: s.Name, Algorithm: string(hsm.AlgorithmOf(s.Key.Public)), State: string(s.StateOf(all, at)), Key: s.Key.ID.String(),
		Record: selectorRecord(s.Name, s.Domain, record)}
	if !s.From.IsZero() {
		l.From = s.From.Format(time.DateOnly)
	}
	return l, nil
}

// asciiDomain is the domain of --domain in A-labels, or "" where there is none.
func (c *call) asciiDomain() (string, error) {
	text := c.get("domain")
	if text == "" {
		return "", nil
	}
	d, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	ascii, err := idna.Lookup.ToASCII(d)
	if err != nil {
		return "", misuse("a domain looks like company1.example", "domain %.80q: %w", text, err)
	}
	return ascii, nil
}

func (c *call) selectors(ctx context.Context) (hsm.Keeper, []dkim.Selector, error) {
	k, keys, err := c.keys(ctx)
	if err != nil {
		return nil, nil, err
	}
	return k, dkim.Selectors(keys), nil
}

func dkimList(ctx context.Context, c *call) (any, error) {
	domain, err := c.asciiDomain()
	if err != nil {
		return nil, err
	}
	_, all, err := c.selectors(ctx)
	if err != nil {
		return nil, err
	}
	l := selectorList{Selectors: []selectorLine{}}
	for _, s := range all {
		if domain != "" && s.Domain != domain {
			continue
		}
		line, err := lineOfSelector(s, all, c.now())
		if err != nil {
			return nil, err
		}
		l.Selectors = append(l.Selectors, line)
	}
	return l, nil
}

func dkimRotate(ctx context.Context, c *call) (any, error) {
	domain, err := c.asciiDomain()
	if err != nil {
		return nil, err
	}
	if domain == "" {
		return nil, misuse(c.cmd.synopsis(), "dkim rotate wants --domain")
	}
	algorithms := []hsm.Algorithm{hsm.RSA2048, hsm.Ed25519}
	if a := c.get("algorithm"); a != "" {
		if algorithms = []hsm.Algorithm{hsm.Algorithm(strings.ToLower(a))}; algorithms[0] != hsm.RSA2048 && algorithms[0] != hsm.Ed25519 {
			return nil, misuse("take rsa-2048 or ed25519", "algorithm %.40q: not one of DKIM (RFC 8301, RFC 8463)", a)
		}
	}
	days := leadDays
	if text := c.get("lead"); text != "" {
		if days, err = strconv.Atoi(text); err != nil || days < 0 || days > 365 {
			return nil, misuse("a number of days", "--lead %.20q: want 0 to 365", text)
		}
	}
	k, all, err := c.selectors(ctx)
	if err != nil {
		return nil, err
	}
	now := c.now()
	l := selectorList{Selectors: []selectorLine{}, DryRun: c.dry(), made: true}
	for _, a := range algorithms {
		same := slices.DeleteFunc(slices.Clone(all), func(s dkim.Selector) bool {
			return s.Domain != domain || hsm.AlgorithmOf(s.Key.Public) != a
		})
		if i := slices.IndexFunc(same, func(s dkim.Selector) bool { return s.StateOf(all, now) == dkim.Coming }); i >= 0 {
			l.Already = fmt.Sprintf("%s of %s signs from %s on", same[i].Name, domain, same[i].From.Format(time.DateOnly))
			continue
		}
		from := now
		if slices.ContainsFunc(same, func(s dkim.Selector) bool { return s.StateOf(all, now) == dkim.Signing }) {
			from = now.AddDate(0, 0, days)
		}
		base := dkim.Dated(from, a)
		name := base
		for n := 2; slices.ContainsFunc(same, func(s dkim.Selector) bool { return s.Name == name }); n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		line := selectorLine{Domain: domain, Selector: name, Algorithm: string(a), State: string(dkim.Coming), From: from.UTC().Format(time.DateOnly)}
		if !c.dry() {
			label, err := dkim.Label(domain, name)
			if err != nil {
				return l, err
			}
			key, err := k.Generate(ctx, hsm.KeySpec{Algorithm: a, Usage: hsm.Sign, Label: label})
			if err != nil {
				return l, fmt.Errorf("generate %s: %w", label, err)
			}
			if all, err = relist(ctx, k); err != nil {
				return l, err
			}
			for _, s := range all {
				if s.Key.ID == key.ID {
					if line, err = lineOfSelector(s, all, now); err != nil {
						return l, err
					}
				}
			}
		}
		l.Selectors = append(l.Selectors, line)
	}
	if len(l.Selectors) > 0 {
		l.Already = ""
	}
	return l, nil
}

func relist(ctx context.Context, k hsm.Keeper) ([]dkim.Selector, error) {
	keys, err := k.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return dkim.Selectors(keys), nil
}

// examineDKIM finds domains whose mail waits for a key, and keys without successors
// that are older than a year.
func (c *call) examineDKIM(e *examined, site Site, keys []hsm.Key) {
	all := dkim.Selectors(keys)
	for _, d := range slices.Sorted(maps.Keys(site.Mail.DKIM)) {
		ascii, err := idna.Lookup.ToASCII(d)
		if err != nil || !site.Mail.DKIM[d] {
			continue
		}
		var signing []string
		old := false
		for _, s := range all {
			if s.Domain == ascii && s.StateOf(all, c.now()) == dkim.Signing {
				signing = append(signing, s.Name)
				old = old || !s.From.IsZero() && c.now().Sub(s.From) > 400*24*time.Hour
			}
		}
		switch {
		case len(signing) == 0:
			e.say("dkim "+d, broken, "`postern dkim rotate --domain "+d+"`; its mail waits until then", "no key signs")
		case old:
			e.say("dkim "+d, concern, "`postern dkim rotate --domain "+d+"`", "signs with %s for more than a year", strings.Join(signing, ", "))
		default:
			e.say("dkim "+d, fine, "", "signs with %s", strings.Join(signing, ", "))
		}
	}
}
