// Package keyring holds public material: the certificates of partners, and
// our own identities with the names of the token keys behind them.
package keyring

import (
	"context"
	"errors"
	"time"

	"postern/filter/message"
	"postern/hsm"
)

// ErrNotFound says that the store holds no such certificate or identity.
var ErrNotFound = errors.New("not in the keyring")

// Format is the kind of a certificate.
type Format string

const (
	OpenPGP Format = "openpgp"
	SMIME   Format = "smime"
)

// Trust is what a person or a rule has said of a certificate.
type Trust string

const (
	Seen       Trust = "seen"       // arrived by itself: never used for sealing, never a ground for verified
	Trusted    Trust = "trusted"    // imported or promoted by an operator
	Distrusted Trust = "distrusted" // kept, so that it is not learned again
)

// Role is what a certificate is there for.
type Role string

const (
	Holder       Role = ""             // somebody who signs and is sealed to
	Anchor       Role = "anchor"       // an authority where paths of this site may end
	Intermediate Role = "intermediate" // an authority on the way to an anchor: no ground for trust by itself
)

// ByAutocrypt is the source of a certificate that the header of a mail brought,
// on nobody's word but its sender's, whoever he was.
const ByAutocrypt = "autocrypt"

// Sighting is one source of a certificate.
type Sighting struct {
	Source      string
	First, Last time.Time
}

// Cert is a certificate: public, and all that policy needs to know of it. Raw
// is binary (OpenPGP transferable public key, or DER). The other fields were
// read from it when it was imported.
type Cert struct {
	Format      Format
	Fingerprint string // upper-case hexadecimal: OpenPGP v4 40 digits, v6 64; X.509 SHA-256, 64
	Raw         []byte
	Addresses   []message.Address // that the certificate itself names, canonical
	Domains     []string          // it serves every address of these domains (operator's word, not the certificate's)
	KeyIDs      []hsm.KeyID       // of all its (sub)keys that a token could hold
	Created     time.Time
	Expires     time.Time // zero: never
	Trust       Trust
	Role        Role
	Source      string     // the first one: "import", "enrol", "mail", "wkd" …
	Sources     []Sighting // all of them, as the store knows them; it keeps Source and the times, whatever is given here
	FirstSeen   time.Time
	LastSeen    time.Time
	// Capabilities are what its owner's programs said they read: the DER of
	// SMIMECapabilities (RFC 8551 §2.5.2) as it stood in a signature, or nil.
	Capabilities []byte
}

// Identity is one of our own: a certificate whose private keys are in the
// token, and whom it speaks for.
type Identity struct {
	Cert
	Address message.Address // a user's identity; zero for a domain's
	Domain  string          // a domain's identity: every address there without one of its own
	// Use is what the key in the token does where the certificate allows more,
	// as X.509 certificates with several key usages do; 0: all that it allows.
	Use hsm.Usage
}

// KeyRing is what the mail path asks. An address is matched exactly after
// canonicalisation; a domain's entries answer for its addresses when there is
// no entry of the address's own.
type KeyRing interface {
	// Identities are ours for the address, best first: the user's own before
	// the domain's, newest first, also the expired ones (they open old mail).
	Identities(ctx context.Context, a message.Address) ([]Identity, error)
	// Certs are the partners' certificates for the address, any trust, newest first.
	Certs(ctx context.Context, a message.Address) ([]Cert, error)
	// Ours are our identities with exactly this certificate, also an expired one.
	Ours(ctx context.Context, fingerprint string) ([]Identity, error)
}
