package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"postern/appliance/config"
	"postern/appliance/e2e/housetest"
	"postern/appliance/e2e/placetest"
	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
	"postern/filter/credential"
	"postern/filter/resolver/resolvertest"
	"postern/hsm/certtest"
)

// company is one of the two, in a place of its own: the gateway between its
// Dovecot, its Postfix and the wire.
type company struct {
	*trial.Box
	*placetest.Place
	Other     string // the partner's domain
	Mailboxes string // addresses inside
	Queue     string
	Strict    string
	setting

	address string // on the wire
	mail    *mailboxes
	post    *postfixtest.Postfix
	names   *resolvertest.World
}

// setting is what tests change in filterd.toml.
type setting struct {
	Sign     string // of the own domain: always
	Protect  string // mail to the partner: none
	Partner  string // lines of the partner's table
	Mode     string // of TLS outside: offer
	Identity string // of the server outside: mx and the domain
	Listener string // further fields of the outside listener's tls, each with a comma before it
	Lifetime string // of mail in the queue: 1h; counts when Postfix is rendered
	Direct   bool   // whether mail goes to the partner's server without a Postfix of ours
	Ours     string // further lines of the own domain's table
	Tables   string
}

// lab is the two of them.
type lab struct {
	*placetest.Network
	wire     *wire
	one, two *company
	servers  *certtest.Authority // of mail servers
	people   *certtest.Authority // of S/MIME
}

// Ports inside of each company.
const (
	insideAt = "127.0.0.1:587"
	queueAt  = "127.0.0.1:10026"
	strictAt = "127.0.0.1:10027"
)

// openLab opens both companies, each knowing the other one's certificates.
func openLab(t testing.TB) *lab {
	t.Helper()
	l := openStrangers(t)
	l.one.meet(t, l.two)
	l.two.meet(t, l.one)
	l.begin(t)
	return l
}

// begin has both companies take mail.
func (l *lab) begin(t testing.TB) {
	t.Helper()
	for _, c := range []*company{l.one, l.two} {
		c.configure(t, setting{})
		c.startPostfix(t)
	}
}

// openStrangers opens two companies that know nothing of each other, and take no
// mail yet.
func openStrangers(t testing.TB) *lab {
	t.Helper()
	l := &lab{Network: placetest.NewNetwork(t), servers: certtest.New(t, certtest.CA("Lab Servers")), people: certtest.New(t, certtest.CA("Lab People"))}
	l.wire = listen(t, l.Between)
	l.one = l.found(t, "company1.example", "company2.example")
	l.two = l.found(t, "company2.example", "company1.example")
	for _, c := range []*company{l.one, l.two} {
		c.names = resolve(t, c.Place, c.Dir, l.zones(nil)...)
		l.equip(t, c)
	}
	return l
}

// found makes a company up to its gateway, which does not take mail yet.
func (l *lab) found(t testing.TB, domain, other string) *company {
	t.Helper()
	c := &company{Other: other, Mailboxes: lmtpAt, Queue: queueAt, Strict: strictAt}
	c.Place, c.address = l.Join(t, domain)
	dir := housetest.Folder(t)
	if err := os.Chmod(dir, 0o755); err != nil { // Postfix and Dovecot have users of their own
		t.Fatal(err)
	}
	var users []string
	for _, u := range []string{"alice", "bob", "board", "counsel"} {
		users = append(users, u+"@"+domain)
	}
	c.mail = openMailboxes(t, c.Place, dir, users...)
	c.Do(t, func() (err error) {
		c.Box, err = trial.Open(t.Context(), trial.Config{
			Dir: filepath.Join(dir, "box"), Bin: housetest.Programs(t), Domain: domain,
			Outside: c.address + ":25", Inside: insideAt, NextHop: queueAt,
			Create: []string{"--format", "openpgp", "--domain", domain, "--algorithm", "ed25519"},
		})
		return err
	})
	housetest.CloseWith(t, c.Box)
	file(t, dir, "servers.pem", certtest.PEM(l.servers.Cert))
	return c
}

// equip makes the keys of a company's server and of its S/MIME, which the
// authorities certify, and two people's own.
func (l *lab) equip(t testing.TB, c *company) {
	t.Helper()
	dir := t.TempDir()
	bind := func(owner, name string, cert []byte) {
		t.Helper()
		c.postern(t, cert, "identity", "add", owner, name, "--cert", "-")
	}
	c.show(t, l.servers, certtest.Host(c.Server))
	board, counsel := "board@"+c.Domain, "counsel@"+c.Domain
	c.postern(t, nil, "identity", "create", "--format", "openpgp", "--address", board, "--algorithm", "ed25519")
	c.postern(t, certtest.PEM(l.people.Cert), "cert", "import", "--anchor", "-")
	for _, o := range []struct{ owner, name, mailbox string }{
		{"--domain", c.Domain, "domain-confidentiality-authority@" + c.Domain}, // RFC 3183 §4
		{"--address", counsel, counsel},
	} {
		c.postern(t, nil, "identity", "create", "--use", "smime", o.owner, o.name, "--algorithm", "p-256", "--out", dir)
		for _, use := range []string{"sign.csr", "unwrap.pub"} { // a key that opens, on a curve, signs no request
			pub := asked(t, filepath.Join(dir, o.name+"-"+use))
			bind(o.owner, o.name, certtest.PEM(l.people.Sign(t, certified(pub, o.name, o.mailbox, use == "sign.csr"), pub)))
		}
	}
}

// show makes keys for a name of the company's server, which an authority
// certifies.
func (c *company) show(t testing.TB, by *certtest.Authority, host x509.Certificate) {
	t.Helper()
	dir, name := t.TempDir(), host.DNSNames[0]
	c.postern(t, nil, "identity", "create", "--use", "tls", "--domain", name, "--out", dir)
	for _, kind := range credential.Kinds {
		path := strings.TrimSuffix(credential.Place(dir, name, kind), ".pem") + ".csr"
		cert := certtest.PEM(by.Sign(t, host, asked(t, path)))
		if host.NotAfter.IsZero() {
			c.postern(t, cert, "identity", "add", "--domain", name, "--cert", "-")
		} else { // which it refuses to bring in
			file(t, c.Path("tls"), filepath.Base(credential.Place("", name, kind)), cert)
		}
	}
}

// meet takes the other company's certificates up: those of its domain, whose
// signatures count, and of two people, one with each format.
func (c *company) meet(t testing.TB, other *company) {
	t.Helper()
	for _, o := range []struct{ owner, format string }{
		{other.Domain, "openpgp"}, {other.Domain, "smime"}, {"board@" + other.Domain, "openpgp"}, {"counsel@" + other.Domain, "smime"},
	} {
		args := []string{"cert", "import"}
		if o.owner == other.Domain {
			args = append(args, "--domain", other.Domain)
		}
		certs := other.postern(t, nil, "identity", "export", o.owner, "--format", o.format)
		c.postern(t, certs, append(args, "-")...)
	}
}

// postern is an operator's command that must succeed.
func (c *company) postern(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	out, err := c.Postern(t.Context(), bytes.NewReader(stdin), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

//go:embed testdata/filterd.toml
var filterdTOML string

// configure starts filterd again with the lab's own configuration.
func (c *company) configure(t testing.TB, with setting) {
	t.Helper()
	c.setting = with
	for _, f := range []struct {
		value *string
		usual string
	}{{&c.Sign, "always"}, {&c.Protect, "none"}, {&c.Mode, "offer"}, {&c.Identity, c.Server}, {&c.Lifetime, "1h"}} {
		if *f.value == "" {
			*f.value = f.usual
		}
	}
	text, err := template.New("filterd.toml").Parse(filterdTOML)
	var out bytes.Buffer
	if err == nil {
		err = text.Execute(&out, c)
	}
	if err == nil {
		err = os.WriteFile(c.Path("filterd.toml"), out.Bytes(), 0o600)
	}
	if err == nil {
		err = c.Filterd.Stop()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.startFilterd(t)
}

func (c *company) startFilterd(t testing.TB) {
	t.Helper()
	c.Do(t, func() error { return c.StartFilterd(t.Context()) })
}

// Beside is a file of the company beside its box, where others than root may look.
func (c *company) Beside(name string) string { return filepath.Join(filepath.Dir(c.Dir), name) }

// startPostfix starts what the gateway hands its mail to, as an operator has it
// rendered.
func (c *company) startPostfix(t testing.TB) {
	t.Helper()
	have, err := config.LoadFilterd(c.Path("filterd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	c.postern(t, nil, "postfix", "render")
	p := have.Postfix
	c.post = postfixtest.Take(t, c.Place, postfix.Config{Dir: p.Config, Queue: p.Queue, Data: p.Data, Log: p.Log, Listen: p.Submission})
}

// pin is the name of a key of the company's server, as pins have it.
func (c *company) pin(t testing.TB, kind string) string {
	t.Helper()
	sum := sha256.Sum256(c.certificate(t, kind).RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// certificate is one of the company's server.
func (c *company) certificate(t testing.TB, kind string) *x509.Certificate {
	t.Helper()
	chain, err := credential.Parse(kind, []byte(housetest.Contents(t, c.Certificate(kind))))
	if err != nil {
		t.Fatal(err)
	}
	return chain.Leaf
}

// submit hands a mail to the inside listener, as the company's mail programs do.
func (c *company) submit(t testing.TB, from string, to []string, mail string) (dialogue string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*housetest.Patience)
	defer cancel()
	c.In(func() error {
		dialogue, err = trial.Submit(ctx, insideAt, from, to, []byte(mail))
		return nil
	})
	return dialogue, err
}

// zones are the names of both companies, with more records of one of them.
func (l *lab) zones(of *company, more ...string) (list []resolvertest.Zone) {
	for _, c := range []*company{l.one, l.two} {
		z := resolvertest.Zone{Name: c.Domain, Records: []string{"@ MX 10 mx", "mx A " + c.address}}
		if c == of {
			z.Records = append(z.Records, more...)
		}
		list = append(list, z)
	}
	return list
}
