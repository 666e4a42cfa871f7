// Package route says how mail reaches a domain: its servers, and what the
// connection to each must fulfil, out of the site's rule for the transport,
// the domain's TLSA records (DANE, RFC 7672) and its MTA-STS policy (RFC 8461).
// One function answers for all who deliver or explain.
//
// What a domain publishes can raise what the site asks for, and never lower it.
// Where something is published and cannot be read, the mail waits.
package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"postern/filter/message"
	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/transport"
)

var (
	// ErrNowhere is a domain that takes no mail: it does not exist, has no
	// server, or says so. It stays so.
	ErrNowhere = errors.New("domain takes no mail")
	// ErrNull is a domain that says itself that it takes none (RFC 7505).
	ErrNull = fmt.Errorf("null MX: %w", ErrNowhere)
	// ErrUnsafe is a way that cannot be as safe as it must be.
	ErrUnsafe = errors.New("way not as safe as it must be")
	// ErrUnreachable is a domain none of whose servers has an address.
	ErrUnreachable = errors.New("no server has an address")
)

// maxServers is how many of a domain's servers are looked at.
const maxServers = 10

// Names is what is asked of the resolver; resolver.Client is the real one.
type Names interface {
	MX(ctx context.Context, domain string) (resolver.Answer[resolver.MX], error)
	Addresses(ctx context.Context, host string) (resolver.Answer[netip.Addr], error)
	TLSA(ctx context.Context, name string) (resolver.Answer[resolver.TLSA], error)
	Alias(ctx context.Context, name string) (resolver.Answer[string], error)
}

// Policies knows the MTA-STS policies of domains; mtasts.Cache is the real one.
type Policies interface {
	// Policy is that of a domain, as A-labels; nil where none is known.
	Policy(ctx context.Context, domain string) *mtasts.Policy
}

// Router finds ways. Names and Way are needed. It is safe for concurrent use.
type Router struct {
	Names Names
	STS   Policies                                          // nil: MTA-STS is not asked for
	Way   func(domain string) (way policy.Way, rule string) // of the site
	Port  uint16                                            // of the servers: 25
}

// Route is how mail reaches one domain.
type Route struct {
	Domain  string // as it is written to people
	ASCII   string // as A-labels
	Way     policy.Way
	Rule    string       // of Way
	Floor   policy.Level // what the mail asks for beyond Way
	Secure  bool         // the list of servers was validated (DNSSEC)
	STS     *mtasts.Policy
	Servers []Server // in the order in which they are tried
}

// Server is one of the domain's.
type Server struct {
	Host       string
	Preference uint16
	Addresses  []netip.Addr
	Vouched    bool           // its name is surely that of a server of the domain: by DNSSEC, by MTA-STS or by the rule
	Need       transport.Need // what a connection must fulfil
	Why        string         // it is that
	Err        error          // it must not be used
	Trial      error          // it would not be, were the domain's MTA-STS policy enforced, which is in the mode testing (RFC 8461 §5)
}

// Usable are the servers that may be tried.
func (r *Route) Usable() []Server {
	return slices.DeleteFunc(slices.Clone(r.Servers), func(s Server) bool { return s.Err != nil })
}

func (r *Router) port() uint16 {
	if r.Port == 0 {
		return 25
	}
	return r.Port
}

// Route finds the way to domain. floor is what the mail asks for where that is
// more than the site's rule; "" where it is not. With an error comes the route
// as far as it was found.
//
// ErrNowhere is final. Every other error is of today: the mail waits.
func (r *Router) Route(ctx context.Context, domain string, floor policy.Level) (*Route, error) {
	out := &Route{Domain: domain, Floor: floor}
	a, err := message.ParseAddress("postmaster@" + domain)
	text, ok := a.ASCII()
	if err != nil || !ok || strings.HasPrefix(a.Domain, "[") {
		return out, fmt.Errorf("route %.100q: not the name of a domain: %w", domain, ErrNowhere)
	}
	_, out.ASCII, _ = strings.Cut(text, "@")
	out.Domain = a.Domain
	out.Way, out.Rule = r.Way(a.Domain)
	want, err := wanted(out.Way, floor)
	if err != nil {
		return out, fmt.Errorf("route %s: %w", out.Domain, err)
	}
	if err := r.find(ctx, out); err != nil {
		return out, fmt.Errorf("route %s: %w", out.Domain, err)
	}
	if r.STS != nil && want.published {
		out.STS = r.STS.Policy(ctx, out.ASCII)
	}
	var group sync.WaitGroup
	for i := range out.Servers {
		group.Go(func() {
			s := &out.Servers[i]
			defer func() {
				if v := recover(); v != nil { // what an answer provoked is about this server alone
					s.Err = fmt.Errorf("look up: %w: %T", transport.ErrPanic, v)
				}
			}()
			r.server(ctx, out, want, s)
		})
	}
	group.Wait()
	return out, out.judge()
}

// find lists the servers (RFC 5321 §5.1).
func (r *Router) find(ctx context.Context, out *Route) error {
	mx, err := r.Names.MX(ctx, out.ASCII)
	switch {
	case err != nil:
		return err
	case !mx.Exists:
		return fmt.Errorf("there is no such name: %w", ErrNowhere)
	case len(mx.Found) == 1 && mx.Found[0].Host == "":
		return ErrNull
	}
	out.Secure = mx.Secure
	if len(mx.Found) == 0 { // the domain itself, or what it is an alias of
		out.Servers = []Server{{Host: mx.Name}}
		return nil
	}
	for _, m := range mx.Found {
		if m.Host != "" && !slices.ContainsFunc(out.Servers, func(s Server) bool { return s.Host == m.Host }) {
			out.Servers = append(out.Servers, Server{Host: m.Host, Preference: m.Preference})
		}
	}
	if len(out.Servers) == 0 {
		return fmt.Errorf("no server: %w", ErrUnreachable)
	}
	rand.Shuffle(len(out.Servers), func(i, j int) { out.Servers[i], out.Servers[j] = out.Servers[j], out.Servers[i] })
	slices.SortStableFunc(out.Servers, func(a, b Server) int { return cmp.Compare(a.Preference, b.Preference) })
	out.Servers = out.Servers[:min(len(out.Servers), maxServers)]
	return nil
}

// judge is nil where one of the servers may be tried.
func (r *Route) judge() error {
	var all []error
	for _, s := range r.Servers {
		if s.Err == nil {
			return nil
		}
		all = append(all, fmt.Errorf("%s: %w", s.Host, s.Err))
	}
	if len(r.Servers) == 1 && errors.Is(all[0], ErrUnreachable) && r.Servers[0].Host == r.ASCII {
		return fmt.Errorf("route %s: neither MX nor address: %w", r.Domain, ErrNowhere)
	}
	return fmt.Errorf("route %s: %w", r.Domain, errors.Join(all...))
}
