package filter

import (
	"fmt"
	"slices"
	"strings"

	"postern/filter/message"
	"postern/filter/policy"
)

// asked holds a client to what was agreed with the partner whose mail it
// brings, by the sender's domain and by its own names. Those it has only from
// itself, out of EHLO, count as well: they can but add to what is asked.
func (g *Gateway) asked(p *passage) error {
	if p.listener.Direction != policy.Inbound || p.supposed {
		return nil
	}
	var hosts []string
	for _, name := range append([]string{p.env.Hello}, p.env.Cert.Names...) {
		if a, err := message.ParseAddress("postmaster@" + strings.TrimPrefix(name, "*.")); err == nil { // in its own letters, as partners are written
			hosts = append(hosts, a.Domain)
		}
	}
	for _, r := range g.Policy.Inbound(p.env.From.Domain, hosts) {
		p.decision = policy.Decision{Action: policy.Refuse, Rule: r.Rule}
		switch {
		case !r.TLS:
		case p.env.TLS == nil:
			return fmt.Errorf("rule %s: mail in clear: %w", r.Rule, ErrClear)
		case p.env.TLS.Version < r.Min:
			return fmt.Errorf("rule %s: TLS version %#x, want %#x: %w", r.Rule, p.env.TLS.Version, r.Min, ErrClient)
		case len(r.Pins) > 0 && !slices.Contains(r.Pins, p.env.Cert.Pin):
			return fmt.Errorf("rule %s: client certificate with key %x: %w", r.Rule, p.env.Cert.Pin, ErrClient)
		}
		p.decision = policy.Decision{}
	}
	return nil
}
