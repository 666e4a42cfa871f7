package provisioning

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/route"
	"postern/filter/transport"
)

// Ways finds the ways to partners as the gateway does.
type Ways interface {
	Route(ctx context.Context, domain string, floor policy.Level) (*route.Route, error)
	// Resolver is who is asked for names: its address, and whether it answers,
	// and says of a signed answer that it was validated, and is believed.
	Resolver(ctx context.Context) (address string, validates bool, err error)
	Close() error
}

// routed is the result of route.
type routed struct {
	Domain  string       `json:"domain"`
	Rule    string       `json:"rule"`
	Level   policy.Level `json:"level"`
	Floor   policy.Level `json:"floor,omitempty"`
	Secure  bool         `json:"secure"` // the list of servers was validated
	STS     *stsPolicy   `json:"mta_sts,omitempty"`
	Servers []routeTo    `json:"servers"`
	Error   string       `json:"error,omitempty"`
}

type stsPolicy struct {
	Mode    string    `json:"mode"`
	ID      string    `json:"id"`
	MX      []string  `json:"mx"`
	Expires time.Time `json:"expires"`
}

type routeTo struct {
	Host       string   `json:"host"`
	Preference uint16   `json:"preference"`
	Addresses  []string `json:"addresses"`
	TLS        string   `json:"tls,omitempty"` // what a connection must fulfil
	Names      []string `json:"names,omitempty"`
	TLSA       []string `json:"tlsa,omitempty"`
	Pins       []string `json:"pins,omitempty"`
	Min        string   `json:"min,omitempty"`
	Why        string   `json:"why,omitempty"`
	Error      string   `json:"error,omitempty"` // it is not used
	Trial      string   `json:"trial,omitempty"` // it would not be, were the domain's MTA-STS policy enforced
}

func routeOf(r *route.Route, err error) routed {
	out := routed{Domain: r.Domain, Rule: r.Rule, Level: r.Way.Level, Floor: r.Floor, Secure: r.Secure, Servers: []routeTo{}}
	if r.STS != nil {
		out.STS = &stsPolicy{string(r.STS.Mode), r.STS.ID, r.STS.MX, r.STS.Expires.UTC()}
	}
	for _, s := range r.Servers {
		to := routeTo{Host: s.Host, Preference: s.Preference, Addresses: []string{}}
		for _, a := range s.Addresses {
			to.Addresses = append(to.Addresses, a.String())
		}
		if s.Trial != nil {
			to.Trial = s.Trial.Error()
		}
		if s.Err != nil {
			to.Error = s.Err.Error()
			out.Servers = append(out.Servers, to)
			continue
		}
		to.TLS, to.Names, to.Why = s.Need.TLS, s.Need.Names, s.Why
		for _, t := range s.Need.TLSA {
			text := fmt.Sprintf("%d %d %d %.64x", t.Usage, t.Selector, t.Matching, t.Data)
			if !t.Usable() {
				text += " (not used)"
			}
			to.TLSA = append(to.TLSA, text)
		}
		for _, p := range s.Need.Pins {
			to.Pins = append(to.Pins, fmt.Sprintf("sha256:%x", p))
		}
		if s.Need.Min != 0 && s.Need.TLS != transport.TLSMay {
			to.Min = strings.TrimPrefix(tls.VersionName(s.Need.Min), "TLS ")
		}
		out.Servers = append(out.Servers, to)
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// needWords say what each level of a connection asks for.
var needWords = map[string]string{
	transport.TLSMay:     "TLS where it is offered, else clear text",
	transport.TLSEncrypt: "TLS with any certificate, or the mail waits",
	transport.TLSVerify:  "TLS with a trusted certificate for one of the names, or the mail waits",
	transport.TLSDANE:    "TLS with a certificate that fits a TLSA record, or the mail waits",
	transport.TLSPin:     "TLS with one of the keys agreed on, or the mail waits",
}

func (r routed) text(w io.Writer) {
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	say("%s: transport %q, by rule %s", printable(r.Domain), r.Level, printable(r.Rule))
	if r.Floor != "" {
		say("the mail asks for %q", r.Floor)
	}
	if len(r.Servers) > 0 {
		if r.Secure {
			say("its list of servers is validated (DNSSEC)")
		} else {
			say("its list of servers is not validated: whoever can change DNS answers can change it")
		}
	}
	if r.STS != nil {
		say("MTA-STS: %s, for %s, until %s", r.STS.Mode, printable(strings.Join(r.STS.MX, ", ")), r.STS.Expires.Format(time.RFC3339))
	}
	for _, s := range r.Servers {
		say("\n%d %s (%s)", s.Preference, printable(s.Host), strings.Join(s.Addresses, ", "))
		if s.Error != "" {
			say("   not used: %s", printable(s.Error))
			continue
		}
		say("   asked for: %s", needWords[s.TLS])
		say("   because:   %s", s.Why)
		if s.Trial != "" {
			say("   on trial:  would not be used: %s", printable(s.Trial))
		}
		for _, list := range []struct {
			what string
			all  []string
		}{{"name", s.Names}, {"TLSA", s.TLSA}, {"key", s.Pins}} {
			for _, v := range list.all {
				say("   %-10s %s", list.what+":", printable(v))
			}
		}
		if s.Min != "" {
			say("   at least:  TLS %s", s.Min)
		}
	}
	if r.Error != "" {
		say("\nmail would not be delivered now: %s", printable(r.Error))
	}
}

func showRoute(ctx context.Context, c *call) (_ any, err error) {
	if c.Ways == nil {
		return nil, no("", "find way: this program has no resolver")
	}
	domain := c.args[0]
	if _, d, ok := strings.Cut(domain, "@"); ok {
		domain = d
	}
	ways, err := c.Ways(ctx, c.config())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ways.Close()) }()
	r, problem := ways.Route(ctx, domain, policy.Level(c.get("floor")))
	status := ExitDone
	switch {
	case problem == nil:
	case errors.Is(problem, route.ErrNowhere), errors.Is(problem, route.ErrUnsafe):
		status = ExitNo
	default:
		status = ExitLater
	}
	if status != ExitDone {
		return routeOf(r, problem), &failure{err: errSaid, status: status}
	}
	return routeOf(r, nil), nil
}

// examineResolver asks who the gateway would ask for names.
func (c *call) examineResolver(ctx context.Context, e *examined, site Site) {
	if c.Ways == nil || !site.Resolves {
		return
	}
	const name = "resolver"
	ways, err := c.Ways(ctx, c.config())
	if err != nil {
		e.broke(name, err)
		return
	}
	defer ways.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch address, validates, err := ways.Resolver(ctx); {
	case errors.Is(err, resolver.ErrAway):
		e.say(name, broken, "is unbound running? `address` in [resolver] names it", "%s: %v", address, err)
	case err != nil:
		e.broke(name, err)
	case !validates:
		e.say(name, concern, "let it validate (DNSSEC), and see `trust` in [resolver]", "%s answers, and validates nothing: there is no DANE, and verify trusts fewer names", address)
	default:
		e.say(name, fine, "", "%s answers, and validates", address)
	}
}
