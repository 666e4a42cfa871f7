// Package peertest speaks to other people's OpenPGP programs, for tests.
package peertest

import "os/exec"

// Sq gives the arguments of the sq that is installed. Debian 12 has 0.27,
// Debian 13 has 1.3, which says everything differently.
type Sq struct{ old bool }

// NewSq looks which one is there.
func NewSq() Sq { return Sq{old: exec.Command("sq", "version").Run() != nil} }

// Generate makes a key of version 4 in a file, without a password.
func (s Sq) Generate(userID, suite, file string) []string {
	if s.old {
		return []string{"key", "generate", "--userid", userID, "--cipher-suite", suite, "--expires", "never", "--export", file}
	}
	return []string{"key", "generate", "--own-key", "--without-password", "--profile", "rfc4880", "--userid", userID,
		"--cipher-suite", suite, "--expiration", "never", "--rev-cert", file + ".rev", "--output", file}
}

// Extract prints the certificate of a key.
func (s Sq) Extract(key string) []string {
	if s.old {
		return []string{"key", "extract-cert", key}
	}
	return []string{"key", "delete", "--output=-", "--cert-file", key}
}

// Encrypt encrypts standard input to a certificate, signed where key names a file.
func (s Sq) Encrypt(cert, key string) []string {
	switch {
	case s.old && key == "":
		return []string{"encrypt", "--recipient-cert", cert}
	case s.old:
		return []string{"encrypt", "--recipient-cert", cert, "--signer-key", key}
	case key == "":
		return []string{"encrypt", "--for-file", cert, "--without-signature"}
	}
	return []string{"encrypt", "--for-file", cert, "--signer-file", key}
}

// Decrypt decrypts standard input, and wants one good signature by cert.
func (s Sq) Decrypt(key, cert string) []string {
	if s.old {
		return []string{"decrypt", "--recipient-key", key, "--signer-cert", cert, "--signatures", "1"}
	}
	return []string{"decrypt", "--recipient-file", key, "--signer-file", cert, "--signatures", "1"}
}
