package config

import "fmt"

// Authentication is the table [authentication].
type Authentication struct {
	DMARC  string   `toml:"dmarc" default:"off" enum:"off|mark|enforce" doc:"Whether SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489) and ARC (RFC 8617) of inbound mail are checked, before anything of it is changed. mark: what is found stands in Authentication-Results. enforce: mail is also refused with 550 5.7.1 where its author's domain wants that (p=reject), or where it names no single author; what is to be quarantined is marked. What can't be found out now is a temperror, and refuses nothing."`
	Budget Duration `toml:"budget" default:"5s" min:"100ms" max:"1m" doc:"How long one mail waits for the answers of the resolver at most; for those of an ARC chain once more."`
	ARC    string   `toml:"arc" default:"off" enum:"off|opened|all" doc:"Whether an ARC set is added to inbound mail, so that who trusts the gateway can trust its check after the mail was opened. opened: to mail that was opened. all: to every mail. Without a key of seal the mail is deferred."`
	Seal   string   `toml:"seal" form:"ours" doc:"The domain of ours whose RSA key for DKIM makes those sets. Default: the one [domain] that there is."`
}

// checkAuthentication finds what does not fit together, and whose key seals.
func (c *Filterd) checkAuthentication(r *reading) {
	a := &c.Authentication
	if a.ARC == "off" {
		if a.Seal != "" {
			r.wrong(r.line("authentication", "seal"), `authentication.seal: has no effect with arc = "off"`, `set arc = "opened"`)
		}
		return
	}
	if a.DMARC == "off" {
		r.wrong(r.line("authentication", "arc"), fmt.Sprintf(`authentication.arc = %q: wants what dmarc = "off" does not find out`, a.ARC), `set dmarc = "mark"`)
	}
	if a.Seal == "" && len(c.Domains) == 1 {
		for d := range c.Domains {
			a.Seal = d
		}
	}
	if _, ours := c.Domains[a.Seal]; !ours {
		r.wrong(r.line("authentication", "arc"), fmt.Sprintf("authentication.seal = %s: is none of our own domains", quote(a.Seal)), "name one of [domain]")
	}
}
