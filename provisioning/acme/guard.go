package acme

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/mholt/acmez/v3/acme"
)

// guard bounds what a server can make a client do: the number of questions in a
// step, the size of answers, and where they go. It remembers what the last
// answer said of when to come back, which the library keeps to itself.
type guard struct {
	next *http.Transport

	mu    sync.Mutex
	left  int
	after time.Duration
	code  int // of the last answer; 0: there was none
}

var errMany = errors.New("too many questions for one step")

func newGuard(roots *x509.CertPool) *guard {
	return &guard{next: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: timeout / 2, ResponseHeaderTimeout: timeout,
		DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 1, IdleConnTimeout: timeout,
	}}
}

// key is the key of an account as the library wants one that is not in memory:
// its signatures are those of JWS, R and S side by side (RFC 7518 §3.4). It
// remembers why it did not sign, of which the library passes on the text alone.
type key struct {
	crypto.Signer
	err error
}

// Sign implements crypto.Signer, but for the form of the signature.
func (k *key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.Signer.Sign(random, digest, opts)
	if err == nil {
		signature, err = sideBySide(signature)
	}
	if err != nil {
		k.err = err
	}
	return signature, err
}

// sideBySide takes apart what crypto.Signer gives for P-256 (RFC 3279 §2.2.3).
func sideBySide(der []byte) ([]byte, error) {
	var pair struct{ R, S *big.Int }
	const size = 32
	if rest, err := asn1.Unmarshal(der, &pair); err != nil || len(rest) > 0 || pair.R.Sign() <= 0 || pair.S.Sign() <= 0 || pair.R.BitLen() > 8*size || pair.S.BitLen() > 8*size {
		return nil, errors.New("no signature of P-256")
	}
	out := make([]byte, 2*size)
	pair.R.FillBytes(out[:size])
	pair.S.FillBytes(out[size:])
	return out, nil
}

// begin is a new step.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.after, g.code = maxQuestions, 0, 0
}

// wait is when the last answer wants to be asked again; 0: it did not say.
func (g *guard) wait() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.after
}

func (g *guard) status() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.code
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	g.left--
	left := g.left
	g.mu.Unlock()
	switch {
	case left < 0:
		return nil, errMany
	case !sound(r.URL.String()):
		return nil, fmt.Errorf("asked of %.80q: %w", r.URL.Redacted(), ErrAnswer)
	}
	answer, err := g.next.RoundTrip(r)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.code, g.after = 0, 0
		return nil, err
	}
	g.code, g.after = answer.StatusCode, after(answer.Header, time.Now())
	answer.Body = &bounded{answer.Body, maxAnswer}
	return answer, nil
}

// bounded ends with an error what is too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes: %w", maxAnswer, ErrAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// after reads Retry-After: seconds, or a date.
func after(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxWait)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now).Round(time.Second), maxWait)
	}
	return 0
}

// step is one question, with all that the library asks for it, and its error in
// our words.
func (s *Server) step(ctx context.Context, what string, f func() error) error {
	s.guard.begin()
	s.key.err = nil
	err := s.open(ctx)
	if err == nil {
		err = f()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.key.err != nil {
		return fmt.Errorf("%s: sign with the account key: %w", what, s.key.err)
	}
	u, _ := url.Parse(s.config.URL)
	return fmt.Errorf("%s of %s: %w", what, u.Host, s.judge(err))
}

// judge puts an error in our words; one of ours stays.
func (s *Server) judge(err error) error {
	for _, own := range []error{ErrAway, ErrLater, ErrDenied, ErrTerms, ErrRefused, ErrInvalid, ErrAnswer, ErrConfig} {
		if errors.Is(err, own) {
			return err
		}
	}
	if errors.Is(err, errMany) {
		return fmt.Errorf("%w: %w", ErrAnswer, errMany)
	}
	if p, ok := errors.AsType[acme.Problem](err); ok {
		return s.problem(p)
	}
	code := s.guard.status()
	switch {
	case code == http.StatusTooManyRequests:
		return &Later{After: s.guard.wait()}
	case code >= 500:
		return fmt.Errorf("%w: status %d", ErrAway, code)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%w: status %d", ErrDenied, code)
	case code >= 300:
		return fmt.Errorf("status %d: %w", code, ErrAnswer)
	case code != 0: // the answer is there, and the library does not take it
		return fmt.Errorf("%w: %s", ErrAnswer, line(err.Error()))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%w: %s", ErrAway, line(err.Error()))
}

// problem is a refusal as the server worded it (RFC 8555 §6.7).
func (s *Server) problem(p acme.Problem) error {
	switch strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace) {
	case "rateLimited":
		return &Later{After: s.guard.wait(), Why: words(p)}
	case "serverInternal", "badNonce":
		return fmt.Errorf("%w: %s", ErrAway, words(p))
	case "accountDoesNotExist", "externalAccountRequired", "unauthorized", "userActionRequired", "invalidContact", "unsupportedContact", "badPublicKey", "badSignatureAlgorithm":
		return fmt.Errorf("%w: %s", ErrDenied, words(p))
	}
	if p.Status >= 500 {
		return fmt.Errorf("%w: %s", ErrAway, words(p))
	}
	return fmt.Errorf("%w: %s", ErrRefused, words(p))
}

// words are a problem in one line.
func words(p acme.Problem) string {
	text := strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	for _, sub := range p.Subproblems[:min(len(p.Subproblems), 3)] {
		text += "; " + strings.TrimPrefix(sub.Type, acme.ProblemTypeNamespace) + ": " + sub.Detail
	}
	return line(text)
}

// line is the beginning of a text for people, in one printable line.
func line(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "?")
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }), " ")
}
