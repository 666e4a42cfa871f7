package filter

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"postern/filter/challenge"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/record"
)

// Why a challenge mail does not count for an order, beside the errors of
// challenge.
var (
	errOtherSender  = errors.New("not from whom the authority named")
	errOtherAddress = errors.New("not to the address that was ordered for")
	errAgain        = errors.New("seen before, or too many for one order")
)

// Awaiter has the orders of certificates for which an authority sends mail.
// keyring.Store is the real one.
type Awaiter interface {
	OrdersOf(ctx context.Context, a message.Address) ([]keyring.Order, error)
}

// proves writes down what a challenge mail of an authority says, where an
// operator awaits one for the very recipient and the authority's own signature
// is good (RFC 8823 §3.1). The mail itself goes on like any other: nothing is
// swallowed, nothing refused for it, and none waits where it can't be written.
func (g *Gateway) proves(ctx context.Context, p *passage) {
	if g.Awaits == nil || g.Record == nil || p.supposed || !challenge.Looks(p.came) {
		return
	}
	for _, r := range p.env.Recipients {
		orders, err := g.Awaits.OrdersOf(ctx, r.Address)
		if err != nil {
			g.told(ctx, p, r.Address, "", err)
			continue
		}
		for _, o := range orders {
			if o.Answered.IsZero() {
				sender, err := g.proof(ctx, p, o)
				g.told(ctx, p, r.Address, sender, err)
			}
		}
	}
}

// proof is told of one order who wrote, and why it does not count.
func (g *Gateway) proof(ctx context.Context, p *passage, o keyring.Order) (sender string, err error) {
	c, err := challenge.Read(p.came)
	if err != nil {
		return "", err
	}
	sender = c.From.Key()
	switch {
	case o.Sender != "" && o.Sender != sender:
		return sender, errOtherSender
	case c.To.Key() != o.Address.Key():
		return sender, errOtherAddress
	}
	if err := c.Genuine(p.origin.DKIM); err != nil {
		return sender, err
	}
	if err := c.Timely(o.Made, p.at); err != nil {
		return sender, err
	}
	note := record.Proof{Token: c.Token, Sender: sender, ReplyTo: c.ReplyTo.String(), MessageID: c.MessageID, At: p.at}
	ok, err := g.Record.Prove(ctx, o.URL, note)
	if err == nil && !ok {
		err = errAgain
	}
	return sender, err
}

// told says in the log what became of a mail that looks like what is awaited.
func (g *Gateway) told(ctx context.Context, p *passage, to message.Address, sender string, err error) {
	attrs := []slog.Attr{slog.String("trace", p.env.Trace), slog.String("to", to.Key()), slog.String("from", sender)}
	if err == nil {
		g.Log.LogAttrs(ctx, slog.LevelInfo, "challenge", attrs...)
		return
	}
	g.Log.LogAttrs(ctx, slog.LevelWarn, "challenge does not count", append(slices.Clip(attrs), slog.String("error", err.Error()))...)
}
