package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/hsm"
)

// attached is a mail's body with a file in it.
func attached(file string) string {
	return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_m\"\r\n\r\n--=_m\r\nContent-Type: text/plain\r\n\r\n" + secret +
		"\r\n--=_m\r\nContent-Type: application/octet-stream; name=a.com\r\nContent-Disposition: attachment; filename=a.com\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString([]byte(file)) + "\r\n--=_m--\r\n"
}

// refused submits a mail that is not to be taken, and gives the dialogue.
func refused(t *testing.T, b *trial.Box, server, from, to string, mail []byte, want string) {
	t.Helper()
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	dialogue, err := trial.Submit(t.Context(), server, from, []string{to}, mail)
	if err == nil || !strings.Contains(dialogue, want) {
		t.Errorf("got %v, want %s:\n%s", err, want, dialogue)
	}
	if now, _ := b.Kept.Seen(); len(now) != len(seen) {
		t.Errorf("got %d mails in the sink, want %d", len(now), len(seen))
	}
}

// marks compares what Postern-Scan says.
func marks(t *testing.T, mail string, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := parameter(field(mail, "Postern-Scan"), name); got != value {
			t.Errorf("%s: got %q, want %q: %s", name, got, value, field(mail, "Postern-Scan"))
		}
	}
}

// A virus inside a mail that gpg sealed is refused after the gateway opened it;
// the same mail for somebody whose key is not here passes sealed; and what
// leaves is looked at before it is sealed. All with the real clamd.
func TestVirusInSealedMail(t *testing.T) {
	const bob = "bob@partner.example"
	clamd := runClamd(t)
	b := open(t, trial.Config{FilterdTables: "[scan.clamd]\naddress = \"" + clamd.address + "\"\nmax-size = \"4MiB\"\ntimeout = \"60s\"\n"})
	p := gpg("rsa3072", "rsa3072")(t, bob)
	trust(t, b, p.cert())
	cert := ours(t, b, "company1.example")
	header := "From: Bob <" + bob + ">\nTo: " + alice + "\nSubject: offer\nMessage-ID: <1@partner.example>\n"
	sealed := func(body string) []byte { return trial.Encrypted(header, p.seal(cert, []byte(body))) }

	refused(t, b, b.Outside, bob, alice, sealed(attached(eicar())), "550 5.7.1")
	got := one(t, b, b.Outside, bob, alice, sealed(attached("harmless")))
	marks(t, got, map[string]string{"scanned": "yes", "verdict": "clean", "by": "clamd", "found": "none"})
	if !strings.Contains(got, secret) {
		t.Errorf("got %s\nwant it opened", got)
	}

	// Only Bob himself can open this one.
	other, err := p.(*gnupg).p.Seal(t.Context(), header, attached(eicar()), bob)
	if err != nil {
		t.Fatal(err)
	}
	got = one(t, b, b.Outside, bob, alice, other)
	marks(t, got, map[string]string{"scanned": "no", "verdict": "none", "reason": "sealed"})
	if !strings.Contains(got, "BEGIN PGP MESSAGE") || parameter(field(got, "Postern-Status"), "opened") != "failed" {
		t.Errorf("got %s\nwant it as it came", got)
	}

	plain := func(body string) []byte {
		return []byte("From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: answer\r\n" + body)
	}
	refused(t, b, b.Inside, alice, bob, plain(attached(eicar())), "550 5.7.1")
	if got = one(t, b, b.Inside, alice, bob, plain(attached("harmless"))); strings.Contains(got, "Postern-Scan") || strings.Contains(got, secret) {
		t.Errorf("got %s\nwant it sealed, and no mark", got)
	}
	// clamd takes 2 MiB, and the gateway would give it 4: it breaks off.
	refused(t, b, b.Inside, alice, bob, plain(attached(strings.Repeat("large", 600_000))), "552 5.3.4")

	// What an operator asks is what the gateway does.
	out, err := b.Postern(t.Context(), bytes.NewReader(sealed(attached(eicar()))), "explain", "--direction", "inbound", "--from", bob, "--to", alice)
	if err == nil || !strings.Contains(string(out), "clamd looked at it.") || !strings.Contains(string(out), "Found: [Local.EICAR") {
		t.Errorf("got %v, want the verdict in\n%s", err, out)
	}

	// Stopped, and killed: mail waits, sealed mail that nobody could scan as well.
	clamd.end()
	refused(t, b, b.Outside, bob, alice, sealed(attached("harmless")), "451 4.3.0")
	refused(t, b, b.Outside, bob, alice, other, "451 4.3.0")
	if out, err := b.Postern(t.Context(), nil, "doctor"); err == nil || !strings.Contains(string(out), "scanner clamd") {
		t.Errorf("doctor without clamd: got %v\n%s", err, out)
	}
	clamd.begin()
	one(t, b, b.Outside, bob, alice, sealed(attached("harmless")))
	out, err = b.Postern(t.Context(), nil, "doctor")
	if err != nil || !strings.Contains(string(out), "finds EICAR as Local.EICAR") {
		t.Errorf("doctor: got %v\n%s", err, out)
	}
}

// A scanner that hangs counts as away when its time is over, and one that dies
// in the middle of a mail at once.
func TestScannerHangsAndDies(t *testing.T) {
	const bob = "bob@partner.example"
	clamd := runClamd(t)
	address, came := front(t, clamd.address)
	b := open(t, trial.Config{FilterdTables: "[scan.clamd]\naddress = \"" + address + "\"\ntimeout = \"30s\"\n"})
	mail := func(body string) []byte {
		return []byte("From: Bob <" + bob + ">\r\nTo: " + alice + "\r\nSubject: x\r\n" + body)
	}
	one(t, b, b.Outside, bob, alice, mail(attached("harmless")))
	clamd.signal(syscall.SIGSTOP)
	refused(t, b, b.Outside, bob, alice, mail(attached("harmless")), "451 4.3.0")
	clamd.signal(syscall.SIGCONT)
	one(t, b, b.Outside, bob, alice, mail(attached("harmless")))

	for len(came) > 0 {
		<-came
	}
	clamd.signal(syscall.SIGSTOP)
	done := make(chan string)
	go func() {
		dialogue, err := trial.Submit(t.Context(), b.Outside, bob, []string{alice}, mail(attached(strings.Repeat("large", 200_000))))
		done <- fmt.Sprint(dialogue, err)
	}()
	select {
	case <-came:
	case <-time.After(patience):
		t.Error("nobody comes to clamd")
	}
	clamd.end()
	if said := <-done; !strings.Contains(said, "451 4.3.0") {
		t.Errorf("killed: got %s, want 451 4.3.0", said)
	}
}

// front stands before a socket, and tells of everybody who comes.
func front(t *testing.T, behind string) (path string, came <-chan struct{}) {
	t.Helper()
	path = filepath.Join(folder(t), "front.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	told := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			told <- struct{}{}
			go func() {
				defer c.Close()
				to, err := net.Dial("unix", behind)
				if err != nil {
					return
				}
				defer to.Close()
				go io.Copy(to, c)
				io.Copy(c, to)
			}()
		}
	}()
	return path, told
}

// The same with S/MIME, sealed by OpenSSL. What AES-CBC seals and a good
// signature holds together is refused; what nobody has signed is not, since
// whoever changed it would hear that it opened: it is delivered as it came.
func TestVirusInSealedSMIME(t *testing.T) {
	const bob = "bob@partner.example"
	clamd := runClamd(t)
	ca, dir := newAuthority(t, "Trade Root"), folder(t)
	them := newPartner(t, ca, bob)
	c := &company{Box: open(t, trial.Config{Create: sMIME("company1.example", "rsa-3072", dir), FilterdTables: "[smime]\nroots = \"own\"\nrevocation = \"off\"\n[scan.clamd]\naddress = \"" + clamd.address + "\"\n"})}
	c.anchor(t, ca)
	c.certify(t, ca, dir)
	reader := c.exported(t, x509.KeyUsageKeyEncipherment)
	trust(t, c.Box, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: them.opens[hsm.RSA2048].cert.Raw}))
	openssl := newOpenSSL(t, them)
	sealed := func(body string, sign bool, to *x509.Certificate, alg hsm.Algorithm) []byte {
		w := way{seal: &sealing{to: alg, cipher: "aes-256-cbc", wrap: "pkcs1"}}
		if sign {
			w.sign = &signing{by: hsm.RSA2048, hash: crypto.SHA256}
		}
		mail, err := w.around([]byte(strings.TrimPrefix(body, "MIME-Version: 1.0\r\n")), openssl, them, bob, alice, to)
		if err != nil {
			t.Fatal(err)
		}
		return mail
	}
	refused(t, c.Box, c.Outside, bob, alice, sealed(attached(eicar()), true, reader, hsm.RSA3072), "550 5.7.1")
	got := one(t, c.Box, c.Outside, bob, alice, sealed(attached("harmless"), true, reader, hsm.RSA3072))
	marks(t, got, map[string]string{"scanned": "yes", "verdict": "clean"})
	if parameter(field(got, "Postern-Status"), "verified") != "yes" {
		t.Errorf("got %s, want it verified", field(got, "Postern-Status"))
	}
	got = one(t, c.Box, c.Outside, bob, alice, sealed(attached(eicar()), false, reader, hsm.RSA3072))
	marks(t, got, map[string]string{"scanned": "no", "verdict": "sealed", "by": "clamd"})
	if !strings.Contains(field(got, "Content-Type"), "enveloped-data") || strings.Contains(got, secret) || parameter(field(got, "Postern-Status"), "opened") != "failed" {
		t.Errorf("got %s\nwant it as it came", got)
	}
	got = one(t, c.Box, c.Outside, bob, alice, sealed(attached("harmless"), false, reader, hsm.RSA3072))
	marks(t, got, map[string]string{"scanned": "yes", "verdict": "clean"})
	got = one(t, c.Box, c.Outside, bob, alice, sealed(attached(eicar()), true, them.opens[hsm.RSA2048].cert, hsm.RSA2048))
	marks(t, got, map[string]string{"scanned": "no", "verdict": "none", "reason": "sealed"})
}

// What rspamd says, with rules that do what a field asks for: it refuses,
// defers, marks, and puts on a mail what it may.
func TestRspamd(t *testing.T) {
	const bob = "bob@partner.example"
	rspamd := runRspamd(t)
	b := open(t, trial.Config{FilterdTables: "[scan.rspamd]\naddress = \"" + rspamd.address + "\"\nheaders = [\"X-Spam-Level\", \"X-Told\"]\n"})
	mail := func(fields, body string) []byte {
		return []byte("From: Bob <" + bob + ">\r\nTo: " + alice + "\r\nSubject: x\r\nMessage-ID: <2@partner.example>\r\n" + fields + "\r\n" + body + "\r\n")
	}
	refused(t, b, b.Outside, bob, alice, mail("", gtube()), "550 5.7.1")
	refused(t, b, b.Outside, bob, alice, mail("X-Test: later\r\n", "x"), "451 4.7.1")
	refused(t, b, b.Outside, bob, alice, mail("X-Test: grey\r\n", "x"), "451 4.7.1")
	got := one(t, b, b.Outside, bob, alice, mail("X-Test: mark\r\nX-Spam-Level: none\r\n", "x"))
	marks(t, got, map[string]string{"scanned": "yes", "verdict": "suspect", "by": "rspamd", "found": "RULES_OF_THE_TEST", "score": "7.0/15.0"})
	if strings.Count(got, "X-Spam-Level:") != 1 || field(got, "X-Spam-Level") != "*******" || strings.Contains(got, "X-Other") {
		t.Errorf("got %s\nwant its one X-Spam-Level", got)
	}
	if told := strings.Fields(field(got, "X-Told")); len(told) != 4 || told[0] != "127.0.0.1" || told[2] != bob || told[3] != alice {
		t.Errorf("got %q told, want client, greeting, %s and %s", told, bob, alice)
	}
	got = one(t, b, b.Outside, bob, alice, mail("", "x"))
	marks(t, got, map[string]string{"scanned": "yes", "verdict": "clean", "by": "rspamd"})
	if out, err := b.Postern(t.Context(), nil, "doctor"); err != nil || !strings.Contains(string(out), "refuses GTUBE") {
		t.Errorf("doctor: got %v\n%s", err, out)
	}
}
