package policy

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

var vault = addr("archive", "vault.example")

// archives gives a site archives, and a mail what is known of them.
func (d dice) archives(p *Policy, f *Facts) {
	p.Domains["company2.example"] = SignNever
	p.Archives = map[string]Archive{}
	for _, domain := range []string{"company1.example", "company2.example"} {
		if d.seldom() {
			continue
		}
		p.Archives[domain] = Archive{Address: one(d, vault, alice), Inbound: d.often(), Outbound: d.often()}
		if d.seldom() {
			continue // nothing is known of it
		}
		k := Kept{Domain: domain}
		for range 1 + d.IntN(3) {
			k.Certs = append(k.Certs, d.cert("archive"))
		}
		for _, i := range d.Perm(len(formats))[:d.IntN(3)] {
			k.Signing = append(k.Signing, formats[i])
		}
		f.Kept = append(f.Kept, k)
	}
	if d.seldom() { // the archive of the one, for the other
		f.Kept = append(f.Kept, Kept{Domain: "other.example", Certs: []Sealable{d.cert("archive")}, Signing: formats})
	}
	if f.Direction == Inbound {
		f.Returned = d.seldom()
	}
}

// received throws an inbound mail.
func (d dice) received() Facts {
	f := Facts{Direction: Inbound, Author: bob, Layer: one(d, protect.None, protect.Sealed, protect.Sealed, protect.Signed)}
	ours := []message.Address{alice, addr("z", "company1.example"), addr("x", "company2.example"), addr("y", "company3.example")}
	for _, i := range d.Perm(len(ours))[:1+d.IntN(len(ours))] {
		r := Recipient{Address: ours[i]}
		if f.Layer == protect.Sealed {
			if r.Opening = one(d, "", "a", "b"); r.Opening == "" {
				f.Failed = true
			}
		}
		f.Recipients = append(f.Recipients, r)
	}
	return f
}

// Whatever is decided: an archive takes away no copy and changes none; each
// recipient whose mail must be archived is named in exactly one copy, for the
// archive of the right domain, which is signed and sealed to a certificate of
// it; and where that cannot be nobody gets the mail.
func TestAnyArchive(t *testing.T) {
	kept, deferred := 0, 0
	try(t, 8_000, func(d dice, p *Policy, f Facts, _ Decision) {
		if d.often() {
			f = d.received()
		}
		without := *p
		d.archives(p, &f)
		base, is := without.Decide(f), p.Decide(f)
		home := f.Author.Domain
		must := map[message.Address]string{}
		for _, r := range f.Recipients {
			plan, domain := planOf(base, r.Address), r.Address.Domain
			switch {
			case base.Action != Relay:
				continue
			case f.Direction == Outbound && (plan.Encrypt || plan.PDF) && p.Archives[home].Outbound:
				domain = home
			case f.Direction == Inbound && f.Layer == protect.Sealed && p.Archives[domain].Inbound && (r.Opening != "" || !f.Returned):
			default:
				continue
			}
			if p.Archives[domain].Address != r.Address {
				must[r.Address] = domain
			}
		}
		if base.Action != Relay || len(must) == 0 {
			if !reflect.DeepEqual(base, is) {
				t.Errorf("got %+v, want nothing for an archive", is)
			}
			return
		}
		if is.Action != Relay {
			deferred++
			if is.Action != Defer || is.Reason != ReasonNoArchive || len(is.Plans) > 0 {
				t.Errorf("got %+v, want a mail that waits", is)
			}
			for _, domain := range must {
				if is.Rule == fmt.Sprintf("domain.%q", domain) && fit(f, domain, nil) {
					t.Errorf("got %+v, and the archive has a certificate in a format that is signed", is)
				}
			}
			return
		}
		kept++
		named := map[message.Address]int{}
		if plain := slices.DeleteFunc(slices.Clone(is.Plans), func(p Plan) bool { return p.Archive != "" }); !reflect.DeepEqual(plain, base.Plans) {
			t.Errorf("got copies %+v, want those without an archive", plain)
		}
		for _, plan := range is.Plans {
			if plan.Archive == "" {
				continue
			}
			for _, a := range plan.Of {
				named[a]++
				if must[a] != plan.Archive {
					t.Errorf("%v is named in the archive of %s, want %q", a, plan.Archive, must[a])
				}
			}
			if !plan.Sign || !plan.Encrypt || plan.PDF || plan.Opened || len(plan.Certs) != 1 || len(plan.Escrow) > 0 || !slices.Equal(plan.Recipients, []message.Address{p.Archives[plan.Archive].Address}) ||
				!fit(f, plan.Archive, func(s Sealable) bool {
					return reflect.DeepEqual(s.Cert, plan.Certs[0]) && s.Class == plan.Class && s.Format == plan.Format
				}) {
				t.Errorf("got %+v, want one signed and sealed to the archive", plan)
			}
		}
		for a := range must {
			if named[a] != 1 {
				t.Errorf("%v is named %d times", a, named[a])
			}
		}
	})
	if kept < 200 || deferred < 200 {
		t.Errorf("got %d archived and %d deferred, want hundreds of each", kept, deferred)
	}
}

// fit reports whether the archive of a domain has such a certificate, in a
// format in which somebody signs for it.
func fit(f Facts, domain string, is func(Sealable) bool) bool {
	return slices.ContainsFunc(f.Kept, func(k Kept) bool {
		return k.Domain == domain && slices.ContainsFunc(k.Certs, func(s Sealable) bool {
			return slices.Contains(k.Signing, s.Format) && (is == nil || is(s))
		})
	})
}

// The first certificate of the rule that can be signed beside is taken, with the
// style that was agreed on with the archive's domain.
func TestCertificateOfAnArchive(t *testing.T) {
	p := site()
	p.Archives = map[string]Archive{"company1.example": {Address: vault, Inbound: true}}
	style := protect.Style{Cipher: "aes-128-gcm", OAEP: true}
	p.Forms = map[string]Form{"vault.example": {Style: style}}
	pgp, x1, x2 := Sealable{keyring.Cert{Format: keyring.OpenPGP, Fingerprint: "1"}, ""}, Sealable{keyring.Cert{Format: keyring.SMIME, Fingerprint: "2"}, "rsa"}, Sealable{keyring.Cert{Format: keyring.SMIME, Fingerprint: "3"}, "ec"}
	for _, c := range []struct {
		certs   []Sealable
		signing []keyring.Format
		want    string
		style   protect.Style
	}{
		{[]Sealable{pgp, x1}, formats, "1", protect.Style{}},
		{[]Sealable{pgp, x1}, formats[1:], "2", style},
		{[]Sealable{x2, x1}, formats, "3", style},
		{[]Sealable{x2, x1}, formats[:1], "", style},
		{nil, formats, "", style},
	} {
		d := p.Decide(Facts{Direction: Inbound, Layer: protect.Sealed, Recipients: []Recipient{{Address: alice, Opening: "a"}}, Kept: []Kept{{"company1.example", c.certs, c.signing}}})
		if c.want == "" {
			if d.Action != Defer || d.Reason != ReasonNoArchive || d.Rule != `domain."company1.example"` {
				t.Errorf("%v signed in %v: got %+v, want it to wait", c.certs, c.signing, d)
			}
			continue
		}
		if len(d.Plans) != 2 || d.Plans[1].Certs[0].Fingerprint != c.want || d.Plans[1].Style != c.style {
			t.Errorf("%v signed in %v: got %+v, want certificate %s and style %+v", c.certs, c.signing, d.Plans, c.want, c.style)
		}
	}
}
