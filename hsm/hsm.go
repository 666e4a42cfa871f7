// Package hsm is the vocabulary of keys: what a key is called, what may be
// asked of it, and how a refusal is worded. It imports the standard library
// only, so that the process that holds the PIN and the process that parses
// mail can share it without sharing anything else.
package hsm

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// The refusals that cross the process border. Each is one byte on the wire;
// none says why an unwrapped value was wrong.
var (
	ErrAway    = errors.New("token or key daemon away")      // nothing was tried; try again later
	ErrLocked  = errors.New("token locked: no PIN given")    // state Locked
	ErrEmpty   = errors.New("token not initialised")         // state Unprovisioned
	ErrNoKey   = errors.New("no such key")                   // the token holds no key with this id
	ErrRefused = errors.New("key may not be used for this")  // usage, owner, class or retirement
	ErrBudget  = errors.New("budget of this key is used up") // rate or failure budget; try again later
	ErrBusy    = errors.New("key daemon busy")               // queue full; try again later
	ErrInvalid = errors.New("request invalid")               // malformed, or an algorithm the key has not
	ErrExists  = errors.New("key exists already")            // Generate with a label that is taken
	ErrPIN     = errors.New("PIN refused")                   // Init or Unlock; counted by the token
	ErrClock   = errors.New("clock not plausible")           // nothing is signed; try again later
	ErrBroken  = errors.New("wrapped key cannot be opened")  // its ciphertext is damaged, or not this key's; an operator must look
	ErrOpaque  = errors.New("operation failed")              // the one answer for every other failure
)

// Temporary reports whether err may go away by itself, so that a mail is
// deferred and never refused. Everything that is not a plain "no" is temporary.
func Temporary(err error) bool {
	return err != nil && !errors.Is(err, ErrNoKey) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExists)
}

// KeyID names a key by what it is: the SHA-256 of its public key as
// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
type KeyID [sha256.Size]byte

// String is the id in 64 lower-case hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID reads what String prints.
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("key id %.80q: want %d hexadecimal digits", s, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// IDOf names pub, an RSA, ECDSA, Ed25519 or ECDH (also X25519) public key.
// The ECDSA and the ECDH form of one point on a NIST curve have the same name.
func IDOf(pub crypto.PublicKey) (KeyID, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return KeyID{}, fmt.Errorf("name key: %w", err)
	}
	return sha256.Sum256(spki), nil
}

// Usage is the one thing a key may do.
type Usage uint8

const (
	Sign   Usage = iota + 1 // make signatures
	Unwrap                  // open session keys: RSA decryption, ECDH, X25519
)

// String is "sign" or "unwrap".
func (u Usage) String() string {
	switch u {
	case Sign:
		return "sign"
	case Unwrap:
		return "unwrap"
	}
	return "unknown"
}

// Class says where a key came from and how far it can be trusted to be alone.
type Class uint8

const (
	Resident       Class = iota + 1 // made in the token, never outside
	Imported                        // brought from elsewhere: a copy may exist
	OutsideWrapped                  // kept outside as ciphertext that only this token opens
)

// String is the word shown to operators.
func (c Class) String() string {
	switch c {
	case Resident:
		return "resident"
	case Imported:
		return "imported"
	case OutsideWrapped:
		return "wrapped"
	}
	return "unknown"
}

// Algorithm names a key type and size in the words of the configuration.
type Algorithm string

// The algorithms of the token.
const (
	RSA1024 Algorithm = "rsa-1024" // Unwrap only, for old mail; none is made
	RSA2048 Algorithm = "rsa-2048"
	RSA3072 Algorithm = "rsa-3072"
	RSA4096 Algorithm = "rsa-4096"
	P256    Algorithm = "p-256"
	P384    Algorithm = "p-384"
	P521    Algorithm = "p-521"
	Ed25519 Algorithm = "ed25519" // Sign only
	X25519  Algorithm = "x25519"  // Unwrap only
)

// AlgorithmOf is the algorithm of pub, or "" when the token offers none such.
func AlgorithmOf(pub crypto.PublicKey) Algorithm {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		switch n := k.N.BitLen(); n {
		case 1024, 2048, 3072, 4096:
			return Algorithm(fmt.Sprintf("rsa-%d", n))
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256
		case elliptic.P384():
			return P384
		case elliptic.P521():
			return P521
		}
	case ed25519.PublicKey:
		return Ed25519
	case *ecdh.PublicKey:
		switch k.Curve() {
		case ecdh.X25519():
			return X25519
		case ecdh.P256():
			return P256
		case ecdh.P384():
			return P384
		case ecdh.P521():
			return P521
		}
	}
	return ""
}

// Key is a pair in the token, seen from outside: the public half and what
// the private half may do. Public is *rsa.PublicKey, *ecdsa.PublicKey (for
// signing and for ECDH on NIST curves alike), ed25519.PublicKey or, for
// X25519, *ecdh.PublicKey.
type Key struct {
	ID      KeyID
	Public  crypto.PublicKey
	Usage   Usage
	Label   string // CKA_LABEL, at most MaxLabel bytes: "openpgp/company1.example"
	Class   Class
	Retired bool // signs no more; still opens old mail
}

// MaxLabel is the longest label of a key, in bytes of printable ASCII.
const MaxLabel = 128

// KeySpec asks for a new key.
type KeySpec struct {
	Algorithm Algorithm
	Usage     Usage
	Label     string
	Wrapped   bool // of the class OutsideWrapped, in place of Resident
}

// SignAlg says what the token does with a digest.
type SignAlg uint8

const (
	PKCS1SHA256 SignAlg = iota + 1 // RSASSA-PKCS1-v1_5, RFC 8017 §8.2
	PKCS1SHA384
	PKCS1SHA512
	PSSSHA256 // RSASSA-PSS, MGF1 with the same hash, salt as long as the hash, RFC 8017 §8.1
	PSSSHA384
	PSSSHA512
	ECDSA     // any digest of 32, 48 or 64 bytes; the signature is an ASN.1 SEQUENCE of r and s
	PureEdDSA // Ed25519, RFC 8032 §5.1: the "digest" is the message, at most MaxMessage bytes
)

// Hash is the hash the digest must come from, or 0 where any will do.
func (a SignAlg) Hash() crypto.Hash {
	switch a {
	case PKCS1SHA256, PSSSHA256:
		return crypto.SHA256
	case PKCS1SHA384, PSSSHA384:
		return crypto.SHA384
	case PKCS1SHA512, PSSSHA512:
		return crypto.SHA512
	}
	return 0
}

// MaxMessage is the longest message that PureEdDSA signs, in bytes.
const MaxMessage = 8 << 10

// MaxInfo is the longest request that Prove signs, in bytes.
const MaxInfo = 4 << 10

// Scheme says how a session key was wrapped.
type Scheme uint8

const (
	OpenPGPRSA    Scheme = iota + 1 // RFC 9580 §5.1.3: PKCS#1 v1.5 around [cipher] key checksum
	OpenPGPECDH                     // RFC 9580 §11.5: ECDH on a NIST curve or Curve25519Legacy, KDF, AES key wrap
	OpenPGPX25519                   // RFC 9580 §5.1.6: X25519, HKDF-SHA256, AES-128 key wrap
	PKCS1                           // RSAES-PKCS1-v1_5 around a bare key of Size bytes (RFC 8017 §7.2, RFC 3370 §4.2.1)
	OAEP                            // RSAES-OAEP around a bare key (RFC 8017 §7.1): Hash, MGFHash, Label
	CMSX963                         // RFC 5753 §7.1.4, RFC 8418 §2.1: ECDH with an ephemeral key, X9.63 KDF with Hash, key wrap
	CMSHKDF                         // RFC 8418 §2.2: the same with HKDF; Hash is SHA-256 or longer
)

// Wrapped is a session key as it stands in the mail: every field is copied
// from there, nothing is computed from it outside the key daemon.
type Wrapped struct {
	Scheme     Scheme
	Ciphertext []byte // RSA: the integer, big-endian; otherwise the AES-wrapped key
	Ephemeral  []byte // the sender's public point: SEC 1 for NIST curves (with CMS compressed too), 32 bytes for X25519 (without the 0x40 of OpenPGP)

	// OpenPGP.
	V6          bool   // the session-key packet is version 6: no cipher octet inside
	Cipher      uint8  // cipher that stands outside the wrapped part (X25519 v3), or 0
	Fingerprint []byte // of the recipient's (sub)key, 20 or 32 bytes: input of the ECDH KDF
	CurveOID    []byte // OpenPGP's curve OID without its length octet: input of the ECDH KDF
	KDFHash     uint8  // OpenPGP hash id from the recipient's public key
	KDFCipher   uint8  // OpenPGP cipher id from the recipient's public key

	// Bare keys.
	Size    int         // PKCS1: expected length of the key in bytes, 1 to 64; otherwise: length when it is known from outside, or 0
	Hash    crypto.Hash // OAEP, and the KDF of CMSX963 and CMSHKDF
	MGFHash crypto.Hash // OAEP
	Label   []byte      // OAEP

	// CMS key agreement; the curve is the key's.
	WrapAlgorithm []byte // AlgorithmIdentifier of the key wrap, DER: input of the KDF (RFC 5753 §7.2)
	UKM           []byte // entityUInfo of the KDF; nil: absent
}

// SessionKey is the secret of one message. Cipher is the OpenPGP cipher id
// that came with it, or 0 when it stands elsewhere.
type SessionKey struct {
	Cipher uint8
	Key    []byte
}

// State is what the key daemon can do now.
type State uint8

const (
	Unprovisioned State = iota + 1 // no token, or one without our label
	Locked                         // a token, but no PIN, or a PIN that was refused
	Ready
	Failed // the token went away or answers nonsense; tried again without a hand
)

// String is the name of the state.
func (s State) String() string {
	switch s {
	case Unprovisioned:
		return "unprovisioned"
	case Locked:
		return "locked"
	case Ready:
		return "ready"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Token is all that the mail side sees of the keys. Every method honours ctx
// and may be called from many goroutines.
type Token interface {
	// Keys lists the keys that are served.
	Keys(ctx context.Context) ([]Key, error)
	// Sign makes one signature.
	Sign(ctx context.Context, id KeyID, alg SignAlg, digest []byte) ([]byte, error)
	// Unwrap opens a session key. A wrapped key that is wrong gives no
	// error: it gives a session key that opens nothing (implicit rejection),
	// so that no caller can tell padding errors apart.
	Unwrap(ctx context.Context, id KeyID, w Wrapped) (SessionKey, error)
}

// Keeper is what operators see.
type Keeper interface {
	Token
	// Status tells state and health.
	Status(ctx context.Context) (Status, error)
	// Init makes a token with the daemon's label. With an empty PIN the
	// daemon uses the one of its credential; with an empty soPIN it makes one up and forgets it.
	Init(ctx context.Context, soPIN, pin string) error
	// Unlock logs in once. With an empty PIN it is the operator's word to try the credential again.
	Unlock(ctx context.Context, pin string) error
	// Probe does a known-answer test of every mechanism the token names.
	Probe(ctx context.Context) ([]Probe, error)
	// Audit reads the attributes of every private key, served or not, and opens
	// each of the class OutsideWrapped once.
	Audit(ctx context.Context) ([]Finding, error)
	// Generate makes a pair inside the token. One of the class OutsideWrapped
	// leaves it as ciphertext; hsm.ErrRefused where such keys are not allowed.
	Generate(ctx context.Context, s KeySpec) (Key, error)
	// Prove makes the one signature that a key for unwrapping has: that under
	// the request for its own certificate, RSASSA-PKCS1-v1_5 with SHA-256
	// (RFC 8017 §8.2). info is the CertificationRequestInfo (RFC 2986 §4.1) in
	// DER, of this very key, at most MaxInfo bytes. ErrRefused: a key that
	// signs by itself, is retired or is not RSA, or a request for another key.
	// ErrInvalid: anything else than such a request, or a module without RSA
	// that leaves the padding alone.
	Prove(ctx context.Context, id KeyID, info []byte) ([]byte, error)
	// Retire ends signing with the key; opening goes on.
	Retire(ctx context.Context, id KeyID) error
	// Destroy removes the pair from the token for good, or the ciphertext of
	// one of the class OutsideWrapped: copies of that stay what they were.
	Destroy(ctx context.Context, id KeyID) error
}

// Status is the health of the key daemon and its token.
type Status struct {
	State    State
	Reason   string // why it is not Ready, one line, with a hint
	Module   string // manufacturer and library version as the module says
	Token    string // label
	Serial   string
	Profile  string // quirk profile in force
	Keys     int
	Wrapped  int  // those of Keys that are of the class OutsideWrapped
	PINCount bool // the token counts a wrong PIN already (CKF_USER_PIN_COUNT_LOW)
	Version  string
}

// Probe is the result of one known-answer test.
type Probe struct {
	Name   string // "RSA-3072 sign PKCS1-SHA256"
	OK     bool
	Reason string // "" or why not
}

// Finding is the verdict of the attribute audit on one private key.
type Finding struct {
	ID     KeyID
	Label  string
	Class  Class
	Served bool
	Faults []string // "CKA_EXTRACTABLE is true"; empty when all is well
}

type traceKey struct{}

// WithTrace hands the trace id of a mail to the audit record. It is a label
// only, never a ground for a decision.
func WithTrace(ctx context.Context, trace string) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// Trace is the id that WithTrace put there, or "".
func Trace(ctx context.Context) string {
	s, _ := ctx.Value(traceKey{}).(string)
	return s
}

type originKey struct{}

// MaxOrigin is the longest origin, in bytes of printable ASCII without space.
const MaxOrigin = 64

// WithOrigin hands on where a mail came from, so that the key daemon counts
// failures for each sender: the network of the client that brought it, or ""
// where that says nothing about the sender. What does not fit MaxOrigin is
// cut, what is not printable becomes '?'. Like the trace it is the word of the
// caller: it can narrow what a sender gets, never widen it.
func WithOrigin(ctx context.Context, origin string) context.Context {
	b := []byte(origin[:min(len(origin), MaxOrigin)])
	for i, v := range b {
		if v < 0x21 || v > 0x7e {
			b[i] = '?'
		}
	}
	return context.WithValue(ctx, originKey{}, string(b))
}

// Origin is what WithOrigin put there, or "".
func Origin(ctx context.Context) string {
	s, _ := ctx.Value(originKey{}).(string)
	return s
}
