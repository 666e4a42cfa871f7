package chain

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// constraints are the name constraints of one certificate (RFC 5280
// §4.2.1.10). Where something is permitted of a kind of
// name, nothing else of that kind is.
type constraints struct {
	of                  *x509.Certificate
	permitted, excluded []generalName
}

// constraintsOf reads them; nil if there are none.
func constraintsOf(c *x509.Certificate) (*constraints, error) {
	raw := extension(c, oidNameConstraints)
	if raw == nil {
		return nil, nil
	}
	bad := fmt.Errorf("read name constraints of %s: not as they must be: %w", name(c), ErrForm)
	input := cryptobyte.String(raw)
	var body cryptobyte.String
	if !input.ReadASN1(&body, der.SEQUENCE) || !input.Empty() {
		return nil, bad
	}
	k := &constraints{of: c}
	for i, list := range []*[]generalName{&k.permitted, &k.excluded} {
		var subtrees cryptobyte.String
		var present bool
		if !body.ReadOptionalASN1(&subtrees, &present, der.Tag(i).ContextSpecific().Constructed()) {
			return nil, bad
		}
		for !subtrees.Empty() {
			var subtree cryptobyte.String
			if !subtrees.ReadASN1(&subtree, der.SEQUENCE) {
				return nil, bad
			}
			g, ok := readGeneralName(&subtree)
			// Minimum is 0, which DER leaves out, and there is no maximum.
			if !ok || !subtree.Empty() || !g.constrains() {
				return nil, bad
			}
			if *list = append(*list, g); len(*list) > maxNames {
				return nil, bad
			}
		}
	}
	if !body.Empty() {
		return nil, bad
	}
	return k, nil
}

// constrains reports whether a name has the form that it needs as a base.
func (g generalName) constrains() bool {
	switch g.tag {
	case tagMail:
		local, host, mailbox := cutLast(g.value)
		if mailbox && local == "" {
			return false
		}
		return host == "" && !mailbox || isHost(strings.TrimPrefix(host, ".")) && !(mailbox && host[0] == '.')
	case tagDNS, tagURI:
		return g.value == "" || isHost(strings.TrimPrefix(g.value, "."))
	case tagIP:
		if len(g.value) != 8 && len(g.value) != 32 {
			return false
		}
		ones, bits := net.IPMask(g.value[len(g.value)/2:]).Size()
		return ones != 0 || bits != 0
	}
	return true
}

// isHost reports whether s can be the name of a host in ASCII.
func isHost(s string) bool {
	return s != "" && ascii(s) && !strings.ContainsAny(s, "@ /\\:*\x00") && !strings.HasPrefix(s, ".") && !strings.Contains(s, "..")
}

// cutLast splits an address at its last at sign; without one, all is host.
func cutLast(s string) (local, host string, ok bool) {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

// check holds names of a certificate below against k. Each comparison costs
// one of budget.
func (k *constraints) check(names []generalName, budget *int) error {
	for _, n := range names {
		allowed, bound := false, false
		for i, list := range [][]generalName{k.excluded, k.permitted} {
			excluded := i == 0
			for _, base := range list {
				if *budget--; *budget < 0 {
					return fmt.Errorf("check name constraints: more than %d comparisons: %w", maxComparisons, ErrForm)
				}
				if !base.bounds(n) {
					continue
				}
				in, known := n.in(base, excluded)
				switch {
				case !known:
					return fmt.Errorf("%s constrains a name that cannot be compared (%s): %w", name(k.of), n, ErrUntrusted)
				case excluded && in:
					return fmt.Errorf("%s excludes %s: %w", name(k.of), n, ErrUntrusted)
				case !excluded:
					bound, allowed = true, allowed || in
				}
			}
		}
		if bound && !allowed {
			return fmt.Errorf("%s does not permit %s: %w", name(k.of), n, ErrUntrusted)
		}
	}
	return nil
}

// bounds reports whether a base says something about names of n's kind. An
// rfc822Name does so about SmtpUTF8Mailbox too (RFC 9598 §6).
func (base generalName) bounds(n generalName) bool {
	switch {
	case base.tag == tagMail:
		return n.isMail()
	case base.tag == tagOther:
		return n.tag == tagOther && n.oid.Equal(base.oid)
	}
	return base.tag == n.tag
}

// in reports whether n is in the subtree of base. known is false for what
// nobody can say; then the certificate is refused.
func (n generalName) in(base generalName, excluded bool) (in, known bool) {
	switch base.tag {
	case tagMail:
		return n.inMail(base.value, excluded)
	case tagDNS:
		host := strings.TrimSuffix(n.value, ".")
		return inDomain(host, base.value, true), base.value == "" || isHost(strings.TrimPrefix(host, "*."))
	case tagURI:
		u, err := url.Parse(n.value)
		if err != nil {
			return false, false
		}
		host := strings.TrimSuffix(u.Hostname(), ".")
		if _, err := netip.ParseAddr(host); host == "" || err == nil || !isHost(host) { // RFC 5280: names only
			return false, false
		}
		return inDomain(host, base.value, false), true
	case tagIP:
		if len(n.value) != 4 && len(n.value) != 16 {
			return false, false
		}
		address, mask, found := base.value[:len(base.value)/2], base.value[len(base.value)/2:], n.value
		if len(found) != len(address) {
			return false, true
		}
		for i := range len(found) {
			if (found[i]^address[i])&mask[i] != 0 {
				return false, true
			}
		}
		return true, true
	case tagDirectory:
		return n.dn.within(base.dn), !n.dn.verbatim() && !base.dn.verbatim()
	}
	return false, false
}

// inMail holds a mail name against a constraint: a mailbox is itself, a host
// is exactly that host, and with a leading dot every host below it.
// Domains are compared as A-labels. RFC 5280 says nothing of an empty
// constraint; it is taken for everything, as others do.
func (n generalName) inMail(base string, excluded bool) (in, known bool) {
	a, ok := n.mailbox()
	if !ok {
		return false, false
	}
	_, host, _ := cutLast(func() string { s, _ := a.ASCII(); return s }())
	local, domain, mailbox := cutLast(base)
	if !mailbox {
		return inDomain(host, domain, false), true
	}
	same := a.Local == unquote(local)
	if excluded { // addresses are found without minding the case of ASCII
		same = strings.EqualFold(a.Local, unquote(local))
	}
	return same && strings.EqualFold(host, domain), true
}

// unquote takes quotes off a local part that needs none.
func unquote(local string) string {
	if len(local) < 2 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(local[1 : len(local)-1])
}

// inDomain reports whether host is the domain or, where below says so or the
// domain has a leading dot, a name below it.
func inDomain(host, domain string, below bool) bool {
	host, domain = strings.ToLower(host), strings.ToLower(domain)
	switch {
	case domain == "":
		return true
	case domain[0] == '.':
		return strings.HasSuffix(host, domain) && len(host) > len(domain)
	case below && strings.HasSuffix(host, "."+domain):
		return true
	}
	return host == domain
}

// String tells a name to a person.
func (g generalName) String() string {
	kind := map[int]string{tagOther: "other name", tagMail: "mail address", tagDNS: "host", tagDirectory: "directory name", tagURI: "URI", tagIP: "IP address"}[g.tag]
	switch {
	case g.tag == tagIP:
		return kind + " " + net.IP(g.value).String()
	case g.tag == tagDirectory || g.tag == tagOther && !g.isMail() || kind == "":
		return "a " + strings.TrimSpace(kind+" name")
	case g.tag == tagOther:
		a, _ := g.mailbox()
		return fmt.Sprintf("mail address %.80q", a.String())
	}
	return fmt.Sprintf("%s %.80q", kind, g.value)
}
