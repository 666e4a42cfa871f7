// Package openpgp opens, verifies, signs and seals OpenPGP mail (RFC 9580,
// RFC 3156) with keys that stay in the token.
//
// Session keys go to the token wrapped, as they stand in the mail; signatures
// are asked for by digest. Packets are framed and their grammar is held here
// (packets.go, unwrap.go, payload.go); packet contents, certificates and
// ciphers are go-crypto's.
//
// Departures from the standards: messages without integrity protection (RFC
// 9580 §5.7) and passwords are not opened, old ciphers and LibrePGP's packet 20
// only with Config.Legacy; of session keys that name nobody four are tried, not
// all; signatures of version 3, with MD5, SHA-1 or RIPEMD-160, and by DSA or
// short RSA keys, are not verified, nor is one that was made long before the
// Date of its mail, or around header fields that the mail denies; a signature
// made around an encrypted message gives no claim.
package openpgp

import (
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// config is what go-crypto is always called with: with nil it panics for some
// recipients. It is only read.
var config = &packet.Config{
	MinRSABits:                            minRSA,
	AEADConfig:                            &packet.AEADConfig{},
	NonDeterministicSignaturesViaNotation: new(bool),
	CheckIntendedRecipients:               new(bool),
}

// Config is all that a Protector needs; it has no other state but certificates
// that it need not read again.
type Config struct {
	Token  hsm.Token
	Limits message.Limits // of opened payloads
	// MaxRatio is how many bytes one compressed byte may become beyond the
	// first MiB; 0 means 200. Text reaches 20, and bombs 1000.
	MaxRatio int64
	Headers  headers.Policy // what of a sealed mail's header stands outside
	// Legacy also opens what RFC 9580 §9.3 no longer wants, IDEA, 3DES,
	// CAST5, Blowfish and Twofish, and LibrePGP's OCB packet. Such a mail is never verified.
	Legacy bool
}

// Protector is the OpenPGP way to protect mail.
type Protector struct {
	Config
	shelf shelf
}

var _ protect.Protector = (*Protector)(nil)

// New gives a Protector for c.
func New(c Config) *Protector {
	if c.MaxRatio == 0 {
		c.MaxRatio = 200
	}
	return &Protector{Config: c}
}

// Format is keyring.OpenPGP.
func (*Protector) Format() keyring.Format { return keyring.OpenPGP }
