package filter

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"postern/filter/arc"
	"postern/filter/dkim"
	"postern/filter/dmarc"
	"postern/filter/policy"
	"postern/hsm"
)

// Opening breaks what others signed; the seal says what was found before, and
// holds over what is delivered. A chain of others goes on.
func TestSealInbound(t *testing.T) {
	w := newWorld(t)
	z := w.attesting()
	look := func(ctx context.Context, n string) ([]string, error) {
		a, err := z.TXT(ctx, n)
		return a.Found, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	list, err := dkim.NewKey("list.example", "s", key)
	if err != nil {
		t.Fatal(err)
	}
	if z["s._domainkey.list.example"], err = dkim.Record(key.Public()); err != nil {
		t.Fatal(err)
	}
	// signed puts a chain or a signature of list.example on a mail.
	chained := func(mail string) string {
		m := parsed(t, []byte(mail))
		c, err := arc.Verify(t.Context(), m, look, noon)
		if err != nil {
			t.Fatal(err)
		}
		top, err := arc.Seal(m, c, list, "list.example; none", noon)
		if err != nil {
			t.Fatal(err)
		}
		return string(top) + mail
	}
	sealed := w.sealed(in, "bob@partner.example", "alice@company1.example")
	w.gate.Origins = &dmarc.Checker{Names: z, Budget: time.Minute}
	w.gate.Attest.Opened = true
	for _, c := range []struct {
		name, mail string
		sets       int
		want       dkim.Value
		reason     string
		aar        string
	}{
		{"opened", sealed, 1, dkim.Pass, dkim.ReasonGood, "i=1; gw.company1.example;"},
		{"opened, with a chain", chained(sealed), 2, dkim.Pass, dkim.ReasonGood, "arc=pass header.d=list.example"},
		{"opened, with a chain that was broken before", strings.Replace(chained(sealed), "Subject: [...]", "Subject: ...", 1), 2, dkim.Fail, arc.ReasonSaid, `arc=fail reason="header-changed"`},
		{"not opened", in, 0, dkim.None, "", ""},
	} {
		w.hop.got = nil
		w.want(c.name, w.send(policy.Inbound, c.mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
		got := parsed(t, w.hop.got[0].mail)
		chain, err := arc.Verify(t.Context(), got, look, noon)
		if err != nil || chain.Value != c.want || chain.Sets != c.sets || chain.Reason != c.reason {
			t.Errorf("%s: got %+v, %v, want %s (%s) of %d\n%s", c.name, chain.Value, err, c.want, c.reason, c.sets, w.hop.got[0].mail)
		}
		if aar := got.Get("ARC-Authentication-Results"); !strings.Contains(aar, c.aar) {
			t.Errorf("%s: got %q, want %q", c.name, aar, c.aar)
		}
		if c.sets == 1 && (chain.Domain != "company1.example" || !strings.Contains(string(w.hop.got[0].mail), "Marker-Text-7f3a")) {
			t.Errorf("%s: got %+v", c.name, chain)
		}
		// And whoever changes the mail behind us breaks it.
		if changed := parsed(t, []byte(strings.Replace(string(w.hop.got[0].mail), "Marker-Text", "Marker-Test", 1))); c.want == dkim.Pass {
			if chain, err := arc.Verify(t.Context(), changed, look, noon); err != nil || chain.Value != dkim.Fail {
				t.Errorf("%s, changed: got %+v, %v", c.name, chain, err)
			}
		}
	}

	w.hop.got = nil
	w.gate.Attest.Opened = false
	w.want("all", w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
	if chain, err := arc.Verify(t.Context(), parsed(t, w.hop.got[0].mail), look, noon); err != nil || chain.Value != dkim.Pass || chain.Sets != 1 {
		t.Errorf("all: got %+v, %v", chain, err)
	}
	w.gate.Attest.Keys = &dkim.Ring{Token: w.token}
	w.token.unplug(hsm.ErrAway)
	w.want("token away", w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example"), "451 4.7.5")
}
