package filter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// ErrArchive says that an archive's next hop does not take its copy.
var ErrArchive = errors.New("archive does not take its copy")

// share is what an archive holds of a mail under one name of the record: for
// those recipients.
type share struct {
	name record.Name
	of   []message.Address
}

// shares names what the archive of a plan holds of the mail n. A mail that did
// not open in an earlier try, and does now, is another one for the archive.
func (p *passage) shares(n record.Name, plan policy.Plan) (list []share) {
	named := setOf(plan.Of)
	for _, opened := range []bool{false, true} {
		s := share{name: sha256.Sum256(fmt.Appendf(nil, "archive\n%x\n%s\n%s\n%t", n, plan.Archive, plan.Recipients[0].Key(), opened))}
		for _, one := range p.decision.Plans {
			if one.Archive != "" || one.Opened != opened {
				continue
			}
			for _, a := range one.Recipients {
				if named[a] {
					s.of = append(s.of, a)
				}
			}
		}
		if len(s.of) > 0 {
			list = append(list, s)
		}
	}
	return list
}

func setOf(list []message.Address) map[message.Address]bool {
	set := make(map[message.Address]bool, len(list))
	for _, a := range list {
		set[a] = true
	}
	return set
}

// deposit gives archives their copies, before anybody else has his: a mail that is
// nobody's yet can wait. Whatever an archive's next hop answers, its no is not
// the mail's. Where each recipient has an answer of his own (LMTP), only those
// wait whose mail it is.
func (g *Gateway) deposit(ctx context.Context, p *passage, n record.Name) error {
	for _, c := range p.archived {
		shares := p.shares(n, c.Plan)
		has, err := g.keeps(ctx, shares)
		if err != nil {
			return err
		}
		if has {
			p.stored(c, &outcome{reply: reply(250, [3]int{2, 0, 0}, "archived earlier"), plan: c.Plan, earlier: true})
			continue
		}
		o := g.store(ctx, p, c)
		p.stored(c, o)
		if o.err != nil {
			err := fmt.Errorf("archive at %s: %v: %w", c.Plan.Recipients[0].Key(), o.err, ErrArchive)
			switch {
			case g.Policy.Archives[c.Plan.Archive].Without:
				g.Log.LogAttrs(ctx, slog.LevelError, "archive", slog.String("trace", p.env.Trace), slog.String("error", err.Error()))
			case !p.env.LMTP:
				return err
			default:
				for _, a := range c.Plan.Of {
					if p.outcomes[a] == nil {
						p.outcome(a, &outcome{err: err})
					}
				}
			}
			continue
		}
		for _, s := range shares {
			var of []record.Share
			for _, a := range s.of {
				of = append(of, record.Share{To: a})
			}
			if err := g.Record.Part(context.WithoutCancel(ctx), s.name, of); err != nil {
				return err
			}
		}
	}
	return nil
}

// keeps tells whether an archive holds all that already.
func (g *Gateway) keeps(ctx context.Context, shares []share) (bool, error) {
	if g.Record == nil {
		return false, nil
	}
	for _, s := range shares {
		parts, err := g.Record.Parts(ctx, s.name)
		if err != nil {
			return false, err
		}
		for _, a := range s.of {
			if _, known := parts.Find(a); !known {
				return false, nil
			}
		}
	}
	return true, nil
}

func (p *passage) stored(c Copy, o *outcome) {
	if p.archives == nil {
		p.archives = map[string]*outcome{}
	}
	p.archives[c.Plan.Archive] = o
}

// store gives one archive its copy. It is a mail of its own: nobody hears that
// it was or was not delivered, and nothing of the sender's envelope stands in its.
func (g *Gateway) store(ctx context.Context, p *passage, c Copy) *outcome {
	o := &outcome{plan: c.Plan}
	hop, _ := g.hopTo(c.Plan)
	if hop == nil {
		o.err = ErrConfig
		return o
	}
	env := &transport.Envelope{Trace: p.env.Trace, Null: true, Recipients: []transport.Recipient{{Address: c.Plan.Recipients[0], Notify: "NEVER"}}, Size: c.Message.Len()}
	if env.UTF8, o.err = international(env, c.Message); o.err != nil {
		return o
	}
	res := hop.Deliver(ctx, env, env.Size, c.Message)
	if o.onward, o.err = res.Carriage, res.Err; o.err == nil && len(res.Replies) != 1 {
		o.err = fmt.Errorf("%d replies for one recipient", len(res.Replies))
	}
	if o.err == nil {
		if o.reply = res.Replies[0]; o.reply.Code/100 != 2 {
			o.err = o.reply
		}
	}
	return o
}

// hopTo is where an archive's copy goes next: a hop of its own, or the one of
// mail to such an address.
func (g *Gateway) hopTo(plan policy.Plan) (hop Hop, own bool) {
	a := plan.Recipients[0]
	if hop = g.Archives[a.Key()]; hop != nil {
		return hop, true
	}
	if g.Policy.Ours(a.Domain) {
		return g.Hops[policy.Inbound], true
	}
	return g.Hops[policy.Outbound], false
}

// level is what is asked of the way of a copy.
func (g *Gateway) level(p *passage, plan policy.Plan) policy.Level {
	onward := p.listener.Direction == policy.Outbound
	if plan.Archive != "" {
		_, own := g.hopTo(plan)
		onward = !own
	}
	if !onward {
		return policy.NextHop
	}
	return g.Policy.Transport(plan)
}
