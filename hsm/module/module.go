// Package module opens a token behind a PKCS#11 library for the key daemon. It
// is the one door to hsm/internal/p11, which nothing outside of hsm can
// import; hsm/keyd itself knows its Device only and needs no cgo.
package module

import "postern/hsm/internal/p11"

// Config says which library and which token behind it.
type Config = p11.Config

// Token is the keyd.Device of a module.
type Token = p11.Token

// New is the token of a module, closed. It loads the library, so that one that
// is no PKCS#11 module is told at once: no waiting would mend it. The token
// itself is not touched.
func New(c Config) (*Token, error) {
	t := p11.New(c)
	if err := t.Check(); err != nil {
		return nil, err
	}
	return t, nil
}
