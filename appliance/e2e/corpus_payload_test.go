package e2e

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/mail"
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
	b, err := w.entity(o.sent)
	if err != nil {
		return []string{"payload"}
	}
	text := lf(string(b))
	digest := false
	for _, form := range []string{string(b), text, strings.ReplaceAll(text, "\n", "\r\n")} {
		sum := sha256.Sum256([]byte(form))
		digest = digest || hex.EncodeToString(sum[:]) == s.digest
	}
	head, body, ok := strings.Cut(text, "\n\n")
	_, got, whole := strings.Cut(lf(o.delivered), "\n\n")
	if !digest || !ok || !whole || strings.TrimRight(got, "\n") != strings.TrimRight(body, "\n") {
		return []string{"payload"}
	}
	inner, err := mail.ReadMessage(strings.NewReader(head + "\n\n"))
	if err != nil {
		return []string{"payload"}
	}
	shown, err := mail.ReadMessage(strings.NewReader(o.delivered))
	if err != nil {
		return []string{"payload"}
	}
	for name, values := range inner.Header {
		switch {
		case strings.HasPrefix(name, "Content-"):
			if len(values) != 1 || shown.Header.Get(name) != values[0] {
				return []string{"payload"}
			}
		case name == "Subject" && protected(inner.Header.Get("Content-Type")):
			if shown.Header.Get(name) != values[0] {
				return []string{"subject"}
			}
		}
	}
	return nil
}

// protected reports whether an entity says of its fields that they are the mail's.
func protected(contentType string) bool {
	c := strings.ToLower(contentType)
	return strings.Contains(c, "protected-headers") || strings.Contains(c, "hp=")
}

func lf(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
