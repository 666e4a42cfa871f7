package openpgp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Errors of Read.
var (
	// ErrCert is data that holds no certificate, or one that is malformed.
	ErrCert = errors.New("no well-formed certificate")
	// ErrCertLimit is a certificate beyond the limits.
	ErrCertLimit = errors.New("certificate beyond limits")
	// ErrSecret is data that holds private key material. Nothing of it is kept.
	ErrSecret = errors.New("private key material, which has no business here")
)

// What Read looks at.
const (
	maxCertBytes   = 1 << 20 // of one call
	maxCerts       = 100
	maxCertPackets = 500 // of one certificate, foreign signatures among them
	maxUserIDs     = 64
	maxSubkeys     = 32
	maxUserIDBytes = 1 << 10
)

// minRSA is the shortest RSA key that is sealed to or believed, in bits (R14).
const minRSA = 2048

// Read reads certificates, binary or armoured, one or several. Addresses are
// those of user ids that the primary key itself has signed and not taken
// back, KeyIDs those of keys that are validly bound.
func Read(data []byte) ([]keyring.Cert, error) {
	if len(data) > maxCertBytes {
		return nil, fmt.Errorf("read certificate: more than %d bytes: %w", maxCertBytes, ErrCertLimit)
	}
	binary, err := dearmorCerts(data)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	parts, err := splitCerts(binary)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	var certs []keyring.Cert
	for _, raw := range parts {
		c, err := readCert(raw)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		if !slices.ContainsFunc(certs, func(o keyring.Cert) bool { return o.Fingerprint == c.Fingerprint }) {
			certs = append(certs, c)
		}
	}
	return certs, nil
}

// splitCerts takes packets apart where a primary key begins, within limits.
func splitCerts(data []byte) ([][]byte, error) {
	r := newPacketReader(bytes.NewReader(data))
	var certs [][]byte
	var packets, userIDs, subkeys int
	for {
		tag, body, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, ErrCert
		}
		switch tag {
		case tagSecretKey, tagSecretSubkey:
			return nil, ErrSecret
		case tagPublicKey:
			certs = append(certs, nil)
			packets, userIDs, subkeys = 0, 0, 0
		case tagUserID:
			userIDs++
		case tagPublicSubkey:
			subkeys++
		case tagSignature:
		case tagMarker, tagTrust, tagPadding:
			continue // nothing that is said to others
		case tagAttribute:
		default:
			if tag < tagFirstOptional {
				return nil, ErrCert
			}
		}
		if len(certs) == 0 {
			return nil, ErrCert
		}
		if packets++; packets > maxCertPackets || userIDs > maxUserIDs || subkeys > maxSubkeys || len(certs) > maxCerts {
			return nil, ErrCertLimit
		}
		content, err := body.all(maxCertBytes)
		if err != nil {
			return nil, ErrCert
		}
		if tag == tagUserID && len(content) > maxUserIDBytes {
			return nil, ErrCertLimit
		}
		last := &certs[len(certs)-1]
		*last = appendPacket(*last, tag, content)
	}
	if len(certs) == 0 {
		return nil, ErrCert
	}
	return certs, nil
}

// entityOf reads the certificate that splitCerts has bounded. Whoever reads it
// must not share it: go-crypto writes into an entity while it judges it.
func entityOf(raw []byte) (*pgp.Entity, error) {
	e, err := pgp.ReadEntity(packet.NewReader(bytes.NewReader(raw)))
	if err != nil || e.PrivateKey != nil {
		return nil, ErrCert
	}
	return e, nil
}

func readCert(raw []byte) (keyring.Cert, error) {
	e, err := entityOf(raw)
	if err != nil {
		return keyring.Cert{}, err
	}
	c := keyring.Cert{
		Format:      keyring.OpenPGP,
		Fingerprint: fingerprint(e.PrimaryKey),
		Raw:         raw,
		Created:     e.PrimaryKey.CreationTime.UTC(),
	}
	self, err := e.PrimarySelfSignature(time.Time{}, config)
	if err != nil {
		return keyring.Cert{}, fmt.Errorf("%s: no valid signature of its own: %w", c.Fingerprint, ErrCert)
	}
	c.Expires = expiry(e.PrimaryKey, self)
	for _, id := range identities(e) {
		if a, ok := addressOf(id.Name); ok && !slices.Contains(c.Addresses, a) {
			c.Addresses = append(c.Addresses, a)
		}
	}
	for _, k := range boundKeys(e) {
		if m, ok := materialOf(k); ok && !slices.Contains(c.KeyIDs, m.id) {
			c.KeyIDs = append(c.KeyIDs, m.id)
		}
	}
	return c, nil
}

func fingerprint(k *packet.PublicKey) string {
	return strings.ToUpper(hex.EncodeToString(k.Fingerprint))
}

// expiry is when the key ends by the word of sig; zero is never.
func expiry(k *packet.PublicKey, sig *packet.Signature) time.Time {
	if sig.KeyLifetimeSecs == nil || *sig.KeyLifetimeSecs == 0 {
		return time.Time{}
	}
	return k.CreationTime.Add(time.Duration(*sig.KeyLifetimeSecs) * time.Second).UTC()
}

// identities are the user ids that hold, the primary one first, then by name.
func identities(e *pgp.Entity) []*pgp.Identity {
	var list []*pgp.Identity
	for _, id := range e.Identities {
		if _, err := id.Verify(time.Time{}, config); err == nil {
			list = append(list, id)
		}
	}
	_, first := e.PrimaryIdentity(time.Time{}, config)
	slices.SortFunc(list, func(a, b *pgp.Identity) int {
		if a == first || b == first {
			if a == b {
				return 0
			}
			if a == first {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// boundKeys are the primary key and the subkeys that it has bound, revoked
// and expired ones among them: they open old mail.
func boundKeys(e *pgp.Entity) []*packet.PublicKey {
	keys := []*packet.PublicKey{e.PrimaryKey}
	for i := range e.Subkeys {
		if _, err := e.Subkeys[i].LatestValidBindingSignature(time.Time{}, config); err == nil {
			keys = append(keys, e.Subkeys[i].PublicKey)
		}
	}
	return keys
}

// addressOf is the address in a user id: "Name <address>", or the address alone.
func addressOf(id string) (message.Address, bool) {
	if rest, ok := strings.CutSuffix(strings.TrimSpace(id), ">"); ok {
		at := strings.LastIndexByte(rest, '<')
		if at < 0 {
			return message.Address{}, false
		}
		id = rest[at+1:]
	}
	a, err := message.ParseAddress(strings.TrimSpace(id))
	return a, err == nil
}

// recipient is a certificate read for sealing.
type recipient struct {
	key   *packet.PublicKey // to seal to
	prefs *packet.Signature
	owner []byte // fingerprint of the primary key
	v6    bool
}

// recipientOf finds what to seal to: a subkey, or the primary key, that is
// validly bound, flagged for encryption, unexpired and unrevoked at the time, and not weak.
func recipientOf(c keyring.Cert, at time.Time) (recipient, error) {
	e, err := entityOf(c.Raw)
	if err != nil {
		return recipient{}, fmt.Errorf("certificate %s: malformed: %w", c.Fingerprint, protect.ErrNoCert)
	}
	if fingerprint(e.PrimaryKey) != c.Fingerprint {
		return recipient{}, fmt.Errorf("certificate %s: its bytes are another's: %w", c.Fingerprint, protect.ErrNoCert)
	}
	k, err := e.EncryptionKeyWithError(at, config)
	if err != nil {
		return recipient{}, fmt.Errorf("certificate %s: %s: %w", c.Fingerprint, whyNot(err), protect.ErrNoCert)
	}
	if weakKey(k.PublicKey) || weakKey(e.PrimaryKey) {
		return recipient{}, fmt.Errorf("certificate %s: weak algorithm: %w", c.Fingerprint, protect.ErrNoCert)
	}
	return recipient{key: k.PublicKey, prefs: k.PrimarySelfSignature, owner: e.PrimaryKey.Fingerprint, v6: e.PrimaryKey.Version == 6}, nil
}

// whyNot words the library's judgement.
func whyNot(err error) string {
	var selection pgperrors.ErrEncryptionKeySelection // it comes both ways, and unwraps neither
	if p := (*pgperrors.ErrEncryptionKeySelection)(nil); errors.As(err, &p) {
		selection = *p
	} else {
		errors.As(err, &selection)
	}
	for _, cause := range []error{selection.PrimaryKeyErr, selection.EncSelectionErr} {
		var weak pgperrors.WeakAlgorithmError
		switch {
		case errors.Is(cause, pgperrors.ErrKeyExpired):
			return "expired"
		case errors.Is(cause, pgperrors.ErrKeyRevoked):
			return "revoked"
		case errors.As(cause, &weak):
			return "weak algorithm"
		}
	}
	return "no key to encrypt with"
}

// weakKey reports whether nothing may rest on the key (R14): RSA below 2048
// bits, DSA, ElGamal, curves without a name in the standard.
func weakKey(k *packet.PublicKey) bool {
	switch k.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly, packet.PubKeyAlgoRSASignOnly:
		n, err := k.BitLength()
		return err != nil || n < minRSA
	case packet.PubKeyAlgoDSA, packet.PubKeyAlgoElGamal:
		return true
	case packet.PubKeyAlgoECDH, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA:
		c, err := k.Curve()
		return err != nil || config.RejectCurve(c)
	}
	return false
}

// Usable tells whether mail can be sealed to the certificate at the time; if
// not, the error says why and is protect.ErrNoCert.
func (*Protector) Usable(c keyring.Cert, at time.Time) error {
	_, err := recipientOf(c, at)
	return err
}

// Class is one for all: a message may have recipients of every kind of OpenPGP key.
func (*Protector) Class(keyring.Cert) string { return "" }
