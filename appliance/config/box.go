package config

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Box is box.toml, the one file of a box: what is there beside mail, and all of
// filterd.toml. Everything in the box's /etc follows from it.
type Box struct {
	Box     TheBox `toml:"box" doc:"The box itself, and who may look after it."`
	Network Ground `toml:"network" doc:"The networks that the box is in. The firewall has no field: it lets in what a listener serves, to whom that is served."`
	Time    Clock  `toml:"time" doc:"Who tells the time."`
	Token   Token  `toml:"token" doc:"Where the private keys are. keyd.toml is made from it."`
	Update  Update `toml:"update" doc:"Where new versions come from."`

	Filterd // everything that filterd.toml has, word for word
}

// TheBox is the table [box].
type TheBox struct {
	Name         string    `toml:"name" need:"yes" form:"domain" doc:"Host name of the box."`
	Unlock       string    `toml:"unlock" need:"yes" enum:"tpm|operator" doc:"Who gives the token its PIN after a start. tpm: the box does, which has it sealed to its TPM and to the programs that it boots; it carries mail again by itself, and so it does for whoever carries it away whole. operator: people do, with postern unlock; until then mail is deferred."`
	Manage       string    `toml:"manage" default:":8443" form:"listen" doc:"Where the box answers its operators, an address and a port. They and the box know each other by their keys."`
	ManageFrom   []Network `toml:"manage-from" doc:"Networks that may connect there. Default: every one that the box is in itself."`
	Admins       []string  `toml:"admin" form:"pin" doc:"Keys that may do everything, beside the one that claimed the box: SHA-256 of the public key, as postern box key prints it."`
	BackupBy     []string  `toml:"backup-by" form:"pin" doc:"Keys that may fetch backups and see the state of the box, and nothing else. They cannot read what they fetch."`
	BackupRecord bool      `toml:"backup-record" doc:"Whether backups hold what the gateway remembers of mails: addresses and Message-IDs. Without it a restored box has forgotten to whom mail was encrypted before."`
	BackupTo     []string  `toml:"backup-to" form:"age" doc:"For whom backups are encrypted, as age-keygen prints it. Without one there are none."`
}

// Ground is the table [network].
type Ground struct {
	Interfaces []Interface `toml:"interface" doc:"One network device each."`
}

// Interface is a table of [[network.interface]].
type Interface struct {
	Name      string   `toml:"name" need:"yes" form:"name" doc:"What it is called here and in the log."`
	Device    string   `toml:"device" form:"device" doc:"Name of the device, or a pattern for it."`
	MAC       string   `toml:"mac" form:"mac" doc:"Its hardware address, in place of device."`
	DHCP      bool     `toml:"dhcp" doc:"Whether addresses come from the network, by DHCP and router advertisements."`
	Addresses []string `toml:"addresses" form:"prefix" doc:"Addresses of the box there, each with the length of its network."`
	Gateways  []string `toml:"gateways" form:"ip" doc:"Routers to everywhere else, one of each family at most."`
	MTU       int      `toml:"mtu" default:"1500" min:"1280" max:"9216" doc:"Largest packet, in bytes."`
}

// Clock is the table [time].
type Clock struct {
	Protocol string   `toml:"protocol" default:"nts" enum:"nts|ntp|none" doc:"nts: a server proves its answers (RFC 8915). ntp: it does not, and whoever is on the way can turn the clock. none: nobody is asked, and the clock of the box is believed from the time on when its programs were built; for networks without a server."`
	Servers  []string `toml:"servers" form:"domain" doc:"Servers that tell the time. Default: three of three operators, time.cloudflare.com, ptbtime1.ptb.de and nts.netnod.se."`
}

// Token is the table [token].
type Token struct {
	Kind          string            `toml:"kind" default:"softhsm" enum:"softhsm|card|tpm|module" doc:"softhsm: SoftHSM on the encrypted data partition, for those who have nothing better. card: a smart card or USB token, by OpenSC. tpm: the TPM of the box, by tpm2-pkcs11. module: another PKCS#11 library."`
	Module        string            `toml:"module" form:"path" doc:"The library, with kind = \"module\"."`
	ModuleConfig  string            `toml:"module-config" form:"text" doc:"Parameters for C_Initialize, as in keyd.toml."`
	Label         string            `toml:"label" default:"postern" form:"label" doc:"Label or serial number of the token."`
	AllowImported bool              `toml:"allow-imported" doc:"Serve keys of which a copy may exist outside the token."`
	AllowWrapped  bool              `toml:"allow-wrapped" doc:"Serve keys that are kept outside the token as ciphertext that only this token opens, and make them, as in keyd.toml."`
	WrappedOpen   int               `toml:"wrapped-open" default:"8" min:"1" max:"1000" doc:"How many of them are open in the token at a time, as in keyd.toml."`
	Workers       int               `toml:"workers" default:"4" min:"1" max:"64" doc:"Operations in the module at once; half of them RSA."`
	Budget        Budget            `toml:"budget" doc:"What anybody can do with one key, as in keyd.toml."`
	Rules         []Rule            `toml:"rule" doc:"Keys that are for some callers only, as in keyd.toml."`
	Environment   map[string]string `toml:"environment" doc:"Environment of the module, as in keyd.toml, with kind = \"module\"."`
}

// Update is the table [update].
type Update struct {
	Source    string `toml:"source" form:"https" doc:"Folder of releases, where postern update looks when it is told none. What comes from there counts only with the signature of a release key."`
	Authority string `toml:"authority" form:"certificates" doc:"Certificates in PEM, between two lines of three quotation marks: the authorities that a server of releases has its certificate from, in place of the public ones. For a server of one's own."`
}

// Authorities are those that a server of releases has its certificate from; nil:
// the public ones.
func (u Update) Authorities() *x509.CertPool {
	list, _ := certificates(u.Authority) // has its form already
	if len(list) == 0 {
		return nil
	}
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
	}
	return pool
}

// LoadBox reads box.toml, as LoadFilterd does its file.
func LoadBox(path string) (*Box, error) { return loadFile(path, ParseBox) }

// ParseBox reads a box.toml that is in memory; errors call it by name.
func ParseBox(name string, data []byte) (*Box, error) {
	if len(data) > maxFile {
		return nil, &Error{File: name, Line: 1, What: fmt.Sprintf("more than %d bytes", maxFile)}
	}
	c := new(Box)
	return parse(name, data, c, func(r *reading) {
		c.Filterd.check(r)
		c.checkBox(r)
	})
}

// clockMark is where postern-clock.service notes that the clock is set.
const clockMark = "/run/postern-clock/mark"

// clocks are servers that prove their answers, of three operators in three countries.
var clocks = []string{"time.cloudflare.com", "ptbtime1.ptb.de", "nts.netnod.se"}

func (c *Box) checkBox(r *reading) {
	host, port, _ := net.SplitHostPort(c.Box.Manage)
	if port == "0" {
		r.wrong(r.line("box", "manage"), "box.manage: port 0 is one that nobody knows", "8443 is the usual one")
	}
	for name, address := range c.doors() {
		lh, lp, _ := net.SplitHostPort(address)
		if lp == port && (lh == host || isAny(lh) || isAny(host)) {
			r.wrong(r.line("box", "manage"), fmt.Sprintf("box.manage: is listener %q itself", name), "give operators a port of their own")
		}
	}
	for _, p := range c.Box.BackupBy {
		if slices.ContainsFunc(c.Box.Admins, func(a string) bool { return strings.EqualFold(a, p) }) {
			r.wrong(r.line("box", "backup-by"), fmt.Sprintf("box.backup-by: %s is one of admin too", p), "who may do everything may fetch backups")
		}
	}
	if len(c.Box.BackupBy) > 0 && len(c.Box.BackupTo) == 0 {
		r.wrong(r.line("box", "backup-by"), "box.backup-by: has no effect without backup-to", "add the age recipient of whoever is to read backups")
	}
	c.checkGround(r)
	c.checkTime(r)
	t := &c.Token
	for field, there := range map[string]bool{"module": t.Module != "", "module-config": t.ModuleConfig != "", "environment": len(t.Environment) > 0} {
		if there && t.Kind != "module" {
			r.wrong(r.line("token", field), fmt.Sprintf("token.%s: has no effect with kind = %q", field, t.Kind), `set kind = "module"`)
		}
	}
	if t.Kind == "module" && t.Module == "" {
		r.wrong(r.line("token"), "token.module is missing", "it is the PKCS#11 library of the token")
	}
	checkRules(r, t.Rules, "token")
	checkEnvironment(r, t.Environment, "token")
}

// checkTime says who tells the time, and has both daemons wait for it.
func (c *Box) checkTime(r *reading) {
	switch {
	case c.Time.Protocol == "none" && len(c.Time.Servers) > 0:
		r.wrong(r.line("time", "servers"), `time.servers: nobody asks them with protocol = "none"`, "")
	case c.Time.Protocol != "none" && len(c.Time.Servers) == 0:
		c.Time.Servers = slices.Clone(clocks)
	}
	switch {
	case c.Time.Protocol == "none" && c.Clock != "":
		r.wrong(r.line("clock"), `clock: no time service would ever set it with time.protocol = "none"`, "")
	case c.Time.Protocol != "none" && c.Clock == "":
		c.Clock = clockMark
	}
}

// doors are all addresses that are served, by the name of the listener.
func (c *Box) doors() map[string]string {
	all := map[string]string{}
	for _, l := range c.Listeners {
		all[l.Name] = l.Address
	}
	for _, a := range c.Access {
		all[a.Name] = a.Address
	}
	for _, w := range c.Web {
		all[w.Name] = w.Address
	}
	return all
}

// checkGround finds interfaces that nobody could tell apart or reach.
func (c *Box) checkGround(r *reading) {
	names, devices := map[string]bool{}, map[string]bool{}
	four, six := 0, 0
	for i, n := range c.Network.Interfaces {
		wrong := func(field, problem, hint string) {
			r.wrong(r.line("network", "interface", i, field), "network.interface"+problem, hint)
		}
		if names[n.Name] {
			wrong("name", fmt.Sprintf(".name = %q: another interface has it", n.Name), "")
		}
		names[n.Name] = true
		key := strings.ToLower(n.Device + n.MAC)
		switch {
		case n.Device == "" && n.MAC == "" || n.Device != "" && n.MAC != "":
			wrong("name", fmt.Sprintf(" %q: want one of device and mac", n.Name), "")
		case devices[key]:
			wrong("name", fmt.Sprintf(" %q: another interface is the same device", n.Name), "")
		}
		devices[key] = true
		if !n.DHCP && len(n.Addresses) == 0 {
			wrong("name", fmt.Sprintf(" %q: has no address", n.Name), "add addresses, or dhcp = true")
		}
		for _, g := range n.Gateways {
			a, err := netip.ParseAddr(g)
			if err != nil {
				continue // has its own error
			}
			if a.Is4() {
				four++
			} else {
				six++
			}
			near := a.IsLinkLocalUnicast() || n.DHCP
			for _, p := range n.Addresses {
				if p, err := netip.ParsePrefix(p); err == nil && p.Masked().Contains(a) {
					near = true
				}
			}
			if !near {
				wrong("gateways", fmt.Sprintf(".gateways: %s is in none of the networks of %q", g, n.Name), "")
			}
		}
	}
	if four > 1 || six > 1 {
		r.wrong(r.line("network"), "network.interface.gateways: more than one of a family", "the box has one way out")
	}
}

// isAny reports whether a listener there is on every address.
func isAny(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}
