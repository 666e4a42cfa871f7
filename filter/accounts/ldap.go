package accounts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/filter/ldaphost"
	"postern/filter/message"
	"postern/filter/transport"
)

// What one login may cost at the directory.
const (
	ldapTime  = 10 * time.Second
	ldapBytes = 1 << 20 // that it may answer, in all
	maxBinds  = 64      // at once
)

// LDAP is a Source: a directory that knows passwords (RFC 4511). An account is
// the entry that UserDN names, or the only one that a search finds; the password
// is right where the directory lets it bind.
type LDAP struct {
	URL    string      // ldaps://host[:port]; ldap://, over StartTLS unless it is on this machine; ldapi://path
	TLS    *tls.Config // whom to trust; ServerName is the host of URL where it is empty
	UserDN string      // with {user}; or
	Base   string      // of the search, and
	Filter string      // with {user}
	// Who searches; nobody where it is empty.
	BindDN, BindPassword string
	Senders              []string // attributes whose values the account may write as

	host  ldaphost.Host
	turns chan struct{}
}

// NewLDAP gives a Source for l.
func NewLDAP(l LDAP) (*LDAP, error) {
	var err error
	if l.host, err = ldaphost.Parse(l.URL); err != nil {
		return nil, err
	}
	l.host.TLS, l.host.Time, l.host.Bytes = l.TLS, ldapTime, ldapBytes
	if l.UserDN == "" && l.Filter == "" {
		return nil, errors.New("read accounts of directory: neither a user DN nor a filter says which entry it is")
	}
	if l.UserDN == "" {
		if _, err := ldap.CompileFilter(strings.ReplaceAll(l.Filter, user, "x")); err != nil {
			return nil, errors.New("read filter of directory: not understood")
		}
	}
	l.turns = make(chan struct{}, maxBinds)
	return &l, nil
}

// user stands for the name in templates.
const user = "{user}"

// Check binds as the account.
func (l *LDAP) Check(ctx context.Context, name, password string) (*transport.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, ldapTime)
	defer cancel()
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the directory: %w", ctx.Err())
	}
	c, err := l.host.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	a := &transport.Account{Name: name}
	if l.UserDN != "" {
		dn := strings.ReplaceAll(l.UserDN, user, ldap.EscapeDN(name))
		if err := bind(c, dn, password); err != nil {
			return nil, err
		}
		if len(l.Senders) > 0 {
			entries, err := l.search(c, dn, ldap.ScopeBaseObject, "(objectClass=*)")
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				a.Senders = l.senders(e)
			}
		}
		return a, nil
	}
	if l.BindDN != "" {
		if err := bind(c, l.BindDN, l.BindPassword); err != nil {
			return nil, fmt.Errorf("bind to search: %w", ldaphost.ErrTrouble) // its no is not the client's
		}
	}
	entries, err := l.search(c, l.Base, ldap.ScopeWholeSubtree, strings.ReplaceAll(l.Filter, user, ldap.EscapeFilter(name)))
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 { // nobody, or nobody knows who; the directory works as hard as for somebody
		err := bind(c, "cn="+ldap.EscapeDN(name)+","+l.Base, password)
		if err == nil || errors.Is(err, transport.ErrLoginRefused) {
			return nil, transport.ErrLoginRefused
		}
		return nil, err
	}
	if err := bind(c, entries[0].DN, password); err != nil {
		return nil, err
	}
	a.Senders = l.senders(entries[0])
	return a, nil
}

// bind logs in. What says that name or password are wrong is a no, and only that.
func bind(c *ldap.Conn, dn, password string) error {
	if dn == "" || password == "" { // a bind without one is anonymous, and may succeed (RFC 4513 §5.1.2)
		return transport.ErrLoginRefused
	}
	err := c.Bind(dn, password)
	switch {
	case err == nil:
		return nil
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
		ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation):
		return transport.ErrLoginRefused
	}
	return ldaphost.Trouble("bind", err)
}

// search reads at most two entries. References to other servers are not followed.
func (l *LDAP) search(c *ldap.Conn, base string, scope int, filter string) ([]*ldap.Entry, error) {
	attributes := l.Senders
	if len(attributes) == 0 {
		attributes = []string{"1.1"} // none (RFC 4511 §4.5.1.8)
	}
	r, err := c.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, 2, int(ldapTime/time.Second), false, filter, attributes, nil))
	if err != nil && !ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded) {
		if ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject) {
			return nil, nil
		}
		return nil, ldaphost.Trouble("search", err)
	}
	return r.Entries, nil
}

// senders are the addresses in the attributes. Whoever may change his entry
// can't make a pattern of one.
func (l *LDAP) senders(e *ldap.Entry) (list []string) {
	for _, name := range l.Senders {
		for _, value := range e.GetEqualFoldAttributeValues(name) {
			if kind, rest, ok := strings.Cut(value, ":"); ok && strings.EqualFold(kind, "smtp") { // as Active Directory has it in proxyAddresses
				value = rest
			}
			if a, err := message.ParseAddress(value); err == nil && a.Local != "*" && len(list) < maxSenders {
				list = append(list, a.String())
			}
		}
	}
	return list
}
