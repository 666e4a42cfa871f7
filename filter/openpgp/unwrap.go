package openpgp

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm"
)

// Bounds on what stands before the encrypted data.
const (
	maxSessionKeys     = 16      // looked at; more are read over (R4)
	maxSessionKeyBytes = 4 << 10 // of one: RSA-16384 needs 2 KiB
	maxIdentities      = 16      // whose keys are compared
	maxUnnamed         = 16      // pairs of a session key that names nobody and a key of ours
	maxTries           = 4       // token operations for such a mail
)

// wrappedKey is a public-key encrypted session key packet (RFC 9580 §5.1).
type wrappedKey struct {
	v6          bool
	keyID       uint64 // version 3; 0 is anybody
	fingerprint []byte // version 6; nil is anybody
	algorithm   packet.PublicKeyAlgorithm
	rest        []byte // the algorithm's fields
}

func parseWrappedKey(data []byte) (w wrappedKey, ok bool) {
	f := &fields{rest: data, ok: true}
	switch f.octet() {
	case 3:
		if id := f.take(8); f.ok {
			w.keyID = binary.BigEndian.Uint64(id)
		}
	case 6:
		w.v6 = true
		if n := f.octet(); n != 0 {
			f.octet() // version of the key
			w.fingerprint = f.take(n - 1)
			if len(w.fingerprint) != 20 && len(w.fingerprint) != 32 {
				return w, false
			}
		}
	default:
		return w, false
	}
	w.algorithm = packet.PublicKeyAlgorithm(f.octet())
	w.rest = f.rest
	return w, f.ok
}

// names reports whether the packet is for the key by name.
func (w wrappedKey) names(k *packet.PublicKey) bool {
	if w.v6 {
		return bytes.Equal(w.fingerprint, k.Fingerprint)
	}
	return w.keyID == k.KeyId && w.keyID != 0
}

// anonymous reports whether the packet names no key (RFC 9580 §5.1.8).
func (w wrappedKey) anonymous() bool {
	if w.v6 {
		return w.fingerprint == nil
	}
	return w.keyID == 0
}

// wrapped copies the fields for the key daemon; false when the packet can't be
// for such a key. Lengths are looked at here, so that whatever the daemon
// calls invalid is our fault and not the mail's.
func (w wrappedKey) wrapped(k *packet.PublicKey, m keyMaterial, d *data) (hsm.Wrapped, bool) {
	isRSA := func(a packet.PublicKeyAlgorithm) bool {
		return a == packet.PubKeyAlgoRSA || a == packet.PubKeyAlgoRSAEncryptOnly
	}
	f := &fields{rest: w.rest, ok: true}
	out := hsm.Wrapped{V6: w.v6}
	if w.v6 {
		out.Size = d.keySize()
	}
	switch {
	case isRSA(w.algorithm) && isRSA(k.PubKeyAlgo):
		out.Scheme = hsm.OpenPGPRSA
		out.Ciphertext = f.mpi()
		if n := m.public.(*rsa.PublicKey).N; new(big.Int).SetBytes(out.Ciphertext).Cmp(n) >= 0 {
			return out, false
		}
	case w.algorithm == packet.PubKeyAlgoECDH && k.PubKeyAlgo == packet.PubKeyAlgoECDH:
		out.Scheme = hsm.OpenPGPECDH
		out.Ephemeral = f.mpi()
		out.Ciphertext = f.take(f.octet())
		if bytes.Equal(m.oid, oidCurve25519) {
			if w.v6 || len(out.Ephemeral) != 33 || out.Ephemeral[0] != 0x40 { // RFC 9580 §9.2.1
				return out, false
			}
			out.Ephemeral = out.Ephemeral[1:]
		} else if len(out.Ephemeral) != m.pointSize() || out.Ephemeral[0] != 4 {
			return out, false
		}
		out.Fingerprint, out.CurveOID, out.KDFHash, out.KDFCipher = k.Fingerprint, m.oid, m.kdfHash, m.kdfCipher
	case w.algorithm == packet.PubKeyAlgoX25519 && k.PubKeyAlgo == packet.PubKeyAlgoX25519:
		out.Scheme = hsm.OpenPGPX25519
		out.Ephemeral = f.take(32)
		n := f.octet()
		if !w.v6 {
			out.Cipher = uint8(f.octet())
			n--
		}
		out.Ciphertext = f.take(n)
	default:
		return out, false
	}
	return out, f.whole() && len(out.Ciphertext) > 0
}

// data is the encrypted data packet (RFC 9580 §5.13) behind its session keys.
type data struct {
	packet.SymmetricallyEncrypted
	keys   []wrappedKey
	in     *packetReader
	legacy bool   // old ciphers and LibrePGP's packet are taken
	libre  bool   // it is that packet
	nonce  []byte // of that packet
	old    bool   // one of these was needed
}

// keySize is the length of the session key, where it is told outside.
func (d *data) keySize() int {
	if d.Version == 2 {
		return d.Cipher.KeySize()
	}
	return 0
}

// readData reads up to the ciphertext: session keys, then one packet of
// encrypted data with integrity protection. Old encrypted data without it
// (R5), and LibrePGP's packet 20 without legacy, are errPacket like everything else.
func readData(r io.Reader, legacy bool) (*data, error) {
	d := &data{in: newPacketReader(r), legacy: legacy}
	for {
		tag, body, err := d.in.next()
		if err != nil {
			return nil, cut(err)
		}
		switch {
		case filler(tag), tag == tagPassword:
		case tag == tagSessionKey && len(d.keys) < maxSessionKeys:
			content, err := body.all(maxSessionKeyBytes)
			if err != nil {
				return nil, err
			}
			w, _ := parseWrappedKey(content) // one that can't be read counts, and fits no key
			d.keys = append(d.keys, w)
		case tag == tagSessionKey:
		case tag == tagIntegrity:
			return d, d.header(body)
		case tag == tagLibreAEAD && legacy:
			return d, d.libreHeader(body)
		default:
			return nil, errPacket
		}
	}
}

// header reads what stands before the ciphertext.
func (d *data) header(body *packetBody) error {
	version, err := body.ReadByte()
	if err != nil {
		return cut(err)
	}
	d.Version, d.IntegrityProtected, d.Contents = int(version), true, body
	switch version {
	case 1:
		return nil
	case 2:
		var fixed [3]byte
		if _, err := io.ReadFull(body, fixed[:]); err != nil {
			return cut(err)
		}
		d.Cipher, d.Mode, d.ChunkSizeByte = packet.CipherFunction(fixed[0]), packet.AEADMode(fixed[1]), fixed[2]
		if d.Cipher < packet.CipherAES128 || d.Cipher > packet.CipherAES256 || d.Mode < packet.AEADModeEAX || d.Mode > packet.AEADModeGCM || d.ChunkSizeByte > 16 {
			return errPacket
		}
		_, err := io.ReadFull(body, d.Salt[:])
		return cut(err)
	}
	return errPacket
}

// attempt is a session key that a key of ours may open.
type attempt struct {
	identity *keyring.Identity
	entity   *certificate
	id       hsm.KeyID
	wrapped  hsm.Wrapped
	named    bool // the session key names the key
}

// attempts pairs session keys with the keys of the identities, best first:
// packets that name a key, then those that name none. Version 3 belongs to
// version 1 of the data and 6 to 2 (RFC 9580 §10.3.2.1).
func (d *data) attempts(on *desk, identities []keyring.Identity) []attempt {
	var named, unnamed []attempt
	for i := range identities[:min(len(identities), maxIdentities)] {
		id := &identities[i]
		if id.Format != keyring.OpenPGP {
			continue
		}
		e, err := on.read(id.Raw)
		if err != nil {
			continue
		}
		for _, k := range unwrapKeys(e.Entity) {
			m, ok := e.materialOf(k)
			if !ok || !slices.Contains(id.KeyIDs, m.id) { // only keys that are validly bound stand there
				continue
			}
			for _, w := range d.keys {
				if w.v6 != (d.Version == 2) || !w.names(k) && !w.anonymous() {
					continue
				}
				if wrapped, ok := w.wrapped(k, m, d); ok {
					a := attempt{identity: id, entity: e, id: m.id, wrapped: wrapped, named: w.names(k)}
					if a.named {
						named = append(named, a)
					} else if len(unnamed) < maxUnnamed {
						unnamed = append(unnamed, a)
					}
				}
			}
		}
	}
	return append(named, unnamed...)
}

// unwrapKeys are the keys of a certificate that are flagged to be encrypted to,
// and subkeys of the time before flags: those that sign have always had them.
// A mail that names another, say our signing key, must not send the token
// after it: the refusal would look like a broken configuration. Signatures are
// not verified here; what is validly bound was found out when the certificate
// was read, and stands in KeyIDs.
func unwrapKeys(e *pgp.Entity) (keys []*packet.PublicKey) {
	ofPrimary := e.DirectSignatures
	for _, id := range e.Identities {
		ofPrimary = append(ofPrimary, id.SelfCertifications...)
	}
	if e.PrimaryKey.PubKeyAlgo.CanEncrypt() && flaggedToEncrypt(ofPrimary) {
		keys = append(keys, e.PrimaryKey)
	}
	for i := range e.Subkeys {
		if s := &e.Subkeys[i]; s.PublicKey.PubKeyAlgo.CanEncrypt() && (flaggedToEncrypt(s.Bindings) || unflagged(s.Bindings)) {
			keys = append(keys, s.PublicKey)
		}
	}
	return keys
}

func unflagged(sigs []*packet.VerifiableSignature) bool {
	return !slices.ContainsFunc(sigs, func(s *packet.VerifiableSignature) bool { return s.Packet.FlagsValid })
}

// flaggedToEncrypt asks any of the signatures: a certificate that was renewed
// with fewer flags still has old mail.
func flaggedToEncrypt(sigs []*packet.VerifiableSignature) bool {
	return slices.ContainsFunc(sigs, func(s *packet.VerifiableSignature) bool {
		return s.Packet.FlagsValid && (s.Packet.FlagEncryptCommunications || s.Packet.FlagEncryptStorage)
	})
}

// tries has the token open session keys: one operation for a mail that names a
// key of ours, so that nobody can drive the token with a mail of a thousand
// session keys. Of several that may be ours the first is taken: one that names
// a key, newest certificate first, and only without such a one those that name
// none. Of these the first is as good as the next, since gpg --throw-keyids
// hides the sender's own key among them, so that maxTries are taken, one after
// the other. A wrong one shows only at the end of the ciphertext, like any other
// fault (R2): another try costs what the first did, whatever was wrong with it.
type tries struct {
	on       *desk
	newSpool func() *message.Spool
	last     *message.Spool
	made     int // operations
	next     int // of the attempts
	more     bool
}

// spool makes room for the plaintext of a try.
func (t *tries) spool() *message.Spool {
	t.last = t.newSpool()
	return t.last
}

// another lets go of what the last try wrote, and reports whether there is one more.
func (t *tries) another() bool {
	if t.last != nil {
		_ = t.last.Close() // nothing in there is worth anything
		t.last = nil
	}
	return t.more && t.made < maxTries
}

// unwrap makes the next try; attempts are the same each time. A key that the
// token does not hold costs no operation and leads on to the next; when there
// is no other, our configuration is broken, which is no property of the mail:
// the error is hsm.ErrNoKey, and defers it.
func (t *tries) unwrap(ctx context.Context, token hsm.Token, attempts []attempt) (hsm.SessionKey, *attempt, error) {
	var missing error
	for t.more = false; t.next < len(attempts); {
		a := &attempts[t.next]
		t.next++
		key, err := token.Unwrap(ctx, a.id, a.wrapped)
		if errors.Is(err, hsm.ErrNoKey) {
			missing = fmt.Errorf("unwrap session key with %s: %w", a.id, err)
			continue
		}
		if err != nil {
			return hsm.SessionKey{}, nil, fmt.Errorf("unwrap session key with %s: %w", a.id, err)
		}
		t.made++
		t.more = !a.named && t.next < len(attempts)
		return key, a, nil
	}
	if missing != nil && t.made == 0 {
		return hsm.SessionKey{}, nil, missing
	}
	return hsm.SessionKey{}, nil, protect.ErrCannotOpen
}
