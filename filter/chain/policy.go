package chain

import (
	"crypto/x509"
	"fmt"
	"math"
)

const anyPolicy = "2.5.29.32.0"

// policies follows certificate policies along a path from the anchor down
// (RFC 5280 §6.1.2-5, in the form of RFC 9618). The user's initial set is
// always any-policy, so of the graph only its lowest level counts: each policy
// that is valid there, with those that are expected below. That is linear in
// the size of the certificates, where the tree of RFC 5280 is not.
type policies struct {
	level                         map[string][]string // nil: no policy is valid any more
	explicit, mapping, inhibitAny int
}

func newPolicies() *policies {
	return &policies{
		level:    map[string][]string{anyPolicy: {anyPolicy}},
		explicit: math.MaxInt, mapping: math.MaxInt, inhibitAny: math.MaxInt,
	}
}

// enter processes the policies of a certificate (§6.1.3 (d)-(f)).
func (p *policies) enter(c *x509.Certificate, selfIssued, leaf bool) error {
	next := map[string][]string{}
	expected := map[string]bool{}
	for _, set := range p.level {
		for _, e := range set {
			expected[e] = true
		}
	}
	hasAny := false
	for _, oid := range c.Policies {
		switch id := oid.String(); {
		case id == anyPolicy:
			hasAny = true
		case expected[id] || p.level[anyPolicy] != nil:
			next[id] = []string{id}
		}
	}
	if hasAny && (p.inhibitAny > 0 || selfIssued && !leaf) {
		for e := range expected {
			if next[e] == nil {
				next[e] = []string{e}
			}
		}
	}
	p.level = next
	return p.check()
}

// check is §6.1.3 (f).
func (p *policies) check() error {
	if p.explicit == 0 && len(p.level) == 0 {
		return fmt.Errorf("no certificate policy is valid on the whole path, and one is required: %w", ErrUntrusted)
	}
	return nil
}

// leave prepares for the certificate below (§6.1.4 (a), (b), (h)-(j)).
func (p *policies) leave(c *x509.Certificate, selfIssued bool) error {
	mapped := map[string][]string{}
	for _, m := range c.PolicyMappings {
		from, to := m.IssuerDomainPolicy.String(), m.SubjectDomainPolicy.String()
		if from == anyPolicy || to == anyPolicy {
			return fmt.Errorf("%s maps any-policy: %w", name(c), ErrUntrusted)
		}
		mapped[from] = append(mapped[from], to)
	}
	for from, to := range mapped {
		switch {
		case p.mapping == 0:
			delete(p.level, from)
		case p.level[from] != nil || p.level[anyPolicy] != nil:
			p.level[from] = to
		}
	}
	if !selfIssued {
		p.explicit, p.mapping, p.inhibitAny = lower(p.explicit), lower(p.mapping), lower(p.inhibitAny)
	}
	limit := func(counter *int, value int, zero bool) {
		if value > 0 || zero {
			*counter = min(*counter, value)
		}
	}
	limit(&p.explicit, c.RequireExplicitPolicy, c.RequireExplicitPolicyZero)
	limit(&p.mapping, c.InhibitPolicyMapping, c.InhibitPolicyMappingZero)
	limit(&p.inhibitAny, c.InhibitAnyPolicy, c.InhibitAnyPolicyZero)
	return nil
}

// end is the wrap-up behind the leaf (§6.1.5 (a), (b), (g)).
func (p *policies) end(c *x509.Certificate) error {
	p.explicit = lower(p.explicit)
	if c.RequireExplicitPolicyZero {
		p.explicit = 0
	}
	return p.check()
}

func lower(n int) int { return max(n-1, 0) }
