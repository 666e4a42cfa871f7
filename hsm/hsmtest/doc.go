// Package hsmtest gives tests a token of their own: a fresh SoftHSM token, an
// NSS database as a second, independent module, a shim that injects faults
// into either, and a token in memory for code that must build without cgo.
package hsmtest
