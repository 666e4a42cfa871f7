package filter

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
)

// Learner keeps certificates that arrived by themselves. It must give them no
// trust, and put none in the place of another (keyring.Store.Learn).
type Learner interface {
	Learn(ctx context.Context, c keyring.Cert) error
}

const (
	maxLessons  = 256 // certificates that wait to be kept; more are let go
	maxPerMail  = 16  // of one mail
	lessonTakes = 10 * time.Second
	ofMail      = "mail" // keyring.Cert.Source
)

// lessons are kept one after the other, behind the mails that brought them: no
// mail waits for them, and none fails by them.
type lessons struct {
	mutex   sync.Mutex
	queue   []lesson
	running bool
	idle    *sync.Cond // made by the first who waits
}

type lesson struct {
	cert    keyring.Cert
	trace   string
	keydata []byte // of a header field: what cert is to be read from
	joiner  *joiner
}

// about names a lesson in the log.
func (l lesson) about() slog.Attr {
	if l.joiner != nil {
		return slog.String("joiner", l.joiner.Address.Key())
	}
	return slog.String("fingerprint", l.cert.Fingerprint)
}

// learn takes what a mail that is through has brought: certificates that came
// with a signature that was verified, each only for addresses of the signer.
// What else they name is said by nobody but the one who sent them.
func (g *Gateway) learn(p *passage) {
	if g.Learn == nil || p.listener.Direction != policy.Inbound || p.read == nil {
		return
	}
	if ok, _ := p.verified(p.read, p.finding); !ok {
		return
	}
	vouched := append(slices.Clone(p.finding.Signers), p.author)
	brought := p.finding.Brought
	for _, c := range brought[:min(len(brought), maxPerMail)] {
		c.Addresses = slices.DeleteFunc(slices.Clone(c.Addresses), func(a message.Address) bool {
			return !slices.ContainsFunc(vouched, func(b message.Address) bool { return a.Key() == b.Key() })
		})
		if c.Role == keyring.Intermediate {
			c.Addresses = nil
		} else if len(c.Addresses) == 0 {
			continue
		}
		c.Trust, c.Domains, c.Source, c.FirstSeen, c.LastSeen = keyring.Seen, nil, ofMail, p.at, p.at
		g.lessons.put(g, lesson{cert: c, trace: p.env.Trace})
	}
}

func (l *lessons) put(g *Gateway, one lesson) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.queue) >= maxLessons {
		g.Log.Warn("learn", "trace", one.trace, one.about(), "error", "too many wait")
		return
	}
	l.queue = append(l.queue, one)
	if !l.running {
		l.running = true
		go l.run(g)
	}
}

// run ends when nothing waits any more.
func (l *lessons) run(g *Gateway) {
	for {
		l.mutex.Lock()
		if len(l.queue) == 0 {
			l.running = false
			if l.idle != nil {
				l.idle.Broadcast()
			}
			l.mutex.Unlock()
			return
		}
		one := l.queue[0]
		l.queue = l.queue[1:]
		l.mutex.Unlock()
		if err := g.keep(one); err != nil {
			g.Log.LogAttrs(context.Background(), slog.LevelError, "learn", slog.String("trace", one.trace), one.about(), slog.String("error", err.Error()))
		}
	}
}

// keep survives what a certificate does to the store.
func (g *Gateway) keep(one lesson) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %T", v)
			g.Log.Error("panic", "stage", "learn", "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), lessonTakes)
	defer cancel()
	if one.joiner != nil {
		return g.join(ctx, one)
	}
	c := one.cert
	if one.keydata != nil {
		var ok bool
		if c, ok = g.inField(c, one.keydata); !ok {
			return nil
		}
	}
	return g.Learn.Learn(ctx, c)
}

// Idle waits until all that was brought is kept, for a program that ends.
func (g *Gateway) Idle() {
	l := &g.lessons
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.idle == nil {
		l.idle = sync.NewCond(&l.mutex)
	}
	for l.running {
		l.idle.Wait()
	}
}
