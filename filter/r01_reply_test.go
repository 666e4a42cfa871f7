package filter

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/hsm"
)

// keyed makes a certificate for who, as person does, with keys of their own label and kind.
func (w *world) keyed(who, label string, a hsm.Algorithm) keyring.Identity {
	w.t.Helper()
	spec := openpgp.CertSpec{Name: "Test", Address: address(w.t, who), Created: made, Lifetime: 2 * 365 * 24 * time.Hour}
	var err error
	for k, to := range map[hsm.Usage]*hsm.Key{hsm.Sign: &spec.Primary, hsm.Unwrap: &spec.Subkey} {
		if *to, err = w.token.Generate(w.t.Context(), hsm.KeySpec{Algorithm: a, Usage: k, Label: label + "/" + k.String()}); err != nil {
			w.t.Fatal(err)
		}
	}
	cert, err := openpgp.Create(w.t.Context(), w.token, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	cert.Trust = keyring.Trusted
	return keyring.Identity{Cert: cert, Address: spec.Address}
}

// altered changes one character of the armour, n behind its first line.
func altered(mail string, n int) string {
	const first = "-----BEGIN PGP MESSAGE-----\r\n\r\n"
	at := strings.Index(mail, first) + len(first) + n
	c := byte('A')
	if mail[at] == c {
		c = 'B'
	}
	return mail[:at] + string(c) + mail[at+1:]
}

// A mail that opens and one that does not, for whatever cause, have one reply,
// and cause one delivery to the recipient and nothing else (R1): the keys are
// RSA, so that paddings can be wrong, and ECDH.
func TestOneReplyForEveryCause(t *testing.T) {
	w := newWorld(t)
	const carol = "carol@company1.example"
	w.people[carol] = w.keyed(carol, "rsa", hsm.RSA2048)
	w.ring.ours = append(w.ring.ours, w.people[carol])
	deep := ""
	for i := range 200 {
		b := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		deep += "Content-Type: multipart/mixed; boundary=" + b + "\n\n--" + b + "\n"
	}
	head := strings.ReplaceAll("From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: in\n", "\r", "")
	for _, to := range []string{"alice@company1.example", carol} {
		good := w.sealed(in, "bob@partner.example", to)
		end := strings.Index(good, "\r\n-----END PGP MESSAGE")
		for name, mail := range map[string]string{
			"opens":                     good,
			"key wrap or padding":       altered(good, 60),
			"key wrap or padding, late": altered(good, 100),
			"ciphertext":                altered(good, end-strings.Index(good, "-----BEGIN")-200),
			"cut":                       good[:end-64] + good[end:],
			"no integrity":              good[:end-32] + good[end:],
			"another's key":             w.sealed(in, "bob@partner.example", "mallory@evil.example"),
			"inside beyond limits":      w.rawSealed(head, deep+"\nx\n", to),
			"no MIME inside":            w.rawSealed(head, "nothing\n", to),
			"NUL inside":                w.rawSealed(head, "Content-Type: text/plain\n\na\x00b\n", to),
			"no OpenPGP in it":          strings.Replace(good, good[strings.Index(good, "-----BEGIN"):end], "-----BEGIN PGP MESSAGE-----\r\n\r\nAAAA", 1),
		} {
			w.hop.got = nil
			got := w.send(policy.Inbound, mail, "bob@partner.example", to)
			if want := "250 2.0.0 taken " + traceID; got.String() != want {
				t.Errorf("%s to %s: got %q, want %q", name, to, got, want)
			}
			if len(w.hop.got) != 1 || len(w.hop.got[0].env.Recipients) != 1 || w.hop.got[0].env.Recipients[0].Address.Key() != to {
				t.Errorf("%s to %s: got mails to %q, want one to the recipient", name, to, w.hop.recipients())
				continue
			}
			opened := bytes.Contains(w.hop.got[0].mail, []byte("opened=openpgp"))
			if want := name == "opens" || name == "no MIME inside"; opened != want || !want && !bytes.HasSuffix(w.hop.got[0].mail, []byte(mail)) {
				t.Errorf("%s to %s: opened: got %v, want %v, else as it came", name, to, opened, want)
			}
		}
	}
}
