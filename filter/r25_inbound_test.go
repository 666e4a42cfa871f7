package filter

import (
	"crypto/tls"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/transport"
)

// R25, inbound: what was agreed with a partner is asked of whoever brings his
// mail, at MAIL already, by the sender's domain and by the client's names.
func TestInboundDemands(t *testing.T) {
	pin := [32]byte{7}
	ways := map[string]policy.Way{
		"forced.example": {Inbound: policy.Demand{TLS: true}},
		"recent.example": {Inbound: policy.Demand{TLS: true, Min: tls.VersionTLS13}},
		"pinned.example": {Inbound: policy.Demand{TLS: true, Pins: [][32]byte{{1}, pin}}},
		"bücher.example": {Inbound: policy.Demand{TLS: true, Pins: [][32]byte{pin}}},
		"open.example":   {},
	}
	in12, in13 := &tls.ConnectionState{Version: tls.VersionTLS12}, &tls.ConnectionState{Version: tls.VersionTLS13}
	shown := func(names ...string) transport.ClientCert {
		return transport.ClientCert{Pin: pin, Known: true, Names: names}
	}
	for _, c := range []struct {
		name, from, hello string
		tls               *tls.ConnectionState
		cert              transport.ClientCert
		want              string // "" passes
	}{
		{"nobody's, in clear", "a@other.example", "mx.other.example", nil, transport.ClientCert{}, ""},
		{"a partner's without demands", "a@open.example", "mx.open.example", nil, transport.ClientCert{}, ""},
		{"forced, in clear", "a@forced.example", "mx.example", nil, transport.ClientCert{}, "530 5.7.0"},
		{"forced, in TLS", "a@forced.example", "mx.example", in12, transport.ClientCert{}, ""},
		{"forced by the client's word, null sender", "", "mx.forced.example", nil, transport.ClientCert{}, "530 5.7.0"},
		{"forced by the client's word, another's sender", "a@other.example", "MX.Forced.Example", nil, transport.ClientCert{}, "530 5.7.0"},
		{"null sender of nobody", "", "[192.0.2.7]", nil, transport.ClientCert{}, ""},
		{"too old", "a@recent.example", "mx.example", in12, transport.ClientCert{}, "550 5.7.1"},
		{"new enough", "a@recent.example", "mx.example", in13, transport.ClientCert{}, ""},
		{"pinned, in clear", "a@pinned.example", "mx.pinned.example", nil, transport.ClientCert{}, "530 5.7.0"},
		{"pinned, no certificate", "a@pinned.example", "mx.pinned.example", in13, transport.ClientCert{}, "550 5.7.1"},
		{"pinned, another key", "a@pinned.example", "mx.pinned.example", in13, transport.ClientCert{Pin: [32]byte{9}, Known: true}, "550 5.7.1"},
		{"pinned, his key", "a@pinned.example", "mx.pinned.example", in13, transport.ClientCert{Pin: pin}, ""},
		{"null sender, certificate names him, another key", "", "x.example", in13, transport.ClientCert{Pin: [32]byte{9}, Known: true, Names: []string{"mx.pinned.example"}}, "550 5.7.1"},
		{"null sender, certificate names him", "", "x.example", in13, shown("mx.pinned.example"), ""},
		{"certificate in A-labels", "", "x.example", in13, transport.ClientCert{Pin: [32]byte{9}, Known: true, Names: []string{"*.xn--bcher-kva.example"}}, "550 5.7.1"},
		{"one partner's client, another's sender", "a@recent.example", "mx.pinned.example", in12, shown("mx.pinned.example"), "550 5.7.1"},
	} {
		w := newWorld(t)
		w.gate.Policy.Ways = ways
		e := w.envelope(c.from)
		e.Hello, e.TLS, e.Cert = c.hello, c.tls, c.cert
		h := w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound})
		got := ""
		if err := h.Sender(t.Context(), e); err != nil {
			got = err.Error()
		}
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		// Whoever goes on all the same is refused at each later step.
		e.Recipients = nil
		all := w.envelope(c.from, "alice@company1.example").Recipients
		if err := h.Recipient(t.Context(), e, all[0]); (err != nil) != (c.want != "") {
			t.Errorf("%s: RCPT got %v, want the answer of MAIL", c.name, err)
		}
		e.Recipients = all
		if r := h.Data(t.Context(), e, strings.NewReader(in))[0]; (r.Code/100 != 2) != (c.want != "") {
			t.Errorf("%s: DATA got %v, want the answer of MAIL", c.name, r)
		}
		if c.want != "" && len(w.hop.recipients()) > 0 {
			t.Errorf("%s: a mail went on", c.name)
		}
	}
	w := newWorld(t)
	w.gate.Policy.Ways = ways
	if err := w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Sender(t.Context(), w.envelope("a@forced.example")); err != nil {
		t.Errorf("outbound: got %v, want no demand", err)
	}
	o := w.gate.Process(t.Context(), Request{Direction: policy.Inbound, From: address(t, "a@forced.example"), To: nil, Mail: strings.NewReader(in)})
	defer o.Close()
	if strings.HasPrefix(o.Verdict.Reply, "530") {
		t.Errorf("process: got %s, want nothing asked of nobody", o.Verdict.Reply)
	}
}
