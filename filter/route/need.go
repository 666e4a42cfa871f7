package route

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/transport"
)

// want is a rule in terms of what is looked for.
type want struct {
	least     string // level of the transport where nothing is published
	dane      bool   // TLSA records count
	only      bool   // nothing but them does
	published bool   // MTA-STS counts
}

// ranks order the levels that a floor can ask for.
var ranks = map[string]int{transport.TLSMay: 0, transport.TLSEncrypt: 1, transport.TLSVerify: 2}

func wanted(way policy.Way, floor policy.Level) (want, error) {
	w := want{least: transport.TLSMay, published: true}
	switch way.Level {
	case policy.NextHop: // there is no other one that would do it: all that a server does by itself
		w.dane = true
	case policy.May:
	case policy.Encrypt:
		w.least = transport.TLSEncrypt
	case policy.Verify:
		w.least = transport.TLSVerify
	case policy.DANE:
		w.least, w.dane = transport.TLSEncrypt, true
	case policy.DANEOnly:
		return want{least: transport.TLSDANE, dane: true, only: true}, known(floor)
	case policy.Pin:
		if len(way.Pins) == 0 {
			return w, fmt.Errorf("level pin without a key: %w", ErrUnsafe)
		}
		return want{least: transport.TLSPin}, known(floor)
	default:
		return w, fmt.Errorf("level %q is not known: %w", way.Level, ErrUnsafe)
	}
	if err := known(floor); err != nil {
		return w, err
	}
	switch floor {
	case policy.Encrypt, policy.DANE:
		floor = policy.Encrypt
	case policy.Verify:
		w.dane = w.dane || w.least != transport.TLSVerify // either tells who answers
	}
	if n, ok := ranks[string(floor)]; ok && n > ranks[w.least] {
		w.least = string(floor)
	}
	return w, nil
}

// known refuses what a mail alone cannot ask for.
func known(floor policy.Level) error {
	switch floor {
	case "", policy.NextHop, policy.May, policy.Encrypt, policy.DANE, policy.Verify:
		return nil
	}
	return fmt.Errorf("a mail asks for %q: %w", floor, ErrUnsafe)
}

// server decides what a connection to s must fulfil.
func (r *Router) server(ctx context.Context, route *Route, w want, s *Server) {
	addresses, err := r.Names.Addresses(ctx, s.Host)
	if err != nil {
		s.Err = err
		return
	}
	if s.Addresses = addresses.Found; len(s.Addresses) == 0 {
		s.Err = ErrUnreachable
		return
	}
	s.Need = transport.Need{TLS: w.least, ServerName: s.Host, Min: route.Way.Min}
	named := route.STS != nil && route.STS.Mode == mtasts.Enforce
	// The name of a server says who it belongs to only where nobody on the way
	// could have put another one in its place.
	vouched := route.Secure || s.Host == route.ASCII || among(s.Host, route.Way.Names)
	if named {
		if !route.STS.Matches(s.Host) {
			s.Err = fmt.Errorf("MTA-STS of the domain does not name it: %w", ErrUnsafe)
			return
		}
		vouched = true
	}
	s.Vouched = vouched
	if route.STS != nil && route.STS.Mode == mtasts.Testing {
		if !route.STS.Matches(s.Host) {
			s.Trial = fmt.Errorf("MTA-STS of the domain does not name it: %w", ErrUnsafe)
		}
		defer func() { // what is below says what is asked of it now
			if s.Trial == nil && (s.Need.TLS == transport.TLSMay || s.Need.TLS == transport.TLSEncrypt) {
				s.Need.Trial = s.Host
			}
		}()
	}
	if w.dane {
		base, records, err := r.tlsa(ctx, s.Host, addresses.Name, addresses.Secure)
		switch {
		case err != nil:
			s.Err = err
			return
		case slices.ContainsFunc(records, transport.TLSA.Usable) && (vouched || w.least != transport.TLSVerify && !w.only):
			s.Need.TLS, s.Need.ServerName, s.Need.TLSA, s.Need.Names = transport.TLSDANE, base, records, distinct(base, route.ASCII)
			s.Why = "its TLSA records are validated"
			return
		case len(records) > 0 && w.least == transport.TLSMay:
			s.Need.TLS, s.Why = transport.TLSEncrypt, "it has TLSA records, and none that can be used (RFC 7672 §2.2)"
		}
	}
	switch {
	case w.only:
		s.Err = fmt.Errorf("no validated TLSA record that can be used: %w", ErrUnsafe)
	case w.least == transport.TLSPin:
		s.Need.Pins, s.Why = route.Way.Pins, "the rule names public keys"
	case named && w.least != transport.TLSVerify:
		s.Need.TLS, s.Need.Names, s.Why = transport.TLSVerify, []string{s.Host}, "MTA-STS of the domain is enforced"
	case w.least == transport.TLSVerify:
		if vouched {
			s.Need.Names = []string{s.Host}
		}
		for _, n := range route.Way.Names {
			if !strings.HasPrefix(n, "*.") {
				s.Need.Names = append(s.Need.Names, n)
			}
		}
		s.Need.Names, s.Why = distinct(append(s.Need.Names, route.ASCII)...), "the rule asks for it"
		if ranks[string(route.Floor)] == ranks[transport.TLSVerify] && route.Way.Level != policy.Verify {
			s.Why = "the mail asks for it"
		}
	case s.Why == "":
		s.Why = "the rule asks for no more"
	}
}

// tlsa finds the TLSA records of a host and the name they stand under (RFC 7672
// §2.2.2): that which its aliases end at, then its own. Records that are not
// validated do not count, and are not asked for where the addresses are not:
// zones that cannot be validated often stand on servers that know no TLSA.
func (r *Router) tlsa(ctx context.Context, host, end string, secure bool) (base string, records []transport.TLSA, err error) {
	bases := distinct(end, host)
	if !secure {
		if end == host {
			return "", nil, nil
		}
		alias, err := r.Names.Alias(ctx, host)
		if err != nil || !alias.Secure {
			return "", nil, err
		}
		bases = []string{host}
	}
	for _, base := range bases {
		a, err := r.Names.TLSA(ctx, fmt.Sprintf("_%d._tcp.%s", r.port(), base))
		if err != nil {
			return "", nil, err
		}
		if a.Secure && len(a.Found) > 0 {
			return base, convert(a.Found), nil
		}
	}
	return "", nil, nil
}

func convert(from []resolver.TLSA) (to []transport.TLSA) {
	for _, t := range from {
		to = append(to, transport.TLSA(t))
	}
	return to
}

// among reports whether one of the names, or of "*.name", is host.
func among(host string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		n = strings.ToLower(n)
		if above, ok := strings.CutPrefix(n, "*"); ok {
			return len(host) > len(above) && strings.HasSuffix(host, above)
		}
		return n == host
	})
}

// distinct is the list, each once.
func distinct(list ...string) (out []string) {
	for _, s := range list {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
