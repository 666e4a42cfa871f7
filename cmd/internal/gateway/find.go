package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"postern/appliance/config"
	"postern/filter/directory"
	"postern/filter/ldaphost"
	"postern/filter/openpgp"
	"postern/filter/smime"
	"postern/filter/web"
)

// Hears reports whether what the header of mail says of certificates counts for
// anything.
func Hears(c *config.Filterd) bool {
	return slices.ContainsFunc(c.Find.Sources, func(s config.FindSource) bool { return s.Kind == "autocrypt" })
}

// Finder reads which directories are asked; nil where none is. Its list is the
// whole of them. ring may be nil where Hears is false.
func Finder(c *config.Filterd, ring *Ring) (*directory.Finder, error) {
	if len(c.Find.Sources) == 0 {
		return nil, nil
	}
	all := directory.Config{Budget: time.Duration(c.Find.Wait), Keep: time.Duration(c.Find.Keep), Again: time.Duration(c.Find.Again), Retry: time.Duration(c.Find.Retry)}
	names := Names(c)
	var roots *x509.CertPool
	if c.Find.CAFile != "" {
		var err error
		if roots, err = pool("find.ca-file", c.Find.CAFile); err != nil {
			return nil, err
		}
	}
	http := web.Client(names, roots, c.Find.Private, nil)
	for _, s := range c.Find.Sources {
		var d directory.Directory
		switch s.Kind {
		case "wkd":
			d = &directory.WKD{Names: names, HTTP: http, Read: openpgp.Read}
		case "openpgpkey":
			d = &directory.OpenPGPKey{Names: names, Read: openpgp.Read}
		case "smimea":
			d = &directory.SMIMEA{Names: names, Read: smime.Read}
		case "vks":
			d = &directory.VKS{URL: s.URL, HTTP: http, Read: openpgp.Read}
		case "hkps":
			d = &directory.HKPS{URL: s.URL, HTTP: http, Read: openpgp.Read}
		case "autocrypt":
			d = &directory.Autocrypt{Seen: ring.seen}
		case "ldap":
			l := directory.LDAP{Host: ldaphost.Host{TLS: &tls.Config{RootCAs: roots}}, Base: s.Base, Filter: s.Filter, BindDN: s.BindDN, X509: smime.Read, OpenPGP: openpgp.Read}
			var err error
			if s.PasswordFile != "" {
				if l.BindPassword, err = secret(s.PasswordFile); err != nil {
					return nil, fmt.Errorf("find: bind-password-file: %w", err)
				}
			}
			if d, err = directory.NewLDAP(s.URL, l); err != nil {
				return nil, fmt.Errorf("find: %w", err)
			}
		default:
			return nil, fmt.Errorf("find: unknown kind %q", s.Kind)
		}
		all.Sources = append(all.Sources, directory.Source{Directory: d, Trust: directory.Trust(s.Trust)})
	}
	return directory.New(all), nil
}
