package openpgp

import (
	"bytes"
	"crypto/rand"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/message"
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

// All three modes of version 2 open with every AES; a byte changed, a chunk
// lost, or another cipher in the header, and they don't (RFC 9580 §5.13.2).
func TestAEADModes(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[11], "bob@partner.example")
	r, err := recipientOf(bob.Cert, now)
	if err != nil {
		t.Fatal(err)
	}
	text := "Content-Type: text/plain\r\n\r\n" + strings.Repeat("hello\r\n", 1000)
	for _, mode := range []packet.AEADMode{packet.AEADModeEAX, packet.AEADModeOCB, packet.AEADModeGCM} {
		for _, c := range []packet.CipherFunction{packet.CipherAES128, packet.CipherAES192, packet.CipherAES256} {
			suite := packet.CipherSuite{Cipher: c, Mode: mode}
			key := make([]byte, c.KeySize())
			rand.Read(key)
			var wrapped, sealed bytes.Buffer
			if err := packet.SerializeEncryptedKeyAEAD(&wrapped, r.key, c, true, key, config); err != nil {
				t.Fatal(err)
			}
			chunks := &packet.Config{AEADConfig: &packet.AEADConfig{ChunkSize: 1 << 10}}
			w, err := packet.SerializeSymmetricallyEncrypted(&sealed, c, true, suite, key, chunks)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(literal(text)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			open := func(content []byte) (*message.Message, error) {
				m, _, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, mail(t, pgpMIME(t, join(wrapped.Bytes(), appendPacket(nil, tagIntegrity, content)))))
				return m, err
			}
			content := contentOf(t, sealed.Bytes())
			if m, err := open(content); err != nil || !strings.HasSuffix(print(t, m), text) {
				t.Errorf("mode %d, cipher %d: got %v", mode, c, err)
			}
			const head, chunk = 4 + 32, 1<<10 + 16
			changed := func(at int, by byte) []byte {
				b := bytes.Clone(content)
				b[at] ^= by
				return b
			}
			for name, broken := range map[string][]byte{
				"another cipher": changed(1, byte(packet.CipherAES128^packet.CipherAES192)),
				"another mode":   changed(2, 1),
				"chunk size":     changed(3, 1),
				"salt":           changed(4, 1),
				"last tag":       changed(len(content)-1, 1),
				"middle":         changed(len(content)/2, 1),
				"chunk lost":     join(content[:head+chunk], content[head+2*chunk:]),
				"chunks swapped": join(content[:head], content[head+chunk:head+2*chunk], content[head:head+chunk], content[head+2*chunk:]),
				"cut at a chunk": content[:head+2*chunk],
			} {
				if _, err := open(broken); err != protect.ErrCannotOpen {
					t.Errorf("mode %d, cipher %d, %s: got %v, want %v", mode, c, name, err, protect.ErrCannotOpen)
				}
			}
		}
	}
}
