// Package challenge is the mail by which an authority proves that an address is
// ours, and the answer to it: the challenge email-reply-00 of ACME for S/MIME
// (RFC 8823). It reads what strangers write, and holds nothing but what such a
// mail has to say.
//
// It departs from RFC 8823 in two things: of the two ways to sign a challenge
// mail only DKIM counts (§3.1 would also have S/MIME), and a mail counts only
// for a while around its date, so that an old one cannot be sent again.
package challenge

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"postern/filter/dkim"
	"postern/filter/message"
)

// Why a mail is none that counts.
var (
	ErrOther  = errors.New("no challenge mail")               // nothing says that it would be one
	ErrForm   = errors.New("not a challenge mail as it must") // RFC 8823 §3.1
	ErrSigned = errors.New("no DKIM signature that counts for it")
	ErrTime   = errors.New("not of this time")
)

// Bounds of what a challenge mail says.
const (
	minSecret  = 16  // bytes of the token's half (RFC 8823 §3.1)
	maxToken   = 192 // letters of it
	maxSubject = 1 << 10
	maxID      = 500 // bytes of a Message-ID
)

// Mail is what a challenge mail says.
type Mail struct {
	From      message.Address
	To        message.Address
	ReplyTo   message.Address // zero: From
	Token     string          // the first half, as it is written there
	MessageID string          // with its angle brackets
	Date      time.Time
}

// Looks reports whether a mail says of itself that it is a challenge: it costs
// next to nothing, and says nothing about who wrote it.
func Looks(m *message.Message) bool {
	word, _, _ := strings.Cut(m.Get("Auto-Submitted"), ";")
	subject := m.Get("Subject")
	return strings.EqualFold(strings.TrimSpace(word), "auto-generated") && len(subject) <= maxSubject && len(m.Get("In-Reply-To")) == 0 &&
		strings.HasPrefix(message.DecodeWords(subject), label)
}

// label begins the subject, and stands behind "Re: " in the answer's.
const label = "ACME:"

// Read reads a challenge mail. The error is ErrOther or ErrForm, or that of
// reading the mail.
func Read(m *message.Message) (c Mail, err error) {
	if !Looks(m) {
		return c, ErrOther
	}
	for _, name := range []string{"Subject", "From", "To", "Message-ID", "Date", "Auto-Submitted"} {
		if n := m.Count(name); n != 1 {
			return c, fmt.Errorf("%d fields %s: %w", n, name, ErrForm)
		}
	}
	if c.Token, err = tokenOf(m.Get("Subject")); err != nil {
		return c, err
	}
	for _, f := range []struct {
		name string
		to   *message.Address
	}{{"From", &c.From}, {"To", &c.To}, {"Reply-To", &c.ReplyTo}} {
		if f.name == "Reply-To" && m.Count(f.name) == 0 {
			continue
		}
		list, err := message.ParseFrom(m.Get(f.name))
		if err != nil || len(list) != 1 || m.Count(f.name) != 1 {
			return c, fmt.Errorf("%s is not one address: %w", f.name, ErrForm)
		}
		*f.to = list[0]
	}
	c.MessageID = m.Get("Message-ID")
	inner, ok := strings.CutPrefix(c.MessageID, "<")
	if inner, ok2 := strings.CutSuffix(inner, ">"); !ok || !ok2 || len(c.MessageID) > maxID || !strings.Contains(inner, "@") ||
		strings.ContainsFunc(inner, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' }) {
		return c, fmt.Errorf("field Message-ID: %w", ErrForm)
	}
	if c.Date, err = mail.ParseDate(m.Get("Date")); err != nil {
		return c, fmt.Errorf("field Date: %w", ErrForm)
	}
	return c, nil
}

// tokenOf is the half of a token in a subject. White space in it is ignored, as
// long lines are folded (RFC 8823 §3.1).
func tokenOf(subject string) (string, error) {
	text, ok := strings.CutPrefix(message.DecodeWords(subject), label)
	token := strings.Join(strings.Fields(text), "")
	if !ok || len(token) > maxToken {
		return "", fmt.Errorf("subject: %w", ErrForm)
	}
	if secret, err := decode(token); err != nil || len(secret) < minSecret {
		return "", fmt.Errorf("subject holds no half of a token: %w", ErrForm)
	}
	return token, nil
}

// decode takes base64url with its padding or without: the examples of RFC 8823
// have it, and ACME elsewhere has not.
func decode(s string) ([]byte, error) {
	return base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
}

// signed are fields that a signature of a challenge mail has to be over, there
// or not (RFC 8823 §3.1).
var signed = []string{"from", "sender", "reply-to", "to", "cc", "subject", "date", "in-reply-to", "references", "message-id", "auto-submitted", "content-type", "content-transfer-encoding"}

// Genuine says why none of the signatures of a mail proves that it is From's
// authority who wrote it: nil, or ErrSigned. One has to be of exactly the
// domain in From, and over all that RFC 8823 §3.1 names.
func (c Mail) Genuine(results []dkim.Result) error {
	domain, err := idna.Lookup.ToASCII(c.From.Domain)
	if err != nil {
		return fmt.Errorf("domain %.80q: %w", c.From.Domain, ErrSigned)
	}
	why := "none of " + domain
	for _, r := range results {
		if !strings.EqualFold(r.Domain, domain) {
			continue
		}
		if r.Value != dkim.Pass {
			why = fmt.Sprintf("that of %s: %s (%s)", domain, r.Value, r.Reason)
			continue
		}
		missing := slices.IndexFunc(signed, func(name string) bool { return !slices.Contains(r.Signed, name) })
		if missing < 0 {
			return nil
		}
		why = "that of " + domain + " is not over " + signed[missing]
	}
	return fmt.Errorf("%s: %w", why, ErrSigned)
}

// drift is how far clocks may be apart.
const drift = 15 * time.Minute

// Timely says whether a mail was written since its order was made, and not
// later than now: nil, or ErrTime.
func (c Mail) Timely(made, now time.Time) error {
	if c.Date.Before(made.Add(-drift)) || c.Date.After(now.Add(drift)) {
		return fmt.Errorf("date %s: %w", c.Date.UTC().Format(time.RFC3339), ErrTime)
	}
	return nil
}
