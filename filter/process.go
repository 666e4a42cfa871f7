package filter

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/transport"
)

// Verdict is the decision object of `postern process --json`.
type Verdict struct {
	Action    string        `json:"action"`
	Reply     string        `json:"reply"`
	Opened    []string      `json:"opened"`
	OpenError string        `json:"open_error"`
	Verified  bool          `json:"verified"`
	Signer    string        `json:"signer"`
	Reason    string        `json:"reason"`
	Rule      string        `json:"rule"`
	Plans     []VerdictPlan `json:"plans"`
	Scan      *VerdictScan  `json:"scan,omitempty"` // where a scanner sees the mail
	Trace     string        `json:"trace"`
	Origin    string        `json:"origin,omitempty"` // SPF, DKIM, DMARC and ARC of inbound mail, where they are asked for
	DKIM      []string      `json:"dkim,omitempty"`   // names in DNS of the keys that outbound mail is signed with
	Shadow    *Verdict      `json:"shadow,omitempty"` // what would be done with the mail, where rules are only tried
}

// VerdictPlan is one copy in a Verdict.
type VerdictPlan struct {
	Format     string   `json:"format"`
	Recipients []string `json:"recipients"`
	Signed     bool     `json:"signed"`
	Encrypted  bool     `json:"encrypted"`
	Transport  string   `json:"transport"`
	PDF        bool     `json:"pdf,omitempty"`     // with a password, in place of the mail
	Archive    bool     `json:"archive,omitempty"` // beside what the mail's recipients get
}

// Request is one mail to judge without relaying it.
type Request struct {
	Direction policy.Direction
	From      message.Address // zero: the null sender
	To        []message.Address
	At        time.Time // time of judgement; zero: now
	Mail      io.Reader // CRLF line ends
	Unscanned bool      // no scanner is asked
}

// Outcome is what would have been done. Close frees the copies.
type Outcome struct {
	Verdict Verdict
	Copies  []Copy
	Explain []string
	pass    *passage
}

// Close frees what the copies stand in.
func (o *Outcome) Close() { o.pass.close() }

// Process walks a mail through every stage but the relay. A mail that is
// refused or deferred is an outcome, not an error.
func (g *Gateway) Process(ctx context.Context, r Request) *Outcome {
	if r.At.IsZero() {
		r.At = g.Now()
	}
	env := &transport.Envelope{Trace: transport.NewTrace(), From: r.From, Null: r.From.IsZero(), Client: netip.AddrPort{}}
	for _, a := range r.To {
		env.Recipients = append(env.Recipients, transport.Recipient{Address: a})
	}
	p := &passage{listener: Listener{Name: "process", Direction: r.Direction}, env: env, at: r.At, body: r.Mail, supposed: true, unscanned: r.Unscanned}
	err := g.guarded(traced(ctx, p.listener, env), judged, p)
	answer := reply(250, [3]int{2, 0, 0}, "would be relayed "+env.Trace)
	if err != nil {
		answer = g.Texts.replyTo(err, env.Trace)
	}
	o := &Outcome{Verdict: p.verdict(answer, err), Copies: slices.Concat(p.copies, p.archived), pass: p}
	if p.shadow == nil {
		o.Explain = p.explain(g.Policy, err)
		return o
	}
	o.Verdict.Shadow = &p.shadow.verdict
	o.Explain = append([]string{"The gateway runs in shadow mode: the mail passes as it came. Without it:"}, p.shadow.explain...)
	if err != nil {
		o.Explain = append(o.Explain, fmt.Sprintf("In shadow mode too it would not be relayed: %v.", err))
	}
	return o
}

func (p *passage) verdict(answer transport.Reply, err error) Verdict {
	v := Verdict{Action: action(err).String(), Reply: answer.String(), Opened: []string{}, Reason: p.decision.Reason, Rule: p.decision.Rule, Origin: p.originWords(), DKIM: p.attested, Plans: []VerdictPlan{}, Scan: p.scanVerdict(), Trace: p.env.Trace}
	if p.finding.Opened {
		v.Opened = append(v.Opened, string(p.finding.Format))
	}
	if p.failed {
		v.OpenError = protect.ReasonNotOpened
	}
	if p.listener.Direction == policy.Inbound && p.read != nil {
		v.Verified, v.Reason = p.verified(p.read, p.finding)
	}
	if err != nil { // a mail that is not delivered is not delivered verified
		v.Verified, v.Reason = false, wordOf(err)
		if p.decision.Action != policy.Relay && p.decision.Reason != "" {
			v.Reason = p.decision.Reason
		}
	}
	if v.Verified {
		v.Signer = p.author.Key()
	}
	for i, plan := range p.decision.Plans {
		out := VerdictPlan{Format: "none", Recipients: []string{}, Signed: plan.Sign, Encrypted: plan.Encrypt, Transport: string(policy.NextHop), PDF: plan.PDF, Archive: plan.Archive != ""}
		if i < len(p.levels) {
			out.Transport = string(p.levels[i])
		}
		if plan.Sign || plan.Encrypt {
			out.Format = string(plan.Format)
		}
		for _, a := range plan.Recipients {
			out.Recipients = append(out.Recipients, a.Key())
		}
		v.Plans = append(v.Plans, out)
	}
	return v
}

func name(a message.Address) string {
	if a.IsZero() {
		return "the null sender"
	}
	return a.Key()
}
