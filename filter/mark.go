package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/authres"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/transport"
)

// mark takes foreign result fields off every copy and puts ours on top.
func (g *Gateway) mark(_ context.Context, p *passage) error {
	for i := range p.copies {
		if err := g.markCopy(p, &p.copies[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *Gateway) markCopy(p *passage, c *Copy) error {
	marked, err := g.cleaned(c.Message, p.listener.Direction)
	if err != nil {
		return err
	}
	var top bytes.Buffer
	top.Write(g.received(p))
	if p.listener.Direction == policy.Inbound && p.shadow == nil {
		s, signature := p.status(c)
		c.results = append(p.originResults(), signature...)
		top.Write(s.Fields(g.Name, c.results...))
		if told, ok := p.scanOf(c.Plan); ok {
			top.Write(p.scanField(told))
		}
	}
	top.Write(g.shownIn(p, c))
	top.Write(c.Message.Top)
	marked.Top = top.Bytes()
	c.Message = marked
	return nil
}

// cleaned is a mail of the direction without the fields that do not go on. The
// mail itself may stand in several copies, and stays as it is.
func (g *Gateway) cleaned(m *message.Message, d policy.Direction) (*message.Message, error) {
	clean := *m
	clean.Drop, clean.Top = slices.Clone(m.Drop), nil
	for i, f := range clean.Root.Header {
		off, err := g.takenOff(&clean, i, d)
		if err != nil {
			return nil, fmt.Errorf("read header: %w", err)
		}
		if off {
			clean.Drop = append(clean.Drop, f.Whole)
		}
	}
	slices.SortFunc(clean.Drop, func(a, b message.Span) int { return int(a.Start - b.Start) })
	clean.Drop = slices.Compact(clean.Drop)
	return &clean, nil
}

// takenOff tells which fields do not go on: what looks like our marks, what is
// for the last hop to say, and outbound whom the sender hid.
func (g *Gateway) takenOff(m *message.Message, i int, d policy.Direction) (bool, error) {
	f := m.Root.Header[i]
	if i == 0 { // a header that begins with white space would continue the last field that we put on top
		var first [1]byte
		if _, err := m.Source.ReadAt(first[:], f.Whole.Start); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if first[0] == ' ' || first[0] == '\t' {
			return true, nil
		}
	}
	value, err := m.Value(f)
	if err != nil {
		return false, err
	}
	name := f.Name
	if name == "" { // no field, but perhaps one whose name is folded
		name, value, _ = strings.Cut(value, ":")
	}
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "return-path":
		return true, nil
	case "bcc", "resent-bcc":
		return d == policy.Outbound, nil
	}
	return authres.Foreign(name, value, g.Name) || d == policy.Inbound && g.Scan.Writes(name), nil
}

// received is our trace field (RFC 5321 §4.4; RFC 3848 and RFC 6531 §4.3 for
// the word after "with"). Outbound it does not say where inside the mail came from.
func (g *Gateway) received(p *passage) []byte {
	with := "ESMTP"
	switch {
	case p.env.LMTP && p.env.UTF8:
		with = "UTF8LMTP"
	case p.env.LMTP:
		with = "LMTP"
	case p.env.UTF8:
		with = "UTF8SMTP"
	}
	if p.env.TLS != nil {
		with += "S"
	}
	if p.env.User != "" {
		with += "A"
	}
	from := ""
	if p.listener.Direction == policy.Inbound && p.env.Source().IsValid() {
		from = "from [" + p.env.Source().Addr().Unmap().String() + "] "
	}
	return message.FoldField("Received", from+"by "+g.Name+" with "+with+" id "+p.env.Trace+"; "+p.at.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700"))
}

// verified is the one claim of the gateway: the mail as delivered is, whole,
// signed by a certificate valid and trusted for exactly the one address in its
// one From field. An opened mail is asked for its own From: what came out of
// the ciphertext must not bring a second one.
func (p *passage) verified(m *message.Message, f protect.Finding) (bool, string) {
	if !f.Good {
		return false, f.Reason
	}
	if p.author.IsZero() || !slices.ContainsFunc(f.Signers, func(a message.Address) bool { return a.Key() == p.author.Key() }) {
		return false, protect.ReasonNotFrom
	}
	if shown, err := m.Author(); err != nil || shown.Key() != p.author.Key() {
		return false, protect.ReasonNotFrom
	}
	if !answersTo(m, f.Opened, append(slices.Clone(f.Signers), p.author)) {
		return false, protect.ReasonNotFrom
	}
	return true, f.Reason
}

// answersTo reports whether an answer to a mail with a good signature goes to
// whom its signer says. Outside of the signature, Reply-To may name the signer
// alone: whoever carries the mail could turn the answer to himself, or a
// stranger sign, and be answered as the one whom he names there.
func answersTo(m *message.Message, opened bool, allowed []message.Address) bool {
	signed := m.Root
	if signed.Type == "multipart/signed" && len(signed.Parts) > 0 {
		signed = signed.Parts[0]
	}
	hp := strings.ToLower(signed.Params["hp"]) // RFC 9788 §2.1: the signer's word that all fields are there
	if opened && (hp == "cipher" || hp == "clear") {
		return true // and what stood outside only was taken off
	}
	if signed != m.Root && (hp == "clear" || signed.Params["protected-headers"] == "v1") {
		named, _ := answerees(m, signed)
		allowed = append(allowed, named...)
	}
	named, ok := answerees(m, m.Root)
	return ok && !slices.ContainsFunc(named, func(a message.Address) bool {
		return !slices.ContainsFunc(allowed, func(b message.Address) bool { return a.Key() == b.Key() })
	})
}

// answerees are the addresses of a part's Reply-To fields; not ok where one can't be read.
func answerees(m *message.Message, p *message.Part) (named []message.Address, ok bool) {
	for _, f := range p.Header {
		if !strings.EqualFold(f.Name, "Reply-To") {
			continue
		}
		value, err := m.Value(f)
		if err != nil {
			return nil, false
		}
		list, err := message.ParseFrom(value)
		if err != nil {
			return nil, false
		}
		named = append(named, list...)
	}
	return named, true
}

func (p *passage) status(c *Copy) (s authres.Status, signature []authres.Method) {
	ok, reason := p.verified(c.Message, c.Finding)
	s = authres.Status{Opened: "none", Verified: ok, Reason: reason, Carried: transport.Carried(p.env.TLS), Trace: p.env.Trace}
	switch {
	case c.Finding.Opened:
		s.Opened = string(c.Finding.Format)
	case p.layer == protect.Sealed:
		s.Opened = "failed"
	}
	if ok {
		s.Signer = p.author
	}
	if c.Finding.Signed {
		m := authres.Method{Name: "x-" + string(c.Finding.Format), Result: "fail", Reason: reason}
		if c.Finding.Format == keyring.SMIME {
			m.Name = "smime" // RFC 7281 §3
		}
		switch {
		case ok:
			m.Result = "pass"
			m.Properties = []authres.Property{{Name: "header.from", Value: authres.Word(s.Signer)}}
		case reason == protect.ReasonUnknownCert, reason == protect.ReasonUntrusted:
			m.Result = "neutral"
		case reason == protect.ReasonWeak, reason == protect.ReasonNotFrom, reason == protect.ReasonPartial:
			m.Result = "policy"
		}
		signature = append(signature, m)
	}
	return s, signature
}
