package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"postern/appliance/config"
	"postern/filter/credential"
	"postern/filter/transport"
	"postern/hsm"
)

// versions are those of TLS in the words of the configuration.
var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// TLSDir is where the chains of certificates stand that operators bring in.
func TLSDir(c *config.Filterd) string { return filepath.Join(c.State, "tls") }

// ChainFiles are the files with what a listener shows, and whether one of them
// is enough.
func ChainFiles(c *config.Filterd, l config.Listener) (files []string, some bool) {
	if len(l.TLS.CertFiles) > 0 {
		return l.TLS.CertFiles, false
	}
	return credential.Places(TLSDir(c), l.TLS.Identity), true
}

// Secure gives the server of listener l its TLS. The store is that of its
// certificates, nil where it has none.
func Secure(s *transport.Server, c *config.Filterd, l config.Listener, token hsm.Token, log *slog.Logger) (*credential.Store, error) {
	if l.TLS.Mode == "off" {
		return nil, nil
	}
	s.Clients = transport.Clients{Mode: l.TLS.Client, Pins: pins(l.TLS.ClientPins)}
	if l.TLS.ClientCA != "" {
		var err error
		if s.Clients.CAs, err = pool("client-ca", l.TLS.ClientCA); err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
	}
	files, some := ChainFiles(c, l)
	certs := credential.New(credential.Config{Name: l.TLS.Identity, Files: files, Some: some, Token: token, Log: log})
	s.TLS = transport.Profile(versions[l.TLS.Min])
	s.TLS.GetCertificate = certs.Get
	s.Clients.Ask(s.TLS)
	s.RequireTLS, s.ImplicitTLS = l.TLS.Mode != "offer", l.TLS.Mode == "implicit"
	return certs, nil
}

// pool reads the certificates of authorities that a field of the configuration names.
func pool(field, path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", field, err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s %s holds no certificate (hint: PEM is wanted)", field, path)
	}
	return p, nil
}
