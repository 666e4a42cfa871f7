package config

import (
	"fmt"
	"slices"
)

// Find is the table [find].
type Find struct {
	Wait    Duration     `toml:"wait" default:"5s" min:"10ms" max:"1m" doc:"How long one mail waits for all sources at most. What comes later is there for the next; where encryption is required and a source has not answered, the mail waits with 451."`
	Keep    Duration     `toml:"keep" default:"12h" min:"1m" max:"30d" doc:"How long an answer counts."`
	Again   Duration     `toml:"again" default:"1h" min:"1m" max:"30d" doc:"After how long a source is asked again that had nothing for an address."`
	Retry   Duration     `toml:"retry" default:"1m" min:"1s" max:"1d" doc:"After how long a source is asked again that was away."`
	Private bool         `toml:"private" doc:"Whether hosts inside the site's own networks are asked too. Otherwise addresses that the Internet does not route are never asked."`
	CAFile  string       `toml:"ca-file" form:"path" doc:"Certificates in PEM that hosts are trusted by. Default: those of the system."`
	Sources []FindSource `toml:"source" doc:"Directories that are asked for certificates of recipients outside of whom no operator trusts one, one table for each. None: nobody is asked. Where two sources give different certificates of one format, none of them is used, whatever their trust."`
}

// FindSource is a table of [[find.source]].
type FindSource struct {
	Kind  string `toml:"kind" need:"yes" enum:"wkd|openpgpkey|smimea|vks|hkps" doc:"wkd: the Web Key Directory of the recipient's domain. openpgpkey and smimea: the DNS of his domain (RFC 7929, RFC 8162), through [resolver]. vks: a key server that verifies addresses. hkps: any other key server."`
	URL   string `toml:"url" form:"https" doc:"The server, of vks and hkps, such as https://keys.openpgp.org."`
	Trust string `toml:"trust" enum:"alone|dnssec|agree|never" doc:"When a certificate is used that the source gives. alone: on its word. dnssec: where the answer of the DNS was validated. agree: where another source gives the same one. never: it is kept for an operator to see. Default: dnssec for openpgpkey and smimea, agree for all others."`
}

// checkFind fills in what depends on other fields, and finds what does not fit
// together.
func (c *Filterd) checkFind(r *reading) {
	dns := []string{"openpgpkey", "smimea"}
	seen := map[[2]string]bool{}
	for i := range c.Find.Sources {
		s := &c.Find.Sources[i]
		wrong := func(field, problem, hint string) {
			at := []any{"find", "source", i, field}
			r.wrong(r.line(at...), fmt.Sprintf("find.source.%s: %s", field, problem), hint)
		}
		server := s.Kind == "vks" || s.Kind == "hkps"
		switch {
		case server && s.URL == "":
			wrong("url", "is missing", "every key server has one")
		case !server && s.URL != "":
			wrong("url", fmt.Sprintf("has no effect with kind = %q", s.Kind), "")
		}
		if s.Trust == "dnssec" && !slices.Contains(dns, s.Kind) {
			wrong("trust", fmt.Sprintf("dnssec with kind = %q", s.Kind), "only openpgpkey and smimea are answers of the DNS")
		}
		if s.Trust == "" {
			s.Trust = "agree"
			if slices.Contains(dns, s.Kind) {
				s.Trust = "dnssec"
			}
		}
		if id := [2]string{s.Kind, s.URL}; seen[id] {
			wrong("kind", "the same source stands here twice", "two of them would always agree")
		} else {
			seen[id] = true
		}
	}
}
