package box

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"postern/hsm"
)

// pending is a claim whose recovery key has not been typed back yet. It is in
// memory only: who pulls the plug begins anew.
type pending struct {
	Claim
	rules    Rules
	pin      string // of whoever claims
	recovery string
	until    time.Time
	left     int
}

// wipe forgets the PIN.
func (p *pending) wipe() { clear(p.PIN.PIN) }

// asked is what a screen shows of a box that is to be claimed.
type asked struct {
	claimed, pending bool
	wiped            bool
	code             string // "" unless it is neither
	until            time.Time
	left             int
}

// asks is that of one moment, so that no screen shows half of a claim.
func (s *Server) asks() (a asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	a.claimed, a.pending, a.wiped = s.owner != "", s.pending != nil, s.wiped
	if !a.claimed && !a.pending && !a.wiped {
		a.code, a.until, a.left = s.code.show()
	}
	return a
}

// expire is called with mu held.
func (s *Server) expire() {
	if p := s.pending; p != nil && (p.left <= 0 || !s.cfg.Now().Before(p.until)) {
		p.wipe()
		s.pending = nil
	}
}

// proofHeader carries the proof of the code.
const proofHeader = "Postern-Proof"

// answerClaim takes a claim from whoever proves that he sees the screen. It
// counts only when it is confirmed.
func (s *Server) answerClaim(_ http.ResponseWriter, r *request) (any, error) {
	var c Claim
	body, err := r.read(&c)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	done, err := s.alone()
	if err != nil {
		clear(c.PIN.PIN)
		return nil, err
	}
	defer done()
	p := &pending{Claim: c, pin: r.pin, until: s.cfg.Now().Add(pendingLife), left: tries}
	keep := false
	defer func() {
		if !keep {
			p.wipe()
		}
	}()
	s.mu.Lock()
	s.expire()
	owned, waits, wiped := s.owner != "", s.pending != nil, s.wiped
	s.mu.Unlock()
	if wiped {
		return nil, ErrReset
	}
	if owned {
		return nil, ErrClaimed
	}
	if waits {
		return nil, fmt.Errorf("%w: a claim waits to be confirmed", ErrBusy)
	}
	binding, err := bindingOf(r.TLS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	proof, err := hex.DecodeString(r.Header.Get(proofHeader))
	if err != nil {
		return nil, ErrRequest
	}
	ours, err := s.code.check(proof, binding, body)
	if err != nil {
		return nil, err
	}
	if err := c.sound(); err != nil {
		return nil, err
	}
	if p.rules, err = s.cfg.House.Check([]byte(c.Config)); err != nil {
		return nil, err
	}
	if p.recovery, err = s.cfg.House.Recovery(r.Context()); err != nil {
		return nil, fmt.Errorf("make recovery key: %w", err)
	}
	s.mu.Lock()
	s.pending = p
	s.code.spend()
	s.mu.Unlock()
	keep = true
	return Claimed{Proof: ours, Recovery: p.recovery}, nil
}

// answerConfirm makes the claim count: the recovery key was written down.
func (s *Server) answerConfirm(_ http.ResponseWriter, r *request) (any, error) {
	var c Confirm
	if _, err := r.read(&c); err != nil {
		return nil, err
	}
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	s.mu.Lock()
	s.expire()
	p := s.pending
	if p == nil || p.pin != r.pin {
		s.mu.Unlock()
		return nil, ErrPending
	}
	if subtle.ConstantTimeCompare([]byte(plain(c.Recovery)), []byte(plain(p.recovery))) != 1 {
		p.left--
		s.mu.Unlock()
		return nil, ErrConfirm
	}
	p.until = s.cfg.Now().Add(2 * settleLife) // nobody forgets the PIN while it is being used
	s.mu.Unlock()
	// Whoever claims may go away now; half of it must not be done for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), settleLife)
	defer cancel()
	if err := s.settle(ctx, p); err != nil {
		return nil, fmt.Errorf("carry out claim: %w", err)
	}
	p.wipe()
	return s.status(ctx), nil
}

// settle carries a claim out. The owner is written last: until then the box
// belongs to nobody, and can be claimed again.
func (s *Server) settle(ctx context.Context, p *pending) error {
	if err := s.seal(ctx, p.rules, p.PIN.PIN); err != nil {
		return err
	}
	if err := s.cfg.House.Apply(ctx, []byte(p.Config), true); err != nil {
		return err
	}
	if err := s.openToken(ctx, p.PIN.PIN); err != nil {
		return err
	}
	return s.own(p.pin, p.rules, p.Shares)
}

// seal gives the PIN to the TPM, where box.toml wants that.
func (s *Server) seal(ctx context.Context, rules Rules, pin []byte) error {
	if !rules.TPM {
		return nil
	}
	if err := s.cfg.House.Seal(ctx, pin); err != nil {
		return fmt.Errorf("seal PIN to the TPM: %w", err)
	}
	return nil
}

// own makes the box the one of pin.
func (s *Server) own(pin string, rules Rules, shares *SharedPIN) error {
	if err := s.keep(shares); err != nil {
		return err
	}
	if err := writeFile(s.path(ownerFile), []byte(pin+"\n"), 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner, s.rules, s.pending = pin, rules, nil
	s.shares = pool{now: s.cfg.Now, set: shares}
	return nil
}

// keep keeps what shares open, or nothing.
func (s *Server) keep(shares *SharedPIN) error {
	if shares != nil {
		return shares.write(s.path(sharesFile))
	}
	if err := os.Remove(s.path(sharesFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// answerPIN gives a token its first PIN, on a box that was claimed by a file. A
// token that has one is left alone: nobody could say whether it is the same.
func (s *Server) answerPIN(_ http.ResponseWriter, r *request) (any, error) {
	var p PIN
	body, err := r.read(&p)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	defer clear(p.PIN)
	if err := p.sound(); err != nil {
		return nil, err
	}
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Minute)
	defer cancel()
	st, err := s.awaitToken(ctx)
	if err != nil {
		return nil, err
	}
	if st.State != hsm.Unprovisioned {
		return nil, fmt.Errorf("give PIN: the token is %s: %w", st.State, ErrPIN)
	}
	s.mu.Lock()
	rules := s.rules
	s.mu.Unlock()
	if err := s.seal(ctx, rules, p.PIN); err != nil {
		return nil, err
	}
	if err := s.openToken(ctx, p.PIN); err != nil {
		return nil, err
	}
	if err := s.keep(p.Shares); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.shares = pool{now: s.cfg.Now, set: p.Shares}
	s.mu.Unlock()
	return s.status(ctx), nil
}

// openToken makes the token with its PIN, or tries the PIN once at one that is
// there already.
func (s *Server) openToken(ctx context.Context, pin []byte) error {
	st, err := s.awaitToken(ctx)
	if err != nil {
		return err
	}
	k := s.cfg.House.Token()
	switch st.State {
	case hsm.Ready:
		return nil
	case hsm.Unprovisioned:
		if err := k.Init(ctx, "", string(pin)); err != nil {
			return fmt.Errorf("initialise token: %w", err)
		}
		return nil
	case hsm.Locked:
		if err := k.Unlock(ctx, string(pin)); err != nil {
			return fmt.Errorf("unlock token: %w", err)
		}
		return nil
	}
	return fmt.Errorf("open token: %s: %w", st.Reason, hsm.ErrAway)
}

// awaitToken waits until the key daemon has looked at its token.
func (s *Server) awaitToken(ctx context.Context) (hsm.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.cfg.House.Token().Status(ctx)
		if err == nil && st.State != hsm.Failed {
			return st, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, fmt.Errorf("wait for the key daemon: %w", errors.Join(err, hsm.ErrAway))
		}
	}
}
