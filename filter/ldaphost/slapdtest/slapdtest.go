// Package slapdtest runs a real OpenLDAP server for a test.
package slapdtest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// Suffix is what the directory holds, and Admin with Password may do everything there.
const (
	Suffix   = "dc=company1,dc=example"
	Admin    = "cn=admin," + Suffix
	Password = "admin-secret"
)

// Host is a name that the server's certificate has, beside localhost.
const Host = "dir.company1.example"

const conf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
%[2]smodulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/pid
argsfile %[1]s/args
TLSCertificateFile %[1]s/cert.pem
TLSCertificateKeyFile %[1]s/key.pem
%[4]s
database mdb
suffix "dc=company1,dc=example"
rootdn "cn=admin,dc=company1,dc=example"
rootpw admin-secret
directory %[1]s/db
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * %[3]s
`

// Config is what of it a test chooses.
type Config struct {
	Schema string // further lines of slapd.conf, behind those of the schemas
	LDIF   string // what it holds
	Open   bool   // everybody may read
}

// Server is a running one.
type Server struct {
	Plain, Secure, Socket string // URLs: in clear, by TLS, and by a socket
	Roots                 *x509.CertPool
	CA                    string // file with the certificate that vouches for it
}

// SelfSigned makes a certificate for this machine, in files of dir.
func SelfSigned(t testing.TB, dir string) *x509.CertPool {
	t.Helper()
	c := certtest.SelfSigned(t, certtest.Host("localhost", Host))
	certtest.Write(t, c, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	return certtest.Pool(c.Leaf)
}

// Start runs one until the test ends.
func (c Config) Start(t testing.TB) (s Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "slapd") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Roots, s.CA = SelfSigned(t, dir), filepath.Join(dir, "cert.pem")
	path := filepath.Join(dir, "slapd.conf")
	read, who := "none", "require authc"
	if c.Open {
		read, who = "read", ""
	}
	ldif := filepath.Join(dir, "people.ldif")
	if err := errors.Join(os.WriteFile(path, fmt.Appendf(nil, conf, dir, c.Schema, read, who), 0o600), os.WriteFile(ldif, []byte(c.LDIF), 0o600)); err != nil {
		t.Fatal(err)
	}
	port := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, p, _ := net.SplitHostPort(l.Addr().String())
		return p
	}
	s.Plain, s.Secure = "ldap://127.0.0.1:"+port(), "ldaps://localhost:"+port()
	s.Socket = "ldapi://" + url.PathEscape(filepath.Join(dir, "ldapi"))
	if out, err := exec.Command("slapadd", "-f", path, "-l", ldif).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	var log strings.Builder
	cmd := exec.Command("slapd", "-d", "0", "-f", path, "-h", s.Plain+" "+s.Secure+" "+s.Socket)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	u, _ := url.Parse(s.Secure)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if c, err := net.Dial("tcp", u.Host); err == nil {
			c.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("slapd does not come up:\n%s", &log)
		}
	}
}
