package render

import (
	"net"
	"net/netip"
	"strconv"

	"postern/appliance/config"
	"postern/appliance/ground"
	"postern/cmd/internal/gateway"
)

// below is what box.toml says of network, firewall and clock. Its texts have
// their forms already.
func below(c *config.Box) ground.Config {
	g := ground.Config{
		Local: gateway.ResolverDir(&c.Filterd) != "",
		Time:  ground.Time{Servers: c.Time.Servers, NTS: c.Time.Protocol == "nts", Alone: c.Time.Protocol == "none"},
	}
	for _, n := range c.Network.Interfaces {
		i := ground.Interface{Name: n.Name, Device: n.Device, MAC: n.MAC, DHCP: n.DHCP, MTU: n.MTU}
		for _, a := range n.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				i.Addresses = append(i.Addresses, p)
			}
		}
		for _, a := range n.Gateways {
			if a, err := netip.ParseAddr(a); err == nil {
				i.Gateways = append(i.Gateways, a)
			}
		}
		g.Interfaces = append(g.Interfaces, i)
	}
	open := func(name, address string, inside bool, from ...[]config.Network) {
		host, port, _ := net.SplitHostPort(address)
		n, _ := strconv.ParseUint(port, 10, 16)
		s := ground.Service{Name: name, TCP: uint16(n), Inside: inside}
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
			s.On = a.Unmap()
		}
		if s.On.IsLoopback() || n == 0 {
			return
		}
		for _, list := range from {
			for _, n := range list {
				s.From = append(s.From, n.Prefix)
			}
		}
		g.Served = append(g.Served, s)
	}
	open("manage", c.Box.Manage, true, c.Box.ManageFrom)
	for _, l := range c.Listeners {
		if len(l.Allow) == 0 {
			open(l.Name, l.Address, false)
		} else {
			open(l.Name, l.Address, false, l.Allow, l.ProxyFrom)
		}
	}
	for _, a := range c.Access {
		open(a.Name, a.Address, false, a.Allow)
	}
	for _, w := range c.Web {
		open(w.Name, w.Address, false, w.Allow)
	}
	return g
}
