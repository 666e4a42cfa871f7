package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxUses is how many mails one connection carries.
const maxUses = 100

// Hop is one next hop. Address and Name are needed; every other zero field
// means its default. It must not be copied or changed once it is used.
type Hop struct {
	Address string // host:port
	Name    string // for EHLO
	Need
	RootCAs  *x509.CertPool // that TLSVerify trusts; those of the system by default
	LMTP     bool           // RFC 2033: a reply for each recipient
	MaxIdle  int            // connections kept for the next mail: 8; -1: none
	Timeouts Timeouts

	dial   func(ctx context.Context) (net.Conn, error)
	mutex  sync.Mutex
	idle   []*link
	closed bool
}

// Deliver hands one mail to the next hop. Its size is exact; a mail that turns
// out longer or shorter is broken off, by closing and never by a dot. Replies
// are the next hop's own, but for the refusals that say what it can't take. What concerns
// the way and not the mail is an error that wraps ErrNextHop.
func (h *Hop) Deliver(ctx context.Context, e *Envelope, size int64, mail io.WriterTo) Result {
	if len(e.Recipients) == 0 {
		return Result{Err: errors.New("deliver mail: no recipients")}
	}
	l, err := h.take(ctx)
	if err != nil {
		return Result{Err: err, Carriage: h.missed()}
	}
	res, stale := l.deliver(ctx, e, size, mail)
	if stale { // the mail was not begun: a second try can't make two of it
		l.close()
		h.drop(false)
		if l, err = h.connect(ctx); err != nil {
			return Result{Err: err, Carriage: h.missed()}
		}
		res, _ = l.deliver(ctx, e, size, mail)
	}
	res.Carriage, res.Sent = h.carriage(l), l.sent
	res.Trial = h.try(l.tls, h.RootCAs, time.Now())
	h.give(l)
	return res
}

// carriage is how l carries mail: connect made sure of its level.
func (h *Hop) carriage(l *link) Carriage {
	c := CarriageOf(l.tls)
	if l.peer != "" {
		c.Peer = "name:" + l.peer
	}
	c.Level, c.Result = h.level(), LevelMet
	return c
}

// missed is the carriage of a mail that found no way as safe as it must be.
func (h *Hop) missed() Carriage { return Carriage{Level: h.level(), Result: LevelMissed} }

func (h *Hop) level() string {
	if h.TLS == "" {
		return TLSOff
	}
	return h.TLS
}

// Greet goes as far as a mail would before MAIL, TLS by its level included,
// and takes leave.
func (h *Hop) Greet(ctx context.Context) error {
	l, err := h.connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	defer l.bind(ctx)()
	if _, err := l.ask("QUIT", h.timeouts().Command); err != nil {
		return trouble("take leave", err)
	}
	return nil
}

// Close ends the idle connections, and keeps none from now on.
func (h *Hop) Close() error {
	h.drop(true)
	return nil
}

func (h *Hop) timeouts() Timeouts { return h.Timeouts.filled() }

func (h *Hop) serverName() string {
	if h.ServerName != "" {
		return h.ServerName
	}
	host, _, err := net.SplitHostPort(h.Address)
	if err != nil {
		return h.Address
	}
	return host
}

// take gives an idle connection, or a new one. Whether an idle one still
// answers shows when it is told of the next mail.
func (h *Hop) take(ctx context.Context) (*link, error) {
	h.mutex.Lock()
	var l *link
	if n := len(h.idle); n > 0 {
		l, h.idle = h.idle[n-1], h.idle[:n-1]
	}
	h.mutex.Unlock()
	if l == nil {
		return h.connect(ctx)
	}
	l.retire.Stop()
	return l, nil
}

// drop closes the idle connections.
func (h *Hop) drop(last bool) {
	h.mutex.Lock()
	idle := h.idle
	h.idle, h.closed = nil, h.closed || last
	h.mutex.Unlock()
	for _, l := range idle {
		l.retire.Stop()
		l.quit()
	}
}

// give keeps l for the next mail, if it is in order.
func (h *Hop) give(l *link) {
	l.uses++
	keep := h.MaxIdle
	if keep == 0 {
		keep = 8
	}
	h.mutex.Lock()
	if l.broken || h.closed || len(h.idle) >= keep || l.uses >= maxUses || l.reader.Buffered() > 0 {
		h.mutex.Unlock()
		l.quit()
		return
	}
	l.retire = time.AfterFunc(h.timeouts().Idle, func() { h.expire(l) })
	h.idle = append(h.idle, l)
	h.mutex.Unlock()
}

func (h *Hop) expire(old *link) {
	h.mutex.Lock()
	found := false
	for i, l := range h.idle {
		if l == old {
			h.idle = append(h.idle[:i], h.idle[i+1:]...)
			found = true
			break
		}
	}
	h.mutex.Unlock()
	if found { // otherwise it carries a mail
		old.quit()
	}
}

// trouble is an error of the way. A reply in cause is only told of: it was not
// about the mail, and must not become the mail's.
func trouble(what string, cause error) error {
	var r Reply
	if errors.As(cause, &r) {
		return fmt.Errorf("%s: %w: %v", what, ErrNextHop, cause)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrNextHop, cause)
}
