package provisioning

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/route"
	"postern/filter/transport"
)

// ways are those of a small world, and of a resolver that is away or does not
// validate where the path of the configuration says so.
type ways struct{ path string }

func (w ways) Close() error { return nil }

func (w ways) Resolver(context.Context) (string, bool, error) {
	if strings.Contains(w.path, "away") {
		return "127.0.0.1:53", false, resolver.ErrAway
	}
	return "127.0.0.1:53", !strings.Contains(w.path, "plain"), nil
}

func (w ways) Route(_ context.Context, domain string, floor policy.Level) (*route.Route, error) {
	out := &route.Route{Domain: domain, Rule: "default", Way: policy.Way{Level: policy.DANE}, Floor: floor}
	at := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	switch domain {
	case "null.example":
		return out, fmt.Errorf("route %s: %w", domain, route.ErrNull)
	case "away.example":
		return out, fmt.Errorf("route %s: %w", domain, resolver.ErrAway)
	case "sts.example":
		out.STS = &mtasts.Policy{Mode: mtasts.Enforce, ID: "1", MX: []string{"mx.sts.example"}, Expires: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
		out.Servers = []route.Server{
			{Host: "mx.sts.example", Preference: 10, Addresses: at, Need: transport.Need{TLS: transport.TLSVerify, Names: []string{"mx.sts.example"}, Min: 0x0304}, Why: "MTA-STS of the domain is enforced"},
			{Host: "mx.else.example", Preference: 20, Addresses: at, Err: route.ErrUnsafe},
		}
		return out, nil
	}
	out.Secure = true
	out.Servers = []route.Server{{Host: "mx." + domain, Preference: 10, Addresses: at, Why: "its TLSA records are validated", Need: transport.Need{
		TLS: transport.TLSDANE, Names: []string{"mx." + domain}, TLSA: []transport.TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}, {Usage: 1}}, Pins: [][32]byte{{1}},
	}}}
	return out, nil
}
