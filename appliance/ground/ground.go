// Package ground is what the gateway stands on: network, firewall, clock and
// resolver of the box. Their files are printed from one struct; it is pure, and
// the same struct gives the same bytes. Nothing is open that the struct does not
// name.
package ground

import (
	"errors"
	"net/netip"
)

// header stands in each file.
const header = "# Written by `postern box render` from box.toml; what is changed here is lost.\n"

// Config is the ground of one box.
type Config struct {
	Interfaces []Interface
	Served     []Service
	Local      bool // a resolver is on this machine, and everything asks it
	Time       Time
}

// Interface is one network device.
type Interface struct {
	Name      string // for people
	Device    string // name or pattern; "" with MAC, or for every wired device
	MAC       string
	DHCP      bool // DHCP and router advertisements
	Addresses []netip.Prefix
	Gateways  []netip.Addr
	MTU       int
}

// Service is a port that is open.
type Service struct {
	Name string
	TCP  uint16
	On   netip.Addr     // the address of the box; the zero Addr: every one
	From []netip.Prefix // who may connect; none: everybody
	// Inside: without From, the networks of the box's own interfaces only.
	Inside bool
}

// Time is who tells the time.
type Time struct {
	Servers []string
	NTS     bool // answers that are not proven do not count (RFC 8915)
	Alone   bool // nobody is asked
}

// File is one file of the box.
type File struct{ Path, Text string }

// Render prints all of them.
func Render(c Config) ([]File, error) {
	if c.Time.Alone != (len(c.Time.Servers) == 0) {
		return nil, errors.New("render clock: either servers tell the time, or nobody does")
	}
	list := []File{firewall(c), clock(c.Time)}
	for _, i := range c.Interfaces {
		list = append(list, network(i))
	}
	if c.Local {
		list = append(list, File{"/etc/resolv.conf", header + "nameserver 127.0.0.1\noptions edns0 trust-ad\n"})
	}
	return list, nil
}
