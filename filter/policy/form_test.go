package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

var (
	rsaCert = Sealable{keyring.Cert{Format: keyring.SMIME, Fingerprint: "RSA"}, "rsa"}
	ecCert  = Sealable{keyring.Cert{Format: keyring.SMIME, Fingerprint: "EC"}, "ec"}
	gas     = addr("edi", "gas.energy.example")
	// energy is what the EDI@Energy profile agrees on.
	energy = Form{Formats: []keyring.Format{keyring.SMIME}, Style: protect.Style{Cipher: "aes-128-gcm", OAEP: true, PSS: true}}
)

func formed() *Policy {
	p := site()
	p.Default, p.Formats = Optional, []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	p.Forms = map[string]Form{"*.energy.example": energy, "plain.energy.example": {}, "partner.example": {Formats: []keyring.Format{keyring.SMIME, keyring.OpenPGP}}}
	return p
}

func TestForm(t *testing.T) {
	both := []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	for _, c := range []struct {
		to   message.Address
		want Form
	}{
		{gas, energy},
		{addr("x", "GAS.Energy.Example"), energy},
		{addr("x", "a.gas.energy.example"), energy},
		{addr("x", "energy.example"), Form{Formats: both}},
		{addr("x", "plain.energy.example"), Form{Formats: both}}, // the nearest name decides
		{bob, Form{Formats: []keyring.Format{keyring.SMIME, keyring.OpenPGP}}},
		{dave, Form{Formats: both}},
	} {
		if got := formed().Form(c.to); !reflect.DeepEqual(got, c.want) {
			t.Errorf("form of %v: got %+v, want %+v", c.to, got, c.want)
		}
	}
}

// show words plans: format/class, style, recipients, certificates, who reads along.
func show(d Decision) string {
	lines := []string{fmt.Sprint(d.Action, " ", d.Reason, " ", d.Rule)}
	for _, p := range d.Plans {
		var to, certs, escrow []string
		for _, a := range p.Recipients {
			to = append(to, a.Local)
		}
		for _, c := range p.Certs {
			certs = append(certs, c.Fingerprint)
		}
		for _, c := range p.Escrow {
			escrow = append(escrow, c.Fingerprint)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s/%s %v %v sign %v certs %v escrow %v", p.Format, p.Class, p.Style, to, p.Sign, certs, escrow)))
	}
	return strings.Join(lines, "\n")
}

// Recipients share a copy only with those of their format, class and style;
// and who is hidden with nobody.
func TestCopies(t *testing.T) {
	both := []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	named := func(c Sealable, name string) Sealable { c.Fingerprint = name; return c }
	for _, c := range []struct {
		name  string
		facts Facts
		want  string
	}{
		{"one of each class", Facts{Author: alice, Signing: both, Recipients: []Recipient{
			{Address: addr("a", "other.example"), Certs: []Sealable{named(ecCert, "A")}}, {Address: addr("b", "other.example"), Certs: []Sealable{named(rsaCert, "B")}},
			{Address: addr("c", "other.example"), Certs: []Sealable{named(cert, "C")}}, {Address: addr("d", "other.example"), Certs: []Sealable{named(rsaCert, "D")}}}},
			`relay sealed default
openpgp/ { false false} [c] sign true certs [C] escrow []
smime/ec { false false} [a] sign true certs [A] escrow []
smime/rsa { false false} [b d] sign true certs [B D] escrow []`},
		{"the partner's format goes before the site's", Facts{Author: alice, Signing: both, Recipients: []Recipient{
			{Address: bob, Certs: []Sealable{cert, rsaCert}}, {Address: addr("c", "other.example"), Certs: []Sealable{rsaCert, cert}}}},
			`relay sealed partner."partner.example"
openpgp/ { false false} [c] sign true certs [AA] escrow []
smime/rsa { false false} [bob] sign true certs [RSA] escrow []`},
		{"an agreed style is for those who agreed", Facts{Author: alice, Signing: both, Recipients: []Recipient{
			{Address: addr("b", "other.example"), Certs: []Sealable{named(rsaCert, "B")}}, {Address: gas, Certs: []Sealable{cert, named(rsaCert, "G")}}}},
			`relay sealed default
smime/rsa { false false} [b] sign true certs [B] escrow []
smime/rsa {aes-128-gcm true true} [edi] sign true certs [G] escrow []`},
		{"signed only, in the format and style of each", Facts{Author: alice, Signing: both, Recipients: []Recipient{
			{Address: gas, Certs: []Sealable{cert}}, {Address: bob}, {Address: addr("c", "other.example")}, {Address: addr("d", "other.example")}}},
			`relay plain partner."partner.example"
openpgp/ { false false} [c d] sign true certs [] escrow []
smime/ { false false} [bob] sign true certs [] escrow []
smime/ { false true} [edi] sign true certs [] escrow []`},
		{"no identity in the one format of a partner", Facts{Author: alice, Signing: both[:1], Recipients: []Recipient{{Address: gas}}},
			`defer no-identity domain."company1.example"`},
		{"hidden, both of one class", Facts{Author: alice, Signing: both, Recipients: []Recipient{
			{Address: addr("a", "other.example"), Certs: []Sealable{named(rsaCert, "A")}}, {Address: addr("b", "other.example"), Certs: []Sealable{named(rsaCert, "B")}, Hidden: true},
			{Address: addr("c", "other.example"), Certs: []Sealable{named(rsaCert, "C")}, Hidden: true}}},
			`relay sealed default
smime/rsa { false false} [a] sign true certs [A] escrow []
smime/rsa { false false} [b] sign true certs [B] escrow []
smime/rsa { false false} [c] sign true certs [C] escrow []`},
	} {
		c.facts.Direction = Outbound
		if got := show(formed().Decide(c.facts)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

// Who reads along stands in every sealed copy, also in those of hidden
// recipients: he is the same in all, and tells nobody of another. A copy that
// he could not read is not made.
func TestEscrow(t *testing.T) {
	signing := []keyring.Format{keyring.OpenPGP, keyring.SMIME}
	archive := func(c Sealable, name string) Sealable { c.Fingerprint = name; return c }
	all := [][]Sealable{{archive(rsaCert, "R1"), archive(ecCert, "E1")}, {archive(cert, "P2")}, {archive(rsaCert, "R3")}}
	to := func(certs ...Sealable) []Recipient {
		var rs []Recipient
		for i, c := range certs {
			rs = append(rs, Recipient{Address: addr(fmt.Sprint("x", i), "other.example"), Certs: []Sealable{c}, Hidden: i > 1})
		}
		return rs
	}
	for _, c := range []struct {
		name   string
		author message.Address
		escrow [][]Sealable
		to     []Recipient
		want   string
	}{
		{"each copy has those of its class", alice, all, to(rsaCert, ecCert, cert),
			`relay sealed default
smime/ec { false false} [x1] sign true certs [EC] escrow [E1]
smime/rsa { false false} [x0] sign true certs [RSA] escrow [R1 R3]
openpgp/ { false false} [x2] sign true certs [AA] escrow [P2]`},
		{"none of that class", alice, all[1:], to(ecCert), `defer no-escrow domain."company1.example"`},
		{"none at all", alice, nil, to(rsaCert), `defer no-escrow domain."company1.example"`},
		{"nothing is sealed", alice, nil, []Recipient{{Address: addr("x", "other.example")}},
			`relay plain default
openpgp/ { false false} [x] sign true certs [] escrow []`},
		{"a recipient who reads along anyhow", alice, [][]Sealable{{rsaCert}}, to(rsaCert),
			`relay sealed default
smime/rsa { false false} [x0] sign true certs [RSA] escrow []`},
		{"somebody else's mail", dave, nil, to(rsaCert),
			`relay sealed default
smime/rsa { false false} [x0] sign false certs [RSA] escrow []`},
	} {
		p := formed()
		p.Escrow = map[string]Escrow{"company1.example": {"archive@company1.example"}}
		got := show(p.Decide(Facts{Direction: Outbound, Author: c.author, Signing: signing, Escrow: c.escrow, Recipients: c.to}))
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}
