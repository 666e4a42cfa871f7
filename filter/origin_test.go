package filter

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/filter/dkim"
	"postern/filter/dmarc"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/hsm"
)

// texts is a DNS of texts; a text "away" fails.
type texts map[string]string

func (n texts) TXT(_ context.Context, name string) (a resolver.Answer[string], err error) {
	text, ok := n[strings.TrimSuffix(name, ".")]
	if text == "away" {
		return a, resolver.ErrAway
	}
	if a.Exists = ok; ok {
		a.Found = []string{text}
	}
	return a, nil
}

func (n texts) MX(context.Context, string) (a resolver.Answer[resolver.MX], err error) { return a, nil }
func (n texts) Addresses(context.Context, string) (a resolver.Answer[netip.Addr], err error) {
	return a, nil
}
func (n texts) Hosts(context.Context, netip.Addr) (a resolver.Answer[string], err error) {
	return a, nil
}

// attesting gives company1.example its two keys, and tells their records.
func (w *world) attesting() texts {
	w.t.Helper()
	n := texts{}
	for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.Ed25519} {
		selector := dkim.Dated(made, a)
		k, err := w.token.Generate(w.t.Context(), hsm.KeySpec{Algorithm: a, Usage: hsm.Sign, Label: "dkim/company1.example/" + selector})
		if err != nil {
			w.t.Fatal(err)
		}
		if n[selector+"._domainkey.company1.example"], err = dkim.Record(k.Public); err != nil {
			w.t.Fatal(err)
		}
	}
	w.gate.Attest = Attest{Keys: &dkim.Ring{Token: w.token}, Domains: map[string]bool{"company1.example": true}, Seal: "company1.example"}
	return n
}

// results is Authentication-Results of the mail that was delivered, unfolded.
func results(t *testing.T, w *world) string {
	t.Helper()
	if len(w.hop.got) == 0 {
		t.Fatalf("nothing was delivered\n%s", w.log)
	}
	return parsed(t, w.hop.got[len(w.hop.got)-1].mail).Get("Authentication-Results")
}

// What is found stands in our field, foreign claims do not, and only where it is
// enforced, and is certain, is a mail refused.
func TestVet(t *testing.T) {
	const plain = "From: bob@partner.example\nSubject: hi\nAuthentication-Results: gw.company1.example; dmarc=pass FORGED\n\nhello\n"
	z := texts{"partner.example": "v=spf1 ip4:192.0.2.0/24 -all", "other.example": "v=spf1 ip4:192.0.2.0/24 -all", "_dmarc.partner.example": "v=DMARC1; p=reject",
		"_dmarc.soft.example": "v=DMARC1; p=quarantine"}
	away := texts{"partner.example": "away", "_dmarc.partner.example": "away", "other.example": "away"}
	for _, c := range []struct {
		name, mail, from string
		names            texts
		enforce          bool
		allow            bool // a server of ours brings it
		reply            string
		want             []string
	}{
		{"good", plain, "bob@partner.example", z, true, false, "250 2.0.0", []string{"spf=pass smtp.mailfrom=partner.example", "dkim=none", "dmarc=pass header.from=partner.example policy.dmarc=reject", "arc=none smtp.remote-ip=192.0.2.7"}},
		{"bad, marked", plain, "eve@other.example", z, false, false, "250 2.0.0", []string{"spf=pass smtp.mailfrom=other.example", `dmarc=fail reason="nothing-aligned" header.from=partner.example policy.dmarc=reject policy.wanted=reject`}},
		{"bad, refused", plain, "eve@other.example", z, true, false, "550 5.7.1", nil},
		{"quarantine is marked", strings.Replace(plain, "partner", "soft", 1), "eve@other.example", z, true, false, "250 2.0.0", []string{"policy.wanted=quarantine"}},
		{"DNS away is no refusal", plain, "bob@partner.example", away, true, false, "250 2.0.0", []string{"spf=temperror smtp.mailfrom=partner.example", `dmarc=temperror reason="not-available"`}},
		{"client unknown", plain, "eve@other.example", z, true, true, "250 2.0.0", []string{"gw.company1.example; dkim=none; dmarc=temperror"}},
		{"null sender", plain, "", texts{"client.example": "v=spf1 -all"}, true, false, "250 2.0.0", []string{"spf=fail smtp.helo=client.example", "dmarc=none"}},
		{"two From", "From: eve@other.example\n" + plain, "eve@other.example", z, false, false, "250 2.0.0", []string{`dmarc=fail reason="no-single-author"`}},
		{"two From, refused", "From: eve@other.example\n" + plain, "eve@other.example", z, true, false, "550 5.7.1", nil},
		{"no From", "Subject: x\n\nhello\n", "eve@other.example", z, true, false, "550 5.7.1", nil},
		{"what a header says is quoted", "DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=y; b=AAAA/BBB; h=from; bh=AAAA\n" + plain, "bob@partner.example", z, true, false, "250 2.0.0",
			[]string{`dkim=permerror reason="no-key" header.d=x.example header.s=y header.a=rsa-sha256 header.b="AAAA/BBB"`}},
		{"and nothing of it is ours", "DKIM-Signature: v=1; a=x; d=x.example dmarc=pass; s=\"; spf=pass\"\n" + plain, "bob@partner.example", z, true, false, "250 2.0.0",
			[]string{`; dkim=permerror reason="unknown-algorithm"; dmarc=pass`}},
	} {
		w := newWorld(t)
		w.gate.Origins, w.gate.Enforce = &dmarc.Checker{Names: c.names, Budget: time.Minute}, c.enforce
		l := Listener{Name: "test", Direction: policy.Inbound}
		if c.allow {
			l.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		reply := w.gate.Handler(l).Data(t.Context(), w.envelope(c.from, "alice@company1.example"), strings.NewReader(crlf(c.mail)))[0]
		w.want(c.name, reply, c.reply)
		if c.reply[0] != '2' {
			if len(w.hop.got) != 0 {
				t.Errorf("%s: got a mail delivered", c.name)
			}
			continue
		}
		got := results(t, w)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: got %q, want %q", c.name, got, want)
			}
		}
		if strings.Contains(got, "FORGED") {
			t.Errorf("%s: got %q", c.name, got)
		}
	}
}

// What leaves is signed as it leaves, with every key of its author's domain, or
// does not leave; for nobody else anything is signed.
func TestAttestOutbound(t *testing.T) {
	w := newWorld(t)
	z := w.attesting()
	check := func(what string, mail []byte, want int) {
		t.Helper()
		got, err := dkim.Verify(t.Context(), parsed(t, mail), func(ctx context.Context, n string) ([]string, error) {
			a, err := z.TXT(ctx, n)
			return a.Found, err
		}, noon)
		good := 0
		for _, r := range got {
			if r.Value == dkim.Pass && r.Domain == "company1.example" {
				good++
			}
		}
		if err != nil || good != want || len(got) != want {
			t.Errorf("%s: got %+v, %v, want %d that pass\n%s", what, got, err, want, mail)
		}
	}
	// One is sealed, one signed only, one plain: three copies, each whole.
	w.gate.Policy.Signs = map[string]policy.Sign{"strict.example": policy.SignNever}
	w.want("outbound", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "carol@other.example"), "250 2.0.0")
	if len(w.hop.got) != 2 {
		t.Fatalf("got %d copies, want 2", len(w.hop.got))
	}
	for i, d := range w.hop.got {
		check(fmt.Sprint("copy ", i), d.mail, 2)
		if first, _, _ := strings.Cut(string(d.mail), ":"); first != "DKIM-Signature" {
			t.Errorf("copy %d: got %q on top, want the signature", i, first)
		}
	}
	if !strings.Contains(w.log.String(), "20260101-rsa._domainkey.company1.example") {
		t.Errorf("the log names no key\n%s", w.log)
	}
	o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, From: address(t, "alice@company1.example"), To: []message.Address{address(t, "bob@partner.example")}, Mail: strings.NewReader(out), At: noon})
	if len(o.Verdict.DKIM) != 2 || !strings.Contains(strings.Join(o.Explain, "\n"), "It is signed with DKIM by the key of 20260101-ed25519._domainkey.company1.example.") {
		t.Errorf("process: got %v, %q", o.Verdict.DKIM, o.Explain)
	}

	w.hop.got = nil
	w.gate.Attest.Domains = map[string]bool{"company2.example": true}
	w.want("another domain", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "250 2.0.0")
	check("another domain", w.hop.got[0].mail, 0)

	w.hop.got = nil
	w.gate.Attest.Domains = map[string]bool{"company1.example": true, "company2.example": true}
	w.gate.Attest.Keys = &dkim.Ring{Token: w.token}
	w.token.unplug(hsm.ErrAway)
	w.gate.Policy.Domains["company1.example"] = policy.SignNever
	w.want("token away", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "451 4.7.5")
	w.token.unplug(nil)
	w.gate.Attest.Domains["company2.example"] = true
	two := strings.Replace(out, "alice@company1.example", "x@company2.example", 1)
	w.gate.Policy.Domains["company2.example"] = policy.SignNever
	w.want("no key", w.send(policy.Outbound, two, "x@company2.example", "carol@other.example"), "451 4.3.5")
	if len(w.hop.got) != 0 {
		t.Errorf("got %d mails that left unsigned", len(w.hop.got))
	}
}
