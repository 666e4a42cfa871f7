package filter

import (
	"slices"
	"strings"

	"postern/filter/autocrypt"
	"postern/filter/directory"
	"postern/filter/dkim"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
)

// Autocrypt is what the gateway has to do with the header fields of that name.
type Autocrypt struct {
	// Read reads the certificates that inbound mail has in such fields, which are
	// kept to confirm what directories say, and for nothing else; nil: none are kept.
	Read    directory.Read
	Domains map[string]bool // of ours, whose signed mail has such a field
}

const (
	maxHeaders = 8        // fields of one kind that are looked at; more are none
	maxShown   = 10 << 10 // bytes of a certificate of ours that goes into a header
)

// hear keeps the certificates that the header of a mail that is through has told
// of: of its author, and where it was sealed of those to whom it went, too. They
// are on nobody's word (R16): whoever wrote the mail need not be who he says.
func (g *Gateway) hear(p *passage) {
	if g.Learn == nil || g.Autocrypt.Read == nil || p.listener.Direction != policy.Inbound || p.supposed || p.author.IsZero() || p.read == nil ||
		g.Policy.Ours(p.author.Domain) || p.origin != nil && p.origin.DMARC.Value == dkim.Fail {
		return
	}
	tell := func(h autocrypt.Header) {
		c := keyring.Cert{Addresses: []message.Address{h.Addr}, Trust: keyring.Seen, Source: keyring.ByAutocrypt, FirstSeen: p.at, LastSeen: p.at}
		g.lessons.put(g, lesson{cert: c, trace: p.env.Trace, keydata: h.Keydata})
	}
	own := slices.DeleteFunc(fieldsOf(p.msg, autocrypt.Field), func(h autocrypt.Header) bool { return h.Addr.Key() != p.author.Key() })
	if len(own) == 1 { // Autocrypt Level 1 §2.3: of several none counts
		tell(own[0])
	}
	if !p.finding.Opened {
		return
	}
	var shown []message.Address
	for _, name := range []string{"To", "Cc", "Reply-To"} {
		for _, f := range p.read.All(name) {
			if value, err := p.read.Value(f); err == nil {
				if list, err := message.ParseFrom(value); err == nil {
					shown = append(shown, list...)
				}
			}
		}
	}
	for _, h := range fieldsOf(p.read, autocrypt.Gossip) {
		if h.Addr.Key() != p.author.Key() && !g.Policy.Ours(h.Addr.Domain) && slices.ContainsFunc(shown, func(a message.Address) bool { return a.Key() == h.Addr.Key() }) {
			tell(h)
		}
	}
}

// fieldsOf are the fields of a name that can be read.
func fieldsOf(m *message.Message, name string) (list []autocrypt.Header) {
	all := m.All(name)
	if len(all) > maxHeaders {
		return nil
	}
	for _, f := range all {
		value, err := m.Value(f)
		if err != nil {
			continue
		}
		if h, err := autocrypt.Parse(value); err == nil {
			list = append(list, h)
		}
	}
	return list
}

// inField is the certificate of a field; not ok where it holds none, or several.
func (g *Gateway) inField(c keyring.Cert, keydata []byte) (keyring.Cert, bool) {
	certs, err := g.Autocrypt.Read(keydata)
	if err != nil || len(certs) != 1 || certs[0].Role != keyring.Holder {
		return keyring.Cert{}, false
	}
	read := certs[0]
	read.Addresses, read.Domains, read.Trust, read.Source, read.FirstSeen, read.LastSeen = c.Addresses, nil, c.Trust, c.Source, c.FirstSeen, c.LastSeen
	return read, true
}

// shownIn is the field with the author's certificate for a copy that is signed
// with it; nothing where his own program has put one there.
func (g *Gateway) shownIn(p *passage, c *Copy) []byte {
	if p.listener.Direction != policy.Outbound || p.shadow != nil || !g.Autocrypt.Domains[strings.ToLower(p.author.Domain)] || !c.Plan.Sign || c.Plan.Format != keyring.OpenPGP || len(p.came.All(autocrypt.Field)) > 0 {
		return nil
	}
	id := p.signers[keyring.OpenPGP]
	ascii, ok := p.author.ASCII()
	if id == nil || !ok || strings.ContainsAny(ascii, `";\`) || len(id.Raw) > maxShown {
		return nil
	}
	if fit, _ := g.sealable([]keyring.Cert{id.Cert}, p.at); len(fit) == 0 {
		return nil
	}
	return autocrypt.Print(ascii, id.Raw)
}
