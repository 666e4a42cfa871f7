package accounts

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/ldaphost/slapdtest"
	"postern/filter/transport"
)

const people = `dn: dc=company1,dc=example
objectClass: dcObject
objectClass: organization
dc: company1
o: Company 1

dn: ou=people,dc=company1,dc=example
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=company1,dc=example
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: Example
mail: alice@company1.example
mail: Alice.Example@company1.example
mail: *@company1.example
mail: no address
userPassword: right secret

dn: uid=b\2Cob (x),ou=people,dc=company1,dc=example
objectClass: inetOrgPerson
uid: b,ob (x)
cn: Bob
sn: Example
userPassword: right secret

dn: uid=twin1,ou=people,dc=company1,dc=example
objectClass: inetOrgPerson
uid: twin1
uid: twin
cn: T
sn: T
userPassword: right secret

dn: uid=twin2,ou=people,dc=company1,dc=example
objectClass: inetOrgPerson
uid: twin2
uid: twin
cn: T
sn: T
userPassword: right secret
`

// TestLDAP (R27): accounts of a real directory, by each way to reach it and to find
// them.
func TestLDAP(t *testing.T) {
	s := slapdtest.Config{LDIF: people}.Start(t)
	plain, secure, socket, roots := s.Plain, s.Secure, s.Socket, s.Roots
	const dn, base = "uid={user},ou=people,dc=company1,dc=example", "ou=people,dc=company1,dc=example"
	const admin = "cn=admin,dc=company1,dc=example"
	byName := LDAP{UserDN: dn, Senders: []string{"mail", "mailAlternateAddress"}}
	search := LDAP{Base: base, Filter: "(&(objectClass=inetOrgPerson)(uid={user}))", BindDN: admin, BindPassword: "admin-secret", Senders: []string{"mail"}}
	for _, at := range []string{plain, secure, socket} {
		for name, l := range map[string]LDAP{"by name": byName, "by search": search} {
			l.URL, l.TLS = at, &tls.Config{RootCAs: roots}
			source, err := NewLDAP(l)
			if err != nil {
				t.Fatal(err)
			}
			a, err := source.Check(t.Context(), "alice", "right secret")
			if err != nil || !slices.Equal(a.Senders, []string{"alice@company1.example", "Alice.Example@company1.example"}) {
				t.Errorf("%s, %s: got %+v, %v", at, name, a, err)
			}
			if a, err := source.Check(t.Context(), "b,ob (x)", "right secret"); err != nil || len(a.Senders) != 0 {
				t.Errorf("%s, %s, a name to escape: got %+v, %v", at, name, a, err)
			}
			for _, no := range [][2]string{{"alice", "wrong secret"}, {"alice", ""}, {"nobody", "right secret"}, {"nobody", ""},
				{"*", "right secret"}, {"al*", "right secret"}, {"alice)(uid=*", "right secret"}, {"alice,ou=people", "right secret"}, {"twin", "right secret"}, {"", "right secret"}} {
				if a, err := source.Check(t.Context(), no[0], no[1]); a != nil || !errors.Is(err, transport.ErrLoginRefused) {
					t.Errorf("%s, %s, %q: got %+v, %v, want ErrLoginRefused", at, name, no, a, err)
				}
			}
		}
	}
	// Trouble is no answer, and nothing said in it has the password.
	for name, l := range map[string]LDAP{
		"a certificate that nobody vouches for": {URL: secure, UserDN: dn},
		"another name in the certificate":       {URL: secure, UserDN: dn, TLS: &tls.Config{RootCAs: roots, ServerName: "other.example"}},
		"wrong password for the search":         {URL: plain, Base: base, Filter: "(uid={user})", BindDN: admin, BindPassword: "wrong"},
		"nobody may search":                     {URL: plain, Base: base, Filter: "(uid={user})"},
		"nobody there":                          {URL: "ldap://127.0.0.1:1", UserDN: dn},
	} {
		source, err := NewLDAP(l)
		if err != nil {
			t.Fatal(err)
		}
		a, err := source.Check(t.Context(), "alice", "right secret")
		if a != nil || err == nil || errors.Is(err, transport.ErrLoginRefused) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %+v, %v", name, a, err)
		}
	}
	for _, bad := range []LDAP{{URL: "http://x", UserDN: dn}, {URL: plain}, {URL: plain, Base: base, Filter: "(uid={user}"}} {
		if _, err := NewLDAP(bad); err == nil {
			t.Errorf("%+v: got no error", bad)
		}
	}
}

// Off this machine nothing is said before TLS; what is offered in clear is not taken.
func TestLDAPNeedsTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		// "unavailable", to whatever was asked (RFC 4511 §4.12)
		c.Write([]byte("\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x34\x04\x00\x04\x00"))
		c.SetReadDeadline(time.Now().Add(time.Minute))
		rest, _ := io.ReadAll(c)
		heard <- string(b[:n]) + string(rest)
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	source, err := NewLDAP(LDAP{URL: "ldap://dir.company1.example:" + port, UserDN: "uid={user},dc=x"})
	if err != nil {
		t.Fatal(err)
	}
	source.host.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	if a, err := source.Check(t.Context(), "alice", "right secret"); a != nil || err == nil || errors.Is(err, transport.ErrLoginRefused) {
		t.Errorf("got %+v, %v", a, err)
	}
	if got := <-heard; strings.Contains(got, "secret") || strings.Contains(got, "alice") || !strings.Contains(got, "1.3.6.1.4.1.1466.20037") {
		t.Errorf("heard %q, want StartTLS and nothing more", got)
	}
}

// A directory that says too much is left.
func TestLDAPIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		c.Read(make([]byte, 4096))
		n, _ := c.Write([]byte("\x30\x84\x7f\xff\xff\xff\x02\x01\x01\x04\x84\x7f\xff\xff\xf0"))
		for err = nil; err == nil; {
			var m int
			m, err = c.Write(make([]byte, 64<<10))
			n += m
		}
		sent <- n
	}()
	source, err := NewLDAP(LDAP{URL: "ldap://" + l.Addr().String(), UserDN: "uid={user},dc=x"})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := source.Check(t.Context(), "alice", "right secret"); a != nil || err == nil || errors.Is(err, transport.ErrLoginRefused) {
		t.Errorf("got %+v, %v", a, err)
	}
	if n := <-sent; n > 64<<20 {
		t.Errorf("took %d bytes", n)
	}
}

// wired keeps what is said on a connection, as whoever listens on the way hears it.
type wired struct {
	net.Conn
	heard *strings.Builder
}

func (w wired) Write(b []byte) (int, error) {
	w.heard.Write(b)
	return w.Conn.Write(b)
}

// Off this machine a real directory is reached by StartTLS or not at all: only
// with a certificate of the right authority for the right name is a password
// said, and never in clear.
func TestLDAPByStartTLS(t *testing.T) {
	s := slapdtest.Config{LDIF: people}.Start(t)
	plain, secure, roots := s.Plain, s.Secure, s.Roots
	strangers := slapdtest.SelfSigned(t, t.TempDir())
	const host = "dir.company1.example"
	port := func(at string) string { return at[strings.LastIndexByte(at, ':')+1:] }
	for _, scheme := range []string{"ldap", "ldaps"} {
		at := map[string]string{"ldap": plain, "ldaps": secure}[scheme]
		for _, c := range []struct {
			name string
			tls  *tls.Config
			good bool
		}{
			{"the right authority", &tls.Config{RootCAs: roots}, true},
			{"another authority", &tls.Config{RootCAs: strangers}, false},
			{"the system's authorities", nil, false},
			{"another name", &tls.Config{RootCAs: roots, ServerName: "other.company1.example"}, false},
		} {
			source, err := NewLDAP(LDAP{URL: scheme + "://" + host + ":" + port(at), TLS: c.tls, UserDN: "uid={user},ou=people,dc=company1,dc=example", Senders: []string{"mail"}})
			if err != nil {
				t.Fatal(err)
			}
			var heard strings.Builder
			source.host.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
				if address != host+":"+port(at) {
					t.Errorf("%s: asked for %s", scheme, address)
				}
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port(at))
				return wired{conn, &heard}, err
			}
			a, err := source.Check(t.Context(), "alice", "right secret")
			switch {
			case c.good && (err != nil || a.Name != "alice" || len(a.Senders) != 2):
				t.Errorf("%s, %s: got %+v, %v", scheme, c.name, a, err)
			case !c.good && (a != nil || err == nil || errors.Is(err, transport.ErrLoginRefused) || !isCertError(err)):
				t.Errorf("%s, %s: got %+v, %v, want the certificate refused", scheme, c.name, a, err)
			}
			if said := heard.String(); said == "" || strings.Contains(said, "secret") || strings.Contains(said, "alice") {
				t.Errorf("%s, %s: said in clear: %q", scheme, c.name, said)
			}
			if c.good {
				if a, err := source.Check(t.Context(), "alice", "wrong secret"); a != nil || !errors.Is(err, transport.ErrLoginRefused) {
					t.Errorf("%s, %s, a wrong password: got %+v, %v", scheme, c.name, a, err)
				}
			}
		}
	}
}

func isCertError(err error) bool {
	return strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "certificate")
}
