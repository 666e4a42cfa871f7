package openpgp

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

const (
	maxKnownCerts = 16              // that one mail is judged by
	clockSkew     = 5 * time.Minute // by which a signature may come from the future
	signedBefore  = 24 * time.Hour  // by which a signature may be older than the Date of its mail
)

// hashes are the hashes of OpenPGP that signatures are believed with (RFC
// 9580 §9.5), weakHashes those that are not (R14).
var (
	hashes     = map[byte]crypto.Hash{8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512, 11: crypto.SHA224, 12: crypto.SHA3_256, 14: crypto.SHA3_512}
	weakHashes = []byte{1, 2, 3} // MD5, SHA-1, RIPEMD-160
)

// verifier judges signatures by the certificates known for the sender.
type verifier struct {
	known     []known
	at        time.Time
	sent      time.Time // by the mail's Date, zero if that can't be read
	recipient []byte    // fingerprint of the certificate that opened the mail, nil if it was not sealed
}

// known is one certificate, read for this judgement.
type known struct {
	cert   keyring.Cert
	entity *certificate
}

func newVerifier(d *desk, certs []keyring.Cert, at time.Time) *verifier {
	v := &verifier{at: at}
	for _, c := range certs {
		if c.Format != keyring.OpenPGP || len(v.known) >= maxKnownCerts {
			continue
		}
		if e, err := d.read(c.Raw); err == nil && fingerprint(e.PrimaryKey) == c.Fingerprint {
			v.known = append(v.known, known{cert: c, entity: e})
		}
	}
	return v
}

// candidate is a key that may have made a signature.
type candidate struct {
	of     *known
	key    *packet.PublicKey
	subkey *pgp.Subkey // nil: the primary key
}

func (v *verifier) candidates(made func(*packet.PublicKey) bool) []candidate {
	var list []candidate
	for i := range v.known {
		k := &v.known[i]
		if made(k.entity.PrimaryKey) {
			list = append(list, candidate{of: k, key: k.entity.PrimaryKey})
		}
		for j := range k.entity.Subkeys {
			if s := &k.entity.Subkeys[j]; made(s.PublicKey) {
				list = append(list, candidate{of: k, key: s.PublicKey, subkey: s})
			}
		}
	}
	return list
}

// claim is one signature on its way to a judgement. What it covers is written
// to content.
type claim struct {
	verifier *verifier
	sig      *packet.Signature // nil until it was read, and if it can't be
	weak     bool              // its hash is one that nobody believes
	made     []candidate
	sum      hash.Hash // what content feeds, nil if there is nothing to check
	content  io.Writer
	onePass  []byte // the announcement, until complete has compared it
}

// begin makes the hash.
func (c *claim) begin(h crypto.Hash, kind packet.SignatureType, salt []byte) {
	if h == 0 || !h.Available() || len(c.made) == 0 {
		return
	}
	c.sum = h.New()
	c.sum.Write(salt)
	c.content = c.sum
	if kind == packet.SigTypeText {
		c.content = pgp.NewCanonicalTextHash(c.sum)
	}
}

// read reads the signature packet (RFC 9580 §5.2) with the content data. One
// of version 3 covers neither its own expiry nor who made it, and is weak by that.
func (c *claim) read(data []byte) {
	c.weak = slices.Contains(weakHashes, hashOf(data)) || len(data) > 0 && data[0] < 4
	p, err := packet.Read(bytes.NewReader(appendPacket(nil, tagSignature, data)))
	if sig, ok := p.(*packet.Signature); err == nil && ok {
		c.sig = sig
	}
}

// hashOf is the hash octet of a signature, version 3 as well.
func hashOf(data []byte) byte {
	switch {
	case len(data) > 16 && data[0] < 4:
		return data[16]
	case len(data) > 3:
		return data[3]
	}
	return 0
}

// claim is a signature that stands before or beside what it covers.
func (v *verifier) claim(data []byte) *claim {
	c := &claim{verifier: v}
	if c.read(data); c.sig != nil {
		c.made = v.candidates(c.sig.CheckKeyIdOrFingerprint)
		c.begin(c.sig.Hash, c.sig.SigType, c.sig.Salt())
	}
	return c
}

// announced is a signature that follows what it covers, by the one-pass packet
// before it (RFC 9580 §5.4).
func (v *verifier) announced(data []byte) (*claim, error) {
	c := &claim{verifier: v, onePass: data}
	f := &fields{rest: data, ok: true}
	version, kind, h := f.octet(), packet.SignatureType(f.octet()), byte(f.octet())
	f.octet() // algorithm
	var salt []byte
	switch version {
	case 3:
		if id := f.take(8); f.ok {
			n := binary.BigEndian.Uint64(id)
			c.made = v.candidates(func(k *packet.PublicKey) bool { return k.KeyId == n })
		}
	case 6:
		salt = f.take(f.octet())
		if name := f.take(32); f.ok {
			c.made = v.candidates(func(k *packet.PublicKey) bool { return bytes.Equal(k.Fingerprint, name) })
		}
	default:
		return c, nil // of a version to come: a claim that nobody can judge
	}
	if f.octet(); !f.whole() {
		return nil, errPacket
	}
	c.weak = slices.Contains(weakHashes, h)
	c.begin(hashes[h], kind, salt)
	return c, nil
}

// complete adds the signature to its announcement; both must say the same.
func (c *claim) complete(data []byte) {
	one := c.onePass
	c.read(data)
	if c.sig == nil {
		return
	}
	version := byte(3)
	if c.sig.Version == 6 {
		version = 6
	}
	fits := len(data) > 3 && one[0] == version && one[1] == byte(c.sig.SigType) && one[2] == data[3] && one[3] == byte(c.sig.PubKeyAlgo)
	if version == 6 && fits {
		salt := c.sig.Salt()
		fits = int(one[4]) == len(salt) && bytes.Equal(one[5:5+len(salt)], salt)
	}
	if !fits {
		c.sum = nil
	}
	c.made = slices.DeleteFunc(c.made, func(m candidate) bool { return !c.sig.CheckKeyIdOrFingerprint(m.key) })
}

// judge is the word for one signature, and the certificate it rests on.
func (c *claim) judge() (reason string, by *known) {
	if len(c.made) == 0 {
		switch {
		case c.weak:
			return protect.ReasonWeak, nil
		case c.sig == nil:
			return protect.ReasonBad, nil // nobody can read it
		}
		return protect.ReasonUnknownCert, nil
	}
	m := c.made[0]
	switch {
	case c.weak:
		return protect.ReasonWeak, m.of
	case c.sig == nil || c.sum == nil:
		return protect.ReasonBad, m.of
	}
	// Key ids of version 3 announcements are short: of several keys with one
	// id the one that fits is meant.
	state := c.sum
	for i, candidate := range c.made {
		if weakKey(candidate.key) {
			return protect.ReasonWeak, candidate.of
		}
		if i < len(c.made)-1 {
			cloner, ok := state.(hash.Cloner)
			if !ok {
				return protect.ReasonBad, candidate.of
			}
			copied, err := cloner.Clone()
			if err != nil {
				return protect.ReasonBad, candidate.of
			}
			if candidate.key.VerifySignature(copied, c.sig) == nil {
				return c.verifier.trust(candidate, c.sig), candidate.of
			}
			continue
		}
		if candidate.key.VerifySignature(state, c.sig) == nil {
			return c.verifier.trust(candidate, c.sig), candidate.of
		}
	}
	return protect.ReasonBad, m.of
}

// trust judges a signature that fits the bytes: by what it says, by the key
// that made it, by the certificate, and last by what people said of that.
func (v *verifier) trust(m candidate, sig *packet.Signature) string {
	e := m.of.entity
	if sig.SigType != packet.SigTypeBinary && sig.SigType != packet.SigTypeText {
		return protect.ReasonBad
	}
	if sig.CreationTime.Before(m.key.CreationTime) || sig.CreationTime.After(v.at.Add(clockSkew)) {
		return protect.ReasonBad
	}
	for _, n := range sig.Notations {
		if n.IsCritical {
			return protect.ReasonBad // it asks for something that is not known here
		}
	}
	// A signature meant for somebody else was taken out of another mail (RFC 9580 §5.2.3.36).
	if len(sig.IntendedRecipients) > 0 && !slices.ContainsFunc(sig.IntendedRecipients, func(r *packet.Recipient) bool {
		return v.recipient != nil && bytes.Equal(r.Fingerprint, v.recipient)
	}) {
		return protect.ReasonBad
	}
	// The Date is not signed: old words under a new one are somebody's replay.
	// The other way round says nothing: clocks stand still, and gateways sign late.
	if !v.sent.IsZero() && sig.CreationTime.Before(v.sent.Add(-signedBefore)) {
		return protect.ReasonPartial
	}
	if e.Revoked(v.at) {
		return protect.ReasonRevoked
	}
	if ended(sig, v.at) {
		return protect.ReasonExpired
	}
	if weakKey(e.PrimaryKey) {
		return protect.ReasonWeak
	}
	self, err := e.VerifyPrimaryKey(v.at, config)
	if err != nil {
		return protect.ReasonExpired // revocation was seen above: its own signature has ended, or does not begin yet
	}
	if reason := v.maySign(m, self); reason != "" {
		return reason
	}
	if m.of.cert.Trust != keyring.Trusted {
		return protect.ReasonUntrusted
	}
	return protect.ReasonGood
}

// maySign is "" when the key is bound to sign now (R17).
func (v *verifier) maySign(m candidate, self *packet.Signature) string {
	if m.subkey == nil {
		if self.FlagsValid && !self.FlagSign {
			return protect.ReasonBad
		}
		return ""
	}
	binding, err := m.subkey.LatestValidBindingSignature(v.at, config) // the cross-certification is part of it
	switch {
	case err != nil:
		return protect.ReasonUnknownCert
	case !binding.FlagSign:
		return protect.ReasonBad
	case m.subkey.Revoked(binding, v.at):
		return protect.ReasonRevoked
	case m.subkey.Expired(binding, v.at):
		return protect.ReasonExpired
	}
	return ""
}

// ended reports whether a signature has expired by its own word.
func ended(sig *packet.Signature, at time.Time) bool {
	return sig.SigLifetimeSecs != nil && *sig.SigLifetimeSecs != 0 &&
		at.After(sig.CreationTime.Add(time.Duration(*sig.SigLifetimeSecs)*time.Second))
}

// finding is the judgement on all signatures over one payload. One good one
// is enough, unless another by a certificate that is known for the sender is
// bad or weak: then somebody has had his hands on it.
func finding(claims []*claim, author message.Address) protect.Finding {
	f := protect.Finding{Format: keyring.OpenPGP, Reason: protect.ReasonNone}
	if len(claims) == 0 {
		return f
	}
	f.Signed = true
	var good *known
	first := "" // of the certificates known
	for _, c := range claims {
		reason, by := c.judge()
		switch {
		case by == nil:
			if f.Reason == protect.ReasonNone {
				f.Reason = reason
			}
			continue
		case reason == protect.ReasonGood:
			if good == nil || slices.Contains(by.addresses(author), author) && !slices.Contains(good.addresses(author), author) {
				good = by
			}
		case reason == protect.ReasonBad, reason == protect.ReasonWeak, reason == protect.ReasonPartial:
			f.Reason = reason
			return f
		case first == "":
			first = reason
		}
	}
	if good == nil {
		if first != "" {
			f.Reason = first
		}
		return f
	}
	f.Good, f.Reason, f.Signer = true, protect.ReasonGood, good.cert.Fingerprint
	f.Signers = good.addresses(author)
	return f
}

// addresses are those that the certificate names, and the author's where an
// operator has said that it speaks for all of his domain.
func (k *known) addresses(author message.Address) []message.Address {
	list := slices.Clone(k.cert.Addresses)
	if !author.IsZero() && slices.Contains(k.cert.Domains, author.Domain) && !slices.Contains(list, author) {
		list = append(list, author)
	}
	return list
}

// detached reads signatures that stand apart from what they cover: signature
// packets and nothing else. nil means that there is no such thing.
func (v *verifier) detached(r io.Reader) ([]*claim, error) {
	in := newPacketReader(r)
	var claims []*claim
	for {
		tag, body, err := in.next()
		if err == io.EOF {
			return claims, nil
		}
		if err != nil {
			return nil, err
		}
		if filler(tag) {
			continue
		}
		if tag != tagSignature || len(claims) >= maxSignatures {
			return nil, errPacket
		}
		content, err := body.all(maxSignatureBytes)
		if err != nil {
			return nil, err
		}
		claims = append(claims, v.claim(content))
	}
}

// cover feeds what was signed to all claims.
func cover(claims []*claim, r io.Reader) error {
	var writers []io.Writer
	for _, c := range claims {
		if c.content != nil {
			writers = append(writers, c.content)
		}
	}
	if len(writers) == 0 {
		return nil
	}
	_, err := message.Copy(io.MultiWriter(writers...), r)
	return err
}
