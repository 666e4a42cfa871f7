package openpgp

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// Seal signs, then encrypts: multipart/signed where there is nobody to
// encrypt to (RFC 3156 §5), one OpenPGP message otherwise, signed inside
// (RFC 3156 §6.2). See protect.Protector. It costs one token operation with a
// signer and none without.
func (p *Protector) Seal(ctx context.Context, r protect.SealRequest) (*message.Message, error) {
	recipients, err := recipientsOf(r.Recipients, r.At)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	var by *signer
	if r.Signer != nil {
		key, err := signingKey(*r.Signer, r.At)
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		if by, err = newSigner(p.Token, key); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
	}
	if by == nil && len(recipients) == 0 {
		return nil, fmt.Errorf("seal: neither a signer nor a recipient: %w", protect.ErrNoCert)
	}
	protected, err := headers.Protect(r.Message, p.Headers, len(recipients) > 0)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	sealed, err := protected.Wrap(r.NewSpool(), func(w io.Writer) error {
		if len(recipients) == 0 {
			return writeSigned(ctx, w, protected, r.At, by)
		}
		return writeSealed(ctx, w, protected, r.At, by, recipients)
	})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// recipientsOf reads the certificates, each once.
func recipientsOf(certs []keyring.Cert, at time.Time) ([]recipient, error) {
	var list []recipient
	seen := map[string]bool{}
	for _, c := range certs {
		if seen[c.Fingerprint] {
			continue
		}
		seen[c.Fingerprint] = true
		r, err := recipientOf(c, at)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// signingKey finds the key that signs for an identity at the time.
func signingKey(id keyring.Identity, at time.Time) (*packet.PublicKey, error) {
	e, err := entityOf(id.Raw)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", id.Fingerprint, err)
	}
	k, ok := e.SigningKey(at, config)
	if !ok {
		return nil, fmt.Errorf("identity %s: no key that may sign now: %w", id.Fingerprint, hsm.ErrRefused)
	}
	return k.PublicKey, nil
}

// Signs tells whether the identity can sign at the time, and why not.
func (*Protector) Signs(i keyring.Identity, at time.Time) error {
	_, err := signingKey(i, at)
	return err
}

// writeSigned writes a multipart/signed.
func writeSigned(ctx context.Context, w io.Writer, m *headers.Mail, at time.Time, by *signer) error {
	sig, h, err := by.begin(packet.SigTypeBinary, at)
	if err != nil {
		return err
	}
	b := entity.Boundary()
	if _, err := fmt.Fprintf(w, "Content-Type: multipart/signed; micalg=%q;\r\n protocol=\"application/pgp-signature\";\r\n boundary=%q\r\n\r\n--%s\r\n", micalg(sig.Hash), b, b); err != nil {
		return err
	}
	if err := m.WriteEntity(io.MultiWriter(w, h)); err != nil {
		return fmt.Errorf("write entity: %w", err)
	}
	if err := by.finish(ctx, sig, h); err != nil {
		return err
	}
	printed, err := packetOf(sig)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\r\n--%s\r\nContent-Type: application/pgp-signature; name=\"signature.asc\"\r\nContent-Description: OpenPGP digital signature\r\nContent-Disposition: attachment; filename=\"signature.asc\"\r\n\r\n", b); err != nil {
		return err
	}
	a, err := newArmorer(w, labelSignature, sig.Version < 6)
	if err != nil {
		return err
	}
	if _, err := a.Write(printed); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\r\n--%s--\r\n", b)
	return err
}

// writeSealed writes a multipart/encrypted.
func writeSealed(ctx context.Context, w io.Writer, m *headers.Mail, at time.Time, by *signer, recipients []recipient) error {
	b := entity.Boundary()
	if _, err := fmt.Fprintf(w, "Content-Type: multipart/encrypted;\r\n protocol=\"application/pgp-encrypted\";\r\n boundary=%q\r\n\r\n"+
		"--%s\r\nContent-Type: application/pgp-encrypted\r\nContent-Description: PGP/MIME version identification\r\n\r\nVersion: 1\r\n\r\n"+
		"--%s\r\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\r\nContent-Description: OpenPGP encrypted message\r\nContent-Disposition: inline; filename=\"encrypted.asc\"\r\n\r\n", b, b, b); err != nil {
		return err
	}
	s := suiteOf(recipients)
	a, err := newArmorer(w, labelMessage, !s.aead)
	if err != nil {
		return err
	}
	key := make([]byte, s.cipher.KeySize())
	rand.Read(key)
	defer clear(key)
	for _, to := range recipients {
		if err := packet.SerializeEncryptedKeyAEAD(a, to.key, s.cipher, s.aead, key, config); err != nil {
			return fmt.Errorf("wrap session key for %X: %w", to.key.Fingerprint, err)
		}
	}
	var sealed io.WriteCloser
	if s.aead {
		sealed, err = packet.SerializeSymmetricallyEncrypted(a, s.cipher, true, packet.CipherSuite{Cipher: s.cipher, Mode: packet.AEADModeOCB}, key, config)
	} else {
		sealed, err = newSealer(a, key)
	}
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	if err := writePayload(ctx, sealed, m, at, by, recipients); err != nil {
		return err
	}
	if err := sealed.Close(); err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	if err := a.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\r\n--%s--\r\n", b)
	return err
}

// writePayload writes what is encrypted: announcement, literal, signature.
// The signature names for whom it is meant, so that a reader can't pass the
// mail on as if it had been written to somebody else (RFC 9580 §5.2.3.36).
func writePayload(ctx context.Context, w io.Writer, m *headers.Mail, at time.Time, by *signer, recipients []recipient) error {
	var sig *packet.Signature
	var h hash.Hash
	covered := io.Discard
	if by != nil {
		var err error
		if sig, h, err = by.begin(packet.SigTypeBinary, at); err != nil {
			return err
		}
		for _, to := range recipients {
			version := 4
			if to.v6 {
				version = 6
			}
			sig.IntendedRecipients = append(sig.IntendedRecipients, &packet.Recipient{KeyVersion: version, Fingerprint: to.owner})
		}
		if err := by.announce(w, sig); err != nil {
			return err
		}
		covered = h
	}
	literal := newPartialWriter(w, tagLiteral)
	if _, err := literal.Write([]byte("b\x00\x00\x00\x00\x00")); err != nil { // binary, no name, no date (RFC 9580 §5.9)
		return fmt.Errorf("write literal: %w", err)
	}
	if err := m.WriteEntity(io.MultiWriter(literal, covered)); err != nil {
		return fmt.Errorf("write entity: %w", err)
	}
	if err := literal.Close(); err != nil {
		return fmt.Errorf("write literal: %w", err)
	}
	if by == nil {
		return nil
	}
	if err := by.finish(ctx, sig, h); err != nil {
		return err
	}
	printed, err := packetOf(sig)
	if err != nil {
		return err
	}
	_, err = w.Write(printed)
	return err
}

// announce writes the one-pass packet of a signature to come (RFC 9580 §5.4).
func (s *signer) announce(w io.Writer, sig *packet.Signature) error {
	one := packet.OnePassSignature{Version: 3, SigType: sig.SigType, Hash: sig.Hash, PubKeyAlgo: sig.PubKeyAlgo, KeyId: s.key.KeyId, IsLast: true}
	if s.key.Version == 6 {
		one.Version, one.Salt, one.KeyFingerprint = 6, sig.Salt(), s.key.Fingerprint
	}
	if err := one.Serialize(w); err != nil {
		return fmt.Errorf("announce signature: %w", err)
	}
	return nil
}

// suite is how the data is encrypted.
type suite struct {
	aead   bool // version 2 with OCB; version 1 otherwise
	cipher packet.CipherFunction
}

// suiteOf is the best that all recipients read: OCB only if each says so, the
// longest AES key that each lists, and AES-128, which all must read, where
// they have nothing in common (RFC 9580 §9.3, §5.2.3.15). Old ciphers that
// somebody prefers are not used (R41).
func suiteOf(recipients []recipient) suite {
	s := suite{aead: true, cipher: packet.CipherAES128}
	for _, r := range recipients {
		m, ok := materialOf(r.key)
		s.aead = s.aead && r.prefs.SEIPDv2 && !(ok && bytes.Equal(m.oid, oidCurve25519)) // that curve is of version 4 only
	}
	for _, c := range []packet.CipherFunction{packet.CipherAES256, packet.CipherAES192} {
		if !slices.ContainsFunc(recipients, func(r recipient) bool { return !r.reads(c, s.aead) }) {
			s.cipher = c
			break
		}
	}
	return s
}

// reads reports whether the recipient lists the cipher, or lists none at all.
func (r recipient) reads(c packet.CipherFunction, aead bool) bool {
	if aead {
		return slices.Contains(r.prefs.PreferredCipherSuites, [2]uint8{uint8(c), uint8(packet.AEADModeOCB)})
	}
	return len(r.prefs.PreferredSymmetric) == 0 || slices.Contains(r.prefs.PreferredSymmetric, uint8(c))
}
