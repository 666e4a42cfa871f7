// Package acmetest is an authority for tests that makes certificates for mail by
// ACME (RFC 8555) and proves addresses by mail (RFC 8823). No server of others'
// making that does so can be had here. It minds what such a server has to: each
// request is a JWS that it checks, with a nonce that counts once; its mail goes
// out by SMTP with a DKIM signature, and an answer comes in by SMTP and counts
// only with one; certificates are made by a key that signs.
package acmetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/go-jose/go-jose/v4"
)

// Domain is where its mail comes from, and Selector names its key for DKIM.
const (
	Domain   = "ca.example"
	Selector = "acme"
	replies  = "answers@" + Domain
)

// Config is how a server is; zero fields have working values.
type Config struct {
	// Texts gives the TXT records of a name: the keys that answers are signed with.
	Texts func(name string) ([]string, error)
	// Binding names the account elsewhere that a new one has to be bound to, with
	// its MAC key. "": none has to.
	Binding string
	MAC     []byte
	Terms   string // URL of the terms of service; "": none
	Bytes   bool   // the halves of a token are joined as bytes
	Busy    int    // so many orders are turned away before the first is taken
	// Change alters a mail before it is sent, once it is signed; nil: none is. What
	// it gives is sent one after the other.
	Change func(l Letter) [][]byte
}

// Letter is a mail of the server, signed.
type Letter struct {
	To     string
	Mail   []byte
	Bare   []byte // the same mail without its signature
	Resign func(mail []byte, domain string) []byte
}

// Server is a running one.
type Server struct {
	Config
	URL  string // of its directory
	CA   string // file of what its HTTPS server is known by
	Root string // file of the root that its certificates end at
	SMTP string // where answers come in

	t     testing.TB
	http  *httptest.Server
	smtp  *smtp.Server
	dkim  *rsa.PrivateKey
	chain chain
	wait  sync.WaitGroup

	mu       sync.Mutex
	deliver  string // host:port of where its mail goes
	nonces   map[string]bool
	accounts map[string]*account // by URL
	orders   []*order
	issued   []string
	said     []string // about what was wrong with requests and answers
	busy     int
}

type account struct {
	url  string
	key  *jose.JSONWebKey
	mail []string // contacts
}

// order is an order with its one authorization and its one challenge.
type order struct {
	id      int
	account *account
	address string
	status  string
	problem *problem
	der     []byte // the certificate; nil: not made yet

	first, second string // the halves of the token
	sender        string
	messageID     string
	sent          bool
	answered      bool // by a mail that is right
	told          bool // the client says that it answered
}

// Open runs one until the test ends.
func Open(t testing.TB, c Config) *Server {
	t.Helper()
	s := &Server{Config: c, t: t, nonces: map[string]bool{}, accounts: map[string]*account{}, busy: c.Busy}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("open the ACME server: %v", err)
		}
	}
	var err error
	s.dkim, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	dir := t.TempDir()
	must(s.chain.make())
	s.Root = filepath.Join(dir, "root.pem")
	must(os.WriteFile(s.Root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.chain.root.Raw}), 0o600))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.SMTP = l.Addr().String()
	s.smtp = smtp.NewServer(inbox{s})
	s.smtp.Domain, s.smtp.MaxMessageBytes, s.smtp.ReadTimeout, s.smtp.WriteTimeout = Domain, 1<<20, time.Minute, time.Minute
	go s.smtp.Serve(l)

	mux := http.NewServeMux()
	s.handle(mux)
	s.http = httptest.NewTLSServer(mux)
	s.URL = s.http.URL + "/directory"
	s.CA = filepath.Join(dir, "https.pem")
	must(os.WriteFile(s.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw}), 0o600))
	t.Cleanup(func() {
		s.http.Close()
		s.smtp.Close()
		s.wait.Wait()
	})
	return s
}

// Pool is what its HTTPS server is known by.
func (s *Server) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.http.Certificate())
	return p
}

// Deliver says where its mail goes, as its resolver would by an MX record.
func (s *Server) Deliver(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliver = address
}

// Record is the TXT record of its key for DKIM, under Selector._domainkey.
func (s *Server) Record() string {
	der, err := x509.MarshalPKIXPublicKey(s.dkim.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
}

// Issued is one line for each certificate that it has made: for whom, and for
// which key usage.
func (s *Server) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.issued...)
}

// Said is what it found wrong with requests and answers.
func (s *Server) Said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.said...)
}

// Orders is how many there were.
func (s *Server) Orders() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders)
}

// Alter has mails altered in another way from now on.
func (s *Server) Alter(change func(Letter) [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Change = change
}

// Remind sends the mails of an address again whose orders are still pending.
func (s *Server) Remind(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.orders {
		if o.address == address && o.status == "pending" {
			s.send(o)
		}
	}
}

// Accounts is how many have registered, and Contacts whom they named.
func (s *Server) Accounts() (n int, contacts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		contacts = append(contacts, a.mail...)
	}
	return len(s.accounts), contacts
}

// complain is called with the lock held.
func (s *Server) complain(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

// secret is so many bytes in base64url.
func secret(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }
