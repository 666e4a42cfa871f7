package transport

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

const mainCF = `mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example
relay_domains = to.example
relayhost = [127.0.0.1]:%s
smtpd_tls_security_level = may
smtpd_tls_chain_files = %s
smtpd_recipient_restrictions = check_recipient_access inline:{no@to.example=REJECT}, permit_mynetworks, reject
`

// postfix runs a private Postfix that relays to next, and gives its address and
// the certificate that it shows, alone in roots.
func postfix(t *testing.T, next string) (addr string, shown *x509.Certificate, roots *x509.CertPool) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("Postfix starts as root only")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	_, nextPort, _ := net.SplitHostPort(next)
	cert, roots := certificate(t, "postfix.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	chain := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(chain, certtest.Bundle(t, cert), 0o600); err != nil {
		t.Fatal(err)
	}
	hoptest.Postfix(t, hoptest.Here, fmt.Sprintf(mainCF, nextPort, chain), addr+" inet n - n - - smtpd\n", addr)
	return addr, cert.Leaf, roots
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// The real thing on both sides: what we hand to Postfix it hands to us.
func TestPostfix(t *testing.T) {
	m := &mailbox{}
	addr, _, roots := postfix(t, serve(t, &Server{Handler: m}))
	for _, level := range []string{TLSOff, TLSMay, TLSVerify} {
		h := &Hop{Address: addr, Name: "gw.example", Need: Need{TLS: level, ServerName: "postfix.example"}, RootCAs: roots}
		defer h.Close()
		if err := h.Greet(t.Context()); err != nil {
			t.Fatalf("%s: Greet: got %v", level, err)
		}
		for _, body := range []string{
			"Subject: plain\r\n\r\nx\r\n.\r\n..\r\n.x\r\nend\r\n",
			"Subject: 8-bit\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nM\xc3\xbcller\r\n",
			"Subject: long\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789", 99)+"\r\n", 2000),
		} {
			before := len(m.got())
			e := envelope(t, "b@to.example", "no@to.example", "c@to.example")
			e.Body, e.Return, e.ID = "8BITMIME", "HDRS", "id+2B"
			e.Recipients[0].Notify, e.Recipients[0].Original = "NEVER", "rfc822;orig@x.example"
			res := deliver(t, h, e, body)
			if res.Err != nil || !res.Replies[0].ok() || res.Replies[1].Code != 554 || !res.Replies[2].ok() || (res.Carriage.TLS == "clear") != (level == TLSOff) {
				t.Fatalf("%s: got %+v", level, res)
			}
			eventually(t, "Postfix hands on", func() bool { return len(m.got()) > before })
			got := m.got()[before]
			if _, rest, ok := strings.Cut(got.body, body[:10]); !ok || rest != body[10:] && !strings.HasSuffix(got.body, body[strings.Index(body, "\r\n\r\n"):]) {
				t.Errorf("%s: came back as %.300q", level, got.body)
			}
			if r := got.env.Recipients; len(r) != 2 || r[0].Notify != "NEVER" || r[0].Original != "rfc822;orig@x.example" || got.env.ID != "id+2B" || got.env.Return != "HDRS" || got.env.Body != "8BITMIME" {
				t.Errorf("%s: envelope came back as %+v", level, got.env)
			}
		}
	}
}

// A Postfix as a partner's server, at the levels that look at its certificate:
// with the right one of what was agreed on or published, and with another.
func TestPostfixProvesItself(t *testing.T) {
	addr, shown, roots := postfix(t, serve(t, &Server{Handler: &mailbox{}}))
	key, whole := sha256.Sum256(shown.RawSubjectPublicKeyInfo), sha512.Sum512(shown.Raw)
	for name, c := range map[string]struct {
		need Need
		ok   bool
	}{
		"name":             {Need{TLS: TLSVerify, Names: []string{"other.example", "postfix.example"}}, true},
		"other name":       {Need{TLS: TLSVerify, Names: []string{"other.example"}}, false},
		"key":              {Need{TLS: TLSPin, Pins: [][32]byte{{1}, key}}, true},
		"other key":        {Need{TLS: TLSPin, Pins: [][32]byte{{1}}}, false},
		"no key":           {Need{TLS: TLSPin}, false},
		"TLSA 3 1 1":       {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 1, 1, key[:]}}}, true},
		"TLSA 3 0 2":       {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 0, 2, whole[:]}}}, true},
		"TLSA 3 0 0":       {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 0, 0, shown.Raw}}}, true},
		"other TLSA":       {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 1, 1, make([]byte, 32)}}}, false},
		"one of two":       {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 1, 1, make([]byte, 32)}, {3, 1, 1, key[:]}}}, true},
		"a better hash":    {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 1, 2, make([]byte, 64)}, {3, 1, 1, key[:]}}}, false},
		"usage of the Web": {Need{TLS: TLSDANE, TLSA: []TLSA{{1, 1, 1, key[:]}}}, false},
		"too short":        {Need{TLS: TLSDANE, TLSA: []TLSA{{3, 1, 1, key[:31]}}}, false},
		"no TLSA":          {Need{TLS: TLSDANE}, false},
		"TLS 1.3":          {Need{TLS: TLSEncrypt, Min: tls.VersionTLS13}, true},
		"no such level":    {Need{TLS: "fine"}, false},
	} {
		h := &Hop{Address: addr, Name: "gw.example", Need: c.need, RootCAs: roots}
		res := deliver(t, h, envelope(t, "b@to.example"), "x\r\n")
		if (res.Err == nil && res.Replies[0].ok()) != c.ok {
			t.Errorf("%s: got %+v, want it taken: %v", name, res, c.ok)
		}
		if want := map[bool]string{true: LevelMet, false: LevelMissed}[c.ok]; res.Carriage.Result != want {
			t.Errorf("%s: got %+v, want %s", name, res.Carriage, want)
		}
		h.Close()
	}
}
