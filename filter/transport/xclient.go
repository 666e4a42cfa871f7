package transport

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// told is what a named host says of the client for whom it speaks, as Postfix
// has it: XCLIENT for the session, XFORWARD for one mail. Who else says it is
// not believed.
type told struct {
	addr    netip.Addr // not valid: not known to the host
	port    uint16
	hello   string
	address bool // ADDR was said
}

// What may be told. LOGIN is not: whose addresses an account may write as is
// known only where it logs in.
const (
	clientWords  = "XCLIENT NAME ADDR PORT PROTO HELO"
	forwardWords = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
)

// parseTold reads the attributes of XCLIENT or XFORWARD, in the order they are
// in, each once.
func parseTold(t told, words, arg string) (told, bool) {
	known := strings.Fields(words)[1:]
	seen := map[string]bool{}
	attributes := strings.FieldsFunc(arg, func(r rune) bool { return r == ' ' })
	for _, a := range attributes {
		name, text, ok := strings.Cut(a, "=")
		name = strings.ToUpper(name)
		if !ok || seen[name] || !slices.Contains(known, name) || len(text) > 255 {
			return told{}, false
		}
		seen[name] = true
		value, ok := unxtext(text)
		if !ok {
			return told{}, false
		}
		absent := strings.EqualFold(text, "[UNAVAILABLE]") || strings.EqualFold(text, "[TEMPUNAVAIL]")
		switch {
		case name == "ADDR":
			t.addr, t.address = netip.Addr{}, true
			if !absent {
				t.addr, ok = toldAddress(value)
			}
		case absent && name == "PORT":
			t.port = 0
		case absent && name == "HELO":
			t.hello = ""
		case absent:
		case name == "PORT":
			port, err := strconv.ParseUint(value, 10, 16)
			t.port, ok = uint16(port), err == nil && digits(value)
		case name == "PROTO":
			ok = strings.EqualFold(value, "SMTP") || strings.EqualFold(value, "ESMTP")
		case name == "HELO", name == "NAME":
			if ok = hello(value); name == "HELO" {
				t.hello = value
			}
		case name == "SOURCE":
			ok = strings.EqualFold(value, "LOCAL") || strings.EqualFold(value, "REMOTE")
		}
		if !ok {
			return told{}, false
		}
	}
	return t, len(attributes) > 0
}

// toldAddress reads an IPv4 address, or an IPv6 one behind "IPV6:".
func toldAddress(s string) (netip.Addr, bool) {
	const six = "IPV6:"
	wide := len(s) > len(six) && strings.EqualFold(s[:len(six)], six)
	if wide {
		s = s[len(six):]
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == "" && wide == a.Is6()
}

// unxtext undoes xtext (RFC 3461 §4).
func unxtext(s string) (string, bool) {
	if !xtext(s) {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '+' {
			b.WriteByte(s[i])
			continue
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil || c < ' ' || c > '~' {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), true
}

// speaksFor is XCLIENT and XFORWARD.
func (g *guard) speaksFor(verb, arg string) *Reply {
	switch {
	case !g.named:
		g.ended = true
		return &notNamed
	case g.env != nil:
		return &nestedTold
	case verb == "XFORWARD":
		var before told
		if g.forward != nil {
			before = *g.forward
		}
		t, ok := parseTold(before, forwardWords, arg)
		if !ok {
			return &badTold
		}
		g.forward = &t
		g.say(okay)
		return nil
	}
	t, ok := parseTold(told{}, clientWords, arg)
	if !ok {
		return &badTold
	}
	// Another client: what the one before said of itself counts no more.
	g.hello, g.account, g.forward, g.helloTold = "", nil, nil, t.hello
	if t.address {
		if !g.become(netip.AddrPortFrom(t.addr, t.port)) {
			return &crowded
		}
	}
	g.greet()
	return nil
}

// greet is the first word of a session.
func (g *guard) greet() { g.print("220 " + g.server.Name + " " + g.server.protocol()) }

// identify puts into e who sends it, as far as it is known.
func (g *guard) identify(e *Envelope) {
	e.Client, e.Hello, e.TLS, e.Cert = g.client, g.hello, g.tls, g.cert
	if g.helloTold != "" {
		e.Hello = g.helloTold
	}
	if g.forward == nil {
		return
	}
	if g.forward.addr.IsValid() {
		e.Origin = netip.AddrPortFrom(g.forward.addr, g.forward.port)
	}
	if g.forward.hello != "" {
		e.Hello = g.forward.hello
	}
}
