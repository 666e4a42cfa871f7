package keyd

import "postern/hsm"

// Device is a token as the daemon uses it: already found, one login for the
// whole process, every method but Open, Init, Login, Load and Close callable
// from many goroutines. The errors are those of package hsm; every other
// error is taken for a complaint about the input.
type Device interface {
	// Open initialises the module and finds our token by its label:
	// hsm.ErrEmpty when there is none, hsm.ErrAway when the module does not answer.
	Open() error
	// Init makes a token with our label and sets both PINs; it ends logged out.
	Init(soPIN, pin string) error
	// Login makes exactly one attempt. hsm.ErrPIN: refused, or locked by the token.
	Login(pin string) error
	// Load finds all pairs once and audits them: the keys that may be served,
	// and a finding for each private key.
	Load() ([]hsm.Key, []hsm.Finding, error)
	// Sign makes one signature in the form of hsm.SignAlg.
	Sign(id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error)
	// Decrypt is the bare RSA operation on a ciphertext as long as the
	// modulus. With raw the block is the whole padded block of that length;
	// without, the module removed the padding of PKCS#1 v1.5 by itself.
	// hsm.ErrOpaque: the module complained of the input.
	Decrypt(id hsm.KeyID, ciphertext []byte) (block []byte, raw bool, err error)
	// ECDH is the x-coordinate shared with an uncompressed SEC 1 point, or the
	// u-coordinate shared with 32 bytes. hsm.ErrOpaque: a point the module refuses.
	ECDH(id hsm.KeyID, point []byte) ([]byte, error)
	// Generate makes a pair that never leaves the token, or with s.Wrapped only
	// as ciphertext.
	Generate(s hsm.KeySpec) (hsm.Key, error)
	// Try opens a key of the class hsm.OutsideWrapped, as its first use would:
	// hsm.ErrBroken where that fails, and the next Load does not serve it.
	Try(id hsm.KeyID) error
	// Destroy removes a pair.
	Destroy(id hsm.KeyID) error
	// Probe does a known-answer test of every mechanism.
	Probe() ([]hsm.Probe, error)
	// Info is the part of a status that the token knows.
	Info() (hsm.Status, error)
	// Health is a cheap sign of life; hsm.ErrAway when the token is gone.
	Health() error
	// Close lets go of the module. Open may be called again.
	Close() error
}
