package mtasts

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/netip"

	"postern/filter/resolver"
	"postern/filter/web"
)

// ErrFetch is a policy that there is a record of, and that cannot be had.
var ErrFetch = errors.New("no policy at its place")

// Names is what is asked of the resolver; resolver.Client is the real one.
type Names interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	Addresses(ctx context.Context, host string) (resolver.Answer[netip.Addr], error)
}

// fetch reads the policy of domain from its place (RFC 8461 §3.3): over HTTPS
// with a certificate that the public authorities vouch for. The host is the
// choice of whoever owns the domain.
func fetch(ctx context.Context, c *http.Client, domain string) (Policy, error) {
	bad := func(err error) (Policy, error) {
		return Policy{}, fmt.Errorf("fetch policy of %.100q: %w: %w", domain, ErrFetch, err)
	}
	text, kind, err := web.Get(ctx, c, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", maxPolicy)
	if err != nil {
		return bad(err)
	}
	if kind, _, err := mime.ParseMediaType(kind); err != nil || kind != "text/plain" {
		return bad(fmt.Errorf("type %.100q", kind))
	}
	p, err := ParsePolicy(text)
	if err != nil {
		return bad(err)
	}
	return p, nil
}
