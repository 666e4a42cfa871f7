// Package gateway wires the mail path from its configuration, once for
// filterd and for the commands of postern that run the very same path.
package gateway

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/filter/record"
	"postern/filter/transport"
	"postern/hsm"
)

// Policy reads the rules of c, and finds texts that belong to nothing.
func Policy(c *config.Filterd) (*policy.Policy, error) {
	if _, err := Texts(c); err != nil { // so that --check finds it
		return nil, err
	}
	p := &policy.Policy{
		Domains: map[string]policy.Sign{}, Partners: map[string]policy.Protect{}, Recipients: map[string]policy.Protect{},
		Default: policy.Protect(c.Default.Protect), Undecryptable: policy.Undecryptable(c.Default.Undecryptable),
		Ways: map[string]policy.Way{}, DefaultWay: way(c.Default.Transport, c.Default.Min, c.Default.PFS),
		Forms: map[string]policy.Form{}, Formats: formats(c.Default.Format), Escrow: map[string]policy.Escrow{}, Archives: map[string]policy.Archive{},
		Internal: map[string]policy.Protect{}, Signs: map[string]policy.Sign{}, NoKeys: map[string]policy.NoKey{},
		NoKey: policy.NoKey(c.Default.NoKey), Downgrade: policy.Downgrade(c.Default.Downgrade), Answers: policy.Answers(c.Default.Answers),
		Client: policy.Client(c.Default.Client), Lowering: len(c.Trigger.Plain) > 0, Shadow: c.Default.Shadow,
	}
	special := func(key, sign, noKey string) {
		if sign != "inherit" {
			p.Signs[key] = policy.Sign(sign)
		}
		if noKey != "inherit" {
			p.NoKeys[key] = policy.NoKey(noKey)
		}
	}
	for d, v := range c.Domains {
		p.Domains[d] = policy.Sign(v.Sign)
		p.Internal[d] = policy.None
		if v.Internal != "plain" {
			p.Internal[d] = policy.Protect(v.Internal)
		}
		if len(v.Escrow) > 0 {
			p.Escrow[d] = v.Escrow
		}
		if v.Archive != "" {
			var err error
			if p.Archives[d], err = archive(c, v.Archive); err != nil {
				return nil, fmt.Errorf("domain %q: %w", d, err)
			}
		}
	}
	for d, v := range c.Partners {
		p.Partners[d] = policy.Protect(v.Protect)
		special(d, v.Sign, v.NoKey)
		w := way(v.Transport, v.Min, v.PFS)
		w.Pins, w.Inbound = pins(v.Pins), inbound(v)
		var err error
		if w.Names, err = hosts(v.Names); err != nil {
			return nil, fmt.Errorf("partner %q: %w", d, err)
		}
		p.Ways[d] = w
		style := protect.Style{Cipher: v.SMIME.Cipher, OAEP: v.SMIME.OAEP, PSS: v.SMIME.PSS}
		if style.Cipher == "auto" {
			style.Cipher = ""
		}
		p.Forms[d] = policy.Form{Formats: formats(v.Format), Style: style}
	}
	for text, v := range c.Recipients {
		a, err := message.ParseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w (hint: write it as name@domain)", text, err)
		}
		p.Recipients[a.Key()] = policy.Protect(v.Protect)
		special(a.Key(), v.Sign, v.NoKey)
	}
	return p, nil
}

// archive reads what goes to an archive, and how.
func archive(c *config.Filterd, address string) (policy.Archive, error) {
	v := c.Archives[address]
	a, err := message.ParseAddress(address)
	if err != nil {
		return policy.Archive{}, fmt.Errorf("archive %q: %w (hint: write it as name@domain)", address, err)
	}
	return policy.Archive{Address: a, Certs: v.Certs, Inbound: slices.Contains(v.When, "inbound"), Outbound: slices.Contains(v.When, "outbound"), Without: v.OnFailure == "pass"}, nil
}

// way reads the way to a partner, all but what only one partner can have.
// Below the level encrypt an old version is better than clear text.
func way(level, min string, pfs bool) policy.Way {
	w := policy.Way{Level: policy.Level(level)}
	if w.Level == policy.NextHop || w.Level == policy.May {
		return w
	}
	w.PFS = pfs
	if min != "" {
		w.Min = versions[min]
	}
	return w
}

// inbound reads what is asked of mail from a partner.
func inbound(p config.Partner) policy.Demand {
	if p.Inbound == "any" {
		return policy.Demand{}
	}
	return policy.Demand{TLS: true, Min: versions[p.Min], Pins: pins(p.InboundPins)}
}

// pins reads public keys whose form was checked.
func pins(words []string) (list [][32]byte) {
	for _, w := range words {
		var pin [32]byte
		if n, err := hex.Decode(pin[:], []byte(strings.TrimPrefix(w, "sha256:"))); err == nil && n == len(pin) {
			list = append(list, pin)
		}
	}
	return list
}

func formats(words []string) (list []keyring.Format) {
	for _, w := range words {
		list = append(list, keyring.Format(w))
	}
	return list
}

func limits(c *config.Filterd) message.Limits {
	return message.Limits{Depth: c.Limits.MIMEDepth, Parts: c.Limits.MIMEParts, Fields: c.Limits.HeaderFields, HeaderBytes: int64(c.Limits.HeaderBytes)}
}

// Hop reads one next hop that is a relay; nil gives nil.
func Hop(h *config.Hop, name string) (*transport.Hop, error) {
	if h == nil || h.Route == "direct" {
		return nil, nil
	}
	hop := &transport.Hop{Address: h.Address, Name: name, Need: transport.Need{TLS: h.TLS, ServerName: h.Name}, LMTP: h.Protocol == "lmtp"}
	if h.CAFile != "" {
		var err error
		if hop.RootCAs, err = pool("ca-file", h.CAFile); err != nil {
			return nil, fmt.Errorf("next hop %s: %w", h.Address, err)
		}
	}
	return hop, nil
}

// New makes the mail path of c. The spool folder is made when it is not there.
// Without ways a direct next hop is none.
func New(c *config.Filterd, token hsm.Token, ring *Ring, rec *record.Record, ways *Router, log *slog.Logger) (*filter.Gateway, error) {
	rules, err := Policy(c)
	if err != nil {
		return nil, err
	}
	xs, err := NewSMIME(c, token, ring)
	if err != nil {
		return nil, err
	}
	texts, err := Texts(c)
	if err != nil {
		return nil, err
	}
	hops := map[policy.Direction]filter.Hop{}
	for direction, h := range map[policy.Direction]*config.Hop{policy.Inbound: c.NextHop.Inbound, policy.Outbound: c.NextHop.Outbound} {
		hop, err := Hop(h, c.AuthservID)
		if err != nil {
			return nil, err
		}
		switch {
		case h != nil && h.Route == "direct" && ways != nil:
			if hops[direction], err = direct(c, h, ways, texts, log); err != nil {
				return nil, err
			}
		case hop != nil && direction == policy.Outbound:
			hops[direction] = onward{hop, strict(c)}
		case hop != nil:
			hops[direction] = hop
		}
	}
	archives := map[string]filter.Hop{}
	for d, v := range c.Domains {
		hop, err := Hop(c.Archives[v.Archive].NextHop, c.AuthservID)
		if err != nil {
			return nil, fmt.Errorf("archive %s: %w", v.Archive, err)
		}
		if key := rules.Archives[d].Address.Key(); hop != nil && archives[key] == nil {
			archives[key] = hop
		}
	}
	if err := os.MkdirAll(c.SpoolDir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool folder: %w", err)
	}
	all := filter.Config{
		Name:    c.AuthservID,
		KeyRing: ring,
		Protectors: []protect.Protector{
			openpgp.New(openpgp.Config{Token: token, Headers: headers.Policy(c.Default.Headers), Legacy: c.Default.OldCiphers}),
			xs,
		},
		Policy:   rules,
		Triggers: triggers(c),
		Scan:     Scan(c, log),
		Texts:    texts,
		PDF:      PDF(c),
		Begin:    xs.Begin,
		Revoked:  xs.Revoked,
		Hops:     hops,
		Archives: archives,
		Spools:   &message.Spools{Memory: int64(c.Limits.SpoolMemory), Max: maxMail(c), Dir: c.SpoolDir},
		Awaits:   ring,
		Record:   rec,
		Limits:   limits(c),
		InFlight: c.Limits.InFlight,
		Log:      log,
	}
	authenticate(&all, c, token)
	finder, err := Finder(c, ring)
	if err != nil {
		return nil, err
	}
	if finder != nil {
		all.Finder = finder
	}
	all.Autocrypt.Domains, all.Joiners = map[string]bool{}, map[string]filter.Joiners{}
	for d, v := range c.Domains {
		all.Autocrypt.Domains[d], all.Joiners[d] = v.Autocrypt, filter.Joiners(v.Joiners)
	}
	if Hears(c) {
		all.Autocrypt.Read = openpgp.Read
	}
	if ring.learned != nil {
		all.Learn = ring.learned
	}
	if c.Default.Learn == "chain" {
		all.Judge = xs.Fit
	}
	return filter.New(all), nil
}

// Listener reads one listener.
func Listener(l config.Listener) filter.Listener {
	return filter.Listener{Name: l.Name, Direction: policy.Direction(l.Direction), Allow: Prefixes(l.Allow), Login: l.Auth == "required"}
}

// Local is where this machine itself reaches an outbound listener, and may send
// mail of anybody there.
func Local(l config.Listener) (address string, ok bool) {
	at, err := netip.ParseAddrPort(l.Address)
	if strings.HasPrefix(l.Address, ":") {
		at, err = netip.ParseAddrPort("127.0.0.1" + l.Address)
	}
	if err != nil || l.Direction != "outbound" || l.Protocol != "smtp" || l.Auth == "required" || l.TLS.Mode == "implicit" {
		return "", false
	}
	ip := at.Addr().Unmap()
	switch {
	case ip == netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	case ip.IsUnspecified():
		ip = netip.MustParseAddr("127.0.0.1")
	}
	within := func(n config.Network) bool { return n.Contains(ip) }
	return netip.AddrPortFrom(ip, at.Port()).String(), slices.ContainsFunc(l.Allow, within) && !slices.ContainsFunc(l.ProxyFrom, within)
}

// Prefixes are networks as the mail path has them.
func Prefixes(list []config.Network) (out []netip.Prefix) {
	for _, n := range list {
		out = append(out, n.Prefix)
	}
	return out
}
