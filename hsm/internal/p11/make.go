package p11

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// maxLabel is the longest label of a token, in bytes: CK_TOKEN_INFO.
const maxLabel = 32

// Init makes a token: it gives the first free token the configured label and
// the officer's PIN soPIN, sets the user's PIN, and leaves the token open and
// logged out. It never touches a token that has keys or another label: with
// our label and a user PIN it answers hsm.ErrExists; without a free token
// hsm.ErrRefused. Where an earlier Init broke off before the user's PIN was
// set, soPIN must be the one given then; it is tried once.
func (t *Token) Init(soPIN, pin string) error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.m != nil {
		return fmt.Errorf("make token: %w", hsm.ErrExists)
	}
	if n := len(t.c.Token); n == 0 || n > maxLabel || strings.TrimSpace(t.c.Token) != t.c.Token {
		return fmt.Errorf("make token: %w: label of %d bytes, want 1 to %d without spaces around it", hsm.ErrInvalid, n, maxLabel)
	}
	if pin == "" {
		return fmt.Errorf("make token: %w: empty user PIN", hsm.ErrInvalid)
	}
	m, err := t.initialise()
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	err = m.make(t.c.Token, soPIN, pin)
	m.finalize()
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	t.serial = ""
	return t.open()
}

func (m *module) make(label, soPIN, pin string) error {
	err := m.find(label)
	switch {
	case err == nil:
		return hsm.ErrExists
	case !errors.Is(err, hsm.ErrEmpty):
		return err
	}
	if m.profile.officerFirst {
		soPIN = ""
	}
	if m.token.Label != label { // not half made already
		slot, err := m.freeSlot(soPIN)
		if err != nil {
			return err
		}
		if err := m.ctx.InitToken(slot, soPIN, label); err != nil {
			return fault("initialise token", err)
		}
		if err := m.find(label); err == nil || !errors.Is(err, hsm.ErrEmpty) || m.token.Label != label {
			return fmt.Errorf("find the new token: %w: %v", hsm.ErrAway, err)
		}
	}
	s, err := m.ctx.OpenSession(m.slot, sessionFlags)
	if err != nil {
		return fault("open session", err)
	}
	defer m.ctx.CloseSession(s)
	if err := m.ctx.Login(s, pkcs11.CKU_SO, soPIN); err != nil {
		return fault("log in as officer", err)
	}
	defer m.ctx.Logout(s)
	return fault("set user PIN", m.ctx.InitPIN(s, pin))
}

// freeSlot is the first slot with a token that nobody has initialised.
func (m *module) freeSlot(soPIN string) (uint, error) {
	slots, err := m.slots()
	if err != nil {
		return 0, err
	}
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			continue
		}
		if n := uint(len(soPIN)); n < info.MinPinLen || info.MaxPinLen > 0 && n > info.MaxPinLen {
			return 0, fmt.Errorf("%w: officer PIN of %d characters, the token wants %d to %d", hsm.ErrInvalid, n, info.MinPinLen, info.MaxPinLen)
		}
		return slot, nil
	}
	return 0, fmt.Errorf("%w: no free token is here", hsm.ErrRefused)
}
