package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/hsm/certtest"
	"postern/provisioning/est/esttest"
)

var enrolled = flag.Int("enrolled", 12, "users whose certificates the drill makes anew, two for each")

// TestReissue is the drill for the day when an authority has to be left: every
// user gets new keys and certificates from an EST server, at the pace of the
// plan. A run that is killed in the middle is taken up again, and nothing is
// made twice; mail that was sealed to the old certificates still opens.
func TestReissue(t *testing.T) {
	peer := esttest.Open(t)
	b := open(t, trial.Config{FilterdTables: "[smime]\nroots = \"own\"\nrevocation = \"off\"\n"})
	var staff strings.Builder
	for n := range *enrolled {
		fmt.Fprintf(&staff, "u%03d@company1.example\tUser %d\n", n, n)
	}
	write := func(name, text string) string {
		path := b.Path(name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	users := "[users.staff]\nfile = \"" + write("staff.txt", staff.String()) + "\"\n"
	all := 2 * *enrolled

	// The authority of last year: its certificates end in ten days.
	dir := b.Path("requests")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first := write("first.toml", "renew = \"1d\"\n[authority.paper]\nkind = \"folder\"\nfolder = \""+dir+"\"\n"+users+"smime = { authority = \"paper\", sign = \"p-256\", open = \"p-256\" }\n")
	var later *exec.ExitError
	if r := enrol(t, b, first, &later); later == nil || later.ExitCode() != 75 || r.Count["waiting"] != all {
		t.Fatalf("got %v, %v, want status 75 and all waiting", r.Count, later)
	}
	certifyFolder(t, dir)
	if r := enrol(t, b, first, nil); r.Count["done"] != all {
		t.Fatalf("got %v, want %d done", r.Count, all)
	}
	if r := enrol(t, b, first, nil); r.Count["there"] != all || keysOf(t, b, "smime/") != all {
		t.Errorf("a second run: got %v and %d keys, want nothing done", r.Count, keysOf(t, b, "smime/"))
	}

	const user = "u001@company1.example"
	old := certOf(t, b, user, x509.KeyUsageKeyAgreement)
	mail := sealedBy(t, old, user)
	if got := one(t, b, b.Outside, "bob@partner.example", user, mail); !strings.Contains(got, secret) {
		t.Fatalf("before: got %s\nwant the opened mail", got)
	}

	// Another one takes its place, in a run that is killed in the middle.
	began := time.Now()
	second := write("second.toml", fmt.Sprintf("rate = \"600/1m\"\n[authority.ca]\nkind = \"est\"\nurl = %q\nca-file = %q\nuser = %q\npassword-file = %q\n%ssmime = { authority = \"ca\", sign = \"p-256\" }\n",
		peer.URL, peer.Root, esttest.User, write("password", esttest.Password+"\n"), users))
	killed := exec.Command(filepath.Join(b.Bin, "postern"), "enrol", second, "--config", b.Path("filterd.toml"))
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience+time.Duration(all)*10*time.Second, func() (bool, string) {
		n := len(peer.Issued())
		return n > all/4, fmt.Sprintf("%d certificates", n)
	})
	killed.Process.Kill()
	killed.Wait()
	before := len(peer.Issued())
	if before >= all {
		t.Fatalf("the run was over with %d certificates before it was killed", before)
	}
	if r := enrol(t, b, second, nil); r.Count["there"] < before-1 || r.Count["there"]+r.Count["done"] != all {
		t.Errorf("re-issue: got %v, want %d, of which %d were there", r.Count, all, before)
	}
	t.Logf("%d certificates with new keys, RSA-3072 to open and P-256 to sign, in %v", all, time.Since(began).Round(time.Second))
	if got := len(peer.Issued()); got > all+1 { // the one that was under way when the run was killed is asked for again
		t.Errorf("the authority has made %d certificates, want %d, or one more", got, all)
	}
	if got := keysOf(t, b, "smime/"); got != 2*all {
		t.Errorf("the token holds %d keys, want %d", got, 2*all)
	}
	if r := enrol(t, b, second, nil); r.Count["there"] != all {
		t.Errorf("after: got %v, want all there", r.Count)
	}
	now := certOf(t, b, user, x509.KeyUsageKeyEncipherment)
	if now.Equal(old) || now.NotAfter.Before(time.Now().AddDate(0, 6, 0)) {
		t.Errorf("got a certificate until %v, want a new one", now.NotAfter)
	}
	for when, sealed := range map[string][]byte{"old": mail, "new": sealedBy(t, now, user)} {
		if got := one(t, b, b.Outside, "bob@partner.example", user, bytes.ReplaceAll(sealed, []byte("Message-ID: <"), []byte("Message-ID: <again."))); !strings.Contains(got, secret) || parameter(field(got, "Postern-Status"), "opened") != "smime" {
			t.Errorf("mail to the %s certificate: got %s\nwant it opened", when, got)
		}
	}
	for _, usage := range []x509.KeyUsage{x509.KeyUsageDigitalSignature, x509.KeyUsageKeyEncipherment} {
		path := write("one.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certOf(t, b, user, usage).Raw})))
		run(t, nil, "openssl", "verify", "-purpose", map[x509.KeyUsage]string{x509.KeyUsageDigitalSignature: "smimesign", x509.KeyUsageKeyEncipherment: "smimeencrypt"}[usage],
			"-CAfile", peer.Root, "-untrusted", write("way.pem", string(exported(t, b, user))), path)
	}
}

// certifyFolder is an authority that finds requests and keys in a folder, and
// makes certificates of last year, as people do with OpenSSL.
func certifyFolder(t *testing.T, dir string) {
	t.Helper()
	template := certtest.CA("Last Year")
	template.NotBefore, template.NotAfter = time.Now().AddDate(-1, 0, 10), time.Now().AddDate(0, 0, 10)
	ca := certtest.New(t, template)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range names {
		path := filepath.Join(dir, entry.Name())
		owner, _, _ := strings.Cut(entry.Name(), "-smime-")
		usage := x509.KeyUsageKeyAgreement
		if strings.HasSuffix(path, ".csr") {
			usage = x509.KeyUsageDigitalSignature
		}
		cert := ca.Sign(t, certtest.Mail(owner, usage), certtest.Asked(t, []byte(contents(t, path))).PublicKey)
		if err := os.WriteFile(path+".crt", certtest.PEM(cert), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEnrolServerAway: with nobody there to ask, the run ends soon, says so, and
// has made no key twice when the server is back.
func TestEnrolServerAway(t *testing.T) {
	b := open(t, trial.Config{})
	plan := b.Path("plan.toml")
	text := "[authority.ca]\nkind = \"est\"\nurl = \"https://127.0.0.1:1\"\nuser = \"u\"\npassword-file = \"" + b.Path("pin") + "\"\n" +
		"[users.staff]\naddresses = [\"a@company1.example\", \"b@company1.example\", \"c@company1.example\", \"d@company1.example\", \"e@company1.example\"]\nsmime = { authority = \"ca\", sign = \"p-256\" }\n"
	if err := os.WriteFile(plan, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var refusal *exec.ExitError
	for range 2 {
		r := enrol(t, b, plan, &refusal)
		if refusal == nil || refusal.ExitCode() != 1 || r.Count["failed"] != 10 || !strings.Contains(r.Certificates[9].Reason, "not asked any more") {
			t.Errorf("got %v, %v, want status 1 and nothing asked after three times", r, refusal)
		}
		if got := keysOf(t, b, "smime/"); got != 10 {
			t.Errorf("the token holds %d keys, want 10", got)
		}
	}
}

// enrolment is what enrol --json prints.
type enrolment struct {
	Certificates []struct{ Owner, State, Reason string }
	Count        map[string]int
}

// enrol runs a plan to its end. A refusal is an error of the test where nobody asks for it.
func enrol(t *testing.T, b *trial.Box, plan string, refusal **exec.ExitError) (r enrolment) {
	t.Helper()
	out, err := b.Postern(t.Context(), nil, "enrol", plan, "--json")
	if err != nil && (refusal == nil || !errors.As(err, refusal)) {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

// keysOf counts the keys of a use.
func keysOf(t *testing.T, b *trial.Box, prefix string) (n int) {
	t.Helper()
	out, err := b.Postern(t.Context(), nil, "key", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Keys []struct{ Label string } }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	for _, k := range list.Keys {
		if strings.HasPrefix(k.Label, prefix) {
			n++
		}
	}
	return n
}

// exported are the certificates that partners are given.
func exported(t *testing.T, b *trial.Box, owner string) []byte {
	t.Helper()
	out, err := b.Postern(t.Context(), nil, "identity", "export", owner)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// certOf is the certificate of an owner for a use.
func certOf(t *testing.T, b *trial.Box, owner string, usage x509.KeyUsage) *x509.Certificate {
	t.Helper()
	text := exported(t, b, owner)
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			t.Fatalf("%s has no certificate for %v", owner, usage)
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if x.KeyUsage == usage {
			return x
		}
	}
}

// sealedBy OpenSSL to a certificate.
func sealedBy(t *testing.T, to *x509.Certificate, address string) []byte {
	t.Helper()
	path := filepath.Join(folder(t), "to.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: to.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "cms", "-encrypt", "-aes-256-cbc", "-from", "bob@partner.example", "-to", address, "-subject", "sealed", path)
	cmd.Stdin = strings.NewReader("Content-Type: text/plain\r\n\r\n" + secret + "\r\n")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	mail, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl cms: %v: %s", err, &complaint)
	}
	lines := bytes.ReplaceAll(bytes.ReplaceAll(mail, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	return append([]byte("Date: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <"+filepath.Base(filepath.Dir(path))+"@partner.example>\r\n"), lines...)
}
