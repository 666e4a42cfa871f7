// Package dmarc tells whether a mail comes from where its author's domain says
// that its mail comes from: SPF (RFC 7208), DKIM (by filter/dkim) and what both
// say of the author (DMARC, RFC 7489). All that the Internet is asked for goes
// through the validating resolver, within one budget of time and questions for a
// mail; what does not come by then is a temperror, never a pass and never a fail.
package dmarc

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"postern/filter/dkim"
	"postern/filter/message"
)

// Reasons of a DMARC result that is no pass, beside those of RFC 8601.
const (
	ReasonAligned = "aligned"
	ReasonNothing = "nothing-aligned"
	ReasonRecord  = "malformed-record"
	ReasonAuthor  = "no-single-author"
	ReasonAway    = "not-available"
)

// Question is a mail as it came, before anything of it is changed.
type Question struct {
	Client netip.Addr // who brought it; zero where a server of ours did that does not say for whom
	Hello  string
	Sender message.Address // of the envelope; zero for the null sender
	// Authors are the domains of all addresses in all its From fields; none where
	// one of them can't be read.
	Authors []string
	Fields  int // how many From fields it has
	Mail    io.WriterTo
	At      time.Time
	Trace   string // chance by which pct= of a policy counts
}

// SPF is what the sender's domain says of the client.
type SPF struct {
	Value  dkim.Value // also "softfail"; "" where it was not asked
	Domain string     // in A-labels; "" where there is none
	Hello  bool       // it is that of HELO, as the sender is null
}

// DMARC is what the author's domain says of the mail.
type DMARC struct {
	Value  dkim.Value // none, pass, fail, temperror, permerror
	Reason string
	Domain string // of the author, in A-labels
	Policy string // what its domain wants done: none, quarantine, reject; "" without a record
	Wants  string // what of this counts for this mail: "" unless Value is fail
}

// Verdict is all of it.
type Verdict struct {
	SPF   SPF
	DKIM  []dkim.Result
	DMARC DMARC
}

// Checker judges mail. It is safe for concurrent use.
type Checker struct {
	Names  Names
	Budget time.Duration // of one mail
}

// maxAuthors is how many domains of authors are asked for.
const maxAuthors = 4

// Check judges a mail. The error is that of reading it, or dkim.ErrHeader.
func (c *Checker) Check(ctx context.Context, q Question) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Budget)
	defer cancel()
	ask := &asker{names: c.Names}
	var v Verdict
	var wait sync.WaitGroup
	wait.Go(func() { v.SPF = spfOf(ctx, ask, q) })
	var records []policyOf
	wait.Go(func() { records = policies(ctx, ask, q) })
	results, err := dkim.Verify(ctx, q.Mail, ask.TXT, q.At)
	wait.Wait()
	if err != nil {
		return Verdict{}, fmt.Errorf("check signatures: %w", err)
	}
	v.DKIM = results
	v.DMARC = judge(v, records, q)
	return v, nil
}

// Lookup asks for texts, as filter/dkim does, within bounds of its own.
func (c *Checker) Lookup() dkim.Lookup { return (&asker{names: c.Names}).TXT }

// policyOf is what one domain of an author says.
type policyOf struct {
	domain string
	record record
	found  bool
	bad    bool
	away   bool
}

// policies asks for the records of all authors.
func policies(ctx context.Context, ask *asker, q Question) (list []policyOf) {
	var domains []string
	for _, d := range q.Authors {
		ascii, err := idna.Lookup.ToASCII(d)
		if err != nil {
			ascii = strings.ToLower(d)
		}
		if !slices.Contains(domains, ascii) {
			domains = append(domains, ascii)
		}
	}
	if len(domains) > maxAuthors {
		domains = domains[:maxAuthors]
	}
	for _, d := range domains {
		list = append(list, policyFor(ctx, ask, d))
	}
	return list
}

// policyFor looks a policy up, at the domain and then at its organisation
// (RFC 7489 §6.6.3).
func policyFor(ctx context.Context, ask *asker, domain string) policyOf {
	p := policyOf{domain: domain}
	for i, at := range []string{domain, organisation(domain)} {
		if at == "" || i == 1 && at == domain {
			break
		}
		texts, err := ask.TXT(ctx, "_dmarc."+at)
		if err != nil {
			p.away = true
			return p
		}
		var ours []string
		for _, t := range texts {
			if isDMARC(t) {
				ours = append(ours, t)
			}
		}
		if len(ours) != 1 {
			if len(ours) > 1 { // RFC 7489 §6.6.3: none then
				return p
			}
			continue
		}
		r, ok := parse(ours[0])
		if !ok {
			p.bad = true
			return p
		}
		if i == 1 {
			r.policy = r.below
		}
		p.record, p.found = r, true
		return p
	}
	return p
}

// organisation is the domain that is one label longer than what people can
// register under; "" where there is none, as for a public suffix.
func organisation(domain string) string {
	d, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil {
		return ""
	}
	return d
}

// judge puts the two together. Of several authors the worst counts.
func judge(v Verdict, records []policyOf, q Question) DMARC {
	worst := DMARC{Value: dkim.PermError, Reason: ReasonAuthor}
	for i, p := range records {
		d := judgeOne(v, p, q)
		if i == 0 || rank(d) > rank(worst) {
			worst = d
		}
	}
	if q.Fields != 1 || len(records) != 1 {
		if rank(worst) < rank(DMARC{Value: dkim.PermError}) {
			worst.Value, worst.Wants = dkim.PermError, ""
		}
		worst.Reason = ReasonAuthor
	}
	return worst
}

// rank orders results by what they ask for.
func rank(d DMARC) int {
	switch {
	case d.Wants == "reject":
		return 6
	case d.Wants == "quarantine":
		return 5
	case d.Value == dkim.Fail:
		return 4
	case d.Value == dkim.PermError:
		return 3
	case d.Value == dkim.TempError:
		return 2
	case d.Value == dkim.None:
		return 1
	}
	return 0
}

func judgeOne(v Verdict, p policyOf, q Question) DMARC {
	d := DMARC{Domain: p.domain}
	switch {
	case p.away:
		d.Value, d.Reason = dkim.TempError, ReasonAway
		return d
	case p.bad:
		d.Value, d.Reason = dkim.PermError, ReasonRecord
		return d
	case !p.found:
		d.Value = dkim.None
		return d
	}
	d.Policy = p.record.policy
	unknown := v.SPF.Value == "" // who brought it
	pass := v.SPF.Value == dkim.Pass && aligned(v.SPF.Domain, p.domain, p.record.strictSPF)
	if v.SPF.Value == dkim.TempError && aligned(v.SPF.Domain, p.domain, p.record.strictSPF) {
		unknown = true
	}
	for _, r := range v.DKIM {
		if aligned(r.Domain, p.domain, p.record.strictDKIM) {
			pass = pass || r.Value == dkim.Pass
			unknown = unknown || r.Value == dkim.TempError
		}
	}
	switch {
	case pass:
		d.Value, d.Reason = dkim.Pass, ReasonAligned
	case unknown:
		d.Value, d.Reason = dkim.TempError, ReasonAway
	default:
		d.Value, d.Reason = dkim.Fail, ReasonNothing
		d.Wants = p.record.wants(q.Trace)
	}
	return d
}

// aligned compares domains (RFC 7489 §3.1).
func aligned(a, author string, strict bool) bool {
	if a == "" {
		return false
	}
	if a == author {
		return true
	}
	org := organisation(a)
	return !strict && org != "" && org == organisation(author)
}
