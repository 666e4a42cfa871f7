package filter

import (
	"fmt"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

// Whatever a protector says of a signature, the claim needs exactly one From
// with exactly one address, and that one in the certificate (R12): of the mail
// as it came and as it is shown.
func TestSignerMustBeFrom(t *testing.T) {
	const bob = "bob@partner.example"
	for _, c := range []struct {
		name, outside, inside string
		signers               []string
		want                  string
	}{
		{"the one", "From: Bob <bob@partner.example>", "", []string{bob}, "yes"},
		{"among others", "From: Bob <bob@partner.example>", "", []string{"robert@partner.example", bob}, "yes"},
		{"the domain in capitals", "From: bob@PARTNER.example", "", []string{bob}, "yes"},
		{"another of his domain", "From: Bob <bob@partner.example>", "", []string{"carol@partner.example"}, "no"},
		{"a stranger", "From: Bob <bob@partner.example>", "", []string{"mallory@evil.example"}, "no"},
		{"nobody", "From: Bob <bob@partner.example>", "", nil, "no"},
		{"his name only", "From: \"bob@partner.example\" <mallory@evil.example>", "", []string{bob}, "no"},
		{"Sender", "From: mallory@evil.example\nSender: bob@partner.example", "", []string{bob}, "no"},
		{"two From", "From: bob@partner.example\nFrom: mallory@evil.example", "", []string{bob, "mallory@evil.example"}, "no"},
		{"two From, the same", "From: bob@partner.example\nFrom: bob@partner.example", "", []string{bob}, "no"},
		{"two addresses", "From: bob@partner.example, mallory@evil.example", "", []string{bob, "mallory@evil.example"}, "no"},
		{"no From", "To: alice@company1.example", "", []string{bob}, "no"},
		{"another one inside", "From: bob@partner.example", "From: mallory@evil.example", []string{bob, "mallory@evil.example"}, "no"},
		{"one more inside", "From: bob@partner.example", "From: bob@partner.example\nFROM: mallory@evil.example", []string{bob}, "no"},
	} {
		w := newWorld(t)
		if c.inside == "" {
			c.inside = c.outside
		}
		w.guard.detect = func(*message.Message) protect.Layer { return protect.Sealed }
		w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
			s := r.NewSpool()
			fmt.Fprint(s, crlf(c.inside+"\nSubject: s\n\nText.\n"))
			m, err := message.Parse(s, message.Limits{})
			f := protect.Finding{Format: keyring.OpenPGP, Opened: true, Signed: true, Good: true, Reason: protect.ReasonGood}
			for _, a := range c.signers {
				f.Signers = append(f.Signers, address(t, a))
			}
			return m, f, err
		}
		w.want(c.name, w.send(policy.Inbound, crlf(c.outside+"\nSubject: s\n\nx\n"), bob, "alice@company1.example"), "250 2.0.0")
		got := parsed(t, w.hop.got[0].mail)
		status, results := got.Get("Postern-Status"), got.Get("Authentication-Results")
		if !strings.Contains(status, "verified="+c.want+"; signer=") || strings.Contains(results, "x-openpgp=pass") != (c.want == "yes") {
			t.Errorf("%s: got %q, %q, want verified=%s", c.name, status, results, c.want)
		}
		if want := map[bool]string{true: "signer=bob@partner.example; reason=good", false: "signer=none; reason=signer-not-from"}[c.want == "yes"]; !strings.Contains(status, want) {
			t.Errorf("%s: got %q, want %s", c.name, status, want)
		}
	}
}
