package gateway

import (
	"slices"
	"time"

	"golang.org/x/net/idna"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/dkim"
	"postern/filter/dmarc"
	"postern/hsm"
)

// authenticate wires what is asked of domains, and what is said in the name of ours.
func authenticate(all *filter.Config, c *config.Filterd, token hsm.Token) {
	a := c.Authentication
	if a.DMARC != "off" {
		all.Origins = &dmarc.Checker{Names: Names(c), Budget: time.Duration(a.Budget)}
		all.Enforce = a.DMARC == "enforce"
	}
	all.Attest = filter.Attest{Keys: &dkim.Ring{Token: token}, Domains: map[string]bool{}}
	for d, v := range c.Domains {
		all.Attest.Domains[d] = v.DKIM == "sign"
	}
	if a.ARC != "off" {
		all.Attest.Seal, all.Attest.Opened = a.Seal, a.ARC == "opened"
	}
}

// MX are the names of the gateway as a server for mail from outside, in A-labels:
// those that its listeners show in TLS, or its own.
func MX(c *config.Filterd) (list []string) {
	for _, l := range c.Listeners {
		if l.Direction != "inbound" || l.TLS.Identity == "" {
			continue
		}
		if ascii, err := idna.Lookup.ToASCII(l.TLS.Identity); err == nil && !slices.Contains(list, ascii) {
			list = append(list, ascii)
		}
	}
	if list == nil {
		list = []string{c.AuthservID}
	}
	return list
}
