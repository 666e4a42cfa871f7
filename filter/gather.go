package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/hsm"
)

// ErrUnfit says that a certificate that arrived by itself is nothing to seal to.
var ErrUnfit = errors.New("certificate not fit to be sealed to")

// gather collects what the decision rests on.
func (g *Gateway) gather(ctx context.Context, p *passage) error {
	p.facts = policy.Facts{Direction: p.listener.Direction, Layer: p.layer, Failed: p.failed, Author: p.author}
	shown := map[string]bool{}
	if p.listener.Direction == policy.Outbound {
		if err := g.identities(ctx, p); err != nil {
			return err
		}
		for _, name := range []string{"To", "Cc"} {
			for _, f := range p.msg.All(name) {
				value, err := p.msg.Value(f)
				if err != nil {
					return fmt.Errorf("read %s: %w", name, err)
				}
				list, err := message.ParseFrom(value)
				if err != nil {
					continue // who can't be read is not shown, and gets a copy of his own
				}
				for _, a := range list {
					shown[a.Key()] = true
				}
			}
		}
	}
	for _, r := range p.env.Recipients {
		known := policy.Recipient{Address: r.Address, Hidden: !shown[r.Address.Key()]}
		if o, ok := p.opened[r.Address.Key()]; ok {
			known.Opening = o.group
		}
		if p.listener.Direction == policy.Outbound {
			var err error
			if known.Certs, err = g.usable(ctx, r.Address, p.at); err != nil {
				return err
			}
		}
		p.facts.Recipients = append(p.facts.Recipients, known)
	}
	return g.escrow(ctx, p)
}

// identities finds with what the author's mail can be signed.
func (g *Gateway) identities(ctx context.Context, p *passage) error {
	p.signers = map[keyring.Format]*keyring.Identity{}
	if p.author.IsZero() {
		return nil
	}
	ids, err := g.KeyRing.Identities(ctx, p.author)
	if err != nil {
		return fmt.Errorf("look up author: %w", err)
	}
	p.own = ids
	for _, pr := range g.Protectors {
		for i := range ids {
			if id := &ids[i]; id.Format == pr.Format() && p.signers[id.Format] == nil && pr.Signs(*id, p.at) == nil {
				p.signers[id.Format] = id
				p.facts.Signing = append(p.facts.Signing, id.Format)
			}
		}
	}
	return nil
}

// escrow finds the certificates of ours that read along what the author seals.
func (g *Gateway) escrow(ctx context.Context, p *passage) error {
	for _, name := range g.Policy.Escrow[strings.ToLower(p.author.Domain)] {
		ids, err := g.named(ctx, name)
		if err != nil {
			return fmt.Errorf("look up escrow %q: %w", name, err)
		}
		var certs []keyring.Cert
		for _, id := range ids {
			if id.Use != hsm.Sign { // such a key opens nothing, whatever its certificate allows
				certs = append(certs, id.Cert)
			}
		}
		p.facts.Escrow = append(p.facts.Escrow, g.sealable(certs, p.at))
	}
	return nil
}

// named are our identities of an address or with a fingerprint.
func (g *Gateway) named(ctx context.Context, name string) ([]keyring.Identity, error) {
	if !strings.Contains(name, "@") {
		return g.KeyRing.Ours(ctx, keyring.CanonicalFingerprint(name))
	}
	a, err := message.ParseAddress(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrConfig)
	}
	return g.KeyRing.Identities(ctx, a)
}

// sealable are those of the certificates that can be sealed to at the time, in
// the order of the protectors.
func (g *Gateway) sealable(certs []keyring.Cert, at time.Time) (list []policy.Sealable) {
	for _, pr := range g.Protectors {
		for _, c := range certs {
			if c.Format == pr.Format() && pr.Usable(c, at) == nil {
				list = append(list, policy.Sealable{Cert: c, Class: pr.Class(c)})
			}
		}
	}
	return list
}

// usable are the certificates that mail to a can be sealed to now: those that
// an operator trusts, and that nobody has revoked. Where he has trusted none, not even one that has
// expired, it is those that arrived by themselves and that the Judge lets
// pass (R16: mail adds to nothing that a person has said).
func (g *Gateway) usable(ctx context.Context, a message.Address, at time.Time) ([]policy.Sealable, error) {
	all, err := g.KeyRing.Certs(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("look up certificates: %w", err)
	}
	var trusted, seen []keyring.Cert
	for _, c := range all {
		switch c.Trust {
		case keyring.Trusted:
			trusted = append(trusted, c)
		case keyring.Seen:
			seen = append(seen, c)
		}
	}
	if len(trusted) > 0 || g.Judge == nil {
		return slices.DeleteFunc(g.sealable(trusted, at), func(c policy.Sealable) bool { return g.Revoked != nil && g.Revoked(ctx, c.Cert, at) }), nil
	}
	var fit []policy.Sealable
	for _, c := range g.sealable(seen, at) {
		switch err := g.Judge(ctx, c.Cert, a, at); {
		case err == nil:
			fit = append(fit, c)
		case !errors.Is(err, ErrUnfit):
			return nil, fmt.Errorf("judge certificate %s: %w", c.Fingerprint, err)
		}
	}
	return fit, nil
}
