package policy

import (
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
