package keyd

import "crypto"

// Steps of an unwrap that have vectors of their own.
var (
	UnwrapAES  = unwrapAES
	Unwrap3DES = unwrap3DES
)

// X963 is the key derivation of ANSI X9.63.
func X963(hash crypto.Hash, z, info []byte, size int) []byte { return x963(hash, z, info, size) }
