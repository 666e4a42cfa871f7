// Package est asks an authority for certificates over HTTPS: the client's part
// of Enrollment over Secure Transport (RFC 7030, as RFC 8951 made it clear), as
// far as keys that never leave a token need it. That is /cacerts, /simpleenroll
// and /simplereenroll.
//
// It departs from RFC 7030 on purpose: redirections are not followed (§3.2.1
// would allow those to the same server), requests are not linked to the TLS
// session (§3.5, which TLS 1.3 has no words for), and the server is known by
// certificates that the operator names or the system has, never by trust at
// first use (§4.1.1).
package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"postern/filter/smime"
)

// Why there is no certificate.
var (
	ErrAway    = errors.New("server away")                 // nothing was decided: ask again
	ErrLater   = errors.New("server has not decided yet")  // a *Later says when to ask again
	ErrDenied  = errors.New("server does not take us")     // user, password or client certificate
	ErrRefused = errors.New("server refused the request")  // what it was asked for
	ErrAnswer  = errors.New("answer is none of EST's")     // not understood, or not what was asked for
	ErrConfig  = errors.New("configuration does not hold") // of New
)

// Limits of what a server is given, and of what it answers.
const (
	maxAnswer = 1 << 20 // bytes
	maxReason = 200     // bytes of a refusal that are shown
	maxWait   = 24 * time.Hour
	timeout   = 60 * time.Second // of one question
)

// Later is a server that has taken the request and wants to be asked again
// (RFC 7030 §4.2.3).
type Later struct {
	After time.Duration // 0: it did not say; a day at most
}

// Error implements error.
func (l *Later) Error() string {
	if l.After == 0 {
		return ErrLater.Error()
	}
	return fmt.Sprintf("%v, and wants to be asked again in %v", ErrLater, l.After)
}

// Unwrap is ErrLater.
func (l *Later) Unwrap() error { return ErrLater }

// Config says which server, and who asks.
type Config struct {
	URL            string         // https; without a path it is asked below /.well-known/est
	Label          string         // of several authorities there (RFC 7030 §3.2.2)
	Roots          *x509.CertPool // nil: the system's
	User, Password string         // HTTP Basic; empty: none
	Client         *tls.Certificate
}

// Server is an EST server as one client sees it.
type Server struct {
	config Config
	base   string
	http   *http.Client
}

// New knows a server; nothing is asked yet.
func New(c Config) (*Server, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("EST server %.100q: want a URL that begins with https: %w", c.URL, ErrConfig)
	}
	if strings.ContainsAny(c.Label, "/?#%") {
		return nil, fmt.Errorf("EST server %s: label %.40q: %w", u.Host, c.Label, ErrConfig)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/.well-known/est"
	}
	base := strings.TrimSuffix(u.String(), "/")
	if c.Label != "" {
		base += "/" + c.Label
	}
	return &Server{config: c, base: base, http: clientOf(c.Roots, c.Client)}, nil
}

// clientOf follows nobody elsewhere, and tells nothing but what it is asked to.
func clientOf(roots *x509.CertPool, client *tls.Certificate) *http.Client {
	t := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if client != nil {
		t.Certificates = []tls.Certificate{*client}
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: t, TLSHandshakeTimeout: timeout / 2, ResponseHeaderTimeout: timeout,
			DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 1, IdleConnTimeout: timeout,
		},
	}
}

// Close ends connections that are kept for the next question.
func (s *Server) Close() { s.http.CloseIdleConnections() }

// Authorities are the certificates of the authority, its root among them or
// not (RFC 7030 §4.1). They are no ground for trust by themselves.
func (s *Server) Authorities(ctx context.Context) ([]*x509.Certificate, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/cacerts", http.NoBody)
	if err != nil {
		return nil, err
	}
	certs, err := ask(s.http, r)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its authorities: %w", r.URL.Host, err)
	}
	return certs, nil
}

// Enrol asks for a certificate (RFC 7030 §4.2.1). request is PKCS#10 in DER.
// It gives the certificate of the key in it first, then what came along.
func (s *Server) Enrol(ctx context.Context, request []byte) ([]*x509.Certificate, error) {
	return s.post(ctx, s.http, "/simpleenroll", request)
}

// Reenrol asks for the successor of a certificate that the client shows in the
// handshake (RFC 7030 §4.2.2), with a new key or with the same. Subject and
// alternative names of the request must be those of that certificate.
func (s *Server) Reenrol(ctx context.Context, request []byte, old tls.Certificate) ([]*x509.Certificate, error) {
	c := clientOf(s.config.Roots, &old)
	defer c.CloseIdleConnections()
	return s.post(ctx, c, "/simplereenroll", request)
}

func (s *Server) post(ctx context.Context, c *http.Client, where string, request []byte) ([]*x509.Certificate, error) {
	wanted, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("ask for certificate: %w", err)
	}
	body := base64.StdEncoding.EncodeToString(request)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+where, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/pkcs10")
	r.Header.Set("Content-Transfer-Encoding", "base64") // RFC 8951 §3.1: needless, and servers of before want it
	if s.config.User != "" {
		r.SetBasicAuth(s.config.User, s.config.Password)
	}
	certs, err := ask(c, r)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", r.URL.Host, err)
	}
	for i, x := range certs {
		if k, ok := x.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && k.Equal(wanted.PublicKey) {
			certs[0], certs[i] = certs[i], certs[0]
			return certs, nil
		}
	}
	return nil, fmt.Errorf("ask %s for a certificate: it is for another key: %w", r.URL.Host, ErrAnswer)
}

// ask gives the certificates in an answer.
func ask(c *http.Client, r *http.Request) ([]*x509.Certificate, error) {
	r.Header.Set("User-Agent", "postern")
	answer, err := c.Do(r)
	if err != nil {
		if ctx := r.Context().Err(); ctx != nil {
			return nil, ctx
		}
		// the library's own text begins with the method and the whole URL
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err := refusal(answer, body); err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("more than %d bytes: %w", maxAnswer, ErrAnswer)
	}
	return read(answer.Header.Get("Content-Type"), body)
}

// refusal is why the answer holds no certificates.
func refusal(answer *http.Response, body []byte) error {
	said := fmt.Sprintf("status %d", answer.StatusCode)
	if text := reason(body); text != "" {
		said += ": " + text
	}
	switch code := answer.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusAccepted:
		return &Later{After: after(answer.Header)}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrDenied, said)
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("%w: %s", ErrAway, said)
	case code >= 400:
		return fmt.Errorf("%w: %s", ErrRefused, said)
	}
	return fmt.Errorf("%s: %w", said, ErrAnswer)
}

// after reads a number of seconds; a date counts as nothing said.
func after(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxWait)
}

// reason is the beginning of a text for people, in one line.
func reason(body []byte) string {
	text := string(bytes.ToValidUTF8(body[:min(len(body), maxReason)], []byte("?")))
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }), " ")
}

// read reads certs-only CMS in base64 (RFC 7030 §4.1.3, §4.2.3). What the field
// Content-Transfer-Encoding says does not matter (RFC 8951 §3.1).
func read(kind string, body []byte) ([]*x509.Certificate, error) {
	if t, _, err := mime.ParseMediaType(kind); err != nil || t != "application/pkcs7-mime" {
		return nil, fmt.Errorf("content type %.80q: %w", kind, ErrAnswer)
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(body)), ""))
	if err != nil {
		return nil, fmt.Errorf("no base64: %w", ErrAnswer)
	}
	list, err := smime.Read(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	certs := make([]*x509.Certificate, 0, len(list))
	for _, c := range list {
		x, err := x509.ParseCertificate(c.Raw)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", c.Fingerprint, ErrAnswer)
		}
		certs = append(certs, x)
	}
	return certs, nil
}
