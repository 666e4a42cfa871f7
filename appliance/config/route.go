package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Resolver is the table [resolver].
type Resolver struct {
	Address string `toml:"address" default:"127.0.0.1:53" form:"server" doc:"IP address and port of a validating resolver such as unbound."`
	Trust   string `toml:"trust" default:"loopback" enum:"loopback|always|never" doc:"Whether it is believed when it says that an answer was validated (DNSSEC), without which there is no DANE. loopback: where it is on this machine. always: also elsewhere, on a way that nobody else can write to. never: not at all."`
}

// Believed reports whether an answer is taken for validated when the resolver says so.
func (r Resolver) Believed() bool {
	a, err := netip.ParseAddrPort(r.Address)
	return r.Trust == "always" || r.Trust == "loopback" && err == nil && a.Addr().Unmap().IsLoopback()
}

// MTASTS is the table [mta-sts].
type MTASTS struct {
	Ask     string   `toml:"ask" default:"on" enum:"on|off" doc:"Whether partners' domains are asked for their MTA-STS policy. One that is enforced raises next-hop, may, encrypt and, where there are no TLSA records, dane to verify, with the servers that it names; what one in the mode testing would refuse is logged."`
	Store   string   `toml:"store" form:"path" doc:"File where policies are kept for their time; the daemon writes it. Default: mta-sts/mta-sts.db in state."`
	Budget  Duration `toml:"budget" default:"5s" min:"10ms" max:"1m" doc:"How long one mail waits for a policy at most. What comes later is there for the next mail."`
	Private bool     `toml:"private" doc:"Whether policies are also fetched from inside the site's own networks. Otherwise addresses that the Internet does not route are never asked."`
	CAFile  string   `toml:"ca-file" form:"path" doc:"Certificates in PEM that the hosts of policies are trusted by. Default: those of the system."`
}

// checkRoute fills in what depends on other fields.
func (c *Filterd) checkRoute() {
	if c.MTASTS.Store == "" {
		c.MTASTS.Store = c.State + "/mta-sts/mta-sts.db"
	}
}

// checkOwnPolicy finds what does not fit together in the MTA-STS policy of a
// domain of ours.
func (c *Filterd) checkOwnPolicy(r *reading, domain string, d Domain) {
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("domain", domain, field), fmt.Sprintf("domain.%s.%s: %s", quote(domain), field, problem), hint)
	}
	asks := d.MTASTS == "testing" || d.MTASTS == "enforce"
	switch {
	case asks && len(d.MTASTSMX) == 0:
		wrong("mta-sts", "names no servers", `add mta-sts-mx = ["mx.company1.example"]`)
	case !asks && len(d.MTASTSMX) > 0:
		wrong("mta-sts-mx", "has no effect without a policy that asks for something", `set mta-sts = "testing"`)
	}
	if d.MTASTS != "off" && len(c.Web) == 0 {
		wrong("mta-sts", "no [[web]] serves the policy", "add [[web]] with the identity mta-sts."+domain)
	}
}

// checkDirect finds what does not fit together in a next hop that is the
// partners' own servers.
func (c *Filterd) checkDirect(r *reading, h *Hop, path ...any) {
	wrong := func(field, problem, hint string) {
		r.wrong(r.line(append(slices.Clip(path), field)...), name(path)+"."+field+": "+problem, hint)
	}
	switch {
	case path[0] == "archive":
		wrong("route", "direct is for outbound mail", "leave next-hop out for the servers of the archive's domain")
	case path[1] != "outbound":
		wrong("route", "direct is for outbound mail", "the servers of our own domains are this machine: name the mail server of the company")
	}
	effect := `has no effect with route = "direct"`
	for _, f := range []struct {
		name string
		set  bool
	}{{"address", h.Address != ""}, {"tls", h.TLS != ""}, {"name", h.Name != ""}, {"protocol", h.Protocol == "lmtp"}} {
		if f.set {
			wrong(f.name, effect, "what is asked of the way stands in [partner] and [default]")
		}
	}
}

// isServer reports whether s is an IP address with a port.
func isServer(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && isIP(host) && isPort(port, 1)
}
