package postfix_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/resolver/resolvertest"
	"postern/filter/route"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
)

// alice is the sender of most mails.
var alice = transport.Envelope{From: message.Address{Local: "alice", Domain: "company1.example"}}

// dialogue sends the lines of an SMTP session to address, raw, and gives all
// answers.
func dialogue(t *testing.T, address string, parts ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	in := bufio.NewReader(c)
	var all strings.Builder
	read := func() bool {
		for {
			line, err := in.ReadString('\n')
			all.WriteString(line)
			if err != nil {
				return false
			}
			if len(line) > 3 && line[3] == ' ' {
				return true
			}
		}
	}
	read()
	for _, p := range parts {
		if _, err := io.WriteString(c, p); err != nil || !read() {
			break
		}
	}
	return all.String()
}

// What goes in comes out: the bytes, the envelope and what it asks for. What
// must not go in does not.
func TestPassage(t *testing.T) {
	if !apart(t) {
		return
	}
	partner := hoptest.Listen(t, "127.0.1.1:25", plain)
	self := hoptest.Listen(t, "127.0.0.1:25", plain)
	listener := hoptest.Listen(t, "127.0.9.9:25", plain) // as the inside listener of filterd
	world := resolvertest.Config{Port: 53}.Start(t,
		resolvertest.Zone{Name: "to.example", Records: []string{"@ MX 10 mx", "mx A 127.0.1.1"}},
		resolvertest.Zone{Name: "gone.example", Records: []string{"@ MX 10 mx", "mx A 127.0.1.99"}},
		resolvertest.Zone{Name: "self.example", Records: []string{"@ MX 10 mx", "mx A 127.0.0.1"}},
		resolvertest.Zone{Name: "back.example", Records: []string{"@ MX 10 mx", "mx A 127.0.9.9"}})
	c := postfixtest.Config(t)
	inside := hoptest.Listen(t, c.Inside.Address, plain)
	c.Own = []netip.Addr{netip.MustParseAddr("127.0.9.9")}
	c.Warn, c.Retry, c.RetryMax, c.Lifetime = time.Second, time.Second, time.Second, 4*time.Second
	p := postfixtest.Start(t, c)
	serve(t, c, &route.Router{Names: world.Client(), Way: func(string) (policy.Way, string) { return policy.Way{Level: policy.May}, "test" }})
	count := func(s *hoptest.Partner) int { return len(s.Mails()) }

	// The bytes.
	long := strings.Repeat("0123456789", 400)
	for i, mail := range []string{
		"Subject: no date, no id, no from\r\n\r\n.\r\n..\r\n.x\r\n\r\n",
		"bcc: somebody@to.example\r\nReturn-Path: <x@to.example>\r\nContent-Length: 5\r\nResent-Bcc: a@b.example\r\n\r\nx\r\n",
		"Subject: " + strings.Repeat("word ", 30000) + "\r\nTo: local\r\n\r\n" + long + "\r\nend\r\n",
		"X: 1\r\nX: 2\r\nFrom: a (b) <c>\r\n\t(folded)\r\nTo: \"b @ home\" <b>\r\n\r\nFrom here\r\n \r\ntrailing \t\r\n",
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nM\xc3\xbcller\r\n",
		"\r\nno header\r\n",
	} {
		e := alice
		e.Body, e.Return, e.ID = "8BITMIME", "HDRS", fmt.Sprintf("id+2B%d", i)
		if res := hand(t, c.Listen, e, "bob@to.example", mail); res.Err != nil || res.Replies[0].Code != 250 {
			t.Fatalf("mail %d: got %+v", i, res)
		}
		await(t, fmt.Sprintf("mail %d arrives", i), func() bool { return count(partner) > i })
		mails := partner.Mails()
		envelope, got, _ := strings.Cut(mails[i], "\r\n")
		if !strings.HasPrefix(got, "Received: ") || !strings.HasSuffix(got, mail) || strings.Count(strings.TrimSuffix(got, mail), "Received:") != 1 ||
			strings.Count(strings.TrimSuffix(got, mail), "\n") > 5 {
			t.Errorf("mail %d: got %.600q, want %.200q below one Received", i, got, mail)
		}
		for _, want := range []string{"FROM:<alice@company1.example>", "ENVID=id+2B", "RET=HDRS", "NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;bob@to.example", "BODY=8BITMIME"} {
			if !strings.Contains(envelope, want) {
				t.Errorf("mail %d: got %q, want %s", i, envelope, want)
			}
		}
	}
	n := count(partner)
	for _, one := range []struct {
		e        transport.Envelope
		to, want string
	}{
		{transport.Envelope{Null: true}, "bob@to.example", "FROM:<>"},
		{alice, `"a b"@to.example`, `TO:<"a b"@to.example>`},
		{alice, "user%elsewhere.example@to.example", "TO:<user%elsewhere.example@to.example>"},
		{alice, "elsewhere!user@to.example", "TO:<elsewhere!user@to.example>"},
		{transport.Envelope{From: alice.From, UTF8: true}, "bücher@to.example", "SMTPUTF8"},
	} {
		e := one.e
		if res := hand(t, c.Listen, e, one.to, "Subject: x\r\n\r\nx\r\n"); res.Err != nil || res.Replies[0].Code != 250 {
			t.Errorf("%s: got %+v", one.to, res)
			continue
		}
		n++
		await(t, "mail to "+one.to, func() bool { return count(partner) == n })
		mails := partner.Mails()
		if envelope, _, _ := strings.Cut(mails[n-1], "\r\n"); !strings.Contains(envelope, one.want) {
			t.Errorf("%s: got %q, want %s", one.to, envelope, one.want)
		}
	}

	// The door.
	hello := []string{"EHLO gw\r\n"}
	for _, command := range []string{"VRFY bob@to.example\r\n", "XCLIENT ADDR=192.0.2.1\r\n", "XFORWARD NAME=x\r\n", "ETRN to.example\r\n", "AUTH PLAIN AGEAYQ==\r\n", "STARTTLS\r\n"} {
		said := dialogue(t, c.Listen, append(hello, command)...)
		verb, _, _ := strings.Cut(strings.TrimSpace(command), " ")
		lines := strings.Split(strings.TrimSpace(said), "\r\n")
		if last := lines[len(lines)-1]; last[0] == '2' || last[0] == '3' || strings.Contains(said, "250-"+verb) || strings.Contains(said, "250 "+verb) {
			t.Errorf("%s: got %q, want it refused and not offered", verb, said)
		}
	}
	start := []string{"EHLO gw\r\n", "MAIL FROM:<alice@company1.example>\r\n", "RCPT TO:<bob@to.example>\r\n", "DATA\r\n"}
	for i, end := range []string{"\n.\n", "\r\n.\n", "\n.\r\n", "\r\n.\r", "\r.\r", "\r\n\x00.\r\n", "\r.\r\n", "\n\n.\r\n", "\r\n.\r\r\n"} {
		smuggled := "Subject: outer\r\n\r\nx" + end + "MAIL FROM:<evil@company1.example>\r\nRCPT TO:<bob@to.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"
		said := dialogue(t, c.Listen, append(start, smuggled, "QUIT\r\n")...)
		if strings.Contains(said, "354") && strings.Count(said, "354") > 1 {
			t.Errorf("end %d: got %q, want one mail", i, said)
		}
	}
	// Whatever came of these, none has another sender.
	await(t, "the queue is empty", func() bool { w, err := postfix.Queue(t.Context(), c.Dir); return err == nil && len(w) == 0 })
	mails := partner.Mails()
	for _, m := range mails {
		if envelope, _, _ := strings.Cut(m, "\r\n"); strings.Contains(envelope, "evil") {
			t.Errorf("smuggled: %q", m)
		}
	}

	// A partner who says that we are his server gets nothing, and no mail comes
	// round: it goes back to its sender.
	for domain, server := range map[string]*hoptest.Partner{"self.example": self, "back.example": listener} {
		submit(t, c.Listen, "bob@"+domain)
		if line := p.Await("to=<bob@"+domain+">", "status="); !strings.Contains(line, "status=bounced") || !strings.Contains(line, "loops back to myself") {
			t.Errorf("%s: got %q, want it back", domain, line)
		}
		if sessions := server.Sessions(); sessions > 0 {
			t.Errorf("%s: got %d sessions, want none", domain, sessions)
		}
	}

	// What cannot be brought comes back at the end of its time: the header, and
	// never the text.
	submit(t, c.Listen, "bob@gone.example")
	back := func(action string) string {
		mails := inside.Mails()
		for _, m := range mails {
			if strings.Contains(m, "bob@gone.example") && strings.Contains(m, "Action: "+action) {
				return m
			}
		}
		return ""
	}
	for _, action := range []string{"delayed", "failed"} {
		await(t, "report: "+action, func() bool { return back(action) != "" })
		m := back(action)
		if !strings.Contains(m, "FROM:<>") || !strings.Contains(m, "TO:<alice@company1.example>") || !strings.Contains(m, "Auto-Submitted: auto-replied") ||
			!strings.Contains(m, "text/rfc822-headers") || !strings.Contains(m, "Subject: offer") || strings.Contains(m, body) {
			t.Errorf("report %s: got %s", action, m)
		}
	}
	// A report that nobody takes ends there: for a null sender there is none.
	if res := hand(t, c.Listen, transport.Envelope{Null: true}, "nobody@gone.example", "Subject: report\r\n\r\n"+body+"\r\n"); res.Err != nil {
		t.Fatal(res.Err)
	}
	p.Await("to=<nobody@gone.example>", "status=deferred")
	await(t, "the queue is empty", func() bool { w, err := postfix.Queue(t.Context(), c.Dir); return err == nil && len(w) == 0 })
	for _, m := range inside.Mails() {
		if strings.Contains(m, "nobody@gone.example") && strings.Contains(m, body) {
			t.Errorf("a report of a report: %s", m)
		}
	}

	// The machine's own mail goes to a person.
	if res := hand(t, c.Listen, transport.Envelope{Null: true}, "root@gw.company1.example", "Subject: cron\r\n\r\nx\r\n"); res.Err != nil || res.Replies[0].Code != 250 {
		t.Fatalf("root: got %+v", res)
	}
	await(t, "mail of root", func() bool {
		mails := inside.Mails()
		return strings.Contains(strings.Join(mails, ""), "TO:<admin@company1.example>")
	})
	for _, l := range append(p.Lines("fatal:"), p.Lines("panic:")...) {
		t.Errorf("log: %s", l)
	}
}
