package config

import "fmt"

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
