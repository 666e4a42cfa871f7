package config

import (
	"fmt"
	"slices"
	"strings"
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
	Kind  string `toml:"kind" need:"yes" enum:"wkd|openpgpkey|smimea|vks|hkps|ldap|autocrypt" doc:"wkd: the Web Key Directory of the recipient's domain. openpgpkey and smimea: the DNS of his domain (RFC 7929, RFC 8162), through [resolver]. vks: a key server that verifies addresses. hkps: any other key server. ldap: a directory with userCertificate, userSMIMECertificate or pgpKey. autocrypt: what inbound mail has brought in its header, which confirms what other sources say, and neither counts alone nor contradicts."`
	URL   string `toml:"url" form:"directory" doc:"The server: of vks and hkps as https://keys.openpgp.org, of ldap as url in [accounts.ldap]."`
	Trust string `toml:"trust" enum:"alone|dnssec|agree|never" doc:"When a certificate is used that the source gives. alone: on its word. dnssec: where the answer of the DNS was validated. agree: where another source gives the same one, and not both of them are hkps or autocrypt, where anybody can put one. never: it is kept for an operator to see. Default: dnssec for openpgpkey and smimea, alone for ldap, agree for all others."`
	// Base and what follows are for ldap only.
	Base         string `toml:"base" form:"text" doc:"Where an ldap directory is searched, such as dc=company1,dc=example."`
	Filter       string `toml:"filter" form:"text" doc:"What is searched for in it, with {address}, {local} or {domain} of the recipient. Default: (mail={address})."`
	BindDN       string `toml:"bind-dn" form:"text" doc:"Who searches in it. Default: nobody."`
	PasswordFile string `toml:"bind-password-file" form:"path" doc:"File with the password of bind-dn in its one line."`
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
		ldap := s.Kind == "ldap"
		server := s.Kind == "vks" || s.Kind == "hkps" || ldap
		switch {
		case server && s.URL == "":
			wrong("url", "is missing", "every server has one")
		case !server && s.URL != "":
			wrong("url", fmt.Sprintf("has no effect with kind = %q", s.Kind), "")
		case server && ldap != strings.HasPrefix(s.URL, "ldap"):
			wrong("url", fmt.Sprintf("%s with kind = %q", quote(s.URL), s.Kind), "https:// for vks and hkps, ldaps://, ldap:// or ldapi:// for ldap")
		}
		for _, f := range []struct{ name, value string }{{"base", s.Base}, {"filter", s.Filter}, {"bind-dn", s.BindDN}, {"bind-password-file", s.PasswordFile}} {
			if f.value != "" && !ldap {
				wrong(f.name, fmt.Sprintf("has no effect with kind = %q", s.Kind), "")
			}
		}
		if ldap {
			if s.Filter == "" {
				s.Filter = "(mail={address})"
			}
			switch {
			case s.Base == "":
				wrong("base", "is missing", `add base = "dc=company1,dc=example"`)
			case (s.BindDN == "") != (s.PasswordFile == ""):
				wrong("bind-dn", "want both of bind-dn and bind-password-file, or none", "")
			case !strings.Contains(s.Filter, "{address}") && !strings.Contains(s.Filter, "{local}"):
				wrong("filter", "has neither {address} nor {local}", "everybody would have the same certificate")
			}
		}
		if s.Trust == "dnssec" && !slices.Contains(dns, s.Kind) {
			wrong("trust", fmt.Sprintf("dnssec with kind = %q", s.Kind), "only openpgpkey and smimea are answers of the DNS")
		}
		if s.Kind == "autocrypt" && s.Trust == "alone" {
			wrong("trust", "alone with kind = \"autocrypt\"", "anybody can write a mail with any certificate in it")
		}
		if s.Kind == "autocrypt" && c.Default.Learn == "off" {
			wrong("kind", "autocrypt, and nothing is learned", "set learn = \"seen\" in [default]")
		}
		if s.Trust == "" {
			s.Trust = "agree"
			switch {
			case slices.Contains(dns, s.Kind):
				s.Trust = "dnssec"
			case ldap:
				s.Trust = "alone"
			}
		}
		if id := [2]string{s.Kind, s.URL}; seen[id] {
			wrong("kind", "the same source stands here twice", "two of them would always agree")
		} else {
			seen[id] = true
		}
	}
}
