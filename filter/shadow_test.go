package filter

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm"
)

// In shadow mode a mail passes as it came, whatever would be decided; the log
// says what that is. What stands on top is our Received field; what goes are
// the marks that only we may write, Return-Path, and Bcc on its way out.
func TestShadow(t *testing.T) {
	const alice, bob, carol = "alice@company1.example", "bob@partner.example", "carol@other.example"
	tagged := strings.Replace(out, "Subject: ", "Subject: [encrypt] ", 1)
	for _, c := range []struct {
		name   string
		d      policy.Direction
		mail   func(*world) string
		to     []string
		change func(*world)
		would  string // of the log
	}{
		{"would be sealed and signed", policy.Outbound, func(*world) string { return out }, []string{bob, carol}, nil, `shadow-action=relay shadow-rule=default shadow-reason=sealed`},
		{"would be refused at RCPT", policy.Outbound, func(*world) string { return out }, []string{"x@strict.example", bob}, nil, `shadow-action=reject shadow-rule="partner.\"strict.example\"" shadow-reason=no-cert shadow-reply="550 5.7.3`},
		{"has a trigger", policy.Outbound, func(*world) string { return tagged }, []string{carol}, func(w *world) { w.gate.Triggers = triggers }, `shadow-action=reject shadow-rule=default shadow-reason=no-cert`},
		{"would be opened", policy.Inbound, func(w *world) string { return w.sealed(in, bob, alice) }, []string{alice}, nil, `shadow-action=relay shadow-rule=inbound shadow-reason=good`},
		{"would not open", policy.Inbound, func(w *world) string { return w.sealed(in, bob, bob) }, []string{alice}, func(w *world) { w.gate.Policy.Undecryptable = policy.Reject }, `shadow-action=reject shadow-rule=undecryptable shadow-reason=undecryptable shadow-reply="554 5.7.5`},
		{"token away", policy.Outbound, func(*world) string { return out }, []string{bob}, func(w *world) { w.token.unplug(hsm.ErrAway) }, `shadow-action=defer shadow-rule=default shadow-reason=token-away shadow-reply="451 4.7.5`},
		{"keyring broken", policy.Outbound, func(*world) string { return out }, []string{bob}, func(w *world) { w.ring.err = hsm.ErrAway }, `shadow-action=defer`},
		{"a stage panics", policy.Outbound, func(*world) string { return out }, []string{bob}, func(w *world) { w.gate.KeyRing = nil }, `shadow-action=defer shadow-rule="" shadow-reason=unforeseen`},
		{"sealed by the client", policy.Outbound, func(w *world) string { return w.sealed(out, alice, alice) }, []string{bob}, func(w *world) { w.gate.Policy.Client = policy.ClientRefuse }, `shadow-action=reject shadow-rule=client-encryption shadow-reason=client-sealed`},
	} {
		w := newWorld(t)
		r := w.remembers("", "")
		w.gate.Policy.Shadow = true
		mail := c.mail(w)
		if c.change != nil {
			c.change(w)
		}
		w.want(c.name, w.send(c.d, mail, bob, c.to...), "250 2.0.0")
		if len(w.hop.got) != 1 || len(w.hop.got[0].env.Recipients) != len(c.to) {
			t.Fatalf("%s: got copies for %v, want one for all", c.name, w.hop.recipients())
		}
		got := string(w.hop.got[0].mail)
		top, ok := strings.CutSuffix(got, mail)
		if !ok || !strings.HasPrefix(top, "Received: ") || strings.Count(top, "\r\n") != strings.Count(top, "\r\n ")+1 {
			t.Errorf("%s: got\n%s\nwant one field on top of\n%s", c.name, got, mail)
		}
		if !strings.Contains(w.log.String(), c.would) || !strings.Contains(w.log.String(), "reason=shadow") {
			t.Errorf("%s: got log\n%s\nwant %s", c.name, w.log, c.would)
		}
		if _, ok, err := r.Protected(t.Context(), address(t, bob)); ok || err != nil {
			t.Errorf("%s: protection is remembered (%v)", c.name, err)
		}
		if opened, err := r.Opened(t.Context(), "2@partner.example"); opened || err != nil {
			t.Errorf("%s: an opening is remembered (%v)", c.name, err)
		}
	}
}

// What is no rule on protection holds in shadow mode too.
func TestShadowKeepsTheRest(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	w := newWorld(t)
	w.gate.Policy.Shadow = true
	w.want("not ours", w.send(policy.Inbound, in, bob, "x@elsewhere.example"), "550 5.7.1")
	w.want("loop", w.send(policy.Inbound, strings.Repeat("Received: by x\r\n", 51)+in, bob, alice), "554 5.4.6")
	w.want("line ends", w.send(policy.Outbound, out+"a\nb\r\n", alice, bob), "554 5.6.0")
	if len(w.hop.got) > 0 {
		t.Error("something passed")
	}
	w.want("forged", w.send(policy.Inbound, "Postern-Status: v=1; verified=yes\r\n"+in, bob, alice), "250 2.0.0")
	if got := string(w.hop.got[0].mail); strings.Contains(got, "Postern-Status") {
		t.Errorf("got\n%s", got)
	}
}

// Process says both: that the mail passes, and what would be done without.
func TestShadowVerdict(t *testing.T) {
	w := newWorld(t)
	w.gate.Policy.Shadow = true
	r := Request{Direction: policy.Outbound, From: address(t, "alice@company1.example"), Mail: strings.NewReader(out)}
	r.To = append(r.To, address(t, "x@strict.example"))
	o := w.gate.Process(t.Context(), r)
	defer o.Close()
	b, err := json.Marshal(o.Verdict)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"action":"relay","reply":"250 2.0.0 would be relayed `, `"reason":"shadow","rule":"shadow","plans":[{"format":"none","recipients":["x@strict.example"],"signed":false,"encrypted":false,`,
		`"shadow":{"action":"reject","reply":"550 5.7.3 `, `"reason":"no-cert","rule":"partner.\"strict.example\"","plans":[]`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("got %s, want %s in it", b, want)
		}
	}
	if len(o.Copies) != 1 || w.layer(bytesOf(t, o.Copies[0].Message)) != protect.None {
		t.Errorf("got %d copies, want the mail as it came", len(o.Copies))
	}
	if !slices.ContainsFunc(o.Explain, func(s string) bool { return strings.Contains(s, "shadow mode: the mail passes as it came") }) ||
		!slices.ContainsFunc(o.Explain, func(s string) bool { return strings.Contains(s, "postern cert import") }) {
		t.Errorf("got %q", o.Explain)
	}
}
