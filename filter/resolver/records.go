package resolver

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// MX are the servers of a domain, as they stand there. The null MX of a domain
// that takes no mail is one with no host.
func (c *Client) MX(ctx context.Context, domain string) (Answer[MX], error) {
	return ask(ctx, c, domain, dns.TypeMX, func(r dns.RR) (MX, bool) {
		mx, ok := r.(*dns.MX)
		if !ok {
			return MX{}, false
		}
		return MX{canonical(mx.Mx), mx.Preference}, true
	})
}

// Addresses are those of a host, both kinds. They are secure where both answers
// are; where one of them fails, there is no answer (RFC 7672 §2.2.2).
func (c *Client) Addresses(ctx context.Context, host string) (Answer[netip.Addr], error) {
	six, err := ask(ctx, c, host, dns.TypeAAAA, func(r dns.RR) (netip.Addr, bool) {
		a, ok := r.(*dns.AAAA)
		if !ok {
			return netip.Addr{}, false
		}
		return address(a.AAAA)
	})
	if err != nil {
		return six, err
	}
	four, err := ask(ctx, c, host, dns.TypeA, func(r dns.RR) (netip.Addr, bool) {
		a, ok := r.(*dns.A)
		if !ok {
			return netip.Addr{}, false
		}
		return address(a.A)
	})
	if err != nil {
		return four, err
	}
	four.Found = append(six.Found, four.Found...)
	four.Secure = four.Secure && six.Secure && four.Name == six.Name
	four.Exists = four.Exists || six.Exists
	return four, nil
}

func address(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// TLSA are the associations under a name such as _25._tcp.mx.partner.example.
// One whose data is no octets has none, and fits nothing.
func (c *Client) TLSA(ctx context.Context, name string) (Answer[TLSA], error) {
	return ask(ctx, c, name, dns.TypeTLSA, func(r dns.RR) (TLSA, bool) {
		t, ok := r.(*dns.TLSA)
		if !ok {
			return TLSA{}, false
		}
		data, err := hex.DecodeString(t.Certificate)
		if err != nil {
			data = nil
		}
		return TLSA{t.Usage, t.Selector, t.MatchingType, data}, true
	})
}

// OpenPGPKey are the certificates under a name, binary (RFC 7929 §2).
func (c *Client) OpenPGPKey(ctx context.Context, name string) (Answer[[]byte], error) {
	return ask(ctx, c, name, dns.TypeOPENPGPKEY, func(r dns.RR) ([]byte, bool) {
		k, ok := r.(*dns.OPENPGPKEY)
		if !ok {
			return nil, false
		}
		data, err := base64.StdEncoding.DecodeString(k.PublicKey)
		return data, err == nil
	})
}

// SMIMEA are the associations of certificates with a mail address (RFC 8162 §2);
// their fields are those of TLSA.
func (c *Client) SMIMEA(ctx context.Context, name string) (Answer[TLSA], error) {
	return ask(ctx, c, name, dns.TypeSMIMEA, func(r dns.RR) (TLSA, bool) {
		s, ok := r.(*dns.SMIMEA)
		if !ok {
			return TLSA{}, false
		}
		data, err := hex.DecodeString(s.Certificate)
		return TLSA{s.Usage, s.Selector, s.MatchingType, data}, err == nil
	})
}

// TXT are the texts under a name, each of its pieces together.
func (c *Client) TXT(ctx context.Context, name string) (Answer[string], error) {
	return ask(ctx, c, name, dns.TypeTXT, func(r dns.RR) (string, bool) {
		t, ok := r.(*dns.TXT)
		if !ok {
			return "", false
		}
		return strings.Join(t.Txt, ""), true
	})
}

// Alias is what a name is another name of, by itself and not to the end.
func (c *Client) Alias(ctx context.Context, name string) (Answer[string], error) {
	return ask(ctx, c, name, dns.TypeCNAME, func(r dns.RR) (string, bool) {
		t, ok := r.(*dns.CNAME)
		if !ok {
			return "", false
		}
		return canonical(t.Target), true
	})
}

// Validates asks for the root's keys: who answers, and says that the answer is
// validated, is a validating resolver.
func (c *Client) Validates(ctx context.Context) (bool, error) {
	a, err := ask(ctx, c, ".", dns.TypeNS, func(dns.RR) (struct{}, bool) { return struct{}{}, true })
	return a.Secure, err
}

// Hosts are the names that an address has by its own word (RFC 1035 §3.5).
func (c *Client) Hosts(ctx context.Context, a netip.Addr) (Answer[string], error) {
	name, err := dns.ReverseAddr(a.Unmap().WithZone("").String())
	if err != nil {
		return Answer[string]{}, ErrName
	}
	return ask(ctx, c, name, dns.TypePTR, func(r dns.RR) (string, bool) {
		p, ok := r.(*dns.PTR)
		if !ok {
			return "", false
		}
		return canonical(p.Ptr), true
	})
}

// Data are the records of a type, each as it stands in a zone file.
func (c *Client) Data(ctx context.Context, name, kind string) (Answer[string], error) {
	t, ok := dns.StringToType[kind]
	if !ok {
		return Answer[string]{}, ErrName
	}
	return ask(ctx, c, name, t, func(r dns.RR) (string, bool) {
		return strings.TrimPrefix(r.String(), r.Header().String()), true
	})
}
