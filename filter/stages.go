package filter

import "context"

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
		{"open", (*Gateway).open},         // keys of the envelope recipients only
		{"gather", (*Gateway).gather},     // identities and certificates
		{"decide", (*Gateway).decide},     // facts in, one decision out
		{"seal", (*Gateway).seal},         // one copy for each plan
		{"mark", (*Gateway).mark},         // foreign marks off, ours on
		{"relay", (*Gateway).relay},       // 250 only after the next hop's
	}
	begun    = way[:1]          // at MAIL
	greeted  = way[:2]          // at RCPT
	received = way[:3]          // while the sender sends, at his pace
	worked   = way[3:]          // what takes one of the places in flight
	judged   = way[:len(way)-1] // what process and explain do
)

func (g *Gateway) walk(ctx context.Context, stages []stage, p *passage) error {
	if g.Begin != nil {
		ctx = g.Begin(ctx)
	}
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
