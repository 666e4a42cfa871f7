package policy

import (
	"strings"

	"postern/filter/message"
)

// nearest is what m says of a domain: under its own name, or else under the
// nearest "*.domain" above it; and the key that says it.
func nearest[V any](m map[string]V, domain string) (v V, key string, ok bool) {
	domain = strings.ToLower(domain)
	if v, ok = m[domain]; ok {
		return v, domain, true
	}
	for rest := domain; ; {
		_, above, more := strings.Cut(rest, ".")
		if !more {
			return v, "", false
		}
		if v, ok = m["*."+above]; ok {
			return v, "*." + above, true
		}
		rest = above
	}
}

// ruleFor is what m says of an address, or else of its domain, and the name of
// that rule.
func ruleFor[V any](m map[string]V, a message.Address) (v V, rule string, ok bool) {
	if v, ok = m[a.Key()]; ok {
		return v, `recipient."` + a.Key() + `"`, true
	}
	v, key, ok := nearest(m, a.Domain)
	return v, `partner."` + key + `"`, ok
}

// Protection is the rule for mail to a, and its name: the address's own rule,
// then its domain's, then the nearest "*.domain", then the default.
func (p *Policy) Protection(a message.Address) (Protect, string) {
	if v, ok := p.Recipients[a.Key()]; ok {
		return v, `recipient."` + a.Key() + `"`
	}
	if v, key, ok := nearest(p.Partners, a.Domain); ok {
		return v, `partner."` + key + `"`
	}
	if domain := strings.ToLower(a.Domain); p.Ours(domain) {
		level := p.Internal[domain]
		if level == "" {
			level = None
		}
		return level, `domain."` + domain + `"`
	}
	return p.Default, "default"
}

// Signing is the rule for signing mail of author to a, and its name. Mail of
// others than our own domains is never signed.
func (p *Policy) Signing(author, a message.Address) (Sign, string) {
	home := strings.ToLower(author.Domain)
	if !p.Ours(home) {
		return SignNever, "default"
	}
	if v, rule, ok := ruleFor(p.Signs, a); ok {
		return v, rule
	}
	return p.Domains[home], `domain."` + home + `"`
}

// Without says what becomes of mail to a that must be protected and cannot be.
func (p *Policy) Without(a message.Address) NoKey {
	if v, _, ok := ruleFor(p.NoKeys, a); ok {
		return v
	}
	if p.NoKey == "" {
		return NoKeyReject
	}
	return p.NoKey
}
