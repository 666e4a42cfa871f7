package provisioning

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
)

// archiveWords say what goes to an archive.
func archiveWords(a policy.Archive) string {
	var what []string
	if a.Inbound {
		what = append(what, "what comes sealed")
	}
	if a.Outbound {
		what = append(what, "what is sealed for its authors")
	}
	if len(what) == 0 {
		return ""
	}
	says := "; " + strings.Join(what, " and ") + " goes to the archive " + a.Address.Key()
	if a.Without {
		return says + ", where that takes it"
	}
	return says + ", or waits"
}

// unkept are the archives for which nothing can be sealed and signed now.
func unkept(ctx context.Context, p *policy.Policy, store *keyring.Store, ours []keyring.Identity, at time.Time) (list []string, err error) {
	for _, d := range slices.Sorted(maps.Keys(p.Archives)) {
		a := p.Archives[d]
		certs, err := store.Certs(ctx, a.Address)
		if err = absent(err); err != nil {
			return nil, err
		}
		var fit []keyring.Format
		var why []string
		for _, name := range a.Certs {
			name = keyring.CanonicalFingerprint(name)
			is := func(c keyring.Cert) bool { return c.Fingerprint == name }
			i := slices.IndexFunc(certs, is)
			switch {
			case i < 0:
				why = append(why, "the keyring has no certificate "+name+" of that address")
			case certs[i].Trust != keyring.Trusted:
				why = append(why, name+" is not trusted")
			case slices.ContainsFunc(ours, func(i keyring.Identity) bool { return is(i.Cert) }):
				why = append(why, name+" is our own: its key is here")
			default:
				if err := sealable(certs[i], at); err != nil {
					why = append(why, name+": "+err.Error())
					continue
				}
				fit = append(fit, certs[i].Format)
			}
		}
		keeper := message.Address{Local: "postmaster", Domain: d}
		signed := slices.ContainsFunc(ours, func(i keyring.Identity) bool {
			return (i.Domain == d || i.Domain == "" && i.Address.Key() == keeper.Key()) && slices.Contains(fit, i.Format) && signs(i, at) == nil
		})
		switch {
		case len(fit) == 0:
			list = append(list, fmt.Sprintf("nothing can be sealed for the archive %s of %s: what must be archived will be deferred: %s", a.Address.Key(), d, strings.Join(why, "; ")))
		case !signed:
			list = append(list, fmt.Sprintf("no identity of %s or %s signs for the archive %s in its format: what must be archived will be deferred", d, keeper.Key(), a.Address.Key()))
		}
	}
	return list, nil
}
