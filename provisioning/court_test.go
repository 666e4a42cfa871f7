package provisioning

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"postern/filter/chain"
	"postern/filter/keyring"
)

// court judges by the anchors of the keyring, and asks nobody.
type court struct{ ring *keyring.Store }

func (c court) Path(ctx context.Context, one keyring.Cert, use chain.Use, at time.Time) (chain.Path, error) {
	list, err := c.ring.Authorities(ctx)
	if err != nil && !errors.Is(err, keyring.ErrNoStore) {
		return chain.Path{}, err
	}
	config := chain.Config{Mode: chain.Off}
	for _, a := range list {
		x, err := x509.ParseCertificate(a.Raw)
		switch {
		case err != nil:
			return chain.Path{}, err
		case a.Trust == keyring.Distrusted:
		case a.Role == keyring.Anchor:
			config.Anchors = append(config.Anchors, chain.Anchor{Cert: x, Own: true})
		default:
			config.Intermediates = append(config.Intermediates, x)
		}
	}
	x, err := x509.ParseCertificate(one.Raw)
	if err != nil {
		return chain.Path{}, err
	}
	j, err := chain.New(config)
	if err != nil {
		return chain.Path{}, err
	}
	return j.Judge(ctx, chain.Request{Cert: x, At: at, Use: use})
}

func (c court) Close() error { return c.ring.Close() }
