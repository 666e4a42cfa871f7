package filter

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/transport"
)

// Hop is where mail goes next. transport.Hop is the real one.
type Hop interface {
	Deliver(ctx context.Context, e *transport.Envelope, size int64, mail io.WriterTo) transport.Result
}

// Handler takes the mail of one listener: the first two stages run at MAIL
// and RCPT, the others when DATA begins.
func (g *Gateway) Handler(l Listener) transport.Handler { return handler{g, l} }

type handler struct {
	g *Gateway
	l Listener
}

// Sender refuses a whole mail before it has any recipient.
func (h handler) Sender(ctx context.Context, e *transport.Envelope) error {
	return h.early(ctx, begun, e, slog.String("from", e.From.String()))
}

// Recipient refuses one recipient, and leaves the others be.
func (h handler) Recipient(ctx context.Context, e *transport.Envelope, to transport.Recipient) error {
	env := *e
	env.Recipients = []transport.Recipient{to}
	who := slog.String("to", to.Address.Key())
	if err := h.early(ctx, greeted, &env, who); err != nil {
		return err
	}
	return h.again(ctx, &env, who)
}

// early walks the stages that come before the mail itself, and logs whom they refuse.
func (h handler) early(ctx context.Context, stages []stage, e *transport.Envelope, who slog.Attr) error {
	p := &passage{listener: h.l, env: e, at: h.g.Now()}
	err := h.g.guarded(traced(ctx, h.l, e), stages, p)
	if err == nil {
		return nil
	}
	return h.no(ctx, e, p.stage, who, err)
}

// no words a refusal of one recipient or sender, and logs it.
func (h handler) no(ctx context.Context, e *transport.Envelope, stage string, who slog.Attr, err error) transport.Reply {
	r := h.g.Texts.replyTo(err, e.Trace)
	h.g.Log.LogAttrs(ctx, slog.LevelInfo, "refused", slog.String("trace", e.Trace), slog.String("listener", h.l.Name),
		slog.String("stage", stage), who, slog.Int("reply", r.Code), slog.String("error", err.Error()))
	return r
}

// Data carries one mail to the next hop and gives the sender its answer.
func (h handler) Data(ctx context.Context, e *transport.Envelope, body io.Reader) []transport.Reply {
	p := &passage{listener: h.l, env: e, at: h.g.Now(), body: body}
	defer p.close()
	ctx = traced(ctx, h.l, e)
	err := h.g.guarded(ctx, received, p)
	if err == nil {
		err = h.g.slot(func() error { return h.g.guarded(ctx, worked, p) })
	}
	told, answers := p.answers(h.g.Texts, err)
	h.g.log(ctx, p, told, err)
	return answers
}

// Refuse words an error that the server met by itself.
func (h handler) Refuse(e *transport.Envelope, err error) transport.Reply {
	return h.g.Texts.replyTo(err, e.Trace)
}

// slot runs f unless too many mails are in flight.
func (g *Gateway) slot(f func() error) error {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
		return f()
	default:
		return ErrOverload
	}
}

// guarded turns a panic that hostile mail provoked into a deferral: the mail
// stays with its sender, and the process with its other mails. Only what the
// runtime says is logged: another value may hold bytes of the mail.
func (g *Gateway) guarded(ctx context.Context, stages []stage, p *passage) error {
	return g.tried(ctx, p, func() error { return g.walk(ctx, stages, p) })
}

func (g *Gateway) tried(ctx context.Context, p *passage, walk func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("stage %s panicked: %T", p.stage, v)
			if cause, ok := v.(runtime.Error); ok {
				err = fmt.Errorf("stage %s panicked: %w", p.stage, cause)
			}
			g.Log.ErrorContext(ctx, "panic", "trace", p.env.Trace, "stage", p.stage, "stack", string(debug.Stack()))
		}
	}()
	return walk()
}

// relayFor is how long copies of one mail may begin to go: its sender waits for
// his answer, and ten minutes at most (RFC 5321 §4.5.3.2.6).
const relayFor = 2 * time.Minute

// relay hands every copy to the next hop. That one does not get through keeps no
// other from it.
func (g *Gateway) relay(ctx context.Context, p *passage) error {
	hop := g.Hops[p.listener.Direction]
	if hop == nil {
		return fmt.Errorf("no next hop for %s mail: %w", p.listener.Direction, ErrConfig)
	}
	name, err := g.earlier(ctx, p)
	if err != nil {
		return err
	}
	if err := g.noteOpened(ctx, p); err != nil {
		return err
	}
	began := time.Now()
	if err := g.deposit(ctx, p, name); err != nil {
		return err
	}
	for i, c := range p.copies {
		env, err := g.envelopeFor(p, c)
		if err != nil {
			return err
		}
		if len(env.Recipients) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(began) > relayFor {
			p.carried(env, c, transport.Result{Err: fmt.Errorf("no time left: %w", transport.ErrNextHop)})
			continue
		}
		if c.Plan.PDF {
			if err := g.tell(ctx, p, env.Recipients); err != nil {
				p.carried(env, c, transport.Result{Err: err})
				continue
			}
		}
		env.Heard = func(of []transport.Recipient, replies []transport.Reply) { g.heard(ctx, p, name, of, replies) }
		res := hop.Deliver(ctx, env, c.Message.Len(), c.Message)
		if p.listener.Direction == policy.Inbound && p.layer == protect.Sealed {
			res = quiet(res)
		}
		p.carried(env, c, res)
		for _, r := range env.Recipients {
			if p.outcomes[r.Address].err == nil {
				g.sealedTo(ctx, p, c, r.Address)
			}
		}
		if i < len(p.copies)-1 { // or a crash would forget who has his
			if err := g.remember(ctx, p, name, env.Recipients); err != nil {
				return err
			}
		}
	}
	return g.settle(ctx, p, name)
}

// envelopeFor is the envelope of one copy: its recipients, each once, without
// those of whom it is known what became of theirs, and what its own bytes ask of
// the way.
func (g *Gateway) envelopeFor(p *passage, c Copy) (*transport.Envelope, error) {
	env := *p.env
	env.Recipients = nil
	seen := map[message.Address]bool{}
	for _, r := range p.env.Recipients {
		if a := r.Address; !seen[a] && slices.Contains(c.Plan.Recipients, a) && p.outcomes[a] == nil {
			env.Recipients, seen[a] = append(env.Recipients, r), true
		}
	}
	content, err := message.Content{EightBit: p.eightBit}, error(nil)
	if c.Message.Source != p.came.Source {
		content, err = message.Scan(c.Message.Source, c.Message.Root.Whole)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("scan mail: %w", err)
	case content.EightBit:
		env.Body = "8BITMIME"
	case env.Body != "": // a sealed copy of 8-bit mail is 7-bit, and must not be labelled otherwise: a hop would encode it again
		env.Body = "7BIT"
	}
	if env.UTF8 {
		if env.UTF8, err = international(&env, c.Message); err != nil {
			return nil, fmt.Errorf("scan mail: %w", err)
		}
	}
	env.Size, env.Floor = c.Message.Len(), string(c.Plan.Floor)
	return &env, nil
}

// international reports whether a mail has more than ASCII in its envelope or in
// a header. Only such a one needs hops that know RFC 6531: many programs say
// SMTPUTF8 of every mail, and not every mailbox knows it.
func international(e *transport.Envelope, m *message.Message) (bool, error) {
	names := []message.Address{e.From}
	if e.Null {
		names = nil
	}
	for _, r := range e.Recipients {
		names = append(names, r.Address)
	}
	for _, a := range names {
		if _, ok := a.ASCII(); !ok {
			return true, nil
		}
	}
	return wideHeader(m.Source, m.Root)
}

// wideHeader looks into the headers of p and of the parts below.
func wideHeader(src message.Source, p *message.Part) (bool, error) {
	header, err := message.Scan(src, message.Span{Start: p.Whole.Start, End: p.Body.Start})
	if err != nil || header.EightBit {
		return header.EightBit, err
	}
	for _, part := range p.Parts {
		if wide, err := wideHeader(src, part); wide || err != nil {
			return wide, err
		}
	}
	return false, nil
}

// refusal tells a plain no from trouble.
func refusal(err error) bool { return Texts{}.replyTo(err, "").Code/100 == 5 }

// action is the word of the decision object for how a mail ended.
func action(err error) policy.Action {
	switch {
	case err == nil:
		return policy.Relay
	case refusal(err):
		return policy.Refuse
	}
	return policy.Defer
}
