package ground

import (
	"fmt"
	"net/netip"
	"strings"
)

// network is the .network file of one interface, for systemd-networkd.
//
// Names are asked of the resolver that the box has, and the clock of the servers
// that it has: neither is taken from whoever answers DHCP or sends a router
// advertisement, and no host name, route or domain either but the way out.
func network(i Interface) File {
	var b strings.Builder
	b.WriteString(header + "# Interface \"" + i.Name + "\".\n\n[Match]\n")
	switch {
	case i.MAC != "":
		// What is stacked upon a device bears its address too.
		fmt.Fprintf(&b, "MACAddress=%s\nKind=!vlan bond\n", strings.ToLower(i.MAC))
	case i.Device != "":
		fmt.Fprintf(&b, "Name=%s\n", i.Device)
	default: // every wired one
		b.WriteString("Type=ether\nKind=!*\n")
	}
	if i.MTU > 0 {
		fmt.Fprintf(&b, "\n[Link]\nMTUBytes=%d\n", i.MTU)
	}
	b.WriteString("\n[Network]\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\nIPv6PrivacyExtensions=no\n")
	if i.DHCP {
		b.WriteString("DHCP=yes\nIPv6AcceptRA=yes\n")
	} else {
		b.WriteString("DHCP=no\nIPv6AcceptRA=no\n")
	}
	for _, a := range i.Addresses {
		fmt.Fprintf(&b, "\n[Address]\nAddress=%s\n", a)
	}
	for _, g := range i.Gateways {
		fmt.Fprintf(&b, "\n[Route]\nGateway=%s\n", g)
	}
	if i.DHCP {
		const refuse = "UseDNS=no\nUseDomains=no\n"
		fmt.Fprintf(&b, "\n[DHCPv4]\n%sUseNTP=no\nUseHostname=no\nSendHostname=no\nClientIdentifier=mac\nNFTSet=prefix:inet:%s:near4\n", refuse, table)
		fmt.Fprintf(&b, "\n[DHCPv6]\n%sUseNTP=no\nUseHostname=no\nSendHostname=no\n", refuse)
		fmt.Fprintf(&b, "\n[IPv6AcceptRA]\n%sNFTSet=prefix:inet:%s:near6\n", refuse, table)
	}
	return File{"/etc/systemd/network/10-" + i.Name + ".network", b.String()}
}

// near are the networks that the box is in by its own configuration, link-local
// addresses among them; those of DHCP join them in the sets near4 and near6.
func near(c Config) (list []netip.Prefix) {
	list = append(list, netip.MustParsePrefix("fe80::/64"))
	for _, i := range c.Interfaces {
		for _, a := range i.Addresses {
			list = append(list, a.Masked())
		}
	}
	return list
}
