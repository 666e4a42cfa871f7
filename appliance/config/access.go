package config

import (
	"fmt"
	"net"
	"strings"
)

// Access is a table of [[access]].
type Access struct {
	Name           string    `toml:"name" need:"yes" form:"name" doc:"Name in the log. A socket of this name that systemd hands over is taken in place of the address."`
	Address        string    `toml:"address" need:"yes" form:"listen" doc:"IP address and port, as in [[listener]]: 143 and 993 are those of IMAP, 110 and 995 those of POP3."`
	Protocol       string    `toml:"protocol" need:"yes" enum:"imap|pop3" doc:"What is spoken up to TLS."`
	TLS            ClientTLS `toml:"tls" doc:"TLS towards the mail programs. There is no way to log in without."`
	Server         string    `toml:"server" need:"yes" form:"dial" doc:"Host and port of the company's server, which is given the bytes."`
	ServerTLS      string    `toml:"server-tls" enum:"off|starttls|implicit" doc:"TLS towards it. off: none, on this machine only. starttls: by STARTTLS or STLS. implicit: from the first byte. Its certificate must be trusted and name it. Default: implicit; off where the host is localhost or a loopback address."`
	ServerName     string    `toml:"server-name" form:"domain" doc:"Name that its certificate must have. Default: the host of server."`
	ServerCAFile   string    `toml:"server-ca-file" form:"path" doc:"Certificates in PEM that are trusted for it. Default: those of the system."`
	Proxy          string    `toml:"proxy" default:"off" enum:"off|v2" doc:"v2: the server is told by the PROXY protocol, version 2, who the client is, and that he has TLS; it must know that (haproxy = yes in Dovecot's inet_listener). off: it sees the gateway."`
	Allow          []Network `toml:"allow" doc:"Networks that may connect. Default: everybody."`
	MaxConnections int       `toml:"max-connections" default:"1000" min:"1" max:"100000" doc:"Connections at once. A mail program keeps some of them open."`
	PerClient      int       `toml:"per-client" default:"50" min:"1" max:"100000" doc:"Connections at once from one IPv4 address or the first 64 bits of an IPv6 address."`
	Idle           Duration  `toml:"idle" default:"35m" min:"1m" max:"24h" doc:"After that time without a byte a connection ends; RFC 9051 §5.4 wants 30 minutes at least."`
}

// ClientTLS is what a listener shows to mail programs and browsers.
type ClientTLS struct {
	Mode      string   `toml:"mode" default:"starttls" enum:"starttls|implicit" doc:"starttls: as on ports 143 and 110. implicit: from the first byte, as on 993 and 995 (RFC 8314 §3)."`
	Identity  string   `toml:"identity" need:"yes" form:"domain" doc:"Name of the server in its certificates, whose keys are in the token, as in [[listener]]."`
	Min       string   `toml:"min" default:"1.2" form:"tls-version" doc:"Lowest TLS version, 1.2 or 1.3."`
	CertFiles []string `toml:"cert-files" form:"path" doc:"Files with a chain of certificates in PEM, as in [[listener]]."`
}

// Web is a table of [[web]].
type Web struct {
	Name           string    `toml:"name" need:"yes" form:"name" doc:"Name in the log. A socket of this name that systemd hands over is taken in place of the address."`
	Address        string    `toml:"address" need:"yes" form:"listen" doc:"IP address and port, 443 for strangers to find it."`
	Identities     []string  `toml:"identities" form:"domain" doc:"Names of the server in its certificates, whose keys are in the token: one for each host, such as autoconfig.company1.example. The first one is shown to who names none."`
	Min            string    `toml:"min" default:"1.2" form:"tls-version" doc:"Lowest TLS version, 1.2 or 1.3."`
	Allow          []Network `toml:"allow" doc:"Networks that may connect. Default: everybody."`
	MaxConnections int       `toml:"max-connections" default:"200" min:"1" max:"100000" doc:"Connections at once."`
	PerClient      int       `toml:"per-client" default:"20" min:"1" max:"100000" doc:"Connections at once from one network, as in [[access]]."`
}

// Autoconfig is the table [autoconfig].
type Autoconfig struct {
	Display string `toml:"display" form:"text" doc:"Name of the account for people. Default: the domain."`
	User    string `toml:"user" default:"address" enum:"address|local" doc:"What people log in with. address: their address. local: what stands before the @."`
}

// checkAccess fills in what depends on other fields, and finds what does not fit
// together, in [[access]] and [[web]].
func (c *Filterd) checkAccess(r *reading) {
	names, places := map[string]bool{}, map[string]string{}
	for _, l := range c.Listeners {
		names[l.Name], places[l.Address] = true, l.Name
	}
	door := func(table string, i int, name, address string) {
		if names[name] {
			r.wrong(r.line(table, i, "name"), fmt.Sprintf("%s.name = %q: another listener has it", table, name), "")
		}
		if other, taken := places[address]; taken && !strings.HasSuffix(address, ":0") {
			r.wrong(r.line(table, i, "address"), fmt.Sprintf("%s.address = %q: listener %q has it", table, address, other), "")
		}
		names[name], places[address] = true, name
	}
	for i := range c.Access {
		a := &c.Access[i]
		door("access", i, a.Name, a.Address)
		host, _, _ := net.SplitHostPort(a.Server) // has its form already
		if a.ServerTLS == "" {
			a.ServerTLS = "implicit"
			if isLoopback(host) {
				a.ServerTLS = "off"
			}
		}
		if a.ServerTLS == "off" && !isLoopback(host) {
			r.wrong(r.line("access", i, "server-tls"), "access.server-tls: off, and the server is not on this machine", "passwords and mail go by TLS")
		}
		for _, f := range []struct{ name, value string }{{"server-name", a.ServerName}, {"server-ca-file", a.ServerCAFile}} {
			if f.value != "" && a.ServerTLS == "off" {
				r.wrong(r.line("access", i, f.name), fmt.Sprintf("access.%s: has no effect with server-tls = %q", f.name, a.ServerTLS), `set server-tls = "implicit"`)
			}
		}
		if a.ServerName == "" {
			a.ServerName = host
		}
		if meets(a.Address, a.Server) {
			r.wrong(r.line("access", i, "server"), fmt.Sprintf("access.server = %q: is the listener itself", a.Server), "it would connect to itself for ever")
		}
	}
	for i := range c.Web {
		w := &c.Web[i]
		door("web", i, w.Name, w.Address)
		if len(w.Identities) == 0 {
			r.wrong(r.line("web", i), fmt.Sprintf("web %q: no identities", w.Name), `add identities = ["autoconfig.company1.example"]`)
		}
	}
}
