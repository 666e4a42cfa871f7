package gateway

import (
	"fmt"
	"strings"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/policy"
)

// Texts reads what refusals say.
func Texts(c *config.Filterd) (filter.Texts, error) {
	t := filter.Texts{Language: c.Texts.Language, Own: c.Texts.Own}
	if err := t.Check(); err != nil {
		return t, fmt.Errorf("texts.own: %w", err)
	}
	return t, nil
}

// triggers reads what senders can ask for.
func triggers(c *config.Filterd) (list []filter.Trigger) {
	for _, w := range []struct {
		entries []string
		asks    policy.Asks
	}{{c.Trigger.Encrypt, policy.Asks{Encrypt: true}}, {c.Trigger.Sign, policy.Asks{Sign: true}}, {c.Trigger.Plain, policy.Asks{Plain: true}}} {
		for _, e := range w.entries {
			t := filter.Trigger{Tag: e, Asks: w.asks}
			if name, value, field := strings.Cut(e, ":"); field {
				t = filter.Trigger{Field: name, Value: strings.TrimSpace(value), Asks: w.asks}
			}
			list = append(list, t)
		}
	}
	return list
}
