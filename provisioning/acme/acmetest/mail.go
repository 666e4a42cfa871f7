package acmetest

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-smtp"
)

// Fields that a signature has to be over, of a challenge (RFC 8823 §3.1) and of
// an answer (§3.2).
var (
	answerFields = []string{"From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "In-Reply-To", "References", "Message-ID", "Content-Type", "Content-Transfer-Encoding"}
	mailFields   = append(slices.Clone(answerFields), "Auto-Submitted")
)

// send sends the mail of an order. The lock is held.
func (s *Server) send(o *order) {
	o.messageID = "<" + secret(12) + "@" + Domain + ">"
	bare := []byte(strings.ReplaceAll("From: <"+o.sender+">\nTo: <"+o.address+">\nReply-To: <"+replies+">\nSubject: ACME: "+o.first+"\nDate: "+time.Now().UTC().Format(time.RFC1123Z)+
		"\nMessage-ID: "+o.messageID+"\nAuto-Submitted: auto-generated; type=acme\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 7bit\n\n"+
		"Somebody wants a certificate for this address.\n", "\n", "\r\n"))
	l := Letter{To: o.address, Mail: s.sign(bare, Domain), Bare: bare, Resign: s.sign}
	mails := [][]byte{l.Mail}
	if s.Change != nil {
		mails = s.Change(l)
	}
	for _, m := range mails {
		if err := smtpSend(s.deliver, o.sender, o.address, m); err == nil {
			continue
		}
		s.wait.Go(func() { s.retry(o.sender, o.address, m) })
	}
}

// retry tries again while the test runs, as a queue does.
func (s *Server) retry(from, to string, m []byte) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.t.Context().Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		at := s.deliver
		s.mu.Unlock()
		err := smtpSend(at, from, to, m)
		if refusal, ok := errors.AsType[*smtp.SMTPError](err); err == nil || ok && refusal.Code >= 500 {
			return
		}
	}
}

func smtpSend(at, from, to string, m []byte) error {
	c, err := smtp.Dial(at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SendMail(from, []string{to}, bytes.NewReader(m)); err != nil {
		return err
	}
	return c.Quit()
}

// sign puts a DKIM signature of the server's key on top of a mail.
func (s *Server) sign(m []byte, domain string) []byte {
	var b bytes.Buffer
	if err := dkim.Sign(&b, bytes.NewReader(m), &dkim.SignOptions{Domain: domain, Selector: Selector, Signer: s.dkim, HeaderKeys: mailFields,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed}); err != nil {
		s.complain("sign: %v", err)
	}
	return b.Bytes()
}

// inbox takes the answers.
type inbox struct{ s *Server }

// NewSession implements smtp.Backend.
func (i inbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{s: i.s}, nil }

type session struct {
	s        *Server
	from, to string
}

func (x *session) Reset()        { x.from, x.to = "", "" }
func (x *session) Logout() error { return nil }

func (x *session) Mail(from string, _ *smtp.MailOptions) error {
	x.from = from
	return nil
}

func (x *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	x.to = to
	return nil
}

func (x *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	x.s.Answer(raw)
	return nil
}

// Answer takes an answer in.
func (s *Server) Answer(raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		s.complain("answer: %v", err)
		return
	}
	i := slices.IndexFunc(s.orders, func(o *order) bool { return strings.HasSuffix(m.Header.Get("Subject"), "ACME: "+o.first) })
	if i < 0 {
		s.complain("answer %q to nothing", m.Header.Get("Subject"))
		return
	}
	o := s.orders[i]
	if err := s.judge(o, m, raw); err != nil {
		s.complain("answer for %s: %v", o.address, err)
		if p, ok := errors.AsType[*problem](err); ok {
			o.problem, o.status = p, "invalid"
		}
		return
	}
	o.answered = true
	s.settle(o)
}

var block = regexp.MustCompile(`(?s)(?:^|\r\n)-----BEGIN ACME RESPONSE-----\r\n(.*?)\r\n-----END ACME RESPONSE-----\r\n`)

// judge says what is wrong with an answer (RFC 8823 §3.2): a problem where it is
// the owner's and wrong, and another error where nobody knows whose it is.
func (s *Server) judge(o *order, m *mail.Message, raw []byte) error {
	from, err := m.Header.AddressList("From")
	if err != nil || len(from) != 1 || !strings.EqualFold(from[0].Address, o.address) {
		return fmt.Errorf("from %q", m.Header.Get("From"))
	}
	if err := s.signed(raw, domainOf(o.address)); err != nil {
		return err
	}
	for name := range m.Header {
		if strings.HasPrefix(name, "List-") {
			return fmt.Errorf("field %s", name)
		}
	}
	if to, err := m.Header.AddressList("To"); err != nil || len(to) != 1 || to[0].Address != replies {
		return fmt.Errorf("to %q", m.Header.Get("To"))
	}
	for name, want := range map[string]string{"Subject": "Re: ACME: " + o.first, "In-Reply-To": o.messageID, "References": o.messageID} {
		if got := m.Header.Get(name); got != want {
			return fmt.Errorf("%s %q, want %q", name, got, want)
		}
	}
	if auto := m.Header.Get("Auto-Submitted"); !strings.HasPrefix(auto, "auto-replied") { // RFC 3834 §5
		return fmt.Errorf("Auto-Submitted %q", auto)
	}
	if o.answered || o.problem != nil {
		return errors.New("answered twice")
	}
	wrong := func(format string, args ...any) error {
		return refused(403, "incorrectResponse", format, args...)
	}
	if t, _, err := mime.ParseMediaType(m.Header.Get("Content-Type")); err != nil || t != "text/plain" {
		return wrong("type %q", m.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(m.Body)
	if err != nil {
		return err
	}
	found := block.FindSubmatch(body)
	if found == nil {
		return wrong("no response in the body")
	}
	if want := s.digest(o); subtle.ConstantTimeCompare([]byte(want), bytes.ReplaceAll(found[1], []byte("\r\n"), nil)) != 1 {
		return wrong("the digest is another one")
	}
	return nil
}

// signed says whether a domain has signed a mail as it must.
func (s *Server) signed(raw []byte, domain string) error {
	list, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: s.Texts})
	if err != nil {
		return fmt.Errorf("DKIM: %w", err)
	}
	why := errors.New("no DKIM signature of " + domain)
	for _, v := range list {
		if !strings.EqualFold(v.Domain, domain) {
			continue
		}
		if why = v.Err; why == nil {
			over := func(name string) bool {
				return slices.ContainsFunc(v.HeaderKeys, func(k string) bool { return strings.EqualFold(k, name) })
			}
			if i := slices.IndexFunc(answerFields, func(name string) bool { return !over(name) }); i >= 0 {
				why = fmt.Errorf("DKIM signature is not over %s", answerFields[i])
				continue
			}
			return nil
		}
	}
	return why
}

func (s *Server) digest(o *order) string {
	token := o.first + o.second
	if s.Bytes {
		a, _ := base64.RawURLEncoding.DecodeString(o.first)
		b, _ := base64.RawURLEncoding.DecodeString(o.second)
		token = base64.RawURLEncoding.EncodeToString(append(a, b...))
	}
	sum := sha256.Sum256([]byte(token + "." + thumbprint(o.account.key)))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
