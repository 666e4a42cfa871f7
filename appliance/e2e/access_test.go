package e2e

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
	"postern/filter/accounts"
	"postern/filter/credential"
)

const lunch = "From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: lunch\nMessage-ID: <7@partner.example>\n\n" + secret + "\n"

// doors is a box with a mailbox behind it.
type doors struct {
	*trial.Box
	behind                   letters
	imap, imaps, pop3, pop3s string
	web                      string
	ca                       string
	host                     string
}

// openDoors opens it: IMAP and POP3, both ways, submission, and pages.
func openDoors(t *testing.T) *doors {
	t.Helper()
	dir := folder(t)
	file := filepath.Join(dir, "accounts")
	if err := accounts.Add(file, "alice", rightWord, []string{submitter}, true); err != nil {
		t.Fatal(err)
	}
	d := &doors{behind: runDovecot(t, "alice", rightWord, lunch), host: "mx.company1.example"}
	tables := "[accounts]\nsource = \"file\"\nfile = \"" + file + "\"\n"
	for _, a := range []struct {
		at           *string
		name, mode   string
		protocol, to string
	}{{&d.imap, "imap", "starttls", "imap", d.behind.imap}, {&d.imaps, "imaps", "implicit", "imap", d.behind.imap},
		{&d.pop3, "pop3", "starttls", "pop3", d.behind.pop3}, {&d.pop3s, "pop3s", "implicit", "pop3", d.behind.pop3}} {
		*a.at = postfixtest.Free(t)
		tables += fmt.Sprintf("[[access]]\nname = %q\naddress = %q\nprotocol = %q\ntls = { mode = %q, identity = %q }\nserver = %q\nproxy = \"v2\"\n", a.name, *a.at, a.protocol, a.mode, d.host, a.to)
	}
	d.web = postfixtest.Free(t)
	tables += fmt.Sprintf("[[web]]\nname = \"web\"\naddress = %q\nidentities = [%q]\n", d.web, d.host)
	d.Box = open(t, trial.Config{Dir: dir, TLS: "offer", InsideFields: "auth = \"required\"", FilterdTables: tables})
	d.ca = d.Certificate(credential.ECDSA)
	runAccess(t, d.Box, d.imap, d.imaps, d.pop3, d.pop3s, d.web)
	return d
}

// curl asks by a URL whose host is the name in the certificate, from another
// address than the server's.
func (d *doors) curl(t *testing.T, scheme, at, path string, more ...string) (string, error) {
	t.Helper()
	_, port, _ := net.SplitHostPort(at)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := append([]string{"--silent", "--show-error", "--cacert", d.ca, "--interface", "127.0.0.2", "--resolve", d.host + ":" + port + ":127.0.0.1"}, more...)
	out, err := exec.CommandContext(ctx, "curl", append(args, scheme+"://"+d.host+":"+port+path)...).CombinedOutput()
	return string(out), err
}

// TestMailPrograms: curl and mutt read and send through the gateway with the
// certificate whose key is in the token; the server hears who they are; without
// TLS nobody logs in.
func TestMailPrograms(t *testing.T) {
	d := openDoors(t)
	user := []string{"--user", "alice:" + rightWord}
	for _, c := range []struct {
		name, scheme, at, path string
		more                   []string
	}{
		{"IMAP with STARTTLS", "imap", d.imap, "/INBOX;MAILINDEX=1", append(user, "--ssl-reqd")},
		{"IMAPS", "imaps", d.imaps, "/INBOX;MAILINDEX=1", user},
		{"POP3 with STLS", "pop3", d.pop3, "/1", append(user, "--ssl-reqd")},
		{"POP3S", "pop3s", d.pop3s, "/1", user},
	} {
		if got, err := d.curl(t, c.scheme, c.at, c.path, c.more...); err != nil || !strings.Contains(got, secret) {
			t.Errorf("%s: got %v, want the mail in\n%s", c.name, err, got)
		}
	}
	if log := d.behind.log(t); strings.Count(log, "rip=127.0.0.2, lip=127.0.0.1") < 4 || !strings.Contains(log, ", secured, ") {
		t.Errorf("Dovecot was not told of the clients:\n%s", log)
	}
	for _, c := range []struct{ scheme, at, path string }{{"imap", d.imap, "/INBOX"}, {"pop3", d.pop3, "/1"}} {
		if got, err := d.curl(t, c.scheme, c.at, c.path, user...); err == nil {
			t.Errorf("%s in clear: got\n%s, want no login", c.scheme, got)
		}
	}
	if got, err := d.curl(t, "imaps", d.imaps, "/INBOX", "--user", "alice:wrong"); err == nil {
		t.Errorf("a wrong password: got %s", got)
	}

	// curl sends; mutt reads and sends.
	mail := "From: " + submitter + "\r\nTo: bob@partner.example\r\nSubject: answer\r\n\r\nBy curl.\r\n"
	file := d.Path("mail.eml")
	if err := os.WriteFile(file, []byte(mail), 0o600); err != nil {
		t.Fatal(err)
	}
	seen, err := d.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.curl(t, "smtp", d.Inside, "", append(user, "--ssl-reqd", "--mail-from", submitter, "--mail-rcpt", "bob@partner.example", "--upload-file", file)...); err != nil {
		t.Errorf("curl sends: %v\n%s", err, got)
	}
	if got := d.mutt(t, d.imaps); !strings.Contains(got, secret) {
		t.Errorf("mutt reads: got %q", got)
	}
	if got := d.mutt(t, d.imap); !strings.Contains(got, secret) {
		t.Errorf("mutt reads with STARTTLS: got %q", got)
	}
	d.muttSends(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	paths, err := d.Kept.Await(ctx, seen, 2)
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	for _, want := range []string{"By curl.", "By mutt."} {
		if !strings.Contains(all, want) {
			t.Errorf("got\n%s\nwant %q", all, want)
		}
	}
	said, err := os.ReadFile(d.Path("access.log"))
	if err != nil || strings.Contains(string(said), rightWord) || strings.Contains(string(said), "alice") || !strings.Contains(string(said), "127.0.0.2") {
		t.Errorf("got log %s, %v: want clients, and nothing of what they say", said, err)
	}
}

// rc is mutt's configuration: certificates are checked, against a host whose
// name is found in a file of the test's own. By itself mutt 2.2 would take
// SCRAM-SHA-256-PLUS, and has no channel binding for it.
func (d *doors) rc(t *testing.T) (rc, hosts string) {
	t.Helper()
	rc, hosts = d.Path("muttrc"), d.Path("hosts")
	text := fmt.Sprintf("set ssl_starttls=yes\nset ssl_force_tls=yes\nset ssl_ca_certificates_file=%q\nset certificate_file=\"\"\nset ssl_verify_host=yes\nset imap_user=alice\nset imap_pass=%q\n"+
		"set smtp_url=\"smtp://alice@%s:%s/\"\nset smtp_pass=%q\nset smtp_authenticators=\"scram-sha-256\"\nset from=%s\nset use_from=yes\nset copy=no\nset record=\"\"\nset header_cache=\"\"\nset wait_key=no\nset mail_check=0\nset folder=%q\n",
		d.ca, rightWord, d.host, d.Inside[strings.LastIndex(d.Inside, ":")+1:], rightWord, submitter, d.Dir)
	for path, text := range map[string]string{rc: text, hosts: "127.0.0.1 localhost " + d.host + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return rc, hosts
}

// housed runs a command where the name of the host is that of this machine.
func (d *doors) housed(t *testing.T, stdin, hosts, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", "mount --bind "+hosts+" /etc/hosts && "+command)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "TERM=xterm", "HOME="+d.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%q", command, err, out)
	}
	return string(out)
}

// mutt reads the one mail of the mailbox.
func (d *doors) mutt(t *testing.T, at string) string {
	t.Helper()
	rc, hosts := d.rc(t)
	scheme := "imap"
	if at == d.imaps {
		scheme = "imaps"
	}
	out := d.Path("read.eml")
	os.Remove(out)
	script := fmt.Sprintf(`push "<pipe-message>cat > %s<enter><exit>"`, out)
	run := d.Path("read.muttrc")
	if err := os.WriteFile(run, []byte("source "+rc+"\n"+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(at)
	said := d.housed(t, "", hosts, fmt.Sprintf("script -qec 'mutt -F %s -f %s://%s:%s/INBOX' /dev/null", run, scheme, d.host, port))
	text, err := os.ReadFile(out)
	if err != nil {
		return said
	}
	return string(text)
}

func (d *doors) muttSends(t *testing.T) {
	t.Helper()
	rc, hosts := d.rc(t)
	d.housed(t, "By mutt.\n", hosts, "mutt -F "+rc+" -s answer -- bob@partner.example")
}

// What is said ahead of the handshake reaches nobody (R24), with the real server
// behind; and clients that dawdle keep none out who does not.
func TestAccessAttacked(t *testing.T) {
	d := openDoors(t)
	for at, said := range map[string]string{d.imap: "a STARTTLS\r\nb LOGIN alice " + rightWord + "\r\n", d.pop3: "STLS\r\nUSER alice\r\n"} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, said)
		got, _ := io.ReadAll(c)
		c.Close()
		if n := strings.Count(string(got), "\r\n"); n > 1 || strings.Contains(string(got), "begin TLS now") {
			t.Errorf("%q: got %q, want a greeting and the end", said, got)
		}
	}
	crowd := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}
	for range 60 { // more than one client may have
		c, err := crowd.Dial("tcp", d.imap)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got, err := d.curl(t, "imap", d.imap, "/INBOX;MAILINDEX=1", "--user", "alice:"+rightWord, "--ssl-reqd"); err != nil || !strings.Contains(got, secret) {
		t.Errorf("beside a crowd: got %v\n%s", err, got)
	}
	for _, c := range []struct{ starttls, at string }{{"--starttls-imap", d.imap}, {"", d.imaps}, {"--starttls-pop3", d.pop3}, {"", d.pop3s}, {"", d.web}} {
		args := []string{"--xml=-", "--no-colour", "--sni-name=" + d.host, c.at}
		if c.starttls != "" {
			args = append([]string{c.starttls}, args...)
		}
		var report struct {
			Protocols []struct {
				Type    string `xml:"type,attr"`
				Version string `xml:"version,attr"`
				Enabled int    `xml:"enabled,attr"`
			} `xml:"ssltest>protocol"`
			Ciphers []struct {
				Version string `xml:"sslversion,attr"`
				Bits    int    `xml:"bits,attr"`
				Cipher  string `xml:"cipher,attr"`
			} `xml:"ssltest>cipher"`
		}
		if err := xml.Unmarshal(run(t, nil, "sslscan", args...), &report); err != nil {
			t.Fatal(err)
		}
		enabled := ""
		for _, p := range report.Protocols {
			if p.Enabled == 1 {
				enabled += p.Type + p.Version + " "
			}
		}
		if enabled != "tls1.2 tls1.3 " || len(report.Ciphers) == 0 {
			t.Errorf("%s: got %q and %d ciphers, want TLS 1.2 and 1.3", c.at, enabled, len(report.Ciphers))
		}
		for _, x := range report.Ciphers {
			if x.Bits < 128 || x.Version == "TLSv1.2" && (!strings.HasPrefix(x.Cipher, "ECDHE") || strings.Contains(x.Cipher, "CBC") || strings.HasSuffix(x.Cipher, "-SHA")) {
				t.Errorf("%s: cipher %s %s", c.at, x.Version, x.Cipher)
			}
		}
	}
}

// What mail programs ask for over HTTPS is there, under the names of our
// domains alone, and what is printed says the same.
func TestSettings(t *testing.T) {
	d := openDoors(t)
	host := func(name string) []string { return []string{"--header", "Host: " + name} }
	_, imaps, _ := net.SplitHostPort(d.imaps)
	for _, name := range []string{"autoconfig.company1.example", "company1.example"} {
		path := "/mail/config-v1.1.xml?emailaddress=alice@company1.example"
		if name == "company1.example" {
			path = "/.well-known/autoconfig/mail/config-v1.1.xml"
		}
		got, err := d.curl(t, "https", d.web, path, append(host(name), "--fail")...)
		if err != nil || !strings.Contains(got, "<port>"+imaps+"</port>\n      <socketType>SSL</socketType>") || !strings.Contains(got, "<hostname>"+d.host+"</hostname>") {
			t.Errorf("%s: got %v\n%s", name, err, got)
		}
	}
	ask := `<?xml version="1.0"?><Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"><Request><EMailAddress>alice@company1.example</EMailAddress></Request></Autodiscover>`
	got, err := d.curl(t, "https", d.web, "/Autodiscover/Autodiscover.xml", append(host("autodiscover.company1.example"), "--fail", "--data", ask)...)
	if err != nil || !strings.Contains(got, "<LoginName>alice@company1.example</LoginName>") || !strings.Contains(got, "<Port>"+imaps+"</Port>") {
		t.Errorf("Autodiscover: got %v\n%s", err, got)
	}
	for name, path := range map[string]string{"autoconfig.partner.example": "/mail/config-v1.1.xml", "company1.example": "/", d.host: "/mail/config-v1.1.xml"} {
		if got, err := d.curl(t, "https", d.web, path, append(host(name), "--fail")...); err == nil {
			t.Errorf("%s%s: got %s, want nothing", name, path, got)
		}
	}
	if out, err := d.Postern(t.Context(), nil, "doctor"); !strings.Contains(string(out), d.behind.imap+" greets") || !strings.Contains(string(out), d.behind.pop3+" greets") {
		t.Errorf("doctor: got %v, want both servers in\n%s", err, out)
	}
	out, err := d.Postern(t.Context(), nil, "autoconfig", "print", "--domain", "company1.example")
	_, imap, _ := net.SplitHostPort(d.imap)
	for _, want := range []string{"_imaps._tcp.company1.example. IN SRV 0 1 " + imaps + " mx.company1.example.", "_imap._tcp.company1.example. IN SRV 0 1 " + imap + " mx.company1.example.",
		"_submissions._tcp.company1.example. IN SRV 0 0 0 .", "<clientConfig version=\"1.1\">", "<Autodiscover"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("printed: %v, want %q in\n%s", err, want, out)
		}
	}
}
