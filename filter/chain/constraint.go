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
		read := n.read()
		for i, list := range [][]generalName{k.excluded, k.permitted} {
			excluded := i == 0
			for _, base := range list {
				if *budget--; *budget < 0 {
					return fmt.Errorf("check name constraints: more than %d comparisons: %w", maxComparisons, ErrForm)
				}
				if !base.bounds(n) {
					continue
				}
				in, known := read.in(base, excluded)
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

// subject is a name as it is compared, read once.
type subject struct {
	generalName
	local, host string // of a mailbox; of a URI and a host name the host
	ok          bool   // it could be read
}

// read reads a name. Hosts are ASCII: those of mailboxes as A-labels (RFC 9598
// §6), and addresses in the place of names are not read at all (RFC 5280
// §4.2.1.10).
func (g generalName) read() subject {
	n := subject{generalName: g}
	switch {
	case g.isMail():
		if a, ok := g.mailbox(); ok {
			s, _ := a.ASCII()
			_, n.host, n.ok = cutLast(s)
			n.local = a.Local
		}
	case g.tag == tagDNS:
		n.host = strings.TrimSuffix(g.value, ".")
		n.ok = isHost(strings.TrimPrefix(n.host, "*."))
	case g.tag == tagURI:
		if u, err := url.Parse(g.value); err == nil {
			n.host = strings.TrimSuffix(u.Hostname(), ".")
			_, err = netip.ParseAddr(n.host)
			n.ok = err != nil && isHost(n.host)
		}
	case g.tag == tagIP:
		n.ok = len(g.value) == 4 || len(g.value) == 16
	case g.tag == tagDirectory:
		n.ok = !g.dn.verbatim()
	}
	n.host = strings.ToLower(n.host)
	return n
}

// in reports whether n is in the subtree of base. known is false for what
// nobody can say; then the certificate is refused.
func (n subject) in(base generalName, excluded bool) (in, known bool) {
	switch base.tag {
	case tagMail:
		return n.ok && n.inMail(base.value, excluded), n.ok
	case tagDNS:
		return inDomain(n.host, base.value, true), n.ok
	case tagURI:
		return inDomain(n.host, base.value, false), n.ok
	case tagIP:
		return n.inNetwork(base.value), n.ok
	case tagDirectory:
		return n.dn.within(base.dn), n.ok && !base.dn.verbatim()
	}
	return false, false
}

// inMail holds a mail name against a constraint: a mailbox is itself, a host
// is exactly that host, and with a leading dot every host below it. RFC 5280
// says nothing of an empty constraint; it is taken for everything, as others do.
func (n subject) inMail(base string, excluded bool) bool {
	local, domain, mailbox := cutLast(base)
	if !mailbox {
		return inDomain(n.host, domain, false)
	}
	same := n.local == unquote(local)
	if excluded { // addresses are found without minding the case of ASCII
		same = strings.EqualFold(n.local, unquote(local))
	}
	return same && n.host == strings.ToLower(domain)
}

// inNetwork holds an address against one with a mask behind it.
func (n subject) inNetwork(base string) bool {
	address, mask := base[:len(base)/2], base[len(base)/2:]
	if len(n.value) != len(address) {
		return false
	}
	for i := range len(address) {
		if (n.value[i]^address[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// unquote takes quotes off a local part that needs none.
func unquote(local string) string {
	if len(local) < 2 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(local[1 : len(local)-1])
}

// inDomain reports whether host, in lower case, is the domain or, where below
// says so or the domain has a leading dot, a name below it.
func inDomain(host, domain string, below bool) bool {
	domain = strings.ToLower(domain)
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
