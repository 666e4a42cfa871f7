package resolvertest

import (
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Zone is a domain with what stands in it.
type Zone struct {
	Name    string   // as signed.example
	Records []string // as in a zone file, names under Name: "mx 60 IN A 127.0.0.2", "@ MX 10 mx"
	// Unsigned leaves the zone without keys: its answers are good, and insecure.
	Unsigned bool
	// Broken makes the zone above name another key: every answer is bogus.
	Broken bool
	// Forged are put in place of what was signed; the signatures stay, and do not fit.
	Forged []string
}

// ttl is short, so that a change is soon seen.
const ttl = 1

// key is a zone's one DNSKEY.
type key struct {
	public  *dns.DNSKEY
	private crypto.Signer
}

func newKey(zone string) (key, error) {
	k := &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: zone, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: ttl},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := k.Generate(256)
	if err != nil {
		return key{}, fmt.Errorf("make zone key: %w", err)
	}
	return key{k, private.(*ecdsa.PrivateKey)}, nil
}

// parse reads lines of a zone file.
func parse(zone string, lines []string) (list []dns.RR, err error) {
	p := dns.NewZoneParser(strings.NewReader(strings.Join(lines, "\n")+"\n"), zone, "")
	p.SetDefaultTTL(ttl)
	for r, ok := p.Next(); ok; r, ok = p.Next() {
		list = append(list, r)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("read records of %s: %w", zone, err)
	}
	return list, nil
}

// set are the records of one name and type.
type set struct {
	name string
	kind uint16
}

// sign adds what RFC 4035 §2 wants in a zone: keys, NSEC and signatures.
func sign(zone string, records []dns.RR, k key) ([]dns.RR, error) {
	records = append(records, k.public)
	cut := func(name string) string { // the delegation that name is at or below
		for _, r := range records {
			if h := r.Header(); h.Rrtype == dns.TypeNS && h.Name != zone && dns.IsSubDomain(h.Name, name) {
				return h.Name
			}
		}
		return ""
	}
	var names []string
	for _, r := range records {
		if n := r.Header().Name; !slices.Contains(names, n) && (cut(n) == "" || cut(n) == n) {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, canonically)
	for i, n := range names {
		kinds := []uint16{dns.TypeRRSIG, dns.TypeNSEC}
		for _, r := range records {
			if h := r.Header(); h.Name == n && !slices.Contains(kinds, h.Rrtype) && (cut(n) == "" || h.Rrtype == dns.TypeNS || h.Rrtype == dns.TypeDS) {
				kinds = append(kinds, h.Rrtype)
			}
		}
		slices.Sort(kinds)
		records = append(records, &dns.NSEC{
			Hdr:        dns.RR_Header{Name: n, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: ttl},
			NextDomain: names[(i+1)%len(names)], TypeBitMap: kinds,
		})
	}
	sets := map[set][]dns.RR{}
	var order []set
	for _, r := range records {
		h := r.Header()
		if c := cut(h.Name); c != "" && (c != h.Name || h.Rrtype != dns.TypeDS && h.Rrtype != dns.TypeNSEC) {
			continue // belongs to the zone below
		}
		s := set{h.Name, h.Rrtype}
		if sets[s] == nil {
			order = append(order, s)
		}
		sets[s] = append(sets[s], r)
	}
	now := time.Now()
	for _, s := range order {
		sig := &dns.RRSIG{
			Hdr:       dns.RR_Header{Name: s.name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: ttl},
			Algorithm: k.public.Algorithm, KeyTag: k.public.KeyTag(), SignerName: zone,
			Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(30 * 24 * time.Hour).Unix()),
		}
		if err := sig.Sign(k.private, sets[s]); err != nil {
			return nil, fmt.Errorf("sign %s: %w", s.name, err)
		}
		records = append(records, sig)
	}
	return records, nil
}

// canonically orders names by their labels from the right (RFC 4034 §6.1).
func canonically(a, b string) int {
	x, y := dns.SplitDomainName(a), dns.SplitDomainName(b)
	slices.Reverse(x)
	slices.Reverse(y)
	return slices.Compare(x, y)
}

// forge puts records in the place of those with the same name and type.
func forge(signed, forged []dns.RR) []dns.RR {
	signed = slices.DeleteFunc(signed, func(r dns.RR) bool {
		return slices.ContainsFunc(forged, func(f dns.RR) bool {
			return f.Header().Name == r.Header().Name && f.Header().Rrtype == r.Header().Rrtype
		})
	})
	return append(signed, forged...)
}

// build prints the zones, and the root that delegates to them; anchor is the
// root's key.
func build(zones []Zone) (files map[string]string, anchor string, err error) {
	const authority = "SOA ns.nsd. hostmaster.nsd. 1 3600 600 86400 1"
	files = map[string]string{}
	above := []string{". " + authority, ". NS ns.nsd.", "ns.nsd. A 127.0.0.1"}
	for _, z := range zones {
		name := dns.Fqdn(z.Name)
		records, err := parse(name, append([]string{"@ " + authority, "@ NS ns.nsd."}, z.Records...))
		if err != nil {
			return nil, "", err
		}
		above = append(above, name+" NS ns.nsd.")
		if !z.Unsigned {
			k, err := newKey(name)
			if err != nil {
				return nil, "", err
			}
			told := k
			if z.Broken {
				if told, err = newKey(name); err != nil {
					return nil, "", err
				}
			}
			above = append(above, told.public.ToDS(dns.SHA256).String())
			if records, err = sign(name, records, k); err != nil {
				return nil, "", err
			}
		}
		forged, err := parse(name, z.Forged)
		if err != nil {
			return nil, "", err
		}
		files[name] = text(forge(records, forged))
	}
	k, err := newKey(".")
	if err != nil {
		return nil, "", err
	}
	root, err := parse(".", above)
	if err != nil {
		return nil, "", err
	}
	if root, err = sign(".", root, k); err != nil {
		return nil, "", err
	}
	files["."] = text(root)
	return files, k.public.String() + "\n", nil
}

func text(records []dns.RR) string {
	var b strings.Builder
	for _, r := range records {
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}
