package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/chain"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/smime"
	"postern/filter/transport"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// load is filterd.toml with more behind it, and its state in a folder.
func load(t *testing.T, more string) *config.Filterd {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "filterd.toml")
	text := `authserv-id = "gw.company1.example"
state = "` + dir + `"
[[listener]]
name = "outside"
address = ":25"
direction = "inbound"
[next-hop.inbound]
address = "mail.company1.example:25"
` + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadFilterd(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const domain = "[domain.\"company1.example\"]\n"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPolicy(t *testing.T) {
	c := load(t, domain+`escrow = ["archive@company1.example"]
[partner."grid.example"]
format = ["smime"]
smime = { cipher = "aes-128-gcm", oaep = true, pss = true }
[partner."*.partner.example"]
[default]
format = ["smime", "openpgp"]
`)
	p, err := Policy(c)
	must(t, err)
	both := []keyring.Format{keyring.SMIME, keyring.OpenPGP}
	want := map[string]policy.Form{
		"grid.example":      {Formats: both[:1], Style: protect.Style{Cipher: "aes-128-gcm", OAEP: true, PSS: true}},
		"*.partner.example": {Formats: both},
	}
	if !reflect.DeepEqual(p.Forms, want) || !reflect.DeepEqual(p.Formats, both) {
		t.Errorf("got forms %+v and formats %v, want %+v and %v", p.Forms, p.Formats, want, both)
	}
	if got := p.Escrow["company1.example"]; len(got) != 1 || got[0] != "archive@company1.example" {
		t.Errorf("got escrow %v", got)
	}
}

// Which mail goes to which archive, and over which hop.
func TestArchives(t *testing.T) {
	fingerprint := strings.Repeat("ab", 20)
	c := load(t, `
[next-hop.outbound]
address = "localhost:10026"
[domain."company1.example"]
archive = "Keep@Vault.example"
[domain."company2.example"]
archive = "archive@company1.example"
[domain."company3.example"]
[archive."Keep@vault.Example"]
certs = ["`+fingerprint+`"]
when = ["outbound", "inbound"]
on-failure = "pass"
next-hop = { address = "mail.vault.example:25" }
[archive."archive@company1.example"]
certs = ["`+fingerprint+`"]
`)
	p, err := Policy(c)
	must(t, err)
	want := map[string]policy.Archive{
		"company1.example": {Address: message.Address{Local: "Keep", Domain: "vault.example"}, Certs: []string{fingerprint}, Inbound: true, Outbound: true, Without: true},
		"company2.example": {Address: message.Address{Local: "archive", Domain: "company1.example"}, Certs: []string{fingerprint}, Inbound: true},
	}
	if !reflect.DeepEqual(p.Archives, want) {
		t.Errorf("got %+v, want %+v", p.Archives, want)
	}
	store, err := keyring.Open(c.Keyring)
	must(t, err)
	must(t, store.Close())
	ring, err := OpenRing(c, true)
	must(t, err)
	defer ring.Close()
	g, err := New(c, hsmtest.Memory(t), ring, nil, nil, slog.New(slog.DiscardHandler))
	must(t, err)
	hop, ok := g.Archives["keep@vault.example"].(*transport.Hop)
	if len(g.Archives) != 1 || !ok || hop.Address != "mail.vault.example:25" || hop.TLS != "verify" || hop.ServerName != "mail.vault.example" {
		t.Errorf("got hops %v, want one of its own for the archive outside", g.Archives)
	}
}

// The words of the rules, of what senders ask for and of what refusals say
// arrive where they count; a text for no reply is an error.
func TestGraduatedPolicy(t *testing.T) {
	c := load(t, domain+`sign = "optional"
internal = "require"
[partner."grid.example"]
protect = "asked"
sign = "always"
no-key = "transport"
[partner."*.partner.example"]
[recipient."Bob@partner.example"]
protect = "require"
no-key = "defer"
[trigger]
plain = ["[open]", "X-Open:"]
[texts]
language = "both"
own = { no-cert = "ask Eve" }
[default]
no-key = "transport"
downgrade = "defer"
answers = "usual"
client-encryption = "open"
shadow = true
`)
	p, err := Policy(c)
	must(t, err)
	got := policy.Policy{Domains: p.Domains, Internal: p.Internal, Recipients: p.Recipients, Partners: p.Partners, Signs: p.Signs, NoKeys: p.NoKeys,
		Default: p.Default, NoKey: p.NoKey, Downgrade: p.Downgrade, Answers: p.Answers, Client: p.Client, Lowering: p.Lowering, Shadow: p.Shadow}
	want := policy.Policy{Domains: map[string]policy.Sign{"company1.example": policy.SignOptional}, Internal: map[string]policy.Protect{"company1.example": policy.Require},
		Recipients: map[string]policy.Protect{"bob@partner.example": policy.Require}, Partners: map[string]policy.Protect{"grid.example": policy.OnDemand, "*.partner.example": policy.Optional},
		Signs:   map[string]policy.Sign{"grid.example": policy.SignAlways},
		NoKeys:  map[string]policy.NoKey{"grid.example": policy.NoKeyTransport, "*.partner.example": policy.NoKeyTransport, "bob@partner.example": policy.NoKeyDefer},
		Default: policy.Optional, NoKey: policy.NoKeyTransport, Downgrade: policy.DowngradeDefer, Answers: policy.AnswersUsual, Client: policy.ClientOpen, Lowering: true, Shadow: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	asks := []filter.Trigger{{Tag: "[encrypt]", Asks: policy.Asks{Encrypt: true}}, {Field: "X-Postern-Encrypt", Value: "yes", Asks: policy.Asks{Encrypt: true}},
		{Tag: "[sign]", Asks: policy.Asks{Sign: true}}, {Field: "X-Postern-Sign", Value: "yes", Asks: policy.Asks{Sign: true}},
		{Tag: "[open]", Asks: policy.Asks{Plain: true}}, {Field: "X-Open", Asks: policy.Asks{Plain: true}}}
	if got := triggers(c); !reflect.DeepEqual(got, asks) {
		t.Errorf("got triggers %+v, want %+v", got, asks)
	}
	if got, err := Texts(c); err != nil || got.Language != "both" || got.Own["no-cert"] != "ask Eve" {
		t.Errorf("got texts %+v, %v", got, err)
	}
	c.Texts.Own["nobody"] = "x"
	if _, err := Policy(c); err == nil {
		t.Error("a text for no reply: got none, want an error")
	}
	if p, err := Policy(load(t, domain)); err != nil || p.Lowering || p.Shadow || p.Internal["company1.example"] != policy.None || p.NoKey != policy.NoKeyReject {
		t.Errorf("defaults: got %+v, %v", p, err)
	}
}

// lasting is a template for the years around noon.
func lasting(c x509.Certificate) x509.Certificate {
	c.NotBefore, c.NotAfter = noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)
	return c
}

var (
	ca     = lasting(certtest.CA("CA of the test"))
	reader = lasting(certtest.Mail("bob@partner.example", x509.KeyUsageKeyAgreement))
	bob    = message.Address{Local: "bob", Domain: "partner.example"}
)

// entry is a certificate as the keyring keeps it.
func entry(t *testing.T, c *x509.Certificate, trust keyring.Trust, role keyring.Role) keyring.Cert {
	t.Helper()
	list, err := smime.Read(c.Raw)
	must(t, err)
	list[0].Trust, list[0].Role, list[0].Source = trust, role, "test"
	return list[0]
}

// TestAuthoritiesCountAtOnce (R16): what an operator adds or distrusts counts for the
// next certificate. What filterd writes itself gives a way, and never an end.
func TestAuthoritiesCountAtOnce(t *testing.T) {
	c := load(t, domain+"[smime]\nroots = \"own\"\nrevocation = \"off\"\n")
	operators, err := keyring.Open(c.Keyring)
	must(t, err)
	defer operators.Close()
	ring, err := OpenRing(c, true)
	must(t, err)
	defer ring.Close()
	s, err := NewSMIME(c, hsmtest.Memory(t), ring)
	must(t, err)
	root := certtest.New(t, ca)
	sub := root.Below(t, certtest.CA("sub"))
	leaf := entry(t, sub.Issue(t, reader).Leaf, keyring.Seen, keyring.Holder)
	for _, step := range []struct {
		name string
		do   func() error
		want error
	}{
		{"nobody is trusted", func() error { return nil }, chain.ErrUntrusted},
		{"mail brings the way", func() error {
			return ring.learned.Learn(t.Context(), entry(t, sub.Cert, keyring.Seen, keyring.Intermediate))
		}, chain.ErrUntrusted},
		{"filterd writes an anchor", func() error {
			return ring.learned.Import(t.Context(), entry(t, root.Cert, keyring.Trusted, keyring.Anchor))
		}, chain.ErrUntrusted},
		{"an operator adds it", func() error {
			return operators.Import(t.Context(), entry(t, root.Cert, keyring.Trusted, keyring.Anchor))
		}, nil},
		{"an operator distrusts the way", func() error {
			return operators.Import(t.Context(), entry(t, sub.Cert, keyring.Distrusted, keyring.Intermediate))
		}, chain.ErrUntrusted},
		{"and trusts it again", func() error {
			return operators.SetTrust(t.Context(), entry(t, sub.Cert, "", "").Fingerprint, keyring.Trusted)
		}, nil},
		{"an operator distrusts the anchor", func() error {
			return operators.SetTrust(t.Context(), entry(t, root.Cert, "", "").Fingerprint, keyring.Distrusted)
		}, chain.ErrUntrusted},
	} {
		must(t, step.do())
		if _, err := s.Path(t.Context(), leaf, chain.Encryption, noon); !errors.Is(err, step.want) {
			t.Errorf("%s: got %v, want %v", step.name, err, step.want)
		}
	}
}

// TestFit: what mail brought is sealed to only as the one whom it names, and
// only by a good path. Where that is not known now, the mail waits.
func TestFit(t *testing.T) {
	root := certtest.New(t, ca)
	good := entry(t, root.Issue(t, reader).Leaf, keyring.Seen, keyring.Holder)
	signer := reader
	signer.KeyUsage = x509.KeyUsageDigitalSignature
	garbage := good
	garbage.Raw = []byte{1}
	for _, test := range []struct {
		name, revocation string
		cert             keyring.Cert
		a                message.Address
		at               time.Time
		fit, waits       bool
	}{
		{"good", "soft", good, bob, noon, true, false},
		{"another address", "soft", good, message.Address{Local: "ceo", Domain: "company1.example"}, noon, false, false},
		{"expired", "soft", good, bob, noon.AddDate(2, 0, 0), false, false},
		{"only signs", "soft", entry(t, root.Issue(t, signer).Leaf, keyring.Seen, keyring.Holder), bob, noon, false, false},
		{"of nobody", "soft", entry(t, certtest.Own(t, reader, certtest.Key(t)).Leaf, keyring.Seen, keyring.Holder), bob, noon, false, false},
		{"garbage", "soft", garbage, bob, noon, false, false},
		{"OpenPGP", "soft", keyring.Cert{Format: keyring.OpenPGP, Raw: good.Raw, Fingerprint: good.Fingerprint}, bob, noon, false, false},
		{"nobody says whether it is revoked", "hard", good, bob, noon, false, true},
	} {
		c := load(t, domain+"[smime]\nroots = \"own\"\nrevocation = \""+test.revocation+"\"\n")
		operators, err := keyring.Open(c.Keyring)
		must(t, err)
		defer operators.Close()
		must(t, operators.Import(t.Context(), entry(t, root.Cert, keyring.Trusted, keyring.Anchor)))
		s, err := NewSMIME(c, hsmtest.Memory(t), operators)
		must(t, err)
		err = s.Fit(s.Begin(t.Context()), test.cert, test.a, test.at)
		if (err == nil) != test.fit || errors.Is(err, filter.ErrUnfit) != (!test.fit && !test.waits) {
			t.Errorf("%s: got %v, want fit %v, waits %v", test.name, err, test.fit, test.waits)
		}
		if s.Revoked(t.Context(), test.cert, test.at) {
			t.Errorf("%s: got revoked", test.name)
		}
	}
}

// TestRing: the mail path writes what mail brought, and nothing else.
func TestRing(t *testing.T) {
	c := load(t, domain)
	operators, err := keyring.Open(c.Keyring)
	must(t, err)
	must(t, operators.Import(t.Context(), keyring.Cert{Format: keyring.OpenPGP, Fingerprint: strings.Repeat("A", 40), Raw: []byte{1}, Trust: keyring.Trusted, Source: "import", Addresses: []message.Address{bob}}))
	must(t, operators.Close())
	before, err := os.ReadFile(c.Keyring)
	must(t, err)

	early, err := OpenRing(c, false) // an operator looks before filterd has run
	must(t, err)
	if list, err := early.Certs(t.Context(), bob); err != nil || len(list) != 1 {
		t.Errorf("before: got %d, %v, want 1", len(list), err)
	}
	must(t, early.Close())

	ring, err := OpenRing(c, true)
	must(t, err)
	leaf := entry(t, certtest.Own(t, reader, certtest.Key(t)).Leaf, keyring.Trusted, keyring.Holder)
	must(t, ring.learned.Learn(t.Context(), leaf))
	if err := ring.Import(t.Context(), leaf); err == nil {
		t.Error("import into the operators' keyring: got nil, want an error")
	}
	list, err := ring.Certs(t.Context(), bob)
	if err != nil || len(list) != 2 || list[1].Trust != keyring.Seen {
		t.Errorf("got %v, %v, want one that is trusted and one that was seen", list, err)
	}
	must(t, ring.Close())
	after, err := os.ReadFile(c.Keyring)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the operators' keyring is not as it was")
	}

	c.Default.Learn = "off"
	off, err := OpenRing(c, true)
	must(t, err)
	defer off.Close()
	if list, err := off.Certs(t.Context(), bob); err != nil || len(list) != 1 {
		t.Errorf("off: got %d, %v, want 1", len(list), err)
	}

	c.Default.Learn, c.Seen = "seen", filepath.Join(c.Keyring, "below", "a-file.db")
	if _, err := OpenRing(c, true); err == nil || !strings.Contains(err.Error(), "(hint: ") {
		t.Errorf("no folder: got %v, want an error with a hint", err)
	}
}

// TestSMIMEIsWired: what the configuration says of S/MIME is what the judge and
// the Protector go by.
func TestSMIMEIsWired(t *testing.T) {
	for _, test := range []struct {
		text   string
		mode   chain.Mode
		asks   bool
		public bool
		cbc    smime.Unauthenticated
		bare   bool
		old    bool
		budget time.Duration
	}{
		{"", chain.Soft, true, true, smime.Inert, false, true, 3 * time.Second},
		{"[smime]\nrevocation = \"hard\"\nrevocation-budget = \"1s\"\nroots = \"own\"\nbare-own = true\ntriple-des = \"sealed\"\n[default]\nunauthenticated = \"sealed\"\nold-ciphers = true\n",
			chain.Hard, true, false, smime.Sealed, true, false, time.Second},
		{"[smime]\nrevocation = \"off\"\n", chain.Off, false, true, smime.Inert, false, true, 3 * time.Second},
	} {
		c := load(t, domain+test.text)
		ring, err := OpenRing(c, false)
		must(t, err)
		s, err := NewSMIME(c, hsmtest.Memory(t), ring)
		must(t, err)
		if s.chain.Mode != test.mode || s.chain.Fetcher != nil != test.asks || len(s.public) > 0 != test.public || s.config.Unauthenticated != test.cbc ||
			s.chain.BareOwn != test.bare || s.config.Legacy != test.old || s.chain.Budget != test.budget {
			t.Errorf("%q: got %+v, %+v, %d public roots", test.text, s.chain, s.config, len(s.public))
		}
		must(t, ring.Close())
	}
}

// TestLearnIsWired: each word of the configuration reaches the mail path.
func TestLearnIsWired(t *testing.T) {
	for word, want := range map[string][2]bool{"off": {false, false}, "seen": {true, false}, "chain": {true, true}} {
		c := load(t, domain+"[default]\nlearn = \""+word+"\"\n")
		operators, err := keyring.Open(c.Keyring)
		must(t, err)
		must(t, operators.Close())
		ring, err := OpenRing(c, true)
		must(t, err)
		g, err := New(c, hsmtest.Memory(t), ring, nil, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
		must(t, err)
		if got := [2]bool{g.Learn != nil, g.Judge != nil}; got != want || len(g.Protectors) != 2 || g.Revoked == nil {
			t.Errorf("%s: got learn and judge %v, want %v", word, got, want)
		}
		if ctx := g.Begin(context.Background()); ctx == context.Background() {
			t.Errorf("%s: a mail has no budget", word)
		}
		must(t, ring.Close())
	}
}
