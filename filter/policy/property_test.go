package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// dice throw sites and mails.
type dice struct{ *rand.Rand }

func one[T any](d dice, list ...T) T { return list[d.IntN(len(list))] }

func (d dice) often() bool  { return d.IntN(3) > 0 }
func (d dice) seldom() bool { return d.IntN(3) == 0 }

var (
	levels  = []Protect{None, OnDemand, Optional, Require}
	people  = []message.Address{alice, bob, carol, dave, addr("x", "other.example"), addr("y", "partner.example"), addr("z", "company1.example")}
	formats = []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	classes = []string{"rsa", "ec"}
)

func (d dice) site() *Policy {
	p := &Policy{
		Domains: map[string]Sign{"company1.example": one(d, SignAlways, SignOptional, SignAsked, SignNever)}, Internal: map[string]Protect{},
		Recipients: map[string]Protect{}, Partners: map[string]Protect{}, Default: one(d, levels...), Signs: map[string]Sign{}, NoKeys: map[string]NoKey{},
		NoKey: one(d, "", NoKeyReject, NoKeyTransport, NoKeyDefer, NoKeyPDF), Downgrade: one(d, "", DowngradeReject, DowngradeDefer, DowngradeOff),
		Answers: one(d, "", AnswersProtect, AnswersUsual), Client: one(d, "", ClientKeep, ClientRefuse, ClientOpen), Lowering: d.seldom(),
		Ways: map[string]Way{}, Forms: map[string]Form{}, Escrow: map[string]Escrow{}, Undecryptable: Mark,
	}
	if d.often() {
		p.Internal["company1.example"] = one(d, None, Optional, Require)
	}
	for _, a := range people {
		if d.seldom() {
			p.Recipients[a.Key()] = one(d, levels...)
		}
		if d.seldom() && a.Domain != "company1.example" {
			p.Partners[a.Domain] = one(d, levels...)
		}
		if d.seldom() {
			p.Signs[one(d, a.Key(), a.Domain)] = one(d, SignAlways, SignOptional, SignAsked, SignNever)
		}
		if d.seldom() {
			p.NoKeys[one(d, a.Key(), a.Domain)] = one(d, NoKeyReject, NoKeyTransport, NoKeyDefer, NoKeyPDF)
		}
	}
	if d.seldom() {
		p.Partners["*.wild.example"] = one(d, levels...)
	}
	forms := []Form{{}, {Formats: formats[:1]}, {Formats: formats[1:]}, {Formats: []keyring.Format{keyring.SMIME, keyring.OpenPGP}, Style: protect.Style{PSS: true}}}
	for _, domain := range []string{"partner.example", "*.wild.example", "freemail.example"} {
		p.Forms[domain] = one(d, forms...)
	}
	if d.seldom() {
		p.Escrow["company1.example"] = Escrow{"archive@company1.example"}
	}
	return p
}

func (d dice) cert(name string) Sealable {
	return Sealable{keyring.Cert{Format: one(d, formats...), Fingerprint: name}, one(d, classes...)}
}

func (d dice) facts(p *Policy) Facts {
	f := Facts{Direction: Outbound, Author: one(d, alice, alice, dave, message.Address{}), Layer: one(d, protect.None, protect.None, protect.Sealed, protect.Signed),
		Asked: Asks{d.seldom(), d.seldom(), d.seldom()}, Answer: d.IntN(5) == 0}
	f.Tells = f.Author == alice && d.often()
	if f.Layer != protect.Sealed {
		f.Unsealed = p.Client == ClientOpen && d.seldom()
	}
	for _, i := range d.Perm(len(formats))[:d.IntN(3)] {
		f.Signing = append(f.Signing, formats[i])
	}
	for _, i := range d.Perm(len(people))[:1+d.IntN(4)] {
		r := Recipient{Address: people[i], Hidden: d.IntN(4) == 0, Once: d.IntN(4) == 0}
		for range d.IntN(3) {
			r.Certs = append(r.Certs, d.cert(r.Address.Key()))
		}
		f.Recipients = append(f.Recipients, r)
	}
	if len(p.Escrow[f.Author.Domain]) > 0 {
		f.Escrow = [][]Sealable{nil}
		for _, format := range formats {
			for _, class := range classes {
				if d.often() {
					f.Escrow[0] = append(f.Escrow[0], Sealable{keyring.Cert{Format: format, Fingerprint: "archive"}, class})
				}
			}
		}
	}
	return f
}

// How a recipient's copy is protected. What is not sent is protected best.
const (
	clear = iota
	onTheWay
	locked // in a document with a password
	sealedFor
)

func protection(f Facts, d Decision, a message.Address) int {
	if d.Action != Relay || f.Layer == protect.Sealed {
		return sealedFor
	}
	plan := planOf(d, a)
	switch {
	case plan.Encrypt:
		return sealedFor
	case plan.PDF:
		return locked
	case plan.Floor != "":
		return onTheWay
	}
	return clear
}

func planOf(d Decision, a message.Address) Plan {
	i := slices.IndexFunc(d.Plans, func(p Plan) bool { return slices.Contains(p.Recipients, a) })
	if i < 0 {
		return Plan{}
	}
	return d.Plans[i]
}

// try throws n sites and mails.
func try(t *testing.T, n int, check func(d dice, p *Policy, f Facts, was Decision)) {
	t.Helper()
	for seed := range uint64(n) {
		d := dice{rand.New(rand.NewPCG(2, seed))}
		p := d.site()
		f := d.facts(p)
		was := p.Decide(f)
		sound(t, p, f, was)
		check(d, p, f, was)
		if t.Failed() {
			t.Fatalf("seed %d\nsite %+v\nfacts %+v\ndecision %+v", seed, p, f, was)
		}
	}
}

// noLess holds that nobody's copy is protected less than before, and that what
// was not sent is not sent now; but for mail that nobody could read along, and
// that now is of another kind.
func noLess(t *testing.T, what string, f Facts, was, is Decision) {
	t.Helper()
	if was.Reason == ReasonNoEscrow {
		return
	}
	if was.Action != Relay && is.Action == Relay {
		t.Errorf("%s: got the mail relayed, %v %s before", what, was.Action, was.Reason)
		return
	}
	for _, r := range f.Recipients {
		if a, b := protection(f, was, r.Address), protection(f, is, r.Address); b < a {
			t.Errorf("%s: got %d for %v, %d before: %+v", what, b, r.Address, a, is)
		}
	}
}

// Whatever is decided, each recipient stands in exactly one plan, sealed with a
// certificate of his own, where his rule or the mail asks for it.
func sound(t *testing.T, p *Policy, f Facts, d Decision) {
	t.Helper()
	if d.Action != Relay {
		if len(d.Plans) > 0 || d.Reason == "" {
			t.Fatalf("got %d plans and reason %q with %v", len(d.Plans), d.Reason, d.Action)
		}
		return
	}
	for _, r := range f.Recipients {
		var mine []Plan
		for _, plan := range d.Plans {
			if slices.Contains(plan.Recipients, r.Address) {
				mine = append(mine, plan)
			}
		}
		level, rule := p.Protection(r.Address)
		outside := !p.Ours(r.Address.Domain)
		sign, by := p.Signing(f.Author, r.Address)
		switch {
		case len(mine) != 1:
			t.Fatalf("%v stands in %d plans", r.Address, len(mine))
		case level == Require && !mine[0].Encrypt && mine[0].Floor == "" && !mine[0].PDF:
			t.Fatalf("%v gets clear text in spite of %s", r.Address, rule)
		case level == None && mine[0].Encrypt:
			t.Fatalf("%v gets sealed mail in spite of %s", r.Address, rule)
		case mine[0].Floor != "" && (p.Without(r.Address) != NoKeyTransport || mine[0].Encrypt):
			t.Fatalf("%v: a safe way stands in for a certificate, and nobody says so: %+v", r.Address, mine[0])
		case mine[0].PDF && (p.Without(r.Address) != NoKeyPDF || mine[0].Encrypt || mine[0].Floor != "" || !f.Tells || len(p.Escrow[f.Author.Domain]) > 0 || f.Layer == protect.Sealed || level != Require && !f.Asked.Encrypt || len(p.Fit(r.Address, r.Certs)) > 0):
			t.Fatalf("%v: a document stands in for a certificate, and it must not: %+v", r.Address, mine[0])
		case outside && f.Layer != protect.Sealed && (f.Unsealed || f.Answer && p.Answers != AnswersUsual) && !mine[0].Encrypt:
			t.Fatalf("%v gets in clear what had come sealed", r.Address)
		case outside && f.Layer != protect.Sealed && f.Asked.Encrypt && !mine[0].Encrypt && mine[0].Floor == "" && !mine[0].PDF:
			t.Fatalf("%v gets in clear what its sender wanted sealed", r.Address)
		case r.Once && level != None && p.Downgrade != DowngradeOff && f.Layer != protect.Sealed && !mine[0].Encrypt && !(p.Lowering && f.Asked.Plain):
			t.Fatalf("%v gets less than before", r.Address)
		case mine[0].Encrypt && !slices.ContainsFunc(mine[0].Certs, func(c keyring.Cert) bool { return c.Fingerprint == r.Address.Key() && c.Format == mine[0].Format }):
			t.Fatalf("%v gets a copy that is not sealed to him: %+v", r.Address, mine[0])
		case mine[0].Encrypt && len(mine[0].Certs) != len(mine[0].Recipients), !mine[0].Encrypt && len(mine[0].Certs) > 0:
			t.Fatalf("plan %+v: want a certificate for each recipient, or none", mine[0])
		case mine[0].Encrypt && r.Hidden && len(mine[0].Recipients) > 1:
			t.Fatalf("%v is hidden, and shares a copy", r.Address)
		case mine[0].Encrypt && len(f.Escrow) > 0 && len(mine[0].Escrow) == 0, len(f.Escrow) == 0 && len(mine[0].Escrow) > 0, !mine[0].Encrypt && len(mine[0].Escrow) > 0:
			t.Fatalf("plan %+v: escrow is for every sealed copy where it is asked for, and for none elsewhere", mine[0])
		case p.Form(r.Address).Formats != nil && mine[0].Format != "" && !slices.Contains(p.Form(r.Address).Formats, mine[0].Format):
			t.Fatalf("%v gets a format that his form has not: %+v", r.Address, mine[0])
		case mine[0].Encrypt && mine[0].Format == keyring.SMIME && mine[0].Style != p.Form(r.Address).Style:
			t.Fatalf("%v gets another's style: %+v", r.Address, mine[0])
		case mine[0].Sign && (!slices.Contains(f.Signing, mine[0].Format) || !p.Ours(f.Author.Domain) || f.Layer != protect.None || sign == SignNever):
			t.Fatalf("plan %+v is to be signed, and cannot or must not be", mine[0])
		case !mine[0].Sign && f.Layer == protect.None && p.Ours(f.Author.Domain) && (sign == SignAlways || f.Asked.Sign):
			t.Fatalf("%v gets an unsigned copy in spite of %s", r.Address, by)
		}
	}
}

// Making any rule stricter, or adding one that asks for as much at least,
// takes protection from nobody. What a rule forbids, and was refused for that,
// may be sent where the rule does not forbid it any more (R26).
func TestAnyStricterRuleProtectsNoLess(t *testing.T) {
	try(t, 8_000, func(d dice, p *Policy, f Facts, was Decision) {
		q := *p
		q.Recipients, q.Partners, q.Internal = maps.Clone(p.Recipients), maps.Clone(p.Partners), maps.Clone(p.Internal)
		stricter := func(v Protect) Protect { return levels[min(max(strictness(v), 0)+d.IntN(3), 3)] }
		what := ""
		switch d.IntN(4) {
		case 0:
			q.Default = stricter(q.Default)
			what = "default"
		case 1: // a rule of his own for somebody
			a := one(d, people...)
			level, _ := p.Protection(a)
			q.Recipients[a.Key()] = stricter(level)
			what = fmt.Sprint("rule ", q.Recipients[a.Key()], " for ", a)
		case 2:
			for _, k := range slices.Sorted(maps.Keys(p.Partners)) {
				q.Partners[k] = stricter(p.Partners[k])
			}
			what = "partners"
		case 3:
			if level := stricter(q.Internal["company1.example"]); level != OnDemand {
				q.Internal["company1.example"] = level
			}
			what = "internal"
		}
		is := q.Decide(f)
		sound(t, &q, f, is)
		if (was.Reason == ReasonForbidden || was.Reason == ReasonAnswer) && is.Action == Relay {
			return
		}
		noLess(t, what, f, was, is)
	})
}

// No trigger lowers anything, but for the one that the site has to allow; and
// that one lowers nobody whose rule asks for more than optional (R26).
func TestTriggersNeverLower(t *testing.T) {
	try(t, 8_000, func(d dice, p *Policy, f Facts, _ Decision) {
		f.Asked = Asks{}
		base := p.Decide(f)
		for _, a := range []Asks{{Encrypt: true}, {Sign: true}, {Encrypt: true, Sign: true}, {Encrypt: true, Plain: true}} {
			f.Asked = a
			is := p.Decide(f)
			sound(t, p, f, is)
			noLess(t, fmt.Sprintf("%+v", a), f, base, is)
			if is.Action == Relay {
				for _, r := range f.Recipients {
					// A signature that is optional gives way to encryption in the other format.
					if rule, _ := p.Signing(f.Author, r.Address); rule != SignOptional && planOf(base, r.Address).Sign && !planOf(is, r.Address).Sign {
						t.Errorf("%+v: %v gets an unsigned copy", a, r.Address)
					}
				}
			}
		}
		f.Asked = Asks{Plain: true}
		is := p.Decide(f)
		sound(t, p, f, is)
		if !p.Lowering {
			if !reflect.DeepEqual(is, base) {
				t.Errorf("nobody allows it: got %+v, want %+v", is, base)
			}
			return
		}
		for _, r := range f.Recipients {
			if level, rule := p.Protection(r.Address); is.Action == Relay && level == Require && protection(f, is, r.Address) == clear {
				t.Errorf("plain for %v in spite of %s", r.Address, rule)
			}
		}
	})
}

// What a mail is, and what is known of its recipients, raises only (R26, R45).
func TestFactsNeverLower(t *testing.T) {
	try(t, 8_000, func(d dice, p *Policy, f Facts, was Decision) {
		g := f
		g.Answer = true
		noLess(t, "answer", f, was, p.Decide(g))
		if g = f; f.Layer != protect.Sealed {
			g.Unsealed = true
			noLess(t, "unsealed", f, was, p.Decide(g))
		}
		g = f
		g.Recipients = slices.Clone(f.Recipients)
		i := d.IntN(len(g.Recipients))
		g.Recipients[i].Once = true
		noLess(t, "once", f, was, p.Decide(g))
		g.Recipients[i].Once = f.Recipients[i].Once
		more := slices.Insert(slices.Clone(f.Recipients[i].Certs), d.IntN(len(f.Recipients[i].Certs)+1), d.cert(f.Recipients[i].Address.Key()))
		g.Recipients[i].Certs = more
		if is := p.Decide(g); was.Action == Relay { // what was refused for want of it may go
			noLess(t, "certificate", f, was, is)
		} else {
			sound(t, p, g, is)
		}
	})
}

// R26. Documents stand in place of refusals only: where nobody got one, everything is
// as if no rule spoke of them; and where somebody did, the others get what they
// would get without him.
func TestDocumentsReplaceRefusals(t *testing.T) {
	seen := 0
	try(t, 8_000, func(d dice, p *Policy, f Facts, was Decision) {
		if d.often() {
			p.NoKey, p.NoKeys, f.Tells = NoKeyPDF, nil, f.Author == alice
			was = p.Decide(f)
			sound(t, p, f, was)
		}
		q := *p
		q.NoKeys = maps.Clone(p.NoKeys)
		for k, v := range q.NoKeys {
			if v == NoKeyPDF {
				q.NoKeys[k] = NoKeyReject
			}
		}
		if q.NoKey == NoKeyPDF {
			q.NoKey = NoKeyReject
		}
		is := q.Decide(f)
		printed := slices.ContainsFunc(was.Plans, func(p Plan) bool { return p.PDF })
		switch {
		case !printed && was.Action == Relay && !reflect.DeepEqual(is, was):
			t.Errorf("got %+v without documents, want what it is", is)
		case !printed && was.Action != Relay && is.Action == Relay:
			t.Errorf("got the mail relayed without documents: %+v", is)
		case printed && (is.Action != Refuse || is.Reason != ReasonNoCert):
			t.Errorf("got %v %s without documents, want it refused", is.Action, is.Reason)
		}
		if !printed {
			return
		}
		seen++
		g := f
		g.Recipients = slices.DeleteFunc(slices.Clone(f.Recipients), func(r Recipient) bool { return planOf(was, r.Address).PDF })
		if len(g.Recipients) == 0 {
			return
		}
		rest := q.Decide(g)
		for _, r := range g.Recipients {
			if a, b := protection(f, was, r.Address), protection(g, rest, r.Address); a != b {
				t.Errorf("%v: got protection %d, %d without those who get documents", r.Address, a, b)
			}
		}
	})
	if seen < 100 {
		t.Errorf("got %d mails with documents, want 100 or more", seen)
	}
}

// It does not matter in which order recipients are named.
func TestOrderOfRecipients(t *testing.T) {
	kind := func(d Decision, a message.Address) string {
		p := planOf(d, a)
		var cert string
		if i := slices.Index(p.Recipients, a); i >= 0 && p.Encrypt {
			cert = p.Certs[i].Fingerprint
		}
		return fmt.Sprint(p.Format, p.Class, p.Style, p.Sign, p.Encrypt, p.PDF, p.Floor, len(p.Recipients), cert)
	}
	try(t, 8_000, func(d dice, p *Policy, f Facts, was Decision) {
		g := f
		g.Recipients = nil
		for _, i := range d.Perm(len(f.Recipients)) {
			g.Recipients = append(g.Recipients, f.Recipients[i])
		}
		is := p.Decide(g)
		if is.Action != was.Action || is.Reason != was.Reason || is.Rule != was.Rule || len(is.Plans) != len(was.Plans) {
			t.Errorf("got %v %s %s with %d plans, want %v %s %s with %d", is.Action, is.Reason, is.Rule, len(is.Plans), was.Action, was.Reason, was.Rule, len(was.Plans))
		}
		for _, r := range f.Recipients {
			if a, b := kind(was, r.Address), kind(is, r.Address); a != b {
				t.Errorf("%v: got %s, want %s", r.Address, b, a)
			}
		}
	})
}

// What is refused before the mail is known would be refused when it is, unless
// its sender's program has sealed it, or he asks for less.
func TestAdmit(t *testing.T) {
	try(t, 8_000, func(d dice, p *Policy, f Facts, was Decision) {
		if f.Layer == protect.Sealed || f.Asked.Plain {
			return
		}
		for _, r := range f.Recipients {
			if a := p.Admit(r); a.Action != Relay && was.Action == Relay {
				t.Errorf("%v: got %v %s at once, and the mail is relayed", r.Address, a.Action, a.Reason)
			}
		}
	})
}

// A word that is none lets nothing through in clear (R26).
func TestUnknownWordsDefer(t *testing.T) {
	f := Facts{Direction: Outbound, Author: alice, Signing: formats, Recipients: []Recipient{{Address: dave, Once: true}}}
	for name, spoil := range map[string]func(*Policy){
		"level":      func(p *Policy) { p.Recipients[dave.Key()] = "much" },
		"sign":       func(p *Policy) { p.Domains["company1.example"] = "perhaps" },
		"no-key":     func(p *Policy) { p.Default, p.NoKey = Require, "send" },
		"downgrade":  func(p *Policy) { p.Downgrade = "maybe" },
		"client":     func(p *Policy) { p.Client = "like" },
		"everything": func(p *Policy) { *p = Policy{} },
	} {
		p := &Policy{Domains: map[string]Sign{"company1.example": SignNever}, Recipients: map[string]Protect{}, Default: Optional, NoKey: NoKeyTransport}
		spoil(p)
		g := f
		if name == "client" {
			g.Layer = protect.Sealed
		}
		if d := p.Decide(g); d.Action == Relay {
			t.Errorf("%s: got relay with %+v", name, d.Plans)
		}
	}
}
