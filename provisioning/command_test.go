package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/hsm"
)

// TestEveryErrorHasItsHint: whatever the other packages answer, people hear
// what to do, and programs whether to come back.
func TestEveryErrorHasItsHint(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{hsm.ErrAway, ExitLater}, {hsm.ErrBusy, ExitLater}, {hsm.ErrBudget, ExitLater},
		{context.DeadlineExceeded, ExitLater}, {context.Canceled, ExitLater},
		{hsm.ErrLocked, ExitNo}, {hsm.ErrEmpty, ExitNo}, {hsm.ErrPIN, ExitNo}, {hsm.ErrExists, ExitNo}, {hsm.ErrNoKey, ExitNo},
		{hsm.ErrRefused, ExitNo}, {hsm.ErrInvalid, ExitNo}, {hsm.ErrOpaque, ExitNo},
		{keyring.ErrNotFound, ExitNo}, {keyring.ErrAmbiguous, ExitNo}, {keyring.ErrNoStore, ExitNo}, {keyring.ErrVersion, ExitNo}, {keyring.ErrInvalid, ExitNo},
		{fs.ErrPermission, ExitNo}, {fs.ErrNotExist, ExitNo},
	} {
		f := judge(fmt.Errorf("do something: %w", c.err))
		if f.status != c.status || f.hint == "" {
			t.Errorf("%v: got status %d, hint %q, want status %d and a hint", c.err, f.status, f.hint, c.status)
		}
	}
	if f := judge(errors.New("who knows")); f.status != ExitNo {
		t.Errorf("unforeseen: got status %d, want %d", f.status, ExitNo)
	}
}

// TestErrorsCannotSteerTheTerminal: names that came from outside are shown
// without escape sequences, and an error stays one line.
func TestErrorsCannotSteerTheTerminal(t *testing.T) {
	var out bytes.Buffer
	a := &App{Stderr: &out}
	a.complain(&failure{err: errors.New("evil \x1b[2J\nname \u202e"), hint: "about \x9b it"}, false)
	want := "postern: evil \ufffd[2J; name \ufffd\nhint: about \ufffd it\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAmbiguousFingerprint: two certificates that begin alike are told apart
// by more digits, whatever the command.
func TestAmbiguousFingerprint(t *testing.T) {
	s := newScript(t)
	store, err := keyring.Open(filepath.Join(s.dir, "keyring.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, last := range []string{"1", "2"} {
		c := keyring.Cert{Format: keyring.SMIME, Fingerprint: "AABBCCDD" + strings.Repeat("0", 55) + last, Raw: []byte("der"), Trust: keyring.Trusted,
			Addresses: []message.Address{{Local: "bob", Domain: "partner.example"}}, Source: "import", FirstSeen: s.now, LastSeen: s.now}
		if err := store.Import(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"show", "trust", "distrust", "remove"} {
		if got := s.postern([]string{"cert", verb, "AABBCCDD"}); got != ExitNo || !strings.Contains(s.stderr.String(), "hint: give more digits") {
			t.Errorf("cert %s: got exit %d, %q, want %d and a hint", verb, got, &s.stderr, ExitNo)
		}
	}
	if got := s.postern([]string{"cert", "show", "AABBCCDD" + strings.Repeat("0", 55) + "2"}); got != ExitDone {
		t.Errorf("whole fingerprint: got exit %d, want 0: %s", got, &s.stderr)
	}
}

// TestKeysThatLookAlike: a key is not guessed where a name fits two.
func TestKeysThatLookAlike(t *testing.T) {
	one, two := hsm.KeyID{1, 2, 3, 4}, hsm.KeyID{1, 2, 3, 4, 5}
	keys := []hsm.Key{{ID: one, Label: "a"}, {ID: two, Label: "b"}, {ID: hsm.KeyID{9}, Label: "b"}}
	for _, c := range []struct {
		name   string
		want   hsm.KeyID
		status int
	}{
		{"a", one, ExitDone}, {two.String(), two, ExitDone}, {strings.ToUpper(two.String()[:10]), two, ExitDone},
		{"01020304", hsm.KeyID{}, ExitNo}, {"b", hsm.KeyID{}, ExitNo}, {"0102", hsm.KeyID{}, ExitNo},
	} {
		got, err := findKey(keys, c.name)
		status := ExitDone
		if err != nil {
			status = judge(err).status
		}
		if got.ID != c.want || status != c.status {
			t.Errorf("findKey(%q): got %v, status %d, want %v, %d", c.name, got.ID, status, c.want, c.status)
		}
	}
}

// TestWireLines: a text file of this system becomes a mail; a mail is not
// touched, so that its faults stay the pipeline's to refuse.
func TestWireLines(t *testing.T) {
	for _, c := range []struct{ mail, want string }{
		{"a\n\nb\n", "a\r\n\r\nb\r\n"}, {"a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"}, {"a\r\nb\nc\r\n", "a\r\nb\nc\r\n"}, {"a\rb\n", "a\rb\n"}, {"a", "a"},
	} {
		if got := string(wireLines([]byte(c.mail))); got != c.want {
			t.Errorf("wireLines(%q): got %q, want %q", c.mail, got, c.want)
		}
	}
}

// TestTheOwnClock: without a clock handed in, the system's is asked.
func TestTheOwnClock(t *testing.T) {
	if got := (&App{}).now(); time.Since(got) > time.Minute {
		t.Errorf("got %v, want now", got)
	}
}

// TestSecretKindsAreRecognised: no private key gets into the keyring, in
// whatever form it comes.
func TestSecretKindsAreRecognised(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want bool
	}{
		{"armored OpenPGP", []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n"), true},
		{"PEM", []byte("text\n-----BEGIN EC PRIVATE KEY-----\n"), true},
		{"binary OpenPGP, new", []byte{0xC5, 1}, true},
		{"binary OpenPGP, old", []byte{0x95, 1}, true},
		{"binary OpenPGP subkey", []byte{0x9D, 1}, true},
		{"PKCS#12", []byte{0x30, 0x82, 9, 9, 0x02, 0x01, 0x03, 0x30, 0x82}, true},
		{"PKCS#8", []byte{0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13}, true},
		{"SEC 1", []byte{0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20, 0x00}, true},
		{"certificate", []byte{0x30, 0x82, 0x01, 0x93, 0x30, 0x82, 0x01, 0x39}, false},
		{"OpenPGP certificate", []byte{0x98, 0x33, 0x04}, false},
		{"armored certificate", []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n"), false},
	} {
		if got := secretKind(c.data); got != "" != c.want {
			t.Errorf("%s: got %q, want secret %v", c.name, got, c.want)
		}
	}
}

// TestTrustReadsTheBytes (R16): filterd writes what was seen, and whoever takes
// it over writes there what he likes. What is promoted is what the bytes say,
// under the name that they have.
func TestTrustReadsTheBytes(t *testing.T) {
	for _, c := range []struct {
		name   string
		forge  func(*keyring.Cert)
		status int
		want   string
	}{
		{"claims another address, a domain, and trust", func(c *keyring.Cert) {
			c.Addresses = []message.Address{{Local: "ceo", Domain: "company1.example"}}
			c.Domains, c.Trust = []string{"company1.example"}, keyring.Trusted
		}, ExitDone, "[bob@partner.example] []"},
		{"is another's", func(c *keyring.Cert) { c.Fingerprint = strings.Repeat("A", 40) }, ExitNo, ""},
		{"is no certificate", func(c *keyring.Cert) { c.Raw = []byte("nothing") }, ExitNo, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			data, err := os.ReadFile("bob.asc")
			if err != nil {
				t.Fatal(err)
			}
			certs, err := readCerts("bob.asc", data)
			if err != nil {
				t.Fatal(err)
			}
			forged := certs[0]
			forged.Trust, forged.Source, forged.FirstSeen, forged.LastSeen = keyring.Seen, "mail", s.now, s.now
			c.forge(&forged)
			seen, err := keyring.Open(filepath.Join(s.dir, "seen.db"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(seen.Import(t.Context(), forged), seen.Close()); err != nil {
				t.Fatal(err)
			}
			if got := s.postern([]string{"cert", "trust", forged.Fingerprint}); got != c.status {
				t.Errorf("%s: got exit %d, want %d: %s", c.name, got, c.status, &s.stderr)
			}
			operators, err := keyring.Open(filepath.Join(s.dir, "keyring.db"))
			if err != nil {
				t.Fatal(err)
			}
			list, err := operators.List(t.Context(), keyring.Filter{})
			if err := errors.Join(err, operators.Close()); err != nil {
				t.Fatal(err)
			}
			got := ""
			if len(list) > 0 {
				got = fmt.Sprint(list[0].Addresses, list[0].Domains)
			}
			if strings.ReplaceAll(got, "][", "] [") != c.want {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		})
	}
}
