package gateway

import (
	"maps"
	"testing"
	"time"

	"postern/filter"
)

// The words of [authentication] and of dkim arrive where they count.
func TestAuthentication(t *testing.T) {
	for _, c := range []struct {
		more           string
		check, enforce bool
		budget         time.Duration
		signs          map[string]bool
		seal           string
		opened         bool
	}{
		{more: domain, signs: map[string]bool{"company1.example": false}},
		{more: domain + "dkim = \"sign\"\n[domain.\"b.example\"]\n[authentication]\ndmarc = \"mark\"\nbudget = \"2s\"\narc = \"opened\"\nseal = \"b.example\"\n", check: true, budget: 2 * time.Second,
			signs: map[string]bool{"company1.example": true, "b.example": false}, seal: "b.example", opened: true},
		{more: domain + "[authentication]\ndmarc = \"enforce\"\narc = \"all\"\n", check: true, enforce: true, budget: 5 * time.Second,
			signs: map[string]bool{"company1.example": false}, seal: "company1.example"},
	} {
		var got filter.Config
		authenticate(&got, load(t, c.more), nil)
		if (got.Origins != nil) != c.check || got.Enforce != c.enforce || got.Attest.Seal != c.seal || got.Attest.Opened != c.opened || !maps.Equal(got.Attest.Domains, c.signs) {
			t.Errorf("%s: got %+v", c.more, got.Attest)
		}
		if c.check && got.Origins.Budget != c.budget {
			t.Errorf("%s: got budget %v, want %v", c.more, got.Origins.Budget, c.budget)
		}
	}
}
