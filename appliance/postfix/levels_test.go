package postfix_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
	"postern/filter/message"
	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver/resolvertest"
	"postern/filter/route"
	"postern/filter/socketmap"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// apart runs the test in a network and mount namespace of its own, where port
// 25 is free on every loopback address and the resolver is the test's. It
// reports whether this is the process inside.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv("POSTERN_APART") == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("Postfix starts as root only")
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\noptions edns0 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--net", "sh", "-c",
		`ip link set lo up && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, "sh", conf,
		os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), "POSTERN_APART="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

// rules are what the site asks for; a test changes them while all runs.
type rules struct {
	mutex sync.Mutex
	ways  map[string]policy.Way
}

func (r *rules) way(domain string) (policy.Way, string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.ways[domain], "test"
}

func (r *rules) set(domain string, w policy.Way) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.ways[domain] = w
}

// published are MTA-STS policies that are in force.
type published map[string]*mtasts.Policy

func (p published) Policy(_ context.Context, domain string) *mtasts.Policy { return p[domain] }

// serve answers Postfix at its socket until the test ends, or stop.
func serve(t *testing.T, c postfix.Config, r *route.Router) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Socket, 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		s := &socketmap.Server{Lookup: postfix.Policies{Route: r.Route, Way: r.Way}.Lookup}
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("socketmap: %v", err)
		}
		close(done)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

const body = "Only the two of us know this line."

// submit hands a mail over as filterd does.
func submit(t *testing.T, address, to string) {
	t.Helper()
	mail := "From: alice@company1.example\r\nTo: " + to + "\r\nSubject: offer\r\n\r\n" + body + "\r\n"
	res := hand(t, address, transport.Envelope{From: message.Address{Local: "alice", Domain: "company1.example"}}, to, mail)
	if res.Err != nil || res.Replies[0].Code != 250 {
		t.Fatalf("submit to %s: got %+v", to, res)
	}
}

// hand gives one mail with one recipient to the port at address.
func hand(t *testing.T, address string, e transport.Envelope, to, mail string) transport.Result {
	t.Helper()
	h := &transport.Hop{Address: address, Name: "gw.company1.example"}
	defer h.Close()
	a, err := message.ParseAddress(to)
	if err != nil {
		t.Fatal(err)
	}
	e.Recipients = []transport.Recipient{{Address: a, Notify: "FAILURE,DELAY"}}
	if strings.HasPrefix(to, "bob@") {
		e.Recipients[0].Original = "rfc822;" + to
	}
	return h.Deliver(t.Context(), &e, int64(len(mail)), strings.NewReader(mail))
}

func tls12(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }

func suites(list ...uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, list }
}

// Every level by success and by refusal. Where it refuses, nothing of a mail is
// said to the partner, the mail waits, and its sender hears of it.
func TestLevels(t *testing.T) {
	if !apart(t) {
		return
	}
	ca, other := certtest.New(t, certtest.CA("authority")), certtest.New(t, certtest.CA("authority"))
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	at := func(l policy.Level) policy.Way { return policy.Way{Level: l} }
	pinned := func(c tls.Certificate) policy.Way { return policy.Way{Level: policy.Pin, Pins: [][32]byte{pin(c)}} }
	spare := certify(t, other, later, "spare.example")

	var zones []resolvertest.Zone
	sts := published{}
	site := &rules{ways: map[string]policy.Way{}}
	type partner struct {
		domain string
		server *hoptest.Partner
		want   string // how the mail arrives: TLS, clear, or "" where it waits
		strict bool
	}
	var partners []*partner
	// add makes a partner: name is its domain below "example".
	add := func(name string, way policy.Way, habit hoptest.Habit, want string, change ...func(*partner, *resolvertest.Zone)) {
		p := &partner{domain: name + ".example", want: want}
		z := resolvertest.Zone{Name: p.domain, Records: []string{"@ MX 10 mx", fmt.Sprintf("mx A 127.0.1.%d", len(partners)+1)}}
		for _, f := range change {
			f(p, &z)
		}
		site.ways[p.domain] = way
		zones, partners = append(zones, z), append(partners, p)
		p.server = hoptest.Listen(t, fmt.Sprintf("127.0.1.%d:25", len(partners)), habit)
	}
	mx := func(name string) tls.Certificate { return certify(t, ca, later, "mx."+name+".example") }
	unsigned := func(_ *partner, z *resolvertest.Zone) { z.Unsigned = true }
	record := func(text string) func(*partner, *resolvertest.Zone) {
		return func(_ *partner, z *resolvertest.Zone) { z.Records = append(z.Records, "_25._tcp.mx TLSA "+text) }
	}
	strict := func(p *partner, _ *resolvertest.Zone) { p.strict = true }
	enforced := func(names ...string) func(*partner, *resolvertest.Zone) {
		return func(p *partner, _ *resolvertest.Zone) {
			sts[p.domain] = &mtasts.Policy{ID: "1", Mode: mtasts.Enforce, MX: names, MaxAge: time.Hour, Expires: later}
		}
	}

	add("next-hop", at(policy.NextHop), plain, "clear")
	add("next-hop-tls", at(policy.NextHop), with(spare), "TLS")
	next := mx("next-hop-dane")
	add("next-hop-dane", at(policy.NextHop), with(spare), "", record(tlsa(next)))
	add("may", at(policy.May), plain, "clear")
	add("may-refused", at(policy.May), refusing(with(spare)), "clear")
	add("may-tls", at(policy.May), with(spare), "TLS")

	add("encrypt", at(policy.Encrypt), with(spare), "TLS")
	add("encrypt-none", at(policy.Encrypt), plain, "")
	add("encrypt-refused", at(policy.Encrypt), refusing(with(spare)), "")
	add("encrypt-3des", at(policy.Encrypt), with(spare, suites(tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA)), "")
	add("encrypt-static", at(policy.Encrypt), with(spare, suites(tls.TLS_RSA_WITH_AES_256_GCM_SHA384)), "TLS")
	add("pfs", policy.Way{Level: policy.Encrypt, PFS: true}, with(spare), "TLS")
	add("pfs-static", policy.Way{Level: policy.Encrypt, PFS: true}, with(spare, suites(tls.TLS_RSA_WITH_AES_256_GCM_SHA384)), "")
	add("min", policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS13}, with(spare), "TLS")
	add("min-old", policy.Way{Level: policy.Encrypt, Min: tls.VersionTLS13}, with(spare, tls12), "")

	add("verify", at(policy.Verify), with(mx("verify")), "TLS")
	add("verify-domain", at(policy.Verify), with(certify(t, ca, later, "verify-domain.example")), "TLS", unsigned)
	add("verify-none", at(policy.Verify), plain, "")
	add("verify-refused", at(policy.Verify), refusing(with(mx("verify-refused"))), "")
	add("verify-name", at(policy.Verify), with(certify(t, ca, later, "mx.elsewhere.example")), "")
	add("verify-unsure", at(policy.Verify), with(mx("verify-unsure")), "", unsigned) // anybody can say that this is its server
	add("verify-untrusted", at(policy.Verify), with(certify(t, other, later, "mx.verify-untrusted.example")), "")
	add("verify-expired", at(policy.Verify), with(certify(t, ca, past, "mx.verify-expired.example")), "")

	fits := mx("dane")
	add("dane", at(policy.DANE), with(fits), "TLS", record(tlsa(fits)))
	add("dane-wrong", at(policy.DANE), with(spare), "", record(tlsa(fits)))
	add("dane-forged", at(policy.DANE), with(spare), "", record(tlsa(fits)), func(_ *partner, z *resolvertest.Zone) {
		z.Forged = append(z.Forged, "_25._tcp.mx TLSA "+tlsa(spare))
	})
	add("dane-no-record", at(policy.DANE), with(spare), "TLS")
	add("dane-no-record-clear", at(policy.DANE), plain, "")
	add("dane-bare", at(policy.DANE), plain, "", record(tlsa(fits)))
	add("dane-only", at(policy.DANEOnly), with(fits), "TLS", record(tlsa(fits)))
	add("dane-only-no-record", at(policy.DANEOnly), with(spare), "")
	add("dane-only-unsigned", at(policy.DANEOnly), with(fits), "", record(tlsa(fits)), unsigned)

	add("pin", pinned(spare), with(spare), "TLS")
	add("pin-wrong", pinned(spare), with(mx("pin-wrong")), "")
	add("pin-none", pinned(spare), plain, "")

	add("sts", at(policy.May), with(mx("sts")), "TLS", unsigned, enforced("mx.sts.example"))
	add("sts-none", at(policy.May), plain, "", unsigned, enforced("mx.sts-none.example"))
	add("sts-name", at(policy.May), with(mx("sts")), "", unsigned, enforced("mx.sts-name.example"))
	add("sts-server", at(policy.May), with(mx("sts-server")), "", unsigned, enforced("mx.elsewhere.example"))
	add("sts-vouches", at(policy.Verify), with(mx("sts-vouches")), "TLS", unsigned, enforced("mx.sts-vouches.example"))
	add("sts-expired", at(policy.Verify), with(mx("sts-expired")), "", unsigned) // its policy vouched for the server until it ran out

	add("floor", at(policy.May), with(mx("floor")), "TLS", strict)
	add("floor-none", at(policy.May), plain, "", strict)
	add("floor-name", at(policy.Encrypt), with(spare), "", strict)
	add("floor-dane", at(policy.DANE), with(spare), "", strict, record(tlsa(fits)))
	add("floor-pin", pinned(spare), with(spare), "TLS", strict)

	world := resolvertest.Config{Port: 53}.Start(t, zones...)
	c := postfixtest.Config(t)
	inside := hoptest.Listen(t, c.Inside.Address, plain)
	c.CAFile = filepath.Join(filepath.Dir(c.Dir), "ca.pem")
	if err := os.WriteFile(c.CAFile, certtest.PEM(ca.Cert), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Warn, c.Retry, c.RetryMax = 2*time.Second, time.Second, 2*time.Second
	p := postfixtest.Start(t, c)
	stop := serve(t, c, &route.Router{Names: world.Client(), STS: sts, Way: site.way})

	for _, one := range partners {
		submit(t, map[bool]string{true: c.Strict, false: c.Listen}[one.strict], "bob@"+one.domain)
	}
	for _, one := range partners {
		line := p.Await("to=<bob@"+one.domain+">", "status=")
		if want := map[bool]string{true: "status=sent", false: "status=deferred"}[one.want != ""]; !strings.Contains(line, want) {
			t.Errorf("%s: got %q, want %s", one.domain, line, want)
		} else if one.want == "" { // and it waits on, however often it is tried
			await(t, "second try to "+one.domain, func() bool { return len(p.Lines("to=<bob@"+one.domain+">", "status=deferred")) > 1 })
		}
	}
	waiting, err := postfix.Queue(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	check := func(one *partner) {
		t.Helper()
		mails := one.server.Mails()
		clear, _, _ := one.server.Heard()
		if one.want == "" {
			if len(mails) > 0 || strings.Contains(strings.ToUpper(clear), "MAIL") {
				t.Errorf("%s: got %d mails, in clear %q, want nothing of a mail", one.domain, len(mails), clear)
			}
			if !waiting.Has("bob@" + one.domain) {
				t.Errorf("%s: the mail is not in the queue", one.domain)
			}
			if t.Failed() {
				return
			}
			await(t, "warning about "+one.domain, func() bool {
				mails := inside.Mails()
				for _, m := range mails {
					if strings.Contains(m, "<bob@"+one.domain+">") && strings.Contains(m, "Action: delayed") {
						return true
					}
				}
				return false
			})
			return
		}
		if len(mails) != 1 || !strings.HasPrefix(mails[0], one.want+" ") || !strings.Contains(mails[0], body) || one.want == "TLS" && strings.Contains(strings.ToUpper(clear), "MAIL") {
			t.Errorf("%s: got %q, in clear %q, want one mail by %s", one.domain, mails, clear, one.want)
		}
	}
	for _, one := range partners {
		check(one)
	}
	if t.Failed() {
		return
	}
	for _, m := range inside.Mails() {
		if strings.Contains(m, body) || !strings.Contains(m, "Subject: offer") || !strings.Contains(m, "RCPT TO:<alice@company1.example>") {
			t.Errorf("a report to the sender: got %.3000q, want the header of his mail only", m)
		}
	}

	// What is asked for changes without a word to Postfix.
	encrypts := func(domain string) *partner {
		for _, one := range partners {
			if one.domain == domain {
				return one
			}
		}
		t.Fatalf("no partner %s", domain)
		return nil
	}
	for domain, way := range map[string]policy.Way{"verify-name.example": at(policy.Encrypt), "pin-none.example": at(policy.May), "dane-wrong.example": pinned(spare)} {
		site.set(domain, way)
		await(t, "mail to "+domain+" leaves", func() bool { return len(encrypts(domain).server.Mails()) == 1 })
	}

	// filterd away: even what may go in clear waits.
	stop()
	before := encrypts("may.example")
	clear, _, _ := before.server.Heard()
	sessions := before.server.Sessions()
	submit(t, c.Listen, "carol@may.example")
	if line := p.Await("to=<carol@may.example>", "status="); !strings.Contains(line, "status=deferred") {
		t.Errorf("filterd away: got %q, want it deferred", line)
	}
	if now, _, mails := before.server.Heard(); mails != 1 || strings.Count(now, "MAIL") != strings.Count(clear, "MAIL") {
		t.Errorf("filterd away: got %d mails, %d sessions before, in clear %q", mails, sessions, now)
	}
	if err := os.Remove(c.Socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	serve(t, c, &route.Router{Names: world.Client(), STS: sts, Way: site.way})
	await(t, "filterd is back", func() bool { return len(before.server.Mails()) == 2 })

	// So with the resolver.
	world.Stop()
	submit(t, c.Listen, "dora@verify.example")
	if line := p.Await("to=<dora@verify.example>", "status="); !strings.Contains(line, "status=deferred") {
		t.Errorf("resolver away: got %q, want it deferred", line)
	}
	world.Resume(t)
	await(t, "the resolver is back", func() bool { return len(encrypts("verify.example").server.Mails()) == 2 })
}
