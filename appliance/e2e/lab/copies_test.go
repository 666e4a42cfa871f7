package lab

import (
	"errors"
	"fmt"
	"io"
	"net/smtp"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
)

// One mail as different people get it. What nobody protects passes as it was
// written, byte for byte (R39); of a hidden recipient nobody else's copy knows,
// on the wire neither (R42); and what answers a sealed mail leaves sealed, or not
// at all (R45).
func TestCopies(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob := "alice@"+from.Domain, "bob@"+to.Domain
	board, counsel := "board@"+to.Domain, "counsel@"+to.Domain

	t.Run("as it was written", func(t *testing.T) {
		from.configure(t, setting{Sign: "never"})
		text := secret("bytes")
		head := "From: \"Alice,  A.\" <" + alice + ">\r\nto:" + bob + "\r\nSUBJECT:   two  spaces\r\n\tand a fold \r\nX-Empty:\r\n" +
			"DKIM-Signature: v=1; a=rsa-sha256; d=elsewhere.example; s=x;\r\n  bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; h=from:to; b=AAAA\r\n" +
			"Mime-Version: 1.0 (comment)\r\nContent-Type: text/plain; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 8bit\r\n"
		body := "\r\n" + text + "  \r\nFrom the start\r\n.\r\n..\r\n.x\r\n\t\r\nM\xc3\xbcller, na\xc3\xafve\r\n" + strings.Repeat("long ", 199) + "\r\n-- \r\n\r\n\r\n"
		from.say(t, alice, bob, head+body)
		got := to.mail.await(t, bob, text)
		if !strings.HasSuffix(got, head+body) {
			t.Errorf("got %q, want %q at its end", got, head+body)
		}
		holds(t, got, map[string]string{"opened": "none", "verified": "no", "reason": "unsigned"})
	})

	t.Run("hidden recipients", func(t *testing.T) {
		from.configure(t, setting{})
		to.configure(t, setting{Mode: "off"}) // what is on the wire can be read
		l.wire.smtp(t)
		text := secret("hidden")
		mail := strings.Replace(letter(alice, bob, text), "\r\nSubject", "\r\nCc: "+board+"\r\nBcc: "+counsel+"\r\nSubject", 1)
		from.send(t, alice, []string{bob, board, counsel}, mail)
		for _, who := range []string{bob, board} {
			if got := to.mail.await(t, who, text); strings.Contains(got, "counsel") {
				t.Errorf("%s: got %s, want nothing of counsel", who, got)
			}
		}
		holds(t, to.mail.await(t, counsel, text), map[string]string{"verified": "yes", "signer": alice})
		clients, _ := l.wire.smtp(t)
		for _, said := range clients {
			for transaction := range strings.SplitSeq(said, "MAIL FROM:") {
				if strings.Contains(transaction, counsel) && (strings.Contains(transaction, "RCPT TO:<"+bob) || strings.Contains(transaction, "RCPT TO:<"+board)) {
					t.Errorf("got %q, want counsel's copy by itself", transaction)
				}
			}
		}
		to.configure(t, setting{})
	})

	// Where all have the same format, each copy is sealed to whom it is for.
	for _, format := range []struct {
		name, visible, sealed string
		readers               func(t testing.TB, mail string) int
	}{
		{"openpgp", board, "-----BEGIN PGP MESSAGE-----", readersOfOpenPGP},
		{"smime", counsel, "smime-type=enveloped-data", readersOfSMIME},
	} {
		t.Run("hidden recipients by "+format.name, func(t *testing.T) {
			from.configure(t, setting{Partner: `format = ["` + format.name + `"]`, Tables: fmt.Sprintf("[recipient.%q]\nprotect = \"require\"\n", bob)})
			to.configure(t, setting{Mode: "off"}) // what is on the wire can be read
			l.wire.smtp(t)
			text := secret("hidden", format.name)
			from.send(t, alice, []string{format.visible, bob}, strings.Replace(letter(alice, format.visible, text), "\r\nSubject", "\r\nBcc: "+bob+"\r\nSubject", 1))
			for _, who := range []string{format.visible, bob} {
				got := to.mail.await(t, who, text)
				holds(t, got, map[string]string{"opened": format.name, "verified": "yes", "signer": alice})
				if who != bob && strings.Contains(got, "bob@") || housetest.Field(got, "Bcc") != "" {
					t.Errorf("%s: got %s, want nothing of who is hidden", who, got)
				}
			}
			clients, _ := l.wire.smtp(t)
			copies := 0
			for _, said := range clients {
				for _, transaction := range strings.Split(said, "MAIL FROM:")[1:] {
					if strings.Contains(transaction, bob) && strings.Contains(transaction, format.visible+">") && strings.Contains(transaction, "RCPT TO:<"+format.visible) {
						t.Errorf("got %q, want each copy by itself", transaction)
					}
					_, mail, ok := strings.Cut(transaction, "\r\nDATA\r\n")
					if !ok || !strings.Contains(mail, format.sealed) {
						t.Errorf("got %q, want a sealed mail", transaction)
						continue
					}
					if n := format.readers(t, mail); n != 1 {
						t.Errorf("got a copy for %d readers, want one:\n%s", n, transaction)
					}
					copies++
				}
			}
			if copies != 2 {
				t.Errorf("got %d copies in %q, want two", copies, clients)
			}
			to.configure(t, setting{})
		})
	}

	t.Run("an answer", func(t *testing.T) {
		from.configure(t, setting{})
		text := secret("asked")
		from.send(t, alice, []string{board}, strings.Replace(letter(alice, board, text), "\r\nSubject", "\r\nMessage-ID: <question@"+from.Domain+">\r\nSubject", 1))
		holds(t, to.mail.await(t, board, text), map[string]string{"opened": "openpgp", "verified": "yes"})
		from.configure(t, setting{Mode: "off"})
		l.wire.smtp(t)
		answer := secret("answered")
		mail := strings.Replace(letter(board, alice, answer), "\r\nSubject", "\r\nIn-Reply-To: <question@"+from.Domain+">\r\nSubject", 1)
		if dialogue, err := to.submit(t, board, []string{alice}, mail); err == nil || !strings.Contains(dialogue, "<** 550 5.7.3 ") {
			t.Errorf("under a rule that never encrypts: got %v\n%s\nwant 550 5.7.3", err, dialogue)
		}
		if clients, _ := l.wire.smtp(t); len(clients) != 0 {
			t.Errorf("got %q on the wire, want nothing", clients)
		}
		// Another mail of the same two asks for nothing.
		usual := secret("usual")
		to.send(t, board, []string{alice}, letter(board, alice, usual))
		holds(t, from.mail.await(t, alice, usual), map[string]string{"opened": "none", "verified": "yes", "signer": board})
		l.wire.smtp(t)
		to.configure(t, setting{Protect: "optional"})
		to.send(t, board, []string{alice}, mail)
		holds(t, from.mail.await(t, alice, answer), map[string]string{"opened": "openpgp", "verified": "yes", "signer": board, "carried": "clear"})
		if clients, _ := l.wire.smtp(t); len(clients) == 0 || shows(clients, answer) {
			t.Errorf("got %q on the wire, want the answer sealed", clients)
		}
	})
}

// readersOfOpenPGP is how many keys a mail is sealed to, as GnuPG lists them.
func readersOfOpenPGP(t testing.TB, mail string) int {
	t.Helper()
	const begin, end = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
	_, armor, _ := strings.Cut(mail, begin)
	armor, _, _ = strings.Cut(armor, end)
	cmd := exec.CommandContext(t.Context(), "gpg", "--batch", "--homedir", t.TempDir(), "--list-packets", "--list-only")
	cmd.Stdin = strings.NewReader(begin + armor + end + "\n")
	out, err := cmd.Output()
	if err != nil && !strings.Contains(string(out), ":pubkey enc packet:") {
		t.Fatalf("gpg: %v: %s", err, out)
	}
	return strings.Count(string(out), ":pubkey enc packet:")
}

// readersOfSMIME is the same as OpenSSL lists them.
func readersOfSMIME(t testing.TB, mail string) int {
	t.Helper()
	if end := strings.LastIndex(mail, "\r\n.\r\n"); end >= 0 {
		mail = mail[:end+2]
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "cms", "-cmsout", "-print", "-noout", "-inform", "SMIME")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(mail, "\r\n", "\n"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	return strings.Count(string(out), "encryptedKey:")
}

// say submits a mail to its last byte; swaks adds an empty line.
func (c *company) say(t testing.TB, from, to, mail string) {
	t.Helper()
	conn, err := c.Dial("tcp", insideAt)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(housetest.Patience))
	client, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(client.Mail(from), client.Rcpt(to))
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.Data()
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, mail)
	if err := errors.Join(err, w.Close(), client.Quit()); err != nil {
		t.Fatal(err)
	}
}
