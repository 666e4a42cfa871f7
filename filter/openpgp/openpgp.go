// Package openpgp opens, verifies, signs and seals OpenPGP mail (RFC 9580,
// RFC 3156) with keys that stay in the token.
package openpgp

import (
	"context"
	"io"
	"time"

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

// Create makes the certificate; the token signs it.
func Create(ctx context.Context, token hsm.Token, s CertSpec) (keyring.Cert, error) {
	return keyring.Cert{}, nil
}

// Read reads certificates, binary or armoured.
func Read(data []byte) ([]keyring.Cert, error) { return nil, nil }

// Armor writes a certificate for people.
func Armor(w io.Writer, c keyring.Cert) error { return nil }

// Describe says in lines what a certificate holds.
func Describe(c keyring.Cert) (string, error) { return "", nil }
