package policy

import (
	"reflect"
	"testing"
)

func TestWay(t *testing.T) {
	pinned, verified, usual := Way{Level: Pin, Pins: [][32]byte{{1}}}, Way{Level: Verify}, Way{Level: DANE}
	p := &Policy{Ways: map[string]Way{"partner.example": pinned, "*.partner.example": verified}, DefaultWay: usual}
	for _, c := range []struct {
		domain, rule string
		want         Way
	}{
		{"Partner.example", `partner."partner.example"`, pinned},
		{"a.b.partner.example", `partner."*.partner.example"`, verified},
		{"example", "default", usual},
		{"notpartner.example", "default", usual},
	} {
		if got, rule := p.Way(c.domain); !reflect.DeepEqual(got, c.want) || rule != c.rule {
			t.Errorf("way to %s: got %v by %s, want %v by %s", c.domain, got, rule, c.want, c.rule)
		}
	}
}
