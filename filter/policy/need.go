package policy

import (
	"strings"

	"postern/filter/protect"
)

// need is what the rules and the mail together ask for a recipient.
type need struct {
	level   Protect // of the rule, raised by what the mail is
	rule    string
	seal    bool     // his copy is sealed where that can be
	refused string   // why nothing is sent to him, whatever is known of him
	without Decision // of level Require: what becomes of it where it cannot be sealed
}

// need finds it; not known where a rule has a word that is none.
//
// What raises a level: the sender asks for it; the mail answers one that came
// sealed; it was sealed by the sender's own program, and opened by us; mail to
// this recipient was sealed before. The first three speak of the way outside:
// mail inside keeps the level of inside. None of it counts where the mail is
// sealed and stays so: it is protected already.
func (p *Policy) need(f Facts, r Recipient) (n need, known bool) {
	n.level, n.rule = p.Protection(r.Address)
	if strictness(n.level) < 0 {
		return n, false
	}
	lowered := p.Lowering && f.Asked.Plain && !f.Asked.Encrypt
	if lowered && n.level == Optional {
		n.level = OnDemand
	}
	once := r.Once && p.Downgrade != DowngradeOff && n.level != None && !lowered
	answer := f.Answer && p.Answers != AnswersUsual
	raised := !p.Ours(r.Address.Domain) && (f.Asked.Encrypt || f.Unsealed || answer)
	kept := f.Layer == protect.Sealed
	switch {
	case kept:
	case raised && n.level == None:
		n.refused = ReasonForbidden
		if answer && !f.Asked.Encrypt {
			n.refused = ReasonAnswer
		}
	case raised, once:
		n.level = Require
	}
	n.seal = n.level == Require || n.level == Optional && !kept
	refuse := Decision{Action: Refuse, Reason: ReasonNoCert, Rule: n.rule}
	noKey := p.Without(r.Address)
	switch {
	case raised && (answer || f.Unsealed): // a safe way does not stand in for what was sealed
		if n.without = refuse; answer {
			n.without.Reason = ReasonAnswer
		}
		if noKey == NoKeyDefer {
			n.without.Action = Defer
		}
	case once:
		if n.without = refuse; p.Downgrade == DowngradeDefer {
			n.without.Action = Defer
		}
		n.without.Reason = ReasonDowngrade
	case noKey == NoKeyTransport:
		n.without = Decision{Action: Relay, Reason: ReasonTransport, Rule: n.rule}
	case noKey == NoKeyPDF && p.prints(f):
		n.without = Decision{Action: Relay, Reason: ReasonPDF, Rule: n.rule}
	case noKey == NoKeyDefer:
		n.without = Decision{Action: Defer, Reason: ReasonNoCert, Rule: n.rule}
	default:
		n.without = refuse
	}
	return n, true
}

// prints tells whether a document with a password may stand in for what cannot be
// sealed: its author is told the password, nobody else of ours must be able to
// read along, and there is something to read in it.
func (p *Policy) prints(f Facts) bool {
	return f.Tells && f.Layer != protect.Sealed && len(p.Escrow[strings.ToLower(f.Author.Domain)]) == 0
}

// Admit judges a recipient before anything of the mail is known: no action but
// Relay says that there is no mail that he could get. Mail that the sender's
// own program sealed is refused with the others: who it is sealed for is not
// known; and whether its author can be told a password is seen with it.
func (p *Policy) Admit(r Recipient) Decision {
	if p.Lowering { // the sender may ask for less, as far as only memory speaks for more
		r.Once = false
	}
	n, known := p.need(Facts{Direction: Outbound, Tells: true}, r)
	switch {
	case !known:
		return Decision{}
	case n.level == Require && len(p.Fit(r.Address, r.Certs)) == 0:
		return n.without
	}
	return Decision{Action: Relay, Rule: n.rule}
}
