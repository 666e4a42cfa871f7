package ground

import "strings"

// Base is the rules of a box that belongs to nobody; postern-firewall.service
// loads them, and in the same step those of Firewall where there are any.
const Base = "/usr/lib/postern/firewall.nft"

// Blank is what a box stands on that belongs to nobody: addresses by DHCP on
// every wired device, and the one port where it is claimed, from the networks
// that it is in.
func Blank(port uint16) []File {
	c := Config{
		Interfaces: []Interface{{Name: "any", DHCP: true}},
		Served:     []Service{{Name: "claim", TCP: port, Inside: true}},
	}
	blank := func(text string) string {
		return strings.Replace(text, header, "# Of a box that belongs to nobody. Printed by: go test ./appliance/ground -run TestBlank -update\n", 1)
	}
	rules := firewall(c)
	// A name with a wildcard may be missing; what is there and is wrong fails.
	rules.Path, rules.Text = Base, blank(rules.Text)+"\ninclude \""+Firewall[:len(Firewall)-1]+"[t]\"\n"
	wired := network(c.Interfaces[0])
	wired.Path, wired.Text = "/usr/lib/systemd/network/89-postern.network", blank(wired.Text)
	return []File{rules, wired}
}
