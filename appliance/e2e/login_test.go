package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/filter/accounts"
	"postern/filter/credential"
)

const (
	submitter = "alice@company1.example"
	rightWord = "right-secret-7f3a"
)

// swaks sends one mail, and gives the dialogue.
func swaks(t testing.TB, server, from, author string, more ...string) (dialogue string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := append([]string{"--server", server, "--from", from, "--to", "bob@partner.example", "--helo", "pc.company1.example", "--timeout", "60",
		"--body", "hello", "--header", "Subject: x", "--header", "From: " + author}, more...)
	out, err := exec.CommandContext(ctx, "swaks", args...).CombinedOutput()
	return string(out), err
}

func login(mechanism, name, word string) []string {
	return []string{"--tls", "--auth", mechanism, "--auth-user", name, "--auth-password", word}
}

// withAccounts opens a box whose inside is for who has logged in.
func withAccounts(t testing.TB, mode string) *trial.Box {
	t.Helper()
	dir := folder(t)
	file := filepath.Join(dir, "accounts")
	if err := accounts.Add(file, "alice", rightWord, []string{submitter}, true); err != nil {
		t.Fatal(err)
	}
	return open(t, trial.Config{Dir: dir, TLS: mode, InsideFields: "auth = \"required\"", FilterdTables: "[accounts]\nsource = \"file\"\nfile = \"" + file + "\"\n"})
}

// TestSubmission (R27): real clients log in to the real gateway, by each way
// there is, and send as themselves; nobody else sends.
func TestSubmission(t *testing.T) {
	b := withAccounts(t, "offer")
	for _, c := range []struct {
		name         string
		from, author string
		more         []string
		want         string // in the dialogue; "": the mail is taken
	}{
		{"PLAIN", submitter, submitter, login("PLAIN", "alice", rightWord), ""},
		{"LOGIN", submitter, submitter, login("LOGIN", "alice", rightWord), ""},
		{"wrong", submitter, submitter, login("PLAIN", "alice", "wrong-secret-7f3a"), "535 5.7.8"},
		{"nobody", submitter, submitter, login("LOGIN", "nobody", rightWord), "535 5.7.8"},
		{"in clear", submitter, submitter, nil, "530 5.7.0"},
		{"without login", submitter, submitter, []string{"--tls"}, "530 5.7.0"},
		{"another's envelope", "boss@company1.example", submitter, login("PLAIN", "alice", rightWord), "553 5.7.1"},
		{"another's From", submitter, "boss@company1.example", login("PLAIN", "alice", rightWord), "550 5.7.1"},
	} {
		said, err := swaks(t, b.Inside, c.from, c.author, c.more...)
		if (err == nil) != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: got %v, want %q in\n%s", c.name, err, c.want, said)
		}
	}
	// What one cannot even be asked for in clear is not taken there either.
	out, err := exec.CommandContext(t.Context(), "swaks", "--server", b.Inside, "--quit-after", "EHLO", "--from", submitter).CombinedOutput()
	if err != nil || strings.Contains(string(out), "AUTH") {
		t.Errorf("in clear: got %v, want no AUTH in\n%s", err, out)
	}
	said := string(run(t, []byte("EHLO pc.company1.example\nQUIT\n"), "openssl", "s_client", "-starttls", "smtp", "-connect", b.Inside, "-crlf", "-quiet", "-ign_eof", "-CAfile", b.Certificate(credential.ECDSA)))
	if want := "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"; !strings.Contains(said, want) {
		t.Errorf("over TLS: want %q in\n%s", want, said)
	}
	log := contents(t, b.Path("filterd.log"))
	if strings.Contains(log, "secret-7f3a") || !strings.Contains(log, `"account":"alice"`) {
		t.Errorf("the log has a password, or not who logged in:\n%s", tail([]byte(log), 4000))
	}
	entries, err := os.ReadDir(b.Kept.Dir())
	if err != nil || len(entries) != 2 {
		t.Fatalf("got %d mails, %v, want 2", len(entries), err)
	}
	mail := contents(t, filepath.Join(b.Kept.Dir(), entries[0].Name()))
	if r := field(mail, "Received"); !strings.Contains(r, "with ESMTPSA") || !strings.Contains(mail, "multipart/signed") {
		t.Errorf("got Received %q, want a signed mail with ESMTPSA:\n%s", r, mail)
	}
}

// A login over TLS from the first byte, too.
func TestSubmissionOverImplicitTLS(t *testing.T) {
	b := withAccounts(t, "implicit")
	said, err := swaks(t, b.Inside, submitter, submitter, "--tls-on-connect", "--auth", "PLAIN", "--auth-user", "alice", "--auth-password", rightWord)
	if err != nil {
		t.Errorf("got %v\n%s", err, said)
	}
}

// A proxy and a mail server in front say who the client is, and it is he whom
// the gateway names; from others it hears nothing of the kind.
func TestClientsOfProxies(t *testing.T) {
	b := open(t, trial.Config{OutsideFields: `proxy-from = ["127.0.0.1"]`, InsideFields: `xclient-from = ["127.0.0.1"]` + "\n" + `allow = ["198.51.100.0/24"]`})
	received := func(what string, args ...string) string {
		t.Helper()
		seen, err := b.Kept.Seen()
		if err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--from", "bob@partner.example", "--to", submitter, "--body", "x", "--timeout", "60"}, args...)
		if out, err := exec.CommandContext(t.Context(), "swaks", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		paths, err := b.Kept.Await(t.Context(), seen, 1)
		if err != nil {
			t.Fatal(err)
		}
		return field(contents(t, paths[0]), "Received")
	}
	for _, version := range []string{"1", "2"} {
		got := received("PROXY "+version, "--server", b.Outside, "--proxy-version", version, "--proxy-family", map[string]string{"1": "TCP4", "2": "AF_INET"}[version],
			"--proxy-command", "PROXY", "--proxy-protocol", "STREAM", "--proxy-source", "192.0.2.7", "--proxy-source-port", "4711", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25")
		if !strings.HasPrefix(got, "from [192.0.2.7] ") {
			t.Errorf("PROXY %s: got Received: %s", version, got)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "swaks", "--server", b.Outside, "--from", "x@partner.example", "--to", submitter, "--timeout", "60").CombinedOutput(); err == nil {
		t.Errorf("a proxy that does not say for whom it speaks: got served\n%s", out)
	}
	args := []string{"--server", b.Inside, "--from", submitter, "--to", "x@partner.example", "--header", "From: " + submitter, "--timeout", "60"}
	if out, err := exec.CommandContext(t.Context(), "swaks", args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "550 5.7.1") {
		t.Errorf("from a network that may not: got %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "swaks", append(args, "--xclient-addr", "198.51.100.9", "--xclient-name", "pc.company1.example")...).CombinedOutput(); err != nil {
		t.Errorf("XCLIENT from a host that is named: got %v\n%s", err, out)
	}
}

const clientPostfix = `myhostname = mail.company1.example
relayhost = [127.0.0.1]:%s
smtp_tls_security_level = encrypt
smtp_tls_mandatory_protocols = >=TLSv1.2
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{ [127.0.0.1]:%[1]s=alice:%s }
smtp_sasl_security_options = noanonymous
smtp_sasl_tls_security_options = noanonymous
smtp_sasl_mechanism_filter = %s
smtp_tls_loglevel = 1
smtpd_recipient_restrictions = permit_mynetworks, reject
`

// TestPostfixLogsIn: the company's Postfix as a client with an account, by the
// mechanisms of Cyrus.
func TestPostfixLogsIn(t *testing.T) {
	b := withAccounts(t, "force")
	_, port, _ := net.SplitHostPort(b.Inside)
	for _, mechanism := range []string{"scram-sha-256", "plain", "login"} {
		server := runPostfix(t, fmt.Sprintf(clientPostfix, port, rightWord, mechanism))
		seen, err := b.Kept.Seen()
		if err != nil {
			t.Fatal(err)
		}
		if said, err := swaks(t, server, submitter, submitter); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		paths, err := b.Kept.Await(ctx, seen, 1)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", mechanism, err)
		}
		if r := field(contents(t, paths[0]), "Received"); !strings.Contains(r, "ESMTPSA") {
			t.Errorf("%s: got Received: %s", mechanism, r)
		}
		if log := contents(t, b.Path("filterd.log")); !strings.Contains(log, `"mechanism":"`+strings.ToUpper(mechanism)+`"`) {
			t.Errorf("%s: the log does not name the mechanism", mechanism)
		}
	}
}

const serverPostfix = `myhostname = mail.company1.example
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:%s
smtpd_sasl_security_options = noanonymous
smtpd_tls_auth_only = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = %s
smtpd_recipient_restrictions = reject
`

// TestCompanyServerKnowsPasswords: the gateway asks a real mail server, by
// logging in there over TLS that it verifies, and keeps nothing.
func TestCompanyServerKnowsPasswords(t *testing.T) {
	site := newSiteCA(t)
	certs := folder(t)
	ca := site.file(certs)
	chain := site.chain(certs, "mail.company1.example")
	auth := runDovecotAuth(t, submitter+":"+rightWord+":1000:1000::/nonexistent::\n")
	server := runPostfix(t, fmt.Sprintf(serverPostfix, auth, chain))
	b := open(t, trial.Config{TLS: "force", InsideFields: "auth = \"required\"", FilterdTables: "[accounts]\nsource = \"smtp\"\n[accounts.smtp]\naddress = \"" + server +
		"\"\ntls = \"verify\"\nname = \"mail.company1.example\"\nca-file = \"" + ca + "\"\n"})
	if said, err := swaks(t, b.Inside, submitter, submitter, login("PLAIN", submitter, rightWord)...); err != nil {
		t.Errorf("got %v\n%s", err, said)
	}
	if said, err := swaks(t, b.Inside, submitter, submitter, login("LOGIN", submitter, "wrong-secret-7f3a")...); err == nil || !strings.Contains(said, "535 5.7.8") {
		t.Errorf("wrong: got %v\n%s", err, said)
	}
	if said, err := swaks(t, b.Inside, submitter, submitter, login("CRAM-MD5", submitter, rightWord)...); err == nil {
		t.Errorf("a mechanism that is not there: got\n%s", said)
	}
	if log := contents(t, b.Path("filterd.log")); strings.Contains(log, "secret-7f3a") {
		t.Errorf("the log has a password:\n%s", tail([]byte(log), 4000))
	}
}
