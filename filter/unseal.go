package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm"
)

// unseal takes off what the sender's own program has sealed, where the site
// wants that: with the keys of the author, or of his domain, alone. What is
// inside goes on only where it is surely the author's to send: he has logged
// in, or has signed it; and his address is that of the envelope. Otherwise
// whoever may use the listener, and has got hold of a mail that was sealed for
// somebody inside, could have it opened. A mail that does not open so is
// refused by the policy, with one text for every cause.
func (g *Gateway) unseal(ctx context.Context, p *passage) error {
	if g.Policy.Client != policy.ClientOpen || p.layer != protect.Sealed {
		return nil
	}
	p.failed = true // until all is known
	if p.author.IsZero() || p.author.Key() != p.env.From.Key() {
		return nil
	}
	ids, err := g.KeyRing.Identities(ctx, p.author)
	if err != nil {
		return fmt.Errorf("look up author: %w", err)
	}
	known, err := g.KeyRing.Certs(ctx, p.author)
	if err != nil {
		return fmt.Errorf("look up author: %w", err)
	}
	for _, id := range ids {
		known = append(known, id.Cert)
	}
	opened, finding, err := p.protector.Open(ctx, protect.OpenRequest{
		Message: p.msg, Identities: ids, Certs: known, At: p.at,
		NewSpool: func() *message.Spool { return g.spoolFor(p) },
	})
	switch {
	case errors.Is(err, protect.ErrCannotOpen), errors.Is(err, hsm.ErrInvalid), err != nil && refusal(err):
		return nil
	case err != nil:
		return fmt.Errorf("open mail: %w", err)
	}
	author, err := opened.Author()
	signed := finding.Good && slices.ContainsFunc(finding.Signers, func(a message.Address) bool { return a.Key() == p.author.Key() })
	if !finding.Opened || err != nil || author.Key() != p.author.Key() || !p.env.Owns(p.author) && !signed {
		return nil
	}
	p.failed, p.unsealed = false, true
	p.msg, p.read, p.finding = opened, opened, finding
	g.detect(p)
	return nil
}
