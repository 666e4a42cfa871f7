package provisioning

import (
	"context"
	"strings"

	"postern/filter/dkim"
	"postern/filter/resolver"
	"postern/filter/zone"
	"postern/hsm"
)

// leftover is a DNS in which nothing stands but the keys that are retired.
type leftover struct {
	token hsm.Keeper
	away  bool
}

func (s *script) names(config string) (zone.Names, error) {
	return leftover{s.token, strings.HasPrefix(config, "away")}, nil
}

func (l leftover) TXT(ctx context.Context, name string) (a resolver.Answer[string], err error) {
	if l.away {
		return a, resolver.ErrAway
	}
	keys, err := l.token.Keys(ctx)
	if err != nil {
		return a, err
	}
	for _, s := range dkim.Selectors(keys) {
		if s.Key.Retired && s.Name+"._domainkey."+s.Domain == name {
			text, err := dkim.Record(s.Key.Public)
			a.Found = append(a.Found, text)
			return a, err
		}
	}
	return a, nil
}

func (l leftover) Data(context.Context, string, string) (a resolver.Answer[string], err error) {
	if l.away {
		err = resolver.ErrAway
	}
	return a, err
}
