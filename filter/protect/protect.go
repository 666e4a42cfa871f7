// Package protect is the seam between the mail path and the protection
// formats: what a Protector is asked, and what it answers.
package protect

import (
	"context"
	"errors"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
)

// Errors that decide about a reply. Anything else is unforeseen and defers.
var (
	// ErrCannotOpen is every way in which ciphertext does not open: no key
	// of ours, wrong key, no integrity, damaged. There is one such error and
	// it never wraps a cause, so that nothing outside can tell them apart.
	ErrCannotOpen = errors.New("cannot be opened")
	// ErrNoCert says that a recipient has no usable certificate.
	ErrNoCert = errors.New("no usable certificate")
)

// Layer is what a Protector recognises at the root of a mail.
type Layer uint8

const (
	None   Layer = iota
	Sealed       // encrypted, perhaps signed inside
	Signed       // signed only, readable by anybody
)

// Words for Finding.Reason and Postern-Status; fixed, without white space.
const (
	ReasonNone        = "unsigned"
	ReasonGood        = "good"           // signature right, certificate valid and trusted, signer is From
	ReasonBad         = "bad-signature"  // the signature does not fit the bytes
	ReasonUnknownCert = "unknown-cert"   // nobody we know made it
	ReasonUntrusted   = "untrusted-cert" // known, but not trusted
	ReasonExpired     = "expired-cert"   // certificate or signature expired at the time of judgement
	ReasonRevoked     = "revoked-cert"
	ReasonWeak        = "weak-algorithm"  // R14
	ReasonNotFrom     = "signer-not-from" // R12
	ReasonPartial     = "partial"         // the signature covers less than the mail, R10
	ReasonNotOpened   = "not-opened"
	// ReasonUnauthenticated is an unsigned mail whose encryption lets anybody
	// change it: who it is from, and what it says, is nobody's word (R8).
	ReasonUnauthenticated = "unauthenticated"
)

// Finding is what opening a mail showed.
type Finding struct {
	Format    keyring.Format
	Opened    bool              // an encryption layer was taken off
	Signed    bool              // at least one signature was looked at
	Malleable bool              // anybody on the way could have changed what was opened: its cipher does not tell, and there is no good signature
	Good      bool              // it fits, its certificate is valid and trusted at the time of judgement, and it covers the whole payload
	Signers   []message.Address // addresses that the certificate of the good signature names
	Signer    string            // fingerprint of that certificate, "" if none
	Brought   []keyring.Cert    // certificates that came along with a good signature and belong to its signer
	Reason    string            // one of the words above
}

// OpenRequest is one mail to open or verify.
type OpenRequest struct {
	Message *message.Message
	// Identities are those of the envelope recipients: no other key is tried (R9).
	Identities []keyring.Identity
	// Certs are the certificates known for the From address.
	Certs []keyring.Cert
	// At is the time of judgement.
	At time.Time
	// NewSpool makes room for plaintext; the caller of Open owns what comes back in the message.
	NewSpool func() *message.Spool
}

// SealRequest is one copy to make.
type SealRequest struct {
	Message    *message.Message
	Signer     *keyring.Identity // nil: not signed
	Recipients []keyring.Cert    // of one class; empty: not encrypted
	// Own are all identities of the author: their certificates for
	// encryption are told to the reader where the format can say so.
	Own      []keyring.Identity
	Style    Style // what the recipients' rule asks for
	At       time.Time
	NewSpool func() *message.Spool
}

// Style is what a partner and the site agreed on, beyond what certificates and
// capabilities say. The zero Style leaves everything to those.
type Style struct {
	Cipher string // "" or "aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-128-gcm", "aes-256-gcm": S/MIME content encryption
	OAEP   bool   // S/MIME: RSA recipients get RSAES-OAEP with SHA-256, whatever their capabilities say
	PSS    bool   // S/MIME: RSA keys of ours sign with RSASSA-PSS, whatever the capabilities say
}

// Protector is one protection format. Its errors: ErrCannotOpen, ErrNoCert,
// an error of hsm (the token refused or is away), or one that is unforeseen.
type Protector interface {
	Format() keyring.Format
	// Detect looks at structure only, and reads at most the first 64 KiB of a body.
	Detect(m *message.Message) Layer
	// Open takes the layer that Detect saw off. For Sealed it gives a new
	// message: the outer header fields without those of MIME, then the
	// plaintext entity, and the fields that it protects in the place of those
	// outside (package headers). For Signed the message comes back as it was. It
	// costs at most one token operation, or four where the ciphertext does not
	// say for whom it is, and gives nothing before the integrity of all is known.
	Open(ctx context.Context, r OpenRequest) (*message.Message, Finding, error)
	// Seal signs, then encrypts, into a new message; the payload protects a
	// copy of the header, and an encrypted mail shows less of it outside.
	Seal(ctx context.Context, r SealRequest) (*message.Message, error)
	// Usable tells whether the certificate can be sealed to at the time, and why not.
	Usable(c keyring.Cert, at time.Time) error
	// Signs tells whether an identity of ours can sign at the time, and why not:
	// of some formats one certificate signs, and another one is sealed to.
	Signs(i keyring.Identity, at time.Time) error
	// Class names a kind of recipient: those of different classes never share
	// a message, since the programs of one cannot read what the other needs.
	Class(c keyring.Cert) string
}
