package postfix

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/route"
	"postern/filter/transport"
)

// What an MTA-STS policy in the mode testing would refuse is answered as if
// there were none, and logged.
func TestTrialIsLogged(t *testing.T) {
	var log bytes.Buffer
	server := route.Server{Host: "mx.partner.example", Need: transport.Need{TLS: transport.TLSMay}, Trial: route.ErrUnsafe}
	p := Policies{Log: slog.New(slog.NewTextHandler(&log, nil)), Route: func(context.Context, string, policy.Level) (*route.Route, error) {
		return &route.Route{Domain: "partner.example", Way: policy.Way{Level: policy.May}, Servers: []route.Server{server}}, nil
	}}
	if got, err := p.Lookup(t.Context(), Table, "partner.example"); got != "may" || err != nil {
		t.Errorf("got %q, %v, want may", got, err)
	}
	for _, word := range []string{"level=WARN", "msg=mta-sts", "domain=partner.example", "server=mx.partner.example", "mode=testing"} {
		if !strings.Contains(log.String(), word) {
			t.Errorf("got %q, want %q in it", &log, word)
		}
	}
	log.Reset()
	server.Trial = nil
	if _, err := p.Lookup(t.Context(), Table, "partner.example"); err != nil || log.Len() > 0 {
		t.Errorf("nothing to tell: got %v, %q", err, &log)
	}
}
