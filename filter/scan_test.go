package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/scan"
	"postern/filter/transport"
)

// What the scanner of these tests finds.
const (
	virus = "Marker-Virus-7f3a"
	spam  = "Marker-Spam-7f3a"
	odd   = "Marker-Odd-7f3a"
)

// scanner finds markers, and keeps what it was shown.
type scanner struct {
	name  string
	err   error
	shown []scan.Mail
	texts []string
}

func (s *scanner) Name() string { return s.name }

func (s *scanner) Alive(context.Context) error { return s.err }

func (s *scanner) Scan(_ context.Context, m scan.Mail) (scan.Answer, error) {
	var b bytes.Buffer
	if n, err := m.Body.WriteTo(&b); err != nil || n != m.Size {
		return scan.Answer{}, fmt.Errorf("%d bytes, %d announced: %w", n, m.Size, err)
	}
	s.shown, s.texts = append(s.shown, m), append(s.texts, b.String())
	a := scan.Answer{Score: "1.0/15.0", Fields: []scan.Field{{Name: "X-Spam-Level", Value: "*"}}}
	for _, f := range []struct {
		mark string
		v    scan.Verdict
	}{{odd, scan.Mark}, {spam, scan.Defer}, {virus, scan.Reject}} {
		if strings.Contains(b.String(), f.mark) {
			a.Verdict, a.Found = f.v, []string{f.mark}
		}
	}
	return a, s.err
}

// scanned puts a scanner into the world.
func (w *world) scanned(s *scanner) *scanner {
	if s.name == "" {
		s.name = "clamd"
	}
	w.config.Scan = &scan.Desk{Budget: time.Minute, Fields: []string{"X-Spam-Level"}, Log: slog.New(slog.DiscardHandler),
		Posts: []scan.Post{{Scanner: s, Inbound: true, Outbound: true, Timeout: time.Minute, MaxSize: 1 << 20}}}
	w.gate = New(w.config)
	return s
}

const (
	alice = "alice@company1.example"
	bob   = "bob@partner.example"
)

// A virus inside a sealed mail is refused after it was opened; the same mail
// for somebody whose key is not here passes sealed, and marked so. Both at once
// get what each would get alone.
func TestVirusInsideSealedMail(t *testing.T) {
	mail := strings.Replace(in, "Marker-Text-7f3a", virus, 1)
	w := newWorld(t)
	s := w.scanned(&scanner{})
	sealed := w.sealed(mail, bob, alice)
	w.want("opened", w.send(policy.Inbound, sealed, bob, alice), "550 5.7.1")
	if len(w.hop.got) != 0 || len(s.texts) != 1 || !strings.Contains(s.texts[0], virus) {
		t.Fatalf("got %d mails delivered, and shown %q", len(w.hop.got), s.texts)
	}
	if log := w.log.String(); !strings.Contains(log, "reason=virus") || !strings.Contains(log, "refused "+virus) {
		t.Errorf("got log %s", log)
	}
	w.want("not opened", w.send(policy.Inbound, w.sealed(mail, bob, "dave@freemail.example"), bob, alice), "250 2.0.0")
	if got := string(w.hop.got[0].mail); !strings.Contains(got, "Postern-Scan: v=1; scanned=no; verdict=none; by=none; found=none; score=none;\r\n reason=sealed; trace="+traceID) || strings.Contains(got, "X-Spam-Level") {
		t.Errorf("not opened: got\n%s", got)
	}
	if len(s.texts) != 2 {
		t.Errorf("the scanner was asked %d times, want for what does not open too", len(s.texts))
	}

	// Both, in one mail: a key of the domain opens for carol, none for alice.
	w = newWorld(t)
	w.scanned(&scanner{})
	w.ring.ours = w.ring.ours[:1] // alice's own only
	both := w.sealed(mail, bob, alice)
	const carol = "carol@company1.example"
	w.want("both", w.send(policy.Inbound, both, bob, alice, carol), "451 4.5.0")
	if got := w.hop.recipients(); len(got) != 1 || got[0] != carol || strings.Contains(string(w.hop.got[0].mail), virus) || !strings.Contains(string(w.hop.got[0].mail), "scanned=no") {
		t.Fatalf("both: got %v", got)
	}
	h := w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound})
	err := h.Recipient(t.Context(), w.envelope(bob), transport.Recipient{Address: address(t, alice)})
	if r := (transport.Reply{}); !errors.As(err, &r) || r.Code != 550 {
		t.Errorf("when the sender comes back: got %v at RCPT, want 550", err)
	}
	o := w.gate.Process(t.Context(), Request{Direction: policy.Inbound, From: address(t, bob), To: []message.Address{address(t, alice), address(t, carol)}, Mail: strings.NewReader(both)})
	if len(o.Copies) != 1 || len(o.Verdict.Plans) != 1 || o.Verdict.Plans[0].Recipients[0] != carol {
		t.Errorf("process: got %d copies, %+v, want carol's", len(o.Copies), o.Verdict.Plans)
	}
	o.Close()
	w.want("carol again", w.send(policy.Inbound, both, bob, carol), "250 2.0.0")
	if len(w.hop.got) != 1 {
		t.Errorf("carol got her mail twice")
	}
}

// With LMTP each hears of his own.
func TestVirusForOneWithLMTP(t *testing.T) {
	w := newWorld(t)
	w.scanned(&scanner{})
	w.ring.ours = w.ring.ours[:1]
	e := w.envelope(bob, alice, "carol@company1.example")
	e.LMTP = true
	h := w.gate.Handler(Listener{Name: "test", Direction: policy.Inbound})
	answers := h.Data(t.Context(), e, strings.NewReader(w.sealed(strings.Replace(in, "Marker-Text-7f3a", virus, 1), bob, alice)))
	if len(answers) != 2 || answers[0].Code != 550 || answers[1].Code != 250 {
		t.Errorf("got %v, want 550 and 250", answers)
	}
}

// Every verdict, in both directions, of mail that is not sealed; and what is
// told of it.
func TestVerdictsOfScanners(t *testing.T) {
	for _, c := range []struct {
		name, mark, by string
		d              policy.Direction
		want, told     string
	}{
		{"clean", "", "clamd", policy.Inbound, "250 2.0.0", "scanned=yes; verdict=clean; by=clamd; found=none; score=1.0/15.0; reason=none"},
		{"marked", odd, "rspamd", policy.Inbound, "250 2.0.0", "scanned=yes; verdict=suspect; by=rspamd; found=" + odd},
		{"later", spam, "rspamd", policy.Inbound, "451 4.7.1", ""},
		{"virus", virus, "clamd", policy.Inbound, "550 5.7.1", ""},
		{"spam", virus, "rspamd", policy.Inbound, "550 5.7.1", ""},
		{"outbound, clean", "", "clamd", policy.Outbound, "250 2.0.0", ""},
		{"outbound, virus", virus, "clamd", policy.Outbound, "550 5.7.1", ""},
	} {
		w := newWorld(t)
		s := w.scanned(&scanner{name: c.by})
		mail, from, to := in, bob, alice
		if c.d == policy.Outbound {
			mail, from, to = out, alice, bob
		}
		mail = "X-Spam-Level: none\r\nPostern-Scan: v=1; scanned=yes; verdict=clean\r\n" + strings.Replace(mail, "Marker-Text-7f3a", "Marker-Text-7f3a "+c.mark, 1)
		w.want(c.name, w.send(c.d, mail, from, to), c.want)
		if len(s.shown) != 1 || s.shown[0].From != from || s.shown[0].To[0] != to || s.shown[0].Hello != "client.example" || s.shown[0].Client.String() != "192.0.2.7" || s.shown[0].Outbound != (c.d == policy.Outbound) {
			t.Errorf("%s: the scanner was told %+v", c.name, s.shown)
		}
		if !strings.Contains(s.texts[0], "Marker-Text-7f3a") {
			t.Errorf("%s: the scanner was shown\n%s\nwant it in clear", c.name, s.texts[0])
		}
		if c.want[0] != '2' {
			if len(w.hop.got) > 0 {
				t.Errorf("%s: it was delivered", c.name)
			}
			continue
		}
		got := string(w.hop.got[0].mail)
		if c.d == policy.Outbound {
			if w.layer(w.hop.got[0].mail) != protect.Sealed || strings.Contains(got, "Postern-Scan") {
				t.Errorf("%s: got\n%s\nwant it sealed, without marks", c.name, got)
			}
			continue
		}
		if !strings.Contains(strings.ReplaceAll(got, "\r\n ", " "), c.told) || strings.Count(got, "Postern-Scan:") != 1 || strings.Count(got, "X-Spam-Level:") != 1 || !strings.Contains(got, "X-Spam-Level: *\r\n") {
			t.Errorf("%s: got\n%s\nwant %q, and each mark once", c.name, got, c.told)
		}
	}
}

// Nobody who changes a mail on the way hears whether it opened (R1): what is
// refused is delivered as it came, and in the words and with the questions of
// one that does not open. What the scanner wants later counts for nothing.
func TestMalleableMailIsNotRefused(t *testing.T) {
	for _, c := range []struct {
		mark, want string
		open       bool
	}{{virus, "verdict=sealed", false}, {spam, "verdict=suspect", true}, {"", "verdict=clean", true}} {
		w := newWorld(t)
		w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
			m, f, err := w.guard.Protector.Open(t.Context(), r)
			f.Malleable, f.Good, f.Reason = true, false, protect.ReasonUnauthenticated
			return m, f, err
		}
		s := w.scanned(&scanner{})
		sealed := w.sealed(strings.Replace(in, "Marker-Text-7f3a", "Marker-Text-7f3a "+c.mark, 1), "", alice)
		w.want(c.mark, w.send(policy.Inbound, sealed, bob, alice), "250 2.0.0")
		got := string(w.hop.got[0].mail)
		if strings.Contains(got, "Marker-Text") != c.open || strings.HasSuffix(got, sealed) == c.open || !strings.Contains(got, c.want) || strings.Contains(got, "opened=failed") == c.open {
			t.Errorf("%q: got\n%s\nwant opened %v, %s", c.mark, got, c.open, c.want)
		}
		if c.open == strings.Contains(got, "scanned=no") {
			t.Errorf("%q: got\n%s", c.mark, got)
		}
		if len(s.texts) != 1 {
			t.Errorf("%q: asked %d times", c.mark, len(s.texts))
		}
	}
	w := newWorld(t)
	w.config.Policy.Undecryptable = policy.Reject
	w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
		m, f, err := w.guard.Protector.Open(t.Context(), r)
		f.Malleable = true
		return m, f, err
	}
	w.scanned(&scanner{})
	w.want("with a site that refuses what does not open", w.send(policy.Inbound, w.sealed(strings.Replace(in, "Marker", virus, 1), "", alice), bob, alice), "554 5.7.5")
}

// While a scanner is away mail waits, sealed mail that does not open as well (R1); or
// all of it passes, where the site says so.
func TestScannerAway(t *testing.T) {
	for _, pass := range []bool{false, true} {
		w := newWorld(t)
		w.scanned(&scanner{err: scan.ErrAway})
		w.config.Scan.Posts[0].PassAway = pass
		for name, mail := range map[string]string{"plain": in, "opens": w.sealed(in, bob, alice), "does not open": w.sealed(in, bob, "dave@freemail.example")} {
			w.hop.got = nil
			if !pass {
				w.want(name, w.send(policy.Inbound, mail, bob, alice), "451 4.3.0")
				continue
			}
			w.want(name, w.send(policy.Inbound, mail, bob, alice), "250 2.0.0")
			why := "reason=away"
			if name == "does not open" {
				why = "reason=sealed"
			}
			if got := string(w.hop.got[0].mail); !strings.Contains(got, "scanned=no; verdict=none") || !strings.Contains(got, why) {
				t.Errorf("%s: got\n%s", name, got)
			}
		}
	}
}

// What the sender's own program has sealed is not shown to a scanner, and
// passes.
func TestSealedByTheSender(t *testing.T) {
	w := newWorld(t)
	s := w.scanned(&scanner{err: scan.ErrAway})
	w.want("sealed", w.send(policy.Outbound, w.sealed(out, "", bob), alice, bob), "250 2.0.0")
	if len(s.texts) != 0 {
		t.Errorf("got %q shown", s.texts)
	}
}

// In shadow mode scanners are asked, and nothing follows from it.
func TestScannersInShadowMode(t *testing.T) {
	w := newWorld(t)
	w.config.Policy.Shadow = true
	w.scanned(&scanner{})
	mail := strings.Replace(in, "Marker-Text-7f3a", virus, 1)
	w.want("shadow", w.send(policy.Inbound, mail, bob, alice), "250 2.0.0")
	if !strings.HasSuffix(string(w.hop.got[0].mail), mail) || !strings.Contains(w.log.String(), "shadow-reason=virus") {
		t.Errorf("got %s", w.log)
	}
}

// The decision object and the sentences tell of scanners.
func TestScannersAreTold(t *testing.T) {
	w := newWorld(t)
	s := w.scanned(&scanner{})
	for _, c := range []struct {
		name, mail, scan, explain string
	}{
		{"clean", in, `{"scanned":true,"verdict":"clean","by":["clamd"],"found":[],"score":"1.0/15.0","reason":""}`, "clamd looked at it.\nNothing was found."},
		{"virus", w.sealed(strings.Replace(in, "Marker-Text-7f3a", virus, 1), bob, alice), `{"scanned":true,"verdict":"refused","by":["clamd"],"found":["` + virus + `"],"score":"1.0/15.0","reason":""}`, "The verdict is refused."},
		{"sealed", w.sealed(in, bob, "dave@freemail.example"), `{"scanned":false,"verdict":"none","by":[],"found":[],"score":"","reason":"sealed"}`, "nothing of it could be scanned"},
	} {
		r := Request{Direction: policy.Inbound, From: address(t, bob), To: []message.Address{address(t, alice)}, Mail: strings.NewReader(c.mail)}
		o := w.gate.Process(t.Context(), r)
		got, err := json.Marshal(o.Verdict.Scan)
		if err != nil || string(got) != c.scan || !strings.Contains(strings.Join(o.Explain, "\n"), c.explain) {
			t.Errorf("%s: got %s, %q, %v, want %s, %q", c.name, got, o.Explain, err, c.scan, c.explain)
		}
		o.Close()
	}
	asked := len(s.texts)
	o := w.gate.Process(t.Context(), Request{Direction: policy.Inbound, To: []message.Address{address(t, alice)}, Mail: strings.NewReader(in), Unscanned: true})
	if o.Verdict.Scan != nil || len(s.texts) != asked {
		t.Errorf("unscanned: got %+v, asked %d times", o.Verdict.Scan, len(s.texts)-asked)
	}
	o.Close()
}
