// Package ldaphost reaches a directory by LDAP (RFC 4511): by TLS with a
// certificate that is trusted and names it, wherever it is not on this machine,
// and within bounds of time and size.
package ldaphost

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

var (
	// ErrTrouble is a directory that did not do what was asked.
	ErrTrouble = errors.New("directory in trouble")
	// ErrUnsafe is one that is neither reached by TLS nor on this machine.
	ErrUnsafe = errors.New("neither TLS nor on this machine")
)

// Host is where a directory is. Parse gives one.
type Host struct {
	TLS   *tls.Config   // whom to trust; ServerName is the host of the URL where it is empty
	Time  time.Duration // of one request
	Bytes int           // that it may answer on one connection, in all
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)

	scheme, name, network, address string
}

// Parse reads a URL: ldaps://host[:port]; ldap://, by StartTLS unless it is on
// this machine; ldapi://path. The path of a socket stands where its host would.
func Parse(s string) (Host, error) {
	h := Host{Dial: (&net.Dialer{}).DialContext}
	if path, ok := strings.CutPrefix(s, "ldapi://"); ok {
		path, err := url.PathUnescape(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return Host{}, errors.New("read url of directory: want ldapi://%2Fpath%2Fof%2Fsocket")
		}
		h.scheme, h.name, h.network, h.address = "ldapi", "localhost", "unix", path
		return h, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return Host{}, errors.New("read url of directory: not understood")
	}
	port, known := map[string]string{"ldap": ldap.DefaultLdapPort, "ldaps": ldap.DefaultLdapsPort}[u.Scheme]
	if !known {
		return Host{}, fmt.Errorf("read url of directory: unknown scheme %q", u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	h.scheme, h.name, h.network, h.address = u.Scheme, u.Hostname(), "tcp", net.JoinHostPort(u.Hostname(), port)
	return h, nil
}

// Name is what the URL calls the host, for people.
func (h Host) Name() string { return h.name }

// Connect reaches it. Whatever is said on the connection ends with the deadline
// of ctx; the caller closes it.
func (h Host) Connect(ctx context.Context) (*ldap.Conn, error) {
	raw, err := h.Dial(ctx, h.network, h.address)
	if err != nil {
		return nil, fmt.Errorf("reach directory: %w", err)
	}
	if by, ok := ctx.Deadline(); ok {
		raw.SetDeadline(by)
	}
	var conn net.Conn = &bounded{Conn: raw, left: h.Bytes}
	config := h.TLS.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		config.ServerName = h.name
	}
	if h.scheme == "ldaps" {
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("reach directory by TLS: %w", err)
		}
		conn = t
	}
	c := ldap.NewConn(conn, h.scheme == "ldaps")
	c.Start()
	c.SetTimeout(h.Time)
	if h.scheme == "ldap" && !local(h.name) {
		if err := c.StartTLS(config); err != nil {
			c.Close()
			return nil, Trouble("start TLS with directory", err)
		}
		if _, ok := c.TLSConnectionState(); !ok {
			c.Close()
			return nil, fmt.Errorf("reach directory: %w", ErrUnsafe)
		}
	}
	return c, nil
}

// bounded ends a connection that brings more than it may.
type bounded struct {
	net.Conn
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTrouble
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// local reports whether the host is this machine.
func local(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

// Trouble names what the directory did by its code alone: its words may quote
// what it was told.
func Trouble(what string, err error) error {
	var e *ldap.Error
	if errors.As(err, &e) && e.ResultCode == ldap.ErrorNetwork { // said on this side: a certificate that is refused
		return fmt.Errorf("%s: %w: %.300q", what, ErrTrouble, e.Err)
	}
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w: result %d", what, ErrTrouble, e.ResultCode)
	}
	return fmt.Errorf("%s: %w", what, ErrTrouble)
}
