package image

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"postern/hsm"
)

// statement is what a release key signs, and what the log has of a release: four
// lines. It names the key, so that a wrong signature and a strange key are two
// answers; and the version, so that the log tells it.
type statement struct {
	version  Version
	key      hsm.KeyID
	manifest [sha256.Size]byte
}

const statementHead = "postern release 1\n"

func (s statement) text() []byte {
	return fmt.Appendf(nil, "%sversion %s\nkey %s\nmanifest sha256 %x\n", statementHead, s.version, s.key, s.manifest)
}

// parseStatement reads the text of one, and nothing else.
func parseStatement(b []byte) (s statement, err error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) != 5 || lines[0]+"\n" != statementHead {
		return s, fmt.Errorf("it does not begin with %q and three lines", strings.TrimSpace(statementHead))
	}
	if s.version, err = ParseVersion(strings.TrimPrefix(lines[1], "version ")); err != nil {
		return s, err
	}
	if s.key, err = hsm.ParseKeyID(strings.TrimPrefix(lines[2], "key ")); err != nil {
		return s, err
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(lines[3], "manifest sha256 "))
	if err != nil || len(sum) != len(s.manifest) {
		return s, fmt.Errorf("hash of the manifest: want %d hexadecimal digits", 2*len(s.manifest))
	}
	copy(s.manifest[:], sum)
	if !bytes.Equal(s.text(), b) {
		return s, fmt.Errorf("it is not spelled as signatures are")
	}
	return s, nil
}

// Sign makes the signature file of an encoded manifest: four lines that are
// signed, and one with the signature in base64. ECDSA on P-384 signs their
// SHA-384, Ed25519 the lines themselves; `openssl dgst -sha384 -verify` checks
// the former. The key may be in a token.
func Sign(manifest []byte, key crypto.Signer) ([]byte, error) {
	m, err := Decode(manifest)
	if err != nil {
		return nil, err
	}
	s := statement{version: m.Version, manifest: sha256.Sum256(manifest)}
	if s.key, err = hsm.IDOf(key.Public()); err != nil {
		return nil, err
	}
	if err := releaseKey(key.Public()); err != nil {
		return nil, fmt.Errorf("sign release %s: %w", m.Version, err)
	}
	message, hash := s.text(), crypto.Hash(0)
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha512.Sum384(message)
		message, hash = sum[:], crypto.SHA384
	}
	sig, err := key.Sign(rand.Reader, message, hash)
	if err != nil {
		return nil, fmt.Errorf("sign release %s: %w", m.Version, err)
	}
	if !verifies(key.Public(), s.text(), sig) {
		return nil, fmt.Errorf("sign release %s: the token's own signature: %w", m.Version, ErrSignature)
	}
	return fmt.Appendf(s.text(), "signature %s\n", base64.StdEncoding.EncodeToString(sig)), nil
}

// releaseKey refuses a public key that no release may be signed with.
func releaseKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			return nil
		}
	}
	return fmt.Errorf("a release key is p-384 or ed25519: %w", hsm.ErrInvalid)
}

func verifies(pub crypto.PublicKey, message, sig []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		sum := sha512.Sum384(message)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// signed reads a signature file and judges it by the trusted keys. What it
// returns was said by one of them.
func signed(file []byte, keys *Keys) (statement, error) {
	bad := func(why error) (statement, error) {
		return statement{}, fmt.Errorf("read signature: %w: %w", ErrSignature, why)
	}
	if len(file) > maxSignature {
		return bad(fmt.Errorf("more than %d bytes", maxSignature))
	}
	at := bytes.LastIndex(file, []byte("signature "))
	if at < 0 {
		return bad(fmt.Errorf("there is none in it"))
	}
	s, err := parseStatement(file[:at])
	if err != nil {
		return bad(err)
	}
	line, err := bufio.NewReader(bytes.NewReader(file[at:])).ReadString('\n')
	if err != nil || len(line) != len(file)-at {
		return bad(fmt.Errorf("it does not end with its line"))
	}
	text := strings.TrimSuffix(strings.TrimPrefix(line, "signature "), "\n")
	sig, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r") {
		return bad(fmt.Errorf("it is no base64"))
	}
	pub, ok := keys.release[s.key]
	if !ok {
		return statement{}, fmt.Errorf("release %s: %w: key %s", s.version, ErrKey, s.key)
	}
	if !verifies(pub, s.text(), sig) {
		return statement{}, fmt.Errorf("release %s: %w", s.version, ErrSignature)
	}
	return s, nil
}
