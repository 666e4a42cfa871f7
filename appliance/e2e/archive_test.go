package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/filter/message"
	"postern/filter/openpgp"
	bodies "postern/filter/protect/entity"
	"postern/hsm"
)

const vault = "archive@vault.example"

// store is an archive: who can read it, and its mail server.
type store struct {
	format      string
	cert        []byte // as it is imported
	fingerprint string
	from        string                   // whom our signature names
	create      func(c *company)         // what we need to sign for it, beside what we have
	open        func(mail []byte) []byte // the entity, where our signature is good
}

// gpgStore is an archive with GnuPG.
func gpgStore(t *testing.T) *store {
	p, err := trial.NewPartner(t.Context(), filepath.Join(folder(t), "gpg"), vault, "ed25519", "default", "never")
	if err == nil {
		t.Cleanup(func() { p.Close() })
		err = p.AddKeys(t.Context(), "cv25519", "encr", "never")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &store{format: "openpgp", from: "postmaster@company1.example"}
	if s.cert, err = p.Cert(t.Context()); err != nil {
		t.Fatal(err)
	}
	certs, err := openpgp.Read(s.cert)
	if err != nil || len(certs) != 1 {
		t.Fatalf("read certificate: %d, %v", len(certs), err)
	}
	s.fingerprint = certs[0].Fingerprint
	s.create = func(c *company) {
		if err := p.Import(t.Context(), ours(t, c.Box, "company1.example")); err != nil {
			t.Fatal(err)
		}
	}
	s.open = func(mail []byte) []byte {
		text, err := p.Open(t.Context(), mail)
		if err != nil {
			t.Fatalf("%v\n%s", err, mail)
		}
		return text
	}
	return s
}

// opensslStore is an archive with S/MIME and openssl.
func opensslStore(t *testing.T) *store {
	ca, dir := newAuthority(t, "Archive Root"), folder(t)
	key := newKey(t, hsm.RSA3072, 0)
	cert := ca.issue(public(key), "Archive", vault, hsm.Unwrap)
	sum := sha256.Sum256(cert.Raw)
	s := &store{format: "smime", fingerprint: hex.EncodeToString(sum[:]), from: "domain-confidentiality-authority@company1.example"}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, certFile, root := write("key.pem", "PRIVATE KEY", pkcs8), write("cert.pem", "CERTIFICATE", cert.Raw), write("root.pem", "CERTIFICATE", ca.cert.Raw)
	s.cert = []byte(contents(t, certFile))
	s.create = func(c *company) {
		c.anchor(t, ca)
		if _, err := c.Postern(t.Context(), nil, append([]string{"identity", "create"}, sMIME("company1.example", "rsa-3072", dir)...)...); err != nil {
			t.Fatal(err)
		}
		c.certify(t, ca, dir)
	}
	s.open = func(mail []byte) []byte {
		signed := run(t, mail, "openssl", "cms", "-decrypt", "-recip", certFile, "-inkey", keyFile)
		return run(t, signed, "openssl", "cms", "-verify", "-CAfile", root)
	}
	return s
}

// A whole house with an archive: nobody gets a sealed mail before the archive
// has its copy; whatever of both is away for a while, in the end each has it
// once; and the archive reads with its own programs what was delivered, and
// what left sealed.
func TestArchive(t *testing.T) {
	for name, make := range map[string]func(*testing.T) *store{"gpg": gpgStore, "openssl": opensslStore} {
		t.Run(name, func(t *testing.T) {
			s := make(t)
			server, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address, dir := server.Addr().String(), folder(t)
			c := &company{Box: open(t, trial.Config{
				DomainFields: fmt.Sprintf("archive = %q", vault),
				FilterdTables: fmt.Sprintf("[archive.%q]\ncerts = [%q]\nwhen = [\"inbound\", \"outbound\"]\nnext-hop = { address = %q }\n"+
					"[smime]\nroots = \"own\"\nrevocation = \"off\"\n", vault, s.fingerprint, address)})}
			const bob = "bob@partner.example"
			p, err := trial.NewPartner(t.Context(), filepath.Join(folder(t), "gpg"), bob, "ed25519", "default", "never")
			if err == nil {
				t.Cleanup(func() { p.Close() })
				err = p.AddKeys(t.Context(), "cv25519", "encr", "never")
			}
			var cert []byte
			if err == nil {
				cert, err = p.Cert(t.Context())
			}
			if err == nil {
				err = p.Import(t.Context(), ours(t, c.Box, "company1.example"))
			}
			if err != nil {
				t.Fatal(err)
			}
			trust(t, c.Box, cert)
			inbound := func(id string) []byte {
				sealed, err := p.Seal(t.Context(), "From: Bob <"+bob+">\nTo: "+alice+"\nSubject: offer\nMessage-ID: <"+id+"@partner.example>\n", withSignature, "company1.example")
				if err != nil {
					t.Fatal(err)
				}
				return sealed
			}
			outbound := []byte("From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: answer\r\nMessage-ID: <2@company1.example>\r\n\r\n" + secret + " -- \r\n")
			send := func(what, at, from, to string, mail []byte, want string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				dialogue, err := trial.Submit(ctx, at, from, []string{to}, mail)
				if (err == nil) != (want[0] == '2') || !strings.Contains(dialogue, " "+want) {
					t.Fatalf("%s: got %v\n%s\nwant %s", what, err, dialogue, want)
				}
			}
			first := inbound("1")

			// Nothing can be sealed for the archive yet: what must be archived waits.
			send("no certificate", c.Outside, bob, alice, first, "451 4.3.5 mail cannot be archived yet")
			if out, err := c.Postern(t.Context(), nil, "policy", "check"); err == nil || !strings.Contains(string(out), "nothing can be sealed for the archive "+vault) {
				t.Errorf("policy check: got %v, %s", err, out)
			}
			trust(t, c.Box, s.cert)
			s.create(c)
			if out, _ := c.Postern(t.Context(), nil, "policy", "check"); len(out) == 0 || strings.Contains(string(out), "for the archive") {
				t.Errorf("policy check: got %s, want no concern about the archive any more", out)
			}

			// The archive is away: its sender's mail waits, and so does ours.
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			send("archive away", c.Outside, bob, alice, first, "451 4.3.0 archive does not take the mail now")
			send("archive away", c.Inside, alice, bob, outbound, "451 4.3.0 archive does not take the mail now")
			if out, err := c.Postern(t.Context(), nil, "doctor"); err == nil || !strings.Contains(string(out), "next hop "+vault) {
				t.Errorf("doctor: got %v, %s, want the archive's hop broken", err, out)
			}
			holding(t, "archive away", c.Kept, 0)
			kept := reopen(t, dir, address)
			t.Cleanup(func() { kept.Close() })
			send("archive back", c.Outside, bob, alice, first, "250 2.0.0")
			send("archive back", c.Inside, alice, bob, outbound, "250 2.0.0")
			copies, delivered := holding(t, "archive back", kept, 2), holding(t, "archive back", c.Kept, 2)

			// The company's mail server is away: the archive has its copy already.
			second := inbound("3")
			if err := c.Kept.Close(); err != nil {
				t.Fatal(err)
			}
			c.Kept = nil
			send("server away", c.Outside, bob, alice, second, "451 4.4.1")
			send("server away, once more", c.Outside, bob, alice, second, "451 4.4.1")
			c.Kept = reopen(t, c.Path("maildir"), c.NextHop)
			send("server back", c.Outside, bob, alice, second, "250 2.0.0")
			send("in clear", c.Outside, bob, alice, []byte("From: "+bob+"\r\nTo: "+alice+"\r\n\r\n"+secret+"\r\n"), "250 2.0.0")
			holding(t, "in the end", kept, 3)
			holding(t, "in the end", c.Kept, 4)

			for i, mail := range copies {
				if head := string(mail); !strings.HasPrefix(head, "Return-Path: <>\r\nDelivered-To: "+vault+"\r\n") || strings.Contains(head, secret) || strings.Contains(head, "bob@") || strings.Contains(head, "alice@") || field(head, "From") != "<"+s.from+">" {
					t.Errorf("copy %d: got\n%s\nwant a mail from nobody to the archive, that says nothing in clear", i, mail)
				}
				text := string(extract(t, s.open(mail)))
				m, err := message.Parse(strings.NewReader(text), message.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				rest := text[m.Root.Header[2].Whole.End:]
				status := field(text, "Postern-Archive")
				want := map[string]string{"direction": "inbound", "opened": "openpgp", "verified": "yes", "signer": bob, "reason": "good"}
				from, to := bob, alice
				if i == 1 {
					want = map[string]string{"direction": "outbound", "opened": "none", "verified": "no", "signer": "none"}
					from, to = alice, bob
				}
				for name, want := range want {
					if got := parameter(status, name); got != want {
						t.Errorf("copy %d: %s: got %q, want %q: %s", i, name, got, want, status)
					}
				}
				if got := field(text, "Postern-Archive-From") + " " + field(text, "Postern-Archive-To"); got != from+" "+to {
					t.Errorf("copy %d: got envelope %q", i, got)
				}
				switch {
				case i == 0:
					_, mail, _ := strings.Cut(string(delivered[0]), "Delivered-To: "+alice+"\r\n")
					if rest != mail {
						t.Errorf("got\n%s\nwant what was delivered\n%s", rest, mail)
					}
				case !strings.Contains(rest, "\r\n"+string(outbound)): // swaks adds an empty line
					t.Errorf("got\n%s\nwant what she sent\n%s", rest, outbound)
				}
			}
			trace := parameter(field(string(delivered[0]), "Postern-Status"), "trace")
			eventually(t, patience, func() (bool, string) {
				out, err := c.Postern(t.Context(), nil, "trace", trace)
				return err == nil && strings.Contains(string(out), "archive") && strings.Contains(string(out), vault), fmt.Sprintf("trace: %v, %s", err, out)
			})
			planned(t, c.Box, s, outbound, bob)
		})
	}
}

const withSignature = "Content-Type: text/plain; charset=utf-8\r\n\r\n" + secret + "\r\n-- \r\nBob\r\n"

// reopen is a sink at the place of one that was closed.
func reopen(t *testing.T, dir, address string) *trial.Sink {
	t.Helper()
	var l net.Listener
	eventually(t, patience, func() (bool, string) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil, fmt.Sprint(err)
	})
	s, err := trial.OpenSink(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// holding are the mails of a sink, which are so many, in the order of their arrival.
func holding(t *testing.T, what string, s *trial.Sink, want int) (mails [][]byte) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(s.Dir(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		mails = append(mails, b)
	}
	if len(mails) != want {
		t.Fatalf("%s: got %d mails, want %d", what, len(mails), want)
	}
	return mails
}

// extract is the one mail that an archive's copy holds.
func extract(t *testing.T, copied []byte) []byte {
	t.Helper()
	copied = bytes.ReplaceAll(bytes.ReplaceAll(copied, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	m, err := message.Parse(bytes.NewReader(copied), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Root.Type != "multipart/mixed" || len(m.Root.Parts) != 1 {
		t.Fatalf("got %s with %d parts, want one mail in it\n%s", m.Root.Type, len(m.Root.Parts), copied)
	}
	b, err := io.ReadAll(bodies.Decoded(m.Source, m.Root.Parts[0]))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// planned holds what postern process and explain say of a mail that is archived.
func planned(t *testing.T, b *trial.Box, s *store, mail []byte, to string) {
	t.Helper()
	out, err := b.Postern(t.Context(), bytes.NewReader(mail), "explain", "--direction", "outbound", "--from", alice, "--to", to, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Explain  []string
		Decision struct {
			Plans []struct {
				Format     string
				Recipients []string
				Signed     bool
				Encrypted  bool
				Archive    bool
			}
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	plans := got.Decision.Plans
	if len(plans) != 2 || plans[0].Archive || !plans[1].Archive || plans[1].Format != s.format || !plans[1].Signed || !plans[1].Encrypted || fmt.Sprint(plans[1].Recipients) != "["+vault+"]" ||
		!strings.Contains(strings.Join(got.Explain, "\n"), "goes to the archive "+vault) {
		t.Errorf("got %s\nwant a plan for the archive", out)
	}
}
