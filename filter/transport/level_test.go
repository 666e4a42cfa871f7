package transport

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// tlsHop is a next hop that starts TLS with config, and then plays.
func tlsHop(config *tls.Config, ehlo, starttls string, ahead string, play func(*line)) func(*line) {
	return func(l *line) {
		l.say("220 hop")
		for {
			s := l.hear()
			switch {
			case s == "":
				return
			case strings.HasPrefix(s, "EHLO"):
				l.say(ehlo)
			case s == "STARTTLS":
				io.WriteString(l.conn, starttls+"\r\n"+ahead)
				if !strings.HasPrefix(starttls, "220") {
					continue
				}
				c := tls.Server(l.conn, config)
				if c.Handshake() != nil {
					return
				}
				inside := &line{f: l.f, conn: c, n: l.n}
				inside.r = bufio.NewReader(c) // what is said in TLS is not recorded
				inside.hear()
				inside.say(everything)
				play(inside)
				return
			case s == "DATA":
				l.say("354 go")
				l.mail()
				l.say("250 in clear")
			case s == "QUIT":
				l.say("221 bye")
				return
			default:
				l.say("250 ok")
			}
		}
	}
}

// Below its level nothing of a mail is said (R25), and replies sent ahead of TLS
// end the way (R24).
func TestLevels(t *testing.T) {
	good, pool := certificate(t, "mx.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	old, oldPool := certificate(t, "mx.example", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	other, otherPool := certificate(t, "other.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	_, stranger := certificate(t, "mx.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	config := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	weak := config(good)
	weak.MaxVersion = tls.VersionTLS11
	weak.MinVersion = tls.VersionTLS10
	const offered, none, ready = "250-hop\n250 STARTTLS", "250 hop", "220 go"
	// For each level: tls, clear, or "" for trouble.
	for name, test := range map[string]struct {
		config               *tls.Config
		roots                *x509.CertPool
		ehlo, answer, ahead  string
		off, may, enc, verif string
	}{
		"good":                {config(good), pool, offered, ready, "", "clear", "tls", "tls", "tls"},
		"no STARTTLS":         {config(good), pool, none, ready, "", "clear", "clear", "", ""},
		"refused STARTTLS":    {config(good), pool, offered, "454 4.7.0 not now", "", "clear", "clear", "", ""},
		"wrong name":          {config(other), otherPool, offered, ready, "", "clear", "tls", "tls", ""},
		"untrusted":           {config(good), stranger, offered, ready, "", "clear", "tls", "tls", ""},
		"expired":             {config(old), oldPool, offered, ready, "", "clear", "tls", "tls", ""},
		"TLS 1.1":             {weak, pool, offered, ready, "", "clear", "clear", "", ""},
		"replies ahead of it": {config(good), pool, offered, ready, "250 injected\r\n", "clear", "", "", ""},
	} {
		for level, want := range map[string]string{TLSOff: test.off, TLSMay: test.may, TLSEncrypt: test.enc, TLSVerify: test.verif} {
			t.Run(name+" "+level, func(t *testing.T) {
				f := playing(t, tlsHop(test.config, test.ehlo, test.answer, test.ahead, func(l *line) {
					for _, answer := range []string{"250 ok", "250 ok", "354 go"} {
						l.hear()
						l.say(answer)
					}
					l.mail()
					l.say("250 in tls")
				}))
				h := &Hop{Address: f.addr, Name: "gw.example", Need: Need{TLS: level, ServerName: "mx.example"}, RootCAs: test.roots, MaxIdle: -1}
				res := deliver(t, h, envelope(t, "b@to.example"), "x\r\n")
				got := ""
				switch {
				case res.Err == nil && strings.HasPrefix(res.Carriage.TLS, "TLSv1.3:"):
					got = "tls"
				case res.Err == nil && res.Carriage.TLS == "clear":
					got = "clear"
				case !errors.Is(res.Err, ErrNextHop) || errors.As(res.Err, new(Reply)):
					t.Errorf("got error %v, want ErrNextHop", res.Err)
				}
				if got != want {
					t.Errorf("got %q (%v), want %q", got, res.Err, want)
				}
				if want != "clear" && strings.Contains(f.all(), "MAIL") {
					t.Errorf("said in clear: %q", f.all())
				}
				if err := h.Greet(t.Context()); (err == nil) != (want != "") {
					t.Errorf("Greet: got %v", err)
				}
			})
		}
	}
}

func TestRequireTLSKept(t *testing.T) {
	config, pool := valid(t)
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, TLS: config, OfferRequireTLS: true})
	e := envelope(t, "b@to.example")
	e.RequireTLS = true
	for level, want := range map[string]bool{TLSMay: false, TLSEncrypt: false, TLSVerify: true} {
		h := &Hop{Address: addr, Name: "gw.example", Need: Need{TLS: level, ServerName: "mx.example"}, RootCAs: pool}
		res := deliver(t, h, e, "x\r\n")
		if (res.Err == nil) != want {
			t.Errorf("%s: got %v", level, res.Err)
		}
		h.Close()
	}
	if got := m.got(); len(got) != 1 || !got[0].env.RequireTLS {
		t.Errorf("got %+v", got)
	}
}

// A level that names nothing it could look for is met by nobody.
func TestNeedWithoutNames(t *testing.T) {
	config, pool := valid(t)
	addr := serve(t, &Server{Handler: &mailbox{}, TLS: config})
	h := &Hop{Address: addr, Name: "gw.example", Need: Need{TLS: TLSVerify, ServerName: "mx.example", Names: []string{""}}, RootCAs: pool}
	defer h.Close()
	if res := deliver(t, h, envelope(t, "b@to.example"), "x\r\n"); !errors.Is(res.Err, ErrNextHop) || res.Carriage.Result != LevelMissed {
		t.Errorf("got %+v", res)
	}
}
