package policy

import "slices"

// Level is how safe the way between two mail servers must be. The words are
// those of the configuration.
type Level string

const (
	NextHop  Level = "next-hop"  // whatever the next hop does by itself
	May      Level = "may"       // TLS where it is offered
	Encrypt  Level = "encrypt"   // TLS, with any certificate
	Verify   Level = "verify"    // TLS with a certificate that is trusted and names the domain, or a server that is surely its own
	DANE     Level = "dane"      // as the partner's TLSA records say; encrypt where there are none
	DANEOnly Level = "dane-only" // as the partner's TLSA records say, or not at all
	Pin      Level = "pin"       // TLS with one of the public keys agreed on
)

// Way is what is asked of the transport to and from one domain.
type Way struct {
	Level   Level
	Names   []string   // servers beside those of the domain, or "*.name", whose certificates are taken; only of the level verify
	Pins    [][32]byte // of SubjectPublicKeyInfo, SHA-256; only of the level pin
	Min     uint16     // lowest TLS version, as crypto/tls writes it; 0: the default
	PFS     bool       // forward secrecy only
	Inbound Demand
}

// Demand is what is asked of a client that brings mail of a domain.
type Demand struct {
	TLS  bool       // nothing of a mail is taken in clear
	Min  uint16     // lowest TLS version, as crypto/tls writes it; 0: the listener's
	Pins [][32]byte // the client shows a certificate with one of these public keys
}

// Way is the rule for the transport to and from domain, and its name: that of
// the domain, then that of the nearest "*.domain", then the default.
func (p *Policy) Way(domain string) (Way, string) {
	if w, key, ok := nearest(p.Ways, domain); ok {
		return w, `partner."` + key + `"`
	}
	return p.DefaultWay, "default"
}

// strength orders levels for those who are told one word about many ways.
var strength = []Level{NextHop, May, Encrypt, DANE, Verify, DANEOnly, Pin}

// Transport is what is asked of the way of a copy to every one of its
// recipients: the weakest of their domains' levels, or the copy's floor where
// that is more.
func (p *Policy) Transport(plan Plan) Level {
	least := len(strength) - 1
	for _, a := range plan.Recipients {
		w, _ := p.Way(a.Domain)
		least = min(least, max(slices.Index(strength, w.Level), 0))
	}
	if len(plan.Recipients) == 0 {
		least = 0
	}
	return strength[max(least, slices.Index(strength, plan.Floor))]
}
