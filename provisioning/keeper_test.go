package provisioning

import (
	"context"

	"postern/hsm"
)

// keeper is the token of a script in another state.
type keeper struct {
	hsm.Keeper
	state string
}

func (k keeper) refusal() error {
	return map[string]error{"locked": hsm.ErrLocked, "empty": hsm.ErrEmpty, "failed": hsm.ErrAway, "busy": hsm.ErrBusy}[k.state]
}

func (k keeper) Status(ctx context.Context) (hsm.Status, error) {
	s, err := k.Keeper.Status(ctx)
	switch k.state {
	case "locked":
		s.State, s.Reason = hsm.Locked, "no PIN was given"
	case "empty":
		s.State, s.Reason = hsm.Unprovisioned, "no token has our label"
	case "failed":
		s.State, s.Reason = hsm.Failed, "the token went away"
	case "busy":
		return s, hsm.ErrBusy
	}
	return s, err
}

func (k keeper) Keys(ctx context.Context) ([]hsm.Key, error) {
	if err := k.refusal(); err != nil {
		return nil, err
	}
	return k.Keeper.Keys(ctx)
}

func (k keeper) Probe(ctx context.Context) ([]hsm.Probe, error) {
	if err := k.refusal(); err != nil {
		return nil, err
	}
	return k.Keeper.Probe(ctx)
}

func (k keeper) Audit(ctx context.Context) ([]hsm.Finding, error) {
	if err := k.refusal(); err != nil {
		return nil, err
	}
	return k.Keeper.Audit(ctx)
}

func (k keeper) Init(_ context.Context, so, pin string) error { return k.try(pin) }

func (k keeper) Unlock(_ context.Context, pin string) error { return k.try(pin) }

// try takes "" (the credential) and "1234".
func (k keeper) try(pin string) error {
	if pin != "" && pin != "1234" {
		return hsm.ErrPIN
	}
	return nil
}
