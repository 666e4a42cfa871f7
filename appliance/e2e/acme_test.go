package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/filter/resolver"
	"postern/filter/resolver/resolvertest"
	"postern/provisioning/acme/acmetest"
)

const (
	acmeTables = `[authentication]
dmarc = "mark"
budget = "60s"
[smime]
roots = "own"
revocation = "off"
`
	acmePartner = `[partner."ca.example"]
protect = "none"
sign = "never"
`
	mac = "a key of thirty-two bytes, or somewhat more"
)

// acmeHouse is a gateway whose domain signs with DKIM, and an authority that
// reaches it and is reached by it.
func acmeHouse(t *testing.T, c acmetest.Config, tables string) (*trial.Box, *acmetest.Server) {
	t.Helper()
	var ask *resolver.Client
	c.Texts = func(name string) ([]string, error) {
		a, err := ask.TXT(t.Context(), name)
		return a.Found, err
	}
	ca := acmetest.Open(t, c)
	record := ca.Record()
	zone := resolvertest.Zone{Name: acmetest.Domain, Records: []string{fmt.Sprintf("%s._domainkey TXT %q %q", acmetest.Selector, record[:200], record[200:])}}
	names := resolvertest.Start(t, zone)
	ask = names.Client()
	b := open(t, trial.Config{DomainFields: `dkim = "sign"`, Outbound: fmt.Sprintf("address = %q", ca.SMTP), FilterdTables: fmt.Sprintf("[resolver]\naddress = %q\n", names.Address) + acmeTables + tables})
	ca.Deliver(b.Outside)
	if out, err := b.Postern(t.Context(), nil, "dkim", "rotate", "--domain", "company1.example"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	printed, err := b.Postern(t.Context(), nil, "dns", "print", "--domain", "company1.example")
	if err != nil {
		t.Fatal(err)
	}
	names.Set(t, zone, resolvertest.Zone{Name: "company1.example", Records: zoneLines(printed)})
	return b, ca
}

// acmePlan wants certificates of the authority for some users.
func acmePlan(t *testing.T, b *trial.Box, ca *acmetest.Server, fields string, users ...string) string {
	t.Helper()
	path := b.Path("plan.toml")
	text := fmt.Sprintf("rate = \"600/1m\"\n[authority.ca]\nkind = \"acme\"\nurl = %q\nca-file = %q\n%s\n[users.staff]\naddresses = [%s]\nsmime = { authority = \"ca\", sign = \"p-256\" }\n",
		ca.URL, ca.CA, fields, `"`+strings.Join(users, `", "`)+`"`)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestACME: an authority proves addresses by mail, filterd recognises its mails
// and lets them pass, the answers leave with the domain's signature, and what
// comes of it signs and opens. Nobody has a mailbox here but the sink.
func TestACME(t *testing.T) {
	b, ca := acmeHouse(t, acmetest.Config{Binding: "k1", MAC: []byte(mac), Terms: "https://ca.example/terms", Busy: 1}, acmePartner)
	binding := b.Path("binding")
	if err := os.WriteFile(binding, []byte(base64.RawURLEncoding.EncodeToString([]byte(mac))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const user, other = "alice@company1.example", "carol@company1.example"
	plan := acmePlan(t, b, ca, fmt.Sprintf("contact = [\"postmaster@company1.example\"]\nterms-agreed = true\nbinding = \"k1\"\nbinding-file = %q\nwait = \"5m\"", binding), user, other)
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := b.Postern(t.Context(), nil, "enrol", "-n", plan, "--json"); err != nil || !strings.Contains(string(out), `"wanted": 4`) || ca.Orders() > 0 || keysOf(t, b, "acme/") > 0 {
		t.Errorf("-n: got %v and %d orders, want nothing done\n%s", err, ca.Orders(), out)
	}
	if r := enrol(t, b, plan, nil); r.Count["done"] != 4 {
		t.Fatalf("got %+v, want four done\nthe authority says %q\n%s", r, ca.Said(), contents(t, b.Path("filterd.log")))
	}
	want := []string{user + " sign", user + " unwrap", other + " sign", other + " unwrap"}
	if got := slices.Sorted(slices.Values(ca.Issued())); !slices.Equal(got, want) {
		t.Errorf("the authority has made %q, want %q", got, want)
	}
	if n, contacts := ca.Accounts(); n != 1 || !slices.Equal(contacts, []string{"mailto:postmaster@company1.example"}) {
		t.Errorf("got %d accounts with %q, want one", n, contacts)
	}
	if keysOf(t, b, "acme/ca/sign") != 1 {
		t.Error("the key of the account is not in the token")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	passed, err := b.Kept.Await(ctx, seen, 4)
	if err != nil || len(passed) != 4 || !strings.Contains(contents(t, passed[0]), "Subject: ACME: ") {
		t.Errorf("challenge mails that passed: got %v, %v, want four", passed, err)
	}
	if r := enrol(t, b, plan, nil); r.Count["there"] != 4 || len(ca.Issued()) != 4 {
		t.Errorf("a second run: got %v and %d certificates, want nothing done", r.Count, len(ca.Issued()))
	}
	mail := sealedBy(t, certOf(t, b, user, 1<<2), user) // keyEncipherment
	if got := one(t, b, b.Outside, "bob@partner.example", user, mail); !strings.Contains(got, secret) || parameter(field(got, "Postern-Status"), "opened") != "smime" {
		t.Errorf("got %s\nwant the opened mail", got)
	}
	way := b.Path("way.pem")
	if err := os.WriteFile(way, exported(t, b, user), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "openssl", "verify", "-purpose", "smimesign", "-CAfile", ca.Root, "-untrusted", way, way)
}

// TestACMERefused: what does not count is never answered, said, and costs no
// order that may still go well; what an authority refuses is told with what
// helps, and the next run goes on.
func TestACMERefused(t *testing.T) {
	b, ca := acmeHouse(t, acmetest.Config{}, acmePartner)
	const user = "alice@company1.example"
	enrolled := func(fields string, status int, want string) enrolment {
		t.Helper()
		var refusal *exec.ExitError
		r := enrol(t, b, acmePlan(t, b, ca, fields, user), &refusal)
		got := 0
		if refusal != nil {
			got = refusal.ExitCode()
		}
		if got != status {
			t.Fatalf("got status %d, want %d: %+v", got, status, r)
		}
		if !strings.Contains(fmt.Sprint(r.Certificates), want) {
			t.Fatalf("got %+v, want %q\nthe authority says %q", r, want, ca.Said())
		}
		return r
	}
	logged := func(want ...string) {
		t.Helper()
		eventually(t, patience, func() (bool, string) {
			log := contents(t, b.Path("filterd.log"))
			for _, w := range want {
				if !strings.Contains(log, w) {
					return false, fmt.Sprintf("no %q in the log", w)
				}
			}
			return true, ""
		})
	}

	// The authority is away: nothing is decided.
	away := strings.Replace(contents(t, acmePlan(t, b, ca, "wait = \"0s\"", user)), ca.URL, "https://127.0.0.1:1/directory", 1)
	if err := os.WriteFile(b.Path("away.toml"), []byte(away), 0o600); err != nil {
		t.Fatal(err)
	}
	var refusal *exec.ExitError
	if r := enrol(t, b, b.Path("away.toml"), &refusal); refusal == nil || refusal.ExitCode() != 75 || r.Count["waiting"] != 2 || !strings.Contains(r.Certificates[0].Reason, "server away") {
		t.Fatalf("away: got %+v, %v, want status 75 and both waiting", r, refusal)
	}

	// Mails that are not the authority's, or not as they must be.
	ca.Alter(func(l acmetest.Letter) [][]byte {
		return [][]byte{
			l.Bare,
			l.Resign(bytes.ReplaceAll(l.Bare, []byte("@ca.example>"), []byte("@evil.example>")), "evil.example"),
			l.Resign(l.Bare, "evil.example"),
			bytes.Replace(l.Mail, []byte("Subject: ACME: "), []byte("Subject: ACME: AAAA"), 1),
			append([]byte("Reply-To: <eve@evil.example>\r\n"), l.Mail...),
			l.Resign(bytes.Replace(l.Bare, []byte("Date: "), []byte("Date: Thu, 01 Jan 2026 12:00:00 +0000\r\nX-Date: "), 1), acmetest.Domain),
		}
	})
	enrolled("wait = \"0s\"", 75, "has not come")
	ca.Remind(user) // as those before came before its sender was known
	logged("none of ca.example", "not from whom the authority named", "not of this time")
	enrolled("wait = \"0s\"", 75, "has not come")
	if n := ca.Orders(); n != 1 {
		t.Errorf("got %d orders, want one that waits", n)
	}
	if said := fmt.Sprint(ca.Said()); strings.Contains(said, "answer") {
		t.Errorf("something was answered: %s", said)
	}

	// The right one, and twice: it is answered once; but by the wrong digest.
	ca.Alter(func(l acmetest.Letter) [][]byte { return [][]byte{l.Mail, l.Mail} })
	ca.Remind(user)
	logged("seen before", `"msg":"challenge"`)
	r := enrolled("wait = \"0s\"\njoin = \"bytes\"", 1, "incorrectResponse: the digest is another one")
	if r.Certificates[0].State != "failed" {
		t.Errorf("got %+v, want the order lost", r)
	}
	if said := fmt.Sprint(ca.Said()); strings.Contains(said, "twice") {
		t.Errorf("answered twice: %s", said)
	}

	// And all is well in the next run.
	ca.Alter(nil)
	ca.Remind(user)
	enrolled("wait = \"5m\"", 0, "done")
	if got := ca.Issued(); len(got) != 2 {
		t.Errorf("the authority has made %q, want two", got)
	}
	if got := keysOf(t, b, "smime/"); got != 2 {
		t.Errorf("the token holds %d keys, want two", got)
	}
}
