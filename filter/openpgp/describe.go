package openpgp

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
)

// Describe says in lines what a certificate holds: primary key, user ids and
// subkeys, each with its state. What the certificate's maker chose is shown
// in printable characters only.
func Describe(c keyring.Cert) (string, error) {
	e, err := entityOf(c.Raw)
	if err != nil {
		return "", fmt.Errorf("describe certificate: %w", err)
	}
	var b strings.Builder
	self, err := e.PrimarySelfSignature(time.Time{}, config)
	if err != nil {
		return "", fmt.Errorf("describe certificate: no valid signature of its own: %w", ErrCert)
	}
	state := ""
	if e.Revoked(time.Now()) {
		state = ", revoked"
	}
	fmt.Fprintf(&b, "primary  v%d %s %s, %s, %s%s\n", e.PrimaryKey.Version, fingerprint(e.PrimaryKey), algorithmOf(e.PrimaryKey), flagsOf(self), datesOf(e.PrimaryKey, self), state)
	for _, id := range identities(e) {
		fmt.Fprintf(&b, "user id  %s\n", printable(id.Name))
	}
	for i := range e.Subkeys {
		describeSubkey(&b, &e.Subkeys[i])
	}
	return b.String(), nil
}

func describeSubkey(b *strings.Builder, k *pgp.Subkey) {
	binding, err := k.LatestValidBindingSignature(time.Time{}, config)
	if err != nil {
		fmt.Fprintf(b, "subkey   %s %s, not validly bound: never used\n", fingerprint(k.PublicKey), algorithmOf(k.PublicKey))
		return
	}
	state := ""
	if k.Revoked(binding, time.Now()) {
		state = ", revoked"
	}
	fmt.Fprintf(b, "subkey   %s %s, %s, %s%s\n", fingerprint(k.PublicKey), algorithmOf(k.PublicKey), flagsOf(binding), datesOf(k.PublicKey, binding), state)
}

func algorithmOf(k *packet.PublicKey) string {
	name := map[packet.PublicKeyAlgorithm]string{
		packet.PubKeyAlgoRSA: "RSA", packet.PubKeyAlgoRSAEncryptOnly: "RSA", packet.PubKeyAlgoRSASignOnly: "RSA",
		packet.PubKeyAlgoDSA: "DSA", packet.PubKeyAlgoElGamal: "ElGamal", packet.PubKeyAlgoECDSA: "ECDSA", packet.PubKeyAlgoECDH: "ECDH",
		packet.PubKeyAlgoEdDSA: "EdDSA", packet.PubKeyAlgoEd25519: "Ed25519", packet.PubKeyAlgoEd448: "Ed448",
		packet.PubKeyAlgoX25519: "X25519", packet.PubKeyAlgoX448: "X448",
	}[k.PubKeyAlgo]
	if name == "" {
		return fmt.Sprintf("algorithm %d", k.PubKeyAlgo)
	}
	if c, err := k.Curve(); err == nil {
		return name + " " + string(c)
	}
	if n, err := k.BitLength(); err == nil && (name == "RSA" || name == "DSA" || name == "ElGamal") {
		return fmt.Sprintf("%s-%d", name, n)
	}
	return name
}

func flagsOf(sig *packet.Signature) string {
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{{sig.FlagCertify, "certify"}, {sig.FlagSign, "sign"}, {sig.FlagEncryptCommunications || sig.FlagEncryptStorage, "encrypt"}, {sig.FlagAuthenticate, "authenticate"}} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	if flags == nil {
		return "for nothing"
	}
	return "for " + strings.Join(flags, "+")
}

func datesOf(k *packet.PublicKey, sig *packet.Signature) string {
	until := "does not expire"
	if t := expiry(k, sig); !t.IsZero() {
		until = "expires " + t.Format(time.DateOnly)
	}
	return "created " + k.CreationTime.UTC().Format(time.DateOnly) + ", " + until
}

// printable is s with what would not show as text made visible.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}
