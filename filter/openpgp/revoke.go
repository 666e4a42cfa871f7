package openpgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/hsm"
)

// Reason is why a certificate is taken back (RFC 9580 §5.2.3.31).
type Reason uint8

// The reasons. With Superseded and Retired what was signed before stays good;
// with the two others nothing does.
const (
	Unspecified Reason = 0
	Superseded  Reason = 1
	Compromised Reason = 2
	Retired     Reason = 3
)

// Revocation is the signature that takes a certificate of ours back as a whole
// (RFC 9580 §5.2.1.11), in binary. The token signs it with the primary key.
// Whoever has it can publish it.
func Revocation(ctx context.Context, token hsm.Token, c keyring.Cert, why Reason, at time.Time) ([]byte, error) {
	e, err := entityOf(c.Raw)
	if err != nil {
		return nil, fmt.Errorf("make revocation of %s: %w", c.Fingerprint, err)
	}
	by, err := newSigner(token, e.PrimaryKey)
	if err != nil {
		return nil, fmt.Errorf("make revocation of %s: %w", c.Fingerprint, err)
	}
	sig, h, err := by.begin(packet.SigTypeKeyRevocation, at)
	if err != nil {
		return nil, fmt.Errorf("make revocation of %s: %w", c.Fingerprint, err)
	}
	sig.RevocationReason = new(packet.ReasonForRevocation(why))
	if err := e.PrimaryKey.SerializeForHash(h); err != nil {
		return nil, fmt.Errorf("make revocation of %s: %w", c.Fingerprint, err)
	}
	if err := by.finish(ctx, sig, h); err != nil {
		return nil, fmt.Errorf("make revocation of %s: %w", c.Fingerprint, err)
	}
	return packetOf(sig)
}

// Revoke is the certificate with a revocation in it, behind the primary key,
// where it stands first (RFC 9580 §10.1). ErrCert: it is not one of this
// certificate, or damaged.
func Revoke(c keyring.Cert, revocation []byte) (keyring.Cert, error) {
	bad := func(what string) (keyring.Cert, error) {
		return c, fmt.Errorf("revoke %s: %s: %w", c.Fingerprint, what, ErrCert)
	}
	tag, content, rest := onePacket(revocation)
	if tag != tagSignature || len(rest) > 0 {
		return bad("no signature alone")
	}
	p, err := packet.Read(bytes.NewReader(revocation))
	sig, ok := p.(*packet.Signature)
	if err != nil || !ok || sig.SigType != packet.SigTypeKeyRevocation {
		return bad("no revocation")
	}
	e, err := entityOf(c.Raw)
	if err != nil || e.PrimaryKey.VerifyRevocationSignature(sig) != nil {
		return bad("the revocation is another's")
	}
	first, key, rest := onePacket(c.Raw)
	if first != tagPublicKey {
		return bad("no primary key")
	}
	raw := append(appendPacket(appendPacket(nil, tagPublicKey, key), tagSignature, content), rest...)
	list, err := Read(raw)
	if err != nil || len(list) != 1 || list[0].Fingerprint != c.Fingerprint {
		return bad("it does not read back")
	}
	revoked := c
	revoked.Raw = list[0].Raw
	return revoked, nil
}

// Revoked reports whether a certificate says of itself that it is taken back.
func Revoked(c keyring.Cert, at time.Time) bool {
	e, err := entityOf(c.Raw)
	return err == nil && e.Revoked(at)
}

// onePacket takes the first packet off; tag is 0 where there is none.
func onePacket(data []byte) (tag int, content, rest []byte) {
	in := bytes.NewReader(data)
	r := newPacketReader(in)
	tag, body, err := r.next()
	if err != nil {
		return 0, nil, nil
	}
	if content, err = body.all(maxCertBytes); err != nil {
		return 0, nil, nil
	}
	printed := len(appendPacket(nil, tag, content))
	if printed > len(data) || !bytes.Equal(data[:printed], appendPacket(nil, tag, content)) {
		return 0, nil, nil // our own certificates have no other form
	}
	return tag, content, data[printed:]
}

// maxRevocation is the largest file of a revocation, in bytes.
const maxRevocation = 256 << 10

// revocationSpools are for one small mail.
var revocationSpools = message.Spools{Max: maxRevocation}

// LockRevocation is a mail that holds the revocation of a certificate, sealed
// to the certificate itself: it says nothing to whom has not its key that
// opens, in the token.
func LockRevocation(ctx context.Context, c keyring.Cert, revocation []byte, at time.Time) ([]byte, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "Subject: Revocation of %s\r\nDate: %s\r\nMIME-Version: 1.0\r\nContent-Type: application/pgp-keys\r\n\r\n", c.Fingerprint, at.Format(time.RFC1123Z))
	a, err := newArmorer(&text, labelCert, len(c.Fingerprint) == 40)
	if err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	if _, err := a.Write(revocation); err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	if err := a.Close(); err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	m, err := message.Parse(bytes.NewReader(text.Bytes()), message.Limits{})
	if err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	spool := revocationSpools.New()
	defer spool.Close()
	sealed, err := New(Config{}).Seal(ctx, protect.SealRequest{Message: m, Recipients: []keyring.Cert{c}, At: at, NewSpool: func() *message.Spool { return spool }})
	if err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	var out bytes.Buffer
	if _, err := sealed.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("seal revocation: %w", err)
	}
	return out.Bytes(), nil
}

// UnlockRevocation gives what LockRevocation was given; the token opens it.
// ErrCert: the file is none of this certificate.
func UnlockRevocation(ctx context.Context, token hsm.Token, i keyring.Identity, file []byte) ([]byte, error) {
	bad := func(what string) ([]byte, error) {
		return nil, fmt.Errorf("open revocation of %s: %s: %w", i.Fingerprint, what, ErrCert)
	}
	if len(file) > maxRevocation {
		return bad("too large")
	}
	m, err := message.Parse(bytes.NewReader(file), message.Limits{})
	if err != nil {
		return bad("no mail")
	}
	var spools []*message.Spool
	defer func() {
		for _, s := range spools {
			s.Close()
		}
	}()
	opened, f, err := New(Config{Token: token}).Open(ctx, protect.OpenRequest{Message: m, Identities: []keyring.Identity{i}, NewSpool: func() *message.Spool {
		spools = append(spools, revocationSpools.New())
		return spools[len(spools)-1]
	}})
	switch {
	case errors.Is(err, protect.ErrCannotOpen) || err == nil && !f.Opened:
		return bad("it does not open")
	case err != nil:
		return nil, fmt.Errorf("open revocation of %s: %w", i.Fingerprint, err)
	}
	body, err := io.ReadAll(entity.Decoded(opened.Source, opened.Root))
	if err != nil {
		return nil, fmt.Errorf("open revocation of %s: %w", i.Fingerprint, err)
	}
	revocation, err := dearmorCerts(body)
	if err != nil {
		return bad("no armour")
	}
	return revocation, nil
}
