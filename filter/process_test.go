package filter

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/hsm"
)

// TestVerdict holds the decision object of `postern process --json`: scripts
// outside this code read it.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name   string
		mail   func(*world) string
		change func(*world)
		d      policy.Direction
		to     []string
		want   string
	}{
		{"opened and verified", func(w *world) string { return w.sealed(in, "bob@partner.example", "alice@company1.example") }, nil, policy.Inbound, []string{"alice@company1.example"},
			`{"action":"relay","reply":"250 2.0.0 would be relayed ID","opened":["openpgp"],"open_error":"","verified":true,"signer":"bob@partner.example","reason":"good","rule":"inbound",` +
				`"plans":[{"format":"none","recipients":["alice@company1.example"],"signed":false,"encrypted":false,"transport":"next-hop"}],"trace":"ID"}`},
		{"not opened", func(w *world) string { return w.sealed(in, "bob@partner.example", "mallory@evil.example") }, nil, policy.Inbound, []string{"alice@company1.example"},
			`{"action":"relay","reply":"250 2.0.0 would be relayed ID","opened":[],"open_error":"not-opened","verified":false,"signer":"","reason":"not-opened","rule":"undecryptable",` +
				`"plans":[{"format":"none","recipients":["alice@company1.example"],"signed":false,"encrypted":false,"transport":"next-hop"}],"trace":"ID"}`},
		{"sealed for one, signed for the other", func(*world) string { return out }, nil, policy.Outbound, []string{"bob@partner.example", "carol@other.example"},
			`{"action":"relay","reply":"250 2.0.0 would be relayed ID","opened":[],"open_error":"","verified":false,"signer":"","reason":"sealed","rule":"default",` +
				`"plans":[{"format":"openpgp","recipients":["bob@partner.example"],"signed":true,"encrypted":true,"transport":"next-hop"},` +
				`{"format":"openpgp","recipients":["carol@other.example"],"signed":true,"encrypted":false,"transport":"next-hop"}],"trace":"ID"}`},
		{"required", func(*world) string { return out }, nil, policy.Outbound, []string{"x@strict.example"},
			`{"action":"reject","reply":"550 5.7.3 not sent: this mail must be encrypted, and no valid certificate of its recipient is known; ask your IT desk to import one ID","opened":[],"open_error":"","verified":false,"signer":"","reason":"no-cert","rule":"partner.\"strict.example\"","plans":[],"trace":"ID"}`},
		{"not ours", func(*world) string { return in }, nil, policy.Inbound, []string{"x@elsewhere.example"},
			`{"action":"reject","reply":"550 5.7.1 refused by policy ID","opened":[],"open_error":"","verified":false,"signer":"","reason":"not-ours","rule":"domain","plans":[],"trace":"ID"}`},
		{"loop", func(*world) string { return strings.Repeat("Received: by x\r\n", 51) + in }, nil, policy.Inbound, []string{"alice@company1.example"},
			`{"action":"reject","reply":"554 5.4.6 mail loop ID","opened":[],"open_error":"","verified":false,"signer":"","reason":"loop","rule":"","plans":[],"trace":"ID"}`},
		{"token away", func(*world) string { return out }, func(w *world) { w.token.unplug(hsm.ErrAway) }, policy.Outbound, []string{"bob@partner.example"},
			`{"action":"defer","reply":"451 4.7.5 cryptographic service not available, try again later ID","opened":[],"open_error":"","verified":false,"signer":"","reason":"token-away","rule":"default",` +
				`"plans":[{"format":"openpgp","recipients":["bob@partner.example"],"signed":true,"encrypted":true,"transport":"next-hop"}],"trace":"ID"}`},
	} {
		w := newWorld(t)
		mail := c.mail(w)
		if c.change != nil {
			c.change(w)
		}
		r := Request{Direction: c.d, From: address(t, "alice@company1.example"), Mail: strings.NewReader(mail)}
		for _, a := range c.to {
			r.To = append(r.To, address(t, a))
		}
		o := w.gate.Process(t.Context(), r)
		b, err := json.Marshal(o.Verdict)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(string(b), o.Verdict.Trace, "ID"); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
		if o.Verdict.Action == "relay" && len(o.Copies) != len(o.Verdict.Plans) {
			t.Errorf("%s: got %d copies for %d plans", c.name, len(o.Copies), len(o.Verdict.Plans))
		}
		if len(o.Explain) < 2 {
			t.Errorf("%s: got %q, want sentences", c.name, o.Explain)
		}
		if len(w.hop.got) > 0 {
			t.Errorf("%s: process relayed a mail", c.name)
		}
		o.Close()
	}
}

// The time of judgement may be another: then the certificate was not yet made,
// or is no longer valid.
func TestVerdictAtAnotherTime(t *testing.T) {
	w := newWorld(t)
	mail := w.sealed(in, "bob@partner.example", "alice@company1.example")
	for at, want := range map[int]bool{2026: true, 2030: false} {
		o := w.gate.Process(t.Context(), Request{Direction: policy.Inbound, From: address(t, "bob@partner.example"), To: []message.Address{address(t, "alice@company1.example")},
			At: noon.AddDate(at-2026, 0, 0), Mail: strings.NewReader(mail)})
		if v := o.Verdict; v.Verified != want || len(v.Opened) != 1 {
			t.Errorf("%d: got %+v, want opened, verified %v", at, v, want)
		}
		o.Close()
	}
}

// Explain names the rule, the keys and the reason, in sentences.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	bob, domain := w.people["bob@partner.example"].Fingerprint, w.people["alice@company1.example"].Fingerprint
	for _, c := range []struct {
		name, mail string
		d          policy.Direction
		to         string
		want       []string
	}{
		{"sealed", out, policy.Outbound, "bob@partner.example", []string{"Certificates for bob@partner.example: openpgp " + bob + ".", "signed with the openpgp identity " + domain, "signed and encrypted, goes to bob@partner.example", "The rule that decided: default."}},
		{"no certificate", out, policy.Outbound, "carol@other.example", []string{"Certificates for carol@other.example: none that is trusted and valid now.", "signed, not encrypted, goes to"}},
		{"required", out, policy.Outbound, "x@strict.example", []string{`The rule that decided: partner."strict.example".`, "would not be relayed now", "Import a certificate of the recipient"}},
		{"no author", "Subject: x\r\n\r\n", policy.Outbound, "bob@partner.example", []string{"does not name exactly one address"}},
		{"opened", w.sealed(in, "bob@partner.example", "alice@company1.example"), policy.Inbound, "alice@company1.example", []string{"It arrived encrypted (openpgp).", "It was opened. Verified: true (good).", "One copy, opened, goes to alice@company1.example."}},
		{"not opened", w.sealed(in, "bob@partner.example", "mallory@evil.example"), policy.Inbound, "alice@company1.example", []string{"It could not be opened", "as it came"}},
		{"signed", w.sealed(in, "bob@partner.example"), policy.Inbound, "alice@company1.example", []string{"It arrived signed (openpgp).", "Its signature was checked. Verified: true (good)."}},
		{"plain", in, policy.Inbound, "alice@company1.example", []string{"from the null sender", "It arrived without protection."}},
	} {
		o := w.gate.Process(t.Context(), Request{Direction: c.d, To: []message.Address{address(t, c.to)}, Mail: strings.NewReader(c.mail)})
		got := strings.Join(o.Explain, "\n")
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: got\n%s\nwant %q in it", c.name, got, want)
			}
		}
		o.Close()
	}
}

// Who reads along, what a rule rests on that no person has said, and what to do
// where somebody who must cannot read along, is told.
func TestExplainEscrowAndSeen(t *testing.T) {
	const archive = "archive@company1.example"
	w := newWorld(t)
	w.people[archive] = w.person(archive)
	w.ring.ours = append([]keyring.Identity{w.people[archive]}, w.ring.ours...)
	w.ring.partners[0].Trust = keyring.Seen
	w.gate.Judge = func(context.Context, keyring.Cert, message.Address, time.Time) error { return nil }
	explain := func() string {
		o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, To: []message.Address{address(t, "bob@partner.example")}, Mail: strings.NewReader(out)})
		defer o.Close()
		return strings.Join(o.Explain, "\n")
	}
	for entry, want := range map[string][]string{
		archive: {"Certificates for bob@partner.example: openpgp " + w.people["bob@partner.example"].Fingerprint + " (it arrived by itself, and is good by its path).",
			"It can also be read by our own openpgp certificate " + w.people[archive].Fingerprint + "."},
		strings.Repeat("A", 40): {`The rule that decided: domain."company1.example".`, "Add an identity of that format and kind of key for an entry of escrow"},
	} {
		w.gate.Policy.Escrow = map[string]policy.Escrow{"company1.example": {entry}}
		got := explain()
		for _, line := range want {
			if !strings.Contains(got, line) {
				t.Errorf("escrow %s: got\n%s\nwant %q in it", entry, got, line)
			}
		}
	}
}

// What is asked of the way to the recipients stands in the decision, and is told.
func TestExplainTransport(t *testing.T) {
	w := newWorld(t)
	w.gate.Policy.Ways = map[string]policy.Way{"partner.example": {Level: policy.DANEOnly}}
	w.gate.Policy.DefaultWay = policy.Way{Level: policy.NextHop}
	for to, want := range map[string]policy.Level{"bob@partner.example": policy.DANEOnly, "carol@other.example": policy.NextHop} {
		o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, From: address(t, "alice@company1.example"), To: []message.Address{address(t, to)}, Mail: strings.NewReader(out)})
		told := strings.Contains(strings.Join(o.Explain, "\n"), "Its way to the recipients' servers: "+string(want)+", as `postern route DOMAIN` explains.")
		if len(o.Verdict.Plans) != 1 || o.Verdict.Plans[0].Transport != string(want) || told != (want != policy.NextHop) {
			t.Errorf("%s: got %+v\n%s\nwant %s", to, o.Verdict, strings.Join(o.Explain, "\n"), want)
		}
		o.Close()
	}
}
