package postfix

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/route"
	"postern/filter/socketmap"
	"postern/filter/transport"
)

var errDNS = errors.New("no resolver")

// servers are those of a route, by level.
func servers(needs ...transport.Need) (list []route.Server) {
	for i, n := range needs {
		host := "mx" + string(rune('a'+i)) + ".to.example"
		if n.TLS == transport.TLSVerify && n.Names == nil {
			n.Names = []string{host, "to.example"}
		}
		list = append(list, route.Server{Host: host, Need: n})
	}
	return list
}

// What a way asks for, in the words of Postfix. None of the servers is served
// below what it needs.
func TestEntry(t *testing.T) {
	may, encrypt := transport.Need{TLS: transport.TLSMay}, transport.Need{TLS: transport.TLSEncrypt}
	verify, dane, pin := transport.Need{TLS: transport.TLSVerify}, transport.Need{TLS: transport.TLSDANE}, transport.Need{TLS: transport.TLSPin}
	named := func(names ...string) transport.Need { return transport.Need{TLS: transport.TLSVerify, Names: names} }
	one, two := [32]byte{0xab}, [32]byte{31: 0x01}
	zeros := strings.Repeat("00:", 30)
	for _, c := range []struct {
		name    string
		way     policy.Way
		servers []route.Server
		want    string // "": an error
	}{
		{"next-hop", policy.Way{Level: policy.NextHop}, servers(may), "dane"},
		{"next-hop, records", policy.Way{Level: policy.NextHop}, servers(dane, may, encrypt), "dane"},
		{"next-hop, MTA-STS", policy.Way{Level: policy.NextHop}, servers(verify), "secure match=mxa.to.example:to.example"},
		{"next-hop, MTA-STS and records", policy.Way{Level: policy.NextHop}, servers(verify, dane), "dane-only"},
		{"may", policy.Way{Level: policy.May}, servers(may), "may"},
		{"may, MTA-STS", policy.Way{Level: policy.May}, servers(verify, verify), "secure match=mxa.to.example:mxb.to.example:to.example"},
		{"encrypt", policy.Way{Level: policy.Encrypt}, servers(encrypt), "encrypt"},
		{"encrypt, pfs", policy.Way{Level: policy.Encrypt, PFS: true}, servers(encrypt), "encrypt exclude=" + strings.ReplaceAll(weak, ", ", ":") + ":kRSA"},
		{"encrypt, 1.2", policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS12}, servers(encrypt), "encrypt"},
		{"encrypt, 1.3", policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS13}, servers(encrypt), "encrypt protocols=>=TLSv1.3"},
		{"encrypt, 1.0", policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS10}, servers(encrypt), ""},
		{"verify", policy.Way{Level: policy.Verify}, servers(named("to.example")), "secure match=to.example"},
		{"verify, server and domain", policy.Way{Level: policy.Verify}, servers(verify), "secure match=mxa.to.example:to.example"},
		{"verify, a name that is a word", policy.Way{Level: policy.Verify}, servers(named("hostname")), ""},
		{"verify, a name that is two", policy.Way{Level: policy.Verify}, servers(named("a.example:b.example")), ""},
		{"verify, a name with an attribute", policy.Way{Level: policy.Verify}, servers(named("a.example servername=x")), ""},
		{"verify, a name for all below", policy.Way{Level: policy.Verify}, servers(named(".example")), ""},
		{"dane, records", policy.Way{Level: policy.DANE}, servers(dane, dane), "dane-only"},
		{"dane, some records", policy.Way{Level: policy.DANE}, servers(encrypt, dane), "dane-only"},
		{"dane, none", policy.Way{Level: policy.DANE}, servers(encrypt), "encrypt"},
		{"dane-only", policy.Way{Level: policy.DANEOnly}, servers(dane), "dane-only"},
		{"pin", policy.Way{Level: policy.Pin, Pins: [][32]byte{one, two}}, servers(pin), "fingerprint match=AB:" + zeros + "00|00:" + zeros + "01"},
		{"pin, none", policy.Way{Level: policy.Pin}, servers(pin), ""},
		{"pin, too many", policy.Way{Level: policy.Pin, Pins: make([][32]byte, maxNames+1)}, servers(pin), ""},
		{"no server", policy.Way{Level: policy.May}, nil, ""},
		{"only a bad server", policy.Way{Level: policy.May}, []route.Server{{Err: errDNS}}, ""},
		{"off", policy.Way{Level: policy.May}, servers(transport.Need{}), ""},
		{"off beside better ones", policy.Way{Level: policy.Encrypt}, servers(encrypt, transport.Need{TLS: transport.TLSOff}), ""},
		{"unknown", policy.Way{Level: "best"}, servers(transport.Need{TLS: "best"}), ""},
	} {
		got, err := entry(&route.Route{Domain: "to.example", Way: c.way, Servers: c.servers})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
		if len(got) > 8000 {
			t.Errorf("%s: got %d bytes", c.name, len(got))
		}
	}
}

// Each table has its floor, and every question an answer or an error.
func TestLookup(t *testing.T) {
	p := Policies{
		Route: func(_ context.Context, domain string, floor policy.Level) (*route.Route, error) {
			r := &route.Route{Domain: domain, Way: policy.Way{Level: policy.Encrypt}}
			switch {
			case domain == "away.example":
				return r, errDNS
			case floor == policy.Verify:
				r.Servers = servers(transport.Need{TLS: transport.TLSVerify})
			case floor == "":
				r.Servers = servers(transport.Need{TLS: transport.TLSEncrypt})
			}
			return r, nil
		},
		Way: func(domain string) (policy.Way, string) {
			return policy.Way{Level: map[string]policy.Level{"": policy.May, "mx.dane.example": policy.DANEOnly, "mx.encrypt.example": policy.Encrypt}[map[bool]string{true: domain}[strings.Contains(domain, "example")]]}, "default"
		},
	}
	for _, c := range []struct {
		table, key, want string
		err              error
	}{
		{Table, "to.example", "encrypt", nil},
		{TableFloor, "to.example", "secure match=mxa.to.example:to.example", nil},
		{Table, "away.example", "", errDNS},
		{"another", "to.example", "", errQuestion},
		{Table, ".example", "", socketmap.ErrNotFound},
		{Table, "[192.0.2.1]", "may", nil},
		{Table, "[IPv6:2001:db8::1]", "may", nil},
		{TableFloor, "[192.0.2.1]:25", "secure match=192.0.2.1", nil},
		{Table, "[mx.encrypt.example]:2525", "encrypt", nil},
		{TableFloor, "[mx.encrypt.example]:2525", "secure match=mx.encrypt.example", nil},
		{Table, "[mx.dane.example]", "", errLevel},
		{Table, "[mx.other.example]", "", errLevel},
	} {
		got, err := p.Lookup(t.Context(), c.table, c.key)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s %s: got %q, %v, want %q, %v", c.table, c.key, got, err, c.want, c.err)
		}
	}
}
