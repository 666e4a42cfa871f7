package directory_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/filter/cms"
	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/ldaphost"
	"postern/filter/ldaphost/slapdtest"
	"postern/filter/message"
	"postern/filter/publish"
	"postern/filter/smime"
	"postern/hsm/certtest"
)

// pgpSchema is what keyrings of OpenPGP in LDAP call a certificate.
const pgpSchema = `attributetype ( 1.3.6.1.4.1.3401.8.2.11 NAME 'pgpKey' EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.3401.8.2.24 NAME 'pgpKeyInfo' SUP top AUXILIARY MAY pgpKey )
`

// staff are entries without certificates yet.
func staff(names ...string) string {
	var b strings.Builder
	b.WriteString("dn: dc=company1,dc=example\nobjectClass: dcObject\nobjectClass: organization\ndc: company1\no: Company 1\n")
	for _, n := range names {
		mail, _, _ := strings.Cut(n, "-")
		fmt.Fprintf(&b, "\ndn: uid=%[1]s,dc=company1,dc=example\nobjectClass: inetOrgPerson\nobjectClass: pgpKeyInfo\nuid: %[1]s\ncn: %[1]s\nsn: X\nmail: %[2]s@company1.example\n", n, mail)
	}
	return b.String()
}

// signed makes certificates that name an address.
func signed(t *testing.T, address string) []byte {
	t.Helper()
	return certtest.Own(t, certtest.Mail(address, x509.KeyUsageKeyAgreement), certtest.Key(t)).Leaf.Raw
}

// words makes an OpenPGP certificate of every word, for the address of the test.
func words(data []byte) (list []keyring.Cert, err error) {
	if string(data) == "bad" {
		return nil, errors.New("not a certificate")
	}
	for _, w := range strings.Fields(string(data)) {
		list = append(list, keyring.Cert{Format: keyring.OpenPGP, Fingerprint: w})
	}
	return list, nil
}

func at(t *testing.T, s string) message.Address {
	t.Helper()
	a, err := message.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What we print for directories goes into a real one, and is found there again.
func TestLDAP(t *testing.T) {
	s := slapdtest.Config{Schema: pgpSchema, LDIF: staff("alice", "bob", "twin-1", "twin-2", "many-1", "many-2", "many-3", "many-4", "many-5", "huge", "bad", "crowd", "o*d"), Open: true}.Start(t)
	alice, other := signed(t, "alice@company1.example"), signed(t, "alice@company1.example")
	bundle, err := cms.Bundle(alice, other)
	if err != nil {
		t.Fatal(err)
	}
	x := func(der []byte) string {
		certs, err := smime.Read(der)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0].Fingerprint
	}
	var crowd [][]byte
	for range 17 {
		crowd = append(crowd, signed(t, "crowd@company1.example"))
	}
	var ldif bytes.Buffer
	if err := publish.LDIF(&ldif, "uid={local},dc=company1,dc=example", []publish.Entry{
		{Address: at(t, "alice@company1.example"), X509: [][]byte{alice}, Bundle: bundle, OpenPGP: []byte("A")},
		{Address: at(t, "bob@company1.example")},
		{Address: message.Address{Local: "twin-1"}, OpenPGP: []byte("T1")}, {Address: message.Address{Local: "twin-2"}, OpenPGP: []byte("T2")},
		{Address: at(t, "huge@company1.example"), OpenPGP: bytes.Repeat([]byte("x"), 1<<20)},
		{Address: at(t, "bad@company1.example"), OpenPGP: []byte("bad")},
		{Address: at(t, "crowd@company1.example"), X509: crowd},
		{Address: message.Address{Local: "o*d"}, OpenPGP: []byte("O")},
	}); err != nil {
		t.Fatal(err)
	}
	modify := exec.Command("ldapmodify", "-x", "-H", s.Plain, "-D", slapdtest.Admin, "-w", slapdtest.Password)
	modify.Stdin = bytes.NewReader(ldif.Bytes())
	if out, err := modify.CombinedOutput(); err != nil {
		t.Fatalf("ldapmodify: %v: %s\n%.2000s", err, out, &ldif)
	}
	good := &tls.Config{RootCAs: s.Roots}
	port := func(at string) string { return at[strings.LastIndexByte(at, ':'):] }
	far := func(ctx context.Context, network, address string) (net.Conn, error) { // the name of another machine, which is this one
		if name, p, ok := strings.Cut(address, ":"); ok && name == slapdtest.Host {
			address = "127.0.0.1:" + p
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	for _, c := range []struct {
		name, url, local string
		trust            *tls.Config
		want             []string
		fails            bool
	}{
		{"in clear on this machine", s.Plain, "alice", nil, []string{x(alice), x(other), "A"}, false},
		{"by a socket", s.Socket, "alice", nil, []string{x(alice), x(other), "A"}, false},
		{"by TLS", s.Secure, "alice", good, []string{x(alice), x(other), "A"}, false},
		{"by StartTLS", "ldap://" + slapdtest.Host + port(s.Plain), "alice", good, []string{x(alice), x(other), "A"}, false},
		{"by StartTLS, another authority", "ldap://" + slapdtest.Host + port(s.Plain), "alice", &tls.Config{RootCAs: slapdtest.SelfSigned(t, t.TempDir())}, nil, true},
		{"by StartTLS, another name", "ldap://" + slapdtest.Host + port(s.Plain), "alice", &tls.Config{RootCAs: s.Roots, ServerName: "other.example"}, nil, true},
		{"by TLS, the system's authorities", s.Secure, "alice", nil, nil, true},
		{"nobody there", "ldap://127.0.0.1:1", "alice", nil, nil, true},
		{"an entry without certificates", s.Plain, "bob", nil, nil, false},
		{"no entry", s.Plain, "nobody", nil, nil, false},
		{"two entries", s.Plain, "twin", nil, []string{"T1", "T2"}, false},
		{"too many entries", s.Plain, "many", nil, nil, true},
		{"too many certificates", s.Plain, "crowd", nil, nil, true},
		{"an answer too long", s.Plain, "huge", nil, nil, true},
		{"nothing that can be read", s.Plain, "bad", nil, nil, true},
		{"a name that means something in a filter", s.Plain, "*", nil, nil, false},
		{"a name with a star", s.Plain, "o*d", nil, []string{"O"}, false},
	} {
		d, err := directory.NewLDAP(c.url, directory.LDAP{Host: ldaphost.Host{TLS: c.trust, Dial: far}, Base: slapdtest.Suffix, Filter: "(mail={address})", X509: smime.Read, OpenPGP: words})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := d.Lookup(t.Context(), message.Address{Local: c.local, Domain: "company1.example"})
		var got []string
		for _, one := range answer.Certs {
			got = append(got, one.Fingerprint)
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) || (err != nil) != c.fails || answer.Home || answer.Secure {
			t.Errorf("%s: got %q, %v, want %q, trouble %t", c.name, got, err, c.want, c.fails)
		}
	}

	// With a password, and without one where it is needed.
	closed := slapdtest.Config{Schema: pgpSchema, LDIF: staff("alice")}.Start(t)
	for password, fails := range map[string]bool{slapdtest.Password: false, "wrong secret": true} {
		d, err := directory.NewLDAP(closed.Plain, directory.LDAP{Base: slapdtest.Suffix, Filter: "(mail={address})", BindDN: slapdtest.Admin, BindPassword: password, X509: smime.Read, OpenPGP: words})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Lookup(t.Context(), at(t, "alice@company1.example")); (err != nil) != fails || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want trouble %t", password, err, fails)
		}
	}
	for _, bad := range []string{"http://x", "ldap://"} {
		if _, err := directory.NewLDAP(bad, directory.LDAP{Filter: "(mail={address})"}); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
	if _, err := directory.NewLDAP(s.Plain, directory.LDAP{Filter: "(mail={address}"}); err == nil {
		t.Error("a filter that is none: got no error")
	}
}

// A server that says nothing costs no more than the time that is left for it.
func TestLDAPHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Read(make([]byte, 1))
			asked <- c
		}
	}()
	d, err := directory.NewLDAP("ldap://"+l.Addr().String(), directory.LDAP{Base: slapdtest.Suffix, Filter: "(mail={address})", X509: smime.Read, OpenPGP: words})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := d.Lookup(ctx, at(t, "alice@company1.example"))
		done <- err
	}()
	c := <-asked
	defer c.Close()
	cancel()
	if err := <-done; err == nil {
		t.Error("got an answer of a server that says nothing")
	}
}
