package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/appliance/access"
	"postern/appliance/config"
	"postern/filter/autoconfig"
	"postern/filter/credential"
	"postern/filter/mtasts"
	"postern/filter/transport"
	"postern/hsm"
)

// Settings are what mail programs are told of a domain of ours: the servers of
// [[access]], and the listeners where people log in.
func Settings(c *config.Filterd, domain string) autoconfig.Site {
	s := autoconfig.Site{Domain: domain, Name: c.Autoconfig.Display, Local: c.Autoconfig.User == "local"}
	if s.Name == "" {
		s.Name = domain
	}
	add := func(protocol, host, address string, implicit bool) {
		_, port, _ := net.SplitHostPort(address)
		if n, err := strconv.Atoi(port); err == nil && n > 0 {
			s.Servers = append(s.Servers, autoconfig.Server{Protocol: protocol, Host: host, Port: n, Implicit: implicit})
		}
	}
	for _, a := range c.Access {
		add(a.Protocol, a.TLS.Identity, a.Address, a.TLS.Mode == "implicit")
	}
	for _, l := range c.Listeners {
		if l.Auth != "none" {
			add("smtp", l.TLS.Identity, l.Address, l.TLS.Mode == "implicit")
		}
	}
	return s
}

// shown is a store of what a server of that name shows.
func shown(c *config.Filterd, name string, files []string, token hsm.Token, log *slog.Logger) (*credential.Store, error) {
	paths, some := ChainFiles(c, config.Listener{TLS: config.ListenerTLS{Identity: name, CertFiles: files}})
	s := credential.New(credential.Config{Name: name, Files: paths, Some: some, Token: token, Log: log})
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%w (hint: `postern identity create --use tls --domain %s` makes its keys and what an authority certifies)", err, name)
	}
	return s, nil
}

// Access is the server of one [[access]].
func Access(c *config.Filterd, a config.Access, token hsm.Token, log *slog.Logger) (*access.Server, error) {
	log = log.With("listener", a.Name)
	certs, err := shown(c, a.TLS.Identity, a.TLS.CertFiles, token, log)
	if err != nil {
		return nil, fmt.Errorf("access %s: %w", a.Name, err)
	}
	upstream, protocol, err := Upstream(a)
	if err != nil {
		return nil, err
	}
	s := &access.Server{
		Name: a.TLS.Identity, Protocol: protocol, TLS: transport.Profile(versions[a.TLS.Min]), Implicit: a.TLS.Mode == "implicit", Upstream: upstream,
		Gate: &access.Gate{Max: a.MaxConnections, PerClient: a.PerClient, Allow: Prefixes(a.Allow)}, Idle: time.Duration(a.Idle), Log: log,
	}
	s.TLS.GetCertificate = certs.Get
	return s, nil
}

// Upstream is the company's server behind an [[access]], and what it speaks.
func Upstream(a config.Access) (u access.Upstream, p access.Protocol, err error) {
	u = access.Upstream{Address: a.Server, Implicit: a.ServerTLS == "implicit", Proxy: a.Proxy == "v2"}
	p = access.IMAP
	if a.Protocol == "pop3" {
		p = access.POP3
	}
	if a.ServerTLS == "off" {
		return u, p, nil
	}
	u.TLS = transport.Profile(0)
	u.TLS.ServerName = a.ServerName
	if a.ServerCAFile != "" {
		if u.TLS.RootCAs, err = pool("server-ca-file", a.ServerCAFile); err != nil {
			return u, p, fmt.Errorf("access %s: %w", a.Name, err)
		}
	}
	return u, p, nil
}

// WebTLS is what a [[web]] shows: to each client the certificate of the host
// that he asks for.
func WebTLS(c *config.Filterd, w config.Web, token hsm.Token, log *slog.Logger) (*tls.Config, error) {
	stores := map[string]*credential.Store{}
	for _, name := range w.Identities {
		s, err := shown(c, name, nil, token, log)
		if err != nil {
			return nil, fmt.Errorf("web %s: %w", w.Name, err)
		}
		stores[strings.ToLower(name)] = s
	}
	t := transport.Profile(versions[w.Min])
	t.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		s := stores[strings.ToLower(hello.ServerName)]
		if s == nil {
			s = stores[strings.ToLower(w.Identities[0])]
		}
		return s.Get(hello)
	}
	return t, nil
}

// Door is a socket to take connections from: all that systemd handed over under
// the name, or the address.
func Door(name, address string, handed map[string][]net.Listener) ([]net.Listener, error) {
	if l := handed[name]; len(l) > 0 {
		return l, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for %q: %w (hint: another program has the port, or it wants CAP_NET_BIND_SERVICE)", name, err)
	}
	return []net.Listener{l}, nil
}

// Ours are our own domains, in order.
func Ours(c *config.Filterd) (list []string) {
	for d := range c.Domains {
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}

// OwnPolicy is the MTA-STS policy that a domain of ours has; not ok where it has
// none.
func OwnPolicy(c *config.Filterd, domain string) (p mtasts.Policy, ok bool, err error) {
	d := c.Domains[domain]
	if d.MTASTS == "off" {
		return mtasts.Policy{}, false, nil
	}
	p = mtasts.Policy{Mode: mtasts.Mode(d.MTASTS), MaxAge: time.Duration(d.MTASTSMaxAge)}
	if p.MX, err = hosts(d.MTASTSMX); err != nil {
		return mtasts.Policy{}, false, fmt.Errorf("MTA-STS policy of %s: %w", domain, err)
	}
	return p, true, nil
}
