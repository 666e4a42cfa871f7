package route

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/transport"
)

// zone answers as a resolver would. Names that it does not hold do not exist;
// those in failing fail.
type zone struct {
	mx      map[string]resolver.Answer[resolver.MX]
	hosts   map[string]resolver.Answer[netip.Addr]
	tlsa    map[string]resolver.Answer[resolver.TLSA]
	aliases map[string]resolver.Answer[string]
	failing []string
}

func look[T any](z zone, from map[string]resolver.Answer[T], name string) (resolver.Answer[T], error) {
	if slices.Contains(z.failing, name) {
		return resolver.Answer[T]{}, fmt.Errorf("SERVFAIL: %w", resolver.ErrAway)
	}
	a, ok := from[name]
	if !ok {
		return resolver.Answer[T]{Name: name}, nil
	}
	if a.Name == "" {
		a.Name = name
	}
	a.Exists = true
	return a, nil
}

func (z zone) MX(_ context.Context, name string) (resolver.Answer[resolver.MX], error) {
	return look(z, z.mx, name)
}
func (z zone) Addresses(_ context.Context, name string) (resolver.Answer[netip.Addr], error) {
	return look(z, z.hosts, name)
}
func (z zone) TLSA(_ context.Context, name string) (resolver.Answer[resolver.TLSA], error) {
	return look(z, z.tlsa, name)
}
func (z zone) Alias(_ context.Context, name string) (resolver.Answer[string], error) {
	return look(z, z.aliases, name)
}

// published are the policies of domains.
type published map[string]mtasts.Policy

func (p published) Policy(_ context.Context, domain string) *mtasts.Policy {
	if found, ok := p[domain]; ok {
		return &found
	}
	return nil
}

var (
	here = netip.MustParseAddr("192.0.2.1")
	sum  = sha256.Sum256([]byte("key"))
	good = resolver.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum[:]}
	odd  = resolver.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: sum[:]}
)

func mx(secure bool, hosts ...string) resolver.Answer[resolver.MX] {
	a := resolver.Answer[resolver.MX]{Secure: secure}
	for i, h := range hosts {
		a.Found = append(a.Found, resolver.MX{Host: h, Preference: uint16(10 * i)})
	}
	return a
}

func host(secure bool, end string) resolver.Answer[netip.Addr] {
	return resolver.Answer[netip.Addr]{Found: []netip.Addr{here}, Name: end, Secure: secure}
}

func tlsa(secure bool, records ...resolver.TLSA) resolver.Answer[resolver.TLSA] {
	return resolver.Answer[resolver.TLSA]{Found: records, Secure: secure}
}

// world has a domain of each kind.
func world() zone {
	return zone{
		mx: map[string]resolver.Answer[resolver.MX]{
			"signed.example":        mx(true, "mx.signed.example"),
			"plain.example":         mx(false, "mx.plain.example"),
			"hosted.example":        mx(false, "mx.signed.example"), // unsigned, at a signed provider
			"useless.example":       mx(true, "mx.useless.example"),
			"unsigned.example":      mx(true, "mx.unsigned.example"), // TLSA that is not validated
			"bogus.example":         mx(true, "mx.bogus.example"),
			"two.example":           mx(true, "mx.bogus.example", "mx.signed.example"),
			"alias.example":         mx(true, "mx.alias.example"),
			"half.example":          mx(true, "mx.half.example"),
			"null.example":          mx(false, ""),
			"bare.example":          {},
			"empty.example":         {},
			"dead.example":          mx(false, "mx.dead.example"),
			"xn--bcher-kva.example": mx(false, "mx.plain.example"),
		},
		hosts: map[string]resolver.Answer[netip.Addr]{
			"mx.signed.example":   host(true, ""),
			"mx.plain.example":    host(false, ""),
			"mx.useless.example":  host(true, ""),
			"mx.unsigned.example": host(true, ""),
			"mx.bogus.example":    host(true, ""),
			"mx.alias.example":    host(true, "mx.signed.example"),
			"mx.half.example":     host(false, "mx.plain.example"),
			"bare.example":        host(false, ""),
		},
		tlsa: map[string]resolver.Answer[resolver.TLSA]{
			"_25._tcp.mx.signed.example":   tlsa(true, good),
			"_25._tcp.mx.useless.example":  tlsa(true, odd),
			"_25._tcp.mx.unsigned.example": tlsa(false, good),
			"_25._tcp.mx.half.example":     tlsa(true, good),
		},
		aliases: map[string]resolver.Answer[string]{"mx.half.example": {Found: []string{"mx.plain.example"}, Secure: true}},
		failing: []string{"_25._tcp.mx.bogus.example", "away.example", "mx.plain-bogus.example"},
	}
}

// What a connection must fulfil, by what the rule says, what the mail asks for
// and what the domain publishes. The result is "level server-name names…" of
// the first server, or the error.
func TestNeed(t *testing.T) {
	sts := published{
		"plain.example":  {Mode: mtasts.Enforce, MX: []string{"*.plain.example"}},
		"signed.example": {Mode: mtasts.Enforce, MX: []string{"mx.signed.example"}},
		"dead.example":   {Mode: mtasts.Testing, MX: []string{"other.example"}},
	}
	other := published{"plain.example": {Mode: mtasts.Enforce, MX: []string{"mx.elsewhere.example"}}, "hosted.example": {Mode: mtasts.Testing, MX: []string{"no.example"}}}
	for _, c := range []struct {
		domain string
		level  policy.Level
		floor  policy.Level
		sts    Policies
		want   string
	}{
		{"signed.example", policy.NextHop, "", nil, "dane mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.May, "", nil, "may mx.signed.example"},
		{"signed.example", policy.Encrypt, "", nil, "encrypt mx.signed.example"},
		{"signed.example", policy.Verify, "", nil, "verify mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.DANE, "", nil, "dane mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.DANEOnly, "", nil, "dane mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.Pin, "", nil, "pin mx.signed.example"},
		{"signed.example", policy.May, policy.Verify, nil, "dane mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.DANE, "", sts, "dane mx.signed.example mx.signed.example signed.example"},
		{"signed.example", policy.Encrypt, "", sts, "verify mx.signed.example mx.signed.example"},

		{"plain.example", policy.NextHop, "", nil, "may mx.plain.example"},
		{"plain.example", policy.DANE, "", nil, "encrypt mx.plain.example"},
		{"plain.example", policy.DANEOnly, "", nil, "unsafe"},
		{"plain.example", policy.Verify, "", nil, "verify mx.plain.example plain.example"}, // the MX record may be forged
		{"plain.example", policy.Pin, policy.Verify, nil, "pin mx.plain.example"},
		{"plain.example", policy.May, policy.Encrypt, nil, "encrypt mx.plain.example"},
		{"plain.example", policy.Encrypt, policy.May, nil, "encrypt mx.plain.example"},
		{"plain.example", policy.DANE, policy.Verify, nil, "verify mx.plain.example plain.example"},
		{"plain.example", policy.May, policy.Pin, nil, "unsafe"},
		{"plain.example", "tls", "", nil, "unsafe"},
		{"plain.example", policy.May, "", sts, "verify mx.plain.example mx.plain.example"},
		{"plain.example", policy.DANE, "", sts, "verify mx.plain.example mx.plain.example"},
		{"plain.example", policy.Verify, "", sts, "verify mx.plain.example mx.plain.example plain.example"},
		{"plain.example", policy.Pin, "", sts, "pin mx.plain.example"},
		{"plain.example", policy.May, "", other, "unsafe"},
		{"plain.example", policy.Pin, "", other, "pin mx.plain.example"},

		{"hosted.example", policy.DANE, "", nil, "dane mx.signed.example mx.signed.example hosted.example"},
		{"hosted.example", policy.DANEOnly, "", nil, "unsafe"}, // who says that this is its server?
		{"hosted.example", policy.DANE, policy.Verify, nil, "verify mx.signed.example hosted.example"},
		{"hosted.example", policy.Encrypt, "", other, "encrypt mx.signed.example"}, // testing asks for nothing

		{"useless.example", policy.NextHop, "", nil, "encrypt mx.useless.example"},
		{"useless.example", policy.DANEOnly, "", nil, "unsafe"},
		{"unsigned.example", policy.NextHop, "", nil, "may mx.unsigned.example"},
		{"unsigned.example", policy.DANEOnly, "", nil, "unsafe"},
		{"bogus.example", policy.NextHop, "", nil, "away"},
		{"bogus.example", policy.DANE, "", nil, "away"},
		{"bogus.example", policy.May, "", nil, "may mx.bogus.example"},
		{"two.example", policy.DANE, "", nil, "dane mx.signed.example mx.signed.example two.example"},
		{"alias.example", policy.DANE, "", nil, "dane mx.signed.example mx.signed.example alias.example"},
		{"half.example", policy.DANE, "", nil, "dane mx.half.example mx.half.example half.example"},

		{"null.example", policy.May, "", nil, "nowhere"},
		{"missing.example", policy.May, "", nil, "nowhere"},
		{"empty.example", policy.May, "", nil, "nowhere"},
		{"bare.example", policy.Verify, "", nil, "verify bare.example bare.example"},
		{"dead.example", policy.May, "", sts, "unreachable"},
		{"away.example", policy.May, "", nil, "away"},
		{"[192.0.2.1]", policy.May, "", nil, "nowhere"},
		{"no such domain", policy.May, "", nil, "nowhere"},
		{"bücher.example", policy.May, "", nil, "may mx.plain.example"},
	} {
		r := &Router{Names: world(), STS: c.sts, Way: func(string) (policy.Way, string) {
			w := policy.Way{Level: c.level}
			if c.level == policy.Pin {
				w.Pins = [][32]byte{sum}
			}
			return w, "rule"
		}}
		got := ""
		route, err := r.Route(t.Context(), c.domain, c.floor)
		switch {
		case errors.Is(err, ErrNowhere):
			got = "nowhere"
		case errors.Is(err, ErrUnsafe):
			got = "unsafe"
		case errors.Is(err, ErrUnreachable):
			got = "unreachable"
		case errors.Is(err, resolver.ErrAway):
			got = "away"
		case err != nil:
			got = err.Error()
		default:
			s := route.Usable()[0]
			got = strings.Join(append([]string{s.Need.TLS, s.Need.ServerName}, s.Need.Names...), " ")
			if s.Why == "" {
				t.Errorf("%s at %s: got no reason", c.domain, c.level)
			}
			if (s.Need.TLS == transport.TLSDANE) != (s.Need.TLSA != nil) || (s.Need.TLS == transport.TLSPin) != (s.Need.Pins != nil) {
				t.Errorf("%s at %s: got %+v", c.domain, c.level, s.Need)
			}
		}
		if got != c.want {
			t.Errorf("%s at %q, floor %q, MTA-STS %v: got %q, want %q", c.domain, c.level, c.floor, c.sts, got, c.want)
		}
	}
}

// Names that the rule vouches for are taken where nobody validates the MX record.
func TestNamesOfTheRule(t *testing.T) {
	r := &Router{Names: world(), Way: func(string) (policy.Way, string) {
		return policy.Way{Level: policy.Verify, Names: []string{"*.Signed.example", "mail.provider.example"}}, "rule"
	}}
	route, err := r.Route(t.Context(), "hosted.example", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"mx.signed.example", "mail.provider.example", "hosted.example"}
	if got := route.Servers[0].Need.Names; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Servers come by preference, and no more of them than are looked at.
func TestOrder(t *testing.T) {
	z := zone{mx: map[string]resolver.Answer[resolver.MX]{}, hosts: map[string]resolver.Answer[netip.Addr]{}}
	var many resolver.Answer[resolver.MX]
	for i := range 30 {
		name := fmt.Sprintf("mx%d.many.example", i)
		many.Found = append(many.Found, resolver.MX{Host: name, Preference: uint16(30 - i)})
		z.hosts[name] = host(false, "")
	}
	many.Found = append(many.Found, resolver.MX{Host: "mx29.many.example", Preference: 99}, resolver.MX{Preference: 0})
	z.mx["many.example"] = many
	r := &Router{Names: z, Way: func(string) (policy.Way, string) { return policy.Way{Level: policy.May}, "" }}
	route, err := r.Route(t.Context(), "many.example", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(route.Servers) != maxServers {
		t.Fatalf("got %d servers, want %d", len(route.Servers), maxServers)
	}
	for i, s := range route.Servers {
		if want := fmt.Sprintf("mx%d.many.example", 29-i); s.Host != want {
			t.Errorf("got %s at %d, want %s", s.Host, i, want)
		}
	}
}
