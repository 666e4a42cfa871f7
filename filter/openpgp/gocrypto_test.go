package openpgp

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// Whole messages of go-crypto open, and it opens and verifies ours, in both versions.
func TestGoCrypto(t *testing.T) {
	token := soft(t)
	for name, c := range map[string]*packet.Config{
		"v4":      {Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(-time.Hour) }},
		"v4 AEAD": {Algorithm: packet.PubKeyAlgoEdDSA, AEADConfig: &packet.AEADConfig{}, Time: func() time.Time { return now.Add(-time.Hour) }},
		"v6":      {V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519, AEADConfig: &packet.AEADConfig{}, Time: func() time.Time { return now.Add(-time.Hour) }},
		"v4 448":  {Algorithm: packet.PubKeyAlgoEd448, Time: func() time.Time { return now.Add(-time.Hour) }},
		"v6 448":  {V6Keys: true, Algorithm: packet.PubKeyAlgoEd448, AEADConfig: &packet.AEADConfig{}, Time: func() time.Time { return now.Add(-time.Hour) }},
		"v6 RSA":  {V6Keys: true, Algorithm: packet.PubKeyAlgoRSA, RSABits: 3072, AEADConfig: &packet.AEADConfig{}, Time: func() time.Time { return now.Add(-time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := pgp.NewEntity("Bob", "", "bob@partner.example", c)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := e.Serialize(&b); err != nil {
				t.Fatal(err)
			}
			certs, err := Read(b.Bytes())
			if err != nil || len(certs) != 1 {
				t.Fatal(len(certs), err)
			}
			bob := certs[0]
			bob.Trust = keyring.Trusted
			c.Time = func() time.Time { return now }
			for _, s := range []suiteUnderTest{suites[3], suites[6], suites[7], suites[11]} {
				alice := newIdentity(t, token, s, name+"-alice@company1.example")
				ours, err := entityOf(alice.Raw)
				if err != nil {
					t.Fatal(err)
				}
				plain := mail(t, plainMail)
				d, err := pgp.ReadMessage(bytes.NewReader(packetsOf(t, print(t, seal(t, token, plain, &alice, bob)))), pgp.EntityList{e, ours}, nil, c)
				if err != nil {
					t.Fatalf("%s: go-crypto opens: %v", s, err)
				}
				got, err := io.ReadAll(d.UnverifiedBody)
				if err != nil || d.SignatureError != nil || string(got) != protectedEntity(t, plain, true) {
					t.Errorf("%s: go-crypto opens: %v, %v", s, err, d.SignatureError)
				}

				b.Reset()
				w, err := pgp.EncryptWithParams(&b, []*pgp.Entity{ours}, nil, &pgp.EncryptParams{Signers: []*pgp.Entity{e}, Config: c})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, simpleEntity); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				_, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{bob}}.open(t, mail(t, pgpMIME(t, b.Bytes())))
				if err != nil || f.Reason != protect.ReasonGood {
					t.Errorf("%s: from go-crypto: got %+v, %v", s, f, err)
				}
			}
		})
	}
}
