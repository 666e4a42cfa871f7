package filter

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"postern/filter/arc"
	"postern/filter/authres"
	"postern/filter/dkim"
	"postern/filter/dmarc"
	"postern/filter/message"
	"postern/filter/policy"
)

// vet judges inbound mail by what the domains say whose it claims to be, before
// anything of it is changed. What can't be found out now is marked so, and
// refuses nothing: whoever reads the marks sees a temperror in place of a pass.
func (g *Gateway) vet(ctx context.Context, p *passage) error {
	if p.listener.Direction != policy.Inbound || g.Origins == nil || g.Policy.Shadow {
		return nil
	}
	q := dmarc.Question{Hello: p.env.Hello, Fields: p.came.Count("From"), Mail: p.came, At: p.at, Trace: p.env.Trace}
	if origin(p.listener, p.env) != "" { // else a server of ours brings what others sent to it
		q.Client = p.env.Source().Addr().Unmap()
	}
	if !p.env.Null {
		q.Sender = p.env.From
	}
	authors, err := domainsOf(p.came)
	if err != nil {
		return err
	}
	q.Authors = authors
	v, err := g.Origins.Check(ctx, q)
	if err != nil {
		return fmt.Errorf("vet mail: %w", err)
	}
	p.origin = &v
	p.chain = arc.Chain{Value: dkim.None}
	if p.came.Count("ARC-Seal")+p.came.Count("ARC-Message-Signature")+p.came.Count("ARC-Authentication-Results") > 0 {
		limited, cancel := context.WithTimeout(ctx, g.Origins.Budget)
		defer cancel()
		if p.chain, err = arc.Verify(limited, p.came, g.Origins.Lookup(), p.at); err != nil {
			return fmt.Errorf("vet mail: %w", err)
		}
	}
	if d := v.DMARC; g.Enforce && (d.Wants == "reject" || d.Value == dkim.PermError && d.Reason == dmarc.ReasonAuthor) {
		p.decision = policy.Decision{Action: policy.Refuse, Reason: "dmarc", Rule: "authentication"}
		return fmt.Errorf("author's domain %.80q: %s (%s): %w", d.Domain, d.Value, d.Reason, ErrOrigin)
	}
	g.proves(ctx, p)
	return nil
}

// domainsOf are the domains of all authors of a mail; none where one of its From
// fields can't be read.
func domainsOf(m *message.Message) (list []string, err error) {
	for _, f := range m.All("From") {
		value, err := m.Value(f)
		if err != nil {
			return nil, fmt.Errorf("read From: %w", err)
		}
		authors, err := message.ParseFrom(value)
		if err != nil {
			return nil, nil
		}
		for _, a := range authors {
			list = append(list, a.Domain)
		}
	}
	return list, nil
}

// originResults are what vet found, for Authentication-Results.
func (p *passage) originResults() (list []authres.Method) {
	v := p.origin
	if v == nil {
		return nil
	}
	property := func(name, value string) authres.Property { return authres.Property{Name: name, Value: value} }
	if v.SPF.Value != "" {
		name := "smtp.mailfrom"
		if v.SPF.Hello {
			name = "smtp.helo"
		}
		list = append(list, authres.Method{Name: "spf", Result: string(v.SPF.Value), Properties: []authres.Property{property(name, v.SPF.Domain)}})
	}
	for _, r := range v.DKIM {
		m := authres.Method{Name: "dkim", Result: string(r.Value), Properties: []authres.Property{property("header.d", r.Domain), property("header.s", r.Selector),
			property("header.a", r.Algorithm), property("header.b", r.Signature)}}
		if r.Value != dkim.Pass {
			m.Reason = r.Reason
		}
		list = append(list, m)
	}
	if len(v.DKIM) == 0 {
		list = append(list, authres.Method{Name: "dkim", Result: "none"})
	}
	d := authres.Method{Name: "dmarc", Result: string(v.DMARC.Value), Properties: []authres.Property{property("header.from", v.DMARC.Domain), property("policy.dmarc", v.DMARC.Policy)}}
	if v.DMARC.Value != dkim.Pass && v.DMARC.Value != dkim.None {
		d.Reason = v.DMARC.Reason
	}
	if v.DMARC.Wants != "" {
		d.Properties = append(d.Properties, property("policy.wanted", v.DMARC.Wants))
	}
	list = append(list, d)
	a := authres.Method{Name: "arc", Result: string(p.chain.Value)}
	switch p.chain.Value {
	case dkim.Pass:
		a.Properties = append(a.Properties, property("header.d", p.chain.Domain))
	case dkim.TempError: // no word of RFC 8617 §4.4 for it: it is no pass
		a.Result = string(dkim.Fail)
		fallthrough
	case dkim.Fail:
		a.Reason = p.chain.Reason
	}
	if ip := p.clientIP(); ip.IsValid() {
		a.Properties = append(a.Properties, property("smtp.remote-ip", ip.String())) // RFC 8617 §10.2
	}
	return append(list, a)
}

func (p *passage) clientIP() (ip netip.Addr) {
	if origin(p.listener, p.env) != "" {
		ip = p.env.Source().Addr().Unmap().WithZone("")
	}
	return ip
}

// originWords is what vet found in a line for the log and for people; "" where
// nothing was asked.
func (p *passage) originWords() string {
	v := p.origin
	if v == nil {
		return ""
	}
	var words []string
	if v.SPF.Value != "" {
		words = append(words, "spf="+string(v.SPF.Value))
	}
	for _, r := range v.DKIM {
		words = append(words, "dkim="+string(r.Value))
	}
	words = append(words, "dmarc="+string(v.DMARC.Value))
	if v.DMARC.Wants != "" {
		words = append(words, "wanted="+v.DMARC.Wants)
	}
	if p.chain.Value != dkim.None {
		words = append(words, "arc="+string(p.chain.Value))
	}
	return strings.Join(words, " ")
}
