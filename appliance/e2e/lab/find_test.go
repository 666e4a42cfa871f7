package lab

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
	"postern/filter/mtasts"
	"postern/filter/openpgp"
	"postern/filter/resolver/resolvertest"
	"postern/hsm/certtest"
)

// open serves what a company publishes over HTTPS, with keys of its token.
func (c *company) open(t testing.TB, by *certtest.Authority) {
	t.Helper()
	for _, name := range c.hosts() {
		c.show(t, by, certtest.Host(name))
	}
	c.configure(t, setting{Ours: c.policy(), Tables: c.web()})
	c.Start(t, filepath.Dir(c.Dir), filepath.Join(housetest.Programs(t), "postern"), "access", "serve", "--config", c.Path("filterd.toml"))
	c.Await(t, c.address+":443")
}

// hosts are the names over which it does.
func (c *company) hosts() []string { return []string{"openpgpkey." + c.Domain, "mta-sts." + c.Domain} }

func (c *company) policy() string {
	return "mta-sts = \"enforce\"\nmta-sts-mx = [\"mx." + c.Domain + "\"]\n"
}

func (c *company) web() string {
	return "[[web]]\nname = \"web\"\naddress = \"" + c.address + ":443\"\nidentities = [\"" + strings.Join(c.hosts(), "\", \"") + "\"]\n"
}

// seeks has a company look for certificates at sources, and seal whatever goes
// to the other one, or do as noKey says.
func (c *company) seeks(t testing.TB, noKey, format string, sources ...string) {
	t.Helper()
	tables := c.web() + c.trusting() + "[find]\nprivate = true\nwait = \"1m\"\nca-file = \"" + c.Beside("servers.pem") + "\"\n"
	for _, s := range sources {
		tables += "[[find.source]]\n" + s + "\n"
	}
	c.configure(t, setting{Protect: "require", Partner: fmt.Sprintf("format = [%q]\nno-key = %q\ntransport = \"verify\"\n", format, noKey), Ours: c.policy(), Tables: tables})
}

// printed are the records that a company's gateway prints for its zone, of some
// types.
func (c *company) printed(t testing.TB, types ...string) (list []string) {
	t.Helper()
	for line := range strings.Lines(string(c.postern(t, nil, "dns", "print", "--domain", c.Domain))) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == "IN" && slices.Contains(types, f[3]) {
			list = append(list, strings.Replace(strings.TrimSpace(line), " 3600 IN ", " 1 IN ", 1))
		}
	}
	if len(list) == 0 {
		t.Fatalf("%s prints no %v", c.Domain, types)
	}
	return list
}

// publishing are the zones of both companies, where one has an HTTPS server and
// more records.
func (l *lab) publishing(of *company, unsigned bool, more ...string) []resolvertest.Zone {
	var web []string
	for _, name := range of.hosts() {
		web = append(web, name+". A "+of.address)
	}
	zones := l.zones(of, append(web, more...)...)
	for i := range zones {
		zones[i].Unsigned = unsigned && zones[i].Name == of.Domain
	}
	return zones
}

// quarantined are the certificates that a company's gateway has seen and nobody
// has judged: by fingerprint, where they come from.
func (c *company) quarantined(t testing.TB) map[string]string {
	t.Helper()
	var list struct {
		Certs []struct{ Fingerprint, Source, Trust string } `json:"certs"`
	}
	if err := json.Unmarshal(c.postern(t, nil, "cert", "list", "--seen", "--json"), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, one := range list.Certs {
		if one.Trust != "seen" {
			t.Errorf("got %s %s, want it seen", one.Fingerprint, one.Trust)
		}
		all[one.Fingerprint] = one.Source
	}
	return all
}

// Two companies that have never heard of each other find the certificates of each
// other's domain where these are published, by HTTPS and in the DNS, and seal to
// them: nobody does anything by hand.
func TestStrangersFindEachOther(t *testing.T) {
	l := openStrangers(t)
	for _, c := range []*company{l.one, l.two} {
		c.open(t, l.servers)
		c.startPostfix(t)
	}
	for _, way := range []struct{ from, to *company }{{l.one, l.two}, {l.two, l.one}} {
		from, to := way.from, way.to
		alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
		for _, c := range []struct {
			name, format, source string
			records              []string
		}{
			{"wkd", "openpgp", "kind = \"wkd\"\ntrust = \"alone\"", nil},
			{"openpgpkey", "openpgp", `kind = "openpgpkey"`, to.printed(t, "OPENPGPKEY")},
			{"smimea", "smime", `kind = "smimea"`, to.printed(t, "SMIMEA")},
		} {
			t.Run(c.name+" from "+from.Domain, func(t *testing.T) {
				from.names.Set(t, l.publishing(to, false, c.records...)...)
				from.seeks(t, "reject", c.format, c.source)
				text := secret("found by", c.name, from.Domain)
				from.send(t, alice, []string{bob}, letter(alice, bob, text))
				got := to.mail.await(t, bob, text)
				holds(t, got, map[string]string{"opened": c.format, "carried": "TLS"})
				l.wire.smtp(t)
			})
		}
	}

	// What the gateway serves is what others ask for: GnuPG's own client, and our
	// own for MTA-STS by the id that we print.
	from, to := l.one, l.two
	from.names.Set(t, l.publishing(to, false, to.printed(t, "TXT")...)...)
	board := "board@" + to.Domain
	if got := from.gpgFinds(t, board); !strings.Contains(got, board) {
		t.Errorf("gpg found %q by WKD, want the certificate of %s", got, board)
	}
	from.configure(t, setting{Partner: `transport = "may"`, Ours: from.policy(), Tables: from.web() + from.trusting()})
	if got := from.lookup(t, to.Domain); !strings.HasPrefix(got, "secure match=mx."+to.Domain) {
		t.Errorf("Postfix is told %q, want the server of the policy", got)
	}
	policy := mtasts.Policy{Mode: mtasts.Enforce, MX: []string{"mx." + to.Domain}, MaxAge: 7 * 24 * 3600e9}
	if records := strings.Join(to.printed(t, "TXT"), "\n"); !strings.Contains(records, policy.Record()) {
		t.Errorf("got %s, want %s", records, policy.Record())
	}
}

// gpgFinds asks with GnuPG's Web Key Directory client for an address, from a
// company's place, where nothing but the lab's authority is believed.
func (c *company) gpgFinds(t testing.TB, address string) string {
	t.Helper()
	c.Mount(t, c.Beside("servers.pem"), "/etc/ssl/certs/ca-certificates.crt")
	home := housetest.Folder(t)
	if err := os.WriteFile(filepath.Join(home, "dirmngr.conf"), []byte("standard-resolver\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*housetest.Patience)
	defer cancel()
	t.Cleanup(func() { exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() })
	out, err := c.Command(ctx, "gpg", "--homedir", home, "--batch", "--no-tty", "--auto-key-locate", "clear,nodefault,wkd", "--locate-external-keys", "--with-colons", address).CombinedOutput()
	if err != nil {
		t.Errorf("gpg: %v: %s", err, out)
	}
	return string(out)
}

// A zone that nobody has signed, sources that contradict each other, and a source
// that is away seal nothing: what was found is there for an operator to see, and
// the mail waits, is refused, or goes by the way that proves who answers, as the
// rule says: in the zone that nobody has signed it is the MTA-STS policy that says
// whose server it is.
func TestStrangersInDoubt(t *testing.T) {
	l := openStrangers(t)
	for _, c := range []*company{l.one, l.two} {
		c.open(t, l.servers)
		c.startPostfix(t)
	}
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	const wkd, dane = "kind = \"wkd\"\ntrust = \"alone\"", `kind = "openpgpkey"`
	real, err := openpgp.Read(to.postern(t, nil, "identity", "export", to.Domain, "--format", "openpgp"))
	if err != nil {
		t.Fatal(err)
	}
	forger, err := trial.NewPartner(t.Context(), filepath.Join(housetest.Folder(t), "gpg"), "postmaster@"+to.Domain, "future-default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { forger.Close() })
	armour, err := forger.Cert(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := openpgp.Read(armour)
	if err != nil {
		t.Fatal(err)
	}
	other := to.printed(t, "OPENPGPKEY")
	for i, r := range other {
		name, _, _ := strings.Cut(r, " ")
		other[i] = name + " 1 IN OPENPGPKEY " + base64.StdEncoding.EncodeToString(forged[0].Raw)
	}
	for _, c := range []struct {
		name     string
		unsigned bool
		records  []string
		sources  []string
		seen     map[string]string // what is in quarantine then, at least
		away     bool
	}{
		{"an unsigned zone", true, to.printed(t, "OPENPGPKEY", "TXT"), []string{dane}, map[string]string{real[0].Fingerprint: "openpgpkey"}, false},
		{"two that disagree", false, other, []string{wkd, dane}, map[string]string{forged[0].Fingerprint: "openpgpkey"}, false},
		{"a directory that is away", false, []string{"openpgpkey." + to.Domain + ". A 192.0.2.250"}, []string{wkd}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			zones := l.publishing(to, c.unsigned, c.records...)
			if c.away { // nobody is at the address
				for i := range zones {
					zones[i].Records = slices.DeleteFunc(zones[i].Records, func(r string) bool { return strings.HasPrefix(r, "openpgpkey.") && !strings.Contains(r, "192.0.2.250") })
				}
			}
			from.names.Set(t, zones...)
			for _, rule := range []struct{ noKey, reply string }{{"reject", "550 5.7.3"}, {"defer", "451 4.7.3"}, {"transport", ""}} {
				noKey, reply := rule.noKey, rule.reply
				if c.away && noKey == "reject" {
					reply = "451 4.7.3" // who has not answered may know of one
				}
				from.seeks(t, noKey, "openpgp", c.sources...)
				text := secret(c.name, noKey)
				dialogue, err := from.submit(t, alice, []string{bob}, letter(alice, bob, text))
				switch {
				case reply != "" && (err == nil || !strings.Contains(dialogue, reply)):
					t.Errorf("%s: got %v, want %s:\n%s", noKey, err, reply, dialogue)
				case reply == "" && err != nil:
					t.Errorf("%s: got %v, want it sent:\n%s", noKey, err, dialogue)
				case reply == "":
					holds(t, to.mail.await(t, bob, text), map[string]string{"opened": "none", "carried": "TLS"})
					clients, _ := l.wire.smtp(t)
					l.onlyTLS(t, clients, text)
				default:
					clients, _ := l.wire.smtp(t)
					l.nothing(t, clients, bob, text)
				}
			}
			housetest.Eventually(t, housetest.Patience, func() (bool, string) { // it is kept behind the mail
				got := from.quarantined(t)
				for fingerprint, source := range c.seen {
					if got[fingerprint] != source {
						return false, fmt.Sprintf("got %v in quarantine, want %v", got, c.seen)
					}
				}
				return true, ""
			})
		})
	}
}
