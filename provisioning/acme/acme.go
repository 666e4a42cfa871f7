// Package acme orders certificates for mail of an authority: the client's part
// of ACME (RFC 8555) with identifiers of the type email and the challenge
// email-reply-00 (RFC 8823), as far as it goes over HTTPS. The mails are
// somebody else's: one call brings an order one step further, and none waits
// for a mail.
//
// The protocol is mholt/acmez's. What is done here beyond it: bounds, no
// redirections, one kind of error for each thing to do about it, and texts of
// the server in one printable line.
package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"postern/filter/challenge"
)

// Why there is no certificate.
var (
	ErrAway    = errors.New("server away")                        // nothing was decided: ask again
	ErrLater   = errors.New("server wants to be asked later")     // a *Later says when
	ErrDenied  = errors.New("server does not take us")            // account, its binding, or the terms
	ErrTerms   = errors.New("terms of service are not agreed to") // a *Terms says where they are
	ErrRefused = errors.New("server refused the request")         // what it was asked for
	ErrInvalid = errors.New("the order came to nothing")          // and another one may go better
	ErrAnswer  = errors.New("answer is none of ACME's")           // not understood, or not what was asked for
	ErrConfig  = errors.New("configuration does not hold")        // of New
)

// Limits of what a server is given, and of what it answers.
const (
	maxAnswer    = 1 << 20 // bytes
	maxQuestions = 64      // of one step
	maxReason    = 300     // bytes of a refusal that are shown
	maxWait      = 24 * time.Hour
	maxURL       = 2048
	timeout      = 60 * time.Second // of one question
	patience     = 20 * time.Second // while a certificate is being made
)

// Later is a server that wants to be asked again after a while.
type Later struct {
	After time.Duration // a day at most; 0: it did not say
	Why   string        // its words, or ""
}

// Error implements error.
func (l *Later) Error() string {
	text := ErrLater.Error()
	if l.After > 0 {
		text = fmt.Sprintf("%v, in %v", text, l.After)
	}
	if l.Why != "" {
		text += ": " + l.Why
	}
	return text
}

// Unwrap is ErrLater.
func (l *Later) Unwrap() error { return ErrLater }

// Terms are those of a server that wants them agreed to.
type Terms struct{ URL string }

// Error implements error.
func (t *Terms) Error() string { return ErrTerms.Error() + ": " + t.URL }

// Unwrap is ErrTerms.
func (t *Terms) Unwrap() error { return ErrTerms }

// Config says which server, and who asks.
type Config struct {
	URL     string         // of the directory (RFC 8555 §7.1.1); https
	Roots   *x509.CertPool // nil: the system's
	Contact []string       // addresses of mail
	Agreed  bool           // to the terms of service
	// Binding names an account elsewhere that ours is bound to (RFC 8555 §7.3.4):
	// its key identifier, and the MAC key in base64url. Empty: none.
	Binding, MAC string
	Key          crypto.Signer // of the account; P-256
	Join         challenge.Join
}

// Server is an ACME server as one account sees it.
type Server struct {
	config  Config
	client  *acme.Client
	guard   *guard
	key     *key
	account acme.Account // its Location is "" until the server was asked
	print   string       // thumbprint of its key
}

// New knows a server; nothing is asked yet.
func New(c Config) (*Server, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("ACME server %.100q: want a URL that begins with https: %w", c.URL, ErrConfig)
	}
	if c.Key == nil || !isP256(c.Key.Public()) {
		return nil, fmt.Errorf("ACME server %s: want an account key of P-256: %w", u.Host, ErrConfig)
	}
	if c.Binding != "" {
		if mac, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(c.MAC, "=")); err != nil || len(mac) < 32 { // RFC 7518 §3.2
			return nil, fmt.Errorf("ACME server %s: key of the external account: want 32 bytes or more in base64url: %w", u.Host, ErrConfig)
		}
	}
	s := &Server{config: c, guard: newGuard(c.Roots), key: &key{Signer: c.Key}}
	s.account.PrivateKey = s.key
	if s.print, err = s.account.Thumbprint(); err != nil {
		return nil, fmt.Errorf("ACME server %s: account key: %w: %w", u.Host, ErrConfig, err)
	}
	s.client = &acme.Client{Directory: c.URL, UserAgent: "postern", PollTimeout: patience, PollInterval: time.Second,
		HTTPClient: &http.Client{Timeout: timeout, Transport: s.guard, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	return s, nil
}

func isP256(k crypto.PublicKey) bool {
	p, ok := k.(*ecdsa.PublicKey)
	return ok && p.Curve == elliptic.P256()
}

// Close ends connections that are kept for the next question.
func (s *Server) Close() { s.guard.next.CloseIdleConnections() }

// open finds the account of the key, and makes it where there is none: so none
// has to be remembered.
func (s *Server) open(ctx context.Context) error {
	if s.account.Location != "" {
		return nil
	}
	dir, err := s.client.GetDirectory(ctx)
	if err != nil {
		return err
	}
	found, err := s.client.GetAccount(ctx, s.account)
	if missing(err) {
		found, err = s.register(ctx, dir)
	}
	if err != nil {
		return err
	}
	if found.Status != "" && found.Status != acme.StatusValid {
		return fmt.Errorf("account is %.40q: %w", found.Status, ErrDenied)
	}
	if !sound(found.Location) {
		return fmt.Errorf("account without a URL: %w", ErrAnswer)
	}
	s.account.Location = found.Location
	return nil
}

func missing(err error) bool {
	p, ok := errors.AsType[acme.Problem](err)
	return ok && p.Type == acme.ProblemTypeAccountDoesNotExist
}

func (s *Server) register(ctx context.Context, dir acme.Directory) (acme.Account, error) {
	fresh := s.account
	if dir.Meta != nil {
		if dir.Meta.TermsOfService != "" && !s.config.Agreed {
			return fresh, &Terms{line(dir.Meta.TermsOfService)}
		}
		if dir.Meta.ExternalAccountRequired && s.config.Binding == "" {
			return fresh, fmt.Errorf("it wants an account of its own bound to ours: %w", ErrDenied)
		}
	}
	fresh.TermsOfServiceAgreed = s.config.Agreed
	for _, a := range s.config.Contact {
		fresh.Contact = append(fresh.Contact, "mailto:"+a)
	}
	if s.config.Binding != "" {
		if err := fresh.SetExternalAccountBinding(ctx, s.client, acme.EAB{KeyID: s.config.Binding, MACKey: strings.TrimRight(s.config.MAC, "=")}); err != nil {
			return fresh, err
		}
	}
	return s.client.NewAccount(ctx, fresh)
}

// State is how far an order is (RFC 8555 §7.1.6).
type State string

// The states of an order.
const (
	Pending    State = acme.StatusPending    // the address has to be proved
	Ready      State = acme.StatusReady      // Finish it
	Processing State = acme.StatusProcessing // being made
	Valid      State = acme.StatusValid      // made: Finish fetches it
	Invalid    State = acme.StatusInvalid
)

// Challenge is how the address of an order is proved (RFC 8823 §3).
type Challenge struct {
	URL    string // "": it is proved already
	Token  string // its second half
	Sender string // who the mail comes from
}

// Order orders a certificate for one address. The mail is on its way only after
// the challenge was asked for, so that the order can be written down before.
func (s *Server) Order(ctx context.Context, address string) (order string, expires time.Time, err error) {
	err = s.step(ctx, "order a certificate", func() error {
		o, err := s.client.NewOrder(ctx, s.account, acme.Order{Identifiers: []acme.Identifier{{Type: "email", Value: address}}})
		if err != nil {
			return err
		}
		if len(o.Identifiers) != 1 || o.Identifiers[0].Type != "email" || !strings.EqualFold(o.Identifiers[0].Value, address) || !sound(o.Location) {
			return fmt.Errorf("order for something else: %w", ErrAnswer)
		}
		order, expires = o.Location, o.Expires
		return nil
	})
	return order, expires, err
}

// Challenge asks how the address of an order is proved, by which the authority
// sends its mail.
func (s *Server) Challenge(ctx context.Context, order string) (c Challenge, err error) {
	err = s.step(ctx, "ask how the address is proved", func() error {
		a, _, err := s.proof(ctx, order)
		if err != nil || a.Status == acme.StatusValid {
			return err
		}
		if a.Status != acme.StatusPending {
			return fmt.Errorf("authorization is %.40q: %w", a.Status, ErrInvalid)
		}
		i := slices.IndexFunc(a.Challenges, func(c acme.Challenge) bool { return c.Type == acme.ChallengeTypeEmailReply00 })
		if i < 0 {
			return fmt.Errorf("it does not prove addresses by mail (email-reply-00): %w", ErrRefused)
		}
		one := a.Challenges[i]
		if !sound(one.URL) || one.Token == "" || len(one.Token) > maxURL || one.From == "" || len(one.From) > maxURL {
			return fmt.Errorf("challenge without URL, token or sender: %w", ErrAnswer)
		}
		c = Challenge{URL: one.URL, Token: one.Token, Sender: one.From}
		return nil
	})
	return c, err
}

// proof is the one authorization of an order.
func (s *Server) proof(ctx context.Context, order string) (a acme.Authorization, o acme.Order, err error) {
	if o, err = s.client.GetOrder(ctx, s.account, acme.Order{Location: order}); err != nil {
		return a, o, err
	}
	if len(o.Authorizations) != 1 || !sound(o.Authorizations[0]) {
		return a, o, fmt.Errorf("%d authorizations for one address: %w", len(o.Authorizations), ErrAnswer)
	}
	a, err = s.client.GetAuthorization(ctx, s.account, o.Authorizations[0])
	return a, o, err
}

// Digest is what the answer to a challenge mail holds.
func (s *Server) Digest(first, second string) (string, error) {
	return challenge.Digest(s.config.Join, first, second, s.print)
}

// Answered tells that the answer is on its way (RFC 8823 §3).
func (s *Server) Answered(ctx context.Context, url string) error {
	return s.step(ctx, "tell of the answer", func() error {
		_, err := s.client.InitiateChallenge(ctx, s.account, acme.Challenge{URL: url})
		return err
	})
}

// Look asks how far an order is. An Invalid one comes with why, in the error
// that wraps ErrInvalid.
func (s *Server) Look(ctx context.Context, order string) (state State, err error) {
	err = s.step(ctx, "look at the order", func() error {
		a, o, err := s.proof(ctx, order)
		if err != nil {
			return err
		}
		state = State(o.Status)
		switch state {
		case Pending, Ready, Processing, Valid:
			if a.Status != acme.StatusInvalid && a.Status != acme.StatusExpired && a.Status != acme.StatusDeactivated && a.Status != acme.StatusRevoked {
				return nil
			}
		case Invalid:
		default:
			return fmt.Errorf("order is %.40q: %w", o.Status, ErrAnswer)
		}
		state = Invalid
		for _, c := range a.Challenges {
			if c.Error != nil {
				return fmt.Errorf("%w: %s", ErrInvalid, words(*c.Error))
			}
		}
		if o.Error != nil {
			return fmt.Errorf("%w: %s", ErrInvalid, words(*o.Error))
		}
		return fmt.Errorf("%w: authorization is %s", ErrInvalid, line(a.Status))
	})
	return state, err
}

// Finish has the certificate made from a request (PKCS#10 in DER), where that
// was not done yet, and gives it, then what came along.
func (s *Server) Finish(ctx context.Context, order string, request []byte) (certs []*x509.Certificate, err error) {
	wanted, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("ask for certificate: %w", err)
	}
	err = s.step(ctx, "fetch the certificate", func() error {
		o, err := s.client.GetOrder(ctx, s.account, acme.Order{Location: order})
		if err != nil {
			return err
		}
		if o.Status == acme.StatusReady {
			if !sound(o.Finalize) {
				return fmt.Errorf("order without a way to finish it: %w", ErrAnswer)
			}
			if o, err = s.client.FinalizeOrder(ctx, s.account, o, request); err != nil && o.Status == acme.StatusProcessing && ctx.Err() == nil {
				return &Later{After: s.guard.wait()}
			}
		}
		switch {
		case err != nil:
			return err
		case o.Status == acme.StatusProcessing:
			return &Later{After: s.guard.wait()}
		case o.Status != acme.StatusValid || !sound(o.Certificate):
			return fmt.Errorf("order is %.40q: %w", o.Status, ErrInvalid)
		}
		chains, err := s.client.GetCertificateChain(ctx, s.account, o.Certificate)
		if err != nil {
			return err
		}
		certs, err = read(chains[0].ChainPEM, wanted.PublicKey)
		return err
	})
	return certs, err
}

// read reads a chain in PEM that begins with the certificate of the key.
func read(text []byte, wanted crypto.PublicKey) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(certs) == maxQuestions {
			return nil, fmt.Errorf("no chain of certificates: %w", ErrAnswer)
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate in the answer: %w", ErrAnswer)
		}
		certs = append(certs, x)
	}
	if len(certs) == 0 || len(bytes.TrimSpace(text)) > 0 {
		return nil, fmt.Errorf("no chain of certificates: %w", ErrAnswer)
	}
	if k, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(wanted) {
		return nil, fmt.Errorf("the certificate is for another key: %w", ErrAnswer)
	}
	return certs, nil
}

// sound reports whether a URL of a server may be asked.
func sound(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= maxURL && u.Scheme == "https" && u.Host != "" && u.User == nil
}
