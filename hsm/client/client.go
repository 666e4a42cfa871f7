// Package client is the key daemon as the other processes see it: an
// hsm.Keeper over a Unix socket, and token keys in the clothes of
// crypto.Signer and crypto.Decrypter. It needs neither cgo nor a module, and
// holds no secret but the session key of an answer.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"postern/hsm"
	"postern/hsm/wire"
)

// Limits of a call, beyond what its context says: a little more than the key
// daemon gives itself, so that only a daemon that hangs is met by them.
const (
	useLimit  = 75 * time.Second
	keepLimit = 11 * time.Minute
)

var errClosed = errors.New("client closed")

// Client speaks to one socket of the key daemon. It connects when it is first
// asked, carries any number of calls on one connection, and connects anew when
// that one is gone, once for each call: there is no loop that waits for a
// daemon. Whatever goes wrong on the way is hsm.ErrAway.
//
// A call that ends by its context leaves the others alone. Calls that change
// nothing are repeated once when the connection broke under them; the others
// never are, because their answer may have been lost after the work was done.
type Client struct {
	socket string

	dialing chan struct{} // held by whoever connects; a channel, so that others can stop waiting

	mu     sync.Mutex
	conn   *conn
	closed bool
}

var _ hsm.Keeper = (*Client)(nil)

// Dial is a client of the daemon at socket, a path. It does no I/O.
func Dial(socket string) *Client {
	return &Client{socket: socket, dialing: make(chan struct{}, 1)}
}

// Close ends the connection and every call on it.
func (c *Client) Close() error {
	c.mu.Lock()
	conn := c.conn
	c.conn, c.closed = nil, true
	c.mu.Unlock()
	if conn != nil {
		conn.fail(errClosed)
		conn.group.Wait()
	}
	return nil
}

// current is the connection if there is one that works.
func (c *Client) current() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("%w: %w", hsm.ErrAway, errClosed)
	}
	if c.conn != nil && c.conn.alive() {
		return c.conn, nil
	}
	return nil, nil
}

// connect returns a connection that works; fresh when this call made it.
func (c *Client) connect(ctx context.Context) (conn *conn, fresh bool, err error) {
	if conn, err = c.current(); conn != nil || err != nil {
		return conn, false, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, false, fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err())
	}
	if conn, err = c.current(); conn != nil || err != nil {
		return conn, false, err // another call was faster
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", hsm.ErrAway, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		nc.Close()
		return nil, false, fmt.Errorf("%w: %w", hsm.ErrAway, errClosed)
	}
	c.conn = newConn(nc)
	return c.conn, true, nil
}

// ask makes one call. decode adds one body of the answer to what it has and
// tells whether another follows; its error ends the connection.
func ask[T any](ctx context.Context, c *Client, op wire.Op, body []byte, decode func(body []byte, v *T) (more bool, err error)) (T, error) {
	var zero T
	limit := useLimit
	if op.Keep() {
		limit = keepLimit
	}
	var broken error
	for {
		conn, fresh, err := c.connect(ctx)
		if err != nil {
			// What broke says more than that it is still broken.
			return zero, fmt.Errorf("%s: %w", op, errors.Join(err, broken))
		}
		v := new(T) // of this try: an earlier one may still be written to
		err = conn.do(ctx, limit, op, body, func(b []byte) (bool, error) { return decode(b, v) })
		if err == nil {
			return *v, nil
		}
		var l *lost
		if fresh || broken != nil || !errors.As(err, &l) || (l.sent && !harmless(op)) || ctx.Err() != nil {
			return zero, fmt.Errorf("%s: %w", op, err)
		}
		broken = err
	}
}

// harmless reports whether an operation may be done twice.
func harmless(op wire.Op) bool {
	switch op {
	case wire.OpKeys, wire.OpSign, wire.OpUnwrap, wire.OpStatus, wire.OpProve:
		return true
	}
	return false
}

// only is the decoder of an answer that has one body.
func only[T any](decode func([]byte) (T, error)) func([]byte, *T) (bool, error) {
	return func(b []byte, v *T) (more bool, err error) {
		*v, err = decode(b)
		return false, err
	}
}

// entries is the decoder of a list.
func entries[T any](decode func([]byte) (T, error)) func([]byte, *[]T) (bool, error) {
	return func(b []byte, v *[]T) (bool, error) {
		list, more, err := wire.DecodeList(b)
		if err != nil {
			return false, err
		}
		for _, e := range list {
			one, err := decode(e)
			if err != nil {
				return false, err
			}
			*v = append(*v, one)
		}
		return more, nil
	}
}

func nothing(b []byte, _ *struct{}) (bool, error) { return false, wire.DecodeNothing(b) }

// Keys implements hsm.Token.
func (c *Client) Keys(ctx context.Context) ([]hsm.Key, error) {
	return ask(ctx, c, wire.OpKeys, nil, entries(wire.DecodeKey))
}

// Sign implements hsm.Token.
func (c *Client) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	body, err := wire.Sign{ID: id, Alg: alg, Digest: digest}.Encode()
	if err != nil {
		return nil, err
	}
	return ask(ctx, c, wire.OpSign, body, only(wire.DecodeSignature))
}

// Unwrap implements hsm.Token.
func (c *Client) Unwrap(ctx context.Context, id hsm.KeyID, w hsm.Wrapped) (hsm.SessionKey, error) {
	body, err := wire.Unwrap{ID: id, Origin: hsm.Origin(ctx), Wrapped: w}.Encode()
	if err != nil {
		return hsm.SessionKey{}, err
	}
	return ask(ctx, c, wire.OpUnwrap, body, only(wire.DecodeSessionKey))
}

// Status implements hsm.Keeper.
func (c *Client) Status(ctx context.Context) (hsm.Status, error) {
	return ask(ctx, c, wire.OpStatus, nil, only(wire.DecodeStatus))
}

// Init implements hsm.Keeper.
func (c *Client) Init(ctx context.Context, soPIN, pin string) error {
	body, err := wire.EncodeInit(soPIN, pin)
	if err != nil {
		return err
	}
	defer clear(body)
	_, err = ask(ctx, c, wire.OpInit, body, nothing)
	return err
}

// Unlock implements hsm.Keeper.
func (c *Client) Unlock(ctx context.Context, pin string) error {
	body, err := wire.EncodeUnlock(pin)
	if err != nil {
		return err
	}
	defer clear(body)
	_, err = ask(ctx, c, wire.OpUnlock, body, nothing)
	return err
}

// Probe implements hsm.Keeper.
func (c *Client) Probe(ctx context.Context) ([]hsm.Probe, error) {
	return ask(ctx, c, wire.OpProbe, nil, entries(wire.DecodeProbe))
}

// Audit implements hsm.Keeper.
func (c *Client) Audit(ctx context.Context) ([]hsm.Finding, error) {
	return ask(ctx, c, wire.OpAudit, nil, entries(wire.DecodeFinding))
}

// Generate implements hsm.Keeper.
func (c *Client) Generate(ctx context.Context, s hsm.KeySpec) (hsm.Key, error) {
	body, err := wire.EncodeSpec(s)
	if err != nil {
		return hsm.Key{}, err
	}
	return ask(ctx, c, wire.OpGenerate, body, only(wire.DecodeKey))
}

// Prove implements hsm.Keeper.
func (c *Client) Prove(ctx context.Context, id hsm.KeyID, info []byte) ([]byte, error) {
	body, err := wire.Prove{ID: id, Info: info}.Encode()
	if err != nil {
		return nil, err
	}
	return ask(ctx, c, wire.OpProve, body, only(wire.DecodeSignature))
}

// Retire implements hsm.Keeper.
func (c *Client) Retire(ctx context.Context, id hsm.KeyID) error {
	_, err := ask(ctx, c, wire.OpRetire, wire.EncodeID(id), nothing)
	return err
}

// Destroy implements hsm.Keeper.
func (c *Client) Destroy(ctx context.Context, id hsm.KeyID) error {
	_, err := ask(ctx, c, wire.OpDestroy, wire.EncodeID(id), nothing)
	return err
}

// label makes a trace id fit for a frame: it is only a label, and never a
// reason to refuse.
func label(trace string) string {
	if len(trace) > wire.MaxTrace {
		trace = trace[:wire.MaxTrace]
	}
	b := []byte(trace)
	for i, v := range b {
		if v < 0x21 || v > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}
