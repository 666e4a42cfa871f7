package provisioning

import (
	"context"
	"errors"

	"postern/filter/keyring"
)

// find gets the certificate that the command names: of the keyring, or else of
// what verified mail brought.
func (c *call) find(ctx context.Context, store *keyring.Store) (cert keyring.Cert, seen bool, err error) {
	cert, err = store.Get(ctx, c.args[0])
	if !errors.Is(err, keyring.ErrNotFound) && !errors.Is(err, keyring.ErrNoStore) {
		return cert, false, err
	}
	list, other := c.besides(func(s *keyring.Store) ([]keyring.Cert, error) {
		one, err := s.Get(ctx, c.args[0])
		return []keyring.Cert{one}, err
	})
	switch {
	case other == nil && len(list) == 1:
		return list[0], true, nil
	case other == nil || errors.Is(other, keyring.ErrNotFound):
		return cert, false, err
	}
	return cert, false, other
}

// say changes what is said of a certificate. One that verified mail brought is
// copied into the keyring by it, read again from its bytes.
func say(t keyring.Trust) func(context.Context, *call) (any, error) {
	return func(ctx context.Context, c *call) (any, error) {
		store, err := c.ring(true)
		if err != nil {
			return nil, err
		}
		cert, seen, err := c.find(ctx, store)
		if err != nil {
			return nil, err
		}
		if seen {
			return c.promote(ctx, store, cert, t)
		}
		if !c.dry() {
			if err := store.SetTrust(ctx, cert.Fingerprint, t); err != nil {
				return nil, err
			}
		}
		return c.did("call %s %s (it was %s): %s", cert.Fingerprint, t, cert.Trust, certLineOf(cert).names()), nil
	}
}

// promote copies a certificate that was only seen into the keyring.
func (c *call) promote(ctx context.Context, store *keyring.Store, cert keyring.Cert, t keyring.Trust) (any, error) {
	cert, err := again(cert)
	if err != nil {
		return nil, err
	}
	cert.Trust = t
	note := c.pathNote(ctx, cert)
	if !c.dry() {
		if err := store.Import(ctx, cert); err != nil {
			return nil, err
		}
	}
	return c.did("call %s %s (mail brought it): %s%s", cert.Fingerprint, t, certLineOf(cert).names(), note), nil
}
