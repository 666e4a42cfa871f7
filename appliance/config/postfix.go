package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Postfix is the table [postfix].
type Postfix struct {
	Config       string   `toml:"config" default:"/etc/postfix" form:"path" doc:"Folder of main.cf and master.cf. Files there that somebody else wrote are left alone. In another folder than /etc/postfix, mail of this machine's own programs does not find it."`
	Queue        string   `toml:"queue" default:"/var/spool/postfix" form:"path" doc:"Folder of the queue."`
	Data         string   `toml:"data" default:"/var/lib/postfix" form:"path" doc:"Folder of what Postfix remembers for itself; it belongs to its user."`
	Submission   string   `toml:"submission" default:"127.0.0.1:10026" form:"listen" doc:"Where filterd hands mail over, a loopback address and port. It is the next hop of outbound mail."`
	Strict       string   `toml:"strict" default:"127.0.0.1:10027" form:"listen" doc:"The same for mail that asks for more than its recipients' domains do: it leaves with TLS to a server that proves its name, or waits."`
	Socket       string   `toml:"socket" default:"/run/postern/tls-policy.sock" form:"socket" doc:"Socket where filterd tells Postfix how safe the way to each domain must be. A socket of the name tls-policy that systemd hands over is taken in place of it."`
	Group        string   `toml:"group" default:"postfix" form:"name" doc:"Who may ask there, where filterd makes the socket itself."`
	Helo         string   `toml:"helo" form:"domain" doc:"Name that partners hear. Default: authserv-id."`
	Bind         []string `toml:"bind" form:"ip" doc:"Addresses that connections to partners come from, one IPv4 and one IPv6 at most. Default: what the system takes."`
	Root         string   `toml:"root" form:"address" doc:"Who reads the mail of this machine itself. Default: postmaster at the first of our domains."`
	CAFile       string   `toml:"ca-file" default:"/etc/ssl/certs/ca-certificates.crt" form:"path" doc:"Certificates in PEM that the level verify trusts."`
	DelayWarning Duration `toml:"delay-warning" default:"4h" min:"1s" max:"120h" doc:"After that time the sender hears that his mail waits."`
	Lifetime     Duration `toml:"lifetime" default:"120h" min:"1s" max:"720h" doc:"After that time mail that waits comes back to its sender (RFC 5321 §4.5.4.1 wants four to five days)."`
	Retry        Duration `toml:"retry" default:"5m" min:"1s" max:"24h" doc:"Time between the first two tries. It doubles up to retry-max."`
	RetryMax     Duration `toml:"retry-max" default:"1h" min:"1s" max:"24h" doc:"Longest time between two tries."`
	TLSReports   string   `toml:"tls-reports" form:"socket" doc:"Socket of a collector of reports on TLS (RFC 8460). Postfix tells it of each handshake from 3.10 on, with the enforced MTA-STS policy behind it; an older one does without. Default: none."`
	Resolver     string   `toml:"resolver-config" default:"/etc/postern/unbound" form:"path" doc:"Folder of unbound.conf, which is written where [resolver] is on this machine."`
	Log          string   `toml:"log" form:"path" doc:"File of Postfix's log. Default: the system's log."`
}

// checkPostfix fills in what depends on other fields, and finds what does not
// fit together. Where there is a Postfix, it is the next hop of outbound mail.
func (c *Filterd) checkPostfix(r *reading) {
	p := c.Postfix
	if p == nil {
		return
	}
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("postfix", field), "postfix."+field+": "+problem, hint)
	}
	for _, f := range []struct{ name, value string }{{"submission", p.Submission}, {"strict", p.Strict}} {
		if a, err := netip.ParseAddrPort(f.value); err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
			wrong(f.name, fmt.Sprintf("%s is no loopback address with a port", quote(f.value)), "anybody could send mail there that nobody looked at")
		}
		for _, l := range c.Listeners {
			if meets(l.Address, f.value) {
				wrong(f.name, fmt.Sprintf("is listener %q itself", l.Name), "")
			}
		}
	}
	if p.Submission == p.Strict {
		wrong("strict", "is submission too", "mail that asks for more has a port of its own")
	}
	four, six := 0, 0
	for _, b := range p.Bind {
		if a, err := netip.ParseAddr(b); err == nil && a.Is4() {
			four++
		} else {
			six++
		}
	}
	if four > 1 || six > 1 {
		wrong("bind", "more than one address of a family", "")
	}
	if p.RetryMax < p.Retry {
		wrong("retry-max", fmt.Sprintf("%v is less than retry", p.RetryMax), "")
	}
	if p.DelayWarning > p.Lifetime {
		wrong("delay-warning", fmt.Sprintf("%v is more than lifetime", p.DelayWarning), "the sender would hear only that the mail is gone")
	}
	if p.Helo == "" {
		p.Helo = c.AuthservID
	}
	if p.Root == "" && len(c.Domains) > 0 {
		p.Root = "postmaster@" + slices.Min(slices.Collect(maps.Keys(c.Domains)))
	}
	if _, ours := c.Domains[strings.ToLower(c.AuthservID)]; !ours && strings.HasSuffix(strings.ToLower(p.Root), "@"+strings.ToLower(c.AuthservID)) {
		wrong("root", quote(p.Root)+" is on this machine itself", "nobody reads mail here: name a mailbox of the company")
	}
	switch h := c.NextHop.Outbound; {
	case h == nil:
		c.NextHop.Outbound = &Hop{Route: "relay", Address: p.Submission, Protocol: "smtp", TLS: "off"}
	case h.Address != p.Submission:
		r.wrong(r.line("next-hop", "outbound", "address"), fmt.Sprintf("next-hop.outbound.address = %q: is not submission of [postfix]", h.Address), "leave [next-hop.outbound] out: Postfix is it")
	}
}
