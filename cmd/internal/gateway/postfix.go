package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"postern/appliance/config"
	"postern/appliance/postfix"
	"postern/filter"
	"postern/filter/policy"
	"postern/filter/transport"
)

// maxMail is the biggest mail that leaves for the biggest one that is taken:
// a sealed copy is base64 inside armour.
func maxMail(c *config.Filterd) int64 { return 2*int64(c.Limits.MessageSize) + 1<<20 }

// Postfix is what is rendered of c for the Postfix behind it; nil where there
// is none.
func Postfix(c *config.Filterd) *postfix.Config {
	p := c.Postfix
	if p == nil {
		return nil
	}
	out := &postfix.Config{
		Dir: p.Config, Queue: p.Queue, Data: p.Data, Listen: p.Submission, Strict: p.Strict, Name: c.AuthservID, Hello: p.Helo,
		Root: p.Root, Socket: p.Socket, CAFile: p.CAFile, MaxSize: maxMail(c), Recipients: c.Limits.Recipients,
		Warn: time.Duration(p.DelayWarning), Lifetime: time.Duration(p.Lifetime), Retry: time.Duration(p.Retry), RetryMax: time.Duration(p.RetryMax),
		TLSRPT: p.TLSReports, Log: p.Log,
	}
	for d := range c.Domains {
		out.Domains = append(out.Domains, d)
	}
	slices.Sort(out.Domains)
	if h := c.NextHop.Inbound; h != nil {
		out.Inside = postfix.Inside{Address: h.Address, LMTP: h.Protocol == "lmtp", TLS: h.TLS, Name: h.Name, CAFile: h.CAFile}
	}
	for _, l := range c.Listeners {
		host, _, _ := net.SplitHostPort(l.Address)
		if a, err := netip.ParseAddr(host); err == nil {
			out.Own = append(out.Own, a)
		}
	}
	for _, b := range p.Bind {
		if a, err := netip.ParseAddr(b); err == nil {
			out.Bind = append(out.Bind, a)
		}
	}
	return out
}

// ResolverDir is the folder of unbound.conf; "" where the resolver is not on
// this machine, or nobody asks it.
func ResolverDir(c *config.Filterd) string {
	host, _, _ := net.SplitHostPort(c.Resolver.Address)
	a, err := netip.ParseAddr(host)
	switch h := c.NextHop.Outbound; {
	case err != nil || !a.IsLoopback():
		return ""
	case c.Postfix != nil:
		return c.Postfix.Resolver
	case h != nil && h.Route == "direct":
		return "/etc/postern/unbound"
	}
	return ""
}

// Policies answers Postfix how safe the way to a domain must be.
func Policies(rules *policy.Policy, ways *Router, log *slog.Logger) postfix.Policies {
	return postfix.Policies{Route: ways.Route, Way: rules.Way, Log: log}
}

// onward is the next hop of outbound mail. Mail that asks for more than its
// recipients' domains do has a way of its own, or none: no next hop is believed
// to give by itself what it was not asked for.
type onward struct{ usual, strict *transport.Hop }

// Deliver hands over where the mail's floor has it.
func (o onward) Deliver(ctx context.Context, e *transport.Envelope, size int64, mail io.WriterTo) transport.Result {
	met := *e
	met.Floor = "" // by the port that is chosen
	switch policy.Level(e.Floor) {
	case "", policy.NextHop, policy.May:
		return o.usual.Deliver(ctx, &met, size, mail)
	case policy.Encrypt, policy.DANE, policy.Verify: // strict gives the last of these
		if o.strict != nil {
			return o.strict.Deliver(ctx, &met, size, mail)
		}
	}
	return transport.Result{Err: fmt.Errorf("a mail asks for %.20q, which its next hop cannot promise: %w", e.Floor, filter.ErrConfig)}
}

// strict is the port of Postfix for such mail; nil where there is none.
func strict(c *config.Filterd) *transport.Hop {
	if c.Postfix == nil {
		return nil
	}
	return &transport.Hop{Address: c.Postfix.Strict, Name: c.AuthservID}
}
