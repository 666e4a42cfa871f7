package wire

import (
	"crypto"
	"crypto/x509"
	"fmt"

	"postern/hsm"
)

// hashes are the numbers of hash functions on the wire; 0 is none.
var hashes = []crypto.Hash{
	1: crypto.SHA1,
	2: crypto.SHA224,
	3: crypto.SHA256,
	4: crypto.SHA384,
	5: crypto.SHA512,
	6: crypto.SHA512_224,
	7: crypto.SHA512_256,
}

func (w *writer) hash(h crypto.Hash) {
	for n, v := range hashes {
		if v == h {
			w.u8(byte(n))
			return
		}
	}
	w.over = true
}

func (r *reader) hash() crypto.Hash {
	n := int(r.u8())
	if n >= len(hashes) {
		r.bad = true
		return 0
	}
	return hashes[n]
}

// Sign is the body of an OpSign request.
type Sign struct {
	ID     hsm.KeyID
	Alg    hsm.SignAlg
	Digest []byte // at most hsm.MaxMessage
}

// Encode is the body; its error is hsm.ErrInvalid.
func (m Sign) Encode() ([]byte, error) {
	w := writer{b: make([]byte, 0, 35+len(m.Digest))}
	w.b = append(w.b, m.ID[:]...)
	w.u8(byte(m.Alg))
	w.long(m.Digest, hsm.MaxMessage)
	return w.done("sign request")
}

// DecodeSign reads what Encode wrote.
func DecodeSign(b []byte) (Sign, error) {
	r := reader{b: b}
	m := Sign{ID: r.id(), Alg: hsm.SignAlg(r.u8()), Digest: r.long(hsm.MaxMessage)}
	return m, r.end("sign request")
}

// Prove is the body of an OpProve request.
type Prove struct {
	ID   hsm.KeyID
	Info []byte // at most hsm.MaxInfo
}

// Encode is the body; its error is hsm.ErrInvalid.
func (m Prove) Encode() ([]byte, error) {
	w := writer{b: make([]byte, 0, 34+len(m.Info))}
	w.b = append(w.b, m.ID[:]...)
	w.long(m.Info, hsm.MaxInfo)
	return w.done("prove request")
}

// DecodeProve reads what Encode wrote.
func DecodeProve(b []byte) (Prove, error) {
	r := reader{b: b}
	m := Prove{ID: r.id(), Info: r.long(hsm.MaxInfo)}
	return m, r.end("prove request")
}

// EncodeSignature is the body of an OpSign or OpProve reply behind its error
// byte.
func EncodeSignature(sig []byte) ([]byte, error) {
	var w writer
	w.long(sig, MaxSignature)
	return w.done("signature")
}

// DecodeSignature reads what EncodeSignature wrote.
func DecodeSignature(b []byte) ([]byte, error) {
	r := reader{b: b}
	sig := r.long(MaxSignature)
	return sig, r.end("signature")
}

// Unwrap is the body of an OpUnwrap request.
type Unwrap struct {
	ID      hsm.KeyID
	Origin  string // where the mail came from; at most hsm.MaxOrigin bytes of printable ASCII
	Wrapped hsm.Wrapped
}

// Encode is the body; its error is hsm.ErrInvalid.
func (m Unwrap) Encode() ([]byte, error) {
	v := m.Wrapped
	w := writer{b: make([]byte, 0, 128+len(v.Ciphertext)), over: !printable(m.Origin)}
	w.b = append(w.b, m.ID[:]...)
	w.short([]byte(m.Origin), hsm.MaxOrigin)
	w.u8(byte(v.Scheme))
	w.flag(v.V6)
	w.u8(v.Cipher)
	w.u8(v.KDFHash)
	w.u8(v.KDFCipher)
	w.u16(v.Size)
	w.hash(v.Hash)
	w.hash(v.MGFHash)
	w.long(v.Ciphertext, MaxCiphertext)
	w.long(v.Ephemeral, MaxEphemeral)
	w.short(v.Fingerprint, MaxShort)
	w.short(v.CurveOID, MaxShort)
	w.long(v.Label, MaxOAEPLabel)
	w.short(v.WrapAlgorithm, MaxShort)
	// An empty value and none at all make different keys (RFC 5753 §7.2).
	w.flag(v.UKM != nil)
	w.long(v.UKM, MaxUKM)
	return w.done("unwrap request")
}

// DecodeUnwrap reads what Encode wrote.
func DecodeUnwrap(b []byte) (Unwrap, error) {
	r := reader{b: b}
	m := Unwrap{ID: r.id(), Origin: string(r.short(hsm.MaxOrigin))}
	r.bad = r.bad || !printable(m.Origin)
	v := &m.Wrapped
	v.Scheme = hsm.Scheme(r.u8())
	v.V6 = r.flag()
	v.Cipher = r.u8()
	v.KDFHash = r.u8()
	v.KDFCipher = r.u8()
	v.Size = r.u16()
	v.Hash = r.hash()
	v.MGFHash = r.hash()
	v.Ciphertext = r.long(MaxCiphertext)
	v.Ephemeral = r.long(MaxEphemeral)
	v.Fingerprint = r.short(MaxShort)
	v.CurveOID = r.short(MaxShort)
	v.Label = r.long(MaxOAEPLabel)
	v.WrapAlgorithm = r.short(MaxShort)
	there := r.flag()
	v.UKM = r.long(MaxUKM)
	switch {
	case there && v.UKM == nil:
		v.UKM = []byte{}
	case !there && v.UKM != nil:
		r.bad = true
	}
	return m, r.end("unwrap request")
}

// EncodeSessionKey is the body of an OpUnwrap reply behind its error byte.
func EncodeSessionKey(k hsm.SessionKey) ([]byte, error) {
	var w writer
	w.u8(k.Cipher)
	w.short(k.Key, MaxSecret)
	return w.done("session key")
}

// DecodeSessionKey reads what EncodeSessionKey wrote.
func DecodeSessionKey(b []byte) (hsm.SessionKey, error) {
	r := reader{b: b}
	k := hsm.SessionKey{Cipher: r.u8(), Key: r.short(MaxSecret)}
	return k, r.end("session key")
}

// EncodeID is the body of OpRetire and OpDestroy requests.
func EncodeID(id hsm.KeyID) []byte { return id[:] }

// DecodeID reads what EncodeID wrote.
func DecodeID(b []byte) (hsm.KeyID, error) {
	r := reader{b: b}
	id := r.id()
	return id, r.end("key id")
}

// EncodeInit is the body of an OpInit request.
func EncodeInit(soPIN, pin string) ([]byte, error) {
	var w writer
	w.short([]byte(soPIN), MaxPIN)
	w.short([]byte(pin), MaxPIN)
	return w.done("init request")
}

// DecodeInit reads what EncodeInit wrote.
func DecodeInit(b []byte) (soPIN, pin string, err error) {
	r := reader{b: b}
	soPIN, pin = string(r.short(MaxPIN)), string(r.short(MaxPIN))
	return soPIN, pin, r.end("init request")
}

// EncodeUnlock is the body of an OpUnlock request.
func EncodeUnlock(pin string) ([]byte, error) {
	var w writer
	w.short([]byte(pin), MaxPIN)
	return w.done("unlock request")
}

// DecodeUnlock reads what EncodeUnlock wrote.
func DecodeUnlock(b []byte) (string, error) {
	r := reader{b: b}
	pin := string(r.short(MaxPIN))
	return pin, r.end("unlock request")
}

// EncodeSpec is the body of an OpGenerate request.
func EncodeSpec(s hsm.KeySpec) ([]byte, error) {
	var w writer
	w.short([]byte(s.Algorithm), MaxShort)
	w.u8(byte(s.Usage))
	w.short([]byte(s.Label), hsm.MaxLabel)
	w.flag(s.Wrapped)
	return w.done("key specification")
}

// DecodeSpec reads what EncodeSpec wrote.
func DecodeSpec(b []byte) (hsm.KeySpec, error) {
	r := reader{b: b}
	s := hsm.KeySpec{Algorithm: hsm.Algorithm(r.short(MaxShort)), Usage: hsm.Usage(r.u8()), Label: string(r.short(hsm.MaxLabel)), Wrapped: r.flag()}
	return s, r.end("key specification")
}

// EncodeKey is the body of an OpGenerate reply behind its error byte, and one
// entry of an OpKeys reply. The id is not sent: it follows from the key.
func EncodeKey(k hsm.Key) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("write key: %w: %w", err, hsm.ErrInvalid)
	}
	w := writer{b: make([]byte, 0, 8+len(spki)+len(k.Label))}
	w.u8(byte(k.Usage))
	w.u8(byte(k.Class))
	w.flag(k.Retired)
	w.short([]byte(k.Label), hsm.MaxLabel)
	w.long(spki, MaxSPKI)
	return w.done("key")
}

func (r *reader) key() hsm.Key {
	k := hsm.Key{Usage: hsm.Usage(r.u8()), Class: hsm.Class(r.u8()), Retired: r.flag(), Label: string(r.short(hsm.MaxLabel))}
	spki := r.long(MaxSPKI)
	if r.bad {
		return hsm.Key{}
	}
	var err error
	if k.Public, err = x509.ParsePKIXPublicKey(spki); err == nil {
		k.ID, err = hsm.IDOf(k.Public)
	}
	if err != nil {
		r.bad = true
		return hsm.Key{}
	}
	return k
}

// DecodeKey reads what EncodeKey wrote.
func DecodeKey(b []byte) (hsm.Key, error) {
	r := reader{b: b}
	k := r.key()
	if err := r.end("key"); err != nil {
		return hsm.Key{}, err
	}
	return k, nil
}

// EncodeProbe is one entry of an OpProbe reply.
func EncodeProbe(p hsm.Probe) ([]byte, error) {
	var w writer
	w.text(p.Name)
	w.flag(p.OK)
	w.text(p.Reason)
	return w.done("probe")
}

// DecodeProbe reads what EncodeProbe wrote.
func DecodeProbe(b []byte) (hsm.Probe, error) {
	r := reader{b: b}
	p := hsm.Probe{Name: string(r.short(MaxText)), OK: r.flag(), Reason: string(r.short(MaxText))}
	return p, r.end("probe")
}

// EncodeFinding is one entry of an OpAudit reply. Faults beyond MaxFaults are
// left out: one is enough to condemn a key.
func EncodeFinding(f hsm.Finding) ([]byte, error) {
	var w writer
	w.b = append(w.b, f.ID[:]...)
	w.text(f.Label)
	w.u8(byte(f.Class))
	w.flag(f.Served)
	faults := f.Faults[:min(len(f.Faults), MaxFaults)]
	w.u8(byte(len(faults)))
	for _, s := range faults {
		w.text(s)
	}
	return w.done("finding")
}

// DecodeFinding reads what EncodeFinding wrote.
func DecodeFinding(b []byte) (hsm.Finding, error) {
	r := reader{b: b}
	f := hsm.Finding{ID: r.id(), Label: string(r.short(MaxText)), Class: hsm.Class(r.u8()), Served: r.flag()}
	n := int(r.u8())
	if n > MaxFaults {
		r.bad = true
	}
	for i := 0; i < n && !r.bad; i++ {
		f.Faults = append(f.Faults, string(r.short(MaxText)))
	}
	return f, r.end("finding")
}

// EncodeStatus is the body of an OpStatus reply behind its error byte.
func EncodeStatus(s hsm.Status) ([]byte, error) {
	var w writer
	w.u8(byte(s.State))
	w.text(s.Reason)
	w.text(s.Module)
	w.text(s.Token)
	w.text(s.Serial)
	w.text(s.Profile)
	w.u32(uint32(max(0, s.Keys)))
	w.u32(uint32(max(0, s.Wrapped)))
	w.flag(s.PINCount)
	w.text(s.Version)
	return w.done("status")
}

// DecodeStatus reads what EncodeStatus wrote.
func DecodeStatus(b []byte) (hsm.Status, error) {
	r := reader{b: b}
	text := func() string { return string(r.short(MaxText)) }
	s := hsm.Status{State: hsm.State(r.u8())}
	s.Reason, s.Module, s.Token, s.Serial, s.Profile = text(), text(), text(), text(), text()
	s.Keys, s.Wrapped, s.PINCount, s.Version = int(r.u32()), int(r.u32()), r.flag(), text()
	return s, r.end("status")
}

// EncodeNothing is the body of requests and replies that say nothing more.
func EncodeNothing() []byte { return nil }

// DecodeNothing accepts an empty body only.
func DecodeNothing(b []byte) error {
	r := reader{b: b}
	return r.end("empty body")
}

// EncodeList splits the entries of a Keys, Probe or Audit reply over as many
// bodies as they need, at least one. Each begins with a byte that is 1 when
// another body of the same reply follows; each entry stands behind two length
// bytes. The error is hsm.ErrInvalid when more than MaxParts would be needed.
func EncodeList(entries [][]byte) ([][]byte, error) {
	const room = MaxFrame - 8 // frame header of a reply and its error byte
	var parts [][]byte
	cur := []byte{0}
	for _, e := range entries {
		if len(e)+3 > room {
			return nil, fmt.Errorf("write list: entry of %d bytes: %w", len(e), hsm.ErrInvalid)
		}
		if len(cur)+2+len(e) > room {
			cur[0] = 1
			parts = append(parts, cur)
			cur = []byte{0}
		}
		cur = append(cur, byte(len(e)>>8), byte(len(e)))
		cur = append(cur, e...)
	}
	parts = append(parts, cur)
	if len(parts) > MaxParts {
		return nil, fmt.Errorf("write list: %d parts: %w", len(parts), hsm.ErrInvalid)
	}
	return parts, nil
}

// DecodeList reads one body of EncodeList. The entries point into b.
func DecodeList(b []byte) (entries [][]byte, more bool, err error) {
	r := reader{b: b}
	more = r.flag()
	for !r.bad && len(r.b) > 0 {
		entries = append(entries, r.take(r.u16()))
	}
	if err := r.end("list"); err != nil {
		return nil, false, err
	}
	return entries, more, nil
}
