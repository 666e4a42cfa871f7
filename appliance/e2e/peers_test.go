package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/filter/openpgp/peertest"
)

const (
	alice  = "alice@company1.example"
	secret = "The offer stands: 4711."
	entity = "Content-Type: text/plain; charset=utf-8\r\n\r\n" + secret + "\r\n"
)

// person is a mail program of somebody outside.
type person interface {
	cert() []byte                    // his certificate, armoured
	seal(cert, entity []byte) []byte // signed and encrypted, armoured
	open(cert, mail []byte) string   // decrypted, signature good
}

// Each peer sends one signed and encrypted mail by swaks: it arrives opened
// and verified, for exactly one operation of the token. A plain mail to the
// peer leaves signed and encrypted, and the peer reads it.
func TestPeers(t *testing.T) {
	for _, peer := range []struct {
		name   string
		create []string // of our identity; nil for the default, RSA-3072
		make   func(t *testing.T, address string) person
	}{
		{"gpg rsa3072", nil, gpg("rsa3072", "rsa3072")},
		{"gpg p-256", []string{"--algorithm", "p-256"}, gpg("nistp256", "nistp256")},
		{"gpg curve25519", []string{"--algorithm", "ed25519"}, gpg("ed25519", "cv25519")},
		{"gpg p-384", []string{"--algorithm", "p-384"}, gpg("nistp384", "nistp384")},
		{"gpg p-521", []string{"--algorithm", "p-521"}, gpg("nistp521", "nistp521")},
		{"sq curve25519", nil, sq("cv25519")},
		{"sq rsa3072", []string{"--algorithm", "rsa-4096"}, sq("rsa3k")},
		{"openpgpjs v6", []string{"--algorithm", "ed25519", "--v6"}, openpgpjs},
	} {
		t.Run(strings.ReplaceAll(peer.name, " ", "-"), func(t *testing.T) {
			const bob = "bob@partner.example"
			b := open(t, trial.Config{Create: append([]string{"--format", "openpgp", "--domain", "company1.example"}, peer.create...)})
			p := peer.make(t, bob)
			trust(t, b, p.cert())
			cert := ours(t, b, "company1.example")

			header := "From: Bob <" + bob + ">\nTo: " + alice + "\nSubject: offer\nMessage-ID: <1@partner.example>\n"
			got := one(t, b, b.Outside, bob, alice, trial.Encrypted(header, p.seal(cert, []byte(entity))))
			status := field(got, "Postern-Status")
			for name, want := range map[string]string{"opened": "openpgp", "verified": "yes", "signer": bob, "reason": "good", "carried": "clear"} {
				if got := parameter(status, name); got != want {
					t.Errorf("%s: got %q, want %q: %s", name, got, want, status)
				}
			}
			if !strings.Contains(got, "\r\n\r\n"+secret) || strings.Contains(got, "BEGIN PGP") {
				t.Errorf("got %s\nwant the opened mail", got)
			}
			ops := operations(t, b, parameter(status, "trace"))
			if len(ops) != 1 || ops[0].Op != "unwrap" || ops[0].Verdict != "ok" {
				t.Errorf("got operations %v, want one unwrap", ops)
			}

			plain := []byte("From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: answer\r\n\r\n" + secret + "\r\n")
			got = one(t, b, b.Inside, alice, bob, plain)
			if strings.Contains(got, secret) || !strings.HasPrefix(field(got, "Content-Type"), "multipart/encrypted") || strings.Contains(got, "answer") || field(got, "Subject") != "[...]" {
				t.Fatalf("got %s\nwant a sealed mail without its subject", got)
			}
			if text := p.open(cert, []byte(got)); !strings.Contains(text, secret) || !strings.Contains(text, "Subject: answer") || !strings.Contains(text, "HP-Outer: Subject: [...]") {
				t.Errorf("got %q, want what was sent, with its header", text)
			}
		})
	}
}

// Without a certificate where one is required, nothing leaves.
func TestRequired(t *testing.T) {
	b := open(t, trial.Config{})
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("From: Alice <" + alice + ">\r\nTo: vault@partner.example\r\nSubject: numbers\r\n\r\n" + secret + "\r\n")
	dialogue, err := trial.Submit(t.Context(), b.Inside, alice, []string{"vault@partner.example"}, plain)
	if err == nil || !strings.Contains(dialogue, "550 5.7.3") {
		t.Errorf("got %v, want 550 5.7.3:\n%s", err, dialogue)
	}
	if now, _ := b.Kept.Seen(); len(now) != len(seen) {
		t.Errorf("got %d mails in the sink, want %d", len(now), len(seen))
	}
	out, err := b.Postern(t.Context(), bytes.NewReader(plain), "explain", "--direction", "outbound", "--from", alice, "--to", "vault@partner.example")
	if err == nil || !strings.Contains(string(out), `recipient."vault@partner.example"`) {
		t.Errorf("got %v, want an explanation that names the rule:\n%s", err, out)
	}
	out, err = b.Postern(t.Context(), bytes.NewReader(plain), "explain", "--direction", "outbound", "--from", alice, "--to", "stranger@other.example")
	if err != nil || !strings.Contains(string(out), "Why not encrypted to stranger@other.example: no certificate of the recipient can be used now, and the rule default does not insist.") {
		t.Errorf("got %v, want why it is not encrypted:\n%s", err, out)
	}
}

// run gives what a program prints.
func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, &complaint)
	}
	return out
}

// armoured is the OpenPGP message in a mail.
func armoured(t *testing.T, mail []byte) []byte {
	t.Helper()
	const begin, end = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
	from, to := bytes.Index(mail, []byte(begin)), bytes.Index(mail, []byte(end))
	if from < 0 || to < from {
		t.Fatalf("got no OpenPGP message in %s", mail)
	}
	return append(mail[from:to+len(end):to+len(end)], '\n')
}

// gpg is a person with GnuPG and a key of two algorithms.
func gpg(sign, encrypt string) func(t *testing.T, address string) person {
	return func(t *testing.T, address string) person {
		p, err := trial.NewPartner(t.Context(), folder(t), address, sign, "sign", "never")
		if err == nil {
			err = p.AddKeys(t.Context(), encrypt, "encr", "never")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return &gnupg{t, p}
	}
}

type gnupg struct {
	t *testing.T
	p *trial.Partner
}

func (g *gnupg) must(b []byte, err error) []byte {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

func (g *gnupg) cert() []byte { return g.must(g.p.Cert(g.t.Context())) }

func (g *gnupg) seal(cert, entity []byte) []byte {
	if err := g.p.Import(g.t.Context(), cert); err != nil {
		g.t.Fatal(err)
	}
	return armoured(g.t, g.must(g.p.Seal(g.t.Context(), "", string(entity), "postmaster@company1.example")))
}

func (g *gnupg) open(_, mail []byte) string { return string(g.must(g.p.Open(g.t.Context(), mail))) }

// sq is a person with Sequoia.
func sq(suite string) func(t *testing.T, address string) person {
	return func(t *testing.T, address string) person {
		s := &sequoia{t, folder(t), peertest.NewSq()}
		run(t, nil, "sq", s.sq.Generate("Bob <"+address+">", suite, s.path("key"))...)
		return s
	}
}

type sequoia struct {
	t   *testing.T
	dir string
	sq  peertest.Sq
}

func (s *sequoia) path(name string) string { return filepath.Join(s.dir, name) }

// keep writes a certificate for sq to read.
func (s *sequoia) keep(cert []byte) string {
	if err := os.WriteFile(s.path("ours"), cert, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.path("ours")
}

func (s *sequoia) cert() []byte {
	return run(s.t, nil, "sq", s.sq.Extract(s.path("key"))...)
}

func (s *sequoia) seal(cert, entity []byte) []byte {
	return run(s.t, entity, "sq", s.sq.Encrypt(s.keep(cert), s.path("key"))...)
}

func (s *sequoia) open(cert, mail []byte) string {
	return string(run(s.t, armoured(s.t, mail), "sq", s.sq.Decrypt(s.path("key"), s.keep(cert))...))
}

// openpgpjs is a person with OpenPGP.js and a key of version 6.
func openpgpjs(t *testing.T, address string) person {
	o := &javascript{sequoia{t: t, dir: folder(t)}}
	if err := os.WriteFile(o.path("key"), run(t, nil, "node", "peers/openpgp.mjs", "generate", "Bob", address), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

type javascript struct{ sequoia }

func (o *javascript) cert() []byte {
	key, err := os.ReadFile(o.path("key"))
	if err != nil {
		o.t.Fatal(err)
	}
	return run(o.t, key, "node", "peers/openpgp.mjs", "public")
}

func (o *javascript) seal(cert, entity []byte) []byte {
	return run(o.t, entity, "node", "peers/openpgp.mjs", "seal", o.path("key"), o.keep(cert))
}

func (o *javascript) open(cert, mail []byte) string {
	return string(run(o.t, armoured(o.t, mail), "node", "peers/openpgp.mjs", "open", o.path("key"), o.keep(cert)))
}
