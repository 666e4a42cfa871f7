package transport

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// profiled is a listener's TLS with one certificate.
func profiled(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	cert, pool := certificate(t, "mx.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	config := Profile(0)
	config.Certificates = []tls.Certificate{cert}
	return config, pool
}

// secure goes on in TLS.
func (c *caller) secure(config *tls.Config) error {
	t := tls.Client(c.conn, config)
	if err := t.Handshake(); err != nil {
		return err
	}
	c.conn, c.r = t, bufio.NewReader(t)
	return nil
}

// starting is a caller who has said STARTTLS.
func starting(t testing.TB, addr string) *caller {
	t.Helper()
	c := call(t, addr)
	c.want("220 ")
	c.ask("EHLO client.example", "250-")
	c.ask("STARTTLS", "220 ")
	return c
}

func TestImplicitTLS(t *testing.T) {
	m := &mailbox{}
	config, pool := profiled(t)
	addr := serve(t, &Server{Handler: m, TLS: config, ImplicitTLS: true, RequireTLS: true})
	c := call(t, addr)
	if err := c.secure(&tls.Config{RootCAs: pool, ServerName: "mx.example"}); err != nil {
		t.Fatal(err)
	}
	c.want("220 gw.example ESMTP")
	if got := c.ask("EHLO client.example", "250-"); strings.Contains(got, "STARTTLS") {
		t.Errorf("EHLO: got %s, want no STARTTLS inside TLS", got)
	}
	c.ask("STARTTLS", "503 5.5.1")
	c.ask("MAIL FROM:<a@from.example>", "250 ")
	c.ask("RCPT TO:<b@to.example>", "250 ")
	c.ask("DATA", "354 ")
	c.say("x\r\n.\r\n")
	c.want("250 ")
	if mails := m.got(); len(mails) != 1 || mails[0].env.TLS == nil {
		t.Errorf("got %+v, want one mail over TLS", mails)
	}
	// Whoever speaks in clear hears no word of SMTP.
	c = call(t, addr)
	c.say("EHLO client.example\r\n")
	heard, _ := io.ReadAll(c.conn)
	if len(heard) > 0 && heard[0] != 21 { // an alert
		t.Errorf("in clear: heard %q, want nothing of SMTP", heard)
	}
}

// failing is a key in a token that can go away.
type failing struct {
	crypto.Signer
	away *atomic.Bool
}

var errAway = errors.New("away")

func (f failing) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if f.away.Load() {
		return nil, errAway
	}
	return f.Signer.Sign(r, digest, opts)
}

// R37: a token that is away in a handshake ends the session. Nothing more is
// said or heard in clear on it, whatever the listener's mode.
func TestTokenAwayIsNoDowngrade(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		m := &mailbox{}
		config, pool := profiled(t)
		var away atomic.Bool
		away.Store(true)
		config.Certificates[0].PrivateKey = failing{config.Certificates[0].PrivateKey.(crypto.Signer), &away}
		addr := serve(t, &Server{Handler: m, TLS: config})
		client := &tls.Config{RootCAs: pool, ServerName: "mx.example", MinVersion: version, MaxVersion: version}
		c := starting(t, addr)
		plain := c.conn
		if err := c.secure(client); err == nil {
			t.Fatal("handshake: got none to fail")
		}
		io.WriteString(plain, "EHLO client.example\r\nMAIL FROM:<a@from.example>\r\nRCPT TO:<b@to.example>\r\nDATA\r\nx\r\n.\r\n")
		if heard, _ := io.ReadAll(plain); len(heard) > 0 {
			t.Errorf("after it: heard %q, want the connection closed", heard)
		}
		away.Store(false)
		c = starting(t, addr)
		if err := c.secure(client); err != nil {
			t.Errorf("token back: got %v", err)
		}
		c.ask("EHLO client.example", "250-")
		if got := m.got(); len(got) != 0 {
			t.Errorf("got %d mails, want none", len(got))
		}
	}
}

func TestHandshakeTimeOut(t *testing.T) {
	config, _ := profiled(t)
	addr := serve(t, &Server{Handler: &mailbox{}, TLS: config, Timeouts: Timeouts{Handshake: 20 * time.Millisecond}})
	starting(t, addr).closed()
	c := starting(t, addr)
	c.say("\x16\x03\x01\x02\x00\x01\x00") // the beginning of one
	c.closed()
	addr = serve(t, &Server{Handler: &mailbox{}, TLS: config, ImplicitTLS: true, Timeouts: Timeouts{Handshake: 20 * time.Millisecond}})
	call(t, addr).closed()
}

// R48: who is slow with his handshake loses his place in a full house.
func TestSlowHandshakesKeepNobodyOut(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		config, pool := profiled(t)
		addr := serve(t, &Server{Handler: &mailbox{}, TLS: config, ImplicitTLS: implicit, MaxConns: 4, MaxPerClient: 100})
		client := &tls.Config{RootCAs: pool, ServerName: "mx.example"}
		// reach goes up to the handshake; false where the house is full of
		// clients that are worked for in this moment.
		reach := func() (*caller, bool) {
			c := call(t, addr)
			if implicit {
				return c, true
			}
			if !strings.HasPrefix(c.reply(), "220 ") {
				return c, false
			}
			c.ask("EHLO client.example", "250-")
			c.ask("STARTTLS", "220 ")
			return c, true
		}
		for range 20 {
			if c, ok := reach(); ok {
				io.WriteString(c.conn, "\x16\x03\x01\x02\x00\x01\x00")
			}
		}
		c, ok := reach()
		for tries := 0; !ok || c.secure(client) != nil; tries++ {
			if tries == 1000 {
				t.Fatalf("implicit %v: nobody gets in", implicit)
			}
			c, ok = reach()
		}
		if implicit {
			c.want("220 ")
		}
		c.ask("EHLO client.example", "250-")
	}
}

// Only what the profile names is spoken.
func TestProfile(t *testing.T) {
	config, pool := profiled(t)
	addr := serve(t, &Server{Handler: &mailbox{}, TLS: config, MaxPerClient: 100})
	recent := Profile(tls.VersionTLS13)
	recent.Certificates = config.Certificates
	only13 := serve(t, &Server{Handler: &mailbox{}, TLS: recent})
	v12 := func(suites ...uint16) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: suites}
	}
	groups := func(g ...tls.CurveID) *tls.Config { return &tls.Config{CurvePreferences: g} }
	for _, c := range []struct {
		name   string
		addr   string
		client *tls.Config
		good   bool
	}{
		{"TLS 1.3", addr, &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"TLS 1.2", addr, v12(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), true},
		{"TLS 1.2, AES-128", addr, v12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), true},
		{"TLS 1.2, ChaCha20", addr, v12(tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256), true},
		{"CBC", addr, v12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA), false},
		{"no forward secrecy", addr, v12(tls.TLS_RSA_WITH_AES_128_GCM_SHA256), false},
		{"TLS 1.1", addr, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"TLS 1.2 where 1.3 is the lowest", only13, v12(), false},
		{"TLS 1.3 where it is the lowest", only13, &tls.Config{}, true},
		{"ML-KEM", addr, groups(tls.X25519MLKEM768), true},
		{"X25519", addr, groups(tls.X25519), true},
		{"P-256", addr, groups(tls.CurveP256), true},
		{"P-384", addr, groups(tls.CurveP384), true},
		{"P-521", addr, groups(tls.CurveP521), false},
	} {
		c.client.RootCAs, c.client.ServerName = pool, "mx.example"
		conn := starting(t, c.addr)
		if err := conn.secure(c.client); (err == nil) != c.good {
			t.Errorf("%s: got %v, want good %v", c.name, err, c.good)
		} else if err == nil {
			conn.ask("EHLO client.example", "250-")
		}
	}
}

// Tickets resume a session for a while, and their keys change: neither another
// process nor this one later opens an old ticket.
func TestTicketsRotate(t *testing.T) {
	config, _ := profiled(t)
	var later atomic.Int64
	config.Time = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	long, pool := certificate(t, "mx.example", time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
	config.Certificates[0] = long
	addr := serve(t, &Server{Handler: &mailbox{}, TLS: config, MaxPerClient: 100})
	another := Profile(0)
	another.Certificates = config.Certificates
	elsewhere := serve(t, &Server{Handler: &mailbox{}, TLS: another})
	client := &tls.Config{RootCAs: pool, ServerName: "mx.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	resumed := func(addr string) bool {
		c := starting(t, addr)
		if err := c.secure(client); err != nil {
			t.Fatal(err)
		}
		c.ask("EHLO client.example", "250-") // the ticket has come when this has
		return c.conn.(*tls.Conn).ConnectionState().DidResume
	}
	for _, step := range []struct {
		name  string
		addr  string
		after time.Duration
		want  bool
	}{
		{"first", addr, 0, false},
		{"at once", addr, 0, true},
		{"by another process", elsewhere, 0, false},
		{"back", addr, 0, false},
		{"an hour later", addr, time.Hour, true},
		{"when the key has changed", addr, 12 * time.Hour, true},
		{"22 hours later, the key gone", addr, 34*time.Hour + 5*time.Minute, false},
		{"when nobody came for long", addr, 34*time.Hour + 6*time.Minute, true},
		{"a day after it", addr, 59 * time.Hour, false},
		{"the clock goes back", addr, time.Hour, false},
		{"and on", addr, 2 * time.Hour, true},
	} {
		later.Store(int64(step.after))
		if got := resumed(step.addr); got != step.want {
			t.Errorf("%s: got resumed %v, want %v", step.name, got, step.want)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	now := time.Now()
	trusted, cas := certificate(t, "MX.partner.example", now.Add(-time.Hour), now.Add(time.Hour))
	stranger, _ := certificate(t, "mx.evil.example", now.Add(-time.Hour), now.Add(time.Hour))
	expired, old := certificate(t, "mx.old.example", now.Add(-2*time.Hour), now.Add(-time.Hour))
	leaf := func(c tls.Certificate) *x509.Certificate {
		x, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	cas.AddCert(leaf(expired))
	_ = old
	pin := func(c tls.Certificate) [32]byte { return sha256.Sum256(leaf(c).RawSubjectPublicKeyInfo) }
	none := tls.Certificate{}
	for _, c := range []struct {
		name    string
		clients Clients
		shows   tls.Certificate
		good    bool
		want    ClientCert
	}{
		{"not asked", Clients{}, trusted, true, ClientCert{}},
		{"asked, none", Clients{Mode: ClientAsk, CAs: cas}, none, true, ClientCert{}},
		{"asked, of an authority", Clients{Mode: ClientAsk, CAs: cas}, trusted, true, ClientCert{Pin: pin(trusted), Known: true, Names: []string{"mx.partner.example"}}},
		{"asked, of nobody", Clients{Mode: ClientAsk, CAs: cas}, stranger, true, ClientCert{Pin: pin(stranger)}},
		{"asked, expired", Clients{Mode: ClientAsk, CAs: cas}, expired, true, ClientCert{Pin: pin(expired)}},
		{"asked, pinned", Clients{Mode: ClientAsk, Pins: [][32]byte{pin(stranger)}}, stranger, true, ClientCert{Pin: pin(stranger), Known: true}},
		{"required, none", Clients{Mode: ClientRequire, CAs: cas}, none, false, ClientCert{}},
		{"required, of an authority", Clients{Mode: ClientRequire, CAs: cas}, trusted, true, ClientCert{Pin: pin(trusted), Known: true, Names: []string{"mx.partner.example"}}},
		{"required, of nobody", Clients{Mode: ClientRequire, CAs: cas}, stranger, false, ClientCert{}},
		{"required, expired", Clients{Mode: ClientRequire, CAs: cas}, expired, false, ClientCert{}},
		{"required, pinned", Clients{Mode: ClientRequire, Pins: [][32]byte{pin(expired)}}, expired, true, ClientCert{Pin: pin(expired), Known: true}},
		{"required, and nobody is known", Clients{Mode: ClientRequire}, trusted, false, ClientCert{}},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			m := &mailbox{}
			config, pool := profiled(t)
			c.clients.Ask(config)
			conn := starting(t, serve(t, &Server{Handler: m, TLS: config, Clients: c.clients}))
			client := &tls.Config{RootCAs: pool, ServerName: "mx.example", MinVersion: version, MaxVersion: version}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.shows, nil }
			err := conn.secure(client)
			if err == nil && !c.good { // of TLS 1.3 the client learns with the first answer
				io.WriteString(conn.conn, "EHLO client.example\r\n")
				_, err = conn.r.ReadByte()
			}
			if (err == nil) != c.good {
				t.Errorf("%s, %s: got %v, want good %v", c.name, tls.VersionName(version), err, c.good)
			}
			if err != nil {
				continue
			}
			conn.ask("EHLO client.example", "250-")
			conn.ask("MAIL FROM:<a@from.example>", "250 ")
			conn.ask("RCPT TO:<b@to.example>", "250 ")
			conn.ask("DATA", "354 ")
			conn.say("x\r\n.\r\n")
			conn.want("250 ")
			if got := m.got()[0].env.Cert; got.Pin != c.want.Pin || got.Known != c.want.Known || !slices.Equal(got.Names, c.want.Names) {
				t.Errorf("%s, %s: got %+v, want %+v", c.name, tls.VersionName(version), got, c.want)
			}
		}
	}
}

// What the handler says of a sender is the answer to MAIL, before any recipient.
func TestSenderIsAsked(t *testing.T) {
	for _, c := range []struct {
		name string
		err  func() error
		want string
		ends bool
	}{
		{"a reply", func() error { return Reply{530, [3]int{5, 7, 0}, "must issue STARTTLS"} }, "530 5.7.0 must issue STARTTLS", false},
		{"trouble", func() error { return errAway }, "451 4.3.0", false},
		{"panic", func() error { panic("sender") }, "451 4.3.0", true},
	} {
		refuse := true
		m := &mailbox{sender: func(e *Envelope) error {
			if !refuse {
				return nil
			}
			return c.err()
		}}
		conn := call(t, serve(t, &Server{Handler: m}))
		conn.want("220 ")
		conn.ask("EHLO client.example", "250-")
		conn.ask("MAIL FROM:<a@from.example>", c.want)
		if c.ends {
			conn.closed()
			continue
		}
		conn.ask("RCPT TO:<b@to.example>", "503 5.5.1")
		refuse = false
		conn.ask("MAIL FROM:<a@from.example>", "250 ")
	}
}

// R24: what is said ahead of implicit TLS breaks the handshake.
func TestNothingBeforeImplicitTLS(t *testing.T) {
	m := &mailbox{}
	config, pool := profiled(t)
	c := call(t, serve(t, &Server{Handler: m, TLS: config, ImplicitTLS: true}))
	c.say("EHLO evil.example\r\nMAIL FROM:<evil@from.example>\r\n")
	if err := c.secure(&tls.Config{RootCAs: pool, ServerName: "mx.example"}); err == nil {
		t.Error("implicit TLS behind plain text: got a handshake")
	}
	var late net.Error
	if _, err := c.conn.Read(make([]byte, 1)); err == nil || errors.As(err, &late) && late.Timeout() {
		t.Errorf("got %v, want the connection closed", err)
	}
	if got := m.got(); len(got) > 0 {
		t.Errorf("got %d mails, want none", len(got))
	}
}
