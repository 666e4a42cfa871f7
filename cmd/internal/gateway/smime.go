package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/chain"
	"postern/filter/chain/fetch"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/filter/smime"
	"postern/hsm"
)

// maxChain is how many certificates are sent along with ours at most.
const maxChain = 8

// Authorities is where the site's anchors and intermediates stand.
type Authorities interface {
	Authorities(ctx context.Context) ([]keyring.Cert, error)
	State(ctx context.Context) (string, error)
}

// SMIME is the Protector for S/MIME, and judges certificates: by the authorities
// as they stand in the keyring now. What an operator adds or distrusts counts
// from the next mail on.
type SMIME struct {
	ring   Authorities
	config smime.Config
	chain  chain.Config // but for what the keyring says
	public []chain.Anchor

	mutex sync.Mutex
	state string // of the ring, when it was asked
	said  string // by which court was made
	court *court
}

// court is what follows from one state of the authorities.
type court struct {
	*smime.Protector
	judge *chain.Judge
}

var _ protect.Protector = (*SMIME)(nil)

// NewSMIME makes it as c says.
func NewSMIME(c *config.Filterd, token hsm.Token, ring Authorities) (*SMIME, error) {
	s := &SMIME{ring: ring,
		config: smime.Config{Token: token, Limits: limits(c), MaxExpanded: int64(c.Limits.MessageSize), Headers: headers.Policy(c.Default.Headers), Legacy: c.SMIME.TripleDES == "open"},
		chain: chain.Config{BareOwn: c.SMIME.BareOwn, Budget: time.Duration(c.SMIME.Budget),
			Mode: map[string]chain.Mode{"off": chain.Off, "soft": chain.Soft}[c.SMIME.Revocation]}, // and hard for all else
	}
	if c.Default.Unauthenticated == "sealed" {
		s.config.Unauthenticated = smime.Sealed
	}
	var err error
	if c.SMIME.Roots == "public" {
		if s.public, err = chain.Bundle(); err != nil {
			return nil, fmt.Errorf("read public roots: %w", err)
		}
	}
	if s.chain.Mode != chain.Off {
		if s.chain.Fetcher, err = fetch.New(fetch.Config{Private: c.SMIME.Private, Proxy: c.SMIME.Proxy}); err != nil {
			return nil, fmt.Errorf("ask about revocation: %w", err)
		}
	}
	return s, nil
}

// now gives the court for what the keyring says.
func (s *SMIME) now(ctx context.Context) (*court, error) {
	state, err := s.ring.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up authorities: %w", err)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.court != nil && state != "" && state == s.state {
		return s.court, nil
	}
	list, err := s.ring.Authorities(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up authorities: %w", err)
	}
	var said strings.Builder
	for _, c := range list {
		fmt.Fprintln(&said, c.Fingerprint, c.Role, c.Trust)
	}
	if s.court == nil || s.said != said.String() {
		made, err := s.convene(list)
		if err != nil {
			return nil, fmt.Errorf("judge by the authorities: %w: %w", err, filter.ErrConfig)
		}
		s.court, s.said = made, said.String()
	}
	s.state = state // of before the list: what changed in between is seen the next time
	return s.court, nil
}

// convene takes anchors only on an operator's word, and drops what he distrusts,
// a public root too.
func (s *SMIME) convene(list []keyring.Cert) (*court, error) {
	rules := s.chain
	rules.Anchors, rules.Intermediates = nil, nil
	for _, c := range list {
		x, err := x509.ParseCertificate(c.Raw)
		if err != nil || fingerprint(x) != c.Fingerprint {
			continue // it judges nobody
		}
		switch {
		case c.Trust == keyring.Distrusted:
		case c.Role == keyring.Anchor && c.Trust == keyring.Trusted:
			rules.Anchors = append(rules.Anchors, chain.Anchor{Cert: x, Own: true})
		case c.Role == keyring.Intermediate:
			rules.Intermediates = append(rules.Intermediates, x)
		}
	}
	for _, a := range s.public {
		name := fingerprint(a.Cert)
		if !slices.ContainsFunc(list, func(c keyring.Cert) bool {
			return c.Fingerprint == name && (c.Role == keyring.Anchor || c.Trust == keyring.Distrusted)
		}) {
			rules.Anchors = append(rules.Anchors, a)
		}
	}
	judge, err := chain.New(rules)
	if err != nil {
		return nil, err
	}
	config := s.config
	config.Judge, config.Chain = judge, func(x *x509.Certificate) []*x509.Certificate { return between(x, rules.Intermediates) }
	return &court{smime.New(config), judge}, nil
}

// between are the intermediates above x that are known, nearest first.
func between(x *x509.Certificate, known []*x509.Certificate) (path []*x509.Certificate) {
	for range maxChain {
		i := slices.IndexFunc(known, func(c *x509.Certificate) bool {
			return string(c.RawSubject) == string(x.RawIssuer) && !c.Equal(x) && x.CheckSignatureFrom(c) == nil
		})
		if i < 0 || slices.ContainsFunc(path, known[i].Equal) {
			break
		}
		x = known[i]
		path = append(path, x)
	}
	return path
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// Format is keyring.SMIME.
func (s *SMIME) Format() keyring.Format { return keyring.SMIME }

// Detect looks at structure only.
func (s *SMIME) Detect(m *message.Message) protect.Layer { return smime.New(s.config).Detect(m) }

// Open takes the layer off.
func (s *SMIME) Open(ctx context.Context, r protect.OpenRequest) (*message.Message, protect.Finding, error) {
	c, err := s.now(ctx)
	if err != nil {
		return nil, protect.Finding{}, err
	}
	return c.Open(ctx, r)
}

// Seal signs, then encrypts.
func (s *SMIME) Seal(ctx context.Context, r protect.SealRequest) (*message.Message, error) {
	c, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	return c.Seal(ctx, r)
}

// Usable tells whether the certificate can be sealed to.
func (s *SMIME) Usable(c keyring.Cert, at time.Time) error { return smime.New(s.config).Usable(c, at) }

// Signs tells whether the identity can sign.
func (s *SMIME) Signs(i keyring.Identity, at time.Time) error {
	return smime.New(s.config).Signs(i, at)
}

// Class names the kind of recipient.
func (s *SMIME) Class(c keyring.Cert) string { return smime.New(s.config).Class(c) }

// Path finds the way from a certificate to an anchor.
func (s *SMIME) Path(ctx context.Context, c keyring.Cert, use chain.Use, at time.Time) (chain.Path, error) {
	x, err := x509.ParseCertificate(c.Raw)
	if err != nil || fingerprint(x) != c.Fingerprint {
		return chain.Path{}, fmt.Errorf("certificate %s: %w", c.Fingerprint, chain.ErrForm)
	}
	now, err := s.now(ctx)
	if err != nil {
		return chain.Path{}, err
	}
	return now.judge.Judge(ctx, chain.Request{Cert: x, At: at, Use: use})
}

// Begin lets all judgements of one mail share one budget.
func (s *SMIME) Begin(ctx context.Context) context.Context {
	return chain.Mail(ctx, s.chain.Budget)
}

// Fit is nil for a certificate that names the address itself and whose path is
// good for sealing. Anything that says so for now only, is no filter.ErrUnfit.
func (s *SMIME) Fit(ctx context.Context, c keyring.Cert, a message.Address, at time.Time) error {
	x, err := x509.ParseCertificate(c.Raw)
	if err != nil || c.Format != keyring.SMIME {
		return filter.ErrUnfit
	}
	if !slices.ContainsFunc(chain.Addresses(x), func(b message.Address) bool { return a.Key() == b.Key() }) {
		return fmt.Errorf("names another address: %w", filter.ErrUnfit)
	}
	_, err = s.Path(ctx, c, chain.Encryption, at)
	for _, no := range []error{chain.ErrUntrusted, chain.ErrExpired, chain.ErrRevoked, chain.ErrPurpose, chain.ErrWeak, chain.ErrForm} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", err, filter.ErrUnfit)
		}
	}
	return err
}

// Revoked tells whether an authority says so of a certificate, whoever trusts it.
func (s *SMIME) Revoked(ctx context.Context, c keyring.Cert, at time.Time) bool {
	if c.Format != keyring.SMIME {
		return false
	}
	_, err := s.Path(ctx, c, chain.Encryption, at)
	return errors.Is(err, chain.ErrRevoked)
}
