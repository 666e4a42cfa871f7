package openpgp

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/hsm"
)

// CertSpec asks for a certificate of our own.
type CertSpec struct {
	Name            string // of the user id, may be empty
	Address         message.Address
	Domain          string  // a domain's certificate, when Address is zero
	Primary, Subkey hsm.Key // sign, unwrap
	Created         time.Time
	Lifetime        time.Duration // 0: for ever
	V6              bool
}

// What our certificates ask of those who seal to them, best first (RFC 9580 §9.3, §9.5, §9.6).
var (
	preferredCiphers     = []uint8{uint8(packet.CipherAES256), uint8(packet.CipherAES192), uint8(packet.CipherAES128)}
	preferredHashes      = []uint8{10, 9, 8} // SHA-512, SHA-384, SHA-256
	preferredCompression = []uint8{0}        // none: the mail is not ours to guess about, and its length tells
	preferredSuites      = [][2]uint8{{uint8(packet.CipherAES256), uint8(packet.AEADModeOCB)}, {uint8(packet.CipherAES128), uint8(packet.AEADModeOCB)}}
)

// Create makes the certificate; the token signs it, three times at most.
//
// A domain's certificate names postmaster, the one address that every domain
// has (RFC 5321 §4.5.1), so that it is an ordinary certificate to every
// program: whoever writes to other addresses of the domain picks it by its
// fingerprint (gpg --recipient or a group line), and a gateway is told once
// that it serves the domain.
func Create(ctx context.Context, token hsm.Token, s CertSpec) (keyring.Cert, error) {
	id, err := s.userID()
	if err != nil {
		return keyring.Cert{}, fmt.Errorf("create certificate: %w", err)
	}
	if s.Primary.Usage != hsm.Sign || s.Subkey.Usage != hsm.Unwrap {
		return keyring.Cert{}, fmt.Errorf("create certificate: the primary key must sign and the subkey unwrap, got %s and %s: %w", s.Primary.Usage, s.Subkey.Usage, hsm.ErrInvalid)
	}
	if unix := s.Created.Unix(); unix <= 0 || unix > math.MaxUint32 {
		return keyring.Cert{}, fmt.Errorf("create certificate: created at %s: OpenPGP has no such time", s.Created)
	}
	var life *uint32
	if s.Lifetime != 0 {
		seconds := int64(s.Lifetime / time.Second)
		if seconds <= 0 || seconds > math.MaxUint32 {
			return keyring.Cert{}, fmt.Errorf("create certificate: lifetime of %s: OpenPGP has no such time", s.Lifetime)
		}
		life = new(uint32(seconds))
	}
	raw, err := s.sign(ctx, token, id, life)
	if err != nil {
		return keyring.Cert{}, fmt.Errorf("create certificate: %w", err)
	}
	certs, err := Read(raw)
	if err != nil {
		return keyring.Cert{}, fmt.Errorf("create certificate: read it back: %w", err)
	}
	if len(certs) != 1 || len(certs[0].KeyIDs) != 2 {
		return keyring.Cert{}, fmt.Errorf("create certificate: read it back: %w", ErrCert)
	}
	return certs[0], nil
}

// sign lays the certificate out (RFC 9580 §10.1): what is said of the primary
// key stands at the user id in version 4, and in a direct-key signature in version 6.
func (s CertSpec) sign(ctx context.Context, token hsm.Token, id string, life *uint32) ([]byte, error) {
	primary, err := publicKey(s.Primary, s.Created, s.V6, false)
	if err != nil {
		return nil, err
	}
	subkey, err := publicKey(s.Subkey, s.Created, s.V6, true)
	if err != nil {
		return nil, err
	}
	signer, err := newSigner(token, primary)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	add := func(kind packet.SignatureType, say func(*packet.Signature), cover func(hash.Hash) error) error {
		sig, h, err := signer.begin(kind, s.Created)
		if err != nil {
			return err
		}
		say(sig)
		if err := primary.SerializeForHash(h); err != nil {
			return fmt.Errorf("hash primary key: %w", err)
		}
		if err := cover(h); err != nil {
			return fmt.Errorf("hash what is signed: %w", err)
		}
		if err := signer.finish(ctx, sig, h); err != nil {
			return err
		}
		printed, err := packetOf(sig)
		out.Write(printed)
		return err
	}
	ofPrimary := func(sig *packet.Signature) {
		sig.FlagsValid, sig.FlagCertify, sig.FlagSign = true, true, true
		sig.KeyLifetimeSecs = life
		sig.PreferredSymmetric, sig.PreferredHash, sig.PreferredCompression = preferredCiphers, preferredHashes, preferredCompression
		sig.SEIPDv1 = true
		if s.V6 {
			sig.SEIPDv2, sig.PreferredCipherSuites = true, preferredSuites
		}
	}
	ofUserID := func(sig *packet.Signature) {
		sig.IsPrimaryId = new(true)
		if !s.V6 {
			ofPrimary(sig)
		}
	}
	if err := primary.Serialize(&out); err != nil {
		return nil, fmt.Errorf("print primary key: %w", err)
	}
	if s.V6 {
		if err := add(packet.SigTypeDirectSignature, ofPrimary, func(hash.Hash) error { return nil }); err != nil {
			return nil, err
		}
	}
	out.Write(appendPacket(nil, tagUserID, []byte(id)))
	err = add(packet.SigTypePositiveCert, ofUserID, func(h hash.Hash) error {
		n := len(id)
		h.Write([]byte{0xb4, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		_, err := h.Write([]byte(id))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := subkey.Serialize(&out); err != nil {
		return nil, fmt.Errorf("print subkey: %w", err)
	}
	err = add(packet.SigTypeSubkeyBinding, func(sig *packet.Signature) {
		sig.FlagsValid, sig.FlagEncryptCommunications, sig.FlagEncryptStorage = true, true, true
		sig.KeyLifetimeSecs = life
	}, func(h hash.Hash) error { return subkey.SerializeForHash(h) })
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// userID is the name and address of the certificate (RFC 9580 §5.11).
func (s CertSpec) userID() (string, error) {
	name, address := s.Name, s.Address
	if address.IsZero() {
		if s.Domain == "" {
			return "", fmt.Errorf("user id: neither an address nor a domain")
		}
		address = message.Address{Local: "postmaster", Domain: s.Domain}
		if name == "" {
			name = "Postern gateway of " + s.Domain
		}
	}
	if !plain(name) || strings.ContainsAny(name, "<>") || len(name) > 200 {
		return "", fmt.Errorf("user id: name %.60q: want at most 200 bytes of text without <, > and control characters", name)
	}
	if name == "" {
		return "<" + address.String() + ">", nil
	}
	return name + " <" + address.String() + ">", nil
}

// plain reports whether s is text that shows as it stands.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
