package filter

import (
	"fmt"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/transport"
)

// What the next hop says of a mail that came sealed is heard outside without
// its words (R28): it may quote what was opened. What did not open is answered
// alike, or the words would tell it (R1); of a readable mail they pass.
func TestRepliesQuoteNothingOpened(t *testing.T) {
	const quoted = `content rejected: "Marker-Text-7f3a" in <in>`
	said := func(code int) transport.Reply {
		return transport.Reply{Code: code, Enhanced: [3]int{code / 100, 7, 1}, Text: quoted}
	}
	w := newWorld(t)
	for name, mail := range map[string]string{
		"opened":             w.sealed(in, "bob@partner.example", "alice@company1.example"),
		"opened, not signed": w.sealed(in, "", "alice@company1.example"),
		"not opened":         w.sealed(in, "bob@partner.example", "mallory@evil.example"),
		"signed":             w.sealed(in, "bob@partner.example"),
		"plain":              in,
	} {
		for _, code := range []int{250, 451, 554} {
			for how, res := range map[string]transport.Result{
				"to the mail":      {Replies: []transport.Reply{said(code)}},
				"to the envelope":  {Err: said(code)},
				"wrapped by a hop": {Err: fmt.Errorf("deliver: %w", said(code))},
			} {
				if code == 250 && res.Err != nil {
					continue
				}
				w.hop.answers = []func(*transport.Envelope) transport.Result{func(*transport.Envelope) transport.Result { return res }}
				w.log.Reset()
				got := w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example").String()
				want := fmt.Sprintf("%d %d.7.1 next hop does not take it %s", code, code/100, traceID)
				switch {
				case name == "signed" || name == "plain":
					want = fmt.Sprintf("%d %d.7.1 %s %s", code, code/100, quoted, traceID)
				case code == 250:
					want = "250 2.7.1 taken " + traceID
				}
				if got != want {
					t.Errorf("%s, %s: got %q, want %q", name, how, got, want)
				}
				if strings.Contains(want, "Marker") != strings.Contains(w.log.String(), "Marker") {
					t.Errorf("%s, %s: the log quotes it:\n%s", name, how, w.log)
				}
			}
		}
	}
}

// Nothing else than the one mail to its recipients leaves, however it ends: no
// bounce is made here, with or without what was opened (R28, R1).
func TestNothingGoesBack(t *testing.T) {
	w := newWorld(t)
	w.config.Policy.Undecryptable = policy.Reject
	outside := &hop{}
	w.config.Hops[policy.Outbound] = outside
	w.gate = New(w.config)
	for _, mail := range []string{w.sealed(in, "bob@partner.example", "alice@company1.example"), w.sealed(in, "", "mallory@evil.example"), in} {
		for _, code := range []int{0, 451, 554} {
			w.hop.got, w.hop.answers = nil, []func(*transport.Envelope) transport.Result{answer(code)}
			w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example")
			for _, d := range append(w.hop.got, outside.got...) {
				if len(d.env.Recipients) != 1 || d.env.Recipients[0].Address.Key() != "alice@company1.example" || d.env.From.Key() != "bob@partner.example" {
					t.Errorf("answer %d: got a mail from %v to %v", code, d.env.From, d.env.Recipients)
				}
			}
			if len(w.hop.got) > 1 || len(outside.got) > 0 {
				t.Errorf("answer %d: got %d mails inside and %d outside, want one at most", code, len(w.hop.got), len(outside.got))
			}
		}
	}
}
