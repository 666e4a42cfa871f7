// Package chain judges X.509 certificates as mail needs it: a path to an
// anchor by RFC 5280 §6, at a time that is always given; the purpose of mail
// (RFC 8550 §4.4); name constraints, also for internationalised mailboxes (RFC
// 9598 §6); algorithms that hold; and whether anybody has revoked them.
//
// crypto/x509 parses and checks signatures here, and nothing more: its Verify
// compares names byte by byte (RFC 5280 §7.1 does not), lets a constraint on
// a host pass for its subdomains, knows no SmtpUTF8Mailbox, and takes a
// certificate without any extended key usage for one of mail.
//
// Departures from RFC 5280: an anchor's own validity, constraints, key usage
// and purpose are minded as if it were an intermediate; indirect CRLs are
// refused; extended key usage narrows what certificates below may do.
package chain

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"
)

// What can be wrong with a certificate. Each error of Judge is exactly one of
// these and tells the reason to a person.
var (
	ErrUntrusted = errors.New("untrusted certificate")             // no valid path to an anchor
	ErrExpired   = errors.New("certificate not valid at the time") // expired, or not yet valid
	ErrRevoked   = errors.New("revoked certificate")
	ErrPurpose   = errors.New("certificate not for this purpose")
	ErrWeak      = errors.New("weak algorithm in the certificate path") // R14
	ErrStatus    = errors.New("revocation status unknown")              // and the site insists on it
	ErrForm      = errors.New("malformed certificate")                  // or one that demands what is not understood
)

// ranks are the errors from the one that says most to the one that says least,
// where several paths fail for different reasons.
var ranks = []error{ErrRevoked, ErrStatus, ErrPurpose, ErrExpired, ErrWeak, ErrForm, ErrUntrusted}

// Limits on what a certificate set may cost. The numbers are several times
// what is met, and far below what hurts.
const (
	maxCert        = 64 << 10 // bytes of one certificate
	maxOthers      = 256      // certificates of a mail that are looked at
	maxPath        = 10       // certificates of a path, leaf and anchor included
	maxSteps       = 1000     // partial paths that are looked at
	maxChecks      = 100      // signatures of certificates that are checked
	maxPaths       = 20       // complete paths that are judged
	maxComparisons = 250_000  // of names with constraints
	maxNames       = 4096     // names in one extension
)

// Use is what a certificate shall be used for.
type Use uint8

const (
	Signing    Use = iota + 1 // it made a signature: digitalSignature or nonRepudiation
	Encryption                // it is sealed to: keyEncipherment or keyAgreement
)

// Mode is how much the site insists on knowing that a certificate is not revoked.
type Mode uint8

const (
	// Hard refuses a certificate of which nobody says that it is good. It is
	// the zero value, so that nothing fails open by omission.
	Hard Mode = iota
	// Soft accepts it, and asks.
	Soft
	// Off asks nobody, and minds only what says that it is revoked and is there already.
	Off
)

// Status is what is known about revocation along a path.
type Status uint8

const (
	Unknown Status = iota // of at least one certificate of the path
	Good                  // of every certificate, by evidence that is fresh at the time of judgement
)

// Anchor is a root that is trusted for mail.
type Anchor struct {
	Cert *x509.Certificate
	// Own says that the site added it: its users' certificates may lack an
	// extended key usage where Config.BareOwn says so, and it may be a leaf itself.
	Own bool
	// DistrustAfter ends trust for certificates of users that are issued
	// later; zero for never.
	DistrustAfter time.Time
}

// Config is all that a Judge goes by. The zero value trusts nobody.
type Config struct {
	Anchors       []Anchor
	Intermediates []*x509.Certificate
	// BareOwn admits leaves without extended key usage below anchors of the site.
	BareOwn bool
	Mode    Mode
	// CRLs and OCSP are evidence that the operator keeps, DER.
	CRLs, OCSP [][]byte
	// Fetcher asks distribution points and responders; nil: nobody is asked.
	Fetcher Fetcher
	// Budget is the time that fetching may take for one judgement, where Mail
	// has given none for all of a mail; 0 means 5 s.
	Budget time.Duration
}

// Request is one certificate to judge.
type Request struct {
	Cert   *x509.Certificate
	Others []*x509.Certificate // that came along: never trusted, only a way to an anchor
	// CRLs and OCSP that came along, DER: believed as far as they are signed.
	CRLs, OCSP [][]byte
	At         time.Time // of judgement; must be set
	Use        Use
}

// Path is the way from a certificate to the anchor that it was found good by.
type Path struct {
	Certs  []*x509.Certificate // leaf first, anchor last
	Anchor Anchor
	Status Status
	Notes  []string // for people: why a status is unknown
}

// Judge judges certificates. It is safe for concurrent use.
type Judge struct {
	config Config
	known  pool   // anchors and the site's intermediates
	lists  []*crl // of the operator
}

// New gives a judge; ErrForm if a list of the operator can't be used. What it
// was handed must not change any more.
func New(c Config) (*Judge, error) {
	if c.Budget <= 0 {
		c.Budget = 5 * time.Second
	}
	j := &Judge{config: c, known: pool{}}
	for i := range c.Anchors {
		j.known.add(&node{cert: c.Anchors[i].Cert, anchor: &c.Anchors[i]})
	}
	for _, cert := range c.Intermediates {
		j.known.add(&node{cert: cert})
	}
	for _, raw := range c.CRLs {
		list, err := readCRL(raw)
		if err != nil {
			return nil, err
		}
		j.lists = append(j.lists, list)
	}
	return j, nil
}

// Judge finds a path to an anchor on which the certificate is good for its use
// at the time, or says why there is none. Its work is bounded whatever the
// request holds; only fetching takes longer than that, up to the budget.
func (j *Judge) Judge(ctx context.Context, r Request) (Path, error) {
	switch {
	case r.Cert == nil:
		return Path{}, fmt.Errorf("judge certificate: there is none: %w", ErrForm)
	case r.At.IsZero():
		return Path{}, fmt.Errorf("judge certificate: no time is given: %w", ErrForm)
	case r.Use != Signing && r.Use != Encryption:
		return Path{}, fmt.Errorf("judge certificate: no use is given: %w", ErrPurpose)
	case len(r.Cert.Raw) > maxCert:
		return Path{}, fmt.Errorf("judge certificate: larger than %d bytes: %w", maxCert, ErrForm)
	}
	s := newSearch(j, r)
	var q *inquiry
	var second *Path // good but for its status: another may have that too, or tell that the leaf is revoked
	for {
		found := s.next()
		if found == nil {
			if second != nil {
				return *second, nil
			}
			return Path{}, s.failure()
		}
		if err := j.valid(found, r); err != nil {
			keep(&s.failed, err)
			continue
		}
		if q == nil { // one for all paths
			q = j.inquire(ctx, r, s)
		}
		status, notes, err := q.path(found)
		path := Path{Certs: found.certs(), Anchor: *found.anchor, Status: status, Notes: notes}
		switch {
		case err != nil && q.final:
			return Path{}, err
		case err != nil:
			keep(&s.failed, err)
		case status == Good || j.config.Mode == Off:
			return path, nil
		case second == nil:
			second = &path
		}
	}
}

// name tells a certificate to a person, without characters that could forge
// a line.
func name(c *x509.Certificate) string {
	if s := printed(c.Subject, c.RawSubject); s != "" {
		return s
	}
	return fmt.Sprintf("serial %.40x", c.SerialNumber)
}

// printed is a name in quotes, "" for an empty one. Printing takes time that
// grows with the square of the length, so that long ones are not printed.
func printed(n pkix.Name, raw []byte) string {
	switch {
	case len(raw) <= 2: // the header alone
		return ""
	case len(raw) > 1<<10:
		return "somebody with a long name"
	}
	return fmt.Sprintf("%.120q", n.String())
}
