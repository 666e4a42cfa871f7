package transport

import (
	"io"
	"strings"
	"testing"
)

// What LMTP has otherwise than SMTP (RFC 2033 §4).
func TestLMTPListener(t *testing.T) {
	m := &mailbox{each: func(e *Envelope) (all []Reply) {
		for _, r := range e.Recipients {
			switch r.Address.Local {
			case "full":
				all = append(all, Reply{452, [3]int{4, 2, 2}, "mailbox full"})
			case "gone":
				all = append(all, Reply{550, [3]int{5, 1, 1}, "nobody\r\n250 smuggled"})
			case "away":
				all = append(all, Reply{421, [3]int{4, 3, 2}, "closing"})
			case "odd":
				all = append(all, Reply{354, [3]int{}, "what"})
			case "short":
				return all
			default:
				all = append(all, Reply{250, [3]int{2, 1, 5}, "kept for " + r.Address.Local})
			}
		}
		return all
	}, recipient: func(r Recipient) error {
		if r.Address.Local == "nobody" {
			return Reply{550, [3]int{5, 1, 1}, "nobody here"}
		}
		return nil
	}}
	addr := serve(t, &Server{Handler: m, LMTP: true})
	c := call(t, addr)
	c.want("220 gw.example LMTP")
	c.ask("EHLO client.example", "502 ")
	c.ask("HELO client.example", "502 ")
	c.ask("MAIL FROM:<a@from.example>", "503 ")
	c.ask("LHLO", "501 ")
	if got := c.ask("LHLO client.example", "250-"); !strings.Contains(got, "PIPELINING") || !strings.Contains(got, "ENHANCEDSTATUSCODES") { // RFC 2033 §5
		t.Errorf("LHLO: got %q", got)
	}
	c.ask("MAIL FROM:<a@from.example>", "250 ")
	c.ask("RCPT TO:<nobody@to.example>", "550 ")
	c.ask("DATA", "503 ") // RFC 2033 §4.2
	for _, to := range []string{"one", "full", "two", "gone", "away", "odd"} {
		c.ask("RCPT TO:<"+to+"@to.example>", "250 ")
	}
	c.ask("DATA", "354 ")
	c.say("x\r\n.\r\nMAIL FROM:<a@from.example>\r\nRCPT TO:<short@to.example>\r\nRCPT TO:<two@to.example>\r\nDATA\r\n")
	for _, want := range []string{
		"250 2.1.5 kept for one", "452 4.2.2 mailbox full", "250 2.1.5 kept for two", "550 5.1.1 nobody 250 smuggled", "451 4.3.2 closing", "451 4.3.0 internal trouble",
		"250 ", "250 ", "250 ", "354 ",
	} {
		c.want(want)
	}
	c.say("y\r\n.\r\nQUIT\r\n") // fewer answers than recipients: none of them counts
	c.want("451 4.3.0 ")
	c.want("451 4.3.0 ")
	c.want("221 ")
	c.closed()
	for i, x := range m.got() {
		if !x.env.LMTP || len(x.env.Refused) != 1-i {
			t.Errorf("mail %d: got %+v, want LMTP, and who was refused at RCPT", i, x.env)
		}
	}

	smtp := call(t, serve(t, &Server{Handler: &mailbox{}}))
	smtp.want("220 gw.example ESMTP")
	smtp.ask("LHLO client.example", "502 ")
}

// A mail that is cut off or refused inside DATA is answered for each recipient,
// as far as anybody hears it, and none of them hears a yes.
func TestLMTPListenerBroken(t *testing.T) {
	early := &mailbox{data: func(*Envelope, io.Reader) Reply { return Reply{250, [3]int{2, 0, 0}, "too early a yes"} }}
	c := call(t, serve(t, &Server{Handler: early, LMTP: true}))
	c.want("220 ")
	c.ask("LHLO client.example", "250-")
	c.ask("MAIL FROM:<a@from.example>", "250 ")
	c.ask("RCPT TO:<b@to.example>", "250 ")
	c.ask("RCPT TO:<c@to.example>", "250 ")
	c.ask("DATA", "354 ")
	c.say("x\r\n.\n" + second)
	c.want("554 5.6.0")
	c.want("554 5.6.0")
	c.closed()

	m := &mailbox{data: func(*Envelope, io.Reader) Reply { panic("data") }}
	c = call(t, serve(t, &Server{Handler: m, LMTP: true}))
	c.want("220 ")
	c.ask("LHLO client.example", "250-")
	c.ask("MAIL FROM:<a@from.example>", "250 ")
	c.ask("RCPT TO:<b@to.example>", "250 ")
	c.ask("RCPT TO:<c@to.example>", "250 ")
	c.ask("DATA", "354 ")
	c.say("x\r\n.\r\n")
	c.want("451 4.3.0")
	c.want("451 4.3.0")
	c.closed()
}
