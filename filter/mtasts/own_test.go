package mtasts

import (
	"slices"
	"testing"
	"time"
)

// What we print of a policy of ours is what strangers read, and its record is
// another one when it changes.
func TestOwnPolicy(t *testing.T) {
	base := Policy{Mode: Enforce, MX: []string{"mx.company1.example", "*.backup.example"}, MaxAge: 7 * 24 * time.Hour}
	none, other, longer := base, base, base
	none.Mode, none.MX = None, nil
	other.MX = []string{"mx2.company1.example"}
	longer.MaxAge++ // less than a second: the same file
	seen := map[string]string{}
	for _, p := range []Policy{base, none, other} {
		got, err := ParsePolicy(p.Text())
		if err != nil || got.Mode != p.Mode || !slices.Equal(got.MX, p.MX) || got.MaxAge != p.MaxAge {
			t.Errorf("%q: got %+v, %v, want %+v", p.Text(), got, err, p)
		}
		id, err := parseRecord([]string{"unrelated", p.Record()})
		if err != nil || id != p.Stamp() {
			t.Errorf("%s: got id %q, %v, want %q", p.Record(), id, err, p.Stamp())
		}
		if before, twice := seen[id]; twice {
			t.Errorf("%q and %q: got one id %s", before, p.Text(), id)
		}
		seen[id] = string(p.Text())
	}
	if longer.Stamp() != base.Stamp() {
		t.Errorf("got %s and %s for one file", longer.Stamp(), base.Stamp())
	}
}
