package e2e

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"mime"
	"net/textproto"
	"os"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// passphrases are those of the corpora whose keys are read here.
var passphrases = []string{"_julia_", "_winston_", "_obrian_", "test"}

// readSecret reads secret keys, unlocked.
func readSecret(t testing.TB, dir string, patterns []string) (all pgp.EntityList) {
	t.Helper()
	for _, file := range globbed(t, dir, patterns) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgp.ReadKeyRing(bytes.NewReader(dearmoured(b)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, e := range list {
			for _, p := range passphrases {
				if e.DecryptPrivateKeys([]byte(p)) == nil {
					break
				}
			}
			all = append(all, e)
		}
	}
	return all
}

// entity is what the recipient finds in the first armour of a mail, by
// another implementation of OpenPGP.
func (w *world) entity(mail []byte) ([]byte, error) {
	i := bytes.Index(mail, []byte("-----BEGIN PGP MESSAGE-----"))
	if i < 0 {
		return nil, errors.New("no armour in it")
	}
	old := &packet.Config{RejectHashAlgorithms: map[crypto.Hash]bool{}, RejectMessageHashAlgorithms: map[crypto.Hash]bool{}, RejectPublicKeyAlgorithms: map[packet.PublicKeyAlgorithm]bool{},
		InsecureAllowDecryptionWithSigningKeys: true, InsecureAllowAllKeyFlagsWhenMissing: true}
	d, err := pgp.ReadMessage(bytes.NewReader(dearmoured(mail[i:])), w.readers, nil, old)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(d.UnverifiedBody)
}

// payload holds a delivered mail against the entity that was sealed, where it
// does not hold it byte for byte: the body must be the entity's, its fields of
// MIME must be there, and of its protected fields those that the reader sees
// (RFC 9788 §4, and the forms before it).
func (w *world) payload(s *sample, o *outcome) []string {
	open := w.entity
	if o.opened == "smime" {
		open = w.entity509
	}
	b, err := open(o.sent)
	if err != nil {
		return []string{"payload"}
	}
	text := lf(string(b))
	digest := false
	for _, form := range []string{string(b), text, strings.ReplaceAll(text, "\n", "\r\n")} {
		sum := sha256.Sum256([]byte(form))
		digest = digest || hex.EncodeToString(sum[:]) == s.digest
	}
	if !digest {
		return []string{"payload"}
	}
	if signed, _, err := unpacked(crlf(b), false); err == nil { // goes with the encryption, once it was looked at
		if b, err = w.content509(signed); err != nil {
			return []string{"payload"}
		}
		text = lf(string(b))
	}
	inner, body, err := entityOf(text)
	if wrap := inner.Get("Content-Type"); err == nil && strings.HasPrefix(wrap, "message/rfc822") && strings.Contains(wrap, "forwarded=\"no\"") {
		inner, body, err = entityOf(body) // draft-melnikov-smime-header-signing: the mail is the one inside
		inner.Set("Content-Type", inner.Get("Content-Type")+"; protected-headers=v1")
	}
	if err != nil {
		return []string{"payload"}
	}
	shown, got, err := entityOf(lf(o.delivered))
	if err != nil || strings.TrimRight(got, "\r\n") != strings.TrimRight(body, "\r\n") {
		return []string{"payload"}
	}
	for name := range inner {
		want, got := inner.Get(name), shown.Get(name)
		switch {
		case name == "Content-Type":
			wantType, wantParams, hp := mediaType(want)
			gotType, gotParams, _ := mediaType(got)
			if wantType != gotType || !maps.Equal(wantParams, gotParams) {
				return []string{"payload"}
			}
			if hp && shown.Get("Subject") != inner.Get("Subject") && inner.Get("Subject") != "" {
				return []string{"subject"}
			}
		case strings.HasPrefix(name, "Content-"):
			if want != got {
				return []string{"payload"}
			}
		}
	}
	return nil
}

// entityOf cuts an entity with LF line ends behind its header.
func entityOf(text string) (textproto.MIMEHeader, string, error) {
	r := bufio.NewReader(strings.NewReader(text))
	header, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil {
		return textproto.MIMEHeader{}, "", err
	}
	body, err := io.ReadAll(r)
	return header, string(body), err
}

// mediaType parts a Content-Type, and tells whether it says of the fields
// beside it that they are the mail's; what says so need not be delivered.
func mediaType(value string) (kind string, params map[string]string, protected bool) {
	kind, params, err := mime.ParseMediaType(value)
	if err != nil {
		return value, nil, false
	}
	for _, name := range []string{"protected-headers", "hp"} {
		if _, ok := params[name]; ok {
			protected = true
			delete(params, name)
		}
	}
	return kind, params, protected
}

func lf(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
