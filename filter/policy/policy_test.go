package policy

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

func addr(local, domain string) message.Address { return message.Address{Local: local, Domain: domain} }

var (
	alice = addr("alice", "company1.example")
	bob   = addr("bob", "partner.example")
	carol = addr("carol", "sub.wild.example")
	dave  = addr("dave", "freemail.example")
	cert  = Sealable{Cert: keyring.Cert{Format: keyring.OpenPGP, Fingerprint: "AA"}}
)

func site() *Policy {
	return &Policy{
		Domains:       map[string]Sign{"company1.example": SignAlways},
		Recipients:    map[string]Protect{dave.Key(): Require},
		Partners:      map[string]Protect{"partner.example": Optional, "*.wild.example": Require},
		Default:       None,
		Undecryptable: Mark,
	}
}

func TestProtectionTakesTheNearestRule(t *testing.T) {
	for _, c := range []struct {
		to   message.Address
		want Protect
		rule string
	}{
		{dave, Require, `recipient."dave@freemail.example"`},
		{addr("eve", "freemail.example"), None, "default"},
		{bob, Optional, `partner."partner.example"`},
		{addr("bob", "PARTNER.example"), Optional, `partner."partner.example"`},
		{carol, Require, `partner."*.wild.example"`},
		{addr("x", "wild.example"), None, "default"},
		{alice, None, `domain."company1.example"`},
	} {
		if got, rule := site().Protection(c.to); got != c.want || rule != c.rule {
			t.Errorf("Protection(%v): got %v by %v, want %v by %v", c.to, got, rule, c.want, c.rule)
		}
	}
}

func TestDecideOutbound(t *testing.T) {
	sealed := func(to ...message.Address) (rs []Recipient) {
		for _, a := range to {
			rs = append(rs, Recipient{Address: a, Certs: []Sealable{cert}})
		}
		return rs
	}
	signing := []keyring.Format{keyring.OpenPGP}
	for _, c := range []struct {
		name   string
		facts  Facts
		action Action
		reason string
		plans  int
		sealed bool // first plan is encrypted
		signed bool // first plan is signed
	}{
		{"certificate known", Facts{Author: alice, Signing: signing, Recipients: sealed(bob)}, Relay, ReasonSealed, 1, true, true},
		{"no certificate, optional", Facts{Author: alice, Signing: signing, Recipients: []Recipient{{Address: bob}}}, Relay, ReasonPlain, 1, false, true},
		{"no certificate, required", Facts{Author: alice, Signing: signing, Recipients: []Recipient{{Address: dave}}}, Refuse, ReasonNoCert, 0, false, false},
		{"one of two lacks what is required", Facts{Author: alice, Signing: signing, Recipients: append(sealed(bob), Recipient{Address: carol})}, Refuse, ReasonNoCert, 0, false, false},
		{"no identity where signing is asked for", Facts{Author: alice, Recipients: sealed(bob)}, Defer, ReasonNoIdentity, 0, false, false},
		{"identity of another format", Facts{Author: alice, Signing: []keyring.Format{keyring.SMIME}, Recipients: sealed(bob)}, Defer, ReasonNoIdentity, 0, false, false},
		{"no author", Facts{Signing: signing, Recipients: sealed(bob)}, Refuse, ReasonNoAuthor, 0, false, false},
		{"forwarded for a foreign author", Facts{Author: dave, Recipients: sealed(bob)}, Relay, ReasonSealed, 1, true, false},
		{"hidden recipient gets a copy of his own", Facts{Author: alice, Signing: signing, Recipients: []Recipient{{Address: bob, Certs: []Sealable{cert}}, {Address: dave, Certs: []Sealable{cert}, Hidden: true}}}, Relay, ReasonSealed, 2, true, true},
		{"sealed and plain", Facts{Author: alice, Signing: signing, Recipients: append(sealed(bob), Recipient{Address: addr("x", "other.example")})}, Relay, ReasonSealed, 2, true, true},
		{"sealed by the client, optional", Facts{Author: alice, Signing: signing, Layer: protect.Sealed, Recipients: sealed(bob)}, Relay, ReasonClient, 1, false, false},
		{"sealed by the client, required", Facts{Author: alice, Signing: signing, Layer: protect.Sealed, Recipients: sealed(dave)}, Relay, ReasonSealed, 1, true, false},
		{"policy none in spite of a certificate", Facts{Author: alice, Signing: signing, Recipients: sealed(addr("x", "other.example"))}, Relay, ReasonPlain, 1, false, true},
	} {
		c.facts.Direction = Outbound
		d := site().Decide(c.facts)
		if d.Action != c.action || d.Reason != c.reason || len(d.Plans) != c.plans {
			t.Errorf("%s: got %v %v with %d plans, want %v %v with %d", c.name, d.Action, d.Reason, len(d.Plans), c.action, c.reason, c.plans)
			continue
		}
		if c.plans > 0 && (d.Plans[0].Encrypt != c.sealed || d.Plans[0].Sign != c.signed) {
			t.Errorf("%s: got encrypt %v sign %v, want %v %v", c.name, d.Plans[0].Encrypt, d.Plans[0].Sign, c.sealed, c.signed)
		}
		for _, p := range d.Plans {
			if p.Encrypt != (len(p.Certs) > 0) || p.Encrypt && len(p.Certs) != len(p.Recipients) {
				t.Errorf("%s: plan %+v: an encrypted copy needs a certificate for each recipient", c.name, p)
			}
		}
	}
}

// What the zero value or an unknown word says is never "relay in clear".
func TestDecideFailsClosed(t *testing.T) {
	p := site()
	p.Default = "whatever"
	rs := []Recipient{{Address: addr("x", "other.example")}}
	if d := p.Decide(Facts{Direction: Outbound, Author: dave, Recipients: rs}); d.Action != Defer {
		t.Errorf("unknown level: got %v, want defer", d.Action)
	}
	if d := p.Decide(Facts{Recipients: rs}); d.Action != Defer {
		t.Errorf("no direction: got %v, want defer", d.Action)
	}
}

// A stricter rule for a recipient never gives less protection (a mail that is
// not sent is protected best).
func TestStricterRulesNeverProtectLess(t *testing.T) {
	rank := func(d Decision) int {
		switch {
		case d.Action != Relay:
			return 2
		case d.Plans[0].Encrypt:
			return 1
		}
		return 0
	}
	for _, certs := range [][]Sealable{nil, {cert}} {
		for _, layer := range []protect.Layer{protect.None, protect.Sealed, protect.Signed} {
			last := -1
			for _, level := range []Protect{None, Optional, Require} {
				p := site()
				p.Recipients[dave.Key()] = level
				got := rank(p.Decide(Facts{Direction: Outbound, Author: alice, Signing: []keyring.Format{keyring.OpenPGP}, Layer: layer, Recipients: []Recipient{{Address: dave, Certs: certs}}}))
				if got < last {
					t.Errorf("certs %d layer %v: %v protects less than the level before", len(certs), layer, level)
				}
				last = got
			}
		}
	}
}

// Over random sites and mails: making any one rule stricter never takes
// protection from any recipient, and whatever is decided, each recipient
// stands in exactly one plan, sealed with a certificate of his own, where his
// rule asks for it.
func TestAnyStricterRuleProtectsNoLess(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 3))
	levels := []Protect{None, Optional, Require}
	pick := func() Protect { return levels[random.IntN(len(levels))] }
	people := []message.Address{alice, bob, carol, dave, addr("x", "other.example"), addr("y", "partner.example")}
	formats := []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	classes := []string{"rsa", "ec"}
	forms := []Form{{}, {Formats: formats[:1]}, {Formats: formats[1:]}, {Formats: []keyring.Format{keyring.SMIME, keyring.OpenPGP}, Style: protect.Style{PSS: true}}}
	for range 20_000 {
		p := &Policy{Domains: map[string]Sign{"company1.example": []Sign{SignAlways, SignNever}[random.IntN(2)]}, Recipients: map[string]Protect{}, Partners: map[string]Protect{}, Default: pick(), Undecryptable: Mark}
		for _, a := range people {
			if random.IntN(3) == 0 {
				p.Recipients[a.Key()] = pick()
			}
			if random.IntN(3) == 0 {
				p.Partners[a.Domain] = pick()
			}
		}
		if random.IntN(2) == 0 {
			p.Partners["*.wild.example"] = pick()
		}
		p.Forms = map[string]Form{}
		for _, d := range []string{"partner.example", "*.wild.example", "freemail.example"} {
			p.Forms[d] = forms[random.IntN(len(forms))]
		}
		p.Escrow = map[string]Escrow{}
		if random.IntN(3) == 0 {
			p.Escrow["company1.example"] = Escrow{"archive@company1.example"}
		}
		f := Facts{Direction: Outbound, Author: []message.Address{alice, dave, {}}[random.IntN(3)], Layer: []protect.Layer{protect.None, protect.Sealed, protect.Signed}[random.IntN(3)]}
		for _, i := range random.Perm(len(formats))[:random.IntN(3)] {
			f.Signing = append(f.Signing, formats[i])
		}
		for _, i := range random.Perm(len(people))[:1+random.IntN(4)] {
			r := Recipient{Address: people[i], Hidden: random.IntN(4) == 0}
			for _, j := range random.Perm(len(formats))[:random.IntN(3)] {
				r.Certs = append(r.Certs, Sealable{keyring.Cert{Format: formats[j], Fingerprint: people[i].Key()}, classes[random.IntN(2)]})
			}
			f.Recipients = append(f.Recipients, r)
		}
		if len(p.Escrow[f.Author.Domain]) > 0 {
			f.Escrow = [][]Sealable{nil}
			for _, format := range formats {
				for _, class := range classes {
					if random.IntN(3) > 0 {
						f.Escrow[0] = append(f.Escrow[0], Sealable{keyring.Cert{Format: format, Fingerprint: "archive"}, class})
					}
				}
			}
		}
		before := p.Decide(f)
		sound(t, p, f, before)
		// One rule, one step or two up.
		stricter := func(v Protect) Protect { return levels[min(strictness(v)+1+random.IntN(2), 2)] }
		q := *p
		q.Recipients, q.Partners = maps.Clone(p.Recipients), maps.Clone(p.Partners)
		rules := []string{"default"}
		for k := range p.Recipients {
			rules = append(rules, "r"+k)
		}
		for k := range p.Partners {
			rules = append(rules, "p"+k)
		}
		slices.Sort(rules)
		switch rule := rules[random.IntN(len(rules))]; rule[0] {
		case 'd':
			q.Default = stricter(q.Default)
		case 'r':
			q.Recipients[rule[1:]] = stricter(q.Recipients[rule[1:]])
		case 'p':
			q.Partners[rule[1:]] = stricter(q.Partners[rule[1:]])
		}
		after := q.Decide(f)
		sound(t, &q, f, after)
		for _, r := range f.Recipients {
			if was, is := protection(before, r.Address), protection(after, r.Address); is < was {
				t.Fatalf("%v: got %d with the stricter rule, %d before\nfacts %+v\nsite %+v\nstricter %+v", r.Address, is, was, f, p, q)
			}
		}
	}
}

// protection of a recipient: 0 in clear, 1 sealed, 2 not sent.
func protection(d Decision, a message.Address) int {
	if d.Action != Relay {
		return 2
	}
	for _, plan := range d.Plans {
		if slices.Contains(plan.Recipients, a) && !plan.Encrypt {
			return 0
		}
	}
	return 1
}

func sound(t *testing.T, p *Policy, f Facts, d Decision) {
	t.Helper()
	if d.Action != Relay {
		if len(d.Plans) > 0 {
			t.Fatalf("got plans with %v", d.Action)
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
		switch {
		case len(mine) != 1:
			t.Fatalf("%v stands in %d plans", r.Address, len(mine))
		case level == Require && !mine[0].Encrypt:
			t.Fatalf("%v gets clear text in spite of %s", r.Address, rule)
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
		case mine[0].Sign && !slices.Contains(f.Signing, mine[0].Format):
			t.Fatalf("plan %+v is to be signed with an identity that is not there", mine[0])
		}
	}
}

func TestDecideInbound(t *testing.T) {
	two := []Recipient{{Address: alice, Opening: "k1"}, {Address: addr("eve", "company1.example")}}
	d := site().Decide(Facts{Direction: Inbound, Layer: protect.Sealed, Failed: true, Recipients: two})
	if d.Action != Relay || len(d.Plans) != 2 || !d.Plans[0].Opened || d.Plans[1].Opened {
		t.Errorf("opened for one of two: got %+v", d)
	}
	p := site()
	p.Undecryptable = Reject
	if d := p.Decide(Facts{Direction: Inbound, Layer: protect.Sealed, Failed: true, Recipients: two[1:]}); d.Action != Refuse || d.Reason != ReasonUndecryptable {
		t.Errorf("undecryptable = reject: got %v %v", d.Action, d.Reason)
	}
}
