package filter

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/transport"
	"postern/hsm"
)

// Where a rule, the sender, an answer or the past ask for protection, and what
// it takes is missing, the mail is refused or waits; it never leaves in clear
// (R26).
func TestProtectionImpossible(t *testing.T) {
	const alice, bob, carol = "alice@company1.example", "bob@partner.example", "carol@other.example"
	asks := map[string]func(w *world, mail *string){
		"rule": func(w *world, _ *string) {
			w.gate.Policy.Recipients[bob], w.gate.Policy.Recipients[carol] = policy.Require, policy.Require
		},
		"tag": func(w *world, mail *string) {
			w.gate.Triggers = triggers
			*mail = strings.Replace(*mail, "Subject: ", "Subject: [encrypt] ", 1)
		},
		"field": func(w *world, mail *string) {
			w.gate.Triggers = triggers
			*mail = "X-Postern-Encrypt: yes\r\n" + *mail
		},
		"answer": func(w *world, mail *string) {
			w.remembers("", "7@partner.example")
			*mail = "In-Reply-To: <7@partner.example>\r\n" + *mail
		},
		"past": func(w *world, _ *string) {
			r := w.remembers(bob, "")
			if err := r.Protect(t.Context(), address(t, carol), noon); err != nil {
				t.Fatal(err)
			}
		},
	}
	faults := map[string]func(w *world){
		"certificate missing": func(w *world) { w.ring.partners = nil },
		"certificate expired": func(w *world) { w.gate.Now = func() time.Time { return noon.AddDate(5, 0, 0) } },
		"certificate distrusted": func(w *world) {
			for i := range w.ring.partners {
				w.ring.partners[i].Trust = keyring.Distrusted
			}
		},
		"certificate only seen": func(w *world) {
			for i := range w.ring.partners {
				w.ring.partners[i].Trust = keyring.Seen
			}
		},
		"identity missing": func(w *world) { w.ring.ours = nil },
		"token away":       func(w *world) { w.token.unplug(hsm.ErrAway) },
		"token locked":     func(w *world) { w.token.unplug(hsm.ErrLocked) },
		"keyring broken":   func(w *world) { w.ring.err = errors.New("disk gone") },
		"nobody seals":     func(w *world) { w.gate.Protectors = nil },
		"format unknown":   func(w *world) { w.gate.Policy.Formats = []keyring.Format{keyring.SMIME} },
	}
	for ask, prepare := range asks {
		for fault, spoil := range faults {
			for _, noKey := range []policy.NoKey{policy.NoKeyReject, policy.NoKeyDefer, policy.NoKeyTransport} {
				if noKey == policy.NoKeyDefer && ask != "rule" {
					continue
				}
				for _, to := range [][]string{{bob}, {bob, carol}} {
					w := newWorld(t)
					mail := out
					prepare(w, &mail)
					w.gate.Policy.NoKey = noKey
					spoil(w)
					what := fmt.Sprintf("%s, %s, %s, to %v", ask, fault, noKey, to)
					got := w.send(policy.Outbound, mail, alice, to...)
					if noKey == policy.NoKeyTransport && got.Code == 250 {
						for _, d := range w.hop.got { // by a safe way, which the sender of an answer and the past do not have
							if w.layer(d.mail) != protect.Sealed && (d.env.Floor != string(policy.Verify) || ask == "answer" || ask == "past") {
								t.Errorf("%s: got %v in clear, floor %q", what, d.env.Recipients, d.env.Floor)
							}
						}
						continue
					}
					if c := got.Code / 100; c != 4 && c != 5 && !onlySealed(w) {
						t.Errorf("%s: got %v", what, got)
					}
					w.clear(what)
				}
			}
		}
	}
}

func onlySealed(w *world) bool {
	for _, d := range w.hop.got {
		if w.layer(d.mail) != protect.Sealed {
			return false
		}
	}
	return true
}

// What goes by a safe way instead does not share a copy with what does not
// need one, and whoever has a certificate gets his sealed (R26).
func TestSafeWayInstead(t *testing.T) {
	const alice, bob, carol, dave = "alice@company1.example", "bob@partner.example", "carol@other.example", "x@free.example"
	w := newWorld(t)
	w.gate.Policy.Recipients[bob], w.gate.Policy.Recipients[carol] = policy.Require, policy.Require
	w.gate.Policy.NoKey = policy.NoKeyTransport
	w.want("split", w.send(policy.Outbound, out, alice, bob, carol, dave), "250 2.0.0")
	got := map[string]string{}
	for _, d := range w.hop.got {
		got[d.env.Recipients[0].Address.Key()] = fmt.Sprint(len(d.env.Recipients), w.layer(d.mail) == protect.Sealed, d.env.Floor)
	}
	for who, want := range map[string]string{bob: "1 true", carol: "1 falseverify", dave: "1 false"} {
		if strings.ReplaceAll(got[who], " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%s: got %q, want %q", who, got[who], want)
		}
	}
}

// Once mail to somebody was sealed, it never leaves in clear again: not when
// his certificate has gone; until an operator says so, or a rule does (R26).
func TestNoDowngrade(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	w := newWorld(t)
	r := w.remembers("", "")
	is := func(what, want string) {
		t.Helper()
		w.want(what, w.send(policy.Outbound, out, alice, bob), want)
	}
	known := w.ring.partners
	w.ring.partners = nil
	is("never sealed", "250 2.0.0")
	w.ring.partners = known
	w.hop.answers = append(w.hop.answers, func(*transport.Envelope) transport.Result { return transport.Result{Err: transport.ErrNextHop} })
	is("sealed, and not delivered", "451 4.4.1")
	if _, ok, _ := r.Protected(t.Context(), address(t, bob)); ok {
		t.Error("what was not delivered is remembered")
	}
	is("sealed", "250 2.0.0")
	if _, ok, err := r.Protected(t.Context(), address(t, bob)); !ok || err != nil {
		t.Errorf("what was delivered: got %v, %v", ok, err)
	}
	w.ring.partners, w.hop.got = nil, nil
	is("certificate gone", "550 5.7.3")
	w.gate.Policy.NoKey = policy.NoKeyTransport
	is("a safe way is less", "550 5.7.3")
	w.gate.Policy.Downgrade = policy.DowngradeDefer
	is("it may wait", "451 4.7.3")
	w.clear("after it was sealed once")
	w.gate.Policy.Downgrade = policy.DowngradeOff
	is("the site does not mind", "250 2.0.0")
	w.gate.Policy.Downgrade, w.gate.Policy.Recipients[bob] = "", policy.None
	is("a rule says none", "250 2.0.0")
	delete(w.gate.Policy.Recipients, bob)
	is("and not any more", "550 5.7.3")
	if known, err := r.Forget(t.Context(), address(t, bob)); !known || err != nil {
		t.Fatalf("forget: got %v, %v", known, err)
	}
	is("an operator has forgotten it", "250 2.0.0")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	is("the record cannot be read", "451 4.3.1")
}
