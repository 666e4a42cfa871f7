// Package policy decides what protection a mail gets. It is pure: facts in,
// one decision out, with the name of the rule that made it; no I/O, no clock.
package policy

import (
	"cmp"
	"slices"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Direction comes from the listener a mail arrived at, never from its content.
type Direction string

const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
)

// Policy is what the site wants. Keys are canonical: addresses as
// message.Address.Key gives them, domains in lower case, "*.domain" for every
// name below it.
type Policy struct {
	Domains       map[string]Sign    // our own domains
	Internal      map[string]Protect // mail inside, by our own domain; None where it says nothing
	Recipients    map[string]Protect // by address
	Partners      map[string]Protect // by domain
	Default       Protect
	Signs         map[string]Sign  // by address or domain; goes before that of our own domain
	NoKeys        map[string]NoKey // by address or domain; goes before NoKey
	NoKey         NoKey
	Downgrade     Downgrade
	Answers       Answers
	Client        Client
	Lowering      bool           // whether a sender may ask for less, where the rule is Optional
	Ways          map[string]Way // by domain, as Partners
	DefaultWay    Way
	Forms         map[string]Form    // by domain, as Partners
	Formats       []keyring.Format   // where the form of a domain names none
	Escrow        map[string]Escrow  // by our own domain
	Archives      map[string]Archive // by our own domain
	Undecryptable Undecryptable
	Shadow        bool // decisions are made and told, and not carried out
}

// Escrow names certificates of ours that read along what our authors seal: by
// address or by fingerprint.
type Escrow []string

// Ours reports whether domain is one of our own.
func (p *Policy) Ours(domain string) bool {
	_, ok := p.Domains[strings.ToLower(domain)]
	return ok
}

// Sealable is a certificate that can be sealed to now. Those of different
// classes never share a copy.
type Sealable struct {
	keyring.Cert
	Class string // in the words of its format
}

// Recipient is what is known of one recipient.
type Recipient struct {
	Address message.Address
	Certs   []Sealable // best first
	Unsure  bool       // who may know of more certificates could not be asked
	Once    bool       // mail to him was sealed before
	Hidden  bool       // in no To or Cc field: gets a copy of its own (Bcc)
	Opening string     // inbound: names the opening this recipient reads; "" when nothing was opened for him
}

// Asks is what the sender of an outbound mail asked for, in its subject or a
// field of its header.
type Asks struct{ Encrypt, Sign, Plain bool }

// Facts is all that a decision may rest on.
type Facts struct {
	Direction  Direction
	Recipients []Recipient
	Layer      protect.Layer    // what the mail carries already
	Failed     bool             // sealed for us by its form, and it did not open
	Unsealed   bool             // outbound: the sender's own program had sealed it, and we opened it
	Asked      Asks             // outbound
	Answer     bool             // outbound: it answers a mail that came sealed, and that we opened
	Tells      bool             // outbound: the author is one of ours, and can be told a password
	Author     message.Address  // the one address of the one From field; zero when there is none such
	Signing    []keyring.Format // the formats in which we hold an identity for Author, best first
	Escrow     [][]Sealable     // outbound: what each entry of the author's domain has
	Kept       []Kept           // what is known of the archives that the mail may have to go to
	Returned   bool             // inbound: it is an archive's copy that we made
}

// Action is what happens to the mail. The zero action defers.
type Action uint8

const (
	Defer Action = iota
	Relay
	Refuse
)

// String is the word of the decision object.
func (a Action) String() string {
	switch a {
	case Relay:
		return "relay"
	case Refuse:
		return "reject"
	}
	return "defer"
}

// Decision is the one answer to the facts.
type Decision struct {
	Action Action
	Reason string
	Rule   string
	Plans  []Plan
}

// Decide is the whole policy.
func (p *Policy) Decide(f Facts) Decision {
	var d Decision
	switch f.Direction {
	case Inbound:
		d = p.inbound(f)
	case Outbound:
		d = p.outbound(f)
	}
	if d.Action != Relay {
		return d
	}
	return p.archive(f, d)
}

func (p *Policy) inbound(f Facts) Decision {
	var openings []string
	plans := map[string]*Plan{}
	for _, r := range f.Recipients {
		if plans[r.Opening] == nil {
			plans[r.Opening] = &Plan{Opened: r.Opening != ""}
			openings = append(openings, r.Opening)
		}
		plans[r.Opening].Recipients = append(plans[r.Opening].Recipients, r.Address)
	}
	d := Decision{Action: Relay, Reason: ReasonPlain, Rule: "inbound"}
	if f.Failed {
		d.Reason, d.Rule = ReasonNotOpened, "undecryptable"
		if p.Undecryptable == Reject {
			return Decision{Action: Refuse, Reason: ReasonUndecryptable, Rule: "undecryptable"}
		}
	}
	for _, o := range openings {
		d.Plans = append(d.Plans, *plans[o])
		if o != "" && !f.Failed {
			d.Reason = ReasonOpened
		}
	}
	return d
}

func (p *Policy) outbound(f Facts) Decision {
	home := strings.ToLower(f.Author.Domain)
	if f.Layer == protect.Sealed || f.Failed {
		switch p.Client {
		case ClientKeep, "":
		case ClientRefuse, ClientOpen: // what was opened is not sealed any more
			return Decision{Action: Refuse, Reason: ReasonClientBanned, Rule: "client-encryption"}
		default:
			return Decision{}
		}
	}
	if f.Author.IsZero() && f.Layer == protect.None && p.signsAny() {
		return Decision{Action: Refuse, Reason: ReasonNoAuthor, Rule: "sign"}
	}
	d := Decision{Action: Relay, Reason: ReasonPlain, Rule: "default"}
	var sealed, alone, plain plans
	var faults []Decision
	strictest := -1
	for _, r := range f.Recipients {
		n, known := p.need(f, r)
		if !known {
			return Decision{}
		}
		if s := strictness(n.level); s > strictest || s == strictest && n.rule > d.Rule {
			strictest, d.Rule = s, n.rule
		}
		kind, cert, fault := p.copyFor(f, r, n)
		switch {
		case fault.Action != Relay:
			faults = append(faults, fault)
		case !kind.Encrypt:
			plain.add(kind, r.Address)
		case r.Hidden:
			var own plans
			own.add(kind, r.Address, cert)
			alone = append(alone, own...)
		default:
			sealed.add(kind, r.Address, cert)
		}
	}
	if len(faults) > 0 { // the same one, in whatever order recipients come
		return slices.MinFunc(faults, func(a, b Decision) int {
			return cmp.Or(cmp.Compare(b.Action, a.Action), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Rule, b.Rule))
		})
	}
	sealed.sort()
	plain.sort()
	d.Plans = append(sealed, alone...)
	if len(d.Plans) > 0 {
		d.Reason = ReasonSealed
	} else if slices.ContainsFunc(plain, func(p Plan) bool { return p.PDF }) {
		d.Reason = ReasonPDF
	} else if slices.ContainsFunc(plain, func(p Plan) bool { return p.Floor != "" }) {
		d.Reason = ReasonTransport
	}
	for i := range d.Plans {
		if !d.Plans[i].readAlong(len(p.Escrow[home]) > 0, f.Escrow) {
			return Decision{Action: Defer, Reason: ReasonNoEscrow, Rule: `domain."` + home + `"`}
		}
	}
	if f.Layer != protect.None && slices.ContainsFunc(plain, func(p Plan) bool { return !p.PDF }) {
		d.Reason = ReasonClient
	}
	d.Plans = append(d.Plans, plain...)
	return d
}

// copyFor is the kind of copy that a recipient gets, with his certificate where
// it is sealed. The fault relays where there is none.
func (p *Policy) copyFor(f Facts, r Recipient, n need) (kind Plan, cert keyring.Cert, fault Decision) {
	fine := Decision{Action: Relay}
	if n.refused != "" {
		return kind, cert, Decision{Action: Refuse, Reason: n.refused, Rule: n.rule}
	}
	sign, rule := p.Signing(f.Author, r.Address)
	must, may := false, false
	if f.Layer == protect.None && p.Ours(f.Author.Domain) {
		switch sign {
		case SignAlways:
			must = true
		case SignOptional:
			must, may = f.Asked.Sign, true
		case SignAsked:
			must = f.Asked.Sign
		case SignNever:
			if f.Asked.Sign {
				return kind, cert, Decision{Action: Refuse, Reason: ReasonForbidden, Rule: rule}
			}
		default:
			return kind, cert, Decision{}
		}
	}
	certs, form := p.Fit(r.Address, r.Certs), p.Form(r.Address)
	if n.seal && len(certs) == 0 && n.level == Require {
		if n.without.Action != Relay {
			if r.Unsure { // he may have one: that is seen when the sender comes back
				n.without.Action = Defer
			}
			return kind, cert, n.without
		}
		if kind.PDF = n.without.Reason == ReasonPDF; !kind.PDF {
			kind.Floor = Verify // or the way of his domain, where that is stricter
		}
	}
	noIdentity := Decision{Action: Defer, Reason: ReasonNoIdentity, Rule: rule}
	if !n.seal || len(certs) == 0 {
		if must || may {
			kind.Format = form.signing(f.Signing)
			if kind.Sign = kind.Format != ""; kind.Sign {
				kind.Style = styleOf(kind.Format, protect.Style{PSS: form.Style.PSS})
			} else if must {
				return kind, cert, noIdentity
			}
		}
		return kind, cert, fine
	}
	best := 0
	if must || may { // sealed and signed are one format
		best = slices.IndexFunc(certs, func(c Sealable) bool { return slices.Contains(f.Signing, c.Format) })
		if best < 0 && must {
			return kind, cert, noIdentity
		}
	}
	signed := (must || may) && best >= 0
	chosen := certs[max(best, 0)]
	return Plan{Format: chosen.Format, Class: chosen.Class, Style: styleOf(chosen.Format, form.Style), Sign: signed, Encrypt: true}, chosen.Cert, fine
}

func (p *Policy) signsAny() bool {
	always := func(s Sign) bool { return s == SignAlways }
	return slices.ContainsFunc(values(p.Domains), always) || slices.ContainsFunc(values(p.Signs), always)
}

func values[V any](m map[string]V) (list []V) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}
