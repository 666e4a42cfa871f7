package filter

import (
	"context"
	"slices"
	"strings"
	"testing"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

// shelf answers at once, and counts how often it is waited for.
type shelf struct {
	about directory.Result
	asked []string
}

func (s *shelf) Known(context.Context, message.Address) directory.Result { return s.about }

func (s *shelf) Find(_ context.Context, list []message.Address) map[string]directory.Result {
	all := map[string]directory.Result{}
	for _, a := range list {
		s.asked = append(s.asked, a.Key())
		all[a.Key()] = s.about
	}
	return all
}

// What directories know is used as they are trusted. What they may know and have
// not said makes a mail wait where it must be encrypted, and no other.
func TestFound(t *testing.T) {
	const carol, alice = "carol@other.example", "alice@company1.example"
	for _, c := range []struct {
		name   string
		use    bool
		away   bool
		none   bool
		rule   policy.Protect
		known  keyring.Trust // of the same certificate, in the operators' keyring
		want   string
		sealed bool
	}{
		{"vouched for", true, false, false, policy.Require, "", "250 2.0.0", true},
		{"vouched for, and optional", true, false, false, policy.Optional, "", "250 2.0.0", true},
		{"vouched for, and another source is away", true, true, false, policy.Require, "", "250 2.0.0", true},
		{"in doubt", false, false, false, policy.Require, "", "550 5.7.3", false},
		{"in doubt, and optional", false, false, false, policy.Optional, "", "250 2.0.0", false},
		{"in doubt, and a source is away", false, true, false, policy.Require, "", "451 4.7.3", false},
		{"none, and a source is away", false, true, true, policy.Require, "", "451 4.7.3", false},
		{"none, and a source is away, and optional", false, true, true, policy.Optional, "", "250 2.0.0", false},
		{"none", false, false, true, policy.Require, "", "550 5.7.3", false},
		{"vouched for, and distrusted by an operator", true, false, false, policy.Require, keyring.Distrusted, "550 5.7.3", false},
		{"in doubt, and trusted by an operator", false, false, false, policy.Require, keyring.Trusted, "250 2.0.0", true},
		{"vouched for, and never to be encrypted", true, false, false, policy.None, "", "250 2.0.0", false},
	} {
		w := newWorld(t)
		w.people[carol] = w.person(carol)
		found := w.people[carol].Cert
		if c.known != "" {
			known := found
			known.Trust = c.known
			w.ring.partners = append(w.ring.partners, known)
		}
		found.Trust, found.Source = keyring.Seen, "wkd"
		s := &shelf{}
		if !c.none {
			s.about.Found = []directory.Found{{Cert: found, By: []string{"wkd"}, Use: c.use, Why: "found by wkd"}}
		}
		if c.away {
			s.about.Away = []string{"vks:keys.example"}
		}
		kept := &school{}
		w.gate.Finder, w.gate.Learn = s, kept
		w.gate.Policy.Recipients[carol] = c.rule
		got := w.send(policy.Outbound, out, alice, carol)
		w.gate.Idle()
		if !strings.HasPrefix(got.String(), c.want) {
			t.Errorf("%s: got %v, want %s\n%s", c.name, got, c.want, w.log)
			continue
		}
		if taken := len(w.hop.got) > 0; taken != strings.HasPrefix(c.want, "250") {
			t.Errorf("%s: got relayed %t", c.name, taken)
		} else if taken && (w.layer(w.hop.got[0].mail) == protect.Sealed) != c.sealed {
			t.Errorf("%s: got sealed %t, want %t", c.name, !c.sealed, c.sealed)
		}
		wanted := c.rule != policy.None && c.known != keyring.Trusted
		if waited := slices.Contains(s.asked, carol); waited != (wanted && !strings.HasPrefix(c.want, "550")) {
			t.Errorf("%s: got waited for directories %t", c.name, waited)
		}
		for _, one := range kept.got {
			if one.Trust != keyring.Seen || one.Source != "wkd" {
				t.Errorf("%s: got kept as %s by %s, want seen by wkd", c.name, one.Trust, one.Source)
			}
		}
	}
}

// Nobody asks strangers about us: not for a recipient inside, and not for mail
// that comes from outside.
func TestNobodyIsAskedAboutUs(t *testing.T) {
	w := newWorld(t)
	s := &shelf{}
	w.gate.Finder = s
	w.gate.Policy.Internal = map[string]policy.Protect{"company1.example": policy.Optional}
	w.want("inside", w.send(policy.Outbound, out, "alice@company1.example", "dave@company1.example"), "250")
	w.want("inbound", w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example"), "250")
	if len(s.asked) > 0 {
		t.Errorf("got asked for %q, want for nobody", s.asked)
	}
	w.want("outside", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "250")
	if want := []string{"carol@other.example"}; !slices.Equal(s.asked, want) {
		t.Errorf("got asked for %q, want for %q", s.asked, want)
	}
}

// Who asks why reads which source was believed, which not, and which was away.
func TestExplainFound(t *testing.T) {
	const carol = "carol@other.example"
	w := newWorld(t)
	w.people[carol] = w.person(carol)
	found, doubted := w.people[carol].Cert, w.person("carol2@other.example").Cert
	found.Trust, doubted.Trust = keyring.Seen, keyring.Seen
	w.gate.Finder = &shelf{about: directory.Result{Away: []string{"hkps:keys.example"}, Found: []directory.Found{
		{Cert: found, Use: true, Why: "found by openpgpkey in a validated answer"}, {Cert: doubted, Why: "found by wkd alone, which is not enough: an operator decides"}}}}
	o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, From: address(t, "alice@company1.example"), To: []message.Address{address(t, carol)}, Mail: strings.NewReader(out)})
	defer o.Close()
	got := strings.Join(o.Explain, "\n")
	for _, want := range []string{
		"Certificates for " + carol + ": openpgp " + found.Fingerprint + " (found by openpgpkey in a validated answer).",
		"Not used: openpgp " + doubted.Fingerprint + ": found by wkd alone, which is not enough: an operator decides.",
		"Did not answer in time, and may know of certificates for " + carol + ": hkps:keys.example.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
}
