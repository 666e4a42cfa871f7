package accounts

import (
	"context"
	"strings"

	"postern/filter/transport"
)

// plain is PLAIN (RFC 4616).
type plain struct{ *attempt }

func (p *plain) Next(ctx context.Context, said []byte) ([]byte, *transport.Account, error) {
	if said == nil {
		return []byte{}, nil, nil
	}
	words := strings.Split(string(said), "\x00")
	if len(words) != 3 {
		return nil, nil, transport.ErrLoginMalformed
	}
	if words[0] != "" && words[0] != words[1] { // to act for somebody else
		words[2] = ""
	}
	a, err := p.check(ctx, words[1], words[2])
	return nil, a, err
}

// login is LOGIN (draft-murchison-sasl-login), which old programs speak.
type login struct {
	*attempt
	name  string
	named bool
}

func (l *login) Next(ctx context.Context, said []byte) ([]byte, *transport.Account, error) {
	switch {
	case said == nil:
		return []byte("Username:"), nil, nil
	case !l.named:
		l.name, l.named = string(said), true
		return []byte("Password:"), nil, nil
	}
	a, err := l.check(ctx, l.name, string(said))
	return nil, a, err
}
