package postfix_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver/resolvertest"
	"postern/filter/route"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// A collector of reports on TLS (RFC 8460) hears of each handshake and of the
// MTA-STS policy behind it, where Postfix is one that tells; one that is older
// is asked for nothing that it does not know. Mail goes, or waits, as it would
// without.
func TestReports(t *testing.T) {
	if !apart(t) {
		return
	}
	ca, other := certtest.New(t, certtest.CA("authority")), certtest.New(t, certtest.CA("authority"))
	later := time.Now().Add(time.Hour)
	sts := published{}
	site := &rules{ways: map[string]policy.Way{}}
	var zones []resolvertest.Zone
	type partner struct {
		server *hoptest.Partner
		goes   bool
		told   []string // words of what the collector hears; "!word": without that one; "-": nothing is told
	}
	partners := map[string]*partner{}
	n := 0
	add := func(name string, mode mtasts.Mode, mx string, habit hoptest.Habit, goes bool, told ...string) {
		n++
		domain, ip := name+".example", "127.0.2."+string(rune('0'+n))
		zones = append(zones, resolvertest.Zone{Name: domain, Unsigned: true, Records: []string{"@ MX 10 mx", "mx A " + ip, `_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@` + domain + `"`}})
		site.ways[domain] = policy.Way{Level: policy.May}
		if mode != "" {
			sts[domain] = &mtasts.Policy{ID: "1", Mode: mode, MX: []string{mx}, MaxAge: time.Hour, Expires: later}
		}
		partners[domain] = &partner{hoptest.Listen(t, ip+":25", habit), goes, told}
	}
	cert := func(a *certtest.Authority, name string) hoptest.Habit {
		return with(certify(t, a, later, "mx."+name+".example"))
	}
	add("enforced", mtasts.Enforce, "mx.enforced.example", cert(ca, "enforced"), true, "mode: enforce", "mx: mx.enforced.example", "max_age: 3600")
	add("wild", mtasts.Enforce, "*.wild.example", cert(ca, "wild"), true, "mode: enforce", "*.wild.example")
	add("strange", mtasts.Enforce, "mx.strange.example", cert(other, "strange"), false, "mode: enforce", "strange.example")
	add("trial", mtasts.Testing, "mx.trial.example", cert(other, "trial"), true, "!STSv1")
	add("trial-none", mtasts.Testing, "mx.trial-none.example", plain, true, "-")
	add("trial-other", mtasts.Testing, "mx.elsewhere.example", cert(ca, "trial-other"), true, "!STSv1")
	add("nothing", "", "", cert(ca, "nothing"), true, "!STSv1")

	w := resolvertest.Config{Port: 53}.Start(t, zones...)
	c := postfixtest.Config(t)
	c.CAFile = filepath.Join(filepath.Dir(c.Dir), "ca.pem")
	c.TLSRPT = filepath.Join(filepath.Dir(c.Dir), "collector")
	if err := os.WriteFile(c.CAFile, certtest.PEM(ca.Cert), 0o644); err != nil {
		t.Fatal(err)
	}
	collector, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.TLSRPT, Net: "unixgram"})
	if err == nil {
		err = os.Chmod(c.TLSRPT, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { collector.Close() })
	heard := make(chan string, 100)
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := collector.Read(b)
			if err != nil {
				return
			}
			heard <- string(b[:n])
		}
	}()
	serve(t, c, &route.Router{Names: w.Client(), Way: site.way, STS: sts})
	p := postfixtest.Start(t, c)
	have, err := postfix.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for domain := range partners {
		submit(t, c.Listen, "bob@"+domain)
	}
	for domain, one := range partners {
		if !one.goes {
			p.Await("to=<bob@"+domain+">", "status=deferred")
			continue
		}
		await(t, domain, func() bool { return len(one.server.Mails()) == 1 })
	}
	for _, l := range append(p.Lines("warning:"), append(p.Lines("fatal:"), p.Lines("error:")...)...) {
		t.Errorf("log: %s", l)
	}
	reports := have.Parameters["smtp_tlsrpt_enable"]
	if !reports {
		if text, err := os.ReadFile(filepath.Join(c.Dir, "main.cf")); err != nil || strings.Contains(string(text), postfix.Table+"-report") {
			t.Errorf("%s: got %v, want nothing of reports in main.cf", have.Version, err)
		}
		return
	}
	var all []string
	await(t, "reports", func() bool {
		for {
			select {
			case text := <-heard:
				all = append(all, text)
				continue
			default:
			}
			break
		}
		for domain, one := range partners {
			found := one.told[0] == "-" // in clear there is no handshake to tell of
			for _, text := range all {
				if !strings.Contains(text, `"`+domain+`"`) {
					continue
				}
				fits := true
				for _, word := range one.told {
					without, no := strings.CutPrefix(word, "!")
					fits = fits && strings.Contains(text, without) != no
				}
				found = found || fits
			}
			if !found {
				return false
			}
		}
		return true
	})
	if testing.Verbose() {
		t.Logf("%s", strings.Join(all, "\n"))
	}
}
