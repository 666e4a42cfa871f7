package filter

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
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
	return h.early(ctx, greeted, &env, slog.String("to", to.Address.Key()))
}

// early walks the stages that come before the mail itself, and logs whom they refuse.
func (h handler) early(ctx context.Context, stages []stage, e *transport.Envelope, who slog.Attr) error {
	p := &passage{listener: h.l, env: e, at: h.g.Now()}
	err := h.g.guarded(traced(ctx, h.l, e), stages, p)
	if err == nil {
		return nil
	}
	r := h.g.Texts.replyTo(err, e.Trace)
	h.g.Log.LogAttrs(ctx, slog.LevelInfo, "refused", slog.String("trace", e.Trace), slog.String("listener", h.l.Name),
		slog.String("stage", p.stage), who, slog.Int("reply", r.Code), slog.String("error", err.Error()))
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
	r := p.result
	if err != nil {
		r = h.g.Texts.replyTo(err, e.Trace)
	}
	h.g.log(ctx, p, r, err)
	return []transport.Reply{r}
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

// log writes the one line of a mail.
func (g *Gateway) log(ctx context.Context, p *passage, r transport.Reply, err error) {
	attrs := []slog.Attr{
		slog.String("trace", p.env.Trace), slog.String("listener", p.listener.Name), slog.String("direction", string(p.listener.Direction)),
		slog.String("from", p.env.From.String()), slog.Int("recipients", len(p.env.Recipients)),
		slog.String("reply", r.String()), slog.String("carried", transport.Carried(p.env.TLS)),
	}
	if p.msg != nil {
		attrs = append(attrs, slog.Int64("size", p.msg.Source.Size()))
	}
	v := p.verdict(r, err)
	attrs = append(attrs, slog.String("action", v.Action), slog.String("rule", v.Rule), slog.String("reason", v.Reason),
		slog.Any("opened", v.Opened), slog.Bool("verified", v.Verified), slog.String("onward", p.onward.String()))
	if p.shadow != nil {
		attrs = append(attrs, p.shadow.attrs()...)
	}
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("stage", p.stage), slog.String("error", err.Error()))
	}
	g.Log.LogAttrs(ctx, level, "mail", attrs...)
}

// relay hands every copy to the next hop. Where one copy is through and a
// later one is not, the whole mail is deferred, and the recipients who have
// it are skipped when the sender comes back.
func (g *Gateway) relay(ctx context.Context, p *passage) error {
	hop := g.Hops[p.listener.Direction]
	if hop == nil {
		return fmt.Errorf("no next hop for %s mail: %w", p.listener.Direction, ErrConfig)
	}
	mark, err := g.done.mark(p)
	if err != nil {
		return err
	}
	if err := g.noteOpened(ctx, p); err != nil {
		return err
	}
	p.result = reply(250, [3]int{2, 0, 0}, "delivered earlier") // unless a recipient is left
	var refused error
	for _, c := range p.copies {
		env, err := g.envelopeFor(p, c, mark)
		if err != nil {
			return err
		}
		if len(env.Recipients) == 0 {
			continue
		}
		res := hop.Deliver(ctx, env, c.Message.Len(), c.Message)
		p.onward = res.Carriage
		if p.listener.Direction == policy.Inbound && p.layer == protect.Sealed {
			res = quiet(res)
		}
		if res.Err != nil {
			return fmt.Errorf("relay mail: %w", res.Err)
		}
		if len(res.Replies) != len(env.Recipients) {
			return fmt.Errorf("relay mail: %d replies for %d recipients", len(res.Replies), len(env.Recipients))
		}
		for i, r := range res.Replies {
			switch {
			case r.Code/100 == 2:
				g.done.add(mark, env.Recipients[i].Address)
				g.sealedTo(ctx, p, c, env.Recipients[i].Address)
				p.result = r
			case refused == nil, r.Code/100 != 5: // one who may come back decides for all
				refused = r
			}
		}
	}
	if refused != nil {
		return fmt.Errorf("relay mail: %w", refused)
	}
	g.done.forget(mark)
	g.learn(p)
	p.result.Text += " " + p.env.Trace
	return nil
}

// envelopeFor is the envelope of one copy: its recipients, each once, without
// those who have it already, and what its own bytes ask of the way.
func (g *Gateway) envelopeFor(p *passage, c Copy, mark [sha256.Size]byte) (*transport.Envelope, error) {
	env := *p.env
	env.Recipients, env.Floor = nil, string(c.Plan.Floor)
	seen := map[message.Address]bool{}
	for _, r := range p.env.Recipients {
		if a := r.Address; !seen[a] && slices.Contains(c.Plan.Recipients, a) && !g.done.has(mark, a) {
			env.Recipients, seen[a] = append(env.Recipients, r), true
		}
	}
	content, err := message.Scan(c.Message.Source, c.Message.Root.Whole)
	switch {
	case err != nil:
		return nil, fmt.Errorf("scan mail: %w", err)
	case content.EightBit:
		env.Body = "8BITMIME"
	case env.Body != "": // a sealed copy of 8-bit mail is 7-bit, and must not be labelled otherwise: a hop would encode it again
		env.Body = "7BIT"
	}
	env.Size, env.Floor = c.Message.Len(), string(c.Plan.Floor)
	return &env, nil
}

// How long and for how many mails it is remembered who has his copy already.
const (
	deliveredFor = 5 * 24 * time.Hour // as long as a sender retries (RFC 5321 §4.5.4.1)
	deliveredMax = 10_000
)

// delivered remembers, for mails that went through in part, who has his copy.
type delivered struct {
	now   func() time.Time
	mutex sync.Mutex
	mails map[[sha256.Size]byte]*parted
}

type parted struct {
	when time.Time
	to   map[message.Address]bool // as the envelope wrote them: only the next hop knows which are one mailbox
}

func newDelivered(now func() time.Time) *delivered {
	return &delivered{now: now, mails: map[[sha256.Size]byte]*parted{}}
}

// mark names the mail by what stays the same when its sender tries again: the
// side it came from, the envelope sender, and every byte. A sender that changes
// a byte makes somebody read his mail twice; naming a mail by less could keep
// one from him. One recipient can't part, and costs nothing.
func (d *delivered) mark(p *passage) (m [sha256.Size]byte, err error) {
	if len(p.env.Recipients) == 1 {
		return m, nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", p.listener.Direction, p.env.From.String())
	if _, err := io.Copy(h, io.NewSectionReader(p.came.Source, 0, p.came.Source.Size())); err != nil {
		return m, fmt.Errorf("read mail: %w", err)
	}
	h.Sum(m[:0])
	return m, nil
}

func (d *delivered) has(m [sha256.Size]byte, a message.Address) bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	e := d.mails[m]
	return e != nil && d.now().Sub(e.when) < deliveredFor && e.to[a]
}

func (d *delivered) add(m [sha256.Size]byte, a message.Address) {
	if m == ([sha256.Size]byte{}) {
		return
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	e := d.mails[m]
	if e == nil {
		d.shrink()
		e = &parted{to: map[message.Address]bool{}}
		d.mails[m] = e
	}
	e.when = d.now()
	e.to[a] = true
}

func (d *delivered) forget(m [sha256.Size]byte) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	delete(d.mails, m)
}

// shrink makes room: what is too old goes, and the oldest where that is not enough.
func (d *delivered) shrink() {
	if len(d.mails) < deliveredMax {
		return
	}
	var oldest *parted
	var which [sha256.Size]byte
	for m, e := range d.mails {
		if d.now().Sub(e.when) >= deliveredFor {
			delete(d.mails, m)
		} else if oldest == nil || e.when.Before(oldest.when) {
			oldest, which = e, m
		}
	}
	if len(d.mails) >= deliveredMax {
		delete(d.mails, which)
	}
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
