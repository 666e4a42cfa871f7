package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/filter/ldaphost"
	"postern/filter/message"
)

// What one question may cost at an LDAP directory.
const (
	ldapTime    = 10 * time.Second
	maxEntries  = 4
	maxValues   = 2 * maxCerts      // of all entries
	ldapAnswers = maxAnswer + 1<<16 // bytes, with what is around the values
)

// LDAP is a directory that holds certificates of people (RFC 4511): X.509 in
// userCertificate (RFC 4523 §2.1) and userSMIMECertificate (RFC 2798 §2.8),
// OpenPGP in pgpKey.
type LDAP struct {
	Host   ldaphost.Host
	Base   string // of the search
	Filter string // with {address}, {local} or {domain}
	// Who searches; nobody where it is empty.
	BindDN, BindPassword string
	X509, OpenPGP        Read
}

var _ Directory = (*LDAP)(nil)

// NewLDAP gives a source for l.
func NewLDAP(url string, l LDAP) (*LDAP, error) {
	var err error
	dial, trust := l.Host.Dial, l.Host.TLS
	if l.Host, err = ldaphost.Parse(url); err != nil {
		return nil, err
	}
	if l.Host.TLS = trust; dial != nil {
		l.Host.Dial = dial
	}
	l.Host.Time, l.Host.Bytes = ldapTime, ldapAnswers
	if _, err := ldap.CompileFilter(l.filter(message.Address{Local: "x", Domain: "y"})); err != nil {
		return nil, errors.New("read filter of directory: not understood")
	}
	return &l, nil
}

// Name is ldap and the host.
func (d *LDAP) Name() string { return "ldap:" + d.Host.Name() }

func (d *LDAP) filter(a message.Address) string {
	return strings.NewReplacer("{address}", ldap.EscapeFilter(a.String()), "{local}", ldap.EscapeFilter(a.Local), "{domain}", ldap.EscapeFilter(a.Domain)).Replace(d.Filter)
}

// Lookup gives what the entries of a hold. References to other servers are not
// followed.
func (d *LDAP) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, ldapTime)
	defer cancel()
	c, err := d.Host.Connect(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if d.BindDN != "" {
		if err := c.Bind(d.BindDN, d.BindPassword); err != nil {
			return Answer{}, ldaphost.Trouble("bind to search", err)
		}
	}
	kinds := []struct {
		attribute string
		read      Read
	}{{"userCertificate", d.X509}, {"userSMIMECertificate", d.X509}, {"pgpKey", d.OpenPGP}}
	var attributes []string
	for _, k := range kinds {
		attributes = append(attributes, k.attribute, k.attribute+";binary")
	}
	r, err := c.Search(ldap.NewSearchRequest(d.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, maxEntries+1, int(ldapTime/time.Second), false, d.filter(a), attributes, nil))
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject):
		return Answer{}, nil
	case err != nil:
		return Answer{}, ldaphost.Trouble("search", err)
	case len(r.Entries) > maxEntries:
		return Answer{}, fmt.Errorf("search: more than %d entries: %w", maxEntries, ldaphost.ErrTrouble)
	}
	var values int
	var all gathering
	for _, e := range r.Entries {
		for _, attribute := range e.Attributes {
			name, _, _ := strings.Cut(attribute.Name, ";")
			for _, k := range kinds {
				if !strings.EqualFold(name, k.attribute) {
					continue
				}
				for _, value := range attribute.ByteValues {
					if values++; values > maxValues {
						return Answer{}, fmt.Errorf("search: more than %d certificates: %w", maxValues, ldaphost.ErrTrouble)
					}
					all.add(k.read(value))
				}
			}
		}
	}
	return Answer{Certs: all.certs}, all.trouble()
}
