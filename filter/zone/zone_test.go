package zone

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/filter/dkim"
	"postern/filter/resolver"
	"postern/hsm"
)

var now = time.Date(2026, 12, 5, 12, 0, 0, 0, time.UTC)

func facts() Facts {
	key := func(name string, b byte) dkim.Selector {
		s := dkim.Selectors([]hsm.Key{{ID: hsm.KeyID{b}, Public: ed25519.PublicKey(strings.Repeat(string(rune('a'+b)), 32)), Usage: hsm.Sign, Label: "dkim/a.example/" + name}})
		return s[0]
	}
	f := Facts{Domain: "a.example", MX: []string{"mx1.a.example", "mx2.a.example"}, Sends: true, Signs: true, Reports: "postmaster@a.example", STS: "v=STSv1; id=1234", At: now,
		Selectors: []dkim.Selector{key("20261210-ed25519", 1), key("20261201-ed25519", 2), key("20261101-ed25519", 3), key("20261001-ed25519", 4)},
		TLS:       []TLSKey{{"mx1.a.example", hsm.KeyID{7}}, {"mx1.a.example", hsm.KeyID{8}}},
		Certs:     []Cert{{"x._openpgpkey.a.example", "OPENPGPKEY", []byte("openpgp")}, {"x._smimecert.a.example", "SMIMEA", []byte("x509")}},
		Services:  []string{"_imaps._tcp.a.example. IN SRV 0 1 993 mx1.a.example.", "_pop3._tcp.a.example. IN SRV 0 0 0 ."},
		CAs:       []string{"letsencrypt.org"}}
	f.Selectors[3].Key.Retired = true
	return f
}

// world answers from lines of a zone file.
type world struct {
	lines    []string
	unsigned bool
	away     bool
}

func (w world) Data(_ context.Context, name, kind string) (a resolver.Answer[string], err error) {
	if w.away {
		return a, resolver.ErrAway
	}
	for _, l := range w.lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			return a, err
		}
		if h := rr.Header(); strings.EqualFold(h.Name, name+".") && dns.TypeToString[h.Rrtype] == kind {
			a.Found = append(a.Found, strings.TrimPrefix(rr.String(), h.String()))
		}
	}
	a.Secure = !w.unsigned
	return a, nil
}

func (w world) TXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	a, err := w.Data(ctx, name, "TXT")
	for i, data := range a.Found {
		a.Found[i] = joined(data)
	}
	return a, err
}

// A zone that is as printed has no difference, and each change is one line.
func TestCheck(t *testing.T) {
	all, err := Records(facts())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range Standing(all) {
		lines = append(lines, r.String())
	}
	lines = slices.Clip(lines) // each case adds its own
	without := func(part string) (left []string) {
		for _, l := range lines {
			if !strings.Contains(l, part) {
				left = append(left, l)
			}
		}
		if len(left) != len(lines)-1 {
			t.Fatalf("%q is in %d lines", part, len(lines)-len(left))
		}
		return left
	}
	swapped := func(old, new string) (out []string) {
		for _, l := range lines {
			out = append(out, strings.Replace(l, old, new, 1))
		}
		return out
	}
	retired := ""
	for _, r := range all {
		if r.gone {
			retired = r.String()
		}
	}
	for _, c := range []struct {
		name string
		seen world
		want []string // type, name and problem of each difference
	}{
		{"as printed", world{lines: lines}, nil},
		{"capital letters", world{lines: swapped("mx1.a.example.", "MX1.A.example.")}, nil},
		{"MX missing", world{lines: without("MX 10 mx1")}, []string{"MX a.example: missing: mx1.a.example."}},
		{"MX of another", world{lines: append(lines, "a.example. MX 1 past.example.")}, []string{"MX a.example: another server: past.example."}},
		{"SPF missing", world{lines: without("v=spf1")}, []string{"TXT a.example: missing: v=spf1 mx -all"}},
		{"SPF twice", world{lines: append(lines, `a.example. TXT "v=spf1 -all"`)}, []string{"TXT a.example: 2 records of v=spf1"}},
		{"SPF without us", world{lines: swapped("mx -all", "ip4:192.0.2.1 -all")}, []string{"TXT a.example: does not name the gateway: v=spf1 ip4:192.0.2.1 -all"}},
		{"SPF of everybody", world{lines: swapped("mx -all", "mx +all")}, []string{"TXT a.example: everybody may send: v=spf1 mx +all"}},
		{"other texts", world{lines: append(lines, `a.example. TXT "some-site-verification=1"`)}, nil},
		{"key missing", world{lines: without("20261210-")}, []string{"TXT 20261210-ed25519._domainkey.a.example: missing: mail that this key signs does not hold"}},
		{"key of another", world{lines: append(without("20261201-"), `20261201-ed25519._domainkey.a.example. TXT "v=DKIM1; p=AAAA"`)}, []string{"TXT 20261201-ed25519._domainkey.a.example: another key: v=DKIM1; p=AAAA"}},
		{"key twice", world{lines: append(lines, `20261201-ed25519._domainkey.a.example. TXT "v=DKIM1; p=AAAA"`)}, []string{"TXT 20261201-ed25519._domainkey.a.example: 2 records"}},
		{"key retired", world{lines: append(lines, retired)}, []string{"TXT 20261001-ed25519._domainkey.a.example: the key is retired"}},
		{"DMARC without policy", world{lines: swapped("p=quarantine", "p=hello")}, []string{"TXT _dmarc.a.example: no policy: v=DMARC1; p=hello; rua=mailto:postmaster@a.example"}},
		{"DMARC of one's own", world{lines: swapped("p=quarantine", "p=reject; pct=50")}, nil},
		{"old MTA-STS", world{lines: swapped("v=STSv1; id=", "v=STSv1; id=0")}, []string{"TXT _mta-sts.a.example: another policy: "}},
		{"no TLS reporting", world{lines: without("TLSRPT")}, []string{"TXT _smtp._tls.a.example: missing: v=TLSRPTv1; rua=mailto:postmaster@a.example"}},
		{"next TLSA missing", world{lines: without("TLSA 3 1 1 08")}, []string{"TLSA _25._tcp.mx1.a.example: missing: 3 1 1 08"}},
		{"old TLSA", world{lines: append(lines, "_25._tcp.mx1.a.example. TLSA 3 1 1 "+strings.Repeat("09", 32))}, []string{"TLSA _25._tcp.mx1.a.example: no key of ours: 3 1 1 09"}},
		{"zone not signed", world{lines: lines, unsigned: true}, []string{"TLSA _25._tcp.mx1.a.example: the answer is not validated, and counts for nobody",
			"OPENPGPKEY x._openpgpkey.a.example: the answer is not validated", "SMIMEA x._smimecert.a.example: the answer is not validated"}},
		{"old certificate", world{lines: append(lines, "x._openpgpkey.a.example. OPENPGPKEY AAAA")}, []string{"OPENPGPKEY x._openpgpkey.a.example: another certificate: AAAA"}},
		{"SRV of another", world{lines: append(lines, "_pop3._tcp.a.example. SRV 0 1 110 old.a.example.")}, []string{"SRV _pop3._tcp.a.example: another server: 0 1 110 old.a.example."}},
		{"no CAA", world{lines: without("CAA")}, []string{`CAA a.example: missing: 0 issue "letsencrypt.org"`}},
	} {
		found, err := Check(t.Context(), c.seen, all)
		if err != nil || len(found) != len(c.want) {
			t.Errorf("%s: got %+v, %v, want %q", c.name, found, err, c.want)
			continue
		}
		for i, d := range found {
			if got := d.Type + " " + d.Name + ": " + d.Problem; !strings.HasPrefix(got, c.want[i]) || d.Hint == "" {
				t.Errorf("%s: got %q (hint: %s), want %q", c.name, got, d.Hint, c.want[i])
			}
		}
	}
	if found, err := Check(t.Context(), world{away: true}, all); err == nil || found != nil {
		t.Errorf("DNS away: got %+v, %v", found, err)
	}
}

// Any text comes back as it was.
func FuzzText(f *testing.F) {
	f.Add(`v=DKIM1; p="\`)
	f.Add(strings.Repeat("x", 600))
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range s {
			if r < ' ' || r > '~' {
				t.Skip()
			}
		}
		rr, err := dns.NewRR("a. 0 IN TXT " + Text(s))
		if err != nil {
			t.Fatalf("%q: %v in %s", s, err, Text(s))
		}
		wire := make([]byte, 64<<10)
		n, err := dns.PackRR(rr, wire, 0, nil, false)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if !strings.Contains(fmt.Sprintf("%q", strings.Join(pieces(wire[:n]), "")), strings.Trim(fmt.Sprintf("%q", s), `"`)) {
			t.Errorf("%q: got %q", s, wire[:n])
		}
	})
}

// pieces reads the strings of a TXT record off the wire.
func pieces(wire []byte) (list []string) {
	for rest := wire[3+10:]; len(rest) > 0; {
		n := int(rest[0])
		list = append(list, string(rest[1:1+n]))
		rest = rest[1+n:]
	}
	return list
}
