package access

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// What the server may say before it is relayed.
const (
	maxSaid  = 4096 // bytes of a line: a greeting may tell capabilities
	maxTold  = 10   // lines, until it has answered STARTTLS
	dialTime = 30 * time.Second
)

// Upstream is the company's server.
type Upstream struct {
	Address  string
	TLS      *tls.Config // nil: in clear, on this machine
	Implicit bool        // TLS from the first byte; else by STARTTLS or STLS
	Proxy    bool        // it is told for whom we speak, by the PROXY protocol version 2
}

// open connects, and hears the greeting. What the server says in clear before
// TLS is believed of nothing: it is read byte by byte, so that no byte more of it
// is there when TLS begins.
func (u Upstream) open(ctx context.Context, p Protocol, client, local netip.AddrPort, state tls.ConnectionState) (_ net.Conn, err error) {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", u.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if u.Proxy {
		if _, err := conn.Write(proxyHeader(client, local, state)); err != nil {
			return nil, fmt.Errorf("tell the client: %w", err)
		}
	}
	secure := conn
	if u.TLS != nil && u.Implicit {
		if secure, err = u.shake(ctx, conn); err != nil {
			return nil, err
		}
	}
	line, err := hear(secure)
	if err == nil {
		err = p.greeted(line)
	}
	if err != nil {
		return nil, fmt.Errorf("hear greeting: %w", err)
	}
	if u.TLS != nil && !u.Implicit {
		if err := begins(conn, p); err != nil {
			return nil, err
		}
		if secure, err = u.shake(ctx, conn); err != nil {
			return nil, err
		}
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return secure, nil
}

// Greet connects for this machine itself and hears the greeting: for a look at
// the server's health.
func (u Upstream) Greet(ctx context.Context, p Protocol) error {
	here := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	c, err := u.open(ctx, p, here, here, tls.ConnectionState{Version: tls.VersionTLS13})
	if err != nil {
		return err
	}
	return c.Close()
}

func (u Upstream) shake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	secure := tls.Client(conn, u.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shake hands with the server: %w", err)
	}
	return secure, nil
}

// begins asks for TLS.
func begins(conn net.Conn, p Protocol) error {
	if _, err := io.WriteString(conn, p.ask()); err != nil {
		return err
	}
	for range maxTold {
		line, err := hear(conn)
		if err != nil {
			return fmt.Errorf("hear answer: %w", err)
		}
		if done, err := p.asked(line); done || err != nil {
			return err
		}
	}
	return errors.New("no answer to STARTTLS")
}

// hear reads one line and nothing behind it.
func hear(r io.Reader) (string, error) {
	var line []byte
	var one [1]byte
	for len(line) < maxSaid {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			if n := len(line) - 1; n >= 0 && line[n] == '\r' {
				line = line[:n]
			}
			return string(line), nil
		}
		line = append(line, one[0])
	}
	return "", errors.New("line without an end")
}
