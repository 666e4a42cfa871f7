package transport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"postern/filter/message"
)

// command answers one command line, or hands it to go-smtp in its own words.
func (g *guard) command(line string) {
	verb, arg, _ := strings.Cut(strings.TrimRight(line, " "), " ")
	verb = strings.ToUpper(verb)
	if refused := g.refuses(verb, arg, line); refused != nil {
		g.say(*refused)
		if refused.Code != 503 {
			g.errors++
		}
		if g.errors >= maxErrors && !g.ended {
			g.say(tooManyErrors)
			g.ended = true
		}
	}
	if g.idling++; g.idling > maxIdling+2*g.server.MaxRecipients && !g.ended {
		g.out = nil
		g.say(tooManyErrors)
		g.ended = true
	}
}

func (g *guard) pass(verb, line string) *Reply {
	g.asked, g.out = verb, []byte(line+"\r\n")
	return nil
}

// refuses checks a command by itself, then in its order (RFC 5321 §4.1.4).
func (g *guard) refuses(verb, arg, line string) *Reply {
	s := g.server
	mail := verb == "MAIL" || verb == "RCPT"
	for _, c := range []byte(line) {
		if c < ' ' || c == 0x7f || c >= 0x80 && !mail {
			g.ended = verb == "AUTH" // what follows may be half of a secret
			return &badCharacter
		}
	}
	switch verb {
	case "DATA", "RSET", "QUIT", "STARTTLS":
		if arg != "" {
			return &noArgument
		}
	}
	switch verb {
	case "QUIT", "NOOP":
		return g.pass(verb, verb)
	case "EHLO", "HELO", "LHLO":
		switch {
		case s.LMTP != (verb == "LHLO"): // RFC 2033 §4.1
			return &notOffered
		case !hello(arg):
			return &badHello
		case s.LMTP:
			verb = "EHLO" // as go-smtp says it
		}
		g.hello = arg
		return g.pass(verb, verb+" "+arg)
	case "STARTTLS":
		switch {
		case s.TLS == nil:
			return &notOffered
		case g.tls != nil:
			return &secondTLS
		case g.hello == "":
			return &needHello
		}
		g.startTLS()
		return nil
	case "AUTH":
		return g.login(arg)
	case "XCLIENT", "XFORWARD":
		return g.speaksFor(verb, arg)
	}
	known := verb == "MAIL" || verb == "RCPT" || verb == "DATA" || verb == "RSET" || verb == "VRFY"
	switch {
	case verb == "BDAT":
		g.ended = true // what follows may be no command
		return &notOffered
	case verb == "EXPN" || verb == "HELP" || verb == "ETRN" || verb == "TURN":
		return &notOffered
	case !known:
		if g.hello == "" {
			g.ended = true // another protocol, or somebody speaking through a browser
		}
		return &unknown
	case s.RequireTLS && g.tls == nil:
		return &needTLS
	case s.RequireLogin && g.account == nil && verb != "RSET": // RFC 4954 §6
		return &needLogin
	}
	t := terms{domain: s.Domain, requireTLS: g.offersRequireTLS(), login: g.offersLogin(), utf8: g.env != nil && g.env.UTF8}
	switch verb {
	case "MAIL":
		if g.hello == "" {
			return &needHello
		}
		if g.env != nil {
			return &nested
		}
		e, refused := parseMail(arg, t)
		if refused != nil {
			return refused
		}
		e.Trace, e.LMTP = NewTrace(), s.LMTP
		g.identify(&e)
		if g.account != nil {
			e.User, e.Senders = g.account.Name, g.account.Senders
			if !e.Null && !e.Owns(e.From) {
				return &notYours
			}
		}
		if !s.meter.Take(Network(e.Source().Addr()).String()) || e.User != "" && !s.meter.Take("account "+e.User) {
			return &tooOften
		}
		g.offer = e
		path := ""
		if !e.Null {
			path = e.From.String()
		}
		return g.pass(verb, "MAIL FROM:<"+path+">")
	case "RCPT":
		if g.env == nil {
			return &needMail
		}
		to, refused := parseRcpt(arg, t)
		if refused != nil {
			return refused
		}
		g.offerTo = to
		return g.pass(verb, "RCPT TO:<"+to.Address.String()+">")
	case "DATA":
		if g.env == nil || len(g.env.Recipients) == 0 {
			return &needRecipient
		}
		return g.pass(verb, verb)
	case "VRFY":
		return g.pass(verb, "VRFY")
	}
	return g.pass(verb, verb) // RSET
}

// session is what go-smtp calls. It takes the envelope from the guard, which
// has read it, and not from go-smtp.
type session struct{ g *guard }

// Reset forgets the transaction.
func (s session) Reset() { s.g.env, s.g.forward = nil, nil }

// Logout has nothing to free.
func (s session) Logout() error { return nil }

// Mail begins a transaction, where the handler has nothing against it.
func (s session) Mail(string, *smtp.MailOptions) error {
	g, e := s.g, s.g.offer
	if e.Size > g.server.MaxSize {
		return spoken(g.server.words(&e, message.ErrTooBig))
	}
	if err := g.server.sender(&e); err != nil {
		return spoken(g.refusal(&e, err))
	}
	g.env, g.whole = &e, time.Now().Add(g.server.Timeouts.Whole)
	return nil
}

// Rcpt asks the handler for one recipient.
func (s session) Rcpt(string, *smtp.RcptOptions) error {
	g := s.g
	if len(g.env.Recipients) >= g.server.MaxRecipients {
		return spoken(g.server.words(g.env, ErrTooMany))
	}
	if err := g.server.recipient(g.env, g.offerTo); err != nil {
		r := g.refusal(g.env, err)
		if len(g.env.Refused) < maxRefused {
			g.env.Refused = append(g.env.Refused, Refusal{g.offerTo.Address, r})
		}
		return spoken(r)
	}
	g.env.Recipients = append(g.env.Recipients, g.offerTo)
	return nil
}

// refusal is the reply to an error of the handler.
func (g *guard) refusal(e *Envelope, err error) Reply {
	var r Reply
	if !errors.As(err, &r) {
		r = g.server.words(e, err)
	}
	g.hangUp = g.hangUp || errors.Is(err, ErrPanic)
	return fit(r)
}

// Data hands the mail to the handler. It says yes only to a mail that was read
// to its end. go-smtp knows of one answer; with LMTP the guard says all of them.
func (s session) Data(io.Reader) error {
	g := s.g
	answers, err := g.server.data(g.env, letter{g})
	if slices.ContainsFunc(answers, Reply.ok) {
		if _, err := io.Copy(io.Discard, letter{g}); err != nil {
			answers = slices.Repeat([]Reply{g.server.words(g.env, err)}, len(answers))
		} else {
			g.errors, g.idling = 0, 0
		}
	}
	if g.hangUp = g.hangUp || err != nil; g.failed != nil {
		g.log(g.failed.Error())
	}
	if g.server.LMTP {
		for _, r := range answers {
			g.answers = append(g.answers, fit(own(r)))
		}
	}
	return spoken(answers[0])
}

// fit is r as a reply to a mail. What is none is a deferral.
func fit(r Reply) Reply {
	if !r.ok() && !r.no() {
		r = Reply{451, [3]int{4, 3, 0}, "internal trouble, try again later"}
	}
	r.Text = printable(r.Text, maxReply-20)
	return r
}

// spoken is r for go-smtp.
func spoken(r Reply) error {
	r = fit(r)
	code := smtp.NoEnhancedCode
	if r.Enhanced != [3]int{} {
		code = smtp.EnhancedCode(r.Enhanced)
	}
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: code, Message: r.Text}
}

// sender calls the handler, and survives it.
func (s *Server) sender(e *Envelope) (err error) {
	defer s.survive(e, &err)
	return s.Handler.Sender(s.ctx, e)
}

// recipient likewise.
func (s *Server) recipient(e *Envelope, to Recipient) (err error) {
	defer s.survive(e, &err)
	return s.Handler.Recipient(s.ctx, e, to)
}

// data calls the handler, and survives it. The error is that of a panic only.
// There are as many answers as the mail gets; any other number is a deferral.
func (s *Server) data(e *Envelope, body io.Reader) (answers []Reply, err error) {
	wanted := 1
	if e.LMTP {
		wanted = len(e.Recipients)
	}
	defer func() {
		if err != nil {
			answers = []Reply{s.words(e, err)}
		}
		if len(answers) != 1 && len(answers) != wanted {
			answers = []Reply{{}}
		}
		if len(answers) < wanted {
			answers = slices.Repeat(answers, wanted)
		}
	}()
	defer s.survive(e, &err)
	return s.Handler.Data(s.ctx, e, body), nil
}

// words asks the handler how to say err.
func (s *Server) words(e *Envelope, err error) (r Reply) {
	var panicked error
	defer func() {
		if panicked != nil {
			r = Reply{451, [3]int{4, 3, 0}, "internal trouble, try again later"}
		}
	}()
	defer s.survive(e, &panicked)
	return s.Handler.Refuse(e, err)
}

func (s *Server) survive(e *Envelope, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("serve mail: %w: %T", ErrPanic, v)
		s.Log.LogAttrs(s.ctx, slog.LevelError, "panic", slog.String("trace", e.Trace), slog.String("stack", string(debug.Stack())))
	}
}
