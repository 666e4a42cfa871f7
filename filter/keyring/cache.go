package keyring

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"postern/filter/message"
)

// What a cache holds at most. Senders choose the addresses that are asked for,
// so that a bound on both is needed.
const (
	maxCached      = 4096    // answers, the empty ones among them
	maxCachedBytes = 8 << 20 // of certificates
)

// cache keeps answers of a read-only store, for as long as nobody changes the
// keyring: before each answer, or once in a context of Once, SQLite is asked
// whether another connection, of this process or another, has committed
// anything. That costs a look at the index of the write-ahead log, where a
// look-up costs the compilation of a query.
type cache struct {
	mutex   sync.Mutex
	watch   *sql.Conn // its data_version counts the commits of all others
	ask     *sql.Stmt
	version int64
	epoch   int // grows with each change that was seen
	size    int // bytes of certificates
	answers map[question]answer
}

// Once gives a context in which every read-only store is asked for changes
// once, by the first look-up: what was committed before that is in all answers.
func Once(ctx context.Context) context.Context {
	return context.WithValue(ctx, onceKey{}, &sync.Map{})
}

type onceKey struct{}

// kind is what is asked.
type kind uint8

const (
	partners    kind = iota // Certs of an address
	ours                    // Identities of an address
	named                   // Ours, key is the fingerprint
	authorities             // Authorities
)

// question is one look-up.
type question struct {
	kind        kind
	key, domain string
}

// answer is what was found. Callers share what its elements point to.
type answer struct {
	certs      []Cert
	identities []Identity
}

func about(k kind, a message.Address) question {
	return question{k, a.Key(), strings.ToLower(a.Domain)}
}

// bytes is how much an answer keeps in memory, roughly.
func (a answer) bytes() (n int) {
	for i := range a.certs {
		n += len(a.certs[i].Raw)
	}
	for i := range a.identities {
		n += len(a.identities[i].Raw)
	}
	return n
}

// answer gives what is known for q, or loads it. What was committed before the
// call, or before the first one in a context of Once, is in the answer.
func (c *cache) answer(ctx context.Context, db *sql.DB, q question, load func() (answer, error)) (answer, error) {
	epoch, a, ok, err := c.look(ctx, db, q)
	if err == nil && !ok {
		if a, err = load(); err == nil {
			c.keep(epoch, q, a)
		}
	}
	return answer{slices.Clone(a.certs), slices.Clone(a.identities)}, err
}

// look forgets everything when the keyring has changed.
func (c *cache) look(ctx context.Context, db *sql.DB, q question) (epoch int, a answer, ok bool, err error) {
	asked, _ := ctx.Value(onceKey{}).(*sync.Map)
	ctx = context.WithoutCancel(ctx) // an interrupted question would cost the connection
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if asked != nil && c.watch != nil {
		if _, before := asked.Load(c); before { // all that is kept was good then, or later
			a, ok = c.answers[q]
			return c.epoch, a, ok, nil
		}
	}
	if c.watch == nil {
		err = c.open(ctx, db)
	}
	var version int64
	if err == nil {
		err = c.ask.QueryRowContext(ctx).Scan(&version)
	}
	if err != nil {
		c.close()
		return 0, a, false, fmt.Errorf("read version of keyring: %w", err)
	}
	if version != c.version {
		c.forget()
		c.version = version
	}
	if asked != nil {
		asked.Store(c, true)
	}
	a, ok = c.answers[q]
	return c.epoch, a, ok, nil
}

// keep remembers an answer that was loaded after epoch was seen. When a change
// was seen since, it may be older than that.
func (c *cache) keep(epoch int, q question, a answer) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if _, known := c.answers[q]; known || epoch != c.epoch || a.bytes() > maxCachedBytes {
		return
	}
	for other, old := range c.answers { // in no order: nobody can tell which
		if len(c.answers) < maxCached && c.size+a.bytes() <= maxCachedBytes {
			break
		}
		c.size -= old.bytes()
		delete(c.answers, other)
	}
	c.answers[q] = a
	c.size += a.bytes()
}

func (c *cache) forget() {
	c.epoch++
	c.size, c.answers = 0, map[question]answer{}
}

func (c *cache) open(ctx context.Context, db *sql.DB) (err error) {
	if c.watch, err = db.Conn(ctx); err != nil {
		return err
	}
	c.forget() // another connection counts otherwise
	c.ask, err = c.watch.PrepareContext(ctx, "PRAGMA data_version")
	return err
}

// close lets go of the connection; the next look makes another.
func (c *cache) close() {
	if c.ask != nil {
		c.ask.Close()
	}
	if c.watch != nil {
		c.watch.Close()
	}
	c.watch, c.ask = nil, nil
	c.forget()
}
