// Package web asks hosts that somebody else has chosen, over HTTPS: bounded in
// size, with no redirects, no proxy, no cookies, and never inside the site's own
// networks unless that is allowed.
package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"postern/filter/resolver"
)

var (
	// ErrStatus is an answer of another status than 200.
	ErrStatus = errors.New("no answer of use")
	// ErrSize is an answer that is longer than may be.
	ErrSize = errors.New("answer too long")
	// ErrNone is a host that says that there is no such page, or that is not there.
	ErrNone = errors.New("nothing there")
)

// Names is what is asked of the resolver; resolver.Client is the real one.
type Names interface {
	Addresses(ctx context.Context, host string) (resolver.Answer[netip.Addr], error)
}

// Dial opens a connection to an address.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// maxTried is how many addresses of a host are tried.
const maxTried = 4

// Client resolves names as every name of mail is resolved, and asks with a
// certificate that roots vouch for (nil: those of the system). Addresses that the
// Internet does not route are not asked, unless private allows it. A nil dial is
// the network's.
func Client(names Names, roots *x509.CertPool, private bool, dial Dial) *http.Client {
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
				err = fmt.Errorf("no address: %w", ErrNone)
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
			DisableCompression:     true, // an answer is as long as it is
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// Get gives what is at a URL, of at most that many bytes, with its media type.
func Get(ctx context.Context, c *http.Client, url string, most int64) (body []byte, kind string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("User-Agent", "postern")
	answer, err := c.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, "", fmt.Errorf("status %d: %w: %w", answer.StatusCode, ErrStatus, ErrNone)
	default:
		return nil, "", fmt.Errorf("status %d: %w", answer.StatusCode, ErrStatus)
	}
	body, err = io.ReadAll(io.LimitReader(answer.Body, most+1))
	switch {
	case err != nil:
		return nil, "", err
	case int64(len(body)) > most:
		return nil, "", fmt.Errorf("more than %d bytes: %w", most, ErrSize)
	}
	return body, answer.Header.Get("Content-Type"), nil
}
