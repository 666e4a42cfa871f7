package config

import (
	"fmt"
	"net"
	"strings"
)

// Accounts is the table [accounts].
type Accounts struct {
	Source string        `toml:"source" default:"none" enum:"none|file|ldap|smtp" doc:"Where accounts are kept. none: nowhere, and nobody can log in. file: in a file of hashes, which postern account writes. ldap: in a directory. smtp: with the company's mail server, which is asked by logging in there."`
	File   string        `toml:"file" form:"path" doc:"File of accounts. Only this source can serve SCRAM-SHA-256, of which the password never reaches the gateway. Default: accounts in state."`
	LDAP   *LDAPAccounts `toml:"ldap" doc:"The directory. An account is the entry that user-dn names, or the only one that a search finds; its password is right where the directory lets it bind."`
	SMTP   *SMTPAccounts `toml:"smtp" doc:"The mail server that knows the passwords. Nothing of them is kept here."`
}

// LDAPAccounts is the table [accounts.ldap].
type LDAPAccounts struct {
	URL          string   `toml:"url" need:"yes" form:"ldap" doc:"ldaps://host, ldap://host (with StartTLS, unless it is on this machine) or ldapi://%2Fpath%2Fof%2Fsocket."`
	Name         string   `toml:"name" form:"domain" doc:"Name that its certificate must have. Default: the host of url."`
	CAFile       string   `toml:"ca-file" form:"path" doc:"Certificates in PEM that are trusted. Default: those of the system."`
	UserDN       string   `toml:"user-dn" form:"text" doc:"Entry of an account, with {user} for its name, such as uid={user},ou=people,dc=company1,dc=example."`
	Base         string   `toml:"base" form:"text" doc:"Where accounts are searched for, in place of user-dn."`
	Filter       string   `toml:"filter" form:"text" doc:"What is searched for, with {user} for the name, such as (&(objectClass=person)(mail={user}))."`
	BindDN       string   `toml:"bind-dn" form:"text" doc:"Who searches. Default: nobody."`
	PasswordFile string   `toml:"bind-password-file" form:"path" doc:"File with the password of bind-dn in its one line."`
	Senders      []string `toml:"senders" form:"attribute" doc:"Attributes whose values are the addresses that an account may write as. Default: mail and mailAlternateAddress."`
}

// SMTPAccounts is the table [accounts.smtp].
type SMTPAccounts struct {
	Address string   `toml:"address" need:"yes" form:"dial" doc:"Host and port, where AUTH PLAIN or LOGIN is offered, such as mail.company1.example:587."`
	TLS     string   `toml:"tls" enum:"off|encrypt|verify" doc:"Words of [next-hop]; off on this machine only. Default: verify; off where the host is localhost or a loopback address."`
	Name    string   `toml:"name" form:"domain" doc:"Name that verify wants in the certificate. Default: the host of address."`
	CAFile  string   `toml:"ca-file" form:"path" doc:"Certificates in PEM that verify trusts. Default: those of the system."`
	Senders []string `toml:"senders" form:"text" doc:"Addresses that an account may write as, with {user} for its name, such as {user}@company1.example. Default: {user}, for accounts whose name is an address."`
}

// checkAccounts fills in what depends on other fields, and finds what does not
// fit together.
func (c *Filterd) checkAccounts(r *reading) {
	a := &c.Accounts
	wrong := func(problem, hint string, path ...any) {
		at := append([]any{"accounts"}, path...)
		r.wrong(r.line(at...), name(at)+": "+problem, hint)
	}
	switch {
	case a.Source == "file" && a.File == "":
		a.File = c.State + "/accounts"
	case a.Source != "file" && a.File != "":
		wrong(fmt.Sprintf("has no effect with source = %q", a.Source), `set source = "file"`, "file")
	}
	for _, t := range []struct {
		source string
		set    bool
	}{{"ldap", a.LDAP != nil}, {"smtp", a.SMTP != nil}} {
		switch {
		case a.Source == t.source && !t.set:
			wrong(fmt.Sprintf("%q without [accounts.%s]", a.Source, t.source), "", "source")
		case a.Source != t.source && t.set:
			wrong(fmt.Sprintf("has no effect with source = %q", a.Source), "set source = "+quote(t.source), t.source)
		}
	}
	if l := a.LDAP; l != nil {
		switch {
		case (l.UserDN == "") == (l.Filter == ""):
			wrong("want one of user-dn and filter", "", "ldap")
		case l.UserDN != "" && (l.Base != "" || l.BindDN != ""):
			wrong("base and bind-dn are for a search, and have no effect with user-dn", "", "ldap")
		case l.Filter != "" && l.Base == "":
			wrong("filter without base", `add base = "dc=company1,dc=example"`, "ldap")
		case (l.BindDN == "") != (l.PasswordFile == ""):
			wrong("want both of bind-dn and bind-password-file, or none", "", "ldap")
		case !strings.Contains(l.UserDN+l.Filter, "{user}"):
			wrong("neither user-dn nor filter has {user}", "every account would be the same entry", "ldap")
		}
		if l.Senders == nil {
			l.Senders = []string{"mail", "mailAlternateAddress"}
		}
	}
	if s := a.SMTP; s != nil {
		host, _, _ := net.SplitHostPort(s.Address) // has its form already
		if s.TLS == "" {
			s.TLS = "verify"
			if isLoopback(host) {
				s.TLS = "off"
			}
		}
		if s.TLS == "off" && !isLoopback(host) {
			wrong("off, and the server is not on this machine", "passwords go by TLS", "smtp", "tls")
		}
		for _, f := range []struct{ name, value string }{{"name", s.Name}, {"ca-file", s.CAFile}} {
			if f.value != "" && s.TLS != "verify" {
				wrong(fmt.Sprintf("has no effect with tls = %q", s.TLS), `set tls = "verify"`, "smtp", f.name)
			}
		}
		if s.Name == "" && s.TLS == "verify" {
			s.Name = host
		}
		for _, t := range s.Senders {
			if form("address", strings.ReplaceAll(t, "{user}", "x")) != "" && t != "{user}" || !strings.Contains(t, "{user}") {
				wrong(fmt.Sprintf("%s: want an address with {user}", quote(t)), "", "smtp", "senders")
			}
		}
		if s.Senders == nil {
			s.Senders = []string{"{user}"}
		}
	}
}

// checkAuth finds what does not fit together in who may use listener i.
func (c *Filterd) checkAuth(r *reading, i int) {
	l := &c.Listeners[i]
	if l.PerClient == 0 {
		l.PerClient = min(50, l.MaxConnections)
		if l.Direction == "outbound" && l.Auth == "none" {
			l.PerClient = l.MaxConnections // one mail server is all the clients there are
		}
	}
	for _, list := range []struct {
		field string
		from  []Network
	}{{"proxy-from", l.ProxyFrom}, {"xclient-from", l.XClientFrom}} {
		for _, n := range list.from {
			if n.Bits() < 8 {
				r.wrong(r.line("listener", i, list.field), fmt.Sprintf("listener.%s: %s would let everybody say who he is", list.field, n), "name the hosts")
			}
		}
	}
	if l.Auth == "none" {
		return
	}
	wrong := func(problem, hint string) {
		r.wrong(r.line("listener", i, "auth"), fmt.Sprintf("listener.auth = %q: %s", l.Auth, problem), hint)
	}
	switch {
	case l.Direction != "outbound":
		wrong("inbound mail is signed for nobody, whoever logs in", `set direction = "outbound"`)
	case l.Protocol != "smtp":
		wrong("has no effect with lmtp", `set protocol = "smtp"`)
	case l.TLS.Mode == "off":
		wrong("without TLS", "passwords go by TLS: set mode = \"force\" in the listener's tls")
	case c.Accounts.Source == "none":
		wrong("there are no accounts", "add [accounts] with a source")
	}
}
