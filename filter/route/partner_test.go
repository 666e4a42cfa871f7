package route

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Authority"}, IsCA: true, BasicConstraintsValid: true,
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
	return authority{cert, key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate that ends after life; negative: it has ended.
func (a authority) issue(t testing.TB, life time.Duration, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// association is the data of a TLSA record for c.
func association(c *x509.Certificate, selector, matching int) string {
	data := c.Raw
	if selector == 1 {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case 1:
		sum := sha256.Sum256(data)
		data = sum[:]
	case 2:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return hex.EncodeToString(data)
}

// habit is how a partner's server behaves.
type habit struct {
	strip    bool // somebody on the way takes STARTTLS out
	refuse   bool // STARTTLS is answered with 454
	config   *tls.Config
	sender   string // answer to MAIL: 250
	last     string // answer to the final dot: 250
	hangUp   bool   // after the dot, without an answer
	extra    []string
	greeting string
}

// partner is a mail server that notes what it is told, in clear and in TLS.
type partner struct {
	addr string

	mutex sync.Mutex
	habit habit
	clear []string
	safe  []string
	mails int
	conns int
}

// newPartner listens at ip and port.
func newPartner(t testing.TB, ip string, port int) *partner {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &partner{addr: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *partner) become(h habit) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.habit, p.clear, p.safe, p.mails, p.conns = h, nil, nil, 0, 0
}

// heard is what was said so far.
func (p *partner) heard() (clear, safe string, mails int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return strings.Join(p.clear, "\n"), strings.Join(p.safe, "\n"), p.mails
}

func (p *partner) serve(c net.Conn) {
	defer c.Close()
	p.mutex.Lock()
	h := p.habit
	p.conns++
	p.mutex.Unlock()
	secure := false
	r := bufio.NewReader(c)
	say := func(s string) { fmt.Fprintf(c, "%s\r\n", s) }
	or := func(s, other string) string {
		if s == "" {
			return other
		}
		return s
	}
	say(or(h.greeting, "220 mx"))
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		p.mutex.Lock()
		if secure {
			p.safe = append(p.safe, line)
		} else {
			p.clear = append(p.clear, line)
		}
		p.mutex.Unlock()
		switch verb, _, _ := strings.Cut(strings.ToUpper(line), " "); verb {
		case "EHLO":
			reply := []string{"mx", "PIPELINING", "8BITMIME", "SIZE"}
			if !secure && !h.strip && h.config != nil {
				reply = append(reply, "STARTTLS")
			}
			if secure {
				reply = append(reply, h.extra...)
			}
			for i, e := range reply {
				sep := "-"
				if i == len(reply)-1 {
					sep = " "
				}
				say("250" + sep + e)
			}
		case "STARTTLS":
			if h.refuse {
				say("454 4.7.0 not now")
				continue
			}
			say("220 go")
			s := tls.Server(c, h.config)
			if s.Handshake() != nil {
				return
			}
			c, r, secure = s, bufio.NewReader(s), true
		case "MAIL":
			say(or(h.sender, "250 ok"))
		case "DATA":
			say("354 go")
			for line != "." {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				line = strings.TrimRight(line, "\r\n")
			}
			p.mutex.Lock()
			p.mails++
			p.mutex.Unlock()
			if h.hangUp {
				return
			}
			say(or(h.last, "250 taken"))
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// freePort is one that nobody has at any of the addresses.
func freePort(t testing.TB, ips ...string) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", ips[0]+":0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		all := []net.Listener{l}
		for _, ip := range ips[1:] {
			if l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port)); err != nil {
				break
			}
			all = append(all, l)
		}
		for _, l := range all {
			l.Close()
		}
		if err == nil {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
