package postfix_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority certifies the servers of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certify gives a certificate with an RSA key that ends at the time.
func (a *authority) certify(t *testing.T, until time.Time, names ...string) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// pin is the hash of a certificate's public key.
func pin(c tls.Certificate) [32]byte { return sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo) }

// tlsa is the record "3 1 1" for a certificate.
func tlsa(c tls.Certificate) string {
	p := pin(c)
	return "3 1 1 " + hex.EncodeToString(p[:])
}

// peer is a partner's mail server. It keeps every byte that came in clear.
type peer struct {
	config   *tls.Config // nil: no STARTTLS
	refuse   bool        // STARTTLS is offered, and then is not to be had
	mutex    sync.Mutex
	clear    bytes.Buffer
	mails    []string // "TLS" or "clear", the recipients, and the mail
	sessions int
}

// listen serves at the address until the test ends.
func (p *peer) listen(t *testing.T, address string) *peer {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { close(done); l.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				ended := make(chan struct{})
				defer close(ended)
				go func() {
					select {
					case <-done:
						c.Close()
					case <-ended:
					}
				}()
				p.serve(c)
			})
		}
	})
	return p
}

// tap writes down what comes in clear.
type tap struct {
	net.Conn
	p  *peer
	on bool
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if t.on {
		t.p.mutex.Lock()
		t.p.clear.Write(b[:n])
		t.p.mutex.Unlock()
	}
	return n, err
}

func (p *peer) serve(c net.Conn) {
	p.mutex.Lock()
	p.sessions++
	p.mutex.Unlock()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	wire := &tap{c, p, true}
	var conn net.Conn = wire
	in, how, to := bufio.NewReader(conn), "clear", ""
	say := func(s string) { io.WriteString(conn, s+"\r\n") }
	say("220 peer ESMTP")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		switch verb {
		case "EHLO":
			if p.config != nil && how == "clear" {
				say("250-peer\r\n250-8BITMIME\r\n250 STARTTLS")
			} else {
				say("250-peer\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN")
			}
		case "STARTTLS":
			if p.refuse || p.config == nil {
				say("454 4.7.0 not now")
				continue
			}
			say("220 2.0.0 go")
			wire.on = false
			s := tls.Server(wire, p.config)
			if s.Handshake() != nil {
				return
			}
			conn, in, how = s, bufio.NewReader(s), "TLS"
		case "MAIL":
			to = " " + strings.TrimSpace(line)
			say("250 2.1.0 ok")
		case "RCPT":
			to += " " + strings.TrimSpace(line)
			say("250 2.1.5 ok")
		case "DATA":
			say("354 go")
			var mail strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				mail.WriteString(strings.TrimPrefix(line, "."))
			}
			p.mutex.Lock()
			p.mails = append(p.mails, how+to+"\r\n"+mail.String())
			p.mutex.Unlock()
			to = ""
			say("250 2.0.0 taken")
		case "QUIT":
			say("221 2.0.0 bye")
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}

// got is what came: the mails, what was said in clear, and how often somebody
// called.
func (p *peer) got() (mails []string, clear string, sessions int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]string(nil), p.mails...), p.clear.String(), p.sessions
}

// with makes a server's TLS from a certificate.
func with(c tls.Certificate, change ...func(*tls.Config)) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{c}}
	for _, f := range change {
		f(config)
	}
	return config
}

// await polls until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * time.Minute); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 3 min", what)
		}
	}
}
