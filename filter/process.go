package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"postern/filter/keyring"
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
	Trace     string        `json:"trace"`
}

// VerdictPlan is one copy in a Verdict.
type VerdictPlan struct {
	Format     string   `json:"format"`
	Recipients []string `json:"recipients"`
	Signed     bool     `json:"signed"`
	Encrypted  bool     `json:"encrypted"`
	Transport  string   `json:"transport"`
}

// Request is one mail to judge without relaying it.
type Request struct {
	Direction policy.Direction
	From      message.Address // zero: the null sender
	To        []message.Address
	At        time.Time // time of judgement; zero: now
	Mail      io.Reader // CRLF line ends
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
	p := &passage{listener: Listener{Name: "process", Direction: r.Direction}, env: env, at: r.At, body: r.Mail, supposed: true}
	err := g.guarded(traced(ctx, p.listener, env), judged, p)
	answer := reply(250, [3]int{2, 0, 0}, "would be relayed "+env.Trace)
	if err != nil {
		answer = replyTo(err, env.Trace)
	}
	return &Outcome{Verdict: p.verdict(answer, err), Copies: p.copies, Explain: p.explain(err), pass: p}
}

func (p *passage) verdict(answer transport.Reply, err error) Verdict {
	v := Verdict{Action: action(err).String(), Reply: answer.String(), Opened: []string{}, Reason: p.decision.Reason, Rule: p.decision.Rule, Plans: []VerdictPlan{}, Trace: p.env.Trace}
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
	for _, plan := range p.decision.Plans {
		out := VerdictPlan{Format: "none", Recipients: []string{}, Signed: plan.Sign, Encrypted: plan.Encrypt, Transport: "next-hop"}
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

// explain says in sentences which rule decided, and with which keys.
func (p *passage) explain(err error) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	say("The mail is %s, from %s, to %d recipient(s).", p.listener.Direction, name(p.env.From), len(p.env.Recipients))
	if p.msg != nil && p.msg.Root != nil {
		if p.author.IsZero() {
			say("Its From field does not name exactly one address: no signature can be claimed for it, or made in its name.")
		} else {
			say("Its author is %s.", p.author.Key())
		}
		switch p.layer {
		case protect.Sealed:
			say("It arrived encrypted (%s).", p.protector.Format())
		case protect.Signed:
			say("It arrived signed (%s).", p.protector.Format())
		default:
			say("It arrived without protection.")
		}
	}
	switch {
	case p.finding.Opened:
		ok, reason := p.verified(p.read, p.finding)
		say("It was opened. Verified: %v (%s).", ok, reason)
	case p.failed:
		say("It could not be opened with the keys of its recipients, and is delivered as it came unless policy refuses it.")
	case p.finding.Signed:
		ok, reason := p.verified(p.read, p.finding)
		say("Its signature was checked. Verified: %v (%s).", ok, reason)
	}
	for _, r := range p.facts.Recipients {
		if p.listener.Direction != policy.Outbound {
			continue
		}
		var keys []string
		for _, c := range r.Certs {
			key := string(c.Format) + " " + c.Fingerprint
			if c.Trust == keyring.Seen {
				key += " (brought by mail, and good by its path)"
			}
			keys = append(keys, key)
		}
		if len(keys) == 0 {
			keys = []string{"none that is trusted and valid now"}
		}
		say("Certificates for %s: %s.", r.Address.Key(), strings.Join(keys, ", "))
	}
	if p.listener.Direction == policy.Outbound {
		for _, f := range p.facts.Signing {
			say("It can be signed with the %s identity %s.", f, p.signers[f].Fingerprint)
		}
	}
	for _, plan := range p.decision.Plans {
		var to []string
		for _, a := range plan.Recipients {
			to = append(to, a.Key())
		}
		how := "as it came"
		switch {
		case plan.Opened:
			how = "opened"
		case plan.Sign && plan.Encrypt:
			how = "signed and encrypted"
		case plan.Sign:
			how = "signed, not encrypted"
		case plan.Encrypt:
			how = "encrypted, not signed"
		}
		say("One copy, %s, goes to %s.", how, strings.Join(to, ", "))
		for _, c := range plan.Escrow {
			say("It can also be read by our own %s certificate %s.", c.Format, c.Fingerprint)
		}
	}
	if p.decision.Rule != "" {
		say("The rule that decided: %s.", p.decision.Rule)
	}
	if err != nil {
		say("The mail would not be relayed now: %v.", err)
		if p.decision.Reason == policy.ReasonNoEscrow {
			say("Add an identity of that format and kind of key for an entry of escrow, or take the entry out.")
		}
		if errors.Is(err, ErrMustProtect) {
			say("Import a certificate of the recipient with `postern cert import`, or change the rule.")
		}
	}
	return lines
}

func name(a message.Address) string {
	if a.IsZero() {
		return "the null sender"
	}
	return a.Key()
}
