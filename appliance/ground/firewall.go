package ground

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// table is the nftables table of the box; no other one is touched.
const table = "postern"

// Firewall is where the rules are; postern-firewall.service loads them.
const Firewall = "/etc/postern/firewall.nft"

// New connections of one source (an IPv4 address, the /64 of an IPv6 address),
// beyond which they are dropped. Far above what a large provider does: filterd
// counts more finely, and this keeps it from having to.
const (
	newRate  = "50/second"
	newBurst = 500
	sources  = 65535 // remembered at once; those beyond are not counted here
)

// firewall is the rules: nothing comes in but what is served, from where it is
// served to, and nothing passes through.
//
// The file can be loaded again at any time, in one transaction: connections go
// on, and so do the sets, in which networkd notes the networks that DHCP brought.
func firewall(c Config) File {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	b.WriteString(header)
	line("table inet %s\nflush table inet %s\ntable inet %s {", table, table, table)
	line("	# Networks that the box is in by DHCP and router advertisements; networkd writes them.")
	line("	set near4 {\n		type ipv4_addr\n		flags interval\n		auto-merge\n	}")
	line("	set near6 {\n		type ipv6_addr\n		flags interval\n		auto-merge\n	}")
	line("	# Who connected lately, to slow down who does so too often.")
	line("	set often4 {\n		type ipv4_addr\n		size %d\n		flags dynamic\n		timeout 1m\n	}", sources)
	line("	set often6 {\n		type ipv6_addr\n		size %d\n		flags dynamic\n		timeout 1m\n	}", sources)

	line("	chain input {\n		type filter hook input priority filter; policy drop;")
	line("		iif lo accept")
	line("		ct state established,related accept")
	line("		ct state invalid drop")
	line("		# Neighbours and routers (RFC 4890 §4.4): from the link itself, hence hop limit 255.")
	line("		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept")
	line("		icmpv6 type mld-listener-query ip6 saddr fe80::/10 accept")
	if slices.ContainsFunc(c.Interfaces, func(i Interface) bool { return i.DHCP }) {
		line("		icmpv6 type nd-router-advert ip6 saddr fe80::/10 ip6 hoplimit 255 accept")
		line("		udp sport 67 udp dport 68 accept")
		line("		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept")
	}
	line("		# An address is reached by its own interface only, and from where its answers go.")
	line("		fib daddr . iif type != local drop")
	line("		fib saddr . iif oif missing drop")
	line("		icmp type { destination-unreachable, time-exceeded, parameter-problem } accept")
	line("		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept")
	line("		icmp type echo-request limit rate 20/second burst 50 packets accept")
	line("		icmpv6 type echo-request limit rate 20/second burst 50 packets accept")
	line("		tcp flags & (fin | syn | rst | ack) == syn jump served")
	line("		counter\n	}")

	line("	chain served {")
	line("		add @often4 { ip saddr limit rate over %s burst %d packets } drop", newRate, newBurst)
	line("		add @often6 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over %s burst %d packets } drop", newRate, newBurst)
	for _, s := range c.Served {
		line("		# %s", s.Name)
		for _, r := range admit(c, s) {
			line("		%saccept", r)
		}
	}
	line("	}")

	line("	chain forward {\n		type filter hook forward priority filter; policy drop;\n	}")
	line("	chain output {\n		type filter hook output priority filter; policy accept;\n	}")
	line("}")
	return File{Firewall, b.String()}
}

// admit are the matches of a service, each with a space behind.
func admit(c Config, s Service) (rules []string) {
	port := fmt.Sprintf("tcp dport %d ", s.TCP)
	for _, family := range []struct {
		name, word, near string
		of               func(netip.Addr) bool
	}{
		{"ip", "ipv4", "near4", netip.Addr.Is4}, {"ip6", "ipv6", "near6", netip.Addr.Is6},
	} {
		to := "meta nfproto " + family.word + " "
		if s.On.IsValid() {
			if !family.of(s.On) {
				continue
			}
			to = family.name + " daddr " + s.On.WithZone("").String() + " "
		}
		from := s.From
		switch {
		case len(from) == 0 && !s.Inside:
			rules = append(rules, to+port)
			continue
		case len(from) == 0:
			from = near(c)
			rules = append(rules, to+family.name+" saddr @"+family.near+" "+port)
		}
		if list := prefixes(from, family.of); list != "" {
			rules = append(rules, to+family.name+" saddr { "+list+" } "+port)
		}
	}
	return rules
}

// prefixes are those of one family as the elements of a set: sorted, and none
// inside another one, since a set may not hold both.
func prefixes(list []netip.Prefix, of func(netip.Addr) bool) string {
	var all []netip.Prefix
	for _, p := range list {
		if p = p.Masked(); p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if of(p.Addr()) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if n := a.Bits() - b.Bits(); n != 0 {
			return n
		}
		return a.Addr().Compare(b.Addr())
	})
	var texts []string
	for i, p := range all {
		if !slices.ContainsFunc(all[:i], func(q netip.Prefix) bool { return q.Contains(p.Addr()) }) {
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, ", ")
}
