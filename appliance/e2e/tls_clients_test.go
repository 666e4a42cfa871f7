package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/filter/credential"
	"postern/hsm/certtest"
)

// finger is what Postfix's own client of TLS says of the outside listener.
func finger(t *testing.T, b *trial.Box, ca string, more ...string) string {
	t.Helper()
	args := append([]string{"-c", "-L", "summary,untrusted", "-l", "secure", "-F", ca}, more...)
	host, port, _ := strings.Cut(b.Outside, ":")
	settings := t.TempDir() // without a main.cf it does nothing, and Debian installs none
	if err := os.WriteFile(filepath.Join(settings, "main.cf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "posttls-finger", append(args, "["+host+"]:"+port, b.Server)...)
	cmd.Env = append(os.Environ(), "MAIL_CONFIG="+settings)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("posttls-finger %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Postfix and OpenSSL come to terms with keys of both kinds, in both versions,
// and believe the authority of the site, whose certificates were brought in
// while filterd ran.
func TestRealClientsOfTLS(t *testing.T) {
	b := open(t, trial.Config{TLS: "offer"})
	first := finger(t, b, b.Certificate(credential.ECDSA))
	if !strings.Contains(first, "Verified TLS connection") {
		t.Errorf("at first: got %s, want the certificate that certifies itself", first)
	}
	site := newSiteCA(t)
	ca := site.file(b.Dir)
	if got := finger(t, b, ca); !strings.Contains(got, "Untrusted TLS connection") {
		t.Errorf("before the change: got %s, want a certificate of nobody", got)
	}
	site.enrol(b)
	for _, c := range []struct {
		name string
		more []string
		want string
	}{
		{"TLS 1.3", nil, "TLSv1.3"},
		{"TLS 1.2, ECDSA", []string{"-p", "TLSv1.2", "-g", "high", "-o", "tls_high_cipherlist=aECDSA"}, "TLSv1.2 with cipher ECDHE-ECDSA-"},
		{"TLS 1.2, RSA", []string{"-p", "TLSv1.2", "-g", "high", "-o", "tls_high_cipherlist=aRSA"}, "TLSv1.2 with cipher ECDHE-RSA-"},
	} {
		if got := finger(t, b, ca, c.more...); !strings.Contains(got, "Verified TLS connection") || !strings.Contains(got, c.want) {
			t.Errorf("Postfix, %s: got %s, want it verified, with %s", c.name, got, c.want)
		}
	}
	// Which signature the server makes is named otherwise since OpenSSL 3.5.
	ecdsa, pss, rsa := regexp.MustCompile(`Peer signature type: (ECDSA|ecdsa_secp256r1_sha256)\n`), regexp.MustCompile(`Peer signature type: (RSA-PSS|rsa_pss_rsae_sha256)\n`), regexp.MustCompile(`Peer signature type: (RSA|rsa_pkcs1_sha256)\n`)
	for _, c := range []struct {
		name      string
		args      []string
		signature *regexp.Regexp
		version   string
	}{
		{"TLS 1.3, ECDSA", []string{"-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"}, ecdsa, "TLSv1.3"},
		{"TLS 1.3, RSA", []string{"-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"}, pss, "TLSv1.3"},
		{"TLS 1.2, ECDSA", []string{"-tls1_2", "-cipher", "aECDSA"}, ecdsa, "TLSv1.2"},
		{"TLS 1.2, RSA by PSS", []string{"-tls1_2", "-cipher", "aRSA"}, pss, "TLSv1.2"},
		{"TLS 1.2, RSA by PKCS #1", []string{"-tls1_2", "-cipher", "aRSA", "-sigalgs", "RSA+SHA256"}, rsa, "TLSv1.2"},
	} {
		args := append([]string{"s_client", "-starttls", "smtp", "-connect", b.Outside, "-servername", b.Server, "-CAfile", ca, "-verify_hostname", b.Server, "-verify_return_error"}, c.args...)
		got := string(run(t, []byte("QUIT\r\n"), "openssl", args...))
		if !c.signature.MatchString(got) || !strings.Contains(got, c.version) || !strings.Contains(got, "Verify return code: 0 (ok)") {
			t.Errorf("OpenSSL, %s: got %s\nwant %s, verified, with %v", c.name, got, c.version, c.signature)
		}
		if strings.Contains(got, "Max Early Data:") && !strings.Contains(got, "Max Early Data: 0") {
			t.Errorf("OpenSSL, %s: early data is taken", c.name)
		}
	}
	// How a mail came stands in its marks.
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	config := trusting(t, b, credential.ECDSA)
	config.MaxVersion = tls.VersionTLS13
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AddCert(site.Cert)
	_, c := greet(t, b.Outside, config)
	say(t, c, "MAIL FROM:<bob@partner.example>", 250)
	say(t, c, "RCPT TO:<alice@company1.example>", 250)
	say(t, c, "DATA", 354)
	say(t, c, "From: bob@partner.example\r\nTo: alice@company1.example\r\nSubject: x\r\n\r\nhello\r\n.", 250)
	paths, err := b.Kept.Await(t.Context(), seen, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if r := field(string(got), "Received"); !strings.Contains(r, "with ESMTPS") {
		t.Errorf("got Received: %s, want ESMTPS", r)
	}
	if s := field(string(got), "Postern-Status"); !strings.HasPrefix(parameter(s, "carried"), "TLSv1.3") {
		t.Errorf("got Postern-Status: %s, want how it was carried", s)
	}
}

// client is a certificate of a client with a key of its own, and its pin. Its
// use is that of a server, as most that mail servers show to each other.
func (a siteCA) client(name string) (tls.Certificate, string) {
	a.t.Helper()
	template := certtest.Host(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	c := a.Issue(a.t, template)
	pin := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return c, "sha256:" + hex.EncodeToString(pin[:])
}

// R25, inbound, in the house: what was agreed with a partner is asked of his
// server, and mutual TLS of ours.
func TestPartnersServers(t *testing.T) {
	site := newSiteCA(t)
	dir := folder(t)
	ca := site.file(dir)
	partner, pin := site.client("mx.pinned.example")
	stranger, _ := site.client("mx.evil.example")
	b := open(t, trial.Config{Dir: dir, TLS: "offer", InsideTLS: `, client = "require", client-ca = "` + ca + `"`, FilterdTables: `
[partner."forced.example"]
inbound = "force"
min = "1.3"
[partner."pinned.example"]
inbound = "pin"
inbound-pins = ["` + pin + `"]
`})
	with := func(c tls.Certificate, max uint16) *tls.Config {
		config := trusting(t, b, credential.ECDSA)
		config.MaxVersion, config.CipherSuites = max, nil
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		return config
	}
	none := tls.Certificate{}
	for _, c := range []struct {
		name, from string
		config     *tls.Config
		want       string
	}{
		{"nobody's in clear", "a@other.example", nil, "250 "},
		{"forced in clear", "a@forced.example", nil, "530 5.7.0 must issue a STARTTLS command first"},
		{"forced in TLS 1.2", "a@forced.example", with(none, tls.VersionTLS12), "550 5.7.1 "},
		{"forced in TLS 1.3", "a@forced.example", with(none, tls.VersionTLS13), "250 "},
		{"pinned in clear", "a@pinned.example", nil, "530 5.7.0 "},
		{"pinned without a certificate", "a@pinned.example", with(none, tls.VersionTLS13), "550 5.7.1 "},
		{"pinned with another's", "a@pinned.example", with(stranger, tls.VersionTLS13), "550 5.7.1 "},
		{"pinned with his own", "a@pinned.example", with(partner, tls.VersionTLS12), "250 "},
	} {
		_, conn := greet(t, b.Outside, c.config)
		if err := conn.PrintfLine("MAIL FROM:<%s>", c.from); err != nil {
			t.Fatal(err)
		}
		if got, err := conn.ReadLine(); err != nil || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	greet(t, b.Inside, with(partner, tls.VersionTLS13))
	conn, c := greet(t, b.Inside, nil)
	say(t, c, "STARTTLS", 220)
	secure := tls.Client(conn, with(none, tls.VersionTLS12))
	if err := secure.Handshake(); err == nil {
		t.Error("inside: got a session without a client certificate")
	}
}

// R37: while keyd is away a handshake fails and the session ends; neither goes
// on in clear, and both work again when it is back, without a hand.
func TestKeydAwayInHandshake(t *testing.T) {
	b := open(t, trial.Config{TLS: "offer"})
	config := trusting(t, b, credential.RSA)
	greet(t, b.Outside, config)
	if err := b.Keyd.Stop(); err != nil {
		t.Fatal(err)
	}
	conn, c := greet(t, b.Outside, nil)
	say(t, c, "STARTTLS", 220)
	if err := tls.Client(conn, config).Handshake(); err == nil {
		t.Fatal("got a handshake without keyd")
	}
	plain := textproto.NewConn(conn)
	plain.PrintfLine("EHLO client.example")
	if line, err := plain.ReadLine(); err == nil {
		t.Errorf("after it: got %q, want the connection closed", line)
	}
	if err := b.StartKeyd(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		conn, c := greet(t, b.Outside, nil)
		say(t, c, "STARTTLS", 220)
		err := tls.Client(conn, config).Handshake()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("keyd back: %v", err)
		}
	}
}

// A listener without a certificate, or with one whose key is elsewhere, does
// not start, and says why in one line.
func TestNoKeyNoListener(t *testing.T) {
	b := open(t, trial.Config{})
	if err := b.Filterd.Stop(); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(b.Path("filterd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := newSiteCA(t).client("mx.company1.example")
	file := b.Path("foreign.pem")
	if err := os.WriteFile(file, certtest.PEM(foreign.Leaf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, tls, want string }{
		{"no certificate", ``, "filterd: listener outside: certificate for mx.company1.example: none of"},
		{"key elsewhere", `, cert-files = ["` + file + `"]`, "key not in the token, or not one for TLS"},
		{"no file", `, cert-files = ["` + file + `.none"]`, "no such file"},
	} {
		text := strings.Replace(string(plain), `direction = "inbound"`, `direction = "inbound"`+"\n"+`tls = { mode = "offer", identity = "mx.company1.example"`+c.tls+` }`, 1)
		path := b.Path("tls.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(b.Bin, "filterd"), "--config", path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) || !strings.Contains(string(out), "hint: `postern identity create --use tls --domain mx.company1.example`") {
			t.Errorf("%s: got %v, %s, want %q and a hint", c.name, err, out, c.want)
		}
	}
	if err := b.StartFilterd(t.Context()); err != nil {
		t.Fatal(err)
	}
}
