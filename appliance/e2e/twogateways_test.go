package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"postern/appliance/trial"
	"postern/hsm"
)

const bob2 = "bob@company2.example"

// wire is what lies between two gateways: it hands on what one says, and keeps it.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	said     bytes.Buffer
}

// newWire leads to a server. It is cut with the test.
func newWire(t testing.TB, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: to}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(near)
		}
	}()
	return w
}

func (w *wire) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		io.Copy(near, far)
		near.Close()
	}()
	io.Copy(far, io.TeeReader(near, w))
}

// Write keeps what goes over it.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.Write(p)
}

// taken is what went over it since it was asked last.
func (w *wire) taken() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.said.Reset()
	return w.said.String()
}

// company is one gateway, with the wire that its mail leaves on.
type company struct {
	*trial.Box
	wire *wire
}

// twoCompanies opens two gateways that send each other their mail.
func twoCompanies(t testing.TB, create1, create2 []string) (one, two *company) {
	t.Helper()
	const tables = "[smime]\nroots = \"own\"\nrevocation = \"off\"\n"
	one = &company{Box: open(t, trial.Config{Domain: "company1.example", Create: create1, FilterdTables: tables})}
	two = &company{Box: open(t, trial.Config{Domain: "company2.example", Create: create2, FilterdTables: tables})}
	one.wire, two.wire = newWire(t, two.Outside), newWire(t, one.Outside)
	for _, c := range []*company{one, two} {
		c.reconfigure(t, "[next-hop.outbound]\naddress = \""+c.NextHop+"\"", "[next-hop.outbound]\naddress = \""+c.wire.listener.Addr().String()+"\"")
	}
	return one, two
}

// reconfigure changes text in filterd.toml, and starts filterd again with it.
func (c *company) reconfigure(t testing.TB, old, fresh string) {
	t.Helper()
	text, err := os.ReadFile(c.Path("filterd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("filterd.toml has no %q", old)
	}
	if err := os.WriteFile(c.Path("filterd.toml"), bytes.Replace(text, []byte(old), []byte(fresh), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Filterd.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartFilterd(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// openPGP is what `identity create` is asked for.
func openPGP(domain string) []string {
	return []string{"--format", "openpgp", "--domain", domain, "--algorithm", "ed25519"}
}

// sMIME likewise: keys, and what an authority wants to know of them.
func sMIME(domain, algorithm, dir string) []string {
	return []string{"--use", "smime", "--domain", domain, "--algorithm", algorithm, "--out", dir}
}

// certify has the authority make the two domain certificates that were asked
// for in dir, and binds them.
func (c *company) certify(t testing.TB, ca *authority, dir string) {
	t.Helper()
	mailbox := "domain-confidentiality-authority@" + c.Domain // RFC 3183 §4
	for _, use := range []hsm.Usage{hsm.Sign, hsm.Unwrap} {
		file := dir + "/" + c.Domain + "-" + use.String()
		data, err := os.ReadFile(file + ".csr")
		if errors.Is(err, fs.ErrNotExist) && use == hsm.Unwrap {
			data, err = os.ReadFile(file + ".pub") // on a curve, it signs no request
		}
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			t.Fatalf("%s: got no PEM", file)
		}
		var pub any
		if block.Type == "CERTIFICATE REQUEST" {
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err == nil {
				err = request.CheckSignature()
			}
			if err != nil {
				t.Fatal(err)
			}
			pub = request.PublicKey
		} else if pub, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			t.Fatal(err)
		}
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.issue(pub, c.Domain, mailbox, use).Raw})
		if _, err := c.Postern(t.Context(), bytes.NewReader(cert), "identity", "add", "--domain", c.Domain, "--cert", "-"); err != nil {
			t.Fatal(err)
		}
	}
}

// know takes the other's certificates of a format up for all its domain.
func (c *company) know(t testing.TB, other *company, format string) {
	t.Helper()
	certs, err := other.Postern(t.Context(), nil, "identity", "export", other.Domain, "--format", format)
	if err == nil {
		_, err = c.Postern(t.Context(), bytes.NewReader(certs), "cert", "import", "--domain", other.Domain, "-")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// anchor trusts the authority.
func (c *company) anchor(t testing.TB, ca *authority) {
	t.Helper()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if _, err := c.Postern(t.Context(), bytes.NewReader(cert), "cert", "import", "--anchor", "-"); err != nil {
		t.Fatal(err)
	}
}

// writes sends a mail from an employee of one company to one of the other, and
// holds what was on the wire and what arrived against the format, "openpgp" or
// "smime", and against what is said of the sender.
func (c *company) writes(t testing.TB, other *company, from, to, format, verified string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen, err := other.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	mail := []byte("From: Somebody <" + from + ">\r\nTo: " + to + "\r\nSubject: numbers\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + secret + "\r\n")
	if dialogue, err := trial.Submit(ctx, c.Inside, from, []string{to}, mail); err != nil {
		t.Fatalf("submit: %v\n%s", err, dialogue)
	}
	paths, err := other.Kept.Await(ctx, seen, 1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	if said := c.wire.taken(); !sealedOnWire(said, format) {
		t.Errorf("%s: got on the wire\n%s\nwant it sealed with %s", from, said, format)
	}
	status := field(got, "Postern-Status")
	want := map[string]string{"opened": format, "verified": verified, "signer": "none"}
	if verified == "yes" {
		want["signer"], want["reason"] = from, "good"
	}
	for name, want := range want {
		if is := parameter(status, name); is != want {
			t.Errorf("%s, %s: got %q, want %q: %s", from, name, is, want, status)
		}
	}
	if !strings.Contains(got, "\r\n\r\n"+secret) || field(got, "Subject") != "numbers" {
		t.Errorf("got %s\nwant the opened mail with its subject", got)
	}
	if ops := operations(t, other.Box, parameter(status, "trace")); len(ops) != 1 || ops[0].Op != "unwrap" || ops[0].Verdict != "ok" {
		t.Errorf("got operations %v at the reader's, want one unwrap", ops)
	}
}

// sealedOnWire reads one SMTP session: nothing of the text, and the whole mail
// is one encrypted message of the format.
func sealedOnWire(said, format string) bool {
	_, mail, data := strings.Cut(said, "\r\nDATA\r\n")
	if !data {
		return false
	}
	mail, _, _ = strings.Cut(mail, "\r\n.\r\n")
	head, body, _ := strings.Cut(mail, "\r\n\r\n")
	plain := []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), "numbers"}
	for _, p := range plain {
		if strings.Contains(said, p) {
			return false
		}
	}
	kind := field(head+"\r\n\r\n", "Content-Type")
	if format == "openpgp" {
		return strings.HasPrefix(kind, "multipart/encrypted") && strings.Contains(body, "-----BEGIN PGP MESSAGE-----")
	}
	message, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil || !strings.HasPrefix(kind, "application/pkcs7-mime") {
		return false
	}
	start := message[:min(len(message), 24)]
	return bytes.Contains(start, derOID(oidEnveloped)) || bytes.Contains(start, derOID(oidAuthEnveloped))
}

// refused sends a mail that must not leave: the answer is temporary, and there
// was nothing on the wire.
func (c *company) refused(t testing.TB, from, to string) {
	t.Helper()
	mail := []byte("From: " + from + "\r\nTo: " + to + "\r\nSubject: numbers\r\n\r\n" + secret + "\r\n")
	dialogue, err := trial.Submit(t.Context(), c.Inside, from, []string{to}, mail)
	if err == nil || !strings.Contains(dialogue, "<** 451 ") {
		t.Errorf("%s: got %v, want 451:\n%s", from, err, dialogue)
	}
	if said := c.wire.taken(); said != "" {
		t.Errorf("%s: got on the wire %q, want nothing", from, said)
	}
}

// Two companies, each with its own token, key daemon and gateway, write each
// other under the keys of their domains: sealed on the wire, opened and
// verified behind the other gateway.
func TestTwoGateways(t *testing.T) {
	t.Run("openpgp", func(t *testing.T) {
		one, two := twoCompanies(t, openPGP("company1.example"), openPGP("company2.example"))
		one.know(t, two, "openpgp")
		two.know(t, one, "openpgp")
		one.writes(t, two, alice, bob2, "openpgp", "yes")
		two.writes(t, one, bob2, alice, "openpgp", "yes")
	})
	t.Run("smime", func(t *testing.T) {
		ca, dir := newAuthority(t, "Trade Root"), folder(t)
		one, two := twoCompanies(t, sMIME("company1.example", "rsa-3072", dir), sMIME("company2.example", "p-256", dir))
		for _, c := range []*company{one, two} {
			c.anchor(t, ca)
			c.certify(t, ca, dir)
		}
		one.know(t, two, "smime")
		two.know(t, one, "smime")
		one.writes(t, two, alice, bob2, "smime", "yes")
		two.writes(t, one, bob2, alice, "smime", "yes")
	})
	// One company has OpenPGP only and the other one S/MIME only. A mail is
	// signed and sealed in one format, so each seals what the other reads and
	// signs nothing, where its domain may; where it must sign, the mail waits.
	// As soon as the first one has S/MIME as well, all is signed and sealed.
	t.Run("mixed", func(t *testing.T) {
		ca, dir := newAuthority(t, "Trade Root"), folder(t)
		one, two := twoCompanies(t, openPGP("company1.example"), sMIME("company2.example", "p-256", dir))
		two.anchor(t, ca)
		two.certify(t, ca, dir)
		one.know(t, two, "smime")
		two.know(t, one, "openpgp")
		one.refused(t, alice, bob2)
		two.refused(t, bob2, alice)
		const always, never = `sign = "always"`, `sign = "never"`
		one.reconfigure(t, always, never)
		two.reconfigure(t, always, never)
		one.writes(t, two, alice, bob2, "smime", "no")
		two.writes(t, one, bob2, alice, "openpgp", "no")

		one.anchor(t, ca)
		if _, err := one.Postern(t.Context(), nil, append([]string{"identity", "create"}, sMIME("company1.example", "rsa-3072", dir)...)...); err != nil {
			t.Fatal(err)
		}
		one.certify(t, ca, dir)
		two.know(t, one, "smime")
		one.reconfigure(t, never, always)
		two.reconfigure(t, never, always)
		one.writes(t, two, alice, bob2, "smime", "yes")
		two.writes(t, one, bob2, alice, "smime", "yes")
	})
}
