package policy

import (
	"slices"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Archive says where one more copy of a domain's mail is kept, sealed. Its key
// is not here.
type Archive struct {
	Address  message.Address
	Certs    []string // fingerprints of trusted certificates of Address; the first that can be used is taken
	Inbound  bool     // of what comes sealed
	Outbound bool     // of what is sealed for the domain's authors
	Without  bool     // mail passes without its copy while nobody takes that
}

// Kept is what is known of the archive of one of our domains.
type Kept struct {
	Domain  string
	Certs   []Sealable       // those of its rule that can be sealed to, in the order of the rule
	Signing []keyring.Format // the formats in which we hold an identity that signs for the domain
}

// archive adds the copies that archives get. Inbound it is all mail that came
// sealed, whether it could be opened or not: where only one of both waited for
// an archive, its sender would learn which it was (R1). What did not open, and
// is an archive's copy that came back, gets no other one. Nor does anybody who
// is the archive himself.
func (p *Policy) archive(f Facts, d Decision) Decision {
	if len(p.Archives) == 0 {
		return d
	}
	var copies []Plan
	named := map[message.Address]bool{}
	add := func(domain string, to message.Address) {
		if named[to] || to.Key() == p.Archives[domain].Address.Key() {
			return
		}
		named[to] = true
		i := slices.IndexFunc(copies, func(c Plan) bool { return c.Archive == domain })
		if i < 0 {
			i = len(copies)
			copies = append(copies, Plan{Archive: domain, Recipients: []message.Address{p.Archives[domain].Address}})
		}
		copies[i].Of = append(copies[i].Of, to)
	}
	home := strings.ToLower(f.Author.Domain)
	for _, plan := range d.Plans {
		for _, to := range plan.Recipients {
			domain := strings.ToLower(to.Domain)
			switch {
			case f.Direction == Outbound && (plan.Encrypt || plan.PDF) && p.Archives[home].Outbound:
				add(home, to)
			case f.Direction == Inbound && f.Layer == protect.Sealed && p.Archives[domain].Inbound && (plan.Opened || !f.Returned):
				add(domain, to)
			}
		}
	}
	for i := range copies {
		c := &copies[i]
		at := slices.IndexFunc(f.Kept, func(k Kept) bool { return k.Domain == c.Archive })
		var sealed Sealable
		if at >= 0 {
			kept := f.Kept[at]
			if fit := slices.IndexFunc(kept.Certs, func(s Sealable) bool { return slices.Contains(kept.Signing, s.Format) }); fit >= 0 {
				sealed = kept.Certs[fit]
			}
		}
		if sealed.Fingerprint == "" {
			return Decision{Action: Defer, Reason: ReasonNoArchive, Rule: `domain."` + c.Archive + `"`}
		}
		c.Format, c.Class, c.Certs = sealed.Format, sealed.Class, []keyring.Cert{sealed.Cert}
		c.Style = styleOf(c.Format, p.Form(c.Recipients[0]).Style)
		c.Sign, c.Encrypt = true, true
	}
	d.Plans = append(d.Plans, copies...)
	return d
}
