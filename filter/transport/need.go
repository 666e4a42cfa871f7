package transport

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// How safe the way to the next hop must be. Below the level nothing of a mail
// is said.
const (
	TLSOff     = "off"
	TLSMay     = "may"     // TLS where it works, without a look at the certificate; else clear
	TLSEncrypt = "encrypt" // TLS, without a look at the certificate
	TLSVerify  = "verify"  // TLS with a certificate that is trusted and for one of Names
	TLSDANE    = "dane"    // TLS with a certificate that fits one of TLSA
	TLSPin     = "pin"     // TLS with one of Pins
)

// Need is what a connection must fulfil before anything of a mail is said. The
// zero Need is TLSOff.
type Need struct {
	TLS        string     // a level
	ServerName string     // asked for in the handshake; the host of the hop's address by default
	Names      []string   // of TLSVerify, and of TLSDANE below a trust anchor: the certificate is for one of them; ServerName by default
	TLSA       []TLSA     // of TLSDANE
	Pins       [][32]byte // of TLSPin: SHA-256 of SubjectPublicKeyInfo
	Min        uint16     // lowest TLS version, as crypto/tls writes it; 0: the default
	Trial      string     // a name that TLSVerify will be asked for some day: Result.Trial tells what it would say, and nothing is refused for it
}

var (
	errNames = errors.New("certificate not trusted for the name")
	errDANE  = errors.New("certificate fits no TLSA record")
	errPins  = errors.New("certificate has none of the agreed keys")
	errNone  = errors.New("no certificate")
)

// sound tells a level, with what belongs to it.
func (n Need) sound() error {
	switch n.TLS {
	case "", TLSOff, TLSMay, TLSEncrypt, TLSVerify:
		return nil
	case TLSDANE:
		if !slices.ContainsFunc(n.TLSA, TLSA.Usable) {
			return errors.New("TLS level dane without a usable TLSA record")
		}
		return nil
	case TLSPin:
		if len(n.Pins) == 0 {
			return errors.New("TLS level pin without a key")
		}
		return nil
	}
	return fmt.Errorf("unknown TLS level %q", n.TLS)
}

// authenticates reports whether the level tells who answers.
func (n Need) authenticates() bool {
	return n.TLS == TLSVerify || n.TLS == TLSDANE || n.TLS == TLSPin
}

// judge is an error where who answered is not who was asked for. name is the
// one that the certificate is trusted for, if any. roots nil: those of the system.
func (n Need) judge(s *tls.ConnectionState, roots *x509.CertPool, at time.Time) (name string, err error) {
	if !n.authenticates() {
		return "", nil
	}
	if len(s.PeerCertificates) == 0 {
		return "", errNone
	}
	leaf := s.PeerCertificates[0]
	switch n.TLS {
	case TLSPin:
		pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
		if !slices.Contains(n.Pins, pin) {
			return "", fmt.Errorf("%w: sha256:%x", errPins, pin)
		}
		return "", nil
	case TLSDANE:
		return n.dane(s.PeerCertificates, at)
	}
	return path509(s.PeerCertificates, roots, n.names(), at)
}

// try is what the level that is on trial would refuse the connection for. s nil
// is one in clear.
func (n Need) try(s *tls.ConnectionState, roots *x509.CertPool, at time.Time) error {
	switch {
	case n.Trial == "":
		return nil
	case s == nil:
		return errNoTLS
	}
	_, err := Need{TLS: TLSVerify, Names: []string{n.Trial}}.judge(s, roots, at)
	return err
}

func (n Need) names() []string {
	if len(n.Names) > 0 {
		return n.Names
	}
	return []string{n.ServerName}
}

// path509 gives the first of names that the chain is trusted for (RFC 5280 §6, RFC 9525).
func path509(chain []*x509.Certificate, roots *x509.CertPool, names []string, at time.Time) (string, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	err := errors.New("no name to look for")
	for _, name := range names {
		if name == "" { // Verify would look at no name at all
			continue
		}
		if _, err = chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between, CurrentTime: at}); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: %w", errNames, err)
}

// TLSA is an association of a certificate with a server (RFC 6698 §2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// Of RFC 7218 §2: the words for the numbers that SMTP knows.
const (
	daneTA, daneEE  = 2, 3
	wholeCert, spki = 0, 1
	full            = 0
	byHash256       = 1
	byHash512       = 2
)

// Usable reports whether t can fit anything. The usages that trust the public
// authorities too are of no use to SMTP (RFC 7672 §3.1.3).
func (t TLSA) Usable() bool {
	if t.Usage != daneTA && t.Usage != daneEE || t.Selector > spki {
		return false
	}
	switch t.Matching {
	case byHash256:
		return len(t.Data) == sha256.Size
	case byHash512:
		return len(t.Data) == sha512.Size
	case full:
		if t.Selector == wholeCert {
			_, err := x509.ParseCertificate(t.Data)
			return err == nil
		}
		_, err := x509.ParsePKIXPublicKey(t.Data)
		return err == nil
	}
	return false
}

func (t TLSA) fits(c *x509.Certificate) bool {
	data := c.Raw
	if t.Selector == spki {
		data = c.RawSubjectPublicKeyInfo
	}
	switch t.Matching {
	case byHash256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case byHash512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return bytes.Equal(t.Data, data)
}

// weaker reports whether another record of the same kind has a better hash:
// then t counts no more (RFC 7671 §9).
func (t TLSA) weaker(all []TLSA) bool {
	return t.Matching == byHash256 && slices.ContainsFunc(all, func(o TLSA) bool {
		return o.Usable() && o.Usage == t.Usage && o.Selector == t.Selector && o.Matching == byHash512
	})
}

// dane finds a record that the chain fits, and below a trust anchor the name it
// is for. A server's
// own certificate or key counts as it is, whatever it says of names and time
// (RFC 7671 §5.1); below a trust anchor names and time count (RFC 7672 §3.1.2,
// §3.2). An anchor has to stand in the chain, or whole in its record: one of
// which only the key is known, and which the server does not send, is not found.
func (n Need) dane(chain []*x509.Certificate, at time.Time) (name string, err error) {
	var last error
	for _, t := range n.TLSA {
		if !t.Usable() || t.weaker(n.TLSA) {
			continue
		}
		if t.Usage == daneEE {
			if t.fits(chain[0]) {
				return "", nil
			}
			continue
		}
		anchors := x509.NewCertPool()
		found := false
		for _, c := range chain[1:] {
			if t.fits(c) {
				anchors.AddCert(c)
				found = true
			}
		}
		if t.Selector == wholeCert && t.Matching == full {
			if c, err := x509.ParseCertificate(t.Data); err == nil {
				anchors.AddCert(c)
				found = true
			}
		}
		if !found {
			continue
		}
		name, err := path509(chain, anchors, n.names(), at)
		if err == nil {
			return name, nil
		}
		last = err
	}
	return "", errors.Join(errDANE, last)
}
