package transport

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

// Whether clients of a listener show certificates.
const (
	ClientNone    = "none"    // they are not asked
	ClientAsk     = "ask"     // one that is not known counts as none
	ClientRequire = "require" // no handshake without one that is known
)

var errUnknownClient = errors.New("client certificate not known here")

// ClientCert is what is known of a client by the certificate whose key it
// proved to hold.
type ClientCert struct {
	Pin   [32]byte // SHA-256 of its key as SubjectPublicKeyInfo; zero: it showed none
	Known bool     // by its key, or by an authority of the listener
	Names []string // of hosts, in small letters; none where no authority vouches for them
}

// Clients says which certificates of clients are known.
type Clients struct {
	Mode string // ClientNone by default
	CAs  *x509.CertPool
	Pins [][32]byte
}

// Ask makes config ask as c says. Resumed sessions are judged again, by what c
// says then.
func (c Clients) Ask(config *tls.Config) {
	switch c.Mode {
	case ClientAsk:
		config.ClientAuth = tls.RequestClientCert
	case ClientRequire:
		config.ClientAuth = tls.RequireAnyClientCert
		config.VerifyConnection = func(s tls.ConnectionState) error {
			if !c.know(&s).Known {
				return errUnknownClient
			}
			return nil
		}
	}
}

// know judges the certificate of a client. One for servers will do: few
// authorities give mail servers any other, and a mail server is a client too.
func (c Clients) know(s *tls.ConnectionState) (shown ClientCert) {
	if len(s.PeerCertificates) == 0 {
		return shown
	}
	leaf := s.PeerCertificates[0]
	shown.Pin = sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	shown.Known = slices.Contains(c.Pins, shown.Pin)
	if c.CAs == nil {
		return shown
	}
	between := x509.NewCertPool()
	for _, more := range s.PeerCertificates[1:] {
		between.AddCert(more)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.CAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}})
	if err == nil {
		shown.Known = true
		for _, name := range leaf.DNSNames {
			shown.Names = append(shown.Names, strings.ToLower(name))
		}
	}
	return shown
}
