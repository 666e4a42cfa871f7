package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/hsm"
)

// ErrUnfit says that a certificate that arrived by itself is nothing to seal to.
var ErrUnfit = errors.New("certificate not fit to be sealed to")

// gather collects what the decision rests on.
func (g *Gateway) gather(ctx context.Context, p *passage) error {
	if p.listener.Direction == policy.Outbound {
		if err := g.triggered(p); err != nil {
			return err
		}
	}
	p.facts = policy.Facts{Direction: p.listener.Direction, Layer: p.layer, Failed: p.failed, Unsealed: p.unsealed, Asked: p.asks, Author: p.author}
	p.unused = map[string][]unused{}
	shown := map[string]bool{}
	if p.listener.Direction == policy.Outbound {
		var err error
		if p.facts.Answer, err = g.answers(ctx, p.msg); err != nil {
			return err
		}
		p.facts.Tells = g.tells(p)
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
	var err error
	if p.found, err = g.find(ctx, p); err != nil {
		return err
	}
	g.noteFound(p)
	for _, r := range p.env.Recipients {
		if p.outcomes[r.Address] != nil { // gets nothing of it
			continue
		}
		known := policy.Recipient{Address: r.Address, Hidden: !shown[r.Address.Key()]}
		if o, ok := p.opened[r.Address.Key()]; ok {
			known.Opening = o.group
		}
		if p.listener.Direction == policy.Outbound {
			if known.Once, err = g.once(ctx, r.Address); err != nil {
				return err
			}
			about := p.found[r.Address.Key()]
			if known.Certs, p.unused[r.Address.Key()], err = g.usable(ctx, r.Address, p.at, about); err != nil {
				return err
			}
			known.Unsure = len(about.Away) > 0
		}
		p.facts.Recipients = append(p.facts.Recipients, known)
	}
	if err := g.kept(ctx, p); err != nil {
		return err
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
	p.signers, p.facts.Signing, p.idle = g.signers(ids, p.at)
	return nil
}

// signers are those of the identities that sign at the time: the first that can
// of each format, in the order of the protectors; and the others.
func (g *Gateway) signers(ids []keyring.Identity, at time.Time) (by map[keyring.Format]*keyring.Identity, formats []keyring.Format, idle []unused) {
	by = map[keyring.Format]*keyring.Identity{}
	reasons := make([]string, len(ids))
	for _, pr := range g.Protectors {
		for i := range ids {
			id := &ids[i]
			if id.Format != pr.Format() {
				continue
			}
			err := pr.Signs(*id, at)
			switch {
			case err != nil:
				reasons[i] = err.Error()
			case by[id.Format] != nil:
				reasons[i] = "another one goes before it"
			default:
				by[id.Format], reasons[i] = id, ""
				formats = append(formats, id.Format)
			}
		}
	}
	for i, why := range reasons {
		if why != "" {
			idle = append(idle, unused{ids[i].Cert, why})
		}
	}
	return by, formats, idle
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
		fit, _ := g.sealable(certs, p.at)
		p.facts.Escrow = append(p.facts.Escrow, fit)
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

// unused is a certificate that was not taken, and why, in words for operators.
type unused struct {
	keyring.Cert
	why string
}

// sealable are those of the certificates that can be sealed to at the time, in
// the order of the protectors; and the others.
func (g *Gateway) sealable(certs []keyring.Cert, at time.Time) (list []policy.Sealable, not []unused) {
	for _, pr := range g.Protectors {
		for _, c := range certs {
			if c.Format != pr.Format() {
				continue
			}
			if err := pr.Usable(c, at); err != nil {
				not = append(not, unused{c, err.Error()})
				continue
			}
			list = append(list, policy.Sealable{Cert: c, Class: pr.Class(c)})
		}
	}
	return list, not
}

// once tells whether mail to a was sealed before.
func (g *Gateway) once(ctx context.Context, a message.Address) (bool, error) {
	if g.Record == nil || g.Policy.Downgrade == policy.DowngradeOff {
		return false, nil
	}
	_, ok, err := g.Record.Protected(ctx, a)
	if err != nil {
		return false, fmt.Errorf("ask whether mail to %s was sealed before: %w", a.Key(), err)
	}
	return ok, nil
}

// usable are the certificates that mail to a can be sealed to now: those that
// an operator trusts, and that nobody has revoked. Where he has trusted none,
// not even one that has expired, it is those that the directories vouch for, and
// those that arrived by themselves and that the Judge lets pass (R16: mail adds
// to nothing that a person has said). The others come with the reason why they
// are not taken.
func (g *Gateway) usable(ctx context.Context, a message.Address, at time.Time, about directory.Result) ([]policy.Sealable, []unused, error) {
	all, err := g.KeyRing.Certs(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("look up certificates: %w", err)
	}
	var trusted, seen []keyring.Cert
	var not []unused
	for _, c := range all {
		switch c.Trust {
		case keyring.Trusted:
			trusted = append(trusted, c)
		case keyring.Seen:
			seen = append(seen, c)
		default:
			not = append(not, unused{c, "an operator distrusts it"})
		}
	}
	skip := func(list []keyring.Cert, why string) {
		for _, c := range list {
			not = append(not, unused{c, why})
		}
	}
	valid := func(list []keyring.Cert) []policy.Sealable {
		fit, out := g.sealable(list, at)
		not = append(not, out...)
		return slices.DeleteFunc(fit, func(c policy.Sealable) bool {
			revoked := g.Revoked != nil && g.Revoked(ctx, c.Cert, at)
			if revoked {
				not = append(not, unused{c.Cert, "its authority has revoked it"})
			}
			return revoked
		})
	}
	if len(trusted) > 0 {
		fit := valid(trusted)
		skip(seen, "it arrived by itself, and no operator has said that it is trusted")
		return fit, not, nil
	}
	var vouched []keyring.Cert
	for _, f := range about.Found {
		same := func(c keyring.Cert) bool { return c.Fingerprint == f.Fingerprint }
		if slices.ContainsFunc(all, func(c keyring.Cert) bool { return same(c) && c.Trust == keyring.Distrusted }) {
			continue
		}
		seen = slices.DeleteFunc(seen, same)
		if f.Use {
			vouched = append(vouched, f.Cert)
		} else {
			not = append(not, unused{f.Cert, f.Why})
		}
	}
	fit := valid(vouched)
	if g.Judge == nil {
		skip(seen, "it arrived by itself, and no operator has said that it is trusted")
		return fit, not, nil
	}
	able, out := g.sealable(seen, at)
	not = append(not, out...)
	for _, c := range able {
		switch err := g.Judge(ctx, c.Cert, a, at); {
		case err == nil:
			fit = append(fit, c)
		case !errors.Is(err, ErrUnfit):
			return nil, nil, fmt.Errorf("judge certificate %s: %w", c.Fingerprint, err)
		default:
			not = append(not, unused{c.Cert, err.Error()})
		}
	}
	return fit, not, nil
}
