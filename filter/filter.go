// Package filter is the way of a mail through the gateway: fourteen steps, none
// twice (stages.go), one table of replies (reply.go). It keeps no queue: the
// sender hears 250 only after the next hop has said it (relay.go).
package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"postern/filter/arc"
	"postern/filter/authres"
	"postern/filter/directory"
	"postern/filter/dmarc"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/record"
	"postern/filter/scan"
	"postern/filter/transport"
	"postern/hsm"
)

// maxReceived is how many Received fields a mail may bring before it counts
// as looping (RFC 5321 §6.3).
const maxReceived = 50

// Config is all that a Gateway needs; there is no other state.
type Config struct {
	Name       string // authserv-id, and the name in Received
	KeyRing    keyring.KeyRing
	Protectors []protect.Protector // asked in this order
	Policy     *policy.Policy
	Hops       map[policy.Direction]Hop
	Archives   map[string]Hop // by address of the archive: those that have a hop of their own
	Spools     *message.Spools
	// Learn keeps certificates that verified mail brought; nil: none are kept.
	Learn Learner
	// Begin gives the context of one mail: what all judgements of certificates
	// for it share, as the time that they may take. nil: nothing.
	Begin func(ctx context.Context) context.Context
	// Judge tells whether a certificate that arrived by itself can be sealed to
	// as somebody's all the same, where he has none that is trusted: nil, or why
	// not. An error that is no ErrUnfit defers the mail. No Judge: none can.
	Judge func(ctx context.Context, c keyring.Cert, a message.Address, at time.Time) error
	// Revoked tells whether its authority is known to have revoked a certificate
	// that an operator trusts: then it is not sealed to. nil: nobody knows.
	Revoked func(ctx context.Context, c keyring.Cert, at time.Time) bool
	// Finder looks for certificates of recipients of whom no operator trusts one.
	// nil: nobody looks.
	Finder Finder
	// Autocrypt is what is told of certificates in headers. Zero: nothing.
	Autocrypt Autocrypt
	// Awaits has orders that mails of authorities belong to. nil: there are none.
	Awaits Awaiter
	// Joiners says of our domains whose addresses are noted that have no
	// certificate of their own.
	Joiners map[string]Joiners
	// Record remembers what outlives a mail. nil: nothing is remembered.
	Record   *record.Record
	Triggers []Trigger  // what senders can ask for
	Scan     *scan.Desk // nil: nobody looks at what mails hold
	Texts    Texts
	PDF      PDF
	// Origins judges where inbound mail says it comes from, as it came. nil: nobody does.
	Origins *dmarc.Checker
	// Enforce is whether mail is refused where its author's domain wants that.
	Enforce bool
	Attest  Attest
	Limits  message.Limits
	// Clock is nil while the clock can be believed; otherwise every mail waits.
	// No Clock: each is believed.
	Clock    func() error
	InFlight int              // mails between the end of DATA and the next hop's answer; more are deferred
	Log      *slog.Logger     // one line for each mail
	Now      func() time.Time // time.Now where nil
}

// defaultInFlight is how many mails are worked on at once, where nothing is said.
const defaultInFlight = 64

// Gateway takes mails from listeners, and relays them.
type Gateway struct {
	Config
	slots     chan struct{}
	lessons   lessons
	codewords *codewords
	noted     [2]quota // of joiners who got a mail, and of those who sent one
}

// New gives a gateway for c.
func New(c Config) *Gateway {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.InFlight <= 0 {
		c.InFlight = defaultInFlight
	}
	return &Gateway{Config: c, slots: make(chan struct{}, c.InFlight), codewords: newCodewords()}
}

// Listener is where mail comes in. Its direction decides what is done; content never does.
type Listener struct {
	Name      string
	Direction policy.Direction
	Allow     []netip.Prefix // peers that may send here; empty: everybody
	Login     bool           // only who has logged in may
}

// Copy is one mail for one plan, ready for the next hop.
type Copy struct {
	Plan    policy.Plan
	Message *message.Message
	Finding protect.Finding
	results []authres.Method // that stand in its Authentication-Results
}

// passage is one mail on its way; each stage fills what the next ones read.
type passage struct {
	listener  Listener
	env       *transport.Envelope
	at        time.Time
	body      io.Reader
	stage     string
	supposed  bool // nobody brings it
	unscanned bool // no scanner is asked

	spools    []*message.Spool
	name      record.Name      // of the mail, once it is known
	came      *message.Message // as it was received
	eightBit  bool             // so it was received
	msg       *message.Message // what is worked on: outbound without what the sender's program or his triggers added
	author    message.Address  // zero unless one From field names one address
	origin    *dmarc.Verdict   // nil: not asked for
	chain     arc.Chain
	attested  []string // selectors that outbound copies are signed under
	layer     protect.Layer
	protector protect.Protector  // the one that saw layer
	opened    map[string]opening // by recipient
	finding   protect.Finding    // of the mail as it came, or of an opening
	read      *message.Message   // the mail that finding speaks of
	failed    bool
	scanned   map[string]scanned // by recipient; nil: no scanner sees the mail
	unsealed  bool               // the sender's own encryption was taken off
	asks      policy.Asks        // of the sender
	facts     policy.Facts
	own       []keyring.Identity // of the author
	signers   map[keyring.Format]*keyring.Identity
	found     map[string]directory.Result // outbound: what directories know of recipients
	unused    map[string][]unused         // by recipient
	idle      []unused                    // identities of the author
	decision  policy.Decision
	levels    []policy.Level // of the way of each plan
	shadow    *shadow        // what would have been done
	copies    []Copy
	keepers   map[string]signing  // by domain: who signs for its archive
	unkept    []unused            // certificates of archives
	archived  []Copy              // for archives
	archives  map[string]*outcome // of those, by domain
	result    transport.Reply
	outcomes  map[message.Address]*outcome // of the relay, and of who was refused before it
}

// opening is what one group of recipients gets to read. group names it, by the
// identities that were tried; "" when nothing was taken off.
type opening struct {
	group   string
	msg     *message.Message
	finding protect.Finding
}

// spoolFor makes a spool that lives as long as the passage.
func (g *Gateway) spoolFor(p *passage) *message.Spool {
	s := g.Spools.New()
	p.spools = append(p.spools, s)
	return s
}

func (p *passage) close() {
	for _, s := range p.spools {
		s.Close()
	}
}

// accept checks the listener's own door, and what partners' clients are asked.
func (g *Gateway) accept(_ context.Context, p *passage) error {
	if p.listener.Direction != policy.Inbound && p.listener.Direction != policy.Outbound {
		return fmt.Errorf("listener %q has no direction: %w", p.listener.Name, ErrConfig)
	}
	if len(p.listener.Allow) > 0 && !slices.ContainsFunc(p.listener.Allow, func(n netip.Prefix) bool { return n.Contains(p.env.Client.Addr().Unmap()) }) {
		return fmt.Errorf("client %v not allowed on %q: %w", p.env.Client, p.listener.Name, ErrPolicy)
	}
	if g.Clock != nil {
		if err := g.Clock(); err != nil {
			return fmt.Errorf("look at the clock: %w", err)
		}
	}
	if err := p.mayWrite(); err != nil {
		return err
	}
	return g.asked(p)
}

// envelope judges each recipient before any byte of the mail is taken: a
// refusal here is exact, whatever the other recipients get.
func (g *Gateway) envelope(ctx context.Context, p *passage) error {
	if len(p.env.Recipients) == 0 {
		return errors.New("read envelope: no recipient")
	}
	for _, r := range p.env.Recipients {
		if err := g.recipient(ctx, p, r.Address); err != nil {
			return err
		}
	}
	return nil
}

func (g *Gateway) recipient(ctx context.Context, p *passage, to message.Address) error {
	if p.listener.Direction == policy.Inbound {
		if !g.Policy.Ours(to.Domain) {
			p.decision = policy.Decision{Action: policy.Refuse, Reason: policy.ReasonNotOurs, Rule: "domain"}
			return fmt.Errorf("recipient %s is not ours: %w", to.Key(), ErrPolicy)
		}
		return nil
	}
	if g.Policy.Shadow { // what would become of the mail is seen when it is there
		return nil
	}
	known := policy.Recipient{Address: to}
	var not []unused
	var err error
	if known.Once, err = g.once(ctx, to); err != nil {
		return err
	}
	d := g.Policy.Admit(known)
	if d.Action != policy.Relay { // without a certificate
		var about directory.Result
		if g.Finder != nil { // nobody waits yet: what is found meanwhile is there after DATA
			about = g.Finder.Known(ctx, to)
		}
		if known.Certs, not, err = g.usable(ctx, to, p.at, about); err != nil {
			return err
		}
		if len(about.Away) > 0 && len(known.Certs) == 0 {
			return nil
		}
		d = g.Policy.Admit(known)
	}
	if d.Action != policy.Relay {
		p.decision, p.facts.Recipients, p.unused = d, []policy.Recipient{known}, map[string][]unused{to.Key(): not}
		return fmt.Errorf("recipient %s: %w", to.Key(), faultOf(d))
	}
	return nil
}

// spool takes the whole mail in before anything looks at it.
func (g *Gateway) spool(_ context.Context, p *passage) error {
	s := g.spoolFor(p)
	strict := message.Strict(p.body)
	if _, err := message.Copy(s, strict); err != nil {
		return fmt.Errorf("spool mail: %w", err)
	}
	p.msg, p.eightBit = &message.Message{Source: s}, strict.EightBit()
	return nil
}

func (g *Gateway) parse(_ context.Context, p *passage) error {
	msg, err := message.Parse(p.msg.Source, g.Limits)
	if err != nil {
		return fmt.Errorf("parse mail: %w", err)
	}
	p.msg = msg
	if n := msg.Count("Received"); n > maxReceived {
		return fmt.Errorf("%d Received fields: %w", n, ErrLoop)
	}
	p.came = msg
	if a, err := msg.Author(); err == nil {
		p.author = a
	}
	if err := g.submitted(p); err != nil {
		return err
	}
	g.detect(p)
	return nil
}

// detect finds the layer at the root of the mail, and who takes it off.
func (g *Gateway) detect(p *passage) {
	p.layer, p.protector = protect.None, nil
	for _, pr := range g.Protectors {
		if l := pr.Detect(p.msg); l != protect.None {
			p.layer, p.protector = l, pr
			return
		}
	}
}

// open takes the protection off. Only the identities of a recipient open for
// that recipient: whoever copies another's ciphertext into a mail to himself
// gets it back as it was. Recipients with the same identities share an opening.
//
// What would refuse the mail for what was found inside (a bomb, a structure
// beyond limits) is "cannot be opened" like every other cause: a reply of its
// own would tell the sender that the ciphertext did open. So is a wrapped key
// that keyd calls malformed: that is the mail's fault, and would stay so.
func (g *Gateway) open(ctx context.Context, p *passage) error {
	p.finding, p.read = protect.Finding{Reason: protect.ReasonNone}, p.msg
	if p.listener.Direction == policy.Outbound {
		return g.unseal(ctx, p)
	}
	if p.layer == protect.None {
		return nil
	}
	var known []keyring.Cert
	if !p.author.IsZero() {
		var err error
		if known, err = g.KeyRing.Certs(ctx, p.author); err != nil {
			return fmt.Errorf("look up sender: %w", err)
		}
	}
	p.opened = map[string]opening{}
	done := map[string]*opening{}
	for _, r := range p.env.Recipients {
		ids, err := g.KeyRing.Identities(ctx, r.Address)
		if err != nil {
			return fmt.Errorf("look up recipient: %w", err)
		}
		var group string
		if p.layer == protect.Sealed {
			for _, id := range ids {
				group += id.Fingerprint + " "
			}
		}
		o, seen := done[group]
		if !seen {
			msg, finding, err := p.protector.Open(ctx, protect.OpenRequest{
				Message: p.msg, Identities: ids, Certs: known, At: p.at,
				NewSpool: func() *message.Spool { return g.spoolFor(p) },
			})
			switch {
			case errors.Is(err, protect.ErrCannotOpen), errors.Is(err, hsm.ErrInvalid), err != nil && refusal(err):
				p.failed = true
				if !p.finding.Opened {
					p.finding = protect.Finding{Format: p.protector.Format(), Reason: protect.ReasonNotOpened}
				}
			case err != nil:
				return fmt.Errorf("open mail: %w", err)
			default:
				o = &opening{msg: msg, finding: finding}
				if finding.Opened {
					o.group = group
				}
				p.finding, p.read = finding, msg
			}
			done[group] = o
		}
		if o != nil {
			p.opened[r.Address.Key()] = *o
		}
	}
	return nil
}

func (g *Gateway) decide(_ context.Context, p *passage) error {
	p.decision, p.levels = g.Policy.Decide(p.facts), nil
	if p.decision.Action != policy.Relay {
		return g.apart(p)
	}
	for _, plan := range p.decision.Plans {
		p.levels = append(p.levels, g.level(p, plan))
	}
	return p.covered()
}

// covered holds that every recipient stands in exactly one plan: whom a
// decision forgot would lose his mail with a 250.
func (p *passage) covered() error {
	plans := map[message.Address]int{}
	for i, plan := range p.decision.Plans {
		if plan.Archive != "" { // beside what they get
			continue
		}
		for _, a := range plan.Recipients {
			if at, twice := plans[a]; twice && at != i {
				return fmt.Errorf("decide: recipient %s in two plans", a.Key())
			}
			plans[a] = i
		}
	}
	for _, r := range p.env.Recipients {
		if _, ok := plans[r.Address]; !ok && p.outcomes[r.Address] == nil {
			return fmt.Errorf("decide: recipient %s in no plan", r.Address.Key())
		}
	}
	return nil
}

// seal makes one copy for each plan.
func (g *Gateway) seal(ctx context.Context, p *passage) error {
	for _, plan := range p.decision.Plans {
		c := Copy{Plan: plan, Message: p.msg, Finding: p.finding}
		switch {
		case plan.Archive != "": // of what is made here and marked
			continue
		case plan.Opened:
			o := p.opened[plan.Recipients[0].Key()] // a plan holds the readers of one opening
			c.Message, c.Finding = o.msg, o.finding
		case p.listener.Direction == policy.Inbound:
			c.Finding = p.unopened(plan)
		case plan.Sign || plan.Encrypt || plan.PDF:
			if plan.PDF {
				printed, err := g.printed(ctx, p)
				if err != nil {
					return err
				}
				if c.Message = printed; !plan.Sign {
					break
				}
			}
			i := slices.IndexFunc(g.Protectors, func(pr protect.Protector) bool { return pr.Format() == plan.Format })
			if i < 0 {
				return fmt.Errorf("no protector for %q: %w", plan.Format, ErrConfig)
			}
			r := protect.SealRequest{Message: c.Message, Own: p.own, Style: plan.Style, At: p.at, NewSpool: func() *message.Spool { return g.spoolFor(p) }}
			if plan.Sign {
				if r.Signer = p.signers[plan.Format]; r.Signer == nil {
					return fmt.Errorf("no identity in %q: %w", plan.Format, ErrConfig)
				}
			}
			if plan.Encrypt {
				if len(plan.Certs) == 0 || len(plan.Certs) != len(plan.Recipients) {
					return fmt.Errorf("%d certificates for %d recipients: %w", len(plan.Certs), len(plan.Recipients), ErrMustProtect)
				}
				r.Recipients = slices.Concat(plan.Certs, plan.Escrow)
			}
			sealed, err := g.Protectors[i].Seal(ctx, r)
			if err != nil {
				return fmt.Errorf("seal mail: %w", err)
			}
			c.Message = sealed
		}
		p.copies = append(p.copies, c)
	}
	return nil
}

// unopened is the finding for recipients who get the mail as it came.
func (p *passage) unopened(plan policy.Plan) protect.Finding {
	if o, ok := p.opened[plan.Recipients[0].Key()]; ok {
		return o.finding
	}
	if p.layer == protect.Sealed {
		return protect.Finding{Format: p.protector.Format(), Reason: protect.ReasonNotOpened}
	}
	return p.finding
}

// traced hands the mail's trace id on to the audit record of the key daemon,
// and where the mail came from to its count of failures.
func traced(ctx context.Context, l Listener, e *transport.Envelope) context.Context {
	return hsm.WithOrigin(hsm.WithTrace(ctx, e.Trace), origin(l, e))
}

// origin names the sender by the client's network: its IPv4 address, or the
// first 64 bits of its IPv6 address, which one host may have whole. It is ""
// where the client is a server of ours that brings mail of everybody and does
// not say whose, so that one hostile sender behind it does not stand for all: on
// this machine, or on a listener that only named networks may use.
func origin(l Listener, e *transport.Envelope) string {
	client := e.Source().Addr().Unmap().WithZone("")
	switch {
	case !client.IsValid() || client.IsLoopback() || len(l.Allow) > 0 && !e.Origin.IsValid():
		return ""
	case client.Is4():
		return client.String()
	}
	return netip.PrefixFrom(client, 64).Masked().String()
}
