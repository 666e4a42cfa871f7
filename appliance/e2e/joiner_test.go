package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/provisioning/est/esttest"
)

// TestJoiner: who is new sends his first mail under the domain's certificate, and
// who is new gets his first; the next run of enrol gives each of them a
// certificate of his own, from an authority that is asked by EST; the second mail
// is signed with it, and opened by it.
func TestJoiner(t *testing.T) {
	peer := esttest.Open(t)
	b := open(t, trial.Config{DomainFields: "joiners = \"all\"\n", FilterdTables: "[smime]\nroots = \"own\"\nrevocation = \"off\"\n[partner.\"partner.example\"]\nformat = [\"smime\"]\n"})
	const carol, dan, bob = "carol@company1.example", "dan@company1.example", "bob@partner.example"
	for name, text := range map[string]string{"password": esttest.Password + "\n", "plan.toml": fmt.Sprintf(
		"rate = \"600/1m\"\n[authority.ca]\nkind = \"est\"\nurl = %q\nca-file = %q\nuser = %q\npassword-file = %q\n[domain.\"company1.example\"]\nsmime = { authority = \"ca\", sign = \"p-256\" }\n"+
			"[users.joiners]\njoiners = [\"company1.example\"]\nfile = %q\nsmime = { authority = \"ca\", sign = \"p-256\" }\n", peer.URL, peer.Root, esttest.User, b.Path("password"), b.Path("joiners.txt"))} {
		if err := os.WriteFile(b.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plan := b.Path("plan.toml")
	if r := enrol(t, b, plan, nil); r.Count["done"] != 2 {
		t.Fatalf("got %v, want the two certificates of the domain", r.Count)
	}

	letter := func(from, to, id string) []byte {
		return []byte("From: " + from + "\r\nTo: " + to + "\r\nSubject: new\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + id + "@company1.example>\r\n\r\n" + secret + "\r\n")
	}
	if got := signerOf(t, peer, one(t, b, b.Inside, carol, bob, letter(carol, bob, "first"))); !slices.Equal(got, []string{"domain-confidentiality-authority@company1.example"}) {
		t.Errorf("the first mail is signed by %q, want the domain", got)
	}
	one(t, b, b.Outside, bob, dan, letter(bob, dan, "welcome"))
	one(t, b, b.Outside, "", dan, letter(bob, "nobody@company1.example", "bounce"))
	eventually(t, patience, func() (bool, string) { // they are noted behind their mails
		out, err := b.Postern(t.Context(), nil, "enrol", plan, "-n")
		text := string(out)
		return strings.Contains(text, "6 wanted by the plan: 2 there, 4 wanted") && strings.Contains(text, carol) && strings.Contains(text, dan), fmt.Sprintf("%v: %s", err, text)
	})
	if got := keysOf(t, b, "smime/"); got != 2 {
		t.Errorf("got %d keys before the run, want those of the domain", got)
	}
	before := len(peer.Issued())
	if r := enrol(t, b, plan, nil); r.Count["done"] != 4 || r.Count["there"] != 2 || len(peer.Issued()) != before+4 {
		t.Errorf("got %v, and %d certificates made, want 4 of them for two people", r.Count, len(peer.Issued())-before)
	}
	if got := signerOf(t, peer, one(t, b, b.Inside, carol, bob, letter(carol, bob, "second"))); !slices.Equal(got, []string{carol}) {
		t.Errorf("the second mail is signed by %q, want %s", got, carol)
	}
	got := one(t, b, b.Outside, bob, dan, sealedBy(t, certOf(t, b, dan, x509.KeyUsageKeyEncipherment), dan))
	if !strings.Contains(got, secret) || parameter(field(got, "Postern-Status"), "opened") != "smime" {
		t.Errorf("got %s\nwant the mail to the new certificate opened", got)
	}
	// They are in the plan for good, and nobody is new any more.
	if text := contents(t, b.Path("joiners.txt")); strings.Count(text, carol+"\n") != 1 || strings.Count(text, dan+"\n") != 1 {
		t.Errorf("got %q, want both once", text)
	}
	if r := enrol(t, b, plan, nil); r.Count["there"] != 6 || len(r.Certificates) != 6 {
		t.Errorf("got %v, want all there", r.Count)
	}
}

// signerOf are the addresses in the certificate of whoever signed a mail, as
// OpenSSL finds and believes him.
func signerOf(t *testing.T, peer *esttest.Server, mail string) []string {
	t.Helper()
	path := filepath.Join(folder(t), "signer.pem")
	run(t, []byte(mail), "openssl", "cms", "-verify", "-CAfile", peer.Root, "-signer", path)
	block, _ := pem.Decode([]byte(contents(t, path)))
	if block == nil {
		t.Fatal("nobody signed")
	}
	x, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return x.EmailAddresses
}
