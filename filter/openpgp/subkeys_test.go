package openpgp

import (
	"bytes"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// bound makes a certificate whose one subkey for a use is bound as a test wants it.
func bound(t *testing.T, spoil func(e *pgp.Entity, s *pgp.Subkey, c *packet.Config) error, signing bool) (*pgp.Entity, keyring.Cert) {
	t.Helper()
	c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(-24 * time.Hour) }}
	e, err := pgp.NewEntity("Bob", "", "bob@partner.example", c)
	if err == nil && signing {
		err = e.AddSigningSubkey(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &e.Subkeys[len(e.Subkeys)-1]
	if err := spoil(e, s, c); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return e, imported(t, b.String())
}

// rebind signs the binding anew after change.
func rebind(change func(*packet.Signature)) func(*pgp.Entity, *pgp.Subkey, *packet.Config) error {
	return func(e *pgp.Entity, s *pgp.Subkey, c *packet.Config) error {
		binding := s.Bindings[0].Packet
		change(binding)
		return binding.SignKey(s.PublicKey, e.PrivateKey, c)
	}
}

func asItIs(*pgp.Entity, *pgp.Subkey, *packet.Config) error { return nil }

func revoked(_ *pgp.Entity, s *pgp.Subkey, c *packet.Config) error {
	return s.Revoke(packet.KeyCompromised, "lost", c)
}

// byAnother has somebody else's key bind the subkey, under our name.
func byAnother(e *pgp.Entity, s *pgp.Subkey, c *packet.Config) error {
	mallory, err := pgp.NewEntity("Mallory", "", "mallory@evil.example", c)
	if err != nil {
		return err
	}
	binding := s.Bindings[0].Packet
	return binding.SignKey(s.PublicKey, mallory.PrivateKey, c)
}

// anHour is an hour of life that began a day ago.
func anHour(s *packet.Signature) { s.KeyLifetimeSecs = new(uint32); *s.KeyLifetimeSecs = 3600 }

// Only a subkey with a valid binding, the right flags, unexpired and unrevoked
// is sealed to (R17).
func TestSubkeysToSealTo(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*pgp.Entity, *pgp.Subkey, *packet.Config) error
		want  bool
	}{
		{"as it is", asItIs, true},
		{"revoked", revoked, false},
		{"expired", rebind(anHour), false},
		{"for signing", rebind(func(s *packet.Signature) { s.FlagEncryptCommunications, s.FlagEncryptStorage = false, false }), false},
		{"bound by another", byAnother, false},
	} {
		_, cert := bound(t, c.spoil, false)
		p := New(Config{})
		if err := p.Usable(cert, now); (err == nil) != c.want || err != nil && !errors.Is(err, protect.ErrNoCert) {
			t.Errorf("%s: got %v, usable: want %v", c.name, err, c.want)
		}
		m, err := p.Seal(t.Context(), protect.SealRequest{Message: mail(t, plainMail), Recipients: []keyring.Cert{cert}, At: now, NewSpool: spools(t)})
		if (err == nil) != c.want || (m == nil) == c.want {
			t.Errorf("%s: seal: got %v, %v", c.name, m, err)
		}
	}
}

// A signature of a subkey is good only where the same holds, and where the
// subkey has signed that it belongs to the certificate (R17, RFC 9580 §10.1.5).
func TestSubkeysThatSign(t *testing.T) {
	text := crlf("Content-Type: text/plain\n\nhello\n")
	for _, c := range []struct {
		name  string
		spoil func(*pgp.Entity, *pgp.Subkey, *packet.Config) error
		good  bool
	}{
		{"as it is", asItIs, true},
		{"revoked", revoked, false},
		{"expired", rebind(anHour), false},
		{"for encryption", rebind(func(s *packet.Signature) { s.FlagSign, s.FlagEncryptCommunications = false, true }), false},
		{"bound by another", byAnother, false},
		{"not bound by itself", rebind(func(s *packet.Signature) { s.EmbeddedSignature = nil }), false},
	} {
		e, cert := bound(t, c.spoil, true)
		key := e.Subkeys[len(e.Subkeys)-1].PrivateKey
		sig := &packet.Signature{Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: key.PubKeyAlgo, Hash: crypto.SHA256, CreationTime: now, IssuerKeyId: &key.KeyId, IssuerFingerprint: key.Fingerprint}
		h, err := sig.PrepareSign(config)
		if err != nil {
			t.Fatal(err)
		}
		h.Write([]byte(text))
		if err := sig.Sign(h, key, config); err != nil {
			t.Fatal(err)
		}
		printed, err := packetOf(sig)
		if err != nil {
			t.Fatal(err)
		}
		m := mail(t, signedMail(text, strings.ReplaceAll(armour(t, labelSignature, printed), "\r\n", "\n")))
		_, f, err := opening{certs: []keyring.Cert{cert}, at: now.Add(time.Minute)}.open(t, m)
		if err != nil || f.Good != c.good || !f.Signed {
			t.Errorf("%s: got %+v, %v, want good: %v", c.name, f, err, c.good)
		}
	}
}
