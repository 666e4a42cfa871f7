// Package policy decides what protection a mail gets. It is pure: facts in,
// one decision out, with the name of the rule that made it; no I/O, no clock.
package policy

import (
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

// Protect is how much end-to-end protection a recipient's mail gets.
type Protect string

const (
	None     Protect = "none"     // never encrypted
	Optional Protect = "optional" // encrypted when a usable certificate is known
	Require  Protect = "require"  // encrypted, or refused
)

// Sign says whether mail of one of our domains is signed.
type Sign string

const (
	SignAlways Sign = "always"
	SignNever  Sign = "never"
)

// Policy is what the site wants. Keys are canonical: addresses as
// message.Address.Key gives them, domains in lower case, "*.domain" for every
// name below it.
type Policy struct {
	Domains       map[string]Sign    // our own domains
	Recipients    map[string]Protect // by address
	Partners      map[string]Protect // by domain
	Default       Protect
	Ways          map[string]Way // by domain, as Partners
	DefaultWay    Way
	Forms         map[string]Form   // by domain, as Partners
	Formats       []keyring.Format  // where the form of a domain names none
	Escrow        map[string]Escrow // by our own domain
	Undecryptable Undecryptable
}

// Escrow names certificates of ours that read along what our authors seal: by
// address or by fingerprint.
type Escrow []string

// Undecryptable says what becomes of sealed mail that does not open.
type Undecryptable string

const (
	Mark   Undecryptable = "mark"   // delivered as it came, marked
	Reject Undecryptable = "reject" // refused, one text for every cause
)

// Ours reports whether domain is one of our own.
func (p *Policy) Ours(domain string) bool {
	_, ok := p.Domains[strings.ToLower(domain)]
	return ok
}

// Protection is the rule for mail to a, and its name: the address's own rule,
// then its domain's, then the nearest "*.domain", then the default.
func (p *Policy) Protection(a message.Address) (Protect, string) {
	if v, ok := p.Recipients[a.Key()]; ok {
		return v, `recipient."` + a.Key() + `"`
	}
	domain := strings.ToLower(a.Domain)
	if v, ok := p.Partners[domain]; ok {
		return v, `partner."` + domain + `"`
	}
	for rest := domain; ; {
		_, above, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if v, ok := p.Partners["*."+above]; ok {
			return v, `partner."*.` + above + `"`
		}
		rest = above
	}
	if p.Ours(domain) {
		return None, `domain."` + domain + `"`
	}
	return p.Default, "default"
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
	Hidden  bool       // in no To or Cc field: gets a copy of its own (Bcc)
	Opening string     // inbound: names the opening this recipient reads; "" when nothing was opened for him
}

// Facts is all that a decision may rest on.
type Facts struct {
	Direction  Direction
	Recipients []Recipient
	Layer      protect.Layer    // what the mail carries already
	Failed     bool             // inbound: sealed for us by its form, and it did not open
	Author     message.Address  // the one address of the one From field; zero when there is none such
	Signing    []keyring.Format // the formats in which we hold an identity for Author, best first
	Escrow     [][]Sealable     // outbound: what each entry of the author's domain has
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

// Words for Decision.Reason.
const (
	ReasonPlain         = "plain"            // nothing to protect
	ReasonSealed        = "sealed"           // sealed for every recipient that has a certificate
	ReasonOpened        = "opened"           // inbound, see the finding
	ReasonNotOpened     = "not-opened"       // inbound, delivered as it came
	ReasonNotOurs       = "not-ours"         // inbound, to a domain that is none of ours
	ReasonNoCert        = "no-cert"          // protection is required and there is no usable certificate
	ReasonNoIdentity    = "no-identity"      // signing is asked for and there is no identity
	ReasonNoEscrow      = "no-escrow"        // somebody of ours must read along, and has no certificate of this kind
	ReasonNoAuthor      = "no-author"        // signing is asked for and From does not name one address
	ReasonUndecryptable = "undecryptable"    // site refuses what it cannot open
	ReasonClient        = "client-protected" // the sender's own program protected it already
)

// Decision is the one answer to the facts.
type Decision struct {
	Action Action
	Reason string
	Rule   string
	Plans  []Plan
}

// Decide is the whole policy.
func (p *Policy) Decide(f Facts) Decision {
	if f.Direction == Inbound {
		return p.inbound(f)
	}
	if f.Direction == Outbound {
		return p.outbound(f)
	}
	return Decision{}
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
	ours := `domain."` + home + `"`
	sign := p.Domains[home] == SignAlways && f.Layer == protect.None
	if sign && len(f.Signing) == 0 {
		return Decision{Action: Defer, Reason: ReasonNoIdentity, Rule: ours}
	}
	if f.Author.IsZero() && f.Layer == protect.None && p.signsAny() {
		return Decision{Action: Refuse, Reason: ReasonNoAuthor, Rule: "sign"}
	}
	d := Decision{Action: Relay, Reason: ReasonPlain, Rule: "default"}
	var sealed, alone, plain plans
	strictest := -1
	for _, r := range f.Recipients {
		level, rule := p.Protection(r.Address)
		if n := strictness(level); n > strictest {
			strictest, d.Rule = n, rule
		}
		certs := p.Fit(r.Address, r.Certs)
		form := p.Form(r.Address)
		switch {
		case level != None && level != Optional && level != Require:
			return Decision{}
		case level == Require && len(certs) == 0:
			return Decision{Action: Refuse, Reason: ReasonNoCert, Rule: rule}
		case level == None, len(certs) == 0, level == Optional && f.Layer == protect.Sealed:
			kind := Plan{Sign: sign}
			if sign {
				if kind.Format = form.signing(f.Signing); kind.Format == "" {
					return Decision{Action: Defer, Reason: ReasonNoIdentity, Rule: rule}
				}
				kind.Style = styleOf(kind.Format, protect.Style{PSS: form.Style.PSS})
			}
			plain.add(kind, r.Address)
			continue
		}
		best := 0
		if sign { // sealed and signed are one format
			best = slices.IndexFunc(certs, func(c Sealable) bool { return slices.Contains(f.Signing, c.Format) })
		}
		if best < 0 {
			return Decision{Action: Defer, Reason: ReasonNoIdentity, Rule: rule}
		}
		cert := certs[best]
		kind := Plan{Format: cert.Format, Class: cert.Class, Style: styleOf(cert.Format, form.Style), Sign: sign, Encrypt: true}
		if r.Hidden {
			var own plans
			own.add(kind, r.Address, cert.Cert)
			alone = append(alone, own...)
			continue
		}
		sealed.add(kind, r.Address, cert.Cert)
	}
	sealed.sort()
	plain.sort()
	d.Plans = append(sealed, alone...)
	if len(d.Plans) > 0 {
		d.Reason = ReasonSealed
	}
	for i := range d.Plans {
		if !d.Plans[i].readAlong(len(p.Escrow[home]) > 0, f.Escrow) {
			return Decision{Action: Defer, Reason: ReasonNoEscrow, Rule: ours}
		}
	}
	if len(plain) > 0 && f.Layer != protect.None {
		d.Reason = ReasonClient
	}
	d.Plans = append(d.Plans, plain...)
	return d
}

func (p *Policy) signsAny() bool {
	for _, mode := range p.Domains {
		if mode == SignAlways {
			return true
		}
	}
	return false
}

func strictness(p Protect) int {
	switch p {
	case None:
		return 0
	case Optional:
		return 1
	}
	return 2
}
