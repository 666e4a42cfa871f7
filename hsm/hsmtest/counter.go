package hsmtest

import (
	"context"
	"sync/atomic"

	"postern/hsm"
)

// Counter counts what passes through it to a token, failures too.
type Counter struct {
	hsm.Token
	signs, unwraps atomic.Int64
}

// Count puts a Counter before token.
func Count(token hsm.Token) *Counter { return &Counter{Token: token} }

// Signs is the number of calls of Sign.
func (c *Counter) Signs() int { return int(c.signs.Load()) }

// Unwraps is the number of calls of Unwrap.
func (c *Counter) Unwraps() int { return int(c.unwraps.Load()) }

// Sign implements hsm.Token.
func (c *Counter) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	c.signs.Add(1)
	return c.Token.Sign(ctx, id, alg, digest)
}

// Unwrap implements hsm.Token.
func (c *Counter) Unwrap(ctx context.Context, id hsm.KeyID, w hsm.Wrapped) (hsm.SessionKey, error) {
	c.unwraps.Add(1)
	return c.Token.Unwrap(ctx, id, w)
}
