package keyd

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestSecret: no way of printing shows a PIN.
func TestSecret(t *testing.T) {
	p := secret("4711-hidden")
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v %s %q %x %#v %+v\n", p, p, p, p, p, struct{ P secret }{p})
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "pin", p)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "pin", p)
	if text := b.String(); strings.Contains(text, "4711") || strings.Contains(text, fmt.Sprintf("%x", "4711")) || strings.Contains(text, strings.Trim(fmt.Sprint([]byte("4711")), "[]")) {
		t.Errorf("printed: %s", text)
	}
}
