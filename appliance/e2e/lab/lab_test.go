// Package lab is two companies on one machine: each with its gateway, its
// Postfix, its Dovecot and its names in a network of its own, and between them a
// wire that is listened to.
package lab

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/filter/credential"
)

func TestMain(m *testing.M) { housetest.Main(m) }

// tellFlag shows a person what happens: make lab.
var tellFlag = flag.Bool("tell", false, "show each mail of TestTwoCompanies, on the wire and in the mailbox")

// tell prints what was heard between the companies, as far as it is text, and
// what the mailbox has.
func tell(what, from, to string, clients []string, mail string) {
	if !*tellFlag {
		return
	}
	fmt.Printf("\n%s\n  %s writes to %s\n", what, from, to)
	if len(clients) == 0 {
		fmt.Println("  on the wire: nothing")
	}
	for _, said := range clients {
		text := strings.IndexFunc(said, func(r rune) bool { return r == 0xfffd || r < ' ' && r != '\r' && r != '\n' && r != '\t' })
		if text < 0 {
			text = len(said)
		}
		fmt.Println("  on the wire:")
		for _, line := range head(said[:text], 30) {
			fmt.Println("    | " + line)
		}
		if text < len(said) {
			fmt.Printf("    | … %d octets of TLS\n", len(said)-text)
		}
	}
	fmt.Println("  in the mailbox:")
	for _, line := range head(mail, 60) {
		fmt.Println("    | " + line)
	}
}

// head are the first lines of a text.
func head(text string, n int) []string {
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(text, "\r", ""), "\n"), "\n")
	if len(lines) > n {
		lines = append(lines[:n], "…")
	}
	return lines
}

// letter is a mail with a secret of its own in it.
func letter(from, to, secret string) string {
	return "From: Somebody <" + from + ">\r\nTo: " + to + "\r\nSubject: about " + secret + "\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n\r\n" + secret + "\r\n.\r\nend\r\n"
}

// secret is a text that stands nowhere else.
func secret(words ...any) string {
	return "secret " + strings.Trim(fmt.Sprintln(words...), "\n") + " at the end"
}

// send submits a mail that must be taken.
func (c *company) send(t testing.TB, from string, to []string, mail string) {
	t.Helper()
	if dialogue, err := c.submit(t, from, to, mail); err != nil {
		t.Fatalf("submit: %v\n%s", err, dialogue)
	}
}

// holds compares parameters of the Postern-Status of a mail.
func holds(t testing.TB, mail string, want map[string]string) {
	t.Helper()
	status := housetest.Field(mail, "Postern-Status")
	for name, value := range want {
		if got := housetest.Parameter(status, name); got != value && !(value == "TLS" && strings.HasPrefix(got, "TLS")) {
			t.Errorf("%s: got %q, want %q: %s", name, got, value, status)
		}
	}
}

// Two companies write each other at all three levels, in both directions, and
// what is read is read in the mailbox: mail inside a company stays plain and
// inside, mail to the partner goes by TLS with a server that proves who it is,
// mail to single addresses is sealed end to end, whatever the way.
func TestTwoCompanies(t *testing.T) {
	l := openLab(t)
	for _, way := range []struct{ from, to *company }{{l.one, l.two}, {l.two, l.one}} {
		from, to := way.from, way.to
		alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
		t.Run("internal from "+from.Domain, func(t *testing.T) {
			colleague, text := "bob@"+from.Domain, secret("internal", from.Domain)
			from.send(t, alice, []string{colleague}, letter(alice, colleague, text))
			got := from.mail.await(t, colleague, text)
			if kind := housetest.Field(got, "Content-Type"); !strings.Contains(got, "\r\n\r\n"+text+"\r\n.\r\nend\r\n") || !strings.HasPrefix(kind, "multipart/signed") {
				t.Errorf("got %s, want it as it was written, and signed", got)
			}
			clients, _ := l.wire.smtp(t)
			if len(clients) != 0 {
				t.Errorf("got %q on the wire, want nothing", clients)
			}
			tell("Inside of a company: plain, and not outside", alice, colleague, clients, got)
		})
		for _, level := range levels(t, to) {
			t.Run("partner by "+level.name+" from "+from.Domain, func(t *testing.T) {
				from.names.Set(t, l.zones(to, level.records...)...)
				from.configure(t, setting{Partner: level.partner})
				text := secret(level.name, from.Domain)
				from.send(t, alice, []string{bob}, letter(alice, bob, text))
				got := to.mail.await(t, bob, text)
				holds(t, got, map[string]string{"opened": "none", "verified": "yes", "signer": alice, "carried": "TLS"})
				clients, _ := l.wire.smtp(t)
				l.onlyTLS(t, clients, text)
				tell("To the partner: "+level.partner, alice, bob, clients, got)
			})
		}
		for _, format := range []struct{ name, to, sealed string }{
			{"openpgp", "board@" + to.Domain, "-----BEGIN PGP MESSAGE-----"},
			{"smime", "counsel@" + to.Domain, "smime-type=enveloped-data"},
		} {
			t.Run("single address by "+format.name+" from "+from.Domain, func(t *testing.T) {
				from.configure(t, setting{Partner: `format = ["` + format.name + `"]`})
				from.names.Set(t, l.zones(nil)...)
				to.configure(t, setting{Mode: "off"}) // what is on the wire can be read
				text := secret(format.name, from.Domain)
				from.send(t, alice, []string{format.to}, letter(alice, format.to, text))
				got := to.mail.await(t, format.to, text)
				holds(t, got, map[string]string{"opened": format.name, "verified": "yes", "signer": alice, "carried": "clear"})
				clients, _ := l.wire.smtp(t)
				mails := slices.DeleteFunc(slices.Clone(clients), func(said string) bool { return !strings.Contains(said, "\r\nDATA\r\n") })
				if len(mails) != 1 || !strings.Contains(mails[0], format.sealed) || shows(clients, text) {
					t.Errorf("got %q on the wire, want a sealed mail", clients)
				}
				to.configure(t, setting{})
				tell("To a single address: end to end, here without TLS", alice, format.to, mails, got)
			})
		}
	}
}

// level is a way to the partner that proves who answers.
type level struct {
	name    string
	partner string   // lines of the partner's table
	records []string // what the DNS says of his server
}

// levels are those to a company with the certificates that it has.
func levels(t testing.TB, to *company) []level {
	t.Helper()
	return []level{
		{"verify", `transport = "verify"`, nil},
		{"pin", `transport = "pin"` + "\npins = [" + pins(t, to) + "]", nil},
		{"dane", `transport = "dane-only"`, tlsa(t, to)},
	}
}

// tlsa are the records for the keys of a company's server (RFC 7671 §5.1).
func tlsa(t testing.TB, c *company) (records []string) {
	t.Helper()
	for _, kind := range credential.Kinds {
		records = append(records, "_25._tcp.mx TLSA 3 1 1 "+strings.TrimPrefix(c.pin(t, kind), "sha256:"))
	}
	return records
}

// onlyTLS is a wire on which somebody asked for TLS, and said nothing of a mail
// before it.
func (l *lab) onlyTLS(t testing.TB, clients []string, secret string) {
	t.Helper()
	if len(clients) == 0 {
		t.Error("got nothing on the wire, want a session")
	}
	for _, said := range clients {
		if !strings.Contains(said, "\r\nSTARTTLS\r\n") || strings.Contains(strings.ToUpper(said), "MAIL FROM") {
			t.Errorf("got %q on the wire, want STARTTLS and nothing of a mail", said)
		}
	}
	if shows(clients, secret) {
		t.Error("got the text on the wire")
	}
}
