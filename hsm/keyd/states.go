package keyd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"postern/hsm"
)

// The states and what leads out of them:
//
//	Unprovisioned  no token with our label     Init makes one
//	Locked         a token and no good PIN     Unlock, or Init's PIN
//	Ready
//	Failed         the token went away         reopened by itself, 250 ms to 5 s apart
//
// A token that comes back is opened again from the start (module, token,
// login, keys), because handles and sessions of before are dead on every
// module that was measured.

// State is the state now, and why it is not Ready.
func (k *Keyd) State() (hsm.State, string) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.state, k.reason
}

func (k *Keyd) setState(s hsm.State, reason string) {
	k.telling.Lock()
	defer k.telling.Unlock()
	k.mu.Lock()
	same := k.state == s && k.reason == reason
	k.state, k.reason = s, reason
	k.mu.Unlock()
	if same {
		return
	}
	level := slog.LevelInfo
	if s == hsm.Failed || s == hsm.Locked {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "state", "state", s.String(), "reason", reason)
	if k.cfg.OnState != nil {
		k.cfg.OnState(s, reason)
	}
}

// away notes that the token is gone and wakes the supervisor.
func (k *Keyd) away(err error) {
	k.mu.RLock()
	ready := k.state == hsm.Ready || k.state == hsm.Locked
	k.mu.RUnlock()
	if !ready {
		return
	}
	k.setState(hsm.Failed, fmt.Sprintf("%v (tried again by itself)", err))
	k.poke()
}

func (k *Keyd) supervise(ctx context.Context) {
	backoff := k.cfg.MinBackoff
	for {
		wait := k.cfg.Health
		switch s, _ := k.State(); s {
		case hsm.Failed, hsm.Unprovisioned:
			// Modules that start at the same moment as another one can show no
			// token at first: an empty one is looked at again, too.
			wait = backoff
			backoff = min(2*backoff, k.cfg.MaxBackoff)
		default:
			backoff = k.cfg.MinBackoff
			if k.stale.Load() {
				wait = 0
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.wake:
			timer.Stop()
			continue // the state has changed, and with it the wait
		case <-timer.C:
		}
		k.beat.Store(k.cfg.Now().UnixNano())
		if err := k.guard.flush(false); err != nil {
			k.log.Error("write counters", "error", err)
		}
		switch s, _ := k.State(); s {
		case hsm.Ready, hsm.Locked:
			if k.health(s); k.stale.Swap(false) {
				if _, err := k.reload(); err != nil {
					k.log.Debug("load keys", "error", err)
				}
			}
		default:
			if err := k.reopen(false); err != nil {
				k.log.Debug("reopen token", "error", err)
			}
		}
		k.beat.Store(k.cfg.Now().UnixNano())
	}
}

func (k *Keyd) health(s hsm.State) {
	k.dev.RLock()
	err := k.device.Health()
	var info hsm.Status
	if err == nil {
		info, err = k.device.Info()
	}
	k.dev.RUnlock()
	if err == nil {
		k.mu.Lock()
		k.info = info
		k.mu.Unlock()
		return
	}
	// A token that nobody logged in to may say so; only its absence counts.
	if s == hsm.Ready || errors.Is(err, hsm.ErrAway) {
		k.away(err)
	}
}

// reopen takes the token from whatever it is to the best state that can be
// reached without an operator. Its error is for the log; the state is set.
func (k *Keyd) reopen(first bool) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	if s, _ := k.State(); !first && s != hsm.Failed && s != hsm.Unprovisioned {
		return nil // an operator was faster
	}
	if !first {
		if err := k.device.Close(); err != nil {
			k.log.Debug("close token", "error", err)
		}
	}
	if err := k.find(); err != nil {
		return err
	}
	pin := k.pin
	if pin == nil {
		var err error
		if pin, err = readPIN(k.cfg.PINFile); err != nil {
			k.setState(hsm.Locked, fmt.Sprintf("%v (hint: postern token unlock)", err))
			return err
		}
	}
	why, err := k.mayTry()
	if err != nil {
		k.setState(hsm.Failed, err.Error())
		return err
	}
	if why == "" && k.info.PINCount {
		why = "the token counts a wrong PIN already and is not asked again (hint: postern token unlock)"
	}
	if why != "" {
		k.setState(hsm.Locked, why)
		return hsm.ErrLocked
	}
	return k.enter(pin)
}

// find opens the module and our token. The caller holds k.dev.
func (k *Keyd) find() error {
	err := k.device.Open()
	var info hsm.Status
	if err == nil {
		info, err = k.device.Info()
	}
	switch {
	case errors.Is(err, hsm.ErrEmpty) && !k.seen:
		k.setState(hsm.Unprovisioned, "no token with our label (hint: postern token init)")
		return err
	case errors.Is(err, hsm.ErrEmpty):
		k.setState(hsm.Failed, "the token is gone (hint: put it back; to begin with another one, restart keyd)")
		return err
	case err != nil:
		k.setState(hsm.Failed, fmt.Sprintf("open token: %v", err))
		return err
	}
	k.seen = true
	k.mu.Lock()
	k.info = info
	k.mu.Unlock()
	return nil
}

// enter logs in once and loads the keys. The caller holds k.dev.
func (k *Keyd) enter(pin secret) error {
	err := k.login(pin)
	if errors.Is(err, hsm.ErrPIN) {
		clear(k.pin)
		k.pin = nil
		k.setState(hsm.Locked, "the PIN was refused (hint: correct the credential, then unlock)")
		return err
	}
	if err != nil {
		k.setState(hsm.Failed, err.Error())
		return err
	}
	k.pin, k.refused = pin, false
	return k.load()
}

// load reads and audits the keys. The caller holds k.dev and is logged in.
func (k *Keyd) load() error {
	keys, findings, err := k.device.Load()
	if err != nil {
		k.setState(hsm.Failed, fmt.Sprintf("load keys: %v", err))
		return err
	}
	m := make(map[hsm.KeyID]hsm.Key, len(keys))
	for _, key := range keys {
		m[key.ID] = key
	}
	for _, f := range findings {
		if !f.Served {
			k.log.Warn("key not served", "key", f.ID.String(), "label", clean(f.Label, hsm.MaxLabel), "faults", strings.Join(f.Faults, "; "))
		}
	}
	k.mu.Lock()
	k.keys, k.findings = m, findings
	k.mu.Unlock()
	k.setState(hsm.Ready, "") // after the keys: who sees Ready finds them
	return nil
}

// unlock is Keeper.Unlock.
func (k *Keyd) unlock(pin string) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	switch s, _ := k.State(); s {
	case hsm.Ready:
		return nil
	case hsm.Locked:
	case hsm.Unprovisioned:
		return hsm.ErrEmpty
	default:
		return hsm.ErrAway
	}
	p := secret(pin)
	if pin == "" {
		var err error
		if p, err = readPIN(k.cfg.PINFile); err != nil {
			return fmt.Errorf("unlock: %w: %w", err, hsm.ErrInvalid)
		}
	}
	if err := k.pardon(); err != nil {
		return err
	}
	return k.enter(p)
}

// initialise is Keeper.Init. A token that has our label is never touched.
func (k *Keyd) initialise(soPIN, pin string) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	switch s, _ := k.State(); s {
	case hsm.Unprovisioned:
	case hsm.Ready, hsm.Locked:
		return fmt.Errorf("init token: one with our label is there: %w", hsm.ErrExists)
	default:
		return hsm.ErrAway
	}
	p := secret(pin)
	if pin == "" {
		var err error
		if p, err = readPIN(k.cfg.PINFile); err != nil {
			return fmt.Errorf("init token: %w: %w", err, hsm.ErrInvalid)
		}
	}
	if soPIN == "" {
		soPIN = makePIN()
	}
	if err := k.pardon(); err != nil {
		return err
	}
	if err := k.device.Init(soPIN, string(p)); err != nil {
		return err
	}
	// Slot numbers change after C_InitToken: begin anew.
	if err := k.device.Close(); err != nil {
		k.log.Debug("close token", "error", err)
	}
	if err := k.find(); err != nil {
		return err
	}
	return k.enter(p)
}

// reload is Keeper.Audit: it reads the token again and serves what it finds.
func (k *Keyd) reload() ([]hsm.Finding, error) {
	k.dev.Lock()
	defer k.dev.Unlock()
	if err := k.usable(); err != nil {
		return nil, err
	}
	if err := k.load(); err != nil {
		k.poke()
		return nil, fmt.Errorf("%w: %w", hsm.ErrAway, err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Clone(k.findings), nil
}

func (k *Keyd) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// usable is nil in state Ready, else the refusal of the state.
func (k *Keyd) usable() error {
	switch s, _ := k.State(); s {
	case hsm.Ready:
		return nil
	case hsm.Locked:
		return hsm.ErrLocked
	case hsm.Unprovisioned:
		return hsm.ErrEmpty
	}
	return hsm.ErrAway
}
