package filter

import (
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/protect"
)

// An answer to a mail that came sealed and was opened leaves sealed for
// everybody outside, or not at all (R45).
func TestAnswersToOpenedMail(t *testing.T) {
	const alice, bob, carol, anna = "alice@company1.example", "bob@partner.example", "carol@other.example", "anna@company1.example"
	answer := func(field string) string {
		return crlf("From: Alice <alice@company1.example>\nTo: bob@partner.example\n" + field + "Subject: Re: in\nMessage-ID: <3@company1.example>\n\n> Marker-Text-7f3a\n")
	}
	for _, c := range []struct {
		name   string
		opened bool // the mail came sealed, and not in clear
		field  string
		change func(*policy.Policy)
		to     string
		reply  string
		sealed bool
	}{
		{"in clear, to somebody without a certificate", false, "In-Reply-To: <2@partner.example>\n", nil, carol, "250 2.0.0", false},
		{"opened, to somebody without", true, "In-Reply-To: <2@partner.example>\n", nil, carol, "550 5.7.3", false},
		{"opened, to somebody with", true, "In-Reply-To: <2@partner.example>\n", nil, bob, "250 2.0.0", true},
		{"opened, with level asked", true, "In-Reply-To: <2@partner.example>\n", func(p *policy.Policy) { p.Default = policy.OnDemand }, bob, "250 2.0.0", true},
		{"opened, with level none", true, "In-Reply-To: <2@partner.example>\n", func(p *policy.Policy) { p.Default = policy.None }, bob, "550 5.7.3", false},
		{"opened, a safe way is not enough", true, "In-Reply-To: <2@partner.example>\n", func(p *policy.Policy) { p.NoKey = policy.NoKeyTransport }, carol, "550 5.7.3", false},
		{"opened, it may wait", true, "In-Reply-To: <2@partner.example>\n", func(p *policy.Policy) { p.NoKey = policy.NoKeyDefer }, carol, "451 4.7.3", false},
		{"opened, inside", true, "In-Reply-To: <2@partner.example>\n", nil, anna, "250 2.0.0", false},
		{"opened, by the references", true, "References: <1@x.example>\n\t<2@partner.example> <9@x.example>\n", nil, carol, "550 5.7.3", false},
		{"opened, without brackets", true, "In-Reply-To: 2@partner.example\n", nil, carol, "550 5.7.3", false},
		{"opened, in the second field", true, "In-Reply-To: <1@x.example>\nIn-Reply-To: <2@partner.example>\n", nil, carol, "550 5.7.3", false},
		{"another", true, "In-Reply-To: <22@partner.example>\n", nil, carol, "250 2.0.0", false},
		{"no answer", true, "", nil, carol, "250 2.0.0", false},
		{"the site does not mind", true, "In-Reply-To: <2@partner.example>\n", func(p *policy.Policy) { p.Answers = policy.AnswersUsual }, carol, "250 2.0.0", false},
		{"more references than anybody has", true, "References: " + strings.Repeat("<x@y.example>\n ", 1) + ids(1001) + "\n", nil, carol, "554 5.6.0", false},
	} {
		w := newWorld(t)
		w.remembers("", "")
		if c.change != nil {
			c.change(w.gate.Policy)
		}
		mail := w.sealed(in, bob)
		if c.opened {
			mail = w.sealed(in, bob, alice)
		}
		w.want(c.name, w.send(policy.Inbound, mail, bob, alice), "250 2.0.0")
		w.hop.got = nil
		w.want(c.name, w.send(policy.Outbound, answer(c.field), alice, c.to), c.reply)
		if c.reply[0] != '2' {
			if len(w.hop.got) > 0 {
				t.Errorf("%s: something left", c.name)
			}
			continue
		}
		if got := w.layer(w.hop.got[0].mail) == protect.Sealed; got != c.sealed {
			t.Errorf("%s: got sealed %v, want %v", c.name, got, c.sealed)
		}
	}
}

func ids(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("<" + strings.Repeat("i", i%7+1) + string(rune('a'+i%26)) + strings.Repeat("j", i/26+1) + "@x.example>\n ")
	}
	return strings.TrimRight(b.String(), "\n ")
}

// A mail whose id cannot be remembered is not opened for anybody: it waits (R45).
func TestOpenedMailIsRememberedFirst(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	w := newWorld(t)
	r := w.remembers("", "")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.want("sealed", w.send(policy.Inbound, w.sealed(in, bob, alice), bob, alice), "451 4.3.1")
	if len(w.hop.got) > 0 {
		t.Error("the mail was delivered")
	}
	w.want("in clear", w.send(policy.Inbound, in, bob, alice), "250 2.0.0")
}
