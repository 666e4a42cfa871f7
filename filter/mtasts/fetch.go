package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"postern/filter/resolver"
)

// ErrFetch is a policy that there is a record of, and that cannot be had.
var ErrFetch = errors.New("no policy at its place")

// Names is what is asked of the resolver; resolver.Client is the real one.
type Names interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	Addresses(ctx context.Context, host string) (resolver.Answer[netip.Addr], error)
}

// maxTried is how many addresses of a host are tried.
const maxTried = 4

// client asks for policies: over HTTPS with a certificate that the public
// authorities vouch for, no redirects, no proxy, no cookies (RFC 8461 §3.3).
// The name is resolved as every name of mail is, and addresses that the
// Internet does not route are not asked, unless private allows it: the host is
// the choice of whoever owns the domain.
func client(names Names, roots *x509.CertPool, private bool, dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				at, err := names.Addresses(ctx, host)
				if err != nil {
					return nil, err
				}
				err = errors.New("no address")
				for _, a := range at.Found[:min(len(at.Found), maxTried)] {
					if !private && !resolver.Public(a) {
						err = fmt.Errorf("%v is not of the Internet", a)
						continue
					}
					c, problem := dial(ctx, "tcp", net.JoinHostPort(a.String(), port))
					if problem == nil {
						return c, nil
					}
					err = problem
				}
				return nil, err
			},
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			DisableCompression:     true, // a policy is as long as it is
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// fetch reads the policy of domain from its place.
func fetch(ctx context.Context, c *http.Client, domain string) (Policy, error) {
	bad := func(err error) (Policy, error) {
		return Policy{}, fmt.Errorf("fetch policy of %.100q: %w: %w", domain, ErrFetch, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", http.NoBody)
	if err != nil {
		return bad(err)
	}
	r.Header.Set("User-Agent", "postern")
	answer, err := c.Do(r)
	if err != nil {
		return bad(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return bad(fmt.Errorf("status %d", answer.StatusCode))
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return bad(fmt.Errorf("type %.100q", answer.Header.Get("Content-Type")))
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxPolicy+1))
	if err != nil {
		return bad(err)
	}
	p, err := ParsePolicy(text)
	if err != nil {
		return bad(err)
	}
	return p, nil
}
