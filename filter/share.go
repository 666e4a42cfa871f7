package filter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// outcome is what became of one recipient's copy.
type outcome struct {
	reply   transport.Reply // of the next hop, where it took the copy
	err     error           // why it did not: a Reply, or trouble on the way
	onward  transport.Carriage
	plan    policy.Plan
	earlier bool // in another try
}

// final says that the recipient has his copy, or will never have it.
func (o *outcome) final() bool { return o.err == nil || refusal(o.err) }

// apart decides about each recipient by himself, where the mail as a whole does
// not pass and each of them gets an answer of his own (LMTP): what is wrong for
// one keeps it from no other.
func (g *Gateway) apart(p *passage) error {
	whole := faultOf(p.decision)
	if !p.env.LMTP || len(p.facts.Recipients) < 2 {
		return whole
	}
	alone := func(r ...policy.Recipient) policy.Decision {
		f := p.facts
		f.Recipients = r
		f.Failed = f.Failed && slices.ContainsFunc(r, func(r policy.Recipient) bool { return r.Opening == "" })
		return g.Policy.Decide(f)
	}
	var rest []policy.Recipient
	for _, r := range p.facts.Recipients {
		if d := alone(r); d.Action == policy.Relay {
			rest = append(rest, r)
		} else {
			p.outcome(r.Address, &outcome{err: faultOf(d)})
		}
	}
	if len(rest) == 0 {
		return whole
	}
	if p.decision = alone(rest...); p.decision.Action != policy.Relay {
		return faultOf(p.decision)
	}
	return p.covered()
}

// carried notes what the next hop said of one copy.
func (p *passage) carried(env *transport.Envelope, c Copy, res transport.Result) {
	if res.Err == nil && len(res.Replies) != len(env.Recipients) {
		res.Err = fmt.Errorf("%d replies for %d recipients", len(res.Replies), len(env.Recipients))
	}
	for i, r := range env.Recipients {
		o := &outcome{err: res.Err, onward: res.Carriage, plan: c.Plan}
		if len(res.Each) == len(env.Recipients) {
			o.onward = res.Each[i]
		}
		if o.err == nil {
			if o.reply = res.Replies[i]; o.reply.Code/100 != 2 {
				o.err = o.reply
			}
		}
		p.outcome(r.Address, o)
	}
}

func (p *passage) outcome(a message.Address, o *outcome) {
	if p.outcomes == nil {
		p.outcomes = map[message.Address]*outcome{}
	}
	p.outcomes[a] = o
}

// nameOf names a mail by what stays the same when its sender tries again: the
// side it came from, the envelope sender, and every byte as it came: what we add
// is new each time. A sender that changes a byte makes somebody read his mail
// twice; naming a mail by less could keep one from him.
func (g *Gateway) nameOf(p *passage) (record.Name, error) {
	if p.name != (record.Name{}) {
		return p.name, nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", p.listener.Direction, p.env.From.String())
	if _, err := io.Copy(h, io.NewSectionReader(p.came.Source, 0, p.came.Source.Size())); err != nil {
		return p.name, fmt.Errorf("read mail: %w", err)
	}
	p.name = record.Name(h.Sum(nil))
	return p.name, nil
}

// earlier finds out what became of the mail when its sender tried before. A mail
// to one recipient needs no name where no other is remembered.
func (g *Gateway) earlier(ctx context.Context, p *passage) (n record.Name, err error) {
	if g.Record == nil || len(p.env.Recipients) == 1 && len(p.archived) == 0 && !g.Record.Parted() {
		return n, nil
	}
	if len(p.copies)+len(p.archived) > 1 || g.Record.Broken() {
		if err := g.Record.Ready(ctx); err != nil {
			return n, err
		}
	}
	if n, err = g.nameOf(p); err != nil {
		return n, err
	}
	parts, err := g.Record.Parts(ctx, n)
	if err != nil {
		return n, err
	}
	for _, r := range p.env.Recipients {
		if refused, known := parts.Find(r.Address); known {
			o := &outcome{reply: reply(250, [3]int{2, 0, 0}, "delivered earlier"), earlier: true}
			if refused != nil {
				o.err = *refused
			}
			p.outcome(r.Address, o)
		}
	}
	return n, nil
}

// remember writes down what is final for those recipients. It is on the disk
// before their sender hears of them.
func (g *Gateway) remember(ctx context.Context, p *passage, n record.Name, of []transport.Recipient) error {
	var shares []record.Share
	for _, r := range of {
		o := p.outcomes[r.Address]
		if o == nil || o.earlier || !o.final() {
			continue
		}
		s := record.Share{To: r.Address}
		if o.err != nil {
			no := plainReply(o.err)
			s.Refused = &no
		}
		shares = append(shares, s)
	}
	return g.write(ctx, p, n, shares)
}

// write writes shares down, also where the daemon is about to end. Whoever is
// refused for good is refused at RCPT when the sender comes back.
func (g *Gateway) write(ctx context.Context, p *passage, n record.Name, shares []record.Share) error {
	ctx = context.WithoutCancel(ctx)
	if err := g.Record.Part(ctx, n, shares); err != nil {
		return err
	}
	for _, s := range shares {
		if s.Refused != nil && !p.env.LMTP {
			if err := g.Record.Refuse(ctx, envelopeName(p.listener, p.env, s.To), *s.Refused); err != nil {
				return err
			}
		}
	}
	return nil
}

// heard writes down at once what is final for some recipients of a copy that
// goes several ways, or a crash would forget it while the others are waited for.
func (g *Gateway) heard(ctx context.Context, p *passage, n record.Name, of []transport.Recipient, replies []transport.Reply) {
	var shares []record.Share
	for i, r := range replies[:min(len(replies), len(of))] {
		switch r.Code / 100 {
		case 2:
			shares = append(shares, record.Share{To: of[i].Address})
		case 5:
			shares = append(shares, record.Share{To: of[i].Address, Refused: &r})
		}
	}
	if err := g.write(ctx, p, n, shares); err != nil { // it is tried again with the others
		g.Log.LogAttrs(ctx, slog.LevelWarn, "record", slog.String("trace", p.env.Trace), slog.String("error", err.Error()))
	}
}

// settle is what the sender hears of all copies together.
//
// SMTP has one answer for them. One recipient who may still get his copy makes
// it a deferral: whoever has his does not get it again. Where some have theirs
// and the others never will, neither yes nor no is true. It is a deferral too,
// and when the sender comes back each refused recipient is refused at RCPT,
// where a refusal is exact. A sender that comes back with another envelope hears
// that refusal after the mail.
func (g *Gateway) settle(ctx context.Context, p *passage, n record.Name) error {
	var has, again bool // somebody has his copy; the sender has something to come back for
	var waits, refused error
	for _, r := range p.env.Recipients {
		switch o := p.outcomes[r.Address]; {
		case o.err == nil:
			has = true
			if p.result == (transport.Reply{}) || !o.earlier {
				p.result = o.reply
			}
		case !o.final():
			if waits == nil {
				waits = o.err
			}
		default:
			if refused == nil {
				refused = o.err
			}
			again = again || !o.earlier
		}
	}
	if has {
		g.learn(p)
		g.hear(p)
		g.joiners(p)
	}
	switch {
	case waits != nil && (has || refused != nil), waits == nil && has && again && !p.env.LMTP && g.Record != nil:
		if err := g.remember(ctx, p, n, p.env.Recipients); err != nil {
			return err
		}
		if waits == nil {
			return fmt.Errorf("relay mail: %w: %w", ErrParted, shown{refused})
		}
		return fmt.Errorf("relay mail: %w", waits)
	case waits != nil:
		return fmt.Errorf("relay mail: %w", waits)
	}
	if err := g.forget(context.WithoutCancel(ctx), p, n); err != nil {
		g.Log.LogAttrs(ctx, slog.LevelWarn, "record", slog.String("trace", p.env.Trace), slog.String("error", err.Error())) // the mail is through: what stands there expires
	}
	if refused != nil {
		return fmt.Errorf("relay mail: %w", refused)
	}
	return nil
}

// shown is an error for the log, whose reply is not the sender's.
type shown struct{ err error }

func (s shown) Error() string { return s.err.Error() }

// forget forgets a mail of which its sender knows all that there is to know.
func (g *Gateway) forget(ctx context.Context, p *passage, n record.Name) error {
	var all []message.Address
	for _, r := range p.env.Recipients {
		all = append(all, r.Address)
		if p.outcomes[r.Address].err != nil && !p.env.LMTP {
			if _, _, err := g.Record.Refusal(ctx, envelopeName(p.listener, p.env, r.Address)); err != nil {
				return err
			}
		}
	}
	for _, c := range p.archived {
		for _, s := range p.shares(n, c.Plan) {
			if err := g.Record.Whole(ctx, s.name, s.of); err != nil {
				return err
			}
		}
	}
	return g.Record.Whole(ctx, n, all)
}

// again refuses a recipient whose copy the next hop refused when the same mail
// came before. It is the same as far as RCPT can tell.
func (h handler) again(ctx context.Context, e *transport.Envelope, who slog.Attr) error {
	if e.LMTP {
		return nil
	}
	r, refused, err := h.g.Record.Refusal(ctx, envelopeName(h.l, e, e.Recipients[0].Address))
	switch {
	case err != nil:
		return h.no(ctx, e, "envelope", who, err)
	case refused:
		return h.no(ctx, e, "envelope", who, fmt.Errorf("refused before: %w", r))
	}
	return nil
}

func envelopeName(l Listener, e *transport.Envelope, to message.Address) record.Name {
	return sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q %q\n%d\n%s", l.Direction, e.From.String(), to.Local, to.Domain, e.Size, e.ID))
}

// plainReply is err as a reply, without a trace id.
func plainReply(err error) transport.Reply {
	var r transport.Reply
	if errors.As(err, &r) {
		return r
	}
	return rowOf(err).Reply
}

// answers are the sender's: one for all, or with LMTP one for each recipient.
// whole is the first of these that is worth telling of.
func (p *passage) answers(words Texts, err error) (whole transport.Reply, all []transport.Reply) {
	whole = p.result
	whole.Text += " " + p.env.Trace
	if err != nil {
		whole = words.replyTo(err, p.env.Trace)
	}
	if !p.env.LMTP {
		return whole, []transport.Reply{whole}
	}
	for _, r := range p.env.Recipients {
		a := whole
		if o := p.outcomes[r.Address]; o != nil && o.err != nil {
			a = words.replyTo(o.err, p.env.Trace)
		} else if o != nil {
			a = o.reply
			a.Text += " " + p.env.Trace
		}
		all = append(all, a)
	}
	return whole, all
}
