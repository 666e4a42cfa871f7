package provisioning

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/hsm"
)

// checked is the result of policy check.
type checked struct {
	Rules    []rule   `json:"rules"`
	Concerns []string `json:"concerns"`
}

type rule struct {
	Name string `json:"name"`
	Says string `json:"says"`
}

func (p checked) text(w io.Writer) {
	var rows [][]string
	for _, r := range p.Rules {
		rows = append(rows, []string{r.Name, r.Says})
	}
	table(w, []string{"RULE", "SAYS"}, rows)
	for _, s := range p.Concerns {
		fmt.Fprintln(w, "concern:", printable(s))
	}
}

// protectWords say what each level of protection does.
var protectWords = map[policy.Protect]string{
	policy.None:     "mail to it is never encrypted",
	policy.OnDemand: "mail to it is encrypted when its sender asks for it",
	policy.Optional: "mail to it is encrypted when a usable certificate is known",
	policy.Require:  "mail to it is encrypted",
}

// signWords say which mail is signed.
var signWords = map[policy.Sign]string{
	policy.SignAlways:   "signed",
	policy.SignOptional: "signed where an identity can",
	policy.SignAsked:    "signed when its sender asks for it",
	policy.SignNever:    "not signed",
}

// withoutWords say what becomes of mail that must be encrypted and cannot be.
var withoutWords = map[policy.NoKey]string{
	policy.NoKeyReject:    "refused",
	policy.NoKeyTransport: "sent without, by a verified way only",
	policy.NoKeyDefer:     "deferred",
	policy.NoKeyPDF:       "sent as a PDF with a password, which the author is told",
}

// special are the words of a partner's or recipient's rule.
func special(p *policy.Policy, level policy.Protect, key string) string {
	says := protectWords[level]
	if level == policy.Require {
		without, ok := p.NoKeys[key]
		if !ok {
			without = cmp.Or(p.NoKey, policy.NoKeyReject)
		}
		says += ", or " + withoutWords[without]
	}
	if sign, ok := p.Signs[key]; ok {
		says += "; it is " + signWords[sign]
	}
	return says
}

func rules(p *policy.Policy) (list []rule) {
	for _, d := range slices.Sorted(maps.Keys(p.Domains)) {
		says := "is ours; its mail is " + signWords[p.Domains[d]]
		if level := p.Internal[d]; level != "" && level != policy.None {
			says += "; from inside, " + special(p, level, d)
		}
		if len(p.Escrow[d]) > 0 {
			says += "; what is sealed for its authors can be read by " + strings.Join(p.Escrow[d], ", ")
		}
		list = append(list, rule{fmt.Sprintf("domain.%q", d), says + archiveWords(p.Archives[d])})
	}
	for _, a := range slices.Sorted(maps.Keys(p.Recipients)) {
		list = append(list, rule{fmt.Sprintf("recipient.%q", a), special(p, p.Recipients[a], a)})
	}
	for _, d := range slices.Sorted(maps.Keys(p.Partners)) {
		list = append(list, rule{fmt.Sprintf("partner.%q", d), special(p, p.Partners[d], d) + formWords(p.Forms[d], p.Formats)})
	}
	undecryptable := "what does not open is delivered as it came, and marked"
	if p.Undecryptable == policy.Reject {
		undecryptable = "what does not open is refused"
	}
	list = append(list, rule{"default", special(p, p.Default, "") + formWords(policy.Form{Formats: p.Formats}, nil)}, rule{"undecryptable", undecryptable},
		rule{"no-key", "what must be encrypted and cannot be is " + withoutWords[cmp.Or(p.NoKey, policy.NoKeyReject)]})
	downgrade := "once encrypted to somebody, mail to him never goes without again: it is refused"
	switch p.Downgrade {
	case policy.DowngradeDefer:
		downgrade = "once encrypted to somebody, mail to him never goes without again: it is deferred"
	case policy.DowngradeOff:
		downgrade = "it is not remembered to whom mail was encrypted"
	}
	answers := "answers to mail that came encrypted leave encrypted, or not at all"
	if p.Answers == policy.AnswersUsual {
		answers = "answers to mail that came encrypted leave as any mail"
	}
	client := map[policy.Client]string{policy.ClientRefuse: "is refused", policy.ClientOpen: "is opened and encrypted anew"}[p.Client]
	list = append(list, rule{"downgrade", downgrade}, rule{"answers", answers},
		rule{"client-encryption", "what a sender's own program has encrypted " + cmp.Or(client, "passes as it is")})
	if p.Shadow {
		list = append(list, rule{"shadow", "all this is only tried and logged; mail passes as it came"})
	}
	return list
}

// formWords say how, where that is not what is true of all.
func formWords(f policy.Form, usual []keyring.Format) string {
	var words []string
	if f.Formats != nil && !slices.Equal(f.Formats, usual) {
		var names []string
		for _, format := range f.Formats {
			names = append(names, string(format))
		}
		words = append(words, strings.Join(names, ", then "))
	}
	if f.Style.Cipher != "" {
		words = append(words, f.Style.Cipher)
	}
	if f.Style.OAEP {
		words = append(words, "RSAES-OAEP")
	}
	if f.Style.PSS {
		words = append(words, "RSASSA-PSS")
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, "; ")
}

// unread are the entries of escrow that can read nothing now.
func unread(p *policy.Policy, ours []keyring.Identity, at time.Time) (list []string) {
	for _, d := range slices.Sorted(maps.Keys(p.Escrow)) {
		for _, entry := range p.Escrow[d] {
			o, err := parseOwner(entry)
			byName := strings.Contains(entry, "@") && err == nil
			if !slices.ContainsFunc(ours, func(i keyring.Identity) bool {
				mine := i.Fingerprint == keyring.CanonicalFingerprint(entry)
				if byName {
					mine = o.is(i) || i.Domain == o.address.Domain
				}
				return mine && i.Use != hsm.Sign && sealable(i.Cert, at) == nil
			}) {
				list = append(list, fmt.Sprintf("escrow %s of %s has no identity that can be sealed to: sealed mail that nobody else of ours reads along will be deferred", entry, d))
			}
		}
	}
	return list
}

// concerns are rules that would hold mail up as the keyring is now.
func concerns(ctx context.Context, p *policy.Policy, store *keyring.Store, at time.Time) ([]string, error) {
	list := []string{}
	ours, err := store.AllIdentities(ctx)
	if err = absent(err); err != nil {
		return nil, err
	}
	list = append(list, unread(p, ours, at)...)
	more, err := unkept(ctx, p, store, ours, at)
	if err != nil {
		return nil, err
	}
	list = append(list, more...)
	for _, d := range slices.Sorted(maps.Keys(p.Domains)) {
		if p.Domains[d] == policy.SignAlways && !slices.ContainsFunc(ours, func(i keyring.Identity) bool { return i.Domain == d && signs(i, at) == nil }) {
			list = append(list, fmt.Sprintf("mail of %s is to be signed, and there is no valid identity of the domain: mail of users without their own will be deferred", d))
		}
	}
	for _, s := range slices.Sorted(maps.Keys(p.Recipients)) {
		if p.Recipients[s] != policy.Require {
			continue
		}
		a, err := message.ParseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("rule recipient.%q: %w", s, err)
		}
		certs, err := store.Certs(ctx, a)
		if err = absent(err); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(certs, func(c keyring.Cert) bool { return c.Trust == keyring.Trusted && sealable(c, at) == nil }) {
			list = append(list, fmt.Sprintf("mail to %s must be encrypted, and there is no trusted certificate: it will be %s", s, withoutWords[p.Without(a)]))
		}
	}
	for _, d := range slices.Sorted(maps.Keys(p.Partners)) {
		if p.Partners[d] != policy.Require || strings.HasPrefix(d, "*.") {
			continue
		}
		certs, err := store.List(ctx, keyring.Filter{Trust: keyring.Trusted, Domain: d})
		if err = absent(err); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(certs, func(c keyring.Cert) bool { return sealable(c, at) == nil }) {
			list = append(list, fmt.Sprintf("mail to %s must be encrypted, and there is no trusted certificate of anybody there: it will be %s", d, withoutWords[p.Without(message.Address{Local: "postmaster", Domain: d})]))
		}
	}
	return list, nil
}

func valid(c keyring.Cert, at time.Time) bool { return c.Expires.IsZero() || c.Expires.After(at) }

func policyCheck(ctx context.Context, c *call) (any, error) {
	s, err := c.site()
	if err != nil {
		return nil, err
	}
	if s.Policy == nil {
		return nil, no("name the configuration with --config", "check policy: %w", errors.New("there is no configuration at "+c.config()))
	}
	if c.Pipeline != nil {
		if _, err := c.Pipeline(ctx, c.config()); err != nil {
			return nil, fmt.Errorf("build mail path: %w", err)
		}
	}
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	result := checked{Rules: rules(s.Policy)}
	if result.Concerns, err = concerns(ctx, s.Policy, store, c.now()); err != nil {
		return nil, err
	}
	if n := len(result.Concerns); n > 0 {
		return result, no("make the identities, import the certificates, or change the rules", "rules that would hold mail up now: %d", n)
	}
	return result, nil
}

func policyForget(ctx context.Context, c *call) (any, error) {
	a, err := message.ParseAddress(c.args[0])
	if err != nil {
		return nil, misuse("an address looks like name@partner.example", "policy forget %.80q: %w", c.args[0], err)
	}
	if c.Forget == nil {
		return nil, no("use the postern of the gateway's package", "%s: this program was built without the mail path", c.cmd.name())
	}
	since, known, err := c.Forget(ctx, c.config(), a, c.dry())
	switch {
	case err != nil:
		return nil, fmt.Errorf("forget %s: %w", a.Key(), err)
	case !known:
		return did{Already: "no mail to " + a.Key() + " was encrypted"}, nil
	}
	return did{Done: []string{fmt.Sprintf("forget that mail to %s is encrypted since %s", a.Key(), since.Format(time.DateOnly))}, DryRun: c.dry()}, nil
}
