package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/textproto"
	"os"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/filter/credential"
)

// trusting is a client's TLS that trusts what the box shows, of one kind.
func trusting(t testing.TB, b *trial.Box, kind string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(b.Certificate(kind))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", b.Certificate(kind))
	}
	c := &tls.Config{RootCAs: pool, ServerName: b.Server, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
	if kind == credential.RSA {
		c.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	}
	return c
}

// greet goes as far as EHLO, and STARTTLS where config is not nil.
func greet(t testing.TB, address string, config *tls.Config) (net.Conn, *textproto.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	c := textproto.NewConn(conn)
	say(t, c, "", 220)
	say(t, c, "EHLO client.example", 250)
	if config == nil {
		return conn, c
	}
	say(t, c, "STARTTLS", 220)
	secure := tls.Client(conn, config)
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	c = textproto.NewConn(secure)
	say(t, c, "EHLO client.example", 250)
	return secure, c
}

// say says one command, and wants one code.
func say(t testing.TB, c *textproto.Conn, line string, code int) string {
	t.Helper()
	if line != "" {
		if err := c.PrintfLine("%s", line); err != nil {
			t.Fatal(err)
		}
	}
	_, text, err := c.ReadResponse(code)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return text
}

// Both listeners of a box show certificates of both kinds, with keys in the token.
func TestListenersSpeakTLS(t *testing.T) {
	b := open(t, trial.Config{TLS: "offer"})
	for _, address := range []string{b.Outside, b.Inside} {
		for _, kind := range credential.Kinds {
			greet(t, address, trusting(t, b, kind))
		}
	}
}
