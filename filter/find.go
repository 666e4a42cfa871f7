package filter

import (
	"context"
	"fmt"
	"slices"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
)

// Finder looks for certificates of strangers; directory.Finder is the real one.
type Finder interface {
	// Known gives what is known now, waits for nobody, and begins to ask.
	Known(ctx context.Context, a message.Address) directory.Result
	// Find waits for the budget of one mail at most.
	Find(ctx context.Context, list []message.Address) map[string]directory.Result
}

// find asks the directories for the recipients of an outbound mail whose copy
// would be sealed, and of whom no operator trusts a certificate. Those inside are
// never asked for.
func (g *Gateway) find(ctx context.Context, p *passage) (map[string]directory.Result, error) {
	if g.Finder == nil || p.listener.Direction != policy.Outbound {
		return nil, nil
	}
	var list []message.Address
	for _, r := range p.env.Recipients {
		level, _ := g.Policy.Protection(r.Address)
		if g.Policy.Ours(r.Address.Domain) || level == policy.None || level == policy.OnDemand && !p.asks.Encrypt && !p.facts.Answer && !p.unsealed {
			continue
		}
		certs, err := g.KeyRing.Certs(ctx, r.Address)
		if err != nil {
			return nil, fmt.Errorf("look up certificates: %w", err)
		}
		if !slices.ContainsFunc(certs, func(c keyring.Cert) bool { return c.Trust == keyring.Trusted }) {
			list = append(list, r.Address)
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return g.Finder.Find(ctx, list), nil
}

// noteFound keeps what the directories gave, for operators to see: nothing of it
// is trusted by that.
func (g *Gateway) noteFound(p *passage) {
	if g.Learn == nil || p.supposed {
		return
	}
	for _, about := range p.found {
		for _, f := range about.Found {
			c := f.Cert
			c.FirstSeen, c.LastSeen = p.at, p.at
			g.lessons.put(g, lesson{cert: c, trace: p.env.Trace})
		}
	}
}
