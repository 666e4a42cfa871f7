package filter

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/arc"
	"postern/filter/authres"
	"postern/filter/dkim"
	"postern/filter/policy"
)

// Attest is what the gateway says of mail with keys of domains.
type Attest struct {
	Keys Attesters
	// Domains are those of our own whose mail leaves with a DKIM signature, or
	// not at all.
	Domains map[string]bool
	// Seal is the domain in whose name an ARC set is added to inbound mail; ""
	// for none. Opened leaves it to mail that was opened.
	Seal   string
	Opened bool
}

// Attesters has the keys that sign for a domain now: one of each algorithm. No
// key is an error. dkim.Ring is the real one.
type Attesters interface {
	Keys(ctx context.Context, domain string, at time.Time) ([]dkim.Key, error)
	Stale(err error)
}

// attest signs every copy as it leaves. Nothing of a copy changes after it. In
// shadow mode nothing is signed.
func (g *Gateway) attest(ctx context.Context, p *passage) error {
	if g.Attest.Keys == nil || g.Policy.Shadow {
		return nil
	}
	if p.listener.Direction == policy.Inbound {
		err := g.sealOn(ctx, p)
		if err != nil {
			g.Attest.Keys.Stale(err)
		}
		return err
	}
	domains, err := domainsOf(p.msg)
	if err != nil {
		return err
	}
	slices.Sort(domains)
	for _, d := range slices.Compact(domains) {
		keys, err := g.signAs(ctx, d, p, p.copies)
		if err != nil {
			return err
		}
		for _, k := range keys {
			p.attested = append(p.attested, k.Selector+"._domainkey."+k.Domain)
		}
	}
	return nil
}

// signAs signs copies with DKIM in the name of a domain, where that does so.
func (g *Gateway) signAs(ctx context.Context, domain string, p *passage, copies []Copy) (keys []dkim.Key, err error) {
	if g.Attest.Keys == nil || !g.Attest.Domains[strings.ToLower(domain)] {
		return nil, nil
	}
	defer func() {
		if err != nil {
			g.Attest.Keys.Stale(err)
		}
	}()
	keys, err = g.Attest.Keys.Keys(ctx, domain, p.at)
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", domain, err)
	}
	for i := range copies {
		if err := topOff(&copies[i], func(c *Copy) ([]byte, error) { return dkim.Sign(c.Message, keys, p.at) }); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// sealOn adds an ARC set to inbound mail. A chain that nobody adds to stays as it is.
func (g *Gateway) sealOn(ctx context.Context, p *passage) error {
	if g.Attest.Seal == "" || p.origin == nil {
		return nil
	}
	var key *dkim.Key
	for i := range p.copies {
		c := &p.copies[i]
		if g.Attest.Opened && !c.Finding.Opened {
			continue
		}
		if key == nil {
			keys, err := g.Attest.Keys.Keys(ctx, g.Attest.Seal, p.at)
			if err != nil {
				return fmt.Errorf("seal as %s: %w", g.Attest.Seal, err)
			}
			at := slices.IndexFunc(keys, func(k dkim.Key) bool { _, ok := k.Signer.Public().(*rsa.PublicKey); return ok })
			if at < 0 { // RFC 8617 has rsa-sha256 only
				return fmt.Errorf("seal as %s: no RSA key: %w", g.Attest.Seal, ErrConfig)
			}
			key = &keys[at]
		}
		err := topOff(c, func(c *Copy) ([]byte, error) {
			return arc.Seal(c.Message, p.chain, *key, authres.Results(g.Name, c.results...), p.at)
		})
		if err != nil && !errors.Is(err, arc.ErrEnded) {
			return err
		}
	}
	return nil
}

// topOff puts fields on top of a copy.
func topOff(c *Copy, fields func(*Copy) ([]byte, error)) error {
	top, err := fields(c)
	if err != nil {
		return err
	}
	signed := *c.Message
	signed.Top = slices.Concat(top, c.Message.Top)
	c.Message = &signed
	return nil
}
