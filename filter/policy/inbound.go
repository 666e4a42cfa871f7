package policy

import "strings"

// Ruled is a demand and the name of its rule.
type Ruled struct {
	Demand
	Rule string
}

// Inbound is all that is asked of a client that brings mail with a sender at
// domain, "" for the null sender, and that has hosts for names, whether it
// proved them or only says so: a name adds a demand, and never takes one away.
// A host is a partner's when it has the partner's name or stands below it.
func (p *Policy) Inbound(domain string, hosts []string) (asked []Ruled) {
	seen := map[string]bool{}
	add := func(rule string, w Way) {
		if w.Inbound.TLS && !seen[rule] {
			seen[rule] = true
			asked = append(asked, Ruled{w.Inbound, rule})
		}
	}
	if domain != "" {
		w, rule := p.Way(domain)
		add(rule, w)
	}
	for _, host := range hosts {
		for name := strings.ToLower(host); name != ""; _, name, _ = strings.Cut(name, ".") {
			if w, rule := p.Way(name); rule != "default" {
				add(rule, w)
				break // the nearest name decides
			}
		}
	}
	return asked
}
