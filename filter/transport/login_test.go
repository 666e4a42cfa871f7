package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// book is a Login with one account, that says what the test wants.
type book struct {
	err    error
	panics bool
	heard  []string
}

func (b *book) Mechanisms(*tls.ConnectionState) []string { return []string{"PLAIN", "LOGIN"} }

func (b *book) Begin(mechanism string, _ netip.Addr, _ *tls.ConnectionState) Exchange {
	if mechanism != "PLAIN" && mechanism != "LOGIN" {
		return nil
	}
	return &knock{b: b, more: mechanism == "LOGIN"}
}

type knock struct {
	b    *book
	more bool
	said []string
}

func (k *knock) Next(_ context.Context, said []byte) ([]byte, *Account, error) {
	if k.b.panics {
		panic("Marker-Secret-1f " + string(said))
	}
	if said == nil {
		return []byte{}, nil, nil
	}
	k.said = append(k.said, string(said))
	k.b.heard = append(k.b.heard, string(said))
	if k.more && len(k.said) < 2 {
		return []byte("Password:"), nil, nil
	}
	if k.b.err != nil {
		return nil, nil, k.b.err
	}
	return nil, &Account{"alice", []string{"alice@company1.example", "*@sales.company1.example"}}, nil
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// secured calls a server, and goes up to EHLO over TLS.
func secured(t *testing.T, addr string) *caller {
	t.Helper()
	c := call(t, addr)
	c.want("220 ")
	if got := c.ask("EHLO client.example", "250-"); strings.Contains(got, "AUTH") {
		t.Errorf("in clear: got %q, want no AUTH", got)
	}
	c.ask("STARTTLS", "220 ")
	s := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	s.SetDeadline(time.Now().Add(time.Minute))
	c.conn = s
	c.r.Reset(s)
	if got := c.ask("EHLO client.example", "250-"); !strings.Contains(got, "|250-AUTH PLAIN LOGIN|") && !strings.Contains(got, "|250 AUTH PLAIN LOGIN") {
		t.Errorf("over TLS: got %q, want AUTH", got)
	}
	return c
}

// TestLogin (R27): who has logged in over TLS may write, as himself.
func TestLogin(t *testing.T) {
	config, _ := valid(t)
	m, b := &mailbox{}, &book{}
	addr := serve(t, &Server{Handler: m, TLS: config, Login: b, RequireLogin: true})

	c := secured(t, addr)
	for _, line := range []string{"MAIL FROM:<alice@company1.example>", "RCPT TO:<b@to.example>", "DATA", "VRFY x"} {
		c.ask(line, "530 5.7.0")
	}
	c.ask("NOOP", "250 ")
	c.ask("RSET", "250 ")
	c.ask("AUTH CRAM-MD5", "504 5.5.4")
	c.ask("AUTH PLAIN", "334 ")
	c.ask("*", "501 5.7.0")
	c.ask("auth plain "+b64("\x00alice\x00secret"), "235 2.7.0")
	if got := c.ask("EHLO client.example", "250-"); strings.Contains(got, "AUTH") {
		t.Errorf("after AUTH: got %q, want no AUTH", got)
	}
	c.ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "503 5.5.1")
	c.ask("MAIL FROM:<bob@company1.example>", "553 5.7.1")
	c.ask("MAIL FROM:<alice@sales.company1.example.evil.example>", "553 5.7.1")
	c.ask("MAIL FROM:<x@sub.sales.company1.example>", "553 5.7.1")
	for _, from := range []string{"<Alice@Company1.example> AUTH=<>", "<x@sales.company1.example> AUTH=e+3Dmc2@example.com", "<>"} {
		c.ask("MAIL FROM:"+from, "250 ")
		c.ask("AUTH LOGIN", "503 5.5.1")
		c.ask("RCPT TO:<b@to.example>", "250 ")
		c.ask("DATA", "354 ")
		c.say("x\r\n.\r\n")
		c.want("250 ")
	}
	for _, got := range m.got() {
		if got.env.User != "alice" || len(got.env.Senders) != 2 {
			t.Errorf("got account %q with %q", got.env.User, got.env.Senders)
		}
	}
	c.ask("MAIL FROM:<alice@company1.example> AUTH=a=b", "501 5.5.4")

	// Line by line, the same.
	c = secured(t, addr)
	c.ask("AUTH LOGIN", "334 ")
	c.ask(b64("alice"), "334 "+b64("Password:"))
	c.ask(b64("secret"), "235 ")
	// "=" is an initial response of nothing (RFC 4954 §4), and is no missing one.
	c = secured(t, addr)
	c.ask("AUTH PLAIN =", "235 ")
	if want := "\x00alice\x00secret|alice|secret|"; strings.Join(b.heard, "|") != want {
		t.Errorf("got %q, want %q", b.heard, want)
	}
	// As long as RFC 4954 §4 lets a line be.
	c = secured(t, addr)
	c.ask("AUTH PLAIN", "334 ")
	c.ask(b64(strings.Repeat("x", 9213)), "235 ") // 12,284 characters
	c = secured(t, addr)
	c.ask("AUTH PLAIN "+b64(strings.Repeat("x", 9204)), "235 ")
}

// What is no AUTH, or fails, is nothing else either (R27): where a client is out of
// step with the exchange, the session ends before its secret is read as a command.
func TestLoginRefused(t *testing.T) {
	config, _ := valid(t)
	secret := b64("\x00alice\x00Marker-Secret-1f")
	for _, test := range []struct {
		name   string
		book   *book
		clear  bool
		say    []string
		want   []string
		closed bool
	}{
		{name: "not offered", clear: true, say: []string{"AUTH PLAIN " + secret}, want: []string{"502"}, closed: true},
		{name: "in clear", book: &book{}, clear: true, say: []string{"AUTH PLAIN " + secret}, want: []string{"538 5.7.11"}, closed: true},
		{name: "wrong", book: &book{err: ErrLoginRefused}, say: []string{"AUTH PLAIN " + secret, "AUTH PLAIN " + secret, "NOOP"}, want: []string{"535 5.7.8", "535 5.7.8", "250"}},
		{name: "wrong three times", book: &book{err: ErrLoginRefused}, say: []string{"AUTH PLAIN " + secret, "AUTH PLAIN " + secret, "AUTH PLAIN " + secret}, want: []string{"535", "535", "535"}, closed: true},
		{name: "away", book: &book{err: ErrLoginAway}, say: []string{"AUTH PLAIN " + secret, "NOOP"}, want: []string{"454 4.7.0", "250"}},
		{name: "unforeseen", book: &book{err: context.DeadlineExceeded}, say: []string{"AUTH PLAIN " + secret}, want: []string{"454 4.7.0"}},
		{name: "too many", book: &book{err: ErrLoginTooMany}, say: []string{"AUTH PLAIN " + secret}, want: []string{"454 4.7.0"}, closed: true},
		{name: "malformed", book: &book{err: ErrLoginMalformed}, say: []string{"AUTH PLAIN " + secret}, want: []string{"501 5.5.2"}, closed: true},
		{name: "panic", book: &book{panics: true}, say: []string{"AUTH PLAIN " + secret}, want: []string{"454 4.7.0"}, closed: true},
		{name: "no base64", book: &book{}, say: []string{"AUTH PLAIN Marker-Secret-1f"}, want: []string{"501 5.5.2"}, closed: true},
		{name: "no base64 in the exchange", book: &book{}, say: []string{"AUTH LOGIN", "alice"}, want: []string{"334", "501 5.5.2"}, closed: true},
		{name: "a command in the exchange", book: &book{}, say: []string{"AUTH LOGIN", "MAIL FROM:<alice@company1.example>"}, want: []string{"334", "501 5.5.2"}, closed: true},
		{name: "did not wait", book: &book{}, say: []string{"AUTH LOGIN\r\n" + b64("alice") + "\r\n" + b64("Marker-Secret-1f")}, want: []string{"501 5.5.2"}, closed: true},
		{name: "did not wait after a mechanism that is not there", book: &book{}, say: []string{"AUTH NTLM\r\n" + b64("Marker-Secret-1f")}, want: []string{"504"}, closed: true},
		{name: "8-bit", book: &book{}, say: []string{"AUTH PLAIN Märker"}, want: []string{"500"}, closed: true},
		{name: "too long", book: &book{}, say: []string{"AUTH PLAIN " + strings.Repeat("A", maxSASL)}, want: []string{"500 5.5.2"}, closed: true},
		{name: "too long in the exchange", book: &book{}, say: []string{"AUTH PLAIN", strings.Repeat("A", maxSASL)}, want: []string{"334", "500 5.5.2"}, closed: true},
		{name: "bare LF", book: &book{}, say: []string{"AUTH LOGIN", "YWxp\nY2U="}, want: []string{"334", "554"}, closed: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			s := &Server{Handler: &mailbox{}, TLS: config, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
			if test.book != nil {
				s.Login = test.book
			}
			addr := serve(t, s)
			var c *caller
			if test.clear {
				c = call(t, addr)
				c.want("220 ")
				c.ask("EHLO client.example", "250-")
			} else {
				c = secured(t, addr)
			}
			for i, line := range test.say {
				c.ask(line, test.want[i])
			}
			if test.closed {
				c.closed()
			} else {
				c.ask("MAIL FROM:<anybody@from.example>", "250 ") // it is not required here, and nobody has logged in
			}
			c.conn.Close()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"Marker-Secret", secret, b64("Marker-Secret-1f")} {
				if strings.Contains(log.String(), word) {
					t.Errorf("the log has the secret:\n%s", &log)
				}
			}
			if test.name == "panic" && !strings.Contains(log.String(), "panic") {
				t.Errorf("the log does not say that something panicked:\n%s", &log)
			}
		})
	}
}

// slowBook waits as long as it may.
type slowBook struct{ book }

func (b *slowBook) Begin(string, netip.Addr, *tls.ConnectionState) Exchange { return b }

func (b *slowBook) Next(ctx context.Context, said []byte) ([]byte, *Account, error) {
	<-ctx.Done()
	return nil, nil, ErrLoginAway
}

// Logins that take their time keep nobody out of a full house (R48), and hold up
// no shutdown.
func TestSlowLogins(t *testing.T) {
	config, _ := valid(t)
	m := &mailbox{}
	s := &Server{Handler: m, TLS: config, Login: &slowBook{}, MaxConns: 3}
	addr := serve(t, s)
	var waiting []*caller
	for i := range 3 {
		c := secured(t, addr)
		c.say("AUTH PLAIN " + b64("\x00alice\x00secret") + "\r\n")
		waiting = append(waiting, c)
		eventually(t, "they wait", func() bool {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			n := 0
			for g := range s.guards {
				g.mutex.Lock()
				if g.giveUp != nil {
					n++
				}
				g.mutex.Unlock()
			}
			return n > i
		})
	}
	c := call(t, addr)
	c.upToData()
	c.say("x\r\n.\r\n")
	c.want("250 ")
	waiting[0].want("454 4.7.0")
	waiting[0].want("421 4.3.2 closing")
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	for _, c := range waiting[1:] {
		c.want("454 4.7.0")
	}
	for _, c := range append(waiting, c) {
		c.conn.Close()
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: got %v", err)
	}
}

// TestOwns (R27): an account writes as its own addresses, and no pattern says more
// than it spells.
func TestOwns(t *testing.T) {
	for _, test := range []struct {
		user    string
		senders []string
		from    string
		want    bool
	}{
		{"a", []string{"a@x.example"}, "a@x.example", true},
		{"a", []string{"a@x.example"}, "A@X.example", true},
		{"a", []string{"a@x.example"}, "b@x.example", false},
		{"a", []string{"a@x.example"}, "a@sub.x.example", false},
		{"a", []string{"*@x.example"}, "anybody@x.example", true},
		{"a", []string{"*@X.example"}, "anybody@x.example", true},
		{"a", []string{"*@x.example"}, "anybody@sub.x.example", false},
		{"a", []string{"*@"}, "a@x.example", false},
		{"a", []string{"*", "x.example", "@x.example", ""}, "a@x.example", false},
		{"", []string{"a@x.example"}, "a@x.example", false},
		{"a", nil, "a@x.example", false},
	} {
		e := &Envelope{User: test.user, Senders: test.senders}
		if got := e.Owns(address(t, test.from)); got != test.want {
			t.Errorf("%q with %q as %s: got %v, want %v", test.user, test.senders, test.from, got, test.want)
		}
	}
	if e := (&Envelope{User: "a", Senders: []string{"*@x.example"}}); e.Owns(Envelope{}.From) {
		t.Error("got the null sender, want nobody's")
	}
}

// FuzzLogin: whatever a client says in AUTH, the guard ends in a reply, and what
// was decoded is what base64 says.
func FuzzLogin(f *testing.F) {
	for _, s := range []string{"", "=", "*", "AAAA", "AA==", "A", "A===", "YWxp\nY2U=", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := response(line)
		if !ok {
			return
		}
		if again := base64.StdEncoding.EncodeToString(got); again != line && !slices.Contains([]string{"", "="}, line) {
			t.Errorf("%q: got %q, which is %q", line, got, again)
		}
	})
}
