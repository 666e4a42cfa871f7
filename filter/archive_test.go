package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/dkim"
	"postern/filter/dmarc"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/record"
	"postern/filter/transport"
)

const vault = "archive@vault.example"

// archiving gives company1.example an archive with a hop of its own, whose key
// the gateway does not have. Its certificate is the keyring's first.
func (w *world) archiving(inbound, outbound bool) *hop {
	w.t.Helper()
	w.people[vault] = w.person(vault)
	w.ring.partners = append([]keyring.Cert{w.people[vault].Cert}, w.ring.partners...)
	w.config.Policy.Archives = map[string]policy.Archive{"company1.example": {
		Address: address(w.t, vault), Certs: []string{strings.ToLower(w.people[vault].Fingerprint)}, Inbound: inbound, Outbound: outbound}}
	h := &hop{}
	w.config.Archives = map[string]Hop{vault: h}
	w.gate.Archives = w.config.Archives
	return h
}

// kept opens what an archive got, as the archive does, and gives the mails inside.
func (w *world) kept(d delivery) (mails []string) {
	w.t.Helper()
	if got := w.layer(d.mail); got != protect.Sealed {
		w.t.Fatalf("got layer %v, want a sealed mail\n%s", got, d.mail)
	}
	text, finding, err := w.opened(d.mail, vault, "company1.example")
	if err != nil || !finding.Good {
		w.t.Fatalf("open the archive's copy: %v, signature good %v (%s)", err, finding.Good, finding.Reason)
	}
	m := parsed(w.t, []byte(text))
	for _, part := range m.Root.Parts {
		b, err := io.ReadAll(entity.Decoded(m.Source, part))
		if err != nil {
			w.t.Fatal(err)
		}
		mails = append(mails, string(b))
	}
	return mails
}

// facts are the fields on top of a kept mail, unfolded, and what stands below them.
func facts(t testing.TB, mail string) (fields []string, rest string) {
	t.Helper()
	m := parsed(t, []byte(mail))
	for _, f := range m.Root.Header[:3] {
		value, err := m.Value(f)
		if err != nil {
			t.Fatal(err)
		}
		fields = append(fields, f.Name+": "+strings.Join(strings.Fields(value), " "))
	}
	return fields, mail[m.Root.Header[2].Whole.End:]
}

// What an archive gets of a mail that came sealed: what its recipient was
// delivered, byte by byte, with its envelope; sealed, signed, under nobody's
// name, and before anybody else.
func TestArchiveOfOpenedMail(t *testing.T) {
	w := newWorld(t)
	h := w.archiving(true, true)
	w.record(record.Options{Now: w.config.Now, Keep: time.Hour})
	h.answers = []func(*transport.Envelope) transport.Result{func(e *transport.Envelope) transport.Result {
		if len(w.hop.got) > 0 {
			t.Error("somebody had his mail before the archive")
		}
		return taken(e)
	}}
	spoofed := strings.Replace(in, "Subject", "Postern-Archive: v=1; forged\r\nSubject", 1)
	e := w.envelope(bob, alice, "eve@company1.example")
	e.ID, e.Return, e.Body, e.RequireTLS = "id1", "HDRS", "8BITMIME", true
	e.Recipients[0].Notify = "SUCCESS"
	w.want("opened", w.deliver(policy.Inbound, e, strings.NewReader(w.sealed(spoofed, bob, alice, "company1.example"))), "250 2.0.0")
	if len(h.got) != 1 || len(w.hop.got) != 2 {
		t.Fatalf("got %d copies in the archive and %d delivered, want 1 and 2: each recipient has keys of his own\n%s", len(h.got), len(w.hop.got), w.log)
	}
	env := h.got[0].env
	if !env.Null || !env.From.IsZero() || env.ID != "" || env.Return != "" || env.RequireTLS || env.Body != "" || env.UTF8 ||
		len(env.Recipients) != 1 || env.Recipients[0].Address.Key() != vault || env.Recipients[0].Notify != "NEVER" {
		t.Errorf("got envelope %+v, want one of its own that nobody hears of", env)
	}
	if s := string(h.got[0].mail); strings.Contains(s, "Marker-Text") || strings.Contains(s, "bob@") || strings.Contains(s, "alice@") || strings.Contains(s, "2@partner") {
		t.Errorf("the copy tells in clear:\n%s", s)
	}
	mails := w.kept(h.got[0])
	if len(mails) != 1 {
		t.Fatalf("got %d mails in the copy, want the one form that both read", len(mails))
	}
	fields, rest := facts(t, mails[0])
	want := []string{
		"Postern-Archive: v=1; direction=inbound; time=2026-11-24T12:00:00Z; opened=openpgp; verified=yes; signer=bob@partner.example; reason=good; trace=" + traceID,
		"Postern-Archive-From: bob@partner.example", "Postern-Archive-To: alice@company1.example, eve@company1.example"}
	if !slices.Equal(fields, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(fields, "\n"), strings.Join(want, "\n"))
	}
	if rest != string(w.hop.got[0].mail) || rest != string(w.hop.got[1].mail) {
		t.Errorf("got\n%s\nwant what was delivered\n%s", rest, w.hop.got[0].mail)
	}
	if !strings.Contains(w.log.String(), `archived="[archive@vault.example 250 2.0.0 taken]"`) {
		t.Errorf("the log does not tell of it:\n%s", w.log)
	}
}

// Which mail an archive gets, and for whom.
func TestWhatIsArchived(t *testing.T) {
	eve, carol := "eve@company1.example", "carol@other.example"
	for _, c := range []struct {
		name    string
		mail    func(*world) string
		d       policy.Direction
		from    string
		to      []string
		in, out bool
		rule    func(*world)
		reply   string
		want    []string // fields of facts, without those that are the same in all
	}{
		{"in plain", func(*world) string { return in }, policy.Inbound, bob, []string{alice}, true, true, nil, "250", nil},
		{"signed only", func(w *world) string { return w.sealed(in, bob) }, policy.Inbound, bob, []string{alice}, true, true, nil, "250", nil},
		{"sealed, opened", func(w *world) string { return w.sealed(in, bob, alice) }, policy.Inbound, bob, []string{alice}, true, false, nil, "250", []string{"opened=openpgp; verified=yes", alice}},
		{"sealed, unsigned, null sender", func(w *world) string { return w.sealed(in, "", alice) }, policy.Inbound, "", []string{alice}, true, false, nil, "250", []string{"opened=openpgp; verified=no", alice}},
		{"sealed, not for us", func(w *world) string { return w.sealed(in, bob, "mallory@evil.example") }, policy.Inbound, bob, []string{alice}, true, false, nil, "250", []string{"opened=failed; verified=no", alice}},
		{"sealed for one of two", func(w *world) string { return w.sealed(in, bob, alice) }, policy.Inbound, bob, []string{alice, eve}, true, false,
			nil, "250", []string{"opened=openpgp; verified=yes", alice, "opened=failed; verified=no", eve}},
		{"sealed, outbound only is archived", func(w *world) string { return w.sealed(in, bob, alice) }, policy.Inbound, bob, []string{alice}, false, true, nil, "250", nil},
		{"to another domain of ours", func(w *world) string { return w.sealed(in, bob, alice) }, policy.Inbound, bob, []string{"x@company2.example"}, true, true,
			func(w *world) { w.config.Policy.Domains["company2.example"] = policy.SignNever }, "250", nil},
		{"out, sealed", func(*world) string { return out }, policy.Outbound, alice, []string{bob}, false, true, nil, "250", []string{"opened=none; verified=no", bob}},
		{"out, in clear", func(*world) string { return out }, policy.Outbound, alice, []string{carol}, true, true, nil, "250", nil},
		{"out, sealed for one of two", func(*world) string { return out }, policy.Outbound, alice, []string{carol, bob}, false, true, nil, "250", []string{"opened=none; verified=no", bob}},
		{"out, sealed, one is hidden", func(*world) string { return out }, policy.Outbound, alice, []string{bob, "dave@freemail.example"}, false, true, nil, "250",
			[]string{"opened=none; verified=no", bob + ", dave@freemail.example"}},
		{"out, sealed by her own program", func(w *world) string { return w.sealed(out, alice, bob) }, policy.Outbound, alice, []string{bob}, true, true, nil, "250", nil},
		{"out, inbound only is archived", func(*world) string { return out }, policy.Outbound, alice, []string{bob}, true, false, nil, "250", nil},
		{"out, to the archive itself", func(*world) string { return out }, policy.Outbound, alice, []string{"Archive@vault.example"}, true, true, nil, "250", nil},
		{"in shadow", func(w *world) string { return w.sealed(in, bob, alice) }, policy.Inbound, bob, []string{alice}, true, true,
			func(w *world) { w.config.Policy.Shadow = true }, "250", nil},
		{"not opened, and refused", func(w *world) string { return w.sealed(in, bob, "mallory@evil.example") }, policy.Inbound, bob, []string{alice}, true, true,
			func(w *world) { w.config.Policy.Undecryptable = policy.Reject }, "554", nil},
	} {
		w := newWorld(t)
		h := w.archiving(c.in, c.out)
		if c.rule != nil {
			c.rule(w)
		}
		w.want(c.name, w.send(c.d, c.mail(w), c.from, c.to...), map[string]string{"250": "250 2.0.0", "554": "554 5.7.5"}[c.reply])
		if (len(h.got) == 1) != (len(c.want) > 0) || len(h.got) > 1 {
			t.Errorf("%s: the archive got %d copies\n%s", c.name, len(h.got), w.log)
			continue
		}
		if len(c.want) == 0 {
			continue
		}
		if strings.Contains(string(h.got[0].mail), "Marker-Text") {
			t.Errorf("%s: the archive got clear text", c.name)
		}
		mails := w.kept(h.got[0])
		if len(mails) != len(c.want)/2 {
			t.Errorf("%s: got %d mails in the copy, want %d", c.name, len(mails), len(c.want)/2)
			continue
		}
		for i, mail := range mails {
			fields, rest := facts(t, mail)
			from := c.from
			if from == "" {
				from = "none"
			}
			if !strings.Contains(fields[0], "direction="+string(c.d)+"; ") || !strings.Contains(fields[0], "; "+c.want[2*i]+"; ") || fields[1] != "Postern-Archive-From: "+from || fields[2] != "Postern-Archive-To: "+c.want[2*i+1] {
				t.Errorf("%s: got %q, want %q", c.name, fields, c.want[2*i:2*i+2])
			}
			if strings.Contains(rest, "Marker-Text") == strings.Contains(fields[0], "opened=failed") {
				t.Errorf("%s: got\n%s\nwant it in clear where it was opened or not yet sealed", c.name, rest)
			}
		}
	}
}

// A mail stands in its archive byte by byte, whatever its bytes are.
func TestArchiveKeepsEveryByte(t *testing.T) {
	for name, body := range map[string]string{
		"as a message":      "plain\r\nlines\r\n",
		"blanks at the end": "-- \r\nme \t\r\n",
		"8-bit":             "M\xfcller\r\n",
		"a long line":       strings.Repeat("x", 5000) + "\r\n",
		"no line end":       "end",
		"From":              "From here\r\n.\r\n",
		"nothing":           "",
	} {
		w := newWorld(t)
		h := w.archiving(true, false)
		sealed := w.sealed(in, bob, alice)
		w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
			if r.Message.Root.Type != "multipart/encrypted" {
				return w.guard.Protector.Open(t.Context(), r)
			}
			mail := crlf("From: Bob <bob@partner.example>\nSubject: in\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/signed; boundary=s; protocol=\"application/pgp-signature\"\n\n--s\n\n") +
				body + crlf("\n--s\nContent-Type: application/pgp-signature\n\n\n--s--\n\n--b--\n")
			return parsed(t, []byte(mail)), protect.Finding{Format: keyring.OpenPGP, Opened: true, Reason: protect.ReasonNone}, nil
		}
		w.want(name, w.send(policy.Inbound, sealed, bob, alice), "250 2.0.0")
		if len(h.got) != 1 || len(w.hop.got) != 1 {
			t.Fatalf("%s: got %d in the archive, %d delivered, want one each\n%s", name, len(h.got), len(w.hop.got), w.log)
		}
		w.guard.open = nil
		if _, got := facts(t, w.kept(h.got[0])[0]); got != string(w.hop.got[0].mail) {
			t.Errorf("%s: got\n%q\nwant\n%q", name, got, w.hop.got[0].mail)
		}
	}
}

// An archive that does not take its copy keeps the mail from everybody, with
// 451 whatever it answers; and when the mail comes again nobody gets it twice,
// the archive neither.
func TestArchiveAway(t *testing.T) {
	away := func(*transport.Envelope) transport.Result {
		return transport.Result{Err: fmt.Errorf("dial: %w", transport.ErrNextHop)}
	}
	dies := func(*transport.Envelope) transport.Result { panic("the daemon dies here") }
	for _, c := range []struct {
		name           string
		archive, hop   []func(*transport.Envelope) transport.Result // answers, in turn
		without        bool
		replies        []string
		kept, delivers int
	}{
		{"away once", []func(*transport.Envelope) transport.Result{away}, nil, false, []string{"451 4.3.0", "250 2.0.0"}, 1, 1},
		{"full", []func(*transport.Envelope) transport.Result{answer(452), answer(552)}, nil, false, []string{"451 4.3.0", "451 4.3.0", "250 2.0.0"}, 1 + 2, 1},
		{"nobody there", []func(*transport.Envelope) transport.Result{func(*transport.Envelope) transport.Result {
			return transport.Result{Err: transport.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "nobody"}}
		}}, nil, false, []string{"451 4.3.0", "250 2.0.0"}, 1, 1},
		{"lost after the mail", []func(*transport.Envelope) transport.Result{func(*transport.Envelope) transport.Result {
			return transport.Result{Err: fmt.Errorf("hear: %w: %w", transport.ErrNextHop, transport.ErrLost)}
		}}, nil, false, []string{"451 4.3.0", "250 2.0.0"}, 1, 1},
		{"the recipient's hop is away", nil, []func(*transport.Envelope) transport.Result{away, away}, false, []string{"451 4.4.1", "451 4.4.1", "250 2.0.0"}, 1, 1},
		{"the daemon dies between both", nil, []func(*transport.Envelope) transport.Result{dies}, false, []string{"451 4.3.0", "250 2.0.0"}, 1, 1},
		{"the daemon dies before both", []func(*transport.Envelope) transport.Result{dies}, nil, false, []string{"451 4.3.0", "250 2.0.0"}, 1, 1},
		{"away, and mail goes without", []func(*transport.Envelope) transport.Result{away}, nil, true, []string{"250 2.0.0"}, 0, 1},
		{"refuses, and mail goes without", []func(*transport.Envelope) transport.Result{func(*transport.Envelope) transport.Result {
			return transport.Result{Err: transport.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "nobody"}}
		}}, nil, true, []string{"250 2.0.0"}, 0, 1},
		{"the recipient is refused", nil, []func(*transport.Envelope) transport.Result{answer(550)}, false, []string{"550 5.1.1"}, 1, 1},
	} {
		for _, d := range []policy.Direction{policy.Inbound, policy.Outbound} {
			w := newWorld(t)
			path := w.record(record.Options{Now: w.config.Now})
			h := w.archiving(true, true)
			a := w.config.Policy.Archives["company1.example"]
			a.Without = c.without
			w.config.Policy.Archives["company1.example"] = a
			mail, from, to := out, alice, bob
			if d == policy.Inbound {
				mail, from, to = w.sealed(in, bob, alice), bob, alice
			}
			h.answers, w.hop.answers = slices.Clone(c.archive), slices.Clone(c.hop)
			for i, want := range c.replies {
				w.want(fmt.Sprintf("%s, %s, try %d", c.name, d, i+1), w.send(d, mail, from, to), want)
				if want[0] == '4' && len(w.hop.got) > 0 {
					t.Errorf("%s, %s: somebody has a mail that is in no archive", c.name, d)
				}
				w.restart(path)
			}
			if len(h.got) != c.kept || len(w.hop.got) != c.delivers {
				t.Errorf("%s, %s: the archive got %d copies and the hop %d, want %d and %d\n%s", c.name, d, len(h.got), len(w.hop.got), c.kept, c.delivers, w.log)
			}
			if w.config.Record.Parted() {
				t.Errorf("%s, %s: something of it is still remembered", c.name, d)
			}
			if d == policy.Outbound {
				w.clear(c.name)
			}
		}
	}
}

// The sender of a mail that came sealed does not learn from an archive's trouble
// whether it could be opened (R1).
func TestArchiveTellsNothing(t *testing.T) {
	for name, trouble := range map[string]func(w *world, h *hop){
		"away": func(_ *world, h *hop) {
			h.answers = []func(*transport.Envelope) transport.Result{answer(450), answer(450)}
		},
		"no key": func(w *world, _ *hop) { w.ring.partners = w.ring.partners[1:] },
	} {
		w := newWorld(t)
		h := w.archiving(true, false)
		opens, not := w.sealed(in, bob, alice), w.sealed(in, bob, "mallory@evil.example")
		trouble(w, h)
		if a, b := w.send(policy.Inbound, opens, bob, alice), w.send(policy.Inbound, not, bob, alice); a != b || a.Code != 451 {
			t.Errorf("%s: got %v for what opens and %v for what does not, want one answer", name, a, b)
		}
		if len(w.hop.got) > 0 {
			t.Errorf("%s: the hop got a mail", name)
		}
	}
}

// A mail that must be archived waits while nothing can be sealed for the archive.
func TestNoArchive(t *testing.T) {
	change := func(f func(*keyring.Cert)) func(*world) {
		return func(w *world) { f(&w.ring.partners[0]) }
	}
	for name, trouble := range map[string]func(*world){
		"not known":  func(w *world) { w.ring.partners = w.ring.partners[1:] },
		"seen":       change(func(c *keyring.Cert) { c.Trust = keyring.Seen }),
		"distrusted": change(func(c *keyring.Cert) { c.Trust = keyring.Distrusted }),
		"another's":  change(func(c *keyring.Cert) { c.Addresses = []message.Address{{Local: "x", Domain: "vault.example"}} }),
		"another of the archive": func(w *world) {
			w.ring.partners[0] = w.person("old@vault.example").Cert
			w.ring.partners[0].Addresses = []message.Address{address(t, vault)}
		},
		"revoked": func(w *world) {
			w.gate.Revoked = func(_ context.Context, c keyring.Cert, _ time.Time) bool {
				return c.Fingerprint == w.people[vault].Fingerprint
			}
		},
		"expired": func(w *world) { w.gate.Now = func() time.Time { return made.AddDate(3, 0, 0) } },
		"ours":    func(w *world) { w.ring.ours = append(w.ring.ours, w.people[vault]) },
		"nobody signs": func(w *world) {
			w.guard.signs = func(i keyring.Identity) error {
				if i.Domain == "company1.example" {
					return errors.New("it is sealed to")
				}
				return nil
			}
		},
	} {
		for _, d := range []policy.Direction{policy.Inbound, policy.Outbound} {
			w := newWorld(t)
			h := w.archiving(true, true)
			mail, from, to := out, alice, bob
			if d == policy.Inbound {
				mail, from, to = w.sealed(in, bob, alice), bob, alice
			}
			trouble(w)
			if name == "expired" && d == policy.Outbound {
				continue // so has Alice's
			}
			w.want(fmt.Sprint(name, ", ", d), w.send(d, mail, from, to), "451 4.3.5")
			if len(h.got)+len(w.hop.got) > 0 || !strings.Contains(w.log.String(), "reason=no-archive") {
				t.Errorf("%s, %s: a mail went, or waits for something else\n%s", name, d, w.log)
			}
			if d == policy.Inbound {
				w.want(name+", in clear", w.send(d, in, from, to), "250 2.0.0")
			}
		}
	}
	w := newWorld(t)
	h := w.archiving(true, false)
	a := w.config.Policy.Archives["company1.example"]
	a.Certs = append([]string{strings.Repeat("A", 40)}, a.Certs...)
	w.config.Policy.Archives["company1.example"] = a
	w.want("the second certificate", w.send(policy.Inbound, w.sealed(in, bob, alice), bob, alice), "250 2.0.0")
	if len(h.got) != 1 {
		t.Errorf("got %d copies, want one to the second certificate", len(h.got))
	}
}

// An archive's copy that comes back is not archived again; what only says that
// it is one is. And where nobody remembers, going in circles ends.
func TestArchiveDoesNotLoop(t *testing.T) {
	w := newWorld(t)
	h := w.archiving(true, true)
	w.want("first", w.send(policy.Inbound, w.sealed(in, bob, alice), bob, alice), "250 2.0.0")
	back := string(h.got[0].mail)
	for name, to := range map[string]string{"to the archive": alice, "forwarded": "eve@company1.example"} {
		w.hop.got, h.got = nil, nil
		w.want(name, w.send(policy.Inbound, back, "", to), "250 2.0.0")
		if len(h.got) != 0 || len(w.hop.got) != 1 {
			t.Errorf("%s: the archive got %d copies and the hop %d, want none and one", name, len(h.got), len(w.hop.got))
		}
	}
	w.want("through us to the outside", w.send(policy.Outbound, back, "", vault), "250 2.0.0")
	if len(h.got) != 0 {
		t.Errorf("through us: the archive got %d copies, want none", len(h.got))
	}
	id := parsed(t, []byte(back)).Get("Message-ID")
	for name, mail := range map[string]string{
		"opens":       strings.Replace(w.sealed(in, bob, alice), "<2@partner.example>", id, 1),
		"trace id":    strings.Replace(w.sealed(in, bob, "mallory@evil.example"), "<2@partner.example>", "<"+traceID+".archive@"+gatewayName+">", 1),
		"unknown id":  strings.Replace(w.sealed(in, bob, "mallory@evil.example"), "<2@partner.example>", "<guessed.archive@"+gatewayName+">", 1),
		"a mail's id": w.sealed(in, bob, "mallory@evil.example"),
	} {
		h.got = nil
		w.want(name, w.send(policy.Inbound, mail, bob, alice), "250 2.0.0")
		if len(h.got) != 1 {
			t.Errorf("%s: the archive got %d copies, want one", name, len(h.got))
		}
	}
	w = newWorld(t)
	h = w.archiving(true, false)
	w.config.Record = nil
	mail := strings.Repeat("Received: by x\r\n", maxReceived-10) + w.sealed(in, bob, alice)
	for round := 0; ; round++ {
		w.gate = New(w.config)
		h.got = nil
		r := w.send(policy.Inbound, mail, "", alice)
		if r.Code == 554 && r.Enhanced == [3]int{5, 4, 6} {
			break
		}
		if round > 10 || r.Code != 250 || len(h.got) != 1 {
			t.Fatalf("round %d: got %v and %d copies, want an end", round, r, len(h.got))
		}
		mail = string(h.got[0].mail)
	}
}

// A mail that comes apart is archived once for each of its recipients; and again
// where it opens only in a later try.
func TestArchiveOfARepeatedMail(t *testing.T) {
	w := newWorld(t)
	h := w.archiving(true, false)
	mail := w.sealed(in, bob, alice, "company1.example")
	later := func(e *transport.Envelope) transport.Result { return answer(451)(e) }
	w.hop.answers = []func(*transport.Envelope) transport.Result{later, later, later}
	w.want("alice waits", w.send(policy.Inbound, mail, bob, alice), "451 4.1.1")
	w.want("eve waits, in a transaction of her own", w.send(policy.Inbound, mail, bob, "eve@company1.example"), "451 4.1.1")
	w.want("both", w.send(policy.Inbound, mail, bob, alice, "eve@company1.example"), "451 4.1.1")
	if len(h.got) != 2 {
		t.Errorf("the archive got %d copies, want one for each", len(h.got))
	}
	w = newWorld(t)
	h = w.archiving(true, false)
	mail = w.sealed(in, bob, alice)
	ours := w.ring.ours
	w.ring.ours = ours[1:]
	w.hop.answers = []func(*transport.Envelope) transport.Result{later}
	w.want("not opened, waits", w.send(policy.Inbound, mail, bob, alice), "451 4.1.1")
	w.ring.ours = ours
	w.want("opened", w.send(policy.Inbound, mail, bob, alice), "250 2.0.0")
	if len(h.got) != 2 || !strings.Contains(w.kept(h.got[1])[0], "Marker-Text") {
		t.Errorf("the archive got %d copies, want a second one with what was opened", len(h.got))
	}
}

// With LMTP each recipient hears of his own copy: what is not archived waits,
// and keeps no other one.
func TestArchiveByLMTP(t *testing.T) {
	w := newWorld(t)
	w.config.Policy.Domains["company2.example"] = policy.SignNever
	w.ring.ours = append(w.ring.ours, w.person("company2.example"))
	w.archiving(true, false)
	w.ring.partners = w.ring.partners[1:]
	e := w.envelope(bob, alice, "x@company2.example")
	e.LMTP = true
	var codes []int
	for _, r := range w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound}).Data(t.Context(), e, strings.NewReader(w.sealed(in, bob, alice))) {
		codes = append(codes, r.Code)
	}
	if got := w.hop.recipients(); fmt.Sprint(codes) != "[451 250]" || !slices.Equal(got, []string{"x@company2.example"}) {
		t.Errorf("got %v, and %q delivered, want 451 and 250", codes, got)
	}

	w = newWorld(t)
	w.config.Policy.Domains["company2.example"] = policy.SignNever
	h := w.archiving(true, false)
	mail := w.sealed(in, bob, alice)
	h.answers, w.hop.got = []func(*transport.Envelope) transport.Result{answer(552)}, nil
	for _, want := range []string{"[451 250]", "[250 250]"} {
		e := w.envelope(bob, alice, "x@company2.example")
		e.LMTP = true
		var codes []int
		for _, r := range w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound}).Data(t.Context(), e, strings.NewReader(mail)) {
			codes = append(codes, r.Code)
		}
		if fmt.Sprint(codes) != want {
			t.Errorf("archive away: got %v, want %s\n%s", codes, want, w.log)
		}
	}
	if got, want := w.hop.recipients(), []string{"x@company2.example", alice}; !slices.Equal(got, want) {
		t.Errorf("got %q delivered, want %q", got, want)
	}
}

// What goes to people without a certificate as a PDF leaves encrypted too, and
// the archive has the mail that is in it.
func TestArchiveOfAPDF(t *testing.T) {
	w := newWorld(t)
	w.prints()
	h := w.archiving(false, true)
	w.want("PDF", w.send(policy.Outbound, out, alice, "carol@other.example"), "250 2.0.0")
	if len(h.got) != 1 || len(w.hop.got) != 1 {
		t.Fatalf("got %d in the archive and %d delivered, want one each\n%s", len(h.got), len(w.hop.got), w.log)
	}
	fields, rest := facts(t, w.kept(h.got[0])[0])
	if fields[2] != "Postern-Archive-To: carol@other.example" || !strings.Contains(rest, "Marker-Text") {
		t.Errorf("got %q\n%s", fields, rest)
	}
}

// An archive's copy leaves with the signature of its domain where all mail of
// the domain does, and has no seal of what came.
func TestArchiveIsAttested(t *testing.T) {
	w := newWorld(t)
	z := w.attesting()
	h := w.archiving(true, false)
	w.gate.Origins = &dmarc.Checker{Names: z, Budget: time.Minute}
	w.want("opened", w.send(policy.Inbound, w.sealed(in, bob, alice), bob, alice), "250 2.0.0")
	m := parsed(t, h.got[0].mail)
	results, err := dkim.Verify(t.Context(), m, func(ctx context.Context, n string) ([]string, error) {
		a, err := z.TXT(ctx, n)
		return a.Found, err
	}, noon)
	if err != nil || len(results) == 0 || m.Count("ARC-Seal") != 0 {
		t.Fatalf("got %d signatures, %v, and %d seals", len(results), err, m.Count("ARC-Seal"))
	}
	for _, r := range results {
		if r.Value != dkim.Pass {
			t.Errorf("got %+v, want a signature that holds", r)
		}
	}
	if _, rest := facts(t, w.kept(h.got[0])[0]); rest != string(w.hop.got[0].mail) || !strings.Contains(rest, "ARC-Seal:") {
		t.Errorf("got\n%s\nwant what was delivered, with its seal", rest)
	}
}

// A record that can't be written archives nothing, and lets nothing go that has
// to be archived.
func TestArchiveWithoutARecord(t *testing.T) {
	w := newWorld(t)
	h := w.archiving(true, true)
	if err := w.config.Record.Close(); err != nil {
		t.Fatal(err)
	}
	w.want("closed", w.send(policy.Outbound, out, alice, bob), "451 4.3.1")
	if len(h.got)+len(w.hop.got) > 0 {
		t.Error("a mail went")
	}
}

// Process tells of an archive's copy as of any other one.
func TestProcessWithAnArchive(t *testing.T) {
	w := newWorld(t)
	w.archiving(true, true)
	o := w.gate.Process(t.Context(), Request{Direction: policy.Outbound, From: address(t, alice), To: []message.Address{address(t, bob)}, Mail: strings.NewReader(out)})
	defer o.Close()
	want := []VerdictPlan{
		{Format: "openpgp", Recipients: []string{bob}, Signed: true, Encrypted: true, Transport: "next-hop"},
		{Format: "openpgp", Recipients: []string{vault}, Signed: true, Encrypted: true, Transport: "next-hop", Archive: true},
	}
	if !slices.EqualFunc(o.Verdict.Plans, want, func(a, b VerdictPlan) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) || len(o.Copies) != 2 {
		t.Errorf("got plans %+v and %d copies, want %+v", o.Verdict.Plans, len(o.Copies), want)
	}
	var b bytes.Buffer
	if _, err := o.Copies[1].Message.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if fields, _ := facts(t, w.kept(delivery{mail: b.Bytes()})[0]); fields[2] != "Postern-Archive-To: "+bob {
		t.Errorf("got %q", fields)
	}
}
