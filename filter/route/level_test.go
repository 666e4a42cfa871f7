package route

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/filter/message"
	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/resolver/resolvertest"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

const mail = "Subject: x\r\n\r\nbody\r\n"

// word tells errors apart as the table of replies does.
func word(err error) transport.Reply {
	switch {
	case errors.Is(err, ErrNowhere):
		return transport.Reply{Code: 550, Text: "nowhere"}
	case errors.Is(err, resolver.ErrAway):
		return transport.Reply{Code: 451, Text: "away"}
	case errors.Is(err, ErrUnsafe):
		return transport.Reply{Code: 451, Text: "unsafe"}
	case errors.Is(err, ErrLoop):
		return transport.Reply{Code: 554, Text: "loop"}
	case errors.Is(err, transport.ErrNextHop):
		return transport.Reply{Code: 451, Text: "next hop"}
	}
	return transport.Reply{Code: 451, Text: "other"}
}

func envelope(t testing.TB, to ...string) *transport.Envelope {
	t.Helper()
	e := &transport.Envelope{Trace: "TRACETRACETRACE1", From: message.Address{Local: "a", Domain: "from.example"}}
	for _, s := range to {
		a, err := message.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		e.Recipients = append(e.Recipients, transport.Recipient{Address: a})
	}
	return e
}

func deliver(t testing.TB, d *Direct, e *transport.Envelope) transport.Result {
	t.Helper()
	return d.Deliver(t.Context(), e, int64(len(mail)), strings.NewReader(mail))
}

// direct delivers to loopback, which only a test does.
func direct(w *resolvertest.World, port int, way policy.Way, sts Policies, roots *certtest.Authority) *Direct {
	return &Direct{
		Router: &Router{Names: w.Client(), STS: sts, Port: uint16(port), Way: func(string) (policy.Way, string) { return way, "rule" }},
		Name:   "gw.example", RootCAs: roots.Pool(), Word: word, Own: func(netip.Addr) bool { return false },
	}
}

// Every level, against a real signed zone through a real validating resolver,
// and a server that behaves well or badly. Where the level is not met not one
// byte of MAIL is said, in clear or in TLS, and the mail is deferred (R25).
func TestEveryLevelByItsRefusals(t *testing.T) {
	const ip = "127.0.71.1"
	port := freePort(t, ip)
	ca, stranger := certtest.New(t, certtest.CA("Test Authority")), certtest.New(t, certtest.CA("Test Authority"))
	domains := []string{"signed.example", "anchor.example", "digest.example", "forged.example", "unsigned.example", "useless.example", "sts.example"}
	var names []string
	for _, d := range domains {
		names = append(names, "mx."+d)
	}
	good, other := ca.Issue(t, certtest.Host(names...)), ca.Issue(t, certtest.Host("elsewhere.example"))
	ended := certtest.Host(names...)
	ended.NotBefore, ended.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	strange, old := stranger.Issue(t, certtest.Host(names...)), ca.Issue(t, ended)
	of := func(config *tls.Config, c tls.Certificate) *tls.Config {
		config.Certificates = []tls.Certificate{c}
		return config
	}
	key := association(good.Leaf, 1, 1)
	zone := func(name string, more ...string) resolvertest.Zone {
		return resolvertest.Zone{Name: name, Records: append([]string{"@ MX 10 mx", "mx A " + ip}, more...)}
	}
	record := func(usage, selector, matching int, data string) string {
		return fmt.Sprintf("_%d._tcp.mx TLSA %d %d %d %s", port, usage, selector, matching, data)
	}
	forged := zone("forged.example", record(3, 1, 1, strings.Repeat("00", 32)))
	forged.Forged = []string{record(3, 1, 1, key)}
	unsigned := zone("unsigned.example", record(3, 1, 1, strings.Repeat("00", 32)))
	unsigned.Unsigned = true
	sts := zone("sts.example")
	sts.Unsigned = true
	w := resolvertest.Start(t, zone("signed.example", record(3, 1, 1, key), record(3, 1, 1, association(old.Leaf, 1, 1))),
		zone("anchor.example", record(2, 0, 1, association(ca.Cert, 0, 1))), zone("digest.example", record(3, 1, 1, strings.Repeat("00", 32))),
		forged, unsigned, zone("useless.example", record(0, 0, 1, key)), sts)
	server := partner(t, ip, port)

	cbc := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}
	habits := map[string]hoptest.Habit{
		"good":              {TLS: of(&tls.Config{}, good)},
		"no STARTTLS":       {},
		"stripped STARTTLS": {TLS: of(&tls.Config{}, good), Strip: true},
		"refused STARTTLS":  {TLS: of(&tls.Config{}, good), Refuse: true},
		"wrong name":        {TLS: of(&tls.Config{}, other)},
		"untrusted":         {TLS: of(&tls.Config{}, strange)},
		"expired":           {TLS: of(&tls.Config{}, old)},
		"old TLS":           {TLS: of(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, good)},
		"weak cipher":       {TLS: of(cbc, good)},
		"TLS 1.2":           {TLS: of(&tls.Config{MaxVersion: tls.VersionTLS12}, good)},
	}
	pin := sha256.Sum256(good.Leaf.RawSubjectPublicKeyInfo)
	enforced := published{"sts.example": mtasts.Policy{Mode: mtasts.Enforce, MX: []string{"mx.sts.example"}}}
	elsewhere := published{"sts.example": mtasts.Policy{Mode: mtasts.Enforce, MX: []string{"mx.other.example"}}}
	may, encrypt, verify := policy.Way{Level: policy.May}, policy.Way{Level: policy.Encrypt}, policy.Way{Level: policy.Verify}
	dane, only := policy.Way{Level: policy.DANE}, policy.Way{Level: policy.DANEOnly}
	pinned, wrong := policy.Way{Level: policy.Pin, Pins: [][32]byte{pin}}, policy.Way{Level: policy.Pin, Pins: [][32]byte{{1}}}
	late := policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS13}
	const safe, plain, refused = "TLS", "clear", "refused"
	bad := []string{"no STARTTLS", "stripped STARTTLS", "refused STARTTLS", "old TLS", "weak cipher"}
	for _, c := range []struct {
		domain string
		way    policy.Way
		floor  policy.Level
		sts    Policies
		habits []string
		want   string
	}{
		{"signed.example", may, "", nil, []string{"good", "wrong name", "untrusted", "expired", "TLS 1.2"}, safe},
		{"signed.example", may, "", nil, bad, plain},
		{"signed.example", encrypt, "", nil, []string{"good", "wrong name", "untrusted", "expired", "TLS 1.2"}, safe},
		{"signed.example", encrypt, "", nil, bad, refused},
		{"signed.example", late, "", nil, []string{"good"}, safe},
		{"signed.example", late, "", nil, []string{"TLS 1.2"}, refused},
		{"signed.example", verify, "", nil, []string{"good", "TLS 1.2"}, safe},
		{"signed.example", verify, "", nil, append(bad, "wrong name", "untrusted", "expired"), refused},
		{"signed.example", pinned, "", nil, []string{"good"}, safe},
		{"signed.example", pinned, "", nil, append(bad, "wrong name", "untrusted", "expired"), refused},
		{"signed.example", wrong, "", nil, []string{"good"}, refused},
		{"signed.example", dane, "", nil, []string{"good", "expired"}, safe}, // the key is what counts (RFC 7671 §5.1)
		{"signed.example", dane, "", nil, append(bad, "wrong name", "untrusted"), refused},
		{"signed.example", only, "", nil, []string{"good"}, safe},
		{"signed.example", only, "", nil, append(bad, "wrong name", "untrusted"), refused},
		{"signed.example", may, policy.Verify, nil, []string{"good"}, safe},
		{"signed.example", may, policy.Verify, nil, append(bad, "wrong name", "untrusted"), refused},

		{"anchor.example", dane, "", nil, []string{"good"}, safe},
		{"anchor.example", dane, "", nil, append(bad, "wrong name", "untrusted", "expired"), refused},
		{"digest.example", dane, "", nil, []string{"good"}, refused},
		{"digest.example", only, "", nil, []string{"good"}, refused},
		{"digest.example", may, policy.Verify, nil, []string{"good"}, refused},
		{"forged.example", dane, "", nil, []string{"good", "no STARTTLS"}, refused},
		{"forged.example", only, "", nil, []string{"good"}, refused},
		{"unsigned.example", dane, "", nil, []string{"good", "untrusted"}, safe}, // its record counts for nothing
		{"unsigned.example", dane, "", nil, bad, refused},
		{"unsigned.example", only, "", nil, []string{"good"}, refused},
		{"unsigned.example", verify, "", nil, []string{"good"}, refused}, // who says that this is its server?
		{"useless.example", dane, "", nil, []string{"good", "untrusted"}, safe},
		{"useless.example", dane, "", nil, bad, refused},

		{"sts.example", may, "", enforced, []string{"good"}, safe},
		{"sts.example", may, "", enforced, append(bad, "wrong name", "untrusted", "expired"), refused},
		{"sts.example", may, "", elsewhere, []string{"good"}, refused},
		{"sts.example", may, "", nil, []string{"no STARTTLS"}, plain}, // its policy has expired
		{"sts.example", verify, "", nil, []string{"good"}, refused},   // and vouches for no server any more
	} {
		for _, name := range c.habits {
			h, ok := habits[name]
			if !ok {
				t.Fatalf("no habit %q", name)
			}
			server.Become(h)
			d := direct(w, port, c.way, c.sts, ca)
			e := envelope(t, "b@"+c.domain)
			e.Floor = string(c.floor)
			res := deliver(t, d, e)
			d.Close()
			inClear, inTLS, mails := server.Heard()
			got := refused
			switch {
			case mails == 1 && strings.Contains(inTLS, "MAIL FROM"):
				got = safe
			case mails == 1:
				got = plain
			}
			at := fmt.Sprintf("%s, %s, level %s, floor %q", c.domain, name, c.way.Level, c.floor)
			if got != c.want {
				t.Errorf("%s: got %s, want %s (%v)", at, got, c.want, res)
			}
			if got != plain && strings.Contains(strings.ToUpper(inClear), "MAIL") {
				t.Errorf("%s: said in clear: %q", at, inClear)
			}
			if got == refused && (strings.Contains(inTLS, "MAIL") || res.Err != nil || res.Replies[0].Code != 451 || res.Carriage.Result != transport.LevelMissed) {
				t.Errorf("%s: got %+v, said in TLS %q, want it deferred", at, res, inTLS)
			}
			if got != refused && (res.Err != nil || res.Replies[0].Code != 250 || res.Carriage.Result != transport.LevelMet || strings.HasPrefix(res.Carriage.TLS, "TLS") != (got == safe)) {
				t.Errorf("%s: got %+v", at, res)
			}
		}
	}
}

// R25: all kinds of TLSA records that SMTP knows, each with the right certificate
// and with another one.
func TestKindsOfTLSA(t *testing.T) {
	const ip = "127.0.71.2"
	port := freePort(t, ip)
	ca := certtest.New(t, certtest.CA("Test Authority"))
	good := ca.Issue(t, certtest.Host("mx.kind.example"))
	another := certtest.New(t, certtest.CA("Test Authority")).Issue(t, certtest.Host("mx.kind.example"))
	server := partner(t, ip, port)
	w := resolvertest.Start(t, resolvertest.Zone{Name: "kind.example"})
	for _, usage := range []int{2, 3} {
		for _, selector := range []int{0, 1} {
			for _, matching := range []int{0, 1, 2} {
				c := good.Leaf
				if usage == 2 {
					c = ca.Cert
				}
				records := []string{"@ MX 10 mx", "mx A " + ip, fmt.Sprintf("_%d._tcp.mx TLSA %d %d %d %s", port, usage, selector, matching, association(c, selector, matching))}
				if matching == 2 { // one with the weaker hash that would fit counts no more
					records = append(records, fmt.Sprintf("_%d._tcp.mx TLSA %d %d 1 %s", port, usage, selector, association(another.Leaf, selector, 1)))
				}
				w.Set(t, resolvertest.Zone{Name: "kind.example", Records: records})
				for _, cert := range []tls.Certificate{good, another} {
					server.Become(hoptest.Showing(cert))
					d := direct(w, port, policy.Way{Level: policy.DANEOnly}, nil, ca)
					res := deliver(t, d, envelope(t, "b@kind.example"))
					d.Close()
					want := 250
					if cert.Leaf == another.Leaf {
						want = 451
					}
					if res.Replies[0].Code != want {
						t.Errorf("TLSA %d %d %d, right certificate %v: got %+v", usage, selector, matching, want == 250, res)
					}
				}
			}
		}
	}
}

// DNS goes away: mail is deferred. It comes back: mail goes at once (R37).
func TestNamesAway(t *testing.T) {
	const ip = "127.0.71.3"
	port := freePort(t, ip)
	ca := certtest.New(t, certtest.CA("Test Authority"))
	server := partner(t, ip, port)
	server.Become(hoptest.Habit{})
	w := resolvertest.Start(t, resolvertest.Zone{Name: "to.example", Records: []string{"@ MX 10 mx", "mx A " + ip}})
	d := direct(w, port, policy.Way{Level: policy.May}, nil, ca)
	defer d.Close()
	if res := deliver(t, d, envelope(t, "b@to.example")); res.Replies[0].Code != 250 {
		t.Fatalf("got %+v", res)
	}
	w.Stop()
	if res := deliver(t, d, envelope(t, "b@to.example")); res.Replies[0] != word(resolver.ErrAway) {
		t.Errorf("away: got %+v", res)
	}
	w.Resume(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if res := d.Deliver(ctx, envelope(t, "b@to.example"), int64(len(mail)), strings.NewReader(mail)); res.Replies[0].Code != 250 {
		t.Errorf("back: got %+v", res)
	}
}
