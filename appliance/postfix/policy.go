package postfix

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/socketmap"
)

var (
	errQuestion = errors.New("no such table")
	errLevel    = errors.New("no level that Postfix has")
)

// maxNames is how many names and pins one answer holds: beyond, it would not
// fit into what Postfix reads.
const maxNames = 64

// Servers is what is surely known of the mail servers of a domain.
type Servers struct {
	TLSA  bool     // they have TLSA records, and the resolver validated all that leads to them
	Names []string // hosts that are surely the domain's own, or "*.name": by DNSSEC or by MTA-STS
}

// Policies answers Postfix how safe the way to a domain must be.
type Policies struct {
	// Way is the rule of a domain, in its own letters.
	Way func(domain string) (policy.Way, string)
	// Servers looks them up, for the levels that depend on them. An error lets
	// the mail wait.
	Servers func(ctx context.Context, domain string) (Servers, error)
}

// Lookup is a socketmap.Lookup of the tables that main.cf asks.
//
// Every domain has an answer: a table that knew nothing would leave the
// decision to main.cf. Postfix looks for a parent domain only where it heard
// that there is no entry, so such a question gets none.
func (p Policies) Lookup(ctx context.Context, table, key string) (string, error) {
	if table != Table && table != TableFloor {
		return "", fmt.Errorf("table %.40q: %w", table, errQuestion)
	}
	if strings.HasPrefix(key, ".") {
		return "", socketmap.ErrNotFound
	}
	domain, err := domainOf(key)
	if err != nil {
		return "", err
	}
	way, _ := p.Way(domain)
	if table == TableFloor {
		way = raise(way)
	}
	var known Servers
	if way.Level == policy.DANE || way.Level == policy.Verify {
		if known, err = p.Servers(ctx, domain); err != nil {
			return "", fmt.Errorf("look up servers: %w", err)
		}
	}
	return entry(way, known, table == TableFloor)
}

// domainOf is the domain that a next hop speaks of: "domain", "[host]:port" and
// what lies between.
func domainOf(key string) (string, error) {
	host := key
	if h, _, err := net.SplitHostPort(key); err == nil {
		host = h
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if net.ParseIP(strings.TrimPrefix(strings.ToLower(host), "ipv6:")) != nil {
		return host, nil // no rule but the default is about an address
	}
	a, err := message.ParseAddress("postmaster@" + host)
	if err != nil {
		return "", fmt.Errorf("next hop %.80q: %w", key, err)
	}
	return a.Domain, nil
}

// raise is the way of mail that wants a server that proves its name, whatever
// its domain's own way is.
func raise(w policy.Way) policy.Way {
	switch w.Level {
	case policy.NextHop, policy.May, policy.Encrypt:
		w.Level = policy.Verify
	}
	return w
}

// entry is the way in the words of smtp_tls_policy_maps (postconf(5)). A level
// that nobody knows is an error: the mail waits.
func entry(w policy.Way, known Servers, floor bool) (string, error) {
	level := w.Level
	if level == policy.DANE {
		// Postfix's own "dane" falls to clear text where there are no records.
		switch {
		case known.TLSA:
			level = policy.DANEOnly
		case floor:
			level = policy.Verify
		default:
			level = policy.Encrypt
		}
	}
	var words []string
	switch level {
	case policy.NextHop:
		return "dane", nil // Postfix by itself: as the records say, TLS where there is some, or clear
	case policy.May:
		return "may", nil
	case policy.Encrypt:
		words = []string{"encrypt"}
	case policy.DANEOnly:
		words = []string{"dane-only"}
	case policy.Verify:
		match := []string{"nexthop", "dot-nexthop"}
		for _, n := range append(w.Names[:len(w.Names):len(w.Names)], known.Names...) {
			names, err := spellings(strings.TrimPrefix(n, "*."))
			if err != nil {
				return "", err
			}
			name := names[len(names)-1]
			if strings.HasPrefix(n, "*.") {
				name = "." + name
			}
			match = append(match, name)
		}
		if len(match) > maxNames {
			return "", fmt.Errorf("%d names: %w", len(match), errLevel)
		}
		words = []string{"secure", "match=" + strings.Join(match, ":")}
	case policy.Pin:
		if len(w.Pins) == 0 || len(w.Pins) > maxNames {
			return "", fmt.Errorf("%d pins: %w", len(w.Pins), errLevel)
		}
		var pins []string
		for _, pin := range w.Pins {
			pins = append(pins, strings.ReplaceAll(fmt.Sprintf("% X", pin[:]), " ", ":"))
		}
		words = []string{"fingerprint", "match=" + strings.Join(pins, "|")}
	default:
		return "", fmt.Errorf("level %.20q: %w", level, errLevel)
	}
	switch w.Min {
	case 0, tls.VersionTLS12:
	case tls.VersionTLS13:
		words = append(words, "protocols=>=TLSv1.3")
	default:
		return "", fmt.Errorf("TLS version %#x: %w", w.Min, errLevel)
	}
	if w.PFS { // in place of the exclusions of main.cf
		words = append(words, "exclude="+strings.ReplaceAll(weak, ", ", ":")+":"+static)
	}
	return strings.Join(words, " "), nil
}
