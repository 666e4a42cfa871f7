package transport

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"postern/filter/message"
)

func TestMailPasses(t *testing.T) {
	for _, body := range []string{
		"", "x\r\n", ".\r\n", "..\r\n", ".x\r\n", "a\r\n.\r\nb\r\n", "last\r\n.\r\n", "\r\n\r\n", "...\r\n..x\r\n",
		strings.Repeat("long", 100_000) + "\r\n", "\x01\x7f\xff\xfe\t\r\n",
	} {
		m := &mailbox{}
		c := call(t, serve(t, &Server{Handler: m}))
		c.upToData()
		stuffed := strings.ReplaceAll("\r\n"+body, "\r\n.", "\r\n..")[2:]
		c.say(stuffed + ".\r\n")
		c.want("250 2.0.0 kept")
		c.ask("QUIT", "221 ")
		c.closed()
		if got := m.bodies(); len(got) != 1 || got[0] != body {
			t.Errorf("%.40q: got %.80q", body, got)
		}
	}
}

func TestEnvelopeArrives(t *testing.T) {
	m := &mailbox{}
	config, _ := valid(t)
	c := call(t, serve(t, &Server{Handler: m, TLS: config, OfferRequireTLS: true, Domain: "ours.example"}))
	c.want("220 gw.example ESMTP")
	got := c.ask("EHLO client.example", "250-")
	if want := "250-gw.example|250-PIPELINING|250-SIZE 52428800|250-STARTTLS|250-ENHANCEDSTATUSCODES|250-8BITMIME|250-SMTPUTF8|250 DSN"; got != want {
		t.Errorf("EHLO: got %s, want %s", got, want)
	}
	c.ask("STARTTLS", "220 ")
	tc := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	c.conn, c.r = tc, bufio.NewReader(tc)
	if got := c.ask("EHLO again.example", "250-"); !strings.HasSuffix(got, "DSN|250 REQUIRETLS") || strings.Contains(got, "STARTTLS") {
		t.Errorf("EHLO in TLS: got %s", got)
	}
	c.ask(`mail from:<"a b"@From.example> size=42 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=id+2B7 REQUIRETLS`, "250 2.1.0 sender ok")
	c.ask("rcpt to:<Postmaster>", "250 2.1.5 recipient ok")
	c.ask("RCPT TO:<büro@to.example> NOTIFY=SUCCESS,delay ORCPT=rfc822;x+2Cy@z.example", "250 ")
	c.ask("DATA", "354 ")
	c.say("x\r\n.\r\n")
	c.want("250 ")
	c.ask("MAIL FROM:<>", "250 ")
	c.ask("RCPT TO:<b@to.example>", "250 ")
	c.ask("DATA", "354 ")
	c.say("y\r\n.\r\n")
	c.want("250 ")
	mails := m.got()
	if len(mails) != 2 {
		t.Fatalf("got %d mails, want 2", len(mails))
	}
	e := mails[0].env
	if e.TLS == nil || !strings.HasPrefix(Carried(e.TLS), "TLSv1.3:TLS_") || len(e.Trace) != 16 || e.Client.String() != c.conn.LocalAddr().String() {
		t.Errorf("got TLS %q, trace %q, client %v", Carried(e.TLS), e.Trace, e.Client)
	}
	if mails[1].env.Trace == e.Trace || !mails[1].env.Null || mails[1].env.From != (message.Address{}) || len(mails[1].env.Recipients) != 1 {
		t.Errorf("second mail: got %+v", mails[1].env)
	}
	e.TLS, e.Trace, e.Client = nil, "", mails[0].env.Client
	want := Envelope{
		Client: e.Client, Hello: "again.example", From: message.Address{Local: "a b", Domain: "from.example"},
		Recipients: []Recipient{
			{Address: message.Address{Local: "Postmaster", Domain: "ours.example"}},
			{Address: message.Address{Local: "büro", Domain: "to.example"}, Notify: "SUCCESS,delay", Original: "rfc822;x+2Cy@z.example"},
		},
		Body: "8BITMIME", Size: 42, UTF8: true, Return: "HDRS", ID: "id+2B7", RequireTLS: true,
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
}

func TestCommands(t *testing.T) {
	const start = "EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n"
	tests := []struct{ name, say, want string }{
		{"mail before hello", "MAIL FROM:<a@b.example>", "503 5.5.1"},
		{"rcpt before mail", "EHLO c.example\r\nRCPT TO:<a@b.example>", "503 5.5.1"},
		{"data before mail", "EHLO c.example\r\nDATA", "503 5.5.1"},
		{"data before rcpt", start + "DATA", "503 5.5.1"},
		{"nested mail", start + "MAIL FROM:<c@d.example>", "503 5.5.1"},
		{"hello resets", start + "EHLO c.example\r\nRCPT TO:<a@b.example>", "503 5.5.1"},
		{"helo resets", start + "HELO c.example\r\nRCPT TO:<a@b.example>", "503 5.5.1"},
		{"rset resets", start + "RSET\r\nRCPT TO:<a@b.example>", "503 5.5.1"},
		{"helo", "HELO c.example", "250 gw.example"},
		{"hello without name", "EHLO", "501 "},
		{"hello with markup", "EHLO <script>", "501 "},
		{"noop with text", "NOOP x y", "250 2.0.0"},
		{"vrfy", "VRFY root", "252 2.5.0"},
		{"expn", "EXPN list", "502 5.5.1"},
		{"unknown after hello", "EHLO c.example\r\nXYZZY", "500 5.5.1"},
		{"data with argument", start + "RCPT TO:<a@b.example>\r\nDATA now", "501 5.5.4"},
		{"no tls here", "EHLO c.example\r\nSTARTTLS", "502 5.5.1"},
		{"starttls with argument", "EHLO c.example\r\nSTARTTLS now", "501 "},
		{"control character", start + "RCPT TO:<a\x01b@c.example>", "500 5.5.2"},
		{"tab", "EHLO\tc.example", "500 5.5.2"},
		{"8-bit hello", "EHLO b\xc3\xbcro.example", "500 5.5.2"},
		{"8-bit sender without SMTPUTF8", "EHLO c.example\r\nMAIL FROM:<b\xc3\xbcro@b.example>", "553 5.6.7"},
		{"8-bit recipient without SMTPUTF8", start + "RCPT TO:<b\xc3\xbcro@b.example>", "553 5.6.7"},
		{"no UTF-8", "EHLO c.example\r\nMAIL FROM:<b\xfcro@b.example> SMTPUTF8", "501 5.1.7"},
		{"unknown mail parameter", "EHLO c.example\r\nMAIL FROM:<a@b.example> XYZZY=1", "555 5.5.4"},
		{"auth parameter", "EHLO c.example\r\nMAIL FROM:<a@b.example> AUTH=<>", "555 5.5.4"},
		{"deliverby", "EHLO c.example\r\nMAIL FROM:<a@b.example> BY=120;R", "555 5.5.4"},
		{"mt-priority", "EHLO c.example\r\nMAIL FROM:<a@b.example> MT-PRIORITY=3", "555 5.5.4"},
		{"requiretls in clear", "EHLO c.example\r\nMAIL FROM:<a@b.example> REQUIRETLS", "555 5.5.4"},
		{"binarymime", "EHLO c.example\r\nMAIL FROM:<a@b.example> BODY=BINARYMIME", "555 5.5.4"},
		{"unknown rcpt parameter", start + "RCPT TO:<a@b.example> XYZZY", "555 5.5.4"},
		{"parameter twice", "EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=1 size=2", "501 5.5.4"},
		{"size no number", "EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=-1", "501 5.5.4"},
		{"size beyond the limit", "EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=52428801", "552 5.3.4 too big"},
		{"size at the limit", "EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=52428800", "250 "},
		{"ret", "EHLO c.example\r\nMAIL FROM:<a@b.example> RET=SOME", "501 5.5.4"},
		{"envid", "EHLO c.example\r\nMAIL FROM:<a@b.example> ENVID=a+b", "501 5.5.4"},
		{"notify never and others", start + "RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", "501 5.5.4"},
		{"orcpt", start + "RCPT TO:<a@b.example> ORCPT=a@b.example", "501 5.5.4"},
		{"null recipient", start + "RCPT TO:<>", "501 5.1.3"},
		{"postmaster", start + "RCPT TO:<postmaster>", "250 2.1.5"},
		{"postmaster as sender", "EHLO c.example\r\nMAIL FROM:<postmaster>", "501 5.1.7"},
		{"no brackets", start + "RCPT TO:a@b.example", "501 5.5.4"},
		{"source route", start + "RCPT TO:<@x.example:a@b.example>", "501 5.1.3"},
		{"space before the address", start + "RCPT TO: <a@b.example>", "250 "},
		{"text behind the address", start + "RCPT TO:<a@b.example>x", "501 5.5.4"},
		{"injection", start + `RCPT TO:<"victim@evil> ORCPT=rfc822;x"@allowed.example>`, "501 5.1.3"},
		{"injection by quote", start + `RCPT TO:<"victim@evil.example"@allowed.example>`, "501 5.1.3"},
		{"injection by escape", start + `RCPT TO:<"a\">b"@allowed.example>`, "501 5.1.3"},
		{"quoted", start + `RCPT TO:<"a b"@c.example>`, "250 "},
		{"open quote", start + `RCPT TO:<"a b@c.example>`, "501 5.5.4"},
		{"two addresses", start + "RCPT TO:<a@b.example> <c@d.example>", "555 5.5.4"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := &mailbox{}
			c := call(t, serve(t, &Server{Handler: m}))
			c.want("220 ")
			commands := strings.Split(test.say, "\r\n")
			for _, s := range commands[:len(commands)-1] {
				c.ask(s, "250")
			}
			c.ask(commands[len(commands)-1], test.want)
			c.ask("NOOP", "250 ")
		})
	}
}

// What could be the beginning of something else ends the connection.
func TestCommandsThatClose(t *testing.T) {
	for name, test := range map[string]struct{ say, want string }{
		"bare LF":           {"EHLO c.example\nMAIL FROM:<a@b.example>\r\n", "554 5.6.0 line ends"},
		"bare CR":           {"EHLO c.example\rMAIL FROM:<a@b.example>\r\n", "554 5.6.0 line ends"},
		"NUL":               {"EHLO c\x00.example\r\n", "554 5.6.0 line ends"},
		"two CR":            {"NOOP\r\r\nNOOP\r\n", "554 5.6.0 line ends"},
		"513 bytes":         {"NOOP " + strings.Repeat("x", 506) + "\r\n", "500 5.5.2"},
		"endless":           {strings.Repeat("x", 100_000), "500 5.5.2"},
		"endless mail":      {"MAIL " + strings.Repeat("x", 100_000), "500 5.5.2"},
		"chunk":             {"BDAT 25 LAST\r\nMAIL FROM:<a@b.example>\r\n", "502 5.5.1"},
		"auth":              {"AUTH LOGIN\r\nNOOP\r\n", "502 5.5.1"},
		"another protocol":  {"GET / HTTP/1.1\r\nNOOP\r\n", "500 5.5.1"},
		"TLS without asked": {"\x16\x03\x01\x00\xfa\x01\x00\x00\xf6\x03\x03", "554 5.6.0"},
	} {
		t.Run(name, func(t *testing.T) {
			c := call(t, serve(t, &Server{Handler: &mailbox{}}))
			c.want("220 ")
			c.say(test.say)
			c.want(test.want)
			c.closed()
		})
	}
}

func TestLongestCommand(t *testing.T) {
	c := call(t, serve(t, &Server{Handler: &mailbox{}}))
	c.want("220 ")
	c.ask("NOOP "+strings.Repeat("x", 505), "250 ")
	c.ask("EHLO c.example", "250")
	c.ask("MAIL FROM:<"+strings.Repeat("x", 64)+"@b.example> ENVID="+strings.Repeat("e", 100), "250 ")
	c.ask("RCPT TO:<"+strings.Repeat("x", 64)+"@b.example> ORCPT=rfc822;"+strings.Repeat("o", 490), "250 ")
}

func TestTooManyErrors(t *testing.T) {
	c := call(t, serve(t, &Server{Handler: &mailbox{}}))
	c.want("220 ")
	c.ask("EHLO c.example", "250")
	for range maxErrors - 1 {
		c.ask("XYZZY", "500 ")
	}
	c.ask("XYZZY", "500 ")
	c.want("421 4.7.0")
	c.closed()
}

func TestIdling(t *testing.T) {
	c := call(t, serve(t, &Server{Handler: &mailbox{}, MaxRecipients: 1}))
	c.want("220 ")
	for range maxIdling + 2 {
		c.ask("NOOP", "250 ")
	}
	c.ask("NOOP", "421 4.7.0")
	c.closed()
}

func TestPipelining(t *testing.T) {
	m := &mailbox{recipient: func(r Recipient) error {
		if r.Address.Local == "no" {
			return Reply{550, [3]int{5, 7, 1}, "not here"}
		}
		return nil
	}}
	c := call(t, serve(t, &Server{Handler: m}))
	c.want("220 ")
	c.say("EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<no@b.example>\r\nRCPT TO:<yes@b.example>\r\nRCPT TO:<no@c.example>\r\nDATA\r\n")
	for _, want := range []string{"250-", "250 2.1.0", "550 5.7.1 not here", "250 2.1.5", "550 5.7.1", "354 "} {
		c.want(want)
	}
	c.say("x\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<no@b.example>\r\nDATA\r\nRSET\r\nQUIT\r\n")
	for _, want := range []string{"250 2.0.0 kept", "250 2.1.0", "550 5.7.1", "503 5.5.1", "250 ", "221 "} {
		c.want(want)
	}
	c.closed()
	if got := m.got(); len(got) != 1 || len(got[0].env.Recipients) != 1 || got[0].env.Recipients[0].Address.Local != "yes" {
		t.Errorf("got %+v", got)
	}
}

func TestRecipientLimit(t *testing.T) {
	for _, limit := range []int{0, 100} {
		m := &mailbox{}
		c := call(t, serve(t, &Server{Handler: m, MaxRecipients: limit}))
		if limit == 0 {
			limit = 1000
		}
		c.want("220 ")
		c.ask("EHLO c.example", "250")
		c.ask("MAIL FROM:<a@b.example>", "250 ")
		for i := range limit {
			c.ask(fmt.Sprintf("RCPT TO:<r%d@b.example>", i), "250 ")
		}
		c.ask("RCPT TO:<more@b.example>", "452 4.5.3 too many")
		c.ask("DATA", "354 ")
		c.say(".\r\n")
		c.want("250 ")
		if got := m.got(); len(got) != 1 || len(got[0].env.Recipients) != limit {
			t.Errorf("got %d mails, want 1 to %d", len(got), limit)
		}
	}
}

func TestSize(t *testing.T) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, MaxSize: 1000})
	body := strings.Repeat("..23456\r\n", 125) // 1000 bytes without stuffing
	c := call(t, addr)
	c.upToData()
	c.say(body + ".\r\n")
	c.want("250 ")
	if got := m.bodies(); len(got) != 1 || len(got[0]) != 1000 {
		t.Fatalf("got %d mails", len(got))
	}
	c = call(t, addr)
	c.upToData()
	c.say(body + "\r\n.\r\nMAIL FROM:<x@y.example>\r\n")
	c.want("552 5.3.4 too big")
	c.closed()
	if got := m.got(); len(got) != 1 {
		t.Errorf("got %d mails, want 1", len(got))
	}
}

// A mail that is cut short is an error for the handler, not a shorter mail.
func TestTruncated(t *testing.T) {
	errs := make(chan error, 1)
	m := &mailbox{data: func(_ *Envelope, body io.Reader) Reply {
		_, err := io.Copy(io.Discard, body)
		errs <- err
		return Reply{250, [3]int{2, 0, 0}, "careless"}
	}}
	addr := serve(t, &Server{Handler: m})
	for _, body := range []string{"", "x", "x\r\n", "x\r\n.", "x\r\n.\r", "x\r"} {
		c := call(t, addr)
		c.upToData()
		c.say(body)
		c.conn.(*net.TCPConn).CloseWrite()
		c.want("451 4.3.0")
		c.closed()
		if err := <-errs; err != io.ErrUnexpectedEOF {
			t.Errorf("%q: got %v, want io.ErrUnexpectedEOF", body, err)
		}
	}
}

// What the handler does not read is no command, and a yes is not believed.
func TestHandlerThatDoesNotRead(t *testing.T) {
	m := &mailbox{data: func(*Envelope, io.Reader) Reply { return Reply{451, [3]int{4, 3, 2}, "busy"} }}
	addr := serve(t, &Server{Handler: m})
	c := call(t, addr)
	c.upToData()
	c.say("MAIL FROM:<x@y.example>\r\n.\r\nNOOP\r\n")
	c.want("451 4.3.2 busy")
	c.want("250 2.0.0 ok")
}

func TestPanic(t *testing.T) {
	m := &mailbox{recipient: func(r Recipient) error {
		if r.Address.Local == "bad" {
			panic("recipient")
		}
		return nil
	}, data: func(*Envelope, io.Reader) Reply { panic("data") }}
	addr := serve(t, &Server{Handler: m, Log: slog.New(slog.DiscardHandler)})
	c := call(t, addr)
	c.upToData()
	c.say("x\r\n.\r\n")
	c.want("451 4.3.0 trouble")
	c.closed()
	c = call(t, addr)
	c.want("220 ")
	c.ask("EHLO c.example", "250")
	c.ask("MAIL FROM:<>", "250 ")
	c.ask("RCPT TO:<bad@b.example>", "451 4.3.0 trouble")
	c.closed()
	call(t, addr).want("220 ")
}

func TestReplyOfHandlerIsTheSenders(t *testing.T) {
	for _, test := range []struct {
		reply Reply
		want  string
	}{
		{Reply{250, [3]int{2, 6, 0}, "from afar"}, "250 2.6.0 from afar"},
		{Reply{Code: 250, Text: "plain"}, "250 plain"},
		{Reply{554, [3]int{5, 6, 0}, "no\r\n250 yes\x00\xff"}, "554 5.6.0 no 250 yes??"},
		{Reply{550, [3]int{5, 7, 1}, strings.Repeat("long ", 300)}, "550 5.7.1 long long"},
		{Reply{}, "451 4.3.0"},
		{Reply{Code: 354, Text: "go on"}, "451 4.3.0"},
	} {
		m := &mailbox{data: func(_ *Envelope, body io.Reader) Reply {
			io.Copy(io.Discard, body)
			return test.reply
		}}
		c := call(t, serve(t, &Server{Handler: m}))
		c.upToData()
		c.say("x\r\n.\r\n")
		if got := c.want(test.want); len(got) > maxReply {
			t.Errorf("got %d bytes, want at most %d", len(got), maxReply)
		}
		c.ask("NOOP", "250 2.0.0 ok")
	}
}

// R24: what was said before the handshake, and ahead of it, is forgotten.
func TestSTARTTLSForgets(t *testing.T) {
	config, pool := valid(t)
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, TLS: config, RequireTLS: true})
	c := call(t, addr)
	c.want("220 ")
	c.ask("EHLO clear.example", "250-")
	c.ask("MAIL FROM:<a@b.example>", "530 5.7.0")
	c.ask("VRFY a", "530 5.7.0")
	c.say("STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<b@c.example>\r\n")
	c.want("220 2.0.0")
	tc := tls.Client(c.conn, &tls.Config{RootCAs: pool, ServerName: "mx.example"})
	c.conn, c.r = tc, bufio.NewReader(tc)
	c.ask("MAIL FROM:<a@b.example>", "503 5.5.1 EHLO first")
	c.ask("STARTTLS", "503 5.5.1")
	c.ask("EHLO safe.example", "250-")
	c.ask("RCPT TO:<b@c.example>", "503 5.5.1 MAIL first")
	c.ask("MAIL FROM:<a@b.example>", "250 ")
	c.ask("RCPT TO:<b@c.example>", "250 ")
	c.ask("DATA", "354 ")
	c.say("x\r\n.\r\n")
	c.want("250 ")
	c.ask("QUIT", "221 ")
	c.closed()
	if got := m.got(); len(got) != 1 || got[0].env.Hello != "safe.example" || got[0].env.From.Local != "a" {
		t.Errorf("got %+v", got)
	}
}

func TestHandshakeThatFails(t *testing.T) {
	config, _ := valid(t)
	c := call(t, serve(t, &Server{Handler: &mailbox{}, TLS: config}))
	c.want("220 ")
	c.ask("EHLO c.example", "250-")
	c.ask("STARTTLS", "220 ")
	c.say("MAIL FROM:<a@b.example>\r\n")
	if got, _ := io.ReadAll(c.r); strings.Contains(string(got), "250 ") {
		t.Errorf("got %q behind a failed handshake", got)
	}
}

func TestSwaks(t *testing.T) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m})
	host, port, _ := net.SplitHostPort(addr)
	out, err := exec.Command("swaks", "--server", host, "--port", port, "--pipeline", "--helo", "c.example",
		"--from", "a@from.example", "--to", "b@to.example,c@to.example", "--body", ".dot\n..\nend\n").CombinedOutput()
	if err != nil {
		t.Fatalf("swaks: %v\n%s", err, out)
	}
	got := m.got()
	if len(got) != 1 || len(got[0].env.Recipients) != 2 || !strings.Contains(got[0].body, "\r\n.dot\r\n..\r\nend\r\n") {
		t.Errorf("got %+v", got)
	}
}
