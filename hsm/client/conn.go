package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"postern/hsm"
	"postern/hsm/wire"
)

const (
	// inFlight bounds the calls under way on one connection, given-up ones
	// among them. It is what the daemon takes before it stops reading.
	inFlight = 256
	// patience is for the rest of a frame that has begun, in either direction.
	patience = 10 * time.Second
)

// lost is a call without an answer, because the connection broke.
type lost struct {
	sent  bool // it may have been done
	cause error
}

// Error says what broke.
func (l *lost) Error() string {
	if l.sent {
		return fmt.Sprintf("%v: the answer was lost: %v", hsm.ErrAway, l.cause)
	}
	return fmt.Sprintf("%v: %v", hsm.ErrAway, l.cause)
}

// Unwrap makes it hsm.ErrAway.
func (l *lost) Unwrap() []error { return []error{hsm.ErrAway, l.cause} }

// conn is one connection: a goroutine that writes, so that a caller can leave
// while a frame is half out, and one that reads. Both end with it.
type conn struct {
	nc    net.Conn
	send  chan []byte
	slots chan struct{}
	dead  chan struct{}
	group sync.WaitGroup

	mu      sync.Mutex
	cause   error
	last    uint32
	waiting map[uint32]*call
}

// call is one request under way. The reader alone writes to what take fills;
// its owner looks there only after done.
type call struct {
	op    wire.Op
	take  func(body []byte) (more bool, err error)
	parts int
	done  chan error // has room for the one answer
}

func newConn(nc net.Conn) *conn {
	c := &conn{nc: nc, send: make(chan []byte), slots: make(chan struct{}, inFlight), dead: make(chan struct{}), waiting: map[uint32]*call{}}
	c.group.Go(c.write)
	c.group.Go(c.read)
	return c
}

func (c *conn) alive() bool {
	select {
	case <-c.dead:
		return false
	default:
		return true
	}
}

// fail ends the connection and all calls on it. The first cause counts.
func (c *conn) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	close(c.dead)
	c.nc.Close()
	for _, k := range c.waiting {
		k.done <- &lost{true, cause}
	}
	c.waiting = nil
}

// do sends one request and waits for its answer, for ctx, or for limit.
func (c *conn) do(ctx context.Context, limit time.Duration, op wire.Op, body []byte, take func([]byte) (bool, error)) error {
	gone := func() error { return fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err()) }
	if ctx.Err() != nil {
		return gone()
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case c.slots <- struct{}{}:
	case <-c.dead:
		return &lost{false, c.why()}
	case <-ctx.Done():
		return gone()
	case <-timer.C:
		return c.silent(limit)
	}
	k := &call{op: op, take: take, done: make(chan error, 1)}
	id, err := c.enter(k)
	if err != nil {
		return err
	}
	frame, err := wire.Frame{Op: op, ID: id, Trace: label(hsm.Trace(ctx)), Body: body}.Append(nil)
	if err != nil {
		c.leave(id)
		return err
	}
	select {
	case c.send <- frame:
	case <-c.dead:
		clear(frame)
		return &lost{false, c.why()}
	case <-ctx.Done():
		clear(frame)
		c.leave(id)
		return gone()
	case <-timer.C:
		clear(frame)
		return c.silent(limit)
	}
	select {
	case err := <-k.done:
		return err
	case <-ctx.Done(): // the call keeps its slot until the daemon has answered
		return gone()
	case <-timer.C:
		return c.silent(limit)
	}
}

// silent gives up a connection on which nothing comes.
func (c *conn) silent(limit time.Duration) error {
	err := fmt.Errorf("no answer for %v", limit)
	c.fail(err)
	return fmt.Errorf("%w: %w", hsm.ErrAway, err)
}

func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// enter gives k a number that no call under way has.
func (c *conn) enter(k *call) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return 0, &lost{false, c.cause}
	}
	for {
		c.last++
		if _, taken := c.waiting[c.last]; !taken {
			break
		}
	}
	c.waiting[c.last] = k
	return c.last, nil
}

// leave takes a call out and frees its slot; false when it is out already.
func (c *conn) leave(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.waiting[id]; !there {
		return false
	}
	delete(c.waiting, id)
	<-c.slots
	return true
}

func (c *conn) write() {
	for {
		select {
		case <-c.dead:
			return
		case frame := <-c.send:
			c.nc.SetWriteDeadline(time.Now().Add(patience))
			_, err := c.nc.Write(frame)
			clear(frame) // it may hold a PIN
			if err != nil {
				c.fail(err)
				return
			}
		}
	}
}

func (c *conn) read() {
	r := wire.NewReader(c.nc)
	for {
		c.nc.SetReadDeadline(time.Time{})
		err := r.Wait()
		if err == nil {
			c.nc.SetReadDeadline(time.Now().Add(patience))
			var f wire.Frame
			if f, err = r.Next(); err == nil {
				err = c.take(f)
			}
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// take gives a frame to the call it answers. Its error ends the connection.
func (c *conn) take(f wire.Frame) error {
	c.mu.Lock()
	k := c.waiting[f.ID]
	c.mu.Unlock()
	if k == nil || f.Op != k.op|wire.Reply || f.Trace != "" || len(f.Body) == 0 {
		return fmt.Errorf("answer %d to nobody: %w", f.ID, wire.ErrFrame)
	}
	err := wire.ErrorOf(f.Body[0])
	if err != nil && len(f.Body) > 1 {
		return fmt.Errorf("answer with an error and a body: %w", wire.ErrFrame)
	}
	if err == nil {
		k.parts++
		more, derr := k.take(f.Body[1:])
		if derr != nil {
			return derr
		}
		if more && k.parts >= wire.MaxParts {
			return fmt.Errorf("answer in more than %d parts: %w", wire.MaxParts, wire.ErrFrame)
		}
		if more {
			return nil
		}
	}
	if c.leave(f.ID) {
		k.done <- err
	}
	return nil
}
