package filter

import (
	"context"
	"log/slog"
	"slices"

	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// log writes the one line of a mail, and its row in the record.
func (g *Gateway) log(ctx context.Context, p *passage, r transport.Reply, err error) {
	inbound := p.carriage(g.Policy)
	attrs := []slog.Attr{
		slog.String("trace", p.env.Trace), slog.String("listener", p.listener.Name), slog.String("direction", string(p.listener.Direction)),
		slog.String("from", p.env.From.String()), slog.Int("recipients", len(p.env.Recipients)),
		slog.String("reply", r.String()), slog.String("carried", inbound.String()),
	}
	v := p.verdict(r, err)
	m := record.Mail{
		Trace: p.env.Trace, At: p.at, Direction: string(p.listener.Direction), Listener: p.listener.Name, From: p.env.From.Key(),
		Action: v.Action, Reply: r.String(), Rule: v.Rule, Reason: v.Reason, Opened: v.Opened, Verified: v.Verified, Scan: v.Scan.String(), Carried: inbound,
	}
	if p.env.Null {
		m.From = ""
	}
	if p.msg != nil {
		m.Size = p.msg.Source.Size()
		if p.msg.Root != nil {
			m.MessageID = p.msg.Get("Message-ID")
		}
		attrs = append(attrs, slog.Int64("size", m.Size))
	}
	var archived []string
	for _, c := range p.archived {
		o := p.archives[c.Plan.Archive]
		if o == nil {
			continue
		}
		told := record.Recipient{To: c.Plan.Recipients[0].Key(), Onward: o.onward, Earlier: o.earlier, Reply: o.reply.String(), Format: string(c.Plan.Format), Sealed: true, Signed: true, Archive: true}
		if o.err != nil {
			told.Reply = plainReply(o.err).String()
		}
		m.Recipients = append(m.Recipients, told)
		archived = append(archived, told.To+" "+told.Reply)
	}
	onward := []string{}
	for _, to := range p.env.Recipients {
		told := record.Recipient{To: to.Address.Key(), Format: "none"}
		if o := p.outcomes[to.Address]; o != nil {
			told.Onward, told.Earlier, told.Reply = o.onward, o.earlier, o.reply.String()
			if o.err != nil {
				told.Reply = plainReply(o.err).String()
			}
			if told.Sealed, told.Signed = o.plan.Encrypt, o.plan.Sign; told.Sealed || told.Signed {
				told.Format = string(o.plan.Format)
			}
			told.PDF = o.plan.PDF
			if s := o.onward.String(); s != "" && !slices.Contains(onward, s) {
				onward = append(onward, s)
			}
		}
		m.Recipients = append(m.Recipients, told)
	}
	for _, r := range p.env.Refused { // at RCPT
		m.Recipients = append(m.Recipients, record.Recipient{To: r.To.Key(), Reply: r.Reply.String(), Format: "none"})
	}
	attrs = append(attrs, slog.String("action", v.Action), slog.String("rule", v.Rule), slog.String("reason", v.Reason),
		slog.Any("opened", v.Opened), slog.Bool("verified", v.Verified), slog.Any("onward", onward))
	if v.Origin != "" {
		attrs = append(attrs, slog.String("origin", v.Origin))
	}
	if len(p.attested) > 0 {
		attrs = append(attrs, slog.Any("dkim", p.attested))
	}
	if archived != nil {
		attrs = append(attrs, slog.Any("archived", archived))
	}
	if v.Scan != nil {
		attrs = append(attrs, slog.String("scan", v.Scan.String()))
	}
	if p.shadow != nil {
		attrs = append(attrs, p.shadow.attrs()...)
	}
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("stage", p.stage), slog.String("error", err.Error()))
	}
	g.Log.LogAttrs(ctx, level, "mail", attrs...)
	g.Record.Tell(m)
}

// carriage is how the mail came to us, and what was asked of its way: by what
// was agreed with the sender's domain.
func (p *passage) carriage(rules *policy.Policy) transport.Carriage {
	c := transport.CarriageOf(p.env.TLS)
	if len(p.env.Cert.Names) > 0 {
		c.Peer = "name:" + p.env.Cert.Names[0]
	}
	if p.listener.Direction != policy.Inbound || rules == nil {
		return c
	}
	if way, _ := rules.Way(p.env.From.Domain); way.Inbound.TLS { // who does not meet it gets no further than MAIL
		c.Level, c.Result = "force", transport.LevelMet
		if len(way.Inbound.Pins) > 0 {
			c.Level = "pin"
		}
	}
	return c
}
