// Package tpm keeps the box's own key in its TPM. The key is a primary one: the
// TPM makes it of its own seed and of a salt, the same at every call, so that it
// stands in no file and is in no other machine.
package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Device is where Linux shows a TPM that several programs share.
const Device = "/dev/tpmrm0"

// Chip is one TPM.
type Chip struct {
	mu  sync.Mutex
	tpm transport.TPMCloser
}

// Open opens a TPM: a device, or the socket of one that is emulated. The error
// wraps fs.ErrNotExist where there is none.
func Open(path string) (*Chip, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	open := linuxtpm.Open
	if info.Mode().Type() == fs.ModeSocket {
		open = linuxudstpm.Open
	}
	t, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	return &Chip{tpm: t}, nil
}

// Close lets go of it.
func (c *Chip) Close() error { return c.tpm.Close() }

// ErrLocked is a TPM that takes its machine for one under attack, and that nobody
// without its password can calm.
var ErrLocked = errors.New("the TPM is locked against guessing, and has a password for that")

// Bits of TPM_PT_PERMANENT (TPM 2.0 library, part 2, §8.6).
const lockoutAuthSet = 1 << 2

// Forgive sets the count of failed guesses to zero. A TPM counts each time that it
// lost its power without warning as one, and opens no sealed PIN any more when
// there were a few: it protects passwords that can be guessed, and here there is
// none.
func (c *Chip) Forgive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed, err := c.property(tpm2.TPMPTLockoutCounter)
	if err != nil || failed == 0 {
		return err
	}
	switch permanent, err := c.property(tpm2.TPMPTPermanent); {
	case err != nil:
		return err
	case permanent&lockoutAuthSet != 0:
		return ErrLocked // a wrong password would lock it against the right one too
	}
	// TPM2_DictionaryAttackLockReset (part 3, §25.2), which the library lacks:
	// tag, size, command, TPM_RH_LOCKOUT, and an empty password.
	answer, err := c.tpm.Send([]byte{0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39, 0x40, 0, 0, 0x0a, 0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0})
	if err == nil && len(answer) < 10 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		if code := tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])); code != tpm2.TPMRCSuccess {
			err = code
		}
	}
	if err != nil {
		return fmt.Errorf("calm the TPM: %w", err)
	}
	return nil
}

// property is a number that the TPM says of itself.
func (c *Chip) property(p tpm2.TPMPT) (uint32, error) {
	got, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(c.tpm)
	if err != nil {
		return 0, fmt.Errorf("ask the TPM: %w", err)
	}
	list, err := got.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != p {
		return 0, fmt.Errorf("ask the TPM: it does not say %#x: %w", uint32(p), errors.Join(err, io.ErrUnexpectedEOF))
	}
	return list.TPMProperty[0].Value, nil
}

// errPoint is an answer of the TPM that is no key of ours.
var errPoint = errors.New("the TPM answers with another kind of key")

// primary makes the key of salt, for as long as it takes.
func (c *Chip) primary(salt []byte) (tpm2.TPMHandle, tpm2.TPM2BName, *ecdsa.PublicKey, error) {
	public := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: salt}}),
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(public)}.Execute(c.tpm)
	if err != nil {
		return 0, tpm2.TPM2BName{}, nil, err
	}
	out, err := made.OutPublic.Contents()
	var point *tpm2.TPMSECCPoint
	if err == nil {
		point, err = out.Unique.ECC()
	}
	if err != nil {
		c.flush(made.ObjectHandle)
		return 0, tpm2.TPM2BName{}, nil, errPoint
	}
	b := make([]byte, 1+2*32)
	b[0] = 4 // uncompressed
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		c.flush(made.ObjectHandle)
		return 0, tpm2.TPM2BName{}, nil, errPoint
	}
	copy(b[33-len(point.X.Buffer):], point.X.Buffer)
	copy(b[65-len(point.Y.Buffer):], point.Y.Buffer)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b)
	if err != nil {
		c.flush(made.ObjectHandle)
		return 0, tpm2.TPM2BName{}, nil, errPoint
	}
	return made.ObjectHandle, made.Name, key, nil
}

// flush frees the place of a key. A TPM has few, and the resource manager of
// the kernel frees them when the program ends.
func (c *Chip) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c.tpm)
	return err
}

// Key is the key of a salt of 32 bytes.
func (c *Chip) Key(salt []byte) (crypto.Signer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(salt) != 32 {
		return nil, fmt.Errorf("key of the TPM: salt of %d bytes, want 32", len(salt))
	}
	handle, _, public, err := c.primary(salt)
	if err != nil {
		return nil, fmt.Errorf("make key in the TPM: %w", err)
	}
	if err := c.flush(handle); err != nil {
		return nil, fmt.Errorf("make key in the TPM: %w", err)
	}
	return &key{c, append([]byte(nil), salt...), public}, nil
}

// key is a crypto.Signer.
type key struct {
	chip   *Chip
	salt   []byte
	public *ecdsa.PublicKey
}

// Public implements crypto.Signer.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer, for digests of SHA-256.
func (k *key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != 32 {
		return nil, errors.New("sign in the TPM: want a digest of SHA-256")
	}
	k.chip.mu.Lock()
	defer k.chip.mu.Unlock()
	handle, name, public, err := k.chip.primary(k.salt)
	if err != nil {
		return nil, fmt.Errorf("sign in the TPM: %w", err)
	}
	defer func() {
		if ferr := k.chip.flush(handle); ferr != nil && err == nil {
			sig, err = nil, fmt.Errorf("sign in the TPM: %w", ferr)
		}
	}()
	if !public.Equal(k.public) {
		return nil, errors.New("sign in the TPM: it was cleared, and has another key now")
	}
	made, err := tpm2.Sign{
		KeyHandle:  tpm2.NamedHandle{Handle: handle, Name: name},
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(k.chip.tpm)
	if err != nil {
		return nil, fmt.Errorf("sign in the TPM: %w", err)
	}
	rs, err := made.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("sign in the TPM: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(rs.SignatureR.Buffer), new(big.Int).SetBytes(rs.SignatureS.Buffer)})
}
