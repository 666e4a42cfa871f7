package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
	"postern/filter/credential"
	"postern/hsm/certtest"
)

// A partner whose server does not prove what was agreed gets nothing (R25): no
// sender, no recipient, no text goes over the wire in clear, the mail waits in
// the queue of Postfix, its sender hears of it inside, and as soon as all is as
// agreed the mail arrives.
func TestPartnerNotAsAgreed(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	to.show(t, l.servers, certtest.Host("mx.elsewhere.example"))
	to.show(t, certtest.New(t, certtest.CA("Stranger")), certtest.Host("stranger."+to.Domain))
	expired := certtest.Host("expired." + to.Domain)
	expired.NotBefore, expired.NotAfter = time.Now().AddDate(0, 0, -2), time.Now().AddDate(0, 0, -1)
	to.show(t, l.servers, expired)
	other := strings.Repeat("ab", 32)
	good := "\npins = [" + pins(t, to) + "]"
	for _, c := range []struct {
		name    string
		partner string  // level, of the one who sends
		bad     setting // of the other one
		records []string
	}{
		{"no STARTTLS, verify", `transport = "verify"`, setting{Mode: "off"}, nil},
		{"no STARTTLS, encrypt", `transport = "encrypt"`, setting{Mode: "off"}, nil},
		{"no STARTTLS, DANE", `transport = "dane"`, setting{Mode: "off"}, tlsa(t, to)},
		{"wrong name", `transport = "verify"`, setting{Identity: "mx.elsewhere.example"}, nil},
		{"unknown authority", `transport = "verify"`, setting{Identity: "stranger." + to.Domain}, nil},
		{"expired", `transport = "verify"`, setting{Identity: "expired." + to.Domain}, nil},
		{"forged TLSA", `transport = "dane-only"`, setting{}, []string{"_25._tcp.mx TLSA 3 1 1 " + other}},
		{"no TLSA", `transport = "dane-only"`, setting{}, []string{}},
		{"another key than pinned", `transport = "pin"` + good, setting{Identity: "stranger." + to.Domain}, nil},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			from.names.Set(t, l.zones(to, c.records...)...)
			from.configure(t, setting{Partner: c.partner})
			to.configure(t, c.bad)
			text := secret("refusal", c.name)
			from.send(t, alice, []string{bob}, letter(alice, bob, text))

			l.waits(t, alice, bob, text, to.mail, c.records == nil)

			to.configure(t, setting{})
			if c.records != nil {
				from.names.Set(t, l.zones(to, tlsa(t, to)...)...)
			}
			holds(t, to.mail.await(t, bob, text), map[string]string{"verified": "yes", "signer": alice, "carried": "TLS"})
			to.mail.empty(t, bob)
			from.mail.await(t, alice, "Action: ") // that it went after all
			from.mail.empty(t, alice)
			clients, _ := l.wire.smtp(t) // with a last try to the server as it was, perhaps
			l.nothing(t, clients, bob, text)
		})
	}
}

// A partner who never is as agreed: the sender is told that his mail waits, and
// when its time is over, that it does not go; then nothing of it is left, and
// nothing of it was said (R25).
func TestPartnerNeverAsAgreed(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	from.configure(t, setting{Partner: `transport = "verify"`, Lifetime: "4s"})
	from.postern(t, nil, "postfix", "render")
	from.post.Stop()
	from.post.Run()
	to.configure(t, setting{Mode: "off"})
	text := secret("never")
	from.send(t, alice, []string{bob}, letter(alice, bob, text))
	for _, action := range []string{"Action: delayed", "Action: failed"} {
		report := from.mail.await(t, alice, action, "Final-Recipient: rfc822; "+bob)
		if strings.Contains(report, "\r\n\r\n"+text) || !strings.HasPrefix(report, "Return-Path: <>\r\n") {
			t.Errorf("got %s, want a report from nobody, without the text", report)
		}
	}
	housetest.Eventually(t, housetest.Patience, func() (bool, string) {
		waiting := from.waiting(t)
		return !strings.Contains(waiting, bob), waiting
	})
	clients, _ := l.wire.smtp(t)
	if len(clients) == 0 {
		t.Error("got nothing on the wire, want tries")
	}
	l.nothing(t, clients, bob, text)
	if mails := to.mail.of(t, bob); len(mails) != 0 {
		t.Errorf("got %v, want nothing", mails)
	}
}

// waits holds what becomes of a mail where the way to the partner is not as it
// must be: its sender hears inside that it waits, it is in the queue of Postfix,
// and neither the wire nor the partner knows anything of it. tried is whether
// somebody called the partner at all.
func (l *lab) waits(t testing.TB, alice, bob, text string, there *mailboxes, tried bool) {
	t.Helper()
	from := l.one
	warning := from.mail.await(t, alice, "Final-Recipient: rfc822; "+bob)
	if strings.Contains(warning, "\r\n\r\n"+text) || !strings.HasPrefix(warning, "Return-Path: <>\r\n") || !strings.Contains(warning, "Action: delayed") {
		t.Errorf("got %s, want a report of delay from nobody, without the text", warning)
	}
	from.mail.empty(t, alice)
	housetest.Eventually(t, housetest.Patience, func() (bool, string) { // a mail that is moved in the queue is not listed for a moment
		waiting := from.waiting(t)
		return strings.Contains(waiting, bob), fmt.Sprintf("%q in the queue, not the mail to %s", waiting, bob)
	})
	clients, _ := l.wire.smtp(t)
	if len(clients) == 0 && tried {
		t.Error("got nothing on the wire, want a try")
	}
	l.nothing(t, clients, bob, text)
	if mails := there.of(t, bob); len(mails) != 0 {
		t.Errorf("got %v, want nothing", mails)
	}
}

// nothing is a wire on which nothing was said of a mail.
func (l *lab) nothing(t testing.TB, clients []string, bob, text string) {
	t.Helper()
	for _, said := range clients {
		if strings.Contains(strings.ToUpper(said), "MAIL FROM") || shows([]string{said}, text) || strings.Contains(said, bob) {
			t.Errorf("got %q on the wire, want nothing of the mail", said)
		}
	}
}

// waiting is the list of Postfix's queue.
func (c *company) waiting(t testing.TB) string {
	t.Helper()
	out, err := c.Command(t.Context(), "postqueue", "-c", c.post.Dir, "-p").CombinedOutput()
	if err != nil {
		t.Fatalf("postqueue: %v: %s", err, out)
	}
	return string(out)
}

// pins are those of all keys of a company's server, as an array has them.
func pins(t testing.TB, c *company) string {
	t.Helper()
	var list []string
	for _, kind := range credential.Kinds {
		list = append(list, `"`+c.pin(t, kind)+`"`)
	}
	return strings.Join(list, ", ")
}

// What the other company's mail server does not want comes back to who wrote it,
// and to nobody else, with nothing of its text (R28); the other recipients of
// the same mail have it, each once, in the form that each must have it in.
func TestSomeRecipientsAreNotThere(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice := "alice@" + from.Domain
	bob, board, ghost := "bob@"+to.Domain, "board@"+to.Domain, "ghost@"+to.Domain
	from.configure(t, setting{Partner: `transport = "verify"`, Tables: fmt.Sprintf("[recipient.%q]\nprotect = \"require\"\n", "sealed."+ghost)})
	text := secret("to three")
	from.send(t, alice, []string{bob, board, ghost, "sealed." + ghost}, letter(alice, bob, text))

	holds(t, to.mail.await(t, bob, text), map[string]string{"opened": "none", "verified": "yes", "carried": "TLS"})
	holds(t, to.mail.await(t, board, text), map[string]string{"opened": "openpgp", "verified": "yes", "carried": "TLS"})
	for _, who := range []string{ghost, "sealed." + ghost} {
		report := from.mail.await(t, alice, "Action: failed", "Final-Recipient: rfc822; "+who)
		for _, want := range []string{"Status: 5.", "Auto-Submitted: auto-replied"} {
			if !strings.Contains(report, want) {
				t.Errorf("got %s, want %q in it", report, want)
			}
		}
		for _, other := range []string{"\r\n\r\n" + text, board, "; " + bob} {
			if strings.Contains(report, other) {
				t.Errorf("got %s, want nothing of %q in it", report, other)
			}
		}
		if who != ghost && strings.Contains(report, text) {
			t.Errorf("got %s, want no word of what was sealed", report)
		}
	}
	for _, b := range []struct {
		m    *mailboxes
		who  string
		many int
	}{{to.mail, bob, 1}, {to.mail, board, 1}, {from.mail, "bob@" + from.Domain, 0}, {to.mail, "alice@" + to.Domain, 0}} {
		if got := b.m.of(t, b.who); len(got) != b.many {
			t.Errorf("%s: got %d mails, want %d: %v", b.who, len(got), b.many, got)
		}
	}
	clients, _ := l.wire.smtp(t)
	l.onlyTLS(t, clients, text)
}
