package route

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// at is a zone in which every host has one address.
func at(mx map[string]resolver.Answer[resolver.MX], hosts map[string]string) zone {
	z := zone{mx: mx, hosts: map[string]resolver.Answer[netip.Addr]{}}
	for h, ip := range hosts {
		z.hosts[h] = resolver.Answer[netip.Addr]{Found: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	return z
}

func plainDirect(z zone, port int, way policy.Way) *Direct {
	return &Direct{
		Router: &Router{Names: z, Port: uint16(port), Way: func(string) (policy.Way, string) { return way, "rule" }},
		Name:   "gw.example", Word: word, Own: func(netip.Addr) bool { return false },
	}
}

// Servers are tried by preference until one takes the mail; what one says for
// good, or after it had the mail, stands.
func TestNextServer(t *testing.T) {
	one, two := "127.0.72.1", "127.0.72.2"
	port := freePort(t, one, two)
	first, second := partner(t, one, port), partner(t, two, port)
	z := at(map[string]resolver.Answer[resolver.MX]{"to.example": mx(false, "one.to.example", "two.to.example")},
		map[string]string{"one.to.example": one, "two.to.example": two})
	for _, c := range []struct {
		name          string
		first, second hoptest.Habit
		code          int
		mails         string // of each
	}{
		{"well", hoptest.Habit{}, hoptest.Habit{}, 250, "1 0"},
		{"busy", hoptest.Habit{Greeting: "421 4.3.2 busy"}, hoptest.Habit{}, 250, "0 1"},
		{"no mail service", hoptest.Habit{Greeting: "554 no"}, hoptest.Habit{}, 250, "0 1"},
		{"not now", hoptest.Habit{Sender: "450 4.2.0 later"}, hoptest.Habit{}, 250, "0 1"},
		{"both not now", hoptest.Habit{Sender: "450 4.2.0 later"}, hoptest.Habit{Sender: "452 4.3.1 full"}, 452, "0 0"},
		{"for good", hoptest.Habit{Sender: "550 5.7.1 never"}, hoptest.Habit{}, 550, "0 0"},
		{"no in the end", hoptest.Habit{Last: "451 4.7.1 greylisted"}, hoptest.Habit{}, 451, "1 0"},
		{"gone after the dot", hoptest.Habit{HangUp: true}, hoptest.Habit{}, 451, "1 0"}, // it may have it
	} {
		first.Become(c.first)
		second.Become(c.second)
		d := plainDirect(z, port, policy.Way{Level: policy.May})
		res := deliver(t, d, envelope(t, "b@to.example"))
		d.Close()
		_, _, n := first.Heard()
		_, _, m := second.Heard()
		if res.Err != nil || res.Replies[0].Code != c.code || fmt.Sprint(n, " ", m) != c.mails {
			t.Errorf("%s: got %+v, %d and %d mails, want %d, %s", c.name, res, n, m, c.code, c.mails)
		}
	}
	first.Become(hoptest.Habit{TLS: &tls.Config{}}) // TLS that never works
	second.Become(hoptest.Habit{})
	d := plainDirect(z, port, policy.Way{Level: policy.Encrypt})
	defer d.Close()
	if res := deliver(t, d, envelope(t, "b@to.example")); res.Replies[0] != word(transport.ErrNextHop) {
		t.Errorf("neither is safe: got %+v", res)
	}
}

// Recipients of several domains get their own answers, each domain one
// transaction, and connections serve again.
func TestDomainsOfOneMail(t *testing.T) {
	one, two := "127.0.72.3", "127.0.72.4"
	port := freePort(t, one, two)
	first, second := partner(t, one, port), partner(t, two, port)
	z := at(map[string]resolver.Answer[resolver.MX]{
		"a.example": mx(false, "mx.a.example"), "b.example": mx(false, "mx.b.example"), "null.example": mx(false, ""), "gone.example": mx(false, "mx.gone.example"),
	}, map[string]string{"mx.a.example": one, "mx.b.example": two})
	z.failing = []string{"away.example"}
	first.Become(hoptest.Habit{})
	second.Become(hoptest.Habit{Sender: "550 5.7.1 no"})
	d := plainDirect(z, port, policy.Way{Level: policy.May})
	defer d.Close()
	e := envelope(t, "1@a.example", "2@b.example", "3@a.example", "4@null.example", "5@away.example", "6@missing.example", "7@gone.example")
	for range 2 {
		res := deliver(t, d, e)
		var codes []int
		for _, r := range res.Replies {
			codes = append(codes, r.Code)
		}
		if got, want := fmt.Sprint(codes), "[250 550 250 550 451 550 451]"; res.Err != nil || got != want {
			t.Errorf("got %s (%+v), want %s", got, res, want)
		}
		if len(res.Each) != 7 || res.Each[0].Result != transport.LevelMet || res.Each[4].Result != transport.LevelMissed {
			t.Errorf("got %+v", res.Each)
		}
	}
	late := plainDirect(z, port, policy.Way{Level: policy.May})
	late.late = -1
	if res := deliver(t, late, envelope(t, "1@a.example")); res.Replies[0].Code != 451 {
		t.Errorf("too late: got %+v", res)
	}
	clear, _, mails := first.Heard()
	if mails != 2 || strings.Count(clear, "RCPT TO:<1@a.example>") != 2 || strings.Count(clear, "MAIL FROM") != 2 {
		t.Errorf("got %d mails, %q", mails, clear)
	}
	if n := first.Sessions(); n != 1 {
		t.Errorf("got %d connections, want 1", n)
	}
}

// A mail with REQUIRETLS goes to a server that proves itself and promises the
// same, or not at all (RFC 8689 §4.2.1).
func TestRequireTLS(t *testing.T) {
	ip := "127.0.72.5"
	port := freePort(t, ip)
	ca := certtest.New(t, certtest.CA("Test Authority"))
	server := partner(t, ip, port)
	z := at(map[string]resolver.Answer[resolver.MX]{"to.example": mx(true, "mx.to.example"), "forged.example": mx(false, "mx.to.example")}, map[string]string{"mx.to.example": ip})
	promising := func(by *certtest.Authority) hoptest.Habit {
		h := hoptest.Showing(by.Issue(t, certtest.Host("mx.to.example")))
		h.More = []string{"REQUIRETLS"}
		return h
	}
	for _, c := range []struct {
		domain string
		h      hoptest.Habit
		mails  int
	}{
		{"to.example", promising(ca), 1},
		{"to.example", hoptest.Showing(ca.Issue(t, certtest.Host("mx.to.example"))), 0},
		{"to.example", promising(certtest.New(t, certtest.CA("Stranger"))), 0},
		{"forged.example", promising(ca), 0},
	} {
		server.Become(c.h)
		d := plainDirect(z, port, policy.Way{Level: policy.May})
		d.RootCAs = ca.Pool()
		e := envelope(t, "b@"+c.domain)
		e.RequireTLS = true
		res := deliver(t, d, e)
		d.Close()
		clear, safe, mails := server.Heard()
		if mails != c.mails || c.mails == 0 && res.Replies[0].Code/100 == 2 || strings.Contains(clear, "MAIL") || c.mails == 0 && strings.Contains(safe, "MAIL") {
			t.Errorf("%s, extensions %v: got %d mails, %+v, clear %q, TLS %q, want %d", c.domain, c.h.More, mails, res, clear, safe, c.mails)
		}
	}
}

// No mail is sent to this machine, nor to what stands behind it in the list.
func TestNeverToItself(t *testing.T) {
	for _, c := range []struct {
		name string
		ips  []string
		own  string
		left string
		loop bool
	}{
		{"first", []string{"192.0.2.1", "192.0.2.2"}, "192.0.2.1", "", true},
		{"second", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}, "192.0.2.2", "mx0", false},
		{"none", []string{"192.0.2.1", "192.0.2.2"}, "192.0.2.9", "mx0 mx1", false},
	} {
		route := &Route{Domain: "to.example"}
		for i, ip := range c.ips {
			route.Servers = append(route.Servers, Server{Host: fmt.Sprint("mx", i), Preference: uint16(i), Addresses: []netip.Addr{netip.MustParseAddr(ip)}})
		}
		d := &Direct{Own: func(a netip.Addr) bool { return a.String() == c.own }}
		servers, err := d.others(route)
		var left []string
		for _, s := range servers {
			left = append(left, s.Host)
		}
		if got := strings.Join(left, " "); got != c.left || (err != nil) != c.loop {
			t.Errorf("%s: got %q, %v, want %q, loop %v", c.name, got, err, c.left, c.loop)
		}
	}
	mine := []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)}}
	for a, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "0.0.0.0": true, "::": true, "224.0.0.1": true, "fe80::1": true, "::ffff:127.0.0.1": true,
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.2.8": false, "10.0.0.1": false, "2001:db8::1": false,
	} {
		if got := ownAddress(netip.MustParseAddr(a), mine); got != want {
			t.Errorf("%s: got %v, want %v", a, got, want)
		}
	}
	// With nothing said of its own addresses a domain that points to loopback is a loop.
	z := at(map[string]resolver.Answer[resolver.MX]{"self.example": mx(false, "mx.self.example")}, map[string]string{"mx.self.example": "127.0.0.1"})
	d := plainDirect(z, 25, policy.Way{Level: policy.May})
	d.Own = nil
	if res := deliver(t, d, envelope(t, "b@self.example")); res.Replies[0] != word(ErrLoop) {
		t.Errorf("got %+v, want a loop", res)
	}
}
