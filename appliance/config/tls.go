package config

import (
	"fmt"
	"slices"
)

// ListenerTLS is the table tls of a listener.
type ListenerTLS struct {
	Mode       string   `toml:"mode" default:"off" enum:"off|offer|force|implicit" doc:"off: mail arrives in clear. offer: TLS for who asks with STARTTLS (RFC 3207). force: no mail without it. implicit: TLS from the first byte (RFC 8314 §3.3), as on port 465."`
	Identity   string   `toml:"identity" form:"domain" doc:"Name of the server in its certificates, whose keys are in the token: postern identity create --use tls makes them, for RSA and P-256 side by side."`
	Min        string   `toml:"min" default:"1.2" form:"tls-version" doc:"Lowest TLS version, 1.2 or 1.3."`
	CertFiles  []string `toml:"cert-files" form:"path" doc:"Files with a chain of certificates in PEM, the server's own first; a file for each key. They are read again when they change. Default: where postern identity add puts them, IDENTITY-ecdsa.pem and IDENTITY-rsa.pem in the folder tls in state."`
	Client     string   `toml:"client" enum:"none|ask|require" doc:"Whether clients show certificates. none: they are not asked. ask: one that is not known counts as none. require: no session without one that is known. Default: ask where a partner has inbound = \"pin\", else none."`
	ClientCA   string   `toml:"client-ca" form:"path" doc:"Certificates in PEM of authorities whose clients are known."`
	ClientPins []string `toml:"client-pins" form:"pin" doc:"SHA-256 of the public keys (SubjectPublicKeyInfo) of clients that are known, as sha256: and 64 hexadecimal digits."`
}

// checkTLS fills in what depends on others in the TLS of listener i, and finds
// what does not fit together.
func (c *Filterd) checkTLS(r *reading, i int) {
	t := &c.Listeners[i].TLS
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("listener", i, "tls", field), "listener.tls."+field+": "+problem, hint)
	}
	if t.Client == "" {
		t.Client = "none"
		if t.Mode != "off" && c.Listeners[i].Direction == "inbound" && c.pinned() {
			t.Client = "ask"
		}
	}
	if t.Mode != "off" && t.Identity == "" {
		wrong("mode", fmt.Sprintf("%s without identity", t.Mode), `add identity = "mx.company1.example"`)
	}
	off := []struct {
		field string
		set   bool
	}{{"identity", t.Identity != ""}, {"cert-files", len(t.CertFiles) > 0}, {"client", t.Client != "none"}}
	for _, f := range off {
		if t.Mode == "off" && f.set {
			wrong(f.field, `has no effect with mode = "off"`, `set mode = "offer"`)
		}
	}
	known := []struct {
		field string
		set   bool
	}{{"client-ca", t.ClientCA != ""}, {"client-pins", len(t.ClientPins) > 0}}
	for _, f := range known {
		if t.Client == "none" && f.set {
			wrong(f.field, `has no effect with client = "none"`, `set client = "ask"`)
		}
	}
	if t.Client == "require" && t.ClientCA == "" && len(t.ClientPins) == 0 {
		wrong("client", "require without client-ca and client-pins", "nobody could connect")
	}
}

// pinned tells whether a partner's clients have to show a certificate.
func (c *Filterd) pinned() bool {
	for _, p := range c.Partners {
		if p.Inbound == "pin" {
			return true
		}
	}
	return false
}

// checkInbound finds what does not fit together in what is asked of mail from
// partner d.
func (c *Filterd) checkInbound(r *reading, d string, p Partner) {
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("partner", d, field), fmt.Sprintf("partner.%s.%s: %s", quote(d), field, problem), hint)
	}
	switch {
	case p.Inbound == "pin" && len(p.InboundPins) == 0:
		wrong("inbound", "pin without inbound-pins", `add inbound-pins = ["sha256:…"]`)
	case p.Inbound != "pin" && len(p.InboundPins) > 0:
		wrong("inbound-pins", fmt.Sprintf("has no effect with inbound = %q", p.Inbound), `set inbound = "pin"`)
	}
	if p.Inbound == "any" {
		return
	}
	can := func(ask bool) bool {
		return slices.ContainsFunc(c.Listeners, func(l Listener) bool {
			return l.Direction == "inbound" && l.TLS.Mode != "off" && (!ask || l.TLS.Client != "none")
		})
	}
	switch {
	case !can(false):
		wrong("inbound", fmt.Sprintf("%s, and no inbound listener offers TLS", p.Inbound), `set mode = "offer" in the tls of one`)
	case p.Inbound == "pin" && !can(true):
		wrong("inbound", "pin, and no inbound listener asks clients for certificates", `set client = "ask" in the tls of one`)
	}
}
