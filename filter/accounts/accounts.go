// Package accounts says whose account a client logs in to (RFC 4954), and as
// whom that account may write. Accounts are kept in a file of hashes, in a
// directory behind LDAP, or by the company's mail server; nothing of a password
// is kept here, and nothing of one is ever logged or put into an error.
//
// Guessing is bounded for each network, and slowed down for each account. No
// account is ever closed: whoever could close it by guessing would keep its
// owner out.
package accounts

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/filter/transport"
)

// What guessing costs.
const (
	failures    = 20               // of one network that are let pass at once, and in window
	window      = 30 * time.Minute // for which a failure counts
	free        = 5                // failures of one account after which everybody who is new to it waits
	slowest     = 5 * time.Second  // that such a client waits
	afterNo     = time.Second      // that everybody waits for a no
	acquainted  = 30 * 24 * time.Hour
	budget      = 30 * time.Second // of one check
	maxName     = 255              // bytes
	maxPassword = 1024
)

// Source is where accounts are kept.
type Source interface {
	// Check tells whose account it is that has the name and the password. The
	// error is transport.ErrLoginRefused for every no, and any other where it is
	// not known.
	Check(ctx context.Context, name, password string) (*transport.Account, error)
}

// Book answers clients that log in. Source is needed; other zero fields have
// the meaning given here. It must not be copied or changed once it is used.
type Book struct {
	Source Source
	Log    *slog.Logger     // slog.DiscardHandler where nil
	Now    func() time.Time // time.Now where nil
	// Wait lets time pass, as long as ctx does not end.
	Wait func(ctx context.Context, d time.Duration)

	networks, accounts, known transport.Meter
}

// New gives a Book of a Source.
func New(s Source, log *slog.Logger) *Book { return (&Book{Source: s, Log: log}).filled() }

func (b *Book) filled() *Book {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	if b.Wait == nil {
		b.Wait = wait
	}
	b.networks.Rate, b.networks.Now = transport.Rate{Count: failures, Per: window}, b.Now
	b.accounts.Rate, b.accounts.Now = transport.Rate{Count: 100, Per: window}, b.Now
	b.known.Rate, b.known.Now = transport.Rate{Count: 1, Per: acquainted}, b.Now
	return b
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// keyed is a Source that keeps keys of SCRAM.
type keyed interface {
	keys(name string) (stored, error)
}

// Mechanisms are those that the source can serve, the safest first.
func (b *Book) Mechanisms(t *tls.ConnectionState) []string {
	list := []string{"PLAIN", "LOGIN"}
	if _, ok := b.Source.(keyed); !ok {
		return list
	}
	list = append([]string{scramName}, list...)
	if binding(t) != nil {
		list = append([]string{scramName + plus}, list...)
	}
	return list
}

// Begin starts an exchange.
func (b *Book) Begin(mechanism string, client netip.Addr, t *tls.ConnectionState) transport.Exchange {
	if !slices.Contains(b.Mechanisms(t), mechanism) {
		return nil
	}
	a := &attempt{book: b, mechanism: mechanism, client: client}
	switch mechanism {
	case "PLAIN":
		return &plain{a}
	case "LOGIN":
		return &login{attempt: a}
	}
	return &scramming{attempt: a, binding: binding(t), plus: strings.HasSuffix(mechanism, plus)}
}

// attempt is one try to log in, as it is counted.
type attempt struct {
	book      *Book
	mechanism string
	client    netip.Addr
	network   string
	pair      string
	account   string
}

// begin counts the try as one that failed, until it ends otherwise: of many at
// once no more get through than one after the other.
func (a *attempt) begin(ctx context.Context, name string) error {
	b := a.book
	a.network = transport.Network(a.client).String()
	a.account = strings.ToLower(name)
	a.pair = a.network + " " + a.account
	if !b.networks.Take(a.network) {
		b.Log.LogAttrs(ctx, slog.LevelWarn, "login", slog.String("client", a.client.String()), slog.String("mechanism", a.mechanism), slog.String("end", "too many failures"))
		return transport.ErrLoginTooMany
	}
	if n := b.accounts.Load(a.account); n > free && b.known.Load(a.pair) == 0 {
		b.Wait(ctx, min(time.Duration(n-free)*250*time.Millisecond, slowest))
	}
	return ctx.Err()
}

// end counts what came of it.
func (a *attempt) end(ctx context.Context, account *transport.Account, err error) (*transport.Account, error) {
	b := a.book
	say := func(level slog.Level, attrs ...slog.Attr) {
		b.Log.LogAttrs(ctx, level, "login", append([]slog.Attr{slog.String("client", a.client.String()), slog.String("mechanism", a.mechanism)}, attrs...)...)
	}
	switch {
	case err == nil && account != nil:
		b.networks.Return(a.network)
		b.known.Take(a.pair)
		say(slog.LevelInfo, slog.String("account", account.Name), slog.String("end", "logged in"))
		return account, nil
	case err == nil || errors.Is(err, transport.ErrLoginRefused):
		b.accounts.Take(a.account)
		say(slog.LevelInfo, slog.String("end", "refused")) // without a name: people type passwords there
		b.Wait(ctx, afterNo)
		return nil, transport.ErrLoginRefused
	}
	b.networks.Return(a.network)
	say(slog.LevelWarn, slog.String("end", "not known"), slog.String("error", err.Error()))
	return nil, transport.ErrLoginAway
}

// check is a whole try by name and password.
func (a *attempt) check(ctx context.Context, name, password string) (*transport.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	if err := a.begin(ctx, name); err != nil {
		return nil, err
	}
	if !valid(name) || password == "" || len(password) > maxPassword || strings.ContainsRune(password, 0) {
		return a.end(ctx, nil, transport.ErrLoginRefused)
	}
	account, err := a.book.Source.Check(ctx, name, password)
	return a.end(ctx, account, err)
}

// valid tells names that can be one: printable, without space, and no pattern
// of addresses.
func valid(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && name[0] != '#' && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == '*'
	})
}
