package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"postern/appliance/config"
	"postern/filter/accounts"
	"postern/filter/transport"
)

// maxSecret is the largest file that holds a password, in bytes.
const maxSecret = 1024

// Accounts are those of c; nil where nobody can log in. All listeners share
// them, and with them the count of failures.
func Accounts(c *config.Filterd, log *slog.Logger) (*accounts.Book, error) {
	source, err := accountSource(c)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	if source == nil {
		return nil, nil
	}
	return accounts.New(source, log), nil
}

func accountSource(c *config.Filterd) (accounts.Source, error) {
	a := c.Accounts
	switch a.Source {
	case "file":
		f, err := accounts.OpenFile(a.File)
		if err != nil {
			return nil, fmt.Errorf("%w (hint: `postern account add` makes it; filterd has to read it)", err)
		}
		return f, nil
	case "ldap":
		l := accounts.LDAP{URL: a.LDAP.URL, TLS: &tls.Config{ServerName: a.LDAP.Name}, UserDN: a.LDAP.UserDN, Base: a.LDAP.Base, Filter: a.LDAP.Filter,
			BindDN: a.LDAP.BindDN, Senders: a.LDAP.Senders}
		var err error
		if a.LDAP.CAFile != "" {
			if l.TLS.RootCAs, err = pool("ca-file", a.LDAP.CAFile); err != nil {
				return nil, err
			}
		}
		if a.LDAP.PasswordFile != "" {
			if l.BindPassword, err = secret(a.LDAP.PasswordFile); err != nil {
				return nil, fmt.Errorf("bind-password-file: %w", err)
			}
		}
		return accounts.NewLDAP(l)
	case "smtp":
		hop, err := Hop(&config.Hop{Address: a.SMTP.Address, TLS: a.SMTP.TLS, Name: a.SMTP.Name, CAFile: a.SMTP.CAFile}, c.AuthservID)
		if err != nil {
			return nil, err
		}
		return &accounts.Server{Hop: hop, Senders: a.SMTP.Senders}, nil
	}
	return nil, nil
}

// secret is the one line of a file.
func secret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(text), "\r\n")
	if line == "" || strings.ContainsAny(line, "\r\n\x00") {
		return "", fmt.Errorf("%s: want one line", path)
	}
	return line, nil
}

// Limit tells the server of listener l who may do how much, and who has to log in.
func Limit(s *transport.Server, l config.Listener, book *accounts.Book) {
	s.MaxConns, s.MaxPerClient = l.MaxConnections, l.PerClient
	s.Rate = transport.Rate{Count: l.Rate.Count, Per: time.Duration(l.Rate.Per)}
	s.ProxyFrom, s.XClientFrom = Prefixes(l.ProxyFrom), Prefixes(l.XClientFrom)
	if l.Auth != "none" && book != nil {
		s.Login = book
	}
	s.RequireLogin = l.Auth == "required"
}
