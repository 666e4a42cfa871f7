package provisioning

import (
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/policy"
)

// TestPostalWants: what has to be so that an answer counts is asked for before
// anything is ordered, and said with what helps.
func TestPostalWants(t *testing.T) {
	rules := func(change func(*policy.Policy)) *policy.Policy {
		p := &policy.Policy{Domains: map[string]policy.Sign{"company1.example": policy.SignAlways}, Default: policy.Optional,
			Partners: map[string]policy.Protect{"ca.example": policy.None}, Signs: map[string]policy.Sign{"ca.example": policy.SignNever}}
		if change != nil {
			change(p)
		}
		return p
	}
	alice, err := message.ParseAddress("alice@company1.example")
	if err != nil {
		t.Fatal(err)
	}
	good := Site{Inside: []string{"127.0.0.1:25"}, Vets: true, Policy: rules(nil), Mail: Mail{DKIM: map[string]bool{"company1.example": true}}}
	for _, c := range []struct {
		name   string
		change func(*Site)
		submit string
		to     string
		want   string // in the hint; "": nothing is wrong
	}{
		{"all there", nil, "", "acme@ca.example", ""},
		{"no listener", func(s *Site) { s.Inside = nil }, "", "acme@ca.example", `direction = "outbound"`},
		{"one that is named", func(s *Site) { s.Inside = nil }, "127.0.0.1:587", "acme@ca.example", ""},
		{"nobody looks at signatures", func(s *Site) { s.Vets = false }, "", "acme@ca.example", `dmarc = "mark"`},
		{"shadow", func(s *Site) { s.Policy = rules(func(p *policy.Policy) { p.Shadow = true }) }, "", "acme@ca.example", "shadow = false"},
		{"no signature of the domain", func(s *Site) { s.Mail.DKIM = map[string]bool{} }, "", "acme@ca.example", `dkim = "sign"`},
		{"answers are signed", func(s *Site) { s.Policy = rules(func(p *policy.Policy) { p.Signs = nil }) }, "", "acme@ca.example", `[recipient."acme@ca.example"]`},
		{"answers may be sealed", func(s *Site) { s.Policy = rules(func(p *policy.Policy) { p.Partners = nil }) }, "", "acme@ca.example", `[partner."ca.example"]`},
		{"another domain", nil, "", "acme@other.example", `[partner."other.example"]`},
		{"signed where it is asked for", func(s *Site) {
			s.Policy = rules(func(p *policy.Policy) {
				p.Signs["ca.example"], p.Partners["ca.example"] = policy.SignAsked, policy.OnDemand
			})
		}, "", "acme@ca.example", ""},
	} {
		p := &postal{site: good, config: ACME{Submit: c.submit}}
		if c.change != nil {
			c.change(&p.site)
		}
		err := p.way()
		if err == nil {
			err = p.signs(alice)
		}
		if err == nil {
			err = p.plain(alice, c.to)
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(judge(err).hint, c.want) {
			t.Errorf("%s: got %v, want %q in the hint", c.name, err, c.want)
		}
	}
}
