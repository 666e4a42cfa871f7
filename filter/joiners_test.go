package filter

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// joined are the joiners that the world's gateway remembers.
func (w *world) joined() (list []string) {
	w.t.Helper()
	w.gate.Idle()
	all, err := w.gate.Record.Joiners(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, j := range all {
		word := "gets"
		if j.Sends {
			word = "sends"
		}
		list = append(list, word+" "+j.Address.Key())
	}
	return list
}

// Who of a domain that wants it has no certificate of his own is noted at his
// first mail: once the next hop has it, and by no name that a stranger has made up.
func TestJoiners(t *testing.T) {
	const bob, carol = "bob@partner.example", "carol@company1.example"
	network := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, c := range []struct {
		name     string
		word     Joiners
		listener Listener
		from, to string // of the envelope; addresses with spaces between
		author   string
		change   func(*world, *transport.Envelope)
		want     []string
	}{
		{"sends", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, carol, nil, []string{"sends carol@company1.example"}},
		{"sends, in capitals", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, "Carol <CAROL@Company1.Example>", nil, []string{"sends carol@company1.example"}},
		{"sends, logged in", JoinersReceive, Listener{Direction: policy.Outbound, Login: true}, carol, bob, carol,
			func(_ *world, e *transport.Envelope) {
				e.User, e.Senders = "carol", []string{carol}
			}, []string{"sends carol@company1.example"}},
		{"sends where everybody may", JoinersSend, Listener{Direction: policy.Outbound}, carol, bob, carol, nil, nil},
		{"sends, and has a certificate", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, "alice@company1.example", bob, "alice@company1.example", nil, nil},
		{"sends as a stranger", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, "mallory@evil.example", nil, nil},
		{"sends as two", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, carol + ", dan@company1.example", nil, nil},
		{"sends, and nobody takes it", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, carol,
			func(w *world, _ *transport.Envelope) { w.hop.answers = append(w.hop.answers, answer(550)) }, nil},
		{"sends, and it waits", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, carol,
			func(w *world, _ *transport.Envelope) { w.hop.answers = append(w.hop.answers, answer(451)) }, nil},
		{"sends under a sub-address", JoinersSend, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, "carol+list@company1.example", nil, nil},
		{"nobody wants to know", NoJoiners, Listener{Direction: policy.Outbound, Allow: network}, carol, bob, carol, nil, nil},

		{"gets", JoinersReceive, Listener{Direction: policy.Inbound}, bob, carol + " alice@company1.example", bob, nil, []string{"gets carol@company1.example"}},
		{"gets, where senders count", JoinersSend, Listener{Direction: policy.Inbound}, bob, carol, bob, nil, nil},
		{"is not there", JoinersReceive, Listener{Direction: policy.Inbound}, bob, carol + " dan@company1.example", bob,
			func(w *world, _ *transport.Envelope) { w.hop.answers = append(w.hop.answers, answer(550, 0)) }, []string{"gets dan@company1.example"}},
		{"waits", JoinersReceive, Listener{Direction: policy.Inbound}, bob, carol, bob,
			func(w *world, _ *transport.Envelope) { w.hop.answers = append(w.hop.answers, answer(451)) }, nil},
		{"a bounce", JoinersReceive, Listener{Direction: policy.Inbound}, "", carol, bob, nil, nil},
		{"a sub-address", JoinersReceive, Listener{Direction: policy.Inbound}, bob, "carol+1@company1.example carol+2@company1.example", bob, nil, nil},
		{"From one of ours, from outside", JoinersReceive, Listener{Direction: policy.Inbound}, bob, "alice@company1.example", carol, nil, nil},
	} {
		w := newWorld(t)
		w.gate.Joiners = map[string]Joiners{"company1.example": c.word}
		e := w.envelope(c.from)
		for _, a := range strings.Fields(c.to) {
			e.Recipients = append(e.Recipients, transport.Recipient{Address: address(t, a)})
		}
		if c.change != nil {
			c.change(w, e)
		}
		h := w.gate.Handler(c.listener)
		h.Data(t.Context(), e, strings.NewReader(crlf("From: "+c.author+"\nTo: "+strings.ReplaceAll(c.to, " ", ", ")+"\nSubject: s\n\nHello.\n")))
		if got := w.joined(); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q\n%s", c.name, got, c.want, w.log)
		}
	}
}

// Whoever floods the gateway with names that the next hop takes gets a few of
// them noted in an hour, and keeps out nobody who sends; and whoever has a
// certificate by then is forgotten.
func TestJoinersAreBounded(t *testing.T) {
	w := newWorld(t)
	now := noon
	w.gate.Now = func() time.Time { return now }
	w.gate.Joiners = map[string]Joiners{"company1.example": JoinersReceive}
	flood := func(name string) {
		for n := range 3 {
			e := w.envelope("mallory@evil.example")
			for i := range 100 {
				e.Recipients = append(e.Recipients, transport.Recipient{Address: address(t, fmt.Sprintf("%s-%d-%d@company1.example", name, n, i))})
			}
			h := w.gate.Handler(Listener{Name: "outside", Direction: policy.Inbound})
			w.want(name, h.Data(t.Context(), e, strings.NewReader(crlf("From: mallory@evil.example\nTo: x@company1.example\n\nx\n")))[0], "250 2.0.0 taken")
		}
	}
	flood("first")
	if got := w.joined(); len(got) != joinersWhoGet {
		t.Errorf("got %d noted, want %d", len(got), joinersWhoGet)
	}
	if !strings.Contains(w.log.String(), "in an hour") {
		t.Errorf("the log does not tell of it:\n%s", w.log)
	}
	inside := Listener{Name: "inside", Direction: policy.Outbound, Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	send := func() {
		h := w.gate.Handler(inside)
		h.Data(t.Context(), w.envelope("carol@company1.example", "bob@partner.example"), strings.NewReader(crlf("From: carol@company1.example\nTo: bob@partner.example\n\nx\n")))
	}
	send()
	if got := w.joined(); len(got) != joinersWhoGet+1 || got[0] != "sends carol@company1.example" {
		t.Errorf("got %d noted, the first %q, want carol first", len(got), got[0])
	}
	now = now.Add(time.Hour)
	flood("second")
	if got := w.joined(); len(got) != 2*joinersWhoGet+1 {
		t.Errorf("an hour later: got %d noted, want %d", len(got), 2*joinersWhoGet+1)
	}
	w.ring.ours = append(w.ring.ours, w.person("carol@company1.example"))
	send()
	if got := w.joined(); slices.Contains(got, "sends carol@company1.example") {
		t.Error("carol has a certificate, and is still noted")
	}
}

// A record that cannot be written costs a joiner, and no mail.
func TestJoinersHoldUpNoMail(t *testing.T) {
	w := newWorld(t)
	r, err := record.Open(filepath.Join(t.TempDir(), "record.db"), record.Options{Now: w.config.Now})
	if err != nil {
		t.Fatal(err)
	}
	w.gate.Joiners, w.gate.Record = map[string]Joiners{"company1.example": JoinersReceive}, r
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.want("a closed record", w.send(policy.Inbound, crlf("From: bob@partner.example\nTo: carol@company1.example\n\nx\n"), "bob@partner.example", "carol@company1.example"), "250 2.0.0 taken")
	w.gate.Idle()
	if !strings.Contains(w.log.String(), "msg=learn") || !strings.Contains(w.log.String(), "joiner=carol@company1.example") {
		t.Errorf("the log does not tell of it:\n%s", w.log)
	}
}
