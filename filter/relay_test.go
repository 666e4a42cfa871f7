package filter

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/transport"
	"postern/hsm"
)

// out is a mail of alice, in is one of bob.
var (
	out = crlf("From: Alice <alice@company1.example>\nTo: bob@partner.example, carol@other.example\nSubject: out\nMessage-ID: <1@company1.example>\n\nMarker-Text-7f3a\n")
	in  = crlf("From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: in\nMessage-ID: <2@partner.example>\n\nMarker-Text-7f3a\n")
)

// clear holds that nothing left the gateway unprotected.
func (w *world) clear(what string) {
	w.t.Helper()
	for _, d := range w.hop.got {
		if strings.Contains(string(d.mail), "Marker-Text-7f3a") {
			w.t.Errorf("%s: the next hop got clear text", what)
		}
	}
}

// A mail that goes out as several copies and gets through in part is deferred;
// when its sender comes back nobody gets it twice, and nobody is forgotten.
func TestPartialDelivery(t *testing.T) {
	lost := func(*transport.Envelope) transport.Result {
		return transport.Result{Err: errors.New("connection lost")}
	}
	for _, c := range []struct {
		name    string
		answers []func(*transport.Envelope) transport.Result
		first   string
		want    []string // what the hop took in both tries
	}{
		{"second copy deferred", []func(*transport.Envelope) transport.Result{taken, answer(451)}, "451 4.1.1", []string{"bob@partner.example", "carol@other.example", "carol@other.example"}},
		{"second copy lost", []func(*transport.Envelope) transport.Result{taken, lost}, "451 4.3.0", []string{"bob@partner.example", "carol@other.example"}},
		{"first copy deferred", []func(*transport.Envelope) transport.Result{answer(450), taken}, "450 4.1.1", []string{"bob@partner.example", "carol@other.example", "bob@partner.example"}},
		{"first copy lost", []func(*transport.Envelope) transport.Result{lost}, "451 4.3.0", []string{"carol@other.example", "bob@partner.example"}},
	} {
		w := newWorld(t)
		w.hop.answers = c.answers
		w.want(c.name, w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "carol@other.example"), c.first)
		w.want(c.name+", again", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "carol@other.example"), "250 2.0.0")
		if got := w.hop.recipients(); !slices.Equal(got, c.want) {
			t.Errorf("%s: the hop got %q, want %q", c.name, got, c.want)
		}
		w.hop.got = nil
		w.want(c.name+", sent anew", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "carol@other.example"), "250 2.0.0")
		if got := w.hop.recipients(); len(got) != 2 {
			t.Errorf("%s: after it was through, a new mail went to %q, want both", c.name, got)
		}
	}
}

// Within one copy too: who is deferred comes back alone. Another mail of the
// same sender is another mail, whatever its Message-ID.
func TestPartialDeliveryWithinACopy(t *testing.T) {
	w := newWorld(t)
	w.hop.answers = []func(*transport.Envelope) transport.Result{answer(0, 452)}
	to := []string{"x@other.example", "y@other.example"}
	w.want("first try", w.send(policy.Outbound, out, "alice@company1.example", to...), "452 4.1.1")
	w.want("another mail", w.send(policy.Outbound, strings.Replace(out, "Subject: out", "Subject: new", 1), "alice@company1.example", to...), "250 2.0.0")
	w.want("second try", w.send(policy.Outbound, out, "alice@company1.example", to...), "250 2.0.0")
	want := []string{"x@other.example y@other.example", "x@other.example y@other.example", "y@other.example"}
	if got := w.hop.recipients(); !slices.Equal(got, want) {
		t.Errorf("the hop got %q, want %q", got, want)
	}
}

// One who may come back decides for all. A plain no is the sender's to hear, at
// once where nobody has a copy.
func TestMixedReplies(t *testing.T) {
	for _, c := range []struct {
		codes []int
		want  string
	}{
		{[]int{0, 550, 451}, "451 4.1.1"}, {[]int{451, 550, 0}, "451 4.1.1"}, {[]int{550, 0, 0}, "451 4.5.0"}, {[]int{550, 554, 550}, "550 5.1.1"},
		{[]int{421, 0, 0}, "451 4.1.1"}, {[]int{354, 0, 0}, "451 4.3.0"}, {[]int{0, 550, 354}, "451 4.3.0"},
		{[]int{0, 0}, "451 4.3.0"}, {[]int{}, "451 4.3.0"}, {[]int{0, 0, 0, 0}, "451 4.3.0"}, {[]int{0, 0, 0}, "250 2.0.0"},
	} {
		w := newWorld(t)
		w.hop.answers = []func(*transport.Envelope) transport.Result{answer(c.codes...)}
		w.want(fmt.Sprint(c.codes), w.send(policy.Outbound, out, "alice@company1.example", "x@other.example", "y@other.example", "z@other.example"), c.want)
	}
}

func TestRecipientNamedTwiceGetsOneMail(t *testing.T) {
	w := newWorld(t)
	w.want("twice", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "bob@partner.example"), "250 2.0.0")
	if got := w.hop.recipients(); !slices.Equal(got, []string{"bob@partner.example"}) {
		t.Errorf("the hop got %q, want bob once", got)
	}
}

// Without the token nothing leaves in clear, and nothing is refused for good;
// with it back the same mail passes.
func TestTokenAway(t *testing.T) {
	w := newWorld(t)
	inbound := w.sealed(in, "bob@partner.example", "alice@company1.example")
	for _, err := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrBusy, hsm.ErrBudget, hsm.ErrOpaque, hsm.ErrPIN} {
		w.token.unplug(fmt.Errorf("ask keyd: %w", err))
		w.want(err.Error()+", sign", w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example"), "451 4.7.5")
		w.want(err.Error()+", sign and seal", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.7.5")
		w.want(err.Error()+", unwrap", w.send(policy.Inbound, inbound, "bob@partner.example", "alice@company1.example"), "451 4.7.5")
	}
	for _, err := range []error{hsm.ErrNoKey, hsm.ErrRefused} {
		w.token.unplug(err)
		w.want(err.Error()+", sign", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.5")
		w.want(err.Error()+", unwrap", w.send(policy.Inbound, inbound, "bob@partner.example", "alice@company1.example"), "451 4.3.5")
	}
	w.token.unplug(errors.New("who knows"))
	if got := w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"); got.Code/100 != 4 {
		t.Errorf("unforeseen: got %v, want 4xx", got)
	}
	if len(w.hop.got) > 0 {
		t.Errorf("the hop got %q, want nothing", w.hop.recipients())
	}
	w.token.unplug(nil)
	w.want("back, out", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "250 2.0.0")
	w.want("back, in", w.send(policy.Inbound, inbound, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
}

// A keyring that cannot be read is not an empty one.
func TestKeyringAway(t *testing.T) {
	for _, err := range []error{keyring.ErrNoStore, errors.New("disk gone")} {
		w := newWorld(t)
		inbound := w.sealed(in, "bob@partner.example", "alice@company1.example")
		w.ring.err = err
		w.want("out", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.0")
		w.want("required", w.send(policy.Outbound, out, "alice@company1.example", "x@strict.example"), "451 4.3.0")
		w.want("in", w.send(policy.Inbound, inbound, "bob@partner.example", "alice@company1.example"), "451 4.3.0")
		if len(w.hop.got) > 0 {
			t.Errorf("%v: the hop got %q, want nothing", err, w.hop.recipients())
		}
	}
}

// A panic anywhere defers its mail, hurts no other, and prints nothing of it.
func TestPanic(t *testing.T) {
	w := newWorld(t)
	inbound := w.sealed(in, "bob@partner.example", "alice@company1.example")
	w.config.InFlight = 1 // a slot that is not given back is seen
	w.gate = New(w.config)
	for _, v := range []any{"Marker-Text-7f3a", errors.New("Marker-Text-7f3a"), io.EOF} {
		w.guard.detect = func(*message.Message) protect.Layer { panic(v) }
		w.want("detect", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.0")
		w.guard.detect = nil
		w.guard.seal = func(protect.SealRequest) (*message.Message, error) { panic(v) }
		w.want("seal", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.0")
		w.guard.seal = nil
		w.guard.open = func(protect.OpenRequest) (*message.Message, protect.Finding, error) {
			var none []byte
			_ = none[len(inbound)]
			panic(v)
		}
		w.want("open", w.send(policy.Inbound, inbound, "bob@partner.example", "alice@company1.example"), "451 4.3.0")
		w.guard.open = nil
	}
	if len(w.hop.got) > 0 || strings.Contains(w.log.String(), "Marker-Text-7f3a") {
		t.Errorf("the hop got %q; log: %s", w.hop.recipients(), w.log)
	}
	w.want("after it", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "250 2.0.0")
}

// More mails than the gateway takes at a time are deferred at once.
func TestTooManyInFlight(t *testing.T) {
	w := newWorld(t)
	w.config.InFlight = 1
	w.gate = New(w.config)
	busy, free := make(chan bool), make(chan bool)
	w.hop.answers = []func(*transport.Envelope) transport.Result{func(e *transport.Envelope) transport.Result {
		busy <- true
		<-free
		return taken(e)
	}}
	first := make(chan transport.Reply)
	go func() {
		e := w.envelope("alice@company1.example", "bob@partner.example")
		first <- w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Data(t.Context(), e, strings.NewReader(out))[0]
	}()
	<-busy
	w.want("second", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.2")
	free <- true
	w.want("first", <-first, "250 2.0.0")
	w.want("third", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "250 2.0.0")
}

// A sender who takes his time holds no place that others need.
func TestSlowSenderHoldsNoPlace(t *testing.T) {
	w := newWorld(t)
	w.config.InFlight = 1
	w.gate = New(w.config)
	body, sender := io.Pipe()
	slow := make(chan transport.Reply)
	go func() {
		e := w.envelope("alice@company1.example", "bob@partner.example")
		slow <- w.gate.Handler(Listener{Name: "test", Direction: policy.Outbound}).Data(t.Context(), e, body)[0]
	}()
	if _, err := io.WriteString(sender, out[:10]); err != nil { // taken: the mail is being read
		t.Fatal(err)
	}
	w.want("other", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "250 2.0.0")
	if _, err := io.WriteString(sender, out[10:]); err != nil {
		t.Fatal(err)
	}
	sender.Close()
	w.want("slow", <-slow, "250 2.0.0")
}

func TestMailsThatDoNotPass(t *testing.T) {
	received := func(n int) string { return strings.Repeat("Received: from a by b\r\n", n) + out }
	for _, c := range []struct {
		name      string
		direction policy.Direction
		mail      string
		to        string
		want      string
	}{
		{"oversize", policy.Outbound, out + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 70_000), "bob@partner.example", "552 5.3.4"},
		{"bare LF", policy.Outbound, out + "a\nb\r\n", "bob@partner.example", "554 5.6.0"},
		{"bare CR", policy.Outbound, out + "a\rb\r\n", "bob@partner.example", "554 5.6.0"},
		{"NUL", policy.Inbound, in + "a\x00b\r\n", "alice@company1.example", "554 5.6.0"},
		{"50 Received", policy.Outbound, received(50), "bob@partner.example", "250 2.0.0"},
		{"51 Received", policy.Outbound, received(51), "bob@partner.example", "554 5.4.6"},
		{"recipient not ours", policy.Inbound, in, "x@other.example", "550 5.7.1"},
		{"certificate required", policy.Outbound, out, "x@strict.example", "550 5.7.3"},
		{"two authors", policy.Outbound, "From: bob@partner.example\r\n" + out, "bob@partner.example", "550 5.7.1"},
		{"no direction", "", out, "bob@partner.example", "451 4.3.5"},
	} {
		w := newWorld(t)
		w.want(c.name, w.send(c.direction, c.mail, "alice@company1.example", c.to), c.want)
		if passed := len(w.hop.got) > 0; passed != strings.HasPrefix(c.want, "2") {
			t.Errorf("%s: passed on %v, want the opposite", c.name, passed)
		}
		w.clear(c.name)
	}
}

// A recipient who is refused at RCPT leaves the others be.
func TestRefusedRecipientAlone(t *testing.T) {
	w := newWorld(t)
	w.want("two of three", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "x@strict.example", "dave@freemail.example"), "250 2.0.0")
	for _, line := range w.hop.recipients() {
		if strings.Contains(line, "strict") {
			t.Errorf("the hop got %q", line)
		}
	}
	w.clear("two of three")
	// Where it was taken at RCPT and the certificate went before DATA, nothing goes.
	e := w.envelope("alice@company1.example", "bob@partner.example", "x@strict.example")
	w.hop.got = nil
	w.want("at DATA", w.gate.Handler(Listener{Direction: policy.Outbound}).Data(t.Context(), e, strings.NewReader(out))[0], "550 5.7.3")
	if len(w.hop.got) > 0 {
		t.Errorf("the hop got %q, want nothing", w.hop.recipients())
	}
}

// A peer outside of a listener's networks is refused before anything is done
// for it (R27).
func TestPeersThatMayNotSend(t *testing.T) {
	w := newWorld(t)
	h := w.gate.Handler(Listener{Name: "inside", Direction: policy.Outbound, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	e := w.envelope("alice@company1.example")
	to := transport.Recipient{Address: address(t, "bob@partner.example")}
	if err := h.Recipient(t.Context(), e, to); err == nil || err.(transport.Reply).Code != 550 {
		t.Errorf("192.0.2.7: got %v, want 550", err)
	}
	e.Client = netip.MustParseAddrPort("[::ffff:10.1.2.3]:99")
	if err := h.Recipient(t.Context(), e, to); err != nil {
		t.Errorf("10.1.2.3: got %v, want none", err)
	}
}

func TestMissingParts(t *testing.T) {
	w := newWorld(t)
	w.config.Hops = nil
	w.gate = New(w.config)
	w.want("no next hop", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.5")
	w = newWorld(t)
	w.ring.ours = nil
	w.want("no identity", w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), "451 4.3.5")
	w = newWorld(t)
	w.want("no recipient", w.gate.Handler(Listener{Direction: policy.Outbound}).Data(t.Context(), w.envelope("alice@company1.example"), strings.NewReader(out))[0], "451 4.3.0")
	w = newWorld(t)
	broken := io.MultiReader(strings.NewReader(out), failing{})
	w.want("sender gone", w.deliver(policy.Outbound, w.envelope("alice@company1.example", "bob@partner.example"), broken), "451 4.3.0")
	if len(w.hop.got) > 0 {
		t.Errorf("the hop got %q, want nothing", w.hop.recipients())
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The null sender stays null, and what the envelope asks for is passed on.
func TestEnvelopeIsKept(t *testing.T) {
	w := newWorld(t)
	bounce := crlf("From: Mailer <mailer-daemon@company1.example>\nTo: bob@partner.example\nAuto-Submitted: auto-replied\nSubject: bounce\n\nNo.\n")
	e := w.envelope("", "bob@partner.example")
	e.Return, e.ID, e.RequireTLS = "HDRS", "id=2B1", true
	e.Recipients[0].Notify, e.Recipients[0].Original = "NEVER", "rfc822;b=40x"
	w.want("null sender", w.deliver(policy.Outbound, e, strings.NewReader(bounce)), "250 2.0.0")
	if len(w.hop.got) != 1 {
		t.Fatalf("got %d mails, want 1", len(w.hop.got))
	}
	got := w.hop.got[0].env
	if !got.Null || !got.From.IsZero() || got.Return != "HDRS" || got.ID != "id=2B1" || !got.RequireTLS || got.Recipients[0].Notify != "NEVER" || got.Recipients[0].Original != "rfc822;b=40x" {
		t.Errorf("got %+v, want what came", got)
	}
	if got.Size != int64(len(w.hop.got[0].mail)) {
		t.Errorf("got size %d, want %d", got.Size, len(w.hop.got[0].mail))
	}
}

// Every copy is labelled by its own bytes: what is sealed or signed is 7-bit,
// and stays so on its way; 8-bit mail that we leave alone says so.
func TestBodyLabels(t *testing.T) {
	eight := strings.Replace(out, "Marker", "Märker", 1)
	eight = strings.Replace(eight, "Subject", "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nSubject", 1)
	for _, c := range []struct {
		name, mail, to, body, want string
		sign                       policy.Sign
	}{
		{"sealed, 8-bit", eight, "bob@partner.example", "8BITMIME", "7BIT", policy.SignAlways},
		{"signed, 8-bit", eight, "carol@other.example", "8BITMIME", "7BIT", policy.SignAlways},
		{"signed, label missing", eight, "carol@other.example", "", "", policy.SignAlways},
		{"plain, 8-bit", eight, "carol@other.example", "8BITMIME", "8BITMIME", policy.SignNever},
		{"plain, 8-bit, label wrong", eight, "carol@other.example", "7BIT", "8BITMIME", policy.SignNever},
		{"plain, 8-bit, label missing", eight, "carol@other.example", "", "8BITMIME", policy.SignNever},
		{"plain, 7-bit", out, "carol@other.example", "8BITMIME", "7BIT", policy.SignNever},
		{"plain, nothing said", out, "carol@other.example", "", "", policy.SignNever},
	} {
		w := newWorld(t)
		w.config.Policy.Domains["company1.example"] = c.sign
		e := w.envelope("alice@company1.example", c.to)
		e.Body = c.body
		w.want(c.name, w.deliver(policy.Outbound, e, strings.NewReader(c.mail)), "250 2.0.0")
		if len(w.hop.got) != 1 {
			t.Fatalf("%s: got %d mails, want 1", c.name, len(w.hop.got))
		}
		d := w.hop.got[0]
		eightBit := strings.ContainsFunc(string(d.mail), func(r rune) bool { return r > 127 })
		if d.env.Body != c.want || eightBit != (c.want == "8BITMIME") {
			t.Errorf("%s: got BODY=%q, 8-bit bytes %v, want %q", c.name, d.env.Body, eightBit, c.want)
		}
	}
}
