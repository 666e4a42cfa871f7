package filter

import (
	"context"
	"slices"
)

// stage is one step of a mail's way. An error ends the way; reply.go puts it
// into words.
type stage struct {
	name string
	run  func(*Gateway, context.Context, *passage) error
}

// The way of a mail. The first two steps run at MAIL and RCPT already, for
// each recipient; process and explain run all but the last.
var (
	way = []stage{
		{"accept", (*Gateway).accept},     // direction from the listener, trace, clock
		{"envelope", (*Gateway).envelope}, // who may send to whom
		{"spool", (*Gateway).spool},       // strict CRLF, bounded memory
		{"parse", (*Gateway).parse},       // spans, limits, loop
		{"vet", (*Gateway).vet},           // SPF, DKIM, DMARC and ARC of the mail as it came
		{"open", (*Gateway).open},         // keys of the envelope recipients only
		{"scan", (*Gateway).scan},         // by others, of what is read in the end
		{"gather", (*Gateway).gather},     // identities and certificates
		{"decide", (*Gateway).decide},     // facts in, one decision out
		{"seal", (*Gateway).seal},         // one copy for each plan
		{"mark", (*Gateway).mark},         // foreign marks off, ours on
		{"attest", (*Gateway).attest},     // DKIM or ARC over what leaves, the last change to it
		{"archive", (*Gateway).archive},   // one more copy, sealed for whom the site keeps mail
		{"relay", (*Gateway).relay},       // 250 only after the next hop's
	}
	begun    = way[:1]          // at MAIL
	greeted  = way[:2]          // at RCPT
	received = way[:3]          // while the sender sends, at his pace
	worked   = way[3:]          // what takes one of the places in flight
	judged   = way[:len(way)-1] // what process and explain do
)

// ruled are the stages that the site's rules on protection steer.
var ruled = []string{"open", "scan", "gather", "decide", "seal"}

func (g *Gateway) walk(ctx context.Context, stages []stage, p *passage) error {
	if g.Begin != nil {
		ctx = g.Begin(ctx)
	}
	if g.Policy == nil || !g.Policy.Shadow {
		return g.run(ctx, stages, p)
	}
	isRuled := func(s stage) bool { return slices.Contains(ruled, s.name) }
	if from := slices.IndexFunc(stages, isRuled); from >= 0 {
		to := from + len(ruled)
		if err := g.run(ctx, stages[:from], p); err != nil {
			return err
		}
		g.rehearse(ctx, stages[from:to], p)
		stages = stages[to:]
	}
	return g.run(ctx, stages, p)
}

func (g *Gateway) run(ctx context.Context, stages []stage, p *passage) error {
	for _, s := range stages {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.stage = s.name
		if err := s.run(g, ctx, p); err != nil {
			return err
		}
	}
	return nil
}
