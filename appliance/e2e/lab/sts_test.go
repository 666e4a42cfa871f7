package lab

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/filter/resolver/resolvertest"
	"postern/hsm/certtest"
)

// policyHost serves a company's MTA-STS policy over HTTPS (RFC 8461 §3.3).
type policyHost struct {
	server *http.Server
	text   atomic.Pointer[string]
	asked  atomic.Int64
}

// openPolicy starts it in a company's place, at the name that the policy has.
func openPolicy(t testing.TB, c *company, by *certtest.Authority) *policyHost {
	t.Helper()
	name := "mta-sts." + c.Domain
	l, err := c.Listen("tcp", net.JoinHostPort(c.address, "443"))
	if err != nil {
		t.Fatal(err)
	}
	h := &policyHost{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+name+"/.well-known/mta-sts.txt", func(w http.ResponseWriter, _ *http.Request) {
		h.asked.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, *h.text.Load())
	})
	h.server = &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{by.Issue(t, certtest.Host(name))}}}
	ended := make(chan error, 1)
	go func() { ended <- h.server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { h.server.Close(); <-ended })
	return h
}

// says puts a policy there.
func (h *policyHost) says(lines ...string) {
	text := "version: STSv1\r\n" + strings.Join(lines, "\r\n") + "\r\n"
	h.text.Store(&text)
}

// published are the zones of both companies, and that one of them has a policy
// with the id.
func (l *lab) published(of *company, id string, unsigned bool) []resolvertest.Zone {
	zones := l.zones(of, "mta-sts A "+of.address, `_mta-sts TXT "v=STSv1; id=`+id+`;"`)
	for i := range zones {
		zones[i].Unsigned = unsigned
	}
	return zones
}

// trusting is the table by which the lab's authority vouches for policies, too.
func (c *company) trusting() string {
	return "[mta-sts]\nca-file = \"" + c.Beside("servers.pem") + "\"\nprivate = true\nbudget = \"1m\"\n"
}

// lookup asks filterd for the way to a domain, as Postfix asks it.
func (c *company) lookup(t testing.TB, domain string) string {
	t.Helper()
	out, err := c.Command(t.Context(), "postmap", "-c", c.post.Dir, "-q", domain, "socketmap:unix:"+c.Beside("tls-policy")+":"+"tls-policy").CombinedOutput()
	if err != nil {
		t.Fatalf("postmap: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// A partner for whom no more than TLS where it is offered was agreed on, and who
// asks for more by an MTA-STS policy (R25): it counts whether or not his zone is
// signed, and mail waits where his server is not as the policy says.
func TestPolicyOfPartner(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	to.show(t, certtest.New(t, certtest.CA("Stranger")), certtest.Host("stranger."+to.Domain))
	to.show(t, l.servers, certtest.Host("mx.elsewhere.example"))
	host := openPolicy(t, to, l.servers)
	mx := "mx: mx." + to.Domain
	id := 0
	for _, unsigned := range []bool{false, true} {
		for _, c := range []struct {
			name  string
			mx    string
			bad   setting
			tried bool
		}{
			{"unknown authority", mx, setting{Identity: "stranger." + to.Domain}, true},
			{"wrong name", mx, setting{Identity: "mx.elsewhere.example"}, true},
			{"no STARTTLS", mx, setting{Mode: "off"}, true},
			{"another server", "mx: mx.elsewhere.example", setting{}, false},
		} {
			t.Run(fmt.Sprintf("%s unsigned %v", c.name, unsigned), func(t *testing.T) {
				id++
				host.says("mode: enforce", c.mx, "max_age: 86400")
				from.names.Set(t, l.published(to, fmt.Sprint(id), unsigned)...)
				before := host.asked.Load()
				from.configure(t, setting{Partner: `transport = "may"`, Tables: from.trusting()})
				to.configure(t, c.bad)
				text := secret("policy", c.name, unsigned)
				from.send(t, alice, []string{bob}, letter(alice, bob, text))
				l.waits(t, alice, bob, text, to.mail, c.tried)
				if host.asked.Load() == before {
					t.Error("the policy was not asked for")
				}

				id++
				host.says("mode: enforce", mx, "max_age: 86400")
				from.names.Set(t, l.published(to, fmt.Sprint(id), unsigned)...)
				to.configure(t, setting{})
				from.configure(t, setting{Partner: `transport = "may"`, Tables: from.trusting()})
				holds(t, to.mail.await(t, bob, text), map[string]string{"verified": "yes", "signer": alice, "carried": "TLS"})
				to.mail.empty(t, bob)
				from.mail.await(t, alice, "Action: ") // that it went after all
				from.mail.empty(t, alice)
				clients, _ := l.wire.smtp(t) // with a last try to the server as it was, perhaps
				l.nothing(t, clients, bob, text)
				if got := from.lookup(t, to.Domain); !strings.HasPrefix(got, "secure match=mx."+to.Domain) {
					t.Errorf("Postfix is told %q, want the server of the policy", got)
				}
			})
		}
	}
}

// In a zone that is not signed only the policy says which server is the
// partner's own. While it holds mail goes, also when its place is gone; when its
// time is over, and there is no other one to be had, mail waits (R25): Postfix
// believes no session that it began before.
func TestExpiredPolicy(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	host := openPolicy(t, to, l.servers)
	agreed := setting{Partner: `transport = "verify"`, Tables: from.trusting()}

	host.says("mode: enforce", "mx: mx."+to.Domain, "max_age: 86400")
	from.names.Set(t, l.published(to, "1", true)...)
	from.configure(t, agreed)
	text := secret("policy that holds")
	from.send(t, alice, []string{bob}, letter(alice, bob, text))
	to.mail.await(t, bob, text)
	to.mail.empty(t, bob)

	host.says("mode: enforce", "mx: mx."+to.Domain, "max_age: 1")
	from.names.Set(t, l.published(to, "2", true)...)
	from.configure(t, agreed)
	before := host.asked.Load()
	from.lookup(t, to.Domain)
	if host.asked.Load() == before {
		t.Fatal("the new policy was not asked for")
	}
	host.server.Close()
	housetest.Eventually(t, housetest.Patience, func() (bool, string) {
		got := from.lookup(t, to.Domain)
		return !strings.Contains(got, "mx."+to.Domain), "the policy still holds: " + got
	})
	l.wire.smtp(t)
	text = secret("policy that is over")
	from.send(t, alice, []string{bob}, letter(alice, bob, text))
	l.waits(t, alice, bob, text, to.mail, true)
}
