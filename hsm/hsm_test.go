package hsm

import (
	"strings"
	"testing"
)

// TestOrigin: whatever is handed on is short and printable, and none is none.
func TestOrigin(t *testing.T) {
	for _, x := range []struct{ origin, want string }{
		{"", ""},
		{"192.0.2.7", "192.0.2.7"},
		{"2001:db8:1:2::/64", "2001:db8:1:2::/64"},
		{"a b\n\x00ü\x7f", "a?b?????"},
		{strings.Repeat("x", 100), strings.Repeat("x", MaxOrigin)},
	} {
		if got := Origin(WithOrigin(t.Context(), x.origin)); got != x.want {
			t.Errorf("origin %q: got %q, want %q", x.origin, got, x.want)
		}
	}
	if got := Origin(t.Context()); got != "" {
		t.Errorf("no origin: got %q", got)
	}
}
