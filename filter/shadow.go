package filter

import (
	"context"
	"log/slog"

	"postern/filter/policy"
	"postern/filter/protect"
)

// reasonShadow is the reason of mail that passes whatever is decided.
const reasonShadow = "shadow"

// shadow is what would have been done with a mail.
type shadow struct {
	verdict Verdict
	explain []string
}

// rehearse runs the stages that the site's rules steer on a double of the
// passage. Whatever they say, the mail itself goes on as it came, in one copy
// for all.
func (g *Gateway) rehearse(ctx context.Context, stages []stage, p *passage) {
	double := *p
	err := g.tried(ctx, &double, func() error { return g.run(ctx, stages, &double) })
	p.spools = double.spools
	answer := reply(250, [3]int{2, 0, 0}, "would be relayed "+p.env.Trace)
	if err != nil {
		answer = g.Texts.replyTo(err, p.env.Trace)
	}
	p.shadow = &shadow{double.verdict(answer, err), double.explain(g.Policy, err)}
	p.decision = policy.Decision{Action: policy.Relay, Reason: reasonShadow, Rule: reasonShadow, Plans: []policy.Plan{{}}}
	for _, r := range p.env.Recipients {
		p.decision.Plans[0].Recipients = append(p.decision.Plans[0].Recipients, r.Address)
	}
	p.finding = protect.Finding{Reason: protect.ReasonNone}
	p.copies = []Copy{{Plan: p.decision.Plans[0], Message: p.came, Finding: p.finding}}
}

// attrs are for the line of the mail in the log.
func (s *shadow) attrs() []slog.Attr {
	return []slog.Attr{slog.String("shadow-action", s.verdict.Action), slog.String("shadow-rule", s.verdict.Rule),
		slog.String("shadow-reason", s.verdict.Reason), slog.String("shadow-reply", s.verdict.Reply)}
}
