package mtasts

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"postern/filter/resolver"
	"postern/filter/web"
)

// How policies are looked for.
const (
	maxFlights = 16               // look-ups at once; who comes then has what is known
	again      = 5 * time.Minute  // a policy that could not be had is asked for after that
	soon       = 5 * time.Second  // a resolver that was away is asked after that
	recheck    = time.Minute      // a record is asked for after that
	refresh    = 12 * time.Hour   // a policy is fetched again after that
	flight     = 60 * time.Second // of one look-up (RFC 8461 §3.3)
	maxHeld    = 4096             // domains whose last look-up is remembered
)

// Config is what a Cache needs. Names is; the other fields have working zero values.
type Config struct {
	Names   Names
	Store   *Store         // nil: policies are forgotten with the process
	Roots   *x509.CertPool // of the places of policies; those of the system
	Private bool           // places may be inside the site's own networks
	Budget  time.Duration  // how long one mail waits at most: 5 s
	Log     *slog.Logger
	Now     func() time.Time

	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Cache knows the policies of domains. It is safe for concurrent use.
type Cache struct {
	Config
	http *http.Client

	mutex   sync.Mutex
	memory  map[string]Policy        // where there is no Store
	rest    map[string]time.Time     // until then a domain is not asked for
	flights map[string]chan struct{} // closed when the look-up ends
}

// New gives a cache.
func New(c Config) *Cache {
	if c.Budget <= 0 {
		c.Budget = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Cache{
		Config: c, http: web.Client(c.Names, c.Roots, c.Private, c.dial),
		memory: map[string]Policy{}, rest: map[string]time.Time{}, flights: map[string]chan struct{}{},
	}
}

// Policy is that of a domain, as A-labels in small letters; nil where none is
// known that holds, or the domain took it back. It waits no longer than the
// budget: what a slower look-up finds is there for the next mail. A policy that
// is known holds until its time is over, whatever becomes of its record or its
// place meanwhile (RFC 8461 §5.1); then it holds no more.
func (c *Cache) Policy(ctx context.Context, domain string) *Policy {
	if landed := c.look(ctx, domain); landed != nil {
		wait, cancel := context.WithTimeout(ctx, c.Budget)
		defer cancel()
		select {
		case <-landed:
		case <-wait.Done():
		}
	}
	return c.Known(ctx, domain)
}

// Known is Policy without a look at what is new.
func (c *Cache) Known(ctx context.Context, domain string) *Policy {
	p := c.get(ctx, domain)
	if p == nil || p.Mode == None || !c.Now().Before(p.Expires) {
		return nil
	}
	return p
}

func (c *Cache) get(ctx context.Context, domain string) *Policy {
	if c.Store == nil {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		if p, ok := c.memory[domain]; ok {
			return &p
		}
		return nil
	}
	p, err := c.Store.get(ctx, domain)
	if err != nil {
		c.Log.WarnContext(ctx, "mta-sts", "domain", domain, "error", err.Error())
	}
	return p
}

func (c *Cache) put(ctx context.Context, domain string, p Policy) error {
	if c.Store != nil {
		return c.Store.put(ctx, domain, p)
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.memory) >= maxHeld {
		for d := range c.memory {
			delete(c.memory, d)
			break
		}
	}
	c.memory[domain] = p
	return nil
}

// look begins a look-up, or joins one, unless it is too early; the channel is
// closed when it ends. It goes on when nobody waits any more.
func (c *Cache) look(ctx context.Context, domain string) <-chan struct{} {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if f := c.flights[domain]; f != nil {
		return f
	}
	if c.Now().Before(c.rest[domain]) || len(c.flights) >= maxFlights {
		return nil
	}
	landed := make(chan struct{})
	c.flights[domain] = landed
	go func() {
		defer close(landed)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flight)
		defer cancel()
		pause := recheck
		if err := c.renew(ctx, domain); err != nil {
			if pause = again; errors.Is(err, resolver.ErrAway) {
				pause = soon
			}
			c.Log.InfoContext(ctx, "mta-sts", "domain", domain, "error", err.Error())
		}
		c.mutex.Lock()
		defer c.mutex.Unlock()
		delete(c.flights, domain)
		c.hold(domain, c.Now().Add(pause))
	}()
	return landed
}

// hold remembers when domain may be asked for again, within bounds.
func (c *Cache) hold(domain string, until time.Time) {
	if len(c.rest) >= maxHeld {
		for d, end := range c.rest {
			if !c.Now().Before(end) {
				delete(c.rest, d)
			}
		}
		if len(c.rest) >= maxHeld {
			clear(c.rest)
		}
	}
	c.rest[domain] = until
}

// renew looks for the domain's record, and fetches its policy where that is
// new, or was fetched long ago. Where there is no record nothing is fetched,
// and what is known stays.
func (c *Cache) renew(ctx context.Context, domain string) error {
	answer, err := c.Names.TXT(ctx, "_mta-sts."+domain)
	if errors.Is(err, resolver.ErrAway) {
		return err
	}
	if err != nil || len(answer.Found) == 0 {
		return nil // no record, or a name too long to have one
	}
	id, err := parseRecord(answer.Found)
	if err != nil {
		return nil // records of something else
	}
	known := c.get(ctx, domain)
	now := c.Now()
	if known != nil && known.ID == id && now.Before(known.Expires) && now.Sub(known.Fetched) < min(refresh, known.MaxAge/2) {
		return nil
	}
	p, err := fetch(ctx, c.http, domain)
	if err != nil {
		return err
	}
	p.ID, p.Fetched, p.Expires = id, now, now.Add(p.MaxAge)
	return c.put(ctx, domain, p)
}
