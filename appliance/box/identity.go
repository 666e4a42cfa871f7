package box

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pinOf is how a key is called: SHA-256 of its SubjectPublicKeyInfo.
func pinOf(spki []byte) string {
	sum := sha256.Sum256(spki)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Fingerprint is a pin as the screen shows it: groups of four.
func Fingerprint(pin string) string {
	digits := strings.TrimPrefix(pin, "sha256:")
	var b strings.Builder
	for i := range len(digits) {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteByte(digits[i])
	}
	return b.String()
}

// leastDigits of a fingerprint have to be typed: nobody finds another key with
// the same 128 bits.
const leastDigits = 32

// ParseFingerprint reads a fingerprint, or its beginning, as it was typed.
func ParseFingerprint(s string) (digits string, err error) {
	s = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(s)), "sha256:")
	digits = strings.NewReplacer(" ", "", ":", "", "-", "").Replace(s)
	if len(digits) < leastDigits || len(digits) > 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fmt.Errorf("fingerprint: want %d hexadecimal digits or more from its beginning", leastDigits)
	}
	return digits, nil
}

// Names of files in a folder of ours.
const (
	keyFile  = "identity.key"
	certFile = "identity.crt"
)

// Chip makes the box's key in hardware, or finds it there.
type Chip interface {
	// Key is that which belongs to salt, at every call the same.
	Key(salt []byte) (crypto.Signer, error)
}

// Identity is the box's own key and certificate from the folder dir, made
// where there are none. The key is in the chip where there is one: then dir
// holds no secret, only what it is found by. Without a chip it is a file in
// dir, which is to be on an encrypted partition.
//
// It cannot be in the token: operators must be able to reach the box, and to
// know it, while the token is locked or not there.
func Identity(dir string, chip Chip) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) {
		return tls.Certificate{}, fmt.Errorf("identity of the box: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	key, err := readKey(filepath.Join(dir, keyFile), chip)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(filepath.Join(dir, keyFile), chip)
	}
	if err != nil {
		return fail(err)
	}
	der, err := readCert(filepath.Join(dir, certFile), key)
	if errors.Is(err, fs.ErrNotExist) {
		der, err = makeCert(filepath.Join(dir, certFile), key, "postern box")
	}
	if err != nil {
		return fail(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// saltType is a key file that holds no key, but what the chip finds it by.
const saltType = "POSTERN TPM SALT"

func readKey(path string, chip Chip) (crypto.Signer, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%s: not PEM", path)
	case block.Type == saltType && chip == nil:
		return nil, fmt.Errorf("%s: the key is in a TPM, and there is none", path)
	case block.Type == saltType:
		return chip.Key(block.Bytes)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := any.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of kind %T", path, any)
	}
	return key, nil
}

func makeKey(path string, chip Chip) (crypto.Signer, error) {
	if chip != nil {
		salt := make([]byte, 32)
		rand.Read(salt)
		key, err := chip.Key(salt)
		if err != nil {
			return nil, err
		}
		return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: saltType, Bytes: salt}), 0o600)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func readCert(path string, key crypto.Signer) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s: the certificate is of another key", path)
	}
	return block.Bytes, nil
}

// makeCert is a certificate that says nothing: whoever believes it knows the key.
func makeCert(path string, key crypto.Signer, name string) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no end
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return der, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// writeFile puts a file in place, whole.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// PinOf is the pin of a certificate's key.
func PinOf(c tls.Certificate) (string, error) {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return "", fmt.Errorf("name key: %w", err)
	}
	return pinOf(leaf.RawSubjectPublicKeyInfo), nil
}
