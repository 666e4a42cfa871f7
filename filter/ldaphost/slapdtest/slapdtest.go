// Package slapdtest runs a real OpenLDAP server for a test.
package slapdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost", Host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
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
