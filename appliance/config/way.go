package config

import "fmt"

// checkPromises finds what is asked of a way that nobody here can answer for: the
// next hop is a relay of somebody else, which brings mail on as it likes.
func (c *Filterd) checkPromises(r *reading) {
	h := c.NextHop.Outbound
	if h == nil || h.Route == "direct" || c.Postfix != nil {
		return
	}
	asked := func(value, idle string, path ...any) {
		if value != "" && value != idle {
			r.wrong(r.line(path...), fmt.Sprintf("%s = %q: [next-hop.outbound] cannot promise that", name(path), value), `add [postfix], or set route = "direct" in [next-hop.outbound]`)
		}
	}
	noKey := func(value string, path ...any) {
		if value == "transport" {
			asked(value, "", path...)
		}
	}
	asked(c.Default.Transport, "next-hop", "default", "transport")
	noKey(c.Default.NoKey, "default", "no-key")
	for d, p := range c.Partners {
		asked(p.Transport, "next-hop", "partner", d, "transport")
		noKey(p.NoKey, "partner", d, "no-key")
	}
	for a, v := range c.Recipients {
		noKey(v.NoKey, "recipient", a, "no-key")
	}
}

// checkWay fills in what [default] says of the way to partner d, and finds what
// does not fit together.
func (c *Filterd) checkWay(r *reading, d string, p *Partner) {
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("partner", d, field), fmt.Sprintf("partner.%s.%s: %s", quote(d), field, problem), hint)
	}
	if p.Transport == "" {
		p.Transport = c.Default.Transport
	}
	effect := fmt.Sprintf("has no effect with transport = %q", p.Transport)
	switch {
	case p.Transport == "pin" && len(p.Pins) == 0:
		wrong("transport", "pin without pins", `add pins = ["sha256:…"]`)
	case p.Transport != "pin" && len(p.Pins) > 0:
		wrong("pins", effect, `set transport = "pin"`)
	}
	if len(p.Names) > 0 && p.Transport != "verify" {
		wrong("names", effect, `set transport = "verify"`)
	}
	if p.Transport == "next-hop" || p.Transport == "may" {
		if p.Min != "" && p.Inbound == "any" {
			wrong("min", effect, "clear text would be worse than an old version: set transport to encrypt or more, or inbound to force")
		}
		if p.PFS {
			wrong("pfs", effect, "clear text would be worse than no forward secrecy: set transport to encrypt or more")
		}
		return
	}
	if p.Min == "" {
		p.Min = c.Default.Min
	}
	p.PFS = p.PFS || c.Default.PFS
}
