package dmarc

import (
	"context"
	"net"
	"strings"

	"blitiri.com.ar/go/spf"

	"postern/filter/dkim"
)

// Bounds of RFC 7208 §4.6.4.
const (
	maxLookups = 10
	maxVoid    = 2
)

// spfOf asks the sender's domain, or that of HELO where the sender is null.
func spfOf(ctx context.Context, ask *asker, q Question) SPF {
	if !q.Client.IsValid() {
		return SPF{}
	}
	hello, isHost := dkim.Tags{"d": q.Hello}.Host("d", 2)
	s := SPF{Hello: q.Sender.IsZero()}
	sender := ""
	if s.Hello {
		if !isHost {
			return SPF{Value: dkim.None, Hello: true}
		}
		s.Domain = hello
	} else {
		domain, ok := dkim.Tags{"d": q.Sender.Domain}.Host("d", 2)
		if !ok { // an address literal
			return SPF{Value: dkim.None}
		}
		s.Domain = domain
		sender = plain(q.Sender.Local) + "@" + domain
	}
	ip := q.Client.Unmap().WithZone("")
	value, _ := spf.CheckHostWithSender(net.IP(ip.AsSlice()), hello, sender, spf.WithContext(ctx), spf.WithResolver(ask),
		spf.OverrideLookupLimit(maxLookups), spf.OverrideVoidLookupLimit(maxVoid))
	switch s.Value = dkim.Value(value); s.Value {
	case dkim.None, dkim.Neutral, dkim.Pass, dkim.Fail, "softfail", dkim.TempError, dkim.PermError:
	default:
		s.Value = dkim.PermError
	}
	if ctx.Err() != nil {
		s.Value = dkim.TempError
	}
	return s
}

// plain is a local part that macros may put into a name; an @ of a quoted one
// would move the border to the domain.
func plain(local string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || strings.ContainsRune(`@"\`, r) {
			return '_'
		}
		return r
	}, local)
}
