package keyd

import (
	"crypto"
	"crypto/rsa"
)

// Steps of an unwrap that have vectors of their own.
var (
	UnwrapAES  = unwrapAES
	Unwrap3DES = unwrap3DES
)

// X963 is the key derivation of ANSI X9.63.
func X963(hash crypto.Hash, z, info []byte, size int) []byte { return x963(hash, z, info, size) }

// CheckInfo is the check of what a key for unwrapping signs.
func CheckInfo(key *rsa.PublicKey, info []byte) error { return checkInfo(key, info) }
