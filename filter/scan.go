package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"postern/filter/authres"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/scan"
)

// Words of what scanners said, for marks, logs and the decision object.
const (
	scanClean   = "clean"
	scanSuspect = "suspect" // delivered, and marked
	scanSealed  = "sealed"  // what is inside was refused: delivered as it came
	scanLater   = "later"
	scanRefused = "refused"
	scanNone    = "none" // nobody looked
)

// scanned is what scanners said of the text that a recipient gets to read.
type scanned struct {
	scan.Result
	shut bool   // it was refused, and he gets the mail as it came in place of it
	why  string // it was not looked at whole
}

// word is the verdict.
func (s scanned) word() string {
	switch {
	case s.shut:
		return scanSealed
	case s.Verdict == scan.Reject:
		return scanRefused
	case s.Verdict == scan.Defer:
		return scanLater
	case s.Verdict == scan.Mark:
		return scanSuspect
	case len(s.By) == 0:
		return scanNone
	}
	return scanClean
}

// scan asks the scanners about what is read in the end: inbound what was
// opened, outbound what has not been sealed yet. What is still sealed tells
// nobody anything, and nothing that is said of it counts.
//
// A refusal tells a sender that his mail was opened. Where anybody on the way
// could have changed it, that would let whoever holds another's mail try what
// opens (R1): such a mail is not refused, it is delivered as it came. For the
// same reason sealed mail that did not open is asked about as well, and waits
// while a scanner is away, as all other mail does.
func (g *Gateway) scan(ctx context.Context, p *passage) error {
	outbound := p.listener.Direction == policy.Outbound
	if p.unscanned || !g.Scan.Asks(outbound) {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, g.Scan.Budget)
	defer cancel()
	p.scanned = map[string]scanned{}
	done := map[*message.Message]scanned{}
	errs := map[*message.Message]error{}
	for _, r := range p.env.Recipients {
		key := r.Address.Key()
		text, finding := p.msg, protect.Finding{}
		if o, ok := p.opened[key]; ok {
			text, finding = o.msg, o.finding
		}
		if _, seen := done[text]; !seen {
			if err := ctx.Err(); err != nil {
				return err
			}
			done[text], errs[text] = g.look(within, p, text, outbound)
			switch err := errs[text]; {
			case errors.Is(err, scan.ErrTooBig), err == nil:
			default:
				return err
			}
		}
		p.scanned[key] = done[text]
		if err := g.scanFault(p, done[text], errs[text], finding, key); err != nil {
			p.outcome(r.Address, &outcome{err: err})
		}
	}
	return p.sifted()
}

// look asks about one text. Of what is still sealed only trouble counts.
func (g *Gateway) look(ctx context.Context, p *passage, m *message.Message, outbound bool) (scanned, error) {
	sealed := slices.ContainsFunc(g.Protectors, func(pr protect.Protector) bool { return pr.Detect(m) == protect.Sealed })
	if sealed && outbound {
		return scanned{why: scanSealed}, nil
	}
	told := scan.Mail{Trace: p.env.Trace, Outbound: outbound, Client: p.env.Source().Addr(), Hello: p.env.Hello, User: p.env.User, Size: m.Len(), Body: m}
	if !p.env.Null {
		told.From = p.env.From.Key()
	}
	for _, r := range p.env.Recipients {
		told.To = append(told.To, r.Address.Key())
	}
	r, err := g.Scan.Ask(ctx, told)
	switch {
	case sealed && (err == nil || errors.Is(err, scan.ErrTooBig)):
		return scanned{why: scanSealed}, nil
	case err != nil:
		return scanned{why: r.Missing}, err
	}
	return scanned{Result: r, why: r.Missing}, nil
}

// scanFault is the error of one recipient, or nil where he gets the mail.
func (g *Gateway) scanFault(p *passage, s scanned, err error, f protect.Finding, key string) error {
	if f.Malleable {
		if err != nil || s.Verdict == scan.Reject {
			delete(p.opened, key)
			p.failed, s.shut = true, true
		}
		s.Verdict = min(s.Verdict, scan.Mark)
		p.scanned[key] = s
		return nil
	}
	switch {
	case err != nil:
		return err
	case s.Verdict == scan.Defer:
		return fmt.Errorf("%s: %v: %w", s.Against, s.Found, ErrScanLater)
	case s.Verdict == scan.Reject && s.Against == "rspamd":
		return fmt.Errorf("%s: score %s: %v: %w", s.Against, s.Score, s.Found, ErrSpam)
	case s.Verdict == scan.Reject:
		return fmt.Errorf("%s: %v: %w", s.Against, s.Found, ErrVirus)
	}
	return nil
}

// sifted ends the way of a mail that nobody gets, or not now. Where some are
// refused theirs, the others get it, and each refusal is told by name.
func (p *passage) sifted() error {
	var refused error
	left := false
	for _, r := range p.env.Recipients {
		switch o := p.outcomes[r.Address]; {
		case o == nil:
			left = true
		case !o.final(): // then nobody gets it now
			p.outcomes = nil
			return o.err
		default:
			refused = o.err
		}
	}
	if refused != nil && !left {
		p.decision = policy.Decision{Action: policy.Refuse, Reason: wordOf(refused), Rule: "scan"}
		p.outcomes = nil
		return refused
	}
	p.shut()
	return nil
}

// shut forgets what was found in openings that nobody reads.
func (p *passage) shut() {
	if !p.failed || !p.finding.Opened {
		return
	}
	for _, o := range p.opened {
		if o.finding.Opened {
			p.finding, p.read = o.finding, o.msg
			return
		}
	}
	p.finding, p.read = protect.Finding{Format: p.protector.Format(), Reason: protect.ReasonNotOpened}, p.msg
}

// scanOf is what is told on the copy of a plan. Readers who share a copy of
// which different things are to be told hear of none.
func (p *passage) scanOf(plan policy.Plan) (scanned, bool) {
	if p.scanned == nil {
		return scanned{}, false
	}
	first := p.scanned[plan.Recipients[0].Key()]
	for _, a := range plan.Recipients[1:] {
		if s := p.scanned[a.Key()]; s.word() != first.word() {
			return scanned{why: scanSealed}, true
		}
	}
	return first, true
}

// scanField is the mark, and what scanners want on the mail.
func (p *passage) scanField(s scanned) []byte {
	mark := authres.Scan{Whole: s.Whole && !s.shut, Verdict: s.word(), By: s.By, Found: s.Found, Score: s.Score, Reason: s.why, Trace: p.env.Trace}
	b := mark.Field()
	if s.shut {
		return b
	}
	for _, f := range s.Fields {
		b = append(b, message.FoldField(f.Name, f.Value)...)
	}
	return b
}

// worst is what is told of a mail as a whole.
func (p *passage) worst() (worst scanned, any bool) {
	for _, r := range p.env.Recipients {
		s, ok := p.scanned[r.Address.Key()]
		if ok && (!any || s.Verdict > worst.Verdict || s.Verdict == worst.Verdict && !s.Whole) {
			worst, any = s, true
		}
	}
	return worst, any
}

// VerdictScan is what scanners said, in a Verdict.
type VerdictScan struct {
	Scanned bool     `json:"scanned"` // by all, and whole
	Verdict string   `json:"verdict"`
	By      []string `json:"by"`
	Found   []string `json:"found"`
	Score   string   `json:"score"`
	Reason  string   `json:"reason"` // why it was not scanned
}

// String is one line for logs: "clean", "refused Eicar-Signature", "none (sealed)".
func (v *VerdictScan) String() string {
	if v == nil {
		return ""
	}
	words := append([]string{v.Verdict}, v.Found...)
	if v.Score != "" {
		words = append(words, v.Score)
	}
	if v.Reason != "" {
		words = append(words, "("+v.Reason+")")
	}
	return strings.Join(words, " ")
}

// scanVerdict is nil where no scanner sees the mail.
func (p *passage) scanVerdict() *VerdictScan {
	s, ok := p.worst()
	if !ok {
		return nil
	}
	return &VerdictScan{Scanned: s.Whole, Verdict: s.word(), By: append([]string{}, s.By...), Found: append([]string{}, s.Found...), Score: s.Score, Reason: s.why}
}

// scanning tells what scanners said.
func (e *account) scanning(p *passage) {
	s, ok := p.worst()
	if !ok {
		return
	}
	for _, by := range s.By {
		e.say("%s looked at it.", by)
	}
	switch s.word() {
	case scanClean:
		e.say("Nothing was found.")
	case scanNone:
	default:
		e.say("Found: %v; score %s. The verdict is %s.", s.Found, s.Score, s.word())
	}
	switch s.why {
	case "":
	case scanSealed:
		e.say("It is sealed, and nothing of it could be scanned: it passes, and is marked so.")
	default:
		e.say("It was not scanned whole (%s), and policy lets it pass all the same where nothing else is said.", s.why)
	}
	if s.shut {
		e.say("What is inside was refused. Anybody on the way could have changed it, and a refusal would tell him that it opened: it is delivered as it came.")
	}
}
