// Package smime opens, verifies, signs and seals S/MIME mail (RFC 8551) with
// keys that stay in the token. Messages are read and written by filter/cms,
// certificates judged by filter/chain; what is here is MIME, and what a mail may
// claim.
//
// Of ours, one certificate signs and another one is sealed to, since a key of
// the token has one usage.
//
// Departures from RFC 8551: a signature around encryption is looked through and
// gives no claim; of several signers each has to be good; SHA-1, MD5 and short
// keys verify nothing, nor does a signature that was made long before the Date
// of its mail, or around header fields that the mail denies; certificates for
// mail only are good; 3DES is opened only with Config.Legacy, and RC2 not at
// all; what a cipher in CBC mode encrypts and nobody signed is shown so that
// nothing in it runs (inert.go); a mail that is compressed and nothing else
// stays as it is.
package smime

import (
	"crypto/x509"

	"postern/filter/chain"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// Unauthenticated says what becomes of a mail that was encrypted with
// AES-CBC and has no signature inside that fits: anybody on the way may have
// changed it, and built into it what sends the rest to him when it is shown (R8).
type Unauthenticated string

const (
	// Inert opens it, and shows every part that a program could run as text.
	Inert Unauthenticated = ""
	// Sealed delivers it as it came.
	Sealed Unauthenticated = "sealed"
)

// Config is all that a Protector needs; it has no other state.
type Config struct {
	Token  hsm.Token
	Limits message.Limits // of opened payloads
	// MaxExpanded is how many bytes compressed data may become; 0 means
	// message.DefaultMax.
	MaxExpanded int64
	Headers     headers.Policy // what of a sealed mail's header stands outside
	// Judge judges the certificates of signers; nil: only those that the
	// keyring trusts are good.
	Judge *chain.Judge
	// Chain gives the certificates between one of ours and its anchor, to be
	// sent with signatures; nil: none are.
	Chain func(*x509.Certificate) []*x509.Certificate
	// Unauthenticated is what becomes of mail that anybody may have changed.
	Unauthenticated Unauthenticated
	// Legacy also opens 3DES. What a signature inside is worth does not depend on it.
	Legacy bool
}

// Protector is the S/MIME way to protect mail.
type Protector struct{ Config }

var _ protect.Protector = (*Protector)(nil)

// New gives a Protector for c.
func New(c Config) *Protector {
	if c.MaxExpanded == 0 {
		c.MaxExpanded = message.DefaultMax
	}
	return &Protector{c}
}

// Format is keyring.SMIME.
func (*Protector) Format() keyring.Format { return keyring.SMIME }
