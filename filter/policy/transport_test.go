package policy

import (
	"testing"

	"postern/filter/message"
)

// One word for the ways of a copy: no more than is asked of each of them.
func TestTransport(t *testing.T) {
	p := &Policy{Ways: map[string]Way{"pin.example": {Level: Pin}, "may.example": {Level: May}, "verify.example": {Level: Verify}, "odd.example": {Level: "odd"}}, DefaultWay: Way{Level: DANE}}
	for _, c := range []struct {
		to    []string
		floor Level
		want  Level
	}{
		{[]string{"pin.example"}, "", Pin}, {[]string{"else.example"}, "", DANE},
		{[]string{"pin.example", "verify.example"}, "", Verify}, {[]string{"verify.example", "may.example"}, "", May},
		{[]string{"verify.example", "may.example"}, Verify, Verify}, {[]string{"pin.example"}, Verify, Pin},
		{[]string{"odd.example"}, "", NextHop}, {nil, "", NextHop},
	} {
		plan := Plan{Floor: c.floor}
		for _, d := range c.to {
			plan.Recipients = append(plan.Recipients, message.Address{Local: "b", Domain: d})
		}
		if got := p.Transport(plan); got != c.want {
			t.Errorf("%v, floor %q: got %s, want %s", c.to, c.floor, got, c.want)
		}
	}
}
