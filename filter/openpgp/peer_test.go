package openpgp

import (
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/openpgp/peertest"
	"postern/hsm/hsmtest"
)

// peerSuites are the certificates that partners have most.
var peerSuites = []suiteUnderTest{suites[1], suites[3], suites[4], suites[5], suites[6]}

// imported reads the certificates that a peer exports.
func imported(t testing.TB, armour string) keyring.Cert {
	t.Helper()
	certs, err := Read([]byte(armour))
	if err != nil || len(certs) != 1 {
		t.Fatalf("read certificate of the peer: got %d, %v\n%s", len(certs), err, armour)
	}
	certs[0].Trust = keyring.Trusted
	return certs[0]
}

// gpg signs and encrypts to our certificates, and the other way round.
func TestGnuPG(t *testing.T) {
	token := soft(t)
	var ours []keyring.Identity
	for _, s := range peerSuites {
		ours = append(ours, newIdentity(t, token, s, "alice@company1.example"))
	}
	for name, keys := range map[string]string{
		"rsa3072":  "Key-Type: RSA\nKey-Length: 3072\nSubkey-Type: RSA\nSubkey-Length: 3072\n",
		"cv25519":  "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519\n",
		"nistp256": "Key-Type: ECDSA\nKey-Curve: nistp256\nSubkey-Type: ECDH\nSubkey-Curve: nistp256\n",
	} {
		g := newGnuPG(t)
		g.run(keys+"Name-Real: Bob\nName-Email: bob@partner.example\n%no-protection\n%commit\n", "--full-gen-key")
		bob := imported(t, g.run("", "--armor", "--export"))
		if len(bob.Addresses) != 1 || bob.Addresses[0].Key() != "bob@partner.example" {
			t.Errorf("addresses: got %v", bob.Addresses)
		}
		for i, s := range peerSuites {
			t.Run(name+"/"+s.String(), func(t *testing.T) {
				alice := ours[i]
				g.run(armored(t, alice.Cert), "--import")

				for _, args := range [][]string{nil, {"--compress-algo", "zip"}, {"--compress-algo", "bzip2"}, {"--compress-algo", "none"}, {"--textmode"}, {"--cipher-algo", "AES128", "--digest-algo", "SHA512"}, {"--throw-keyids"}} {
					armour := g.run(simpleEntity, append(args, "--armor", "--sign", "--encrypt", "-u", "bob@partner.example", "-r", alice.Fingerprint)...)
					counted := hsmtest.Count(token)
					m, f, err := opening{token: counted, ids: []keyring.Identity{alice}, certs: []keyring.Cert{bob}}.open(t, mail(t, pgpMIMEText(armour)))
					if err != nil || !f.Opened || !f.Good || f.Signer != bob.Fingerprint {
						t.Errorf("open from gpg %v: got %+v, %v", args, f, err)
						continue
					}
					if text := print(t, m); !strings.HasSuffix(text, "\r\n\r\nhello\r\n") {
						t.Errorf("open from gpg %v: got\n%s", args, text)
					}
					if counted.Unwraps() != 1 {
						t.Errorf("%d token operations", counted.Unwraps())
					}
				}

				plain := mail(t, plainMail)
				sealed := print(t, seal(t, token, plain, &alice, bob))
				out, status, err := g.try(string(packetsOf(t, sealed)), "--decrypt")
				if err != nil || !strings.Contains(status, "VALIDSIG "+alice.Fingerprint) || !strings.Contains(status, "GOODMDC") {
					t.Fatalf("gpg opens: %v\n%s", err, status)
				}
				if want := protectedEntity(t, plain, true); out != want || !strings.Contains(out, "\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n") {
					t.Errorf("gpg opens: got\n%s\nwant\n%s", out, want)
				}

				signed := seal(t, token, plain, &alice)
				text := print(t, signed)
				root := signed.Root
				if len(root.Parts) != 2 {
					t.Fatalf("%d parts in\n%s", len(root.Parts), text)
				}
				body, sig := root.Parts[0].Whole, root.Parts[1].Body
				_, status, err = g.try("", "--verify", write(t, "sig.asc", text[sig.Start:sig.End]), write(t, "body", text[body.Start:body.End]))
				if err != nil || !strings.Contains(status, "VALIDSIG "+alice.Fingerprint) {
					t.Errorf("gpg verifies: %v\n%s", err, status)
				}
			})
		}
	}
}

// sq signs and encrypts to our certificates, and the other way round. It signs
// by its own clock, so all is judged by that here.
func TestSequoia(t *testing.T) {
	token := soft(t)
	dir := t.TempDir()
	key := dir + "/key.pgp"
	sq := peertest.NewSq()
	if _, status, err := peer(t, "", "sq", sq.Generate("Bob <bob@partner.example>", "cv25519", key)...); err != nil {
		t.Fatalf("sq key generate: %v\n%s", err, status)
	}
	public, status, err := peer(t, "", "sq", sq.Extract(key)...)
	if err != nil {
		t.Fatalf("sq extract-cert: %v\n%s", err, status)
	}
	bob := imported(t, public)
	clock := time.Now().Add(-time.Second)
	for _, s := range peerSuites {
		t.Run(s.String(), func(t *testing.T) {
			alice := newIdentityAt(t, token, s, "alice@company1.example", clock)
			cert := write(t, "alice.asc", armored(t, alice.Cert))
			armour, status, err := peer(t, simpleEntity, "sq", sq.Encrypt(cert, key)...)
			if err != nil {
				t.Fatalf("sq encrypt: %v\n%s", err, status)
			}
			m, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{bob}, at: time.Now()}.open(t, mail(t, pgpMIMEText(armour)))
			if err != nil || !f.Good || !strings.HasSuffix(print(t, m), "\r\n\r\nhello\r\n") {
				t.Errorf("open from sq: got %+v, %v", f, err)
			}

			plain := mail(t, plainMail)
			sealed := packetsOf(t, print(t, sealAt(t, token, plain, &alice, time.Now(), bob)))
			out, status, err := peer(t, string(sealed), "sq", sq.Decrypt(key, cert)...)
			if err != nil || out != protectedEntity(t, plain, true) {
				t.Errorf("sq decrypt: %v\n%s\n%s", err, status, out)
			}
		})
	}
}
