package openpgp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// at runs gpg at another time.
func (g *gnupg) at(when time.Time, stdin string, args ...string) string {
	g.t.Helper()
	out, status, err := peer(g.t, stdin, "gpg", append([]string{"--homedir", g.home, "--yes", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "",
		"--trust-model", "always", "--status-fd", "2", "--command-fd", "0", "--faked-system-time", when.Format("20060102T150405!")}, args...)...)
	if err != nil {
		g.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, status)
	}
	return out
}

// A signature is judged by what its certificate was at the time of judgement.
func TestVerifyTimes(t *testing.T) {
	day := 24 * time.Hour
	made, signed, ended := now.Add(-100*day), now, now.Add(10*day)
	e := crlf("Content-Type: text/plain\n\nhello\n")
	for _, c := range []struct {
		name, expire, revoke string // revoke: the reason, as gpg asks for it
		signing, then        string // judged when it had signed, and after its end
	}{
		{"lasting", "never", "", protect.ReasonGood, protect.ReasonGood},
		{"expired", "105d", "", protect.ReasonGood, protect.ReasonExpired},
		{"superseded", "never", "2", protect.ReasonGood, protect.ReasonRevoked},
		{"retired", "never", "3", protect.ReasonGood, protect.ReasonRevoked},
		{"compromised", "never", "1", protect.ReasonRevoked, protect.ReasonRevoked},
		{"revoked for no reason", "never", "0", protect.ReasonRevoked, protect.ReasonRevoked},
	} {
		g := newGnuPG(t)
		g.at(made, "", "--quick-gen-key", "Bob <bob@partner.example>", "ed25519", "sign", c.expire)
		text := signedMail(e, g.at(signed, e, "--armor", "--detach-sign"))
		bob := imported(t, g.run("", "--armor", "--export"))
		if c.revoke != "" {
			g.run(g.at(ended, "y\n"+c.revoke+"\n\ny\n", "--gen-revoke", bob.Fingerprint), "--import")
			bob = imported(t, g.run("", "--armor", "--export"))
		}
		for _, j := range []struct {
			at   time.Time
			want string
		}{{made.Add(-day), protect.ReasonBad}, {signed.Add(-day), protect.ReasonBad}, {signed.Add(day), c.signing}, {ended.Add(day), c.then}} {
			_, f, err := opening{certs: []keyring.Cert{bob}, at: j.at}.open(t, mail(t, text))
			if err != nil || f.Reason != j.want || f.Good != (j.want == protect.ReasonGood) {
				t.Errorf("%s, at %s: got %+v, %v, want %s", c.name, j.at.Format(time.DateOnly), f, err, j.want)
			}
		}
	}
}

// Old forms and odd algorithms that are still believed, or are not.
func TestVerifyForms(t *testing.T) {
	g := newGnuPG(t)
	g.run("", "--cert-digest-algo", "SHA1", "--quick-gen-key", "Bob <bob@partner.example>", "rsa2048", "sign,encrypt", "never")
	bob := imported(t, g.run("", "--armor", "--export", "bob"))
	if err := New(Config{}).Usable(bob, now.Add(time.Hour)); err != nil {
		t.Errorf("a certificate that signs itself with SHA-1: %v", err)
	}
	g.run("", "--quick-gen-key", "Eve <eve@evil.example>", "ed25519", "sign", "never")
	eve := imported(t, g.run("", "--armor", "--export", "eve"))
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	unix := "Content-Type: text/plain\n\nhello  \n"
	e := crlf(unix)
	detached := func(text string, args ...string) []byte {
		return []byte(g.run(text, append(args, "--detach-sign", "-u", "bob")...))
	}
	text := func(content string) []byte {
		return appendPacket(nil, tagLiteral, append([]byte("t\x00\x00\x00\x00\x00"), content...))
	}
	for _, c := range []struct {
		name    string
		payload []byte
		want    string
	}{
		{"before the literal", join(detached(e), literal(e)), protect.ReasonGood},
		{"text mode, line ends of Unix", join(detached(unix, "--textmode"), text(unix)), protect.ReasonGood},
		{"text mode, other line ends than when it was made", join(detached(unix, "--textmode"), text(e)), protect.ReasonGood},
		{"binary, other line ends", join(detached(unix), literal(e)), protect.ReasonBad},
		{"SHA-224", join(detached(e, "--digest-algo", "SHA224"), literal(e)), protect.ReasonGood},
		{"SHA-384", join(detached(e, "--digest-algo", "SHA384"), literal(e)), protect.ReasonGood},
		{"two of the same", join(detached(e), detached(e), literal(e)), protect.ReasonGood},
		{"two, the second bad", join(detached(e), detached(e+"x"), literal(e)), protect.ReasonBad},
		{"two, the second SHA-1", join(detached(e), detached(e, "--digest-algo", "SHA1"), literal(e)), protect.ReasonWeak},
		{"two, the second unknown", []byte(g.run(e, "--compress-algo", "none", "--sign", "-u", "bob", "-u", "eve")), protect.ReasonGood},
		{"one of a version to come beside a good one", join(appendPacket(nil, tagSignature, append([]byte{7}, make([]byte, 40)...)), detached(e), literal(e)), protect.ReasonGood},
		{"one of a version to come alone", join(appendPacket(nil, tagSignature, append([]byte{7}, make([]byte, 40)...)), literal(e)), protect.ReasonBad},
	} {
		m := mail(t, pgpMIME(t, crafted{to: alice.Cert, payload: c.payload}.packets(t)))
		certs := []keyring.Cert{bob, eve}
		if strings.HasSuffix(c.name, "unknown") {
			certs = certs[:1]
		}
		_, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: certs, at: now.Add(time.Minute)}.open(t, m)
		if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
		}
	}
}

// signature3 is a signature of version 3 (RFC 9580 §5.2.2), which nothing makes any more.
func signature3(t *testing.T, key *packet.PrivateKey, content string) []byte {
	t.Helper()
	covered := binary.BigEndian.AppendUint32([]byte{byte(packet.SigTypeBinary)}, uint32(now.Unix()))
	sum := sha256.Sum256(append([]byte(content), covered...))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key.PrivateKey.(*rsa.PrivateKey), crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	body := append([]byte{3, 5}, covered...)
	body = append(binary.BigEndian.AppendUint64(body, key.KeyId), byte(packet.PubKeyAlgoRSA), 8, sum[0], sum[1])
	return appendPacket(nil, tagSignature, appendMPI(body, sig))
}

// A signature of version 3 is weak, whatever its hash.
func TestVerifyVersion3(t *testing.T) {
	key, err := pgp.NewEntity("Bob", "", "bob@partner.example", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, Time: func() time.Time { return now.Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := key.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	bob := imported(t, b.String())
	e := crlf("Content-Type: text/plain\n\nhello\n")
	sig := signature3(t, key.PrivateKey, e)
	g := newGnuPG(t)
	g.run(b.String(), "--import")
	if _, status, err := g.try("", "--verify", write(t, "sig", string(sig)), write(t, "text", e)); err != nil || !strings.Contains(status, "GOODSIG") {
		t.Fatalf("gpg verifies: %v\n%s", err, status)
	}
	onePass := appendPacket(nil, tagOnePass, append(binary.BigEndian.AppendUint64([]byte{3, 0, 8, 1}, key.PrimaryKey.KeyId), 1))
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	sealed := func(payload []byte) string {
		return pgpMIME(t, crafted{to: alice.Cert, payload: payload}.packets(t))
	}
	for name, text := range map[string]string{
		"detached":  signedMail(e, strings.ReplaceAll(armour(t, labelSignature, sig), "\r\n", "\n")),
		"before":    sealed(join(sig, literal(e))),
		"announced": sealed(join(onePass, literal(e), sig)),
	} {
		_, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{bob}, at: now.Add(time.Minute)}.open(t, mail(t, text))
		if err != nil || f.Reason != protect.ReasonWeak || f.Good {
			t.Errorf("%s: got %+v, %v, want %s", name, f, err, protect.ReasonWeak)
		}
	}
}

// Subkeys of the time before key flags open old mail; a primary key does not.
func TestUnflagged(t *testing.T) {
	c := &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, Time: func() time.Time { return now.Add(-time.Hour) }}
	e, err := pgp.NewEntity("Bob", "", "bob@partner.example", c)
	if err != nil {
		t.Fatal(err)
	}
	for _, valid := range []bool{true, false} {
		binding := e.Subkeys[0].Bindings[0].Packet
		binding.FlagsValid, binding.FlagEncryptCommunications, binding.FlagEncryptStorage = valid, false, false
		for _, id := range e.Identities {
			self := id.SelfCertifications[0].Packet
			self.FlagsValid = valid
			if err := self.SignUserId(id.Name, e.PrimaryKey, e.PrivateKey, c); err != nil {
				t.Fatal(err)
			}
		}
		if err := binding.SignKey(e.Subkeys[0].PublicKey, e.PrivateKey, c); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := e.Serialize(&b); err != nil {
			t.Fatal(err)
		}
		read, err := entityOf(imported(t, b.String()).Raw)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range unwrapKeys(read) {
			got = append(got, fmt.Sprintf("%X", k.Fingerprint))
		}
		var want []string
		if !valid {
			want = []string{fmt.Sprintf("%X", e.Subkeys[0].PublicKey.Fingerprint)}
		}
		if !slices.Equal(got, want) {
			t.Errorf("flags %v: got %v, want %v", valid, got, want)
		}
	}
}
