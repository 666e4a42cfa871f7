package smime

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"testing"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect/protecttest"
	"postern/hsm"
)

var oracle = flag.Bool("oracle", false, "measure whether the time to refuse a mail tells why: minutes, and a machine that does nothing else")

// The reply to mails that do not open, and the time to it, are the same
// whatever is wrong with them (R1, R2). Without -oracle only the reply is
// looked at, for a few mails.
func TestOracle(t *testing.T) {
	for _, p := range []pair{rsaPair, ecPair, {hsm.Ed25519, hsm.X25519}} {
		w := newWorld(t, p)
		for _, c := range w.comparisons() {
			c.Name = p.String() + ": " + c.Name
			c.Measure(t, New(w.config), w.bob.opens, now, *oracle)
			if *oracle {
				t.Logf("%s: %v against %v, t = %.1f after %d", c.Name, c.Mean[0], c.Mean[1], c.T, c.Rounds)
			}
		}
	}
}

// comparisons are the pairs for a key: what an attacker would like to tell apart.
func (w *world) comparisons() []protecttest.Comparison {
	w.Helper()
	noise := make([]byte, 32<<10)
	rand.Read(noise)
	good := w.envelope(string(noise), cms.AES256CBC)
	e, err := cms.ReadEnvelope(bytes.NewReader(good))
	if err != nil {
		w.Fatal(err)
	}
	wrapped := e.Recipients[0].Wrapped.Ciphertext
	with := func(key []byte) *message.Message {
		b := bytes.Replace(good, wrapped, key, 1)
		return mail(w, head+holding(b))
	}
	damaged := mail(w, head+holding(flipped(good, -10-17, 0x80)))
	other := w.ca.opens(w, w.token, hsm.AlgorithmOf(w.public(w.bob.opens)), w.bob.opens.Address)
	control := protecttest.Comparison{Name: "control: a key of ours against another's", Told: true,
		Mails: [2]*message.Message{mail(w, head+holding(good)), mail(w, head+holding(w.envelope(string(noise), cms.AES256CBC, other)))}}
	pub, ok := w.public(w.bob.opens).(*rsa.PublicKey)
	if !ok {
		return []protecttest.Comparison{
			{Name: "damaged padding of the content against a wrong key wrap", Mails: [2]*message.Message{damaged, with(flipped(wrapped, -1, 1))}},
			{Name: "another wrong key wrap against a wrong one", Mails: [2]*message.Message{with(flipped(wrapped, 0, 1)), with(flipped(wrapped, -1, 1))}},
			control,
		}
	}
	key := make([]byte, 32)
	rand.Read(key)
	block := make([]byte, pub.Size())
	rand.Read(block[1:])
	random := with(block)
	return []protecttest.Comparison{
		{Name: "good padding against noise", Mails: [2]*message.Message{with(wrap(w, key, pub)), random}},
		{Name: "wrong length against noise", Mails: [2]*message.Message{with(wrap(w, key[1:], pub)), random}},
		{Name: "damaged padding of the content against noise", Mails: [2]*message.Message{damaged, random}},
		control,
	}
}

// public is the key of an identity.
func (w *world) public(i keyring.Identity) any {
	w.Helper()
	x, err := parse(i.Raw)
	if err != nil {
		w.Fatal(err)
	}
	return x.PublicKey
}
