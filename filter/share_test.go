package filter

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// restart is what a crash of the daemon leaves: the record's file.
func (w *world) restart(path string) {
	w.t.Helper()
	r, err := record.Open(path, record.Options{Now: w.config.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close() })
	w.config.Record = r
	w.gate = New(w.config)
}

// Who has his copy is known after a crash between two copies, and after one
// before the sender's answer (R36).
func TestCopiesAreRememberedOverARestart(t *testing.T) {
	w := newWorld(t)
	path := w.record(record.Options{Now: w.config.Now})
	to := []string{"bob@partner.example", "carol@other.example"}
	w.hop.answers = []func(*transport.Envelope) transport.Result{taken, func(*transport.Envelope) transport.Result { panic("the daemon dies here") }}
	w.want("dies", w.send(policy.Outbound, out, "alice@company1.example", to...), "451 4.3.0")
	w.restart(path)
	w.want("again", w.send(policy.Outbound, out, "alice@company1.example", to...), "250 2.0.0")
	if got, want := w.hop.recipients(), []string{"bob@partner.example", "carol@other.example"}; !slices.Equal(got, want) {
		t.Errorf("the hop got %q, want %q", got, want)
	}

	w.hop.got, w.hop.answers = nil, []func(*transport.Envelope) transport.Result{answer(0, 451)}
	to = []string{"x@other.example", "y@other.example"}
	w.want("in part", w.send(policy.Outbound, out, "alice@company1.example", to...), "451 4.1.1")
	w.restart(path)
	w.want("the rest alone", w.send(policy.Outbound, out, "alice@company1.example", to[1]), "250 2.0.0")
	w.want("the others alone", w.send(policy.Outbound, out, "alice@company1.example", to[0]), "250 2.0.0 delivered earlier")
	if got, want := w.hop.recipients(), []string{"x@other.example y@other.example", "y@other.example"}; !slices.Equal(got, want) {
		t.Errorf("the hop got %q, want %q", got, want)
	}
}

// A copy that goes several ways is remembered way by way (R36).
func TestWaysAreRememberedOverARestart(t *testing.T) {
	w := newWorld(t)
	path := w.record(record.Options{Now: w.config.Now})
	to := []string{"x@one.example", "y@two.example", "z@three.example"}
	gone := transport.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "nobody"}
	w.hop.answers = []func(*transport.Envelope) transport.Result{func(e *transport.Envelope) transport.Result {
		e.Heard(e.Recipients[1:2], []transport.Reply{{Code: 250, Text: "taken"}})
		e.Heard(e.Recipients[2:], []transport.Reply{gone})
		panic("the daemon dies here")
	}}
	w.want("dies", w.send(policy.Outbound, out, "alice@company1.example", to...), "451 4.3.0")
	w.restart(path)
	w.want("again, where z is refused at RCPT", w.send(policy.Outbound, out, "alice@company1.example", to...), "250 2.0.0")
	if got, want := w.hop.recipients(), []string{"x@one.example"}; !slices.Equal(got, want) {
		t.Errorf("the hop got %q, want %q", got, want)
	}
	if !strings.Contains(w.log.String(), `to=z@three.example reply=550 error="refused before: 550 5.1.1 nobody"`) {
		t.Errorf("z was not refused at RCPT:\n%s", w.log)
	}

	// Where all are refused the sender hears that at once, and nothing is left of it.
	w.hop.answers = []func(*transport.Envelope) transport.Result{answer(550), answer(554)}
	w.want("all refused", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "v@one.example"), "550 5.1.1")
	w.want("all refused, another mail", w.send(policy.Outbound, strings.Replace(out, "Subject: out", "Subject: new", 1), "alice@company1.example", "bob@partner.example", "v@one.example"), "250 2.0.0")
}

// A mail that gets its Message-ID here is the same mail when it comes again.
func TestCopiesOfASubmission(t *testing.T) {
	w := newWorld(t)
	bare := strings.Replace(out, "Message-ID: <1@company1.example>\r\n", "", 1)
	w.hop.answers = []func(*transport.Envelope) transport.Result{answer(0, 451)}
	for _, want := range []string{"451 4.1.1", "250 2.0.0"} {
		e := w.envelope("alice@company1.example", "x@other.example", "y@other.example")
		e.User, e.Senders = "alice", []string{"alice@company1.example"}
		w.want(want, w.deliver(policy.Outbound, e, strings.NewReader(bare)), want)
	}
	if got, want := w.hop.recipients(), []string{"x@other.example y@other.example", "y@other.example"}; !slices.Equal(got, want) || !strings.Contains(string(w.hop.got[0].mail), "Message-ID:") {
		t.Errorf("the hop got %q, want %q\n%s", got, want, w.hop.got[0].mail)
	}
}

// Where one recipient is taken and another refused for good, SMTP has no answer
// that is true for both. The sender is asked to come back, and is refused the
// second one at RCPT; the first one gets no second copy.
func TestRefusedAndTaken(t *testing.T) {
	w := newWorld(t)
	path := w.record(record.Options{Now: w.config.Now})
	send := func(size int64, to ...string) (rcpt []string, data transport.Reply) {
		e := w.envelope("alice@company1.example", to...)
		e.Size = size
		for _, r := range e.Recipients {
			one := *e
			one.Recipients = nil
			if err := w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Recipient(t.Context(), &one, r); err != nil {
				rcpt = append(rcpt, r.Address.Key()+" "+err.Error())
			}
		}
		return rcpt, w.deliver(policy.Outbound, e, strings.NewReader(out))
	}
	for _, c := range []struct {
		name    string
		answers []func(*transport.Envelope) transport.Result
		to      []string
		hop     []string
	}{
		{"one copy", []func(*transport.Envelope) transport.Result{answer(0, 550)}, []string{"x@other.example", "y@other.example"}, []string{"x@other.example y@other.example"}},
		{"two copies", []func(*transport.Envelope) transport.Result{taken, answer(550)}, []string{"bob@partner.example", "y@other.example"}, []string{"bob@partner.example", "y@other.example"}},
	} {
		w.hop.got, w.hop.answers = nil, c.answers
		w.want(c.name+", first try", w.send(policy.Outbound, out, "alice@company1.example", c.to...), "451 4.5.0")
		w.restart(path)
		e := w.envelope("alice@company1.example", c.to...)
		h := w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound})
		first, second := e.Recipients[0], e.Recipients[1]
		e.Recipients = nil
		if err := h.Recipient(t.Context(), e, first); err != nil {
			t.Errorf("%s: who has his copy: got %v", c.name, err)
		}
		if err := h.Recipient(t.Context(), e, second); err == nil || !strings.HasPrefix(err.Error(), "550 5.1.1 said the next hop "+traceID) {
			t.Errorf("%s: who was refused: got %v, want the next hop's own reply", c.name, err)
		}
		e.Recipients = append(e.Recipients, first)
		w.want(c.name+", second try", h.Data(t.Context(), e, strings.NewReader(out))[0], "250 2.0.0 delivered earlier")
		if got := w.hop.recipients(); !slices.Equal(got, c.hop) {
			t.Errorf("%s: the hop got %q, want %q", c.name, got, c.hop)
		}
		w.want(c.name+", another mail to who was refused", w.send(policy.Outbound, out, "alice@company1.example", c.to[1]), "550 5.1.1")
		w.want(c.name+", a third one", w.send(policy.Outbound, strings.Replace(out, "Subject: out", "Subject: new", 1), "alice@company1.example", c.to[1]), "250 2.0.0")
	}

	// A sender that comes back with another envelope hears of it after the mail,
	// and nobody gets a second copy.
	w.hop.got, w.hop.answers = nil, []func(*transport.Envelope) transport.Result{answer(0, 554)}
	if _, r := send(100, "v@other.example", "w@other.example"); r.Code != 451 {
		t.Errorf("first try: got %v, want 451", r)
	}
	if rcpt, r := send(200, "v@other.example", "w@other.example"); len(rcpt) > 0 || r.Code != 554 {
		t.Errorf("second try: got %q, %v, want 554 after the mail", rcpt, r)
	}
	if got, want := w.hop.recipients(), []string{"v@other.example w@other.example"}; !slices.Equal(got, want) {
		t.Errorf("the hop got %q, want %q", got, want)
	}
}

// A record that can't be written lets no copy go of a mail that may part; mail
// that can't part passes. It works again when the record does.
func TestBrokenRecordFailsClosed(t *testing.T) {
	w := newWorld(t)
	path := w.record(record.Options{Now: w.config.Now})
	to := []string{"bob@partner.example", "carol@other.example"}
	foreign, err := record.OpenForeign(path) // as when the disk is full: it can be read
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	w.config.Record = foreign
	w.gate = New(w.config)
	w.want("two copies", w.send(policy.Outbound, out, "alice@company1.example", to...), "451 4.3.1")
	if got := w.hop.recipients(); len(got) > 0 {
		t.Errorf("the hop got %q, want nothing", got)
	}
	w.want("one recipient", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "250 2.0.0")
	w.restart(path)
	w.hop.got = nil
	w.want("back", w.send(policy.Outbound, out, "alice@company1.example", to...), "250 2.0.0")
	if got := w.hop.recipients(); len(got) != 2 {
		t.Errorf("the hop got %q, want both", got)
	}
}

// With LMTP a rule that one recipient does not fulfil keeps the mail from no
// other; with SMTP nobody gets it, and the sender is told so.
func TestARuleForOneRecipient(t *testing.T) {
	for _, c := range []struct {
		lmtp bool
		want string
		hop  []string
	}{
		{true, "250 550 250", []string{"bob@partner.example", "dave@freemail.example"}},
		{false, "550", nil},
	} {
		w := newWorld(t)
		w.gate.Triggers = []Trigger{{Tag: "[encrypt]", Asks: policy.Asks{Encrypt: true}}}
		e := w.envelope("alice@company1.example", "bob@partner.example", "carol@other.example", "dave@freemail.example")
		e.LMTP = c.lmtp
		out := strings.Replace(out, "Subject: ", "Subject: [encrypt] ", 1)
		var codes []string
		for _, r := range w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Data(t.Context(), e, strings.NewReader(out)) {
			codes = append(codes, fmt.Sprint(r.Code))
		}
		if got := strings.Join(codes, " "); got != c.want {
			t.Errorf("LMTP %v: got %s, want %s\n%s", c.lmtp, got, c.want, w.log)
		}
		if got := w.hop.recipients(); !slices.Equal(got, c.hop) {
			t.Errorf("LMTP %v: the hop got %q, want %q", c.lmtp, got, c.hop)
		}
		w.clear("LMTP")
	}
	w := newWorld(t)
	w.config.Policy.Undecryptable = policy.Reject
	sealed := w.sealed(in, "bob@partner.example", "alice@company1.example")
	w.ring.ours = w.ring.ours[:1] // Alice's own keys only
	var codes []int
	e := w.envelope("bob@partner.example", "alice@company1.example", "eve@company1.example")
	e.LMTP = true
	for _, r := range w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound}).Data(t.Context(), e, strings.NewReader(sealed)) {
		codes = append(codes, r.Code)
	}
	if got := w.hop.recipients(); fmt.Sprint(codes) != "[250 554]" || !slices.Equal(got, []string{"alice@company1.example"}) {
		t.Errorf("who can't open: got %v, %q, want 250 and 554", codes, got)
	}
}

// With LMTP each recipient hears what became of his copy, whatever became of the
// others', and who has his is no reason to come back.
func TestEachRecipientHisAnswer(t *testing.T) {
	w := newWorld(t)
	w.config.Record = nil // also where nothing is remembered
	for _, rec := range []bool{false, true} {
		if rec {
			w.record(record.Options{Now: w.config.Now})
		}
		w.gate = New(w.config)
		e := w.envelope("alice@company1.example", "bob@partner.example", "x@other.example", "y@other.example", "bob@partner.example", "z@other.example")
		e.LMTP = true
		w.hop.got, w.hop.answers = nil, []func(*transport.Envelope) transport.Result{taken, answer(550, 0, 421)}
		var got []string
		for _, r := range w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Data(t.Context(), e, strings.NewReader(out)) {
			got = append(got, r.String())
		}
		want := []string{"250 2.0.0 taken", "550 5.1.1 said the next hop", "250 2.0.0 taken", "250 2.0.0 taken", "451 4.1.1 said the next hop"}
		for i := range want {
			want[i] += " " + traceID
		}
		if !slices.Equal(got, want) {
			t.Errorf("record %v: got %q, want %q", rec, got, want)
		}
		w.hop.got = nil
		again := w.envelope("alice@company1.example", "z@other.example")
		again.LMTP = true
		w.want(fmt.Sprintf("record %v, who waits comes back", rec), w.deliver(policy.Outbound, again, strings.NewReader(out)), "250 2.0.0 taken")
		if got := w.hop.recipients(); !slices.Equal(got, []string{"z@other.example"}) {
			t.Errorf("record %v: the hop got %q, want z", rec, got)
		}
	}
}
