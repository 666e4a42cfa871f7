package postfix

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/route"
	"postern/filter/socketmap"
	"postern/filter/transport"
)

var (
	errQuestion = errors.New("no such table")
	errLevel    = errors.New("no level that Postfix has")
)

// maxNames is how many names and pins one answer holds: beyond, it would not
// fit into what Postfix reads.
const maxNames = 64

// Policies answers Postfix how safe the way to a domain must be. Both fields
// are needed but Log; a route.Router has them.
type Policies struct {
	// Route is the way to a domain, with what a mail asks for beyond its rule.
	Route func(ctx context.Context, domain string, floor policy.Level) (*route.Route, error)
	// Way is the rule for what is no domain: an address, or a host by its name.
	Way func(domain string) (policy.Way, string)
	Log *slog.Logger // of what a policy that is on trial would refuse; nil: nowhere
}

// Lookup is a socketmap.Lookup of the tables that main.cf asks.
//
// Every next hop has an answer: a table that knew nothing would leave the
// decision to main.cf. Postfix looks for a parent domain only where it heard
// that there is no entry, so such a question gets none. An error lets the mail
// wait.
func (p Policies) Lookup(ctx context.Context, table, key string) (string, error) {
	floor := policy.Level("")
	table, report := strings.CutSuffix(table, reporting)
	switch table {
	case Table:
	case TableFloor:
		floor = policy.Verify
	default:
		return "", fmt.Errorf("table %.40q: %w", table, errQuestion)
	}
	if strings.HasPrefix(key, ".") {
		return "", socketmap.ErrNotFound
	}
	if strings.ContainsAny(key, "[:") {
		return p.host(key, floor)
	}
	r, err := p.Route(ctx, key, floor)
	if err != nil {
		return "", err
	}
	for _, s := range r.Servers {
		if s.Trial != nil && s.Err == nil && p.Log != nil { // of certificates only Postfix knows
			route.LogTrial(ctx, p.Log, r.Domain, s.Host, s.Trial)
		}
	}
	text, err := entry(r)
	if err == nil && report {
		text += behind(r, text)
	}
	return text, err
}

// maxBehind is how much is told of a policy, in bytes; of a longer one nothing
// is reported.
const maxBehind = 4096

// behind tells of the MTA-STS policy that an entry comes of, for reports on TLS.
// Postfix takes these words as a demand too: it leaves servers out that the
// policy does not name, and looks for each one's own name in its certificate.
// So they stand only where that is what the entry says already. Of a policy in
// the mode testing nothing is told: Postfix does not look at certificates then,
// and would report that all is well with it.
func behind(r *route.Route, entry string) string {
	if r.STS == nil || r.STS.Mode != mtasts.Enforce || !strings.HasPrefix(entry, "secure ") {
		return ""
	}
	for _, s := range r.Usable() {
		if len(s.Need.Names) != 1 || s.Need.Names[0] != s.Host {
			return ""
		}
	}
	age := strconv.FormatInt(int64(r.STS.MaxAge/time.Second), 10)
	words := []string{"", "policy_type=sts", "policy_domain=" + r.ASCII, "policy_ttl=" + age, "{ policy_string = version: STSv1 }", "{ policy_string = mode: " + string(r.STS.Mode) + " }"}
	for _, mx := range r.STS.MX {
		words = append(words, "{ policy_string = mx: "+mx+" }", "mx_host_pattern="+mx)
	}
	text := strings.Join(append(words, "{ policy_string = max_age: "+age+" }"), " ")
	if len(text) > maxBehind {
		return ""
	}
	return text
}

// host is the entry of a next hop that is no domain: "[host]", "[host]:port" or
// "host:port". Nothing is published about it.
func (p Policies) host(key string, floor policy.Level) (string, error) {
	host := key
	if h, _, err := net.SplitHostPort(key); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	way, _ := p.Way(host)
	r := &route.Route{Domain: host, Way: way, Servers: []route.Server{{Host: host, Need: transport.Need{TLS: transport.TLSMay}}}}
	need := &r.Servers[0].Need
	switch way.Level {
	case policy.NextHop, policy.May:
	case policy.Encrypt, policy.DANE:
		need.TLS = transport.TLSEncrypt
	case policy.Verify:
		need.TLS, need.Names = transport.TLSVerify, []string{host}
	case policy.Pin:
		need.TLS, need.Pins = transport.TLSPin, way.Pins
	default:
		return "", fmt.Errorf("next hop %.80q, level %.20q: %w", key, way.Level, errLevel)
	}
	if floor != "" && need.TLS != transport.TLSPin {
		need.TLS, need.Names = transport.TLSVerify, []string{host}
	}
	return entry(r)
}

// entry is a route in the words of smtp_tls_policy_maps (postconf(5)). There is
// one for all servers of the domain, so it is one that none of them is served
// below: where only some have TLSA records, those alone are used. What cannot
// be put into such words is an error.
func entry(r *route.Route) (string, error) {
	levels, names := map[string]int{}, []string{}
	servers := r.Usable()
	if len(servers) == 0 {
		return "", fmt.Errorf("%s: no server that may be used: %w", r.Domain, errLevel)
	}
	for _, s := range servers {
		levels[s.Need.TLS]++
		if s.Need.TLS == transport.TLSVerify {
			names = append(names, s.Need.Names...)
		}
	}
	all := func(some ...string) bool {
		n := 0
		for _, level := range some {
			n += levels[level]
		}
		return n == len(servers)
	}
	var words []string
	switch {
	case r.Way.Level == policy.NextHop && all(transport.TLSMay, transport.TLSEncrypt, transport.TLSDANE):
		return "dane", nil // as the records of each server say; else TLS where there is some, or clear
	case all(transport.TLSMay):
		return "may", nil
	case levels[transport.TLSPin] > 0:
		words = []string{"fingerprint", "match=" + strings.Join(fingerprints(r.Way.Pins), "|")}
	case levels[transport.TLSDANE] > 0:
		words = []string{"dane-only"}
	case levels[transport.TLSVerify] > 0:
		slices.Sort(names)
		names = slices.Compact(names)
		words = []string{"secure", "match=" + strings.Join(names, ":")}
	case all(transport.TLSEncrypt, transport.TLSMay):
		words = []string{"encrypt"}
	default:
		return "", fmt.Errorf("%s: levels %v: %w", r.Domain, levels, errLevel)
	}
	if len(names) > maxNames || len(r.Way.Pins) > maxNames || strings.HasSuffix(words[len(words)-1], "match=") ||
		slices.ContainsFunc(names, func(n string) bool { return !plain(n) }) {
		return "", fmt.Errorf("%s: %d names, %d pins: %w", r.Domain, len(names), len(r.Way.Pins), errLevel)
	}
	switch r.Way.Min {
	case 0, tls.VersionTLS12:
	case tls.VersionTLS13:
		words = append(words, "protocols=>=TLSv1.3")
	default:
		return "", fmt.Errorf("%s: TLS version %#x: %w", r.Domain, r.Way.Min, errLevel)
	}
	if r.Way.PFS { // in place of the exclusions of main.cf
		words = append(words, "exclude="+strings.ReplaceAll(weak, ", ", ":")+":"+static)
	}
	return strings.Join(words, " "), nil
}

// plain holds for what stands in a list of names as one name, and no word that
// Postfix has for others ("hostname"): they come from the DNS.
func plain(name string) bool {
	return strings.IndexByte(name, '.') > 0 && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	})
}

// fingerprints are pins as Postfix writes them.
func fingerprints(pins [][32]byte) (list []string) {
	for _, pin := range pins {
		list = append(list, strings.ReplaceAll(fmt.Sprintf("% X", pin[:]), " ", ":"))
	}
	return list
}
