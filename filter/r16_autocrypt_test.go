package filter

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/hsm"
)

// A certificate that a mail brings along, in a header or as an attachment,
// outside or under encryption, vouches for nobody, and is sealed to by nobody
// (R16): Mallory's, which says that it is Bob's. The real keyring is asked, and
// holds the same before and after.
func TestAutocryptPlantsNothing(t *testing.T) {
	w := newWorld(t)
	store, err := keyring.Open(filepath.Join(t.TempDir(), "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const bob, alice = "bob@partner.example", "alice@company1.example"
	if err := store.Import(t.Context(), w.people[bob].Cert); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"company1.example", alice} {
		if err := store.Bind(t.Context(), w.people[who]); err != nil {
			t.Fatal(err)
		}
	}
	w.config.KeyRing = store
	w.gate = New(w.config)
	list := func() (all []string) {
		t.Helper()
		certs, err := store.List(t.Context(), keyring.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range certs {
			all = append(all, fmt.Sprint(c.Fingerprint, " ", c.Trust))
		}
		return all
	}
	before := strings.Join(list(), "\n")

	planted := w.keyed(bob, "planted", hsm.P256)
	w.people["planted"] = planted
	var armoured bytes.Buffer
	if err := openpgp.Armor(&armoured, planted.Cert); err != nil {
		t.Fatal(err)
	}
	keydata := base64.StdEncoding.EncodeToString(planted.Raw)
	var folded strings.Builder
	for len(keydata) > 0 {
		n := min(70, len(keydata))
		folded.WriteString("\n " + keydata[:n])
		keydata = keydata[n:]
	}
	fields := "Autocrypt: addr=bob@partner.example; prefer-encrypt=mutual; keydata=" + folded.String() + "\n" +
		"Autocrypt-Gossip: addr=alice@company1.example; keydata=" + folded.String() + "\n" +
		"OpenPGP: id=" + planted.Fingerprint + "; url=http://evil.example/key.asc\n"
	mail := crlf("From: Bob <bob@partner.example>\nTo: alice@company1.example\n" + fields + "Subject: in\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n" +
		"--x\n" + fields + "Content-Type: text/plain\n\nMarker-Text-7f3a\n--x\nContent-Type: application/pgp-keys; name=\"key.asc\"\n\n" + strings.ReplaceAll(armoured.String(), "\r\n", "\n") + "--x--\n")
	for name, m := range map[string]string{
		"plain":             mail,
		"signed by it":      w.sealed(mail, "planted"),
		"sealed":            w.sealed(mail, "", alice),
		"sealed, signed":    w.sealed(mail, "planted", alice),
		"signed by the one": w.sealed(mail, bob, alice),
	} {
		for range 2 { // the second must not know more than the first
			w.hop.got = nil
			w.want(name, w.send(policy.Inbound, m, bob, alice), "250 2.0.0")
			status := parsed(t, w.hop.got[0].mail).Get("Postern-Status")
			if want := map[bool]string{true: "verified=yes", false: "verified=no"}[name == "signed by the one"]; !strings.Contains(status, want) {
				t.Errorf("%s: got %q, want %s", name, status, want)
			}
		}
	}
	w.hop.got = nil
	w.want("answer", w.send(policy.Outbound, out, alice, bob), "250 2.0.0")
	answer := w.hop.got[0].mail
	if _, _, err := w.opened(answer, bob, ""); err != nil {
		t.Errorf("Bob cannot read the answer: %v", err)
	}
	if _, _, err := w.opened(answer, "planted", ""); err == nil {
		t.Error("whoever planted a certificate reads the answer to Bob")
	}
	if after := strings.Join(list(), "\n"); after != before || !strings.Contains(before, w.people[bob].Fingerprint) {
		t.Errorf("got the keyring\n%s\nwant\n%s", after, before)
	}
}
