package openpgp

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"hash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// signature4 is a binary signature of version 4 by any hash, right in all
// else: no program of today makes one with MD5.
func signature4(t *testing.T, key *packet.PrivateKey, content string, id byte, of crypto.Hash, h hash.Hash) []byte {
	t.Helper()
	signed := binary.BigEndian.AppendUint32([]byte{5, 2}, uint32(now.Unix())) // when it was made
	signed = append(signed, byte(len(key.Fingerprint)+2), 33, 4)              // who made it
	signed = append(signed, key.Fingerprint...)
	covered := binary.BigEndian.AppendUint16([]byte{4, byte(packet.SigTypeBinary), byte(packet.PubKeyAlgoRSA), id}, uint16(len(signed)))
	covered = append(covered, signed...)
	h.Write([]byte(content))
	h.Write(binary.BigEndian.AppendUint32(append(slices.Clone(covered), 4, 0xff), uint32(len(covered))))
	sum := h.Sum(nil)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key.PrivateKey.(*rsa.PrivateKey), of, sum)
	if err != nil {
		t.Fatal(err)
	}
	return appendPacket(nil, tagSignature, appendMPI(append(covered, 0, 0, sum[0], sum[1]), sig))
}

// A hash that is broken makes no signature good, wherever it stands (R14): the
// same signature over SHA-256 is, so that it is the hash that is refused.
func TestWeakHashes(t *testing.T) {
	key, err := pgp.NewEntity("Bob", "", "bob@partner.example", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, Time: func() time.Time { return now.Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := key.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	bob := imported(t, b.String())
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	e := crlf("Content-Type: text/plain\n\nhello\n")
	for _, c := range []struct {
		name string
		id   byte
		of   crypto.Hash
		want string
	}{
		{"MD5", 1, crypto.MD5, protect.ReasonWeak},
		{"SHA-1", 2, crypto.SHA1, protect.ReasonWeak},
		{"SHA-256", 8, crypto.SHA256, protect.ReasonGood},
	} {
		h := map[crypto.Hash]func() hash.Hash{crypto.MD5: md5.New, crypto.SHA1: sha1.New, crypto.SHA256: crypto.SHA256.New}[c.of]()
		sig := signature4(t, key.PrivateKey, e, c.id, c.of, h)
		for form, text := range map[string]string{
			"detached": signedMail(e, strings.ReplaceAll(armour(t, labelSignature, sig), "\r\n", "\n")),
			"inside":   pgpMIME(t, crafted{to: alice.Cert, payload: join(sig, literal(e))}.packets(t)),
		} {
			_, f, err := opening{token: token, ids: []keyring.Identity{alice}, certs: []keyring.Cert{bob}, at: now.Add(time.Minute)}.open(t, mail(t, text))
			if err != nil || f.Reason != c.want || f.Good != (c.want == protect.ReasonGood) {
				t.Errorf("%s, %s: got %+v, %v, want %s", c.name, form, f, err, c.want)
			}
		}
	}
}
