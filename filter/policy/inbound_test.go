package policy

import (
	"slices"
	"testing"
)

func TestInbound(t *testing.T) {
	force := Way{Level: NextHop, Inbound: Demand{TLS: true}}
	p := &Policy{Ways: map[string]Way{
		"forced.example":      force,
		"*.wide.example":      force,
		"any.example":         {Level: NextHop},
		"any.forced.example":  {Level: NextHop},
		"mail.any.example":    force,
		"pinned.example":      {Inbound: Demand{TLS: true, Min: 0x0304, Pins: [][32]byte{{1}}}},
		"*.below.any.example": {Level: NextHop},
	}}
	for _, c := range []struct {
		name, domain string
		hosts        []string
		want         []string
	}{
		{"nobody's", "other.example", []string{"mail.other.example"}, nil},
		{"the sender's domain", "Forced.Example", nil, []string{`partner."forced.example"`}},
		{"a name below the sender's domain is another", "sub.forced.example", nil, nil},
		{"a wildcard", "sub.wide.example", nil, []string{`partner."*.wide.example"`}},
		{"a wildcard is for names below", "wide.example", nil, nil},
		{"null sender, host below", "", []string{"MX.Forced.Example"}, []string{`partner."forced.example"`}},
		{"null sender, host itself", "", []string{"forced.example"}, []string{`partner."forced.example"`}},
		{"host of a wildcard", "", []string{"a.b.wide.example"}, []string{`partner."*.wide.example"`}},
		{"the nearest name of a host decides", "", []string{"mx.any.forced.example"}, nil},
		{"both", "forced.example", []string{"mx.pinned.example"}, []string{`partner."forced.example"`, `partner."pinned.example"`}},
		{"each rule once", "forced.example", []string{"a.forced.example", "b.forced.example"}, []string{`partner."forced.example"`}},
		{"several names of a host", "any.example", []string{"x.example", "mail.any.example"}, []string{`partner."mail.any.example"`}},
		{"a top level is no partner", "", []string{"example", "com", ""}, nil},
	} {
		var got []string
		for _, r := range p.Inbound(c.domain, c.hosts) {
			got = append(got, r.Rule)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// A default way has no demand, and one that had would not be lost.
func TestInboundDefault(t *testing.T) {
	p := &Policy{DefaultWay: Way{Inbound: Demand{TLS: true}}}
	if got := p.Inbound("a.example", []string{"mx.a.example"}); len(got) != 1 || got[0].Rule != "default" {
		t.Errorf("got %+v, want the default", got)
	}
}
