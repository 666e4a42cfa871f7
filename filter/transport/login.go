package transport

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/filter/message"
)

// The ways in which nobody is logged in.
var (
	ErrLoginRefused   = errors.New("login refused")            // whoever it is, and whatever was wrong
	ErrLoginAway      = errors.New("accounts not reachable")   // or too much to do there
	ErrLoginTooMany   = errors.New("too many failed logins")   // from this client
	ErrLoginMalformed = errors.New("login exchange malformed") // what was said is no word of the mechanism
)

// What one client may try in one session.
const (
	maxSASL   = 12288 // bytes of AUTH or of a line of the exchange, with its CRLF (RFC 4954 §4)
	maxRounds = 8     // challenges of one exchange
	maxLogins = 3     // that fail
)

// Account is who has logged in, and as whom he may write.
type Account struct {
	Name    string
	Senders []string // addresses, and *@domain for all of a domain
}

// Login checks who clients are (RFC 4954). Many sessions call it at once.
type Login interface {
	// Mechanisms are those to offer over a TLS connection.
	Mechanisms(t *tls.ConnectionState) []string
	// Begin starts an exchange by a mechanism in capital letters; nil: it is not offered.
	Begin(mechanism string, client netip.Addr, t *tls.ConnectionState) Exchange
}

// Exchange is one attempt to log in.
type Exchange interface {
	// Next takes what the client says, nil where it has said nothing yet. It
	// gives a challenge, or at the end the account. The error is one of those above.
	Next(ctx context.Context, said []byte) (challenge []byte, a *Account, err error)
}

// Owns reports whether the account that sent the mail may write as a: it has
// logged in, and a is one of its addresses.
func (e *Envelope) Owns(a message.Address) bool {
	return e.User != "" && !a.IsZero() && slices.ContainsFunc(e.Senders, func(s string) bool {
		if domain, ok := strings.CutPrefix(s, "*@"); ok {
			return domain != "" && strings.EqualFold(domain, a.Domain)
		}
		own, err := message.ParseAddress(s)
		return err == nil && own.Key() == a.Key()
	})
}

// offersLogin reports whether AUTH is there: over TLS only, once.
func (g *guard) offersLogin() bool { return g.server.Login != nil && g.tls != nil }

// mechanisms is the line of EHLO, or "".
func (g *guard) mechanisms() string {
	if !g.offersLogin() || g.account != nil {
		return ""
	}
	list := g.server.Login.Mechanisms(g.tls)
	if len(list) == 0 {
		return ""
	}
	return "AUTH " + strings.Join(list, " ")
}

// login is AUTH with its whole exchange. It holds the session: nothing of it is
// taken for a command, and nothing of it is logged. Where a client does not keep
// to the exchange, what follows may be half of a secret, and the session ends.
func (g *guard) login(arg string) *Reply {
	switch {
	case g.server.Login == nil:
		g.ended = true
		return &notOffered
	case g.tls == nil: // the secret, if there is one, was said to everybody
		g.ended = true
		return &loginNeedsTLS
	case g.hello == "":
		return g.ahead(&needHello)
	case g.account != nil:
		return g.ahead(&secondLogin)
	case g.env != nil:
		return g.ahead(&nestedLogin)
	}
	mechanism, initial, given := strings.Cut(arg, " ")
	var said []byte
	if given {
		var ok bool
		if said, ok = response(strings.TrimLeft(initial, " ")); !ok {
			g.ended = true
			return &badLogin
		}
	}
	x := g.server.Login.Begin(strings.ToUpper(mechanism), g.client.Addr(), g.tls)
	if x == nil {
		return g.ahead(&noMechanism)
	}
	for range maxRounds {
		if g.reader.Buffered() > 0 { // said before it was asked for
			g.ended = true
			return &badLogin
		}
		challenge, account, err := g.next(x, said)
		switch {
		case err != nil:
			return g.failedLogin(err)
		case account != nil:
			g.account = account
			g.errors, g.idling, g.logins = 0, 0, 0
			g.say(loggedIn)
			return nil
		}
		g.print("334 " + base64.StdEncoding.EncodeToString(challenge))
		line, err := g.readUpTo(maxSASL, nil)
		if err != nil {
			g.lost(err)
			return nil
		}
		if line == "*" {
			return g.ahead(&loginCancelled)
		}
		var ok bool
		if said, ok = response(line); !ok {
			g.ended = true
			return &badLogin
		}
	}
	g.ended = true
	return &badLogin
}

// ahead is r, and the end of a client that has gone on talking before it.
func (g *guard) ahead(r *Reply) *Reply {
	if g.reader.Buffered() > 0 {
		g.ended = true
	}
	return r
}

// next calls the exchange, and survives it. A session that waits for its answer
// can lose its place like one that is waited for, and gives up then.
func (g *guard) next(x Exchange, said []byte) (challenge []byte, a *Account, err error) {
	ctx, cancel := context.WithCancel(g.server.ctx)
	defer cancel()
	pending := func(since time.Time, giveUp func()) {
		g.mutex.Lock()
		defer g.mutex.Unlock()
		g.waiting, g.mail, g.giveUp = since, time.Time{}, giveUp
		if giveUp != nil && g.dismissed() {
			giveUp()
		}
	}
	pending(time.Now(), cancel)
	defer pending(time.Time{}, nil)
	var panicked error
	defer func() {
		if panicked != nil {
			g.ended = true
			challenge, a, err = nil, nil, ErrLoginAway
		}
	}()
	defer g.server.survive(g.current(), &panicked)
	return x.Next(ctx, said)
}

// failedLogin words an error. After three failures, or one that says that the
// client is out of step, the session ends.
func (g *guard) failedLogin(err error) *Reply {
	g.logins++
	r := &loginAway
	switch {
	case errors.Is(err, ErrLoginRefused):
		r = &loginRefused
	case errors.Is(err, ErrLoginTooMany):
		r, g.ended = &tooManyLogins, true
	case errors.Is(err, ErrLoginMalformed):
		r, g.ended = &badLogin, true
	}
	if g.logins >= maxLogins {
		g.ended = true
	}
	return g.ahead(r)
}

// response decodes a line of an exchange. "=" is an empty initial response
// (RFC 4954 §4); later an empty line is one too.
func response(line string) (b []byte, ok bool) {
	if line == "=" || line == "" {
		return []byte{}, true
	}
	b, err := base64.StdEncoding.Strict().DecodeString(line)
	return b, err == nil && !strings.ContainsAny(line, "\r\n")
}
