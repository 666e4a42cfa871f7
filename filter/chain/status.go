package chain

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Limits on evidence about revocation.
const (
	maxBrought      = 32       // lists, and as many responses, that come along with a mail
	maxBroughtCRL   = 1 << 20  // bytes of one of these
	maxOCSP         = 64 << 10 // bytes of a response
	maxCRL          = 16 << 20 // bytes of a list that the operator keeps, or that was fetched
	maxStatusChecks = 64       // signatures of lists and responses
	maxBeside       = 64       // certificates beside the path that may sign lists
	maxFetches      = 16       // questions for one judgement
	maxURLs         = 2        // of one kind in one certificate
	maxNotes        = 32       // for people
	skew            = 5 * time.Minute
	maxUnbounded    = 24 * time.Hour // age of a response that names no end
)

// Fetcher asks the network. The judge hands it URLs of certificates whose path
// ends at an anchor, and nothing else; what comes back is believed as far as
// it is signed.
type Fetcher interface {
	// Fetch gives what is at the URL, or the answer to body where there is
	// one (an OCSP request). It may keep an answer and give it again until
	// the time that until says, which is zero for what is of no use.
	// until may be called by another goroutine, also after Fetch has returned.
	Fetch(ctx context.Context, url string, body []byte, until func(answer []byte) time.Time) ([]byte, error)
}

// response is an OCSP response, and whether it came along with the mail.
type response struct {
	raw     []byte
	brought bool
}

// inquiry gathers evidence for one judgement. What came along is limited by
// itself, so that no heap of it can hide what the operator keeps or what was
// fetched.
type inquiry struct {
	*search
	mode      Mode
	fetcher   Fetcher
	ctx       context.Context
	allowance *allowance
	at        time.Time
	lists     []*crl
	responses []response
	checks    int
	beside    int
	fetches   int
	final     bool // the leaf is revoked: no other path helps
	asked     map[string]bool
	notes     []string
}

// allowance is the time that asking may still take.
type allowance struct {
	mu   sync.Mutex
	left time.Duration
}

// take gives what is left, and a function that takes off what was used since.
func (a *allowance) take() (left time.Duration, used func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	begin := time.Now()
	return a.left, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.left -= time.Since(begin)
	}
}

type allowanceKey struct{}

// Mail gives a context for all judgements of one mail, whoever judges: they
// share the budget, where each would have that of its Judge for itself.
func Mail(ctx context.Context, budget time.Duration) context.Context {
	return context.WithValue(ctx, allowanceKey{}, &allowance{left: budget})
}

// inquire begins an inquiry.
func (j *Judge) inquire(ctx context.Context, r Request, s *search) *inquiry {
	q := &inquiry{search: s, mode: j.config.Mode, fetcher: j.config.Fetcher, ctx: ctx, at: r.At, asked: map[string]bool{}}
	if q.mode == Off {
		return q
	}
	if q.allowance, _ = ctx.Value(allowanceKey{}).(*allowance); q.allowance == nil {
		q.allowance = &allowance{left: j.config.Budget}
	}
	q.lists = append(q.lists, j.lists...)
	for _, raw := range j.config.OCSP {
		q.responses = append(q.responses, response{raw, false})
	}
	for _, raw := range r.OCSP[:min(len(r.OCSP), maxBrought)] {
		q.responses = append(q.responses, response{raw, true})
	}
	for _, raw := range r.CRLs[:min(len(r.CRLs), maxBrought)] {
		if len(raw) > maxBroughtCRL {
			q.say("a revocation list that came along is larger than %d bytes", maxBroughtCRL)
			continue
		}
		q.take(raw, true)
	}
	return q
}

// take adds a list, if it is one.
func (q *inquiry) take(raw []byte, brought bool) {
	list, err := readCRL(raw)
	if err != nil {
		q.say("%v", err)
		return
	}
	list.brought = brought
	q.lists = append(q.lists, list)
}

func (q *inquiry) say(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); len(q.notes) < maxNotes && !slices.Contains(q.notes, note) {
		q.notes = append(q.notes, note)
	}
}

// path tells the status of a path, or the reason to refuse it.
func (q *inquiry) path(top *step) (Status, []string, error) {
	if q.mode == Off {
		return Unknown, []string{"revocation is off"}, nil
	}
	path := top.certs()
	status := Good
	for i := range len(path) - 1 { // the leaf first: it is asked for while there is time
		v := q.judge(path, i, true)
		switch {
		case v.err != nil:
			q.final = q.final || i == 0
			return Unknown, nil, v.err
		case !v.good && q.mode == Hard:
			reason := fmt.Errorf("status of %s: %w", name(path[i]), ErrStatus)
			if len(q.notes) > 0 {
				reason = fmt.Errorf("%w (%s)", reason, q.notes[len(q.notes)-1])
			}
			return Unknown, nil, reason
		case !v.good:
			q.say("nobody says whether %s is revoked", name(path[i]))
			status = Unknown
		}
	}
	if status == Good {
		return Good, nil, nil
	}
	return status, q.notes, nil
}

// verdict is what evidence says of one certificate.
type verdict struct {
	good bool
	err  error // ErrRevoked
}

// judge looks at what is there, and then asks. deep lets a list be signed by
// another key than the issuer's, whose own status is looked at without that.
func (q *inquiry) judge(path []*x509.Certificate, i int, deep bool) verdict {
	c, issuer := path[i], path[i+1]
	v := q.byResponses(path, i, q.responses)
	if v.err != nil {
		return v
	}
	good := v.good // but what says that it is revoked comes first
	if v = q.byLists(path, i, deep); v.err != nil || v.good || good {
		v.good = v.err == nil
		return v
	}
	if !deep || q.fetcher == nil {
		return verdict{}
	}
	for _, url := range c.OCSPServer[:min(len(c.OCSPServer), maxURLs)] {
		ask, err := ocsp.CreateRequest(c, issuer, &ocsp.RequestOptions{Hash: crypto.SHA1}) // an identifier, not a proof: what every responder knows
		if err != nil {
			break
		}
		answer, ok := q.fetch(url, ask, func(answer []byte) time.Time {
			r, err := readResponse(answer, c, issuer)
			if err != nil {
				return time.Time{}
			}
			return r.NextUpdate
		})
		if !ok {
			continue
		}
		q.responses = append(q.responses, response{answer, false})
		if v := q.byResponses(path, i, q.responses[len(q.responses)-1:]); v.good || v.err != nil {
			return v
		}
	}
	for _, url := range c.CRLDistributionPoints[:min(len(c.CRLDistributionPoints), maxURLs)] {
		answer, ok := q.fetch(url, nil, func(answer []byte) time.Time {
			list, err := readCRL(answer)
			if err != nil || list.signed(path[i+1:]) != nil {
				return time.Time{} // so that no forged one stays until its own date
			}
			return list.NextUpdate
		})
		if !ok {
			continue
		}
		q.take(answer, false)
		if v := q.byLists(path, i, deep); v.good || v.err != nil {
			return v
		}
	}
	return verdict{}
}

// fetch asks one URL, and each question once only.
func (q *inquiry) fetch(url string, body []byte, until func([]byte) time.Time) ([]byte, bool) {
	key := url + "\x00" + string(body)
	if q.asked[key] || q.fetches >= maxFetches {
		return nil, false
	}
	left, used := q.allowance.take()
	if left <= 0 {
		q.say("there is no time left to ask")
		return nil, false
	}
	q.asked[key] = true
	q.fetches++
	ctx, stop := context.WithTimeout(q.ctx, left)
	answer, err := q.fetcher.Fetch(ctx, url, body, until)
	stop()
	used()
	if err == nil && len(answer) > maxCRL {
		err = errors.New("answer too large")
	}
	if err != nil {
		q.say("fetch %.200q: %v", url, err)
		return nil, false
	}
	return answer, true
}

// fresh reports whether evidence may speak for the time of judgement.
func fresh(at, this, next time.Time) bool {
	if next.IsZero() {
		next = this.Add(maxUnbounded)
	}
	return !this.After(at.Add(skew)) && !next.Before(at.Add(-skew))
}

// revoked says whether a revocation counts at a time of judgement, and tells
// it. Evidence of later than that time counts for what was revoked by then,
// and for a key that somebody else may have had for longer than was known;
// evidence that has run out counts but for a certificate on hold, which may
// have been released since.
func revoked(c *x509.Certificate, at, this, next, since time.Time, reason int) error {
	const compromised = 1<<ocsp.KeyCompromise | 1<<ocsp.CACompromise | 1<<ocsp.AACompromise
	known := reason >= 0 && reason < 16
	switch {
	case reason == ocsp.RemoveFromCRL:
		return nil
	case this.After(at.Add(skew)) && since.After(at) && !(known && 1<<reason&compromised != 0):
		return nil
	case reason == ocsp.CertificateHold && !fresh(at, this, next):
		return nil
	}
	word, ok := reasons[reason]
	if !ok {
		word = "no reason given"
	}
	return fmt.Errorf("%s was revoked on %s (%s): %w", name(c), since.UTC().Format("2006-01-02"), word, ErrRevoked)
}

var reasons = map[int]string{
	ocsp.KeyCompromise: "key compromise", ocsp.CACompromise: "compromise of the authority", ocsp.AffiliationChanged: "affiliation changed",
	ocsp.Superseded: "superseded", ocsp.CessationOfOperation: "no longer in operation", ocsp.CertificateHold: "on hold",
	ocsp.PrivilegeWithdrawn: "privilege withdrawn", ocsp.AACompromise: "compromise of an attribute authority",
}

// spend counts signatures on evidence that came along; there may be so many.
func (q *inquiry) spend(n int, brought bool) error {
	if !brought {
		return nil
	}
	if q.checks += n; q.checks > maxStatusChecks {
		return fmt.Errorf("more than %d signatures on evidence that came along: %w", maxStatusChecks, ErrStatus)
	}
	return nil
}
