package lab

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/e2e/placetest"
	"postern/filter/resolver/resolvertest"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// stock is a Postfix as partners have it, without a gateway: it takes mail from
// everybody, and hands it to the Dovecot beside it.
const stock = `myhostname = %[1]s
relay_domains = %[2]s
relay_transport = lmtp:%[3]s
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_loglevel = 1
`

// partner is somebody with a Postfix and a Dovecot, in a place of his own, to
// whose server the names of the other company lead.
type partner struct {
	*placetest.Place
	lab     *lab
	domain  string
	address string
	mail    *mailboxes
}

// partner opens one that takes the place of the other company, and has no server
// of mail yet.
func (l *lab) partner(t testing.TB) *partner {
	t.Helper()
	p := &partner{lab: l, domain: l.two.Domain}
	p.Place, p.address = l.Join(t, "partner")
	dir := housetest.Folder(t)
	if err := os.Chmod(dir, 0o755); err != nil { // Postfix and Dovecot have users of their own
		t.Fatal(err)
	}
	p.mail = openMailboxes(t, p.Place, dir, "bob@"+p.domain)
	return p
}

// named has the first company find the partner, with further records of his zone.
func (p *partner) named(t testing.TB, records ...string) {
	t.Helper()
	p.lab.one.names.Set(t, resolvertest.Zone{Name: p.domain, Records: append([]string{"@ MX 10 mx", "mx A " + p.address}, records...)})
}

// serve starts his Postfix, with further lines of main.cf; over ends it.
func (p *partner) serve(t testing.TB, main string) (over func()) {
	t.Helper()
	return hoptest.Postfix(t, p.Place, fmt.Sprintf(stock, "mx."+p.domain, p.domain, lmtpAt)+main, p.address+":25 inet n - n - - smtpd\n", p.address+":25")
}

// keypair is a key of a server in a file, with what certifies it.
type keypair struct{ file, pin string }

// newKeypair makes one of the kind, which an authority certifies for the name.
func newKeypair(t testing.TB, by *certtest.Authority, kind, name string) keypair {
	t.Helper()
	var key crypto.Signer = certtest.Key(t)
	if kind == "rsa" {
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	c := by.Certify(t, certtest.Host(name), key)
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	dir := housetest.Folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return keypair{file(t, dir, "chain.pem", certtest.Bundle(t, c)), hex.EncodeToString(sum[:])}
}

// show is the line of main.cf for a key.
func (k keypair) show() string {
	return "smtpd_tls_security_level = may\nsmtpd_tls_chain_files = " + k.file + "\n"
}

// A partner with a server of another make, whose TLS is too old or too weak for
// what was agreed (R25): the mail waits, its sender is told, and when the server
// is as agreed it goes.
func TestPartnerOfWeakTLS(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.partner(t)
	alice, bob := "alice@"+from.Domain, "bob@"+to.domain
	to.named(t)
	mx := newKeypair(t, l.servers, "rsa", "mx."+to.domain)
	for _, c := range []struct {
		name, partner, weak string
	}{
		{"cipher without forward secrecy", "transport = \"verify\"\npfs = true", "smtpd_tls_protocols = <=TLSv1.2\nsmtpd_tls_ciphers = medium\ntls_medium_cipherlist = AES128-SHA:AES256-SHA\n"},
		{"cipher of nobody", `transport = "encrypt"`, "smtpd_tls_protocols = <=TLSv1.2\nsmtpd_tls_ciphers = medium\ntls_medium_cipherlist = NULL-SHA256:ADH-AES256-SHA@SECLEVEL=0\n"},
		{"old version", `transport = "encrypt"`, "smtpd_tls_protocols = <=TLSv1.1\nsmtpd_tls_ciphers = medium\ntls_medium_cipherlist = DEFAULT@SECLEVEL=0\n"},
		{"version below the agreed", "transport = \"verify\"\nmin = \"1.3\"", "smtpd_tls_protocols = <=TLSv1.2\n"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			from.configure(t, setting{Partner: c.partner})
			over := to.serve(t, mx.show()+c.weak)
			text := secret("weak", c.name)
			from.send(t, alice, []string{bob}, letter(alice, bob, text))
			l.waits(t, alice, bob, text, to.mail, true)
			over()
			over = to.serve(t, mx.show())
			defer over()
			to.mail.await(t, bob, text)
			to.mail.empty(t, bob)
			from.mail.await(t, alice, "Action: ") // that it went after all
			from.mail.empty(t, alice)
			clients, _ := l.wire.smtp(t) // with a last try to the server as it was, perhaps
			l.nothing(t, clients, bob, text)
		})
	}
}

// A gateway without a Postfix behind it, and a partner with a Postfix of his own:
// each level brings mail to a server that proves what it must, and not to one
// that does not (R25). The company's mail server hears 451 at once, and keeps the
// mail.
func TestDirectToPostfix(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.partner(t)
	alice, bob := "alice@"+from.Domain, "bob@"+to.domain
	good := newKeypair(t, l.servers, "p-256", "mx."+to.domain)
	stranger := newKeypair(t, certtest.New(t, certtest.CA("Stranger")), "p-256", "mx."+to.domain)
	other := newKeypair(t, l.servers, "p-256", "mx.elsewhere.example")
	records := []string{"_25._tcp.mx TLSA 3 1 1 " + good.pin}
	for _, c := range []struct {
		name, partner string
		records       []string
		main          string
		arrives       bool
	}{
		{"encrypt", `transport = "encrypt"`, nil, stranger.show(), true},
		{"encrypt, no STARTTLS", `transport = "encrypt"`, nil, "", false},
		{"verify", `transport = "verify"`, nil, good.show(), true},
		{"verify, no STARTTLS", `transport = "verify"`, nil, "", false},
		{"verify, unknown authority", `transport = "verify"`, nil, stranger.show(), false},
		{"verify, wrong name", `transport = "verify"`, nil, other.show(), false},
		{"dane", `transport = "dane"`, records, good.show(), true},
		{"dane, another key", `transport = "dane"`, records, stranger.show(), false},
		{"dane, no STARTTLS", `transport = "dane"`, records, "", false},
		{"dane-only", `transport = "dane-only"`, records, good.show(), true},
		{"dane-only, no records", `transport = "dane-only"`, nil, good.show(), false},
		{"pin", "transport = \"pin\"\npins = [\"sha256:" + stranger.pin + "\"]", nil, stranger.show(), true},
		{"pin, another key", "transport = \"pin\"\npins = [\"sha256:" + stranger.pin + "\"]", nil, good.show(), false},
		{"pin, no STARTTLS", "transport = \"pin\"\npins = [\"sha256:" + stranger.pin + "\"]", nil, "", false},
		{"weak cipher", "transport = \"encrypt\"\npfs = true", nil, newKeypair(t, l.servers, "rsa", "mx."+to.domain).show() +
			"smtpd_tls_protocols = <=TLSv1.2\nsmtpd_tls_ciphers = medium\ntls_medium_cipherlist = AES128-SHA:AES256-SHA\n", false},
	} {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(c.name), func(t *testing.T) {
			to.named(t, c.records...)
			from.configure(t, setting{Partner: c.partner, Direct: true})
			over := to.serve(t, c.main)
			defer over()
			text := secret("direct", c.name)
			dialogue, err := from.submit(t, alice, []string{bob}, letter(alice, bob, text))
			clients, _ := l.wire.smtp(t)
			if !c.arrives {
				if err == nil || !strings.Contains(dialogue, "451 4.") {
					t.Errorf("got %v, want 451:\n%s", err, dialogue)
				}
				l.nothing(t, clients, bob, text)
				if mails := to.mail.of(t, bob); len(mails) != 0 {
					t.Errorf("got %v, want nothing", mails)
				}
				return
			}
			if err != nil {
				t.Fatalf("submit: %v\n%s", err, dialogue)
			}
			to.mail.await(t, bob, text)
			to.mail.empty(t, bob)
			l.onlyTLS(t, clients, text)
		})
	}
}
