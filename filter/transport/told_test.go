package transport

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// here is this machine, as a host that is named.
var here = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

// version2 is a header of the PROXY protocol, version 2.
func version2(command, family byte, data ...byte) string {
	head := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(append(binary.BigEndian.AppendUint16(head, uint16(len(data))), data...))
}

var (
	data4 = []byte{192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25}
	data6 = append(append(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice()...), 0x9c, 0x40, 0, 25)
)

var proxyHeaders = []struct{ name, header, client string }{
	{"4", "PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", "192.0.2.7:40000"},
	{"6", "PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n", "[2001:db8::7]:40000"},
	{"unknown", "PROXY UNKNOWN\r\n", "itself"},
	{"unknown, with more", "PROXY UNKNOWN ffff::1 whatever\r\n", "itself"},
	{"binary 4", version2(0x21, 0x11, data4...), "192.0.2.7:40000"},
	{"binary 6", version2(0x21, 0x21, data6...), "[2001:db8::7]:40000"},
	{"binary, with more", version2(0x21, 0x11, append(bytes.Clone(data4), 3, 0, 4, 1, 2, 3, 4)...), "192.0.2.7:40000"},
	{"binary, local", version2(0x20, 0x00), "itself"},
	{"binary, local, with an address", version2(0x20, 0x11, data4...), "itself"},
	{"binary, of no family", version2(0x21, 0x00), "itself"},

	{"no header", "EHLO client.example\r\n", ""},
	{"bad word", "PROXI TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", ""},
	{"no protocol", "PROXY UDP4 192.0.2.7 198.51.100.1 40000 25\r\n", ""},
	{"other family", "PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n", ""},
	{"mixed families", "PROXY TCP6 2001:db8::7 198.51.100.1 40000 25\r\n", ""},
	{"no address", "PROXY TCP4 client.example 198.51.100.1 40000 25\r\n", ""},
	{"zero in front", "PROXY TCP4 192.0.2.7 198.51.100.1 040000 25\r\n", ""},
	{"port too big", "PROXY TCP4 192.0.2.7 198.51.100.1 70000 25\r\n", ""},
	{"two spaces", "PROXY TCP4  192.0.2.7 198.51.100.1 40000 25\r\n", ""},
	{"a zone", "PROXY TCP6 fe80::1%eth0 2001:db8::1 40000 25\r\n", ""},
	{"without end", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", ""},
	{"binary, other version", version2(0x11, 0x11, data4...), ""},
	{"binary, other command", version2(0x22, 0x11, data4...), ""},
	{"binary, UDP", version2(0x21, 0x12, data4...), ""},
	{"binary, too short", version2(0x21, 0x11, data4[:8]...), ""},
	{"binary, too long", version2(0x21, 0x11, make([]byte, maxProxyData+1)...), ""},
}

// TestProxyProtocol: a proxy that is named says for whom it speaks, or is not
// served; nobody else is asked, and nobody else is believed.
func TestProxyProtocol(t *testing.T) {
	m := &mailbox{}
	named := serve(t, &Server{Handler: m, ProxyFrom: here})
	others := serve(t, &Server{Handler: m, ProxyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	for _, test := range proxyHeaders {
		c := call(t, named)
		c.say(test.header)
		if test.client == "" {
			c.closed()
			continue
		}
		before := len(m.got())
		c.upToData()
		c.say("x\r\n.\r\n")
		c.want("250 ")
		want := test.client
		if want == "itself" {
			want = c.conn.LocalAddr().String()
		}
		if got := m.got()[before].env.Client.String(); got != want {
			t.Errorf("%s: got client %s, want %s", test.name, got, want)
		}
		c.conn.Close()

		c = call(t, others)
		c.want("220 ")
		c.say(test.header)
		if got := c.reply(); !strings.HasPrefix(got, "500 ") && !strings.HasPrefix(got, "554 ") {
			t.Errorf("%s, from a host that is not named: got %q, want a refusal", test.name, got)
		}
		c.closed()
	}
}

// A proxy that keeps its header back holds its session no longer than the
// handshake may take, and in the meantime whoever comes can have its place.
func TestSlowProxy(t *testing.T) {
	c := call(t, serve(t, &Server{Handler: &mailbox{}, ProxyFrom: here, Timeouts: Timeouts{Handshake: 50 * time.Millisecond}}))
	c.say("PROXY TCP4 192.")
	c.closed()

	addr := serve(t, &Server{Handler: &mailbox{}, ProxyFrom: here, MaxConns: 1})
	first := call(t, addr)
	first.say("PROXY TCP4 192.0.2.7")
	for deadline := time.Now().Add(time.Minute); ; { // until the server waits for the first
		c := call(t, addr)
		c.say("PROXY TCP4 192.0.2.8 198.51.100.1 40000 25\r\n")
		got := c.reply()
		if strings.HasPrefix(got, "220 ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q", got)
		}
	}
	first.closed()
}

// The limit for each client counts those behind a proxy, and not the proxy.
func TestClientsBehindProxy(t *testing.T) {
	s := &Server{Handler: &mailbox{}, ProxyFrom: here, XClientFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}, MaxPerClient: 2}
	addr := serve(t, s)
	connect := func(from string) *caller {
		c := call(t, addr)
		c.say("PROXY TCP4 " + from + " 198.51.100.1 40000 25\r\n")
		return c
	}
	for _, from := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"} {
		connect(from).want("220 ")
	}
	c := connect("192.0.2.1")
	c.want("421 4.3.2 too many")
	c.conn.Close()
	// XCLIENT takes the place of who is named by it.
	c = connect("192.0.2.9")
	c.want("220 ")
	c.ask("XCLIENT ADDR=192.0.2.3", "220 ")
	c = connect("192.0.2.3")
	c.want("421 4.3.2 too many")
	c.conn.Close()
	c = connect("192.0.2.9")
	c.want("220 ")
	c.ask("XCLIENT ADDR=192.0.2.3", "421 4.3.2 too many")
	c.conn.Close()
	eventually(t, "places are given back", func() bool {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		return s.count == 6 && s.clients[netip.MustParsePrefix("192.0.2.9/32")] == 0 && s.clients[netip.MustParsePrefix("192.0.2.3/32")] == 2
	})
}

// TestXClient: Postfix's XCLIENT and XFORWARD, from hosts that are named.
func TestXClient(t *testing.T) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, XClientFrom: here})
	mail := func(c *caller) Envelope {
		t.Helper()
		before := len(m.got())
		c.ask("MAIL FROM:<a@from.example>", "250 ")
		c.ask("XCLIENT ADDR=192.0.2.7", "503 ")
		c.ask("XFORWARD ADDR=192.0.2.7", "503 ")
		c.ask("RCPT TO:<b@to.example>", "250 ")
		c.ask("DATA", "354 ")
		c.say("x\r\n.\r\n")
		c.want("250 ")
		return m.got()[before].env
	}
	c := call(t, addr)
	c.want("220 ")
	if got := c.ask("EHLO first.example", "250-"); !strings.Contains(got, "XCLIENT NAME ADDR PORT PROTO HELO") || !strings.Contains(got, "XFORWARD NAME ADDR PORT") {
		t.Errorf("got %q", got)
	}
	c.ask("XCLIENT NAME=mail.partner.example ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=partner.example", "220 gw.example ESMTP")
	c.ask("MAIL FROM:<a@from.example>", "503 ") // as at the beginning
	c.ask("EHLO second.example", "250-")
	if e := mail(c); e.Client.String() != "192.0.2.7:4711" || e.Hello != "partner.example" || e.Origin.IsValid() {
		t.Errorf("got client %v, origin %v, hello %q", e.Client, e.Origin, e.Hello)
	}
	c.ask("XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::9", "250 ")
	c.ask("XFORWARD PORT=99 HELO=far.example IDENT=4711 SOURCE=REMOTE PROTO=SMTP", "250 ")
	if e := mail(c); e.Client.String() != "192.0.2.7:4711" || e.Origin.String() != "[2001:db8::9]:99" || e.Source() != e.Origin || e.Hello != "far.example" {
		t.Errorf("got client %v, origin %v, hello %q", e.Client, e.Origin, e.Hello)
	}
	if e := mail(c); e.Origin.IsValid() || e.Source() != e.Client { // it was told of one mail
		t.Errorf("got origin %v", e.Origin)
	}
	c.ask("XCLIENT ADDR=[UNAVAILABLE]", "220 ")
	c.ask("EHLO third.example", "250-")
	if e := mail(c); e.Client.Addr().IsValid() || e.Hello != "third.example" {
		t.Errorf("got client %v, hello %q", e.Client, e.Hello)
	}
	c = call(t, addr)
	c.want("220 ")
	for _, bad := range []string{"", "ADDR", "ADDR=", "ADDR=192.0.2", "ADDR=2001:db8::1", "ADDR=IPV6:192.0.2.7", "ADDR=192.0.2.7 ADDR=192.0.2.8"} {
		c.ask(strings.TrimRight("XCLIENT "+bad, " "), "501 ")
	}
	c = call(t, addr)
	c.want("220 ")
	for _, bad := range []string{"PORT=65536", "PROTO=LMTP", "HELO=a+20b", "NAME=a+0Ab", "LOGIN=alice", "DESTADDR=192.0.2.1", "SOURCE=LOCAL", "NAME=" + strings.Repeat("a", 256)} {
		c.ask("XCLIENT "+bad, "501 ")
	}
}

// Who is not named is not believed, and goes.
func TestXClientFromAnybody(t *testing.T) {
	addr := serve(t, &Server{Handler: &mailbox{}, XClientFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	for _, line := range []string{"XCLIENT ADDR=192.0.2.7", "XFORWARD ADDR=192.0.2.7"} {
		c := call(t, addr)
		c.want("220 ")
		if got := c.ask("EHLO client.example", "250-"); strings.Contains(got, "XCLIENT") || strings.Contains(got, "XFORWARD") {
			t.Errorf("got %q", got)
		}
		c.ask(line, "550 5.7.0")
		c.closed()
	}
}

// XCLIENT makes another client of the session: who had logged in has not.
func TestXClientLogsOut(t *testing.T) {
	config, _ := valid(t)
	c := secured(t, serve(t, &Server{Handler: &mailbox{}, TLS: config, Login: &book{}, RequireLogin: true, XClientFrom: here}))
	c.ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "235 ")
	c.ask("XCLIENT ADDR=192.0.2.7", "220 ")
	c.ask("EHLO client.example", "250-")
	c.ask("MAIL FROM:<alice@company1.example>", "530 5.7.0")
}

// TestRate: so many mails from one network, and of one account.
func TestRate(t *testing.T) {
	config, _ := valid(t)
	addr := serve(t, &Server{Handler: &mailbox{}, Rate: Rate{3, time.Hour}, XClientFrom: here, TLS: config, Login: &book{}})
	from := func(c *caller, ip, want string) {
		t.Helper()
		c.ask("XFORWARD ADDR="+ip, "250 ")
		c.ask("MAIL FROM:<alice@company1.example>", want)
		c.ask("RSET", "250 ")
	}
	c := secured(t, addr)
	for range 3 {
		from(c, "192.0.2.7", "250 ")
	}
	from(c, "192.0.2.7", "450 4.7.1")
	from(c, "192.0.2.8", "250 ")
	from(c, "IPV6:2001:db8::1", "250 ")
	from(c, "IPV6:2001:db8::2", "250 ")
	from(c, "IPV6:2001:db8::3:4", "250 ")
	from(c, "IPV6:2001:db8::5", "450 4.7.1")
	from(c, "IPV6:2001:db8:0:1::5", "250 ")
	// One account, from wherever.
	c = secured(t, addr)
	c.ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "235 ")
	for _, ip := range []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"} {
		from(c, ip, "250 ")
	}
	from(c, "198.51.100.4", "450 4.7.1")
}

func TestMeter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	m := &Meter{Rate: Rate{4, time.Minute}, Now: func() time.Time { return now }}
	for i := range 6 {
		if got, want := m.Take("a"), i < 4; got != want {
			t.Errorf("%d at once: got %v, want %v", i+1, got, want)
		}
	}
	if m.Load("a") != 4 || m.Load("b") != 0 {
		t.Errorf("got a %d, b %d, want 4 and 0", m.Load("a"), m.Load("b"))
	}
	now = now.Add(15 * time.Second)
	if !m.Take("a") || m.Take("a") {
		t.Error("a quarter of the time later: want one more, and no second")
	}
	now = now.Add(time.Hour)
	if m.Load("a") != 0 || !m.Take("a") {
		t.Error("an hour later: want all forgotten")
	}
	m.Return("a")
	if m.Load("a") != 0 {
		t.Errorf("given back: got %d, want 0", m.Load("a"))
	}
	m.Return("a")
	// Memory is bounded, and who does most is remembered longest.
	for range 3 {
		m.Take("busy")
	}
	for i := range 3 * maxMetered {
		m.Take(string(binary.BigEndian.AppendUint32(nil, uint32(i))))
	}
	if n := len(m.clean); n > maxMetered || m.Load("busy") != 3 {
		t.Errorf("got %d remembered, busy with %d", n, m.Load("busy"))
	}
	none := &Meter{}
	for range 100 {
		if !none.Take("a") {
			t.Fatal("no limit: got one")
		}
	}
}

// FuzzProxy: whatever stands where a header should, nothing beyond it is read,
// and an address is one that can be printed.
func FuzzProxy(f *testing.F) {
	for _, test := range proxyHeaders {
		f.Add([]byte(test.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		client, err := readProxy(r)
		used := len(b) - r.Len()
		if used > 16+maxProxyData {
			t.Fatalf("got %d bytes read", used)
		}
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, proxySignature) && !bytes.HasSuffix(b[:used], []byte("\r\n")) {
			t.Errorf("got an end at %q", b[:used])
		}
		if client.IsValid() && client.Addr().Zone() != "" {
			t.Errorf("got %v", client)
		}
		again, err := readProxy(io.MultiReader(bytes.NewReader(b[:used]), strings.NewReader("EHLO x\r\n")))
		if err != nil || again != client {
			t.Errorf("again: got %v, %v, want %v", again, err, client)
		}
	})
}

// FuzzTold: what is told holds no control characters, and an address without a zone.
func FuzzTold(f *testing.F) {
	for _, s := range []string{"NAME=a ADDR=192.0.2.7 PORT=25 PROTO=ESMTP HELO=b", "ADDR=IPV6:::1", "ADDR=[UNAVAILABLE]", "HELO=a+2Eb", "SOURCE=LOCAL IDENT=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, words := range []string{clientWords, forwardWords} {
			got, ok := parseTold(told{}, words, s)
			if !ok {
				continue
			}
			if got.hello != "" && !hello(got.hello) || got.addr.Zone() != "" {
				t.Errorf("%q: got %+v", s, got)
			}
		}
	})
}
