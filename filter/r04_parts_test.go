package filter

import (
	"bytes"
	"strings"
	"testing"

	"postern/filter/policy"
)

// A mail with 1,000 encrypted parts costs one token operation at most, and
// none where no layer is its root (R4); what stands beside a ciphertext keeps
// it shut, and the mail is delivered as it came (R7).
func TestManyEncryptedParts(t *testing.T) {
	w := newWorld(t)
	const alice = "alice@company1.example"
	once := w.sealed(in, "bob@partner.example", alice)
	armour := once[strings.Index(once, "-----BEGIN PGP"):strings.Index(once, "\r\n-----END PGP")] + "\r\n-----END PGP MESSAGE-----\r\n"
	whole := once[strings.Index(once, "MIME-Version"):]
	head := "From: Bob <bob@partner.example>\r\nTo: alice@company1.example\r\nSubject: in\r\n"
	parts := func(n int, part string) string {
		return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=outer\r\n" + "\r\n" + strings.Repeat("--outer\r\n"+part+"\r\n", n) + "--outer--\r\n"
	}
	nested := once
	for range 6 {
		nested = w.sealed(nested, "", alice)
	}
	for _, c := range []struct {
		name, mail string
		ops        int
		opened     bool
	}{
		{"one, alone", once, 1, true},
		{"1,000 of text", head + parts(1000, "Content-Type: text/plain\r\n\r\n"+armour), 0, false},
		{"600 of PGP/MIME", head + parts(600, whole), 0, false},
		{"text beside one of PGP/MIME", head + strings.Replace(parts(2, whole), whole, "Content-Type: text/html\r\n\r\n<img src=\"http://evil.example/", 1), 0, false},
		{"1,000 inside of one", w.sealed(head+parts(1000, "Content-Type: text/plain\r\n\r\n"+armour), "bob@partner.example", alice), 1, true},
		{"600 of PGP/MIME inside of one", w.sealed(head+parts(600, whole), "bob@partner.example", alice), 1, true},
		{"seven in each other", nested, 1, true},
	} {
		w.hop.got, w.token.unwraps = nil, 0
		if got := w.send(policy.Inbound, c.mail, "bob@partner.example", alice); got.Code != 250 || len(w.hop.got) != 1 {
			t.Errorf("%s: got %v and %d mails, want it delivered", c.name, got, len(w.hop.got))
			continue
		}
		got := w.hop.got[0].mail
		if w.token.unwraps != c.ops {
			t.Errorf("%s: got %d token operations, want %d", c.name, w.token.unwraps, c.ops)
		}
		if !c.opened && (!bytes.HasSuffix(got, []byte(c.mail)) || !bytes.Contains(got, []byte("opened=none; verified=no"))) {
			t.Errorf("%s: want it as it came, and marked so", c.name)
		}
		if c.opened && !bytes.Contains(got, []byte("opened=openpgp")) {
			t.Errorf("%s: got %q, want it opened", c.name, parsed(t, got).Get("Postern-Status"))
		}
		if clear := bytes.Contains(got, []byte("Marker-Text-7f3a")); clear != (c.name == "one, alone") {
			t.Errorf("%s: got clear text %v", c.name, clear)
		}
	}
}
