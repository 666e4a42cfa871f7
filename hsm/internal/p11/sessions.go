package p11

import (
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// patience is how long an operation waits for a free session.
const patience = 10 * time.Second

const sessionFlags = pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION

// pool lends sessions, each to one goroutine at a time. A session comes back
// only from an operation that went well: after any error it is closed,
// because no error says for sure that nothing is left pending in it, and one
// such session would answer CKR_OPERATION_ACTIVE for ever.
type pool struct {
	ctx  *pkcs11.Ctx
	slot uint
	turn chan struct{} // as many as may work at a time

	mu   sync.Mutex
	idle []pkcs11.SessionHandle
}

func newPool(ctx *pkcs11.Ctx, slot uint, workers int) *pool {
	return &pool{ctx: ctx, slot: slot, turn: make(chan struct{}, workers)}
}

// enter waits for a turn; leave gives it back.
func (p *pool) enter() error {
	select {
	case p.turn <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-timer.C:
		return hsm.ErrBusy
	}
}

func (p *pool) leave() { <-p.turn }

// with runs do on a session of its own. An operation that met a poisoned
// session is tried once more on a new one: the module did nothing yet.
func (p *pool) with(do func(s pkcs11.SessionHandle) error) error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	err := p.once(do)
	if is(err, pkcs11.CKR_OPERATION_ACTIVE) {
		err = p.once(do)
	}
	return err
}

func (p *pool) once(do func(s pkcs11.SessionHandle) error) error {
	s, err := p.take()
	if err != nil {
		return err
	}
	if err := do(s); err != nil {
		p.ctx.CloseSession(s) // a session that is gone cannot be closed; nothing is lost
		return err
	}
	p.mu.Lock()
	p.idle = append(p.idle, s)
	p.mu.Unlock()
	return nil
}

func (p *pool) take() (pkcs11.SessionHandle, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	return p.ctx.OpenSession(p.slot, sessionFlags)
}

// close ends the idle sessions; nobody may hold another.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		p.ctx.CloseSession(s)
	}
	p.idle = nil
}
