package filter

import (
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm"
)

// What the sender's own program has sealed passes, is refused, or is opened
// and sealed anew, as the site says. It is opened with his own keys, for him,
// and never goes outside in clear by that.
func TestClientEncryption(t *testing.T) {
	const alice, bob, carol, anna, company, mallory = "alice@company1.example", "bob@partner.example", "carol@other.example", "anna@company1.example", "company1.example", "mallory@evil.example"
	for _, c := range []struct {
		name   string
		client policy.Client
		signer string   // inside
		seal   []string // to whom the program sealed
		user   string   // who has logged in
		from   string
		to     string
		change func(*world)
		reply  string
		layer  protect.Layer
		sealed string // who can open what left
	}{
		{"keep", policy.ClientKeep, alice, []string{bob}, "", alice, bob, nil, "250 2.0.0", protect.Sealed, bob},
		{"keep, nobody has a certificate", "", "", []string{bob}, "", alice, carol, nil, "250 2.0.0", protect.Sealed, ""},
		{"keep, and sealed again where it must be", policy.ClientKeep, "", []string{mallory}, "", alice, bob, func(w *world) { w.gate.Policy.Recipients[bob] = policy.Require }, "250 2.0.0", protect.Sealed, bob},
		{"refuse", policy.ClientRefuse, alice, []string{bob}, "", alice, bob, nil, "550 5.7.1", 0, ""},
		{"refuse, inside too", policy.ClientRefuse, alice, []string{alice}, alice, alice, anna, nil, "550 5.7.1", 0, ""},
		{"refuse only what is sealed", policy.ClientRefuse, alice, nil, "", alice, bob, nil, "250 2.0.0", protect.Sealed, bob},
		{"open, signed inside", policy.ClientOpen, alice, []string{mallory, alice}, "", alice, bob, nil, "250 2.0.0", protect.Sealed, bob},
		{"open, logged in", policy.ClientOpen, "", []string{alice}, alice, alice, bob, nil, "250 2.0.0", protect.Sealed, bob},
		{"open with the key of the domain", policy.ClientOpen, "", []string{company}, alice, alice, bob, nil, "250 2.0.0", protect.Sealed, bob},
		{"open, to somebody inside", policy.ClientOpen, alice, []string{alice}, alice, alice, anna, nil, "250 2.0.0", protect.Signed, ""},
		{"open, neither signed nor logged in", policy.ClientOpen, "", []string{alice}, "", alice, bob, nil, "550 5.7.1", 0, ""},
		{"open, signed by another", policy.ClientOpen, bob, []string{alice}, "", alice, bob, nil, "550 5.7.1", 0, ""},
		{"open, sent as another", policy.ClientOpen, alice, []string{alice}, anna, anna, bob, nil, "550 5.7.1", 0, ""},
		{"open, not for us", policy.ClientOpen, alice, []string{bob}, alice, alice, bob, nil, "550 5.7.1", 0, ""},
		{"open, another's key of ours", policy.ClientOpen, "", []string{bob}, alice, alice, bob, func(w *world) {
			id := w.people[bob]
			id.Domain, id.Address = "", address(t, anna)
			w.ring.ours = append(w.ring.ours, id)
		}, "550 5.7.1", 0, ""},
		{"open, nobody can be sealed to", policy.ClientOpen, alice, []string{alice}, alice, alice, carol, nil, "550 5.7.3", 0, ""},
		{"open, and the rule says none", policy.ClientOpen, alice, []string{alice}, alice, alice, bob, func(w *world) { w.gate.Policy.Recipients[bob] = policy.None }, "550 5.7.1", 0, ""},
		{"open, and a safe way is not enough", policy.ClientOpen, alice, []string{alice}, alice, alice, carol, func(w *world) { w.gate.Policy.NoKey = policy.NoKeyTransport }, "550 5.7.3", 0, ""},
		{"open, sealed twice", policy.ClientOpen, "", []string{alice}, alice, alice, bob, nil, "550 5.7.1", 0, ""},
		{"open, another author inside", policy.ClientOpen, "", []string{alice}, alice, alice, bob, func(w *world) {
			w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
				_, f, err := w.guard.Protector.Open(t.Context(), r)
				return parsed(t, []byte(strings.Replace(out, "From: Alice <alice", "From: Anna <anna", 1))), f, err
			}
		}, "550 5.7.1", 0, ""},
		{"open, token away", policy.ClientOpen, alice, []string{alice}, alice, alice, bob, func(w *world) { w.token.unplug(hsm.ErrAway) }, "451 4.7.5", 0, ""},
	} {
		w := newWorld(t)
		w.gate.Policy.Client = c.client
		mail := w.sealed(out, c.signer, c.seal...)
		if c.change != nil {
			c.change(w)
		}
		if strings.HasSuffix(c.name, "twice") {
			mail = w.sealed(mail, "", c.seal...)
		}
		e := w.envelope(c.from, c.to)
		e.User, e.Senders = c.user, []string{c.user}
		w.want(c.name, w.deliver(policy.Outbound, e, strings.NewReader(mail)), c.reply)
		w.clearOutside(c.name)
		if c.reply[0] != '2' {
			if len(w.hop.got) > 0 {
				t.Errorf("%s: something left", c.name)
			}
			continue
		}
		got := w.hop.got[0].mail
		if l := w.layer(got); l != c.layer {
			t.Errorf("%s: got layer %v, want %v\n%s", c.name, l, c.layer, got)
		}
		if c.sealed == "" {
			continue
		}
		text, finding, err := w.opened(got, c.sealed, alice)
		if err != nil || c.client == policy.ClientOpen && (!strings.Contains(text, "Marker-Text-7f3a") || !finding.Good) {
			t.Errorf("%s: %s reads %v, %+v\n%s", c.name, c.sealed, err, finding, text)
		}
	}
}

// clearOutside holds that no clear text left for anybody outside.
func (w *world) clearOutside(what string) {
	w.t.Helper()
	for _, d := range w.hop.got {
		for _, r := range d.env.Recipients {
			if r.Address.Domain != "company1.example" && strings.Contains(string(d.mail), "Marker-Text-7f3a") && w.layer(d.mail) == protect.None {
				w.t.Errorf("%s: %v got clear text", what, r.Address)
			}
		}
	}
}
