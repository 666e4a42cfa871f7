package shelf

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"postern/hsm"
)

// The file of one key. Integers are big-endian; short is one length byte and so
// many bytes, long two:
//
//	"postern wrapped key\n"
//	version             1, now 1
//	usage               1, as in package hsm
//	mechanism           8, of PKCS#11, that made the ciphertext
//	wrapping key        short, its CKA_ID
//	label               short, printable ASCII
//	public key          long, SubjectPublicKeyInfo
//	ciphertext          long
//	digest             32, SHA-256 of all before
//
// The digest finds damage without a token; who changes the file can make another.
// The ciphertext has an integrity of its own (RFC 5649), which only the token
// checks, and which binds neither the label nor the public key to it: the public
// key is compared with what comes out, label and usage are believed.
const (
	magic   = "postern wrapped key\n"
	version = 1
)

// Limits of a file, in bytes.
const (
	maxFile       = 8 << 10
	maxWrapping   = 64
	maxPublic     = 2 << 10
	maxCiphertext = 4 << 10
)

// errForm is a file that this package did not write, or that was damaged since.
var errForm = errors.New("damaged, or not the file of a wrapped key")

// Record is one key as it is kept.
type Record struct {
	ID         hsm.KeyID
	Public     crypto.PublicKey // as in hsm.Key
	Usage      hsm.Usage
	Label      string
	Wrapping   []byte // CKA_ID of the key that opens it
	Mechanism  uint64
	Ciphertext []byte
}

// Marshal is the file of r.
func (r Record) Marshal() ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(r.Public)
	if err != nil {
		return nil, fmt.Errorf("write wrapped key: %w", err)
	}
	var b cryptobyte.Builder
	b.AddBytes([]byte(magic))
	b.AddUint8(version)
	b.AddUint8(uint8(r.Usage))
	b.AddUint64(r.Mechanism)
	b.AddUint8LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(r.Wrapping) })
	b.AddUint8LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes([]byte(r.Label)) })
	b.AddUint16LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(spki) })
	b.AddUint16LengthPrefixed(func(c *cryptobyte.Builder) { c.AddBytes(r.Ciphertext) })
	body, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("write wrapped key: %w", err)
	}
	sum := sha256.Sum256(body)
	body = append(body, sum[:]...)
	// What would not be read again is not written.
	if _, err := Parse(body); err != nil {
		return nil, fmt.Errorf("write wrapped key: %w: %w", hsm.ErrInvalid, err)
	}
	return body, nil
}

// Parse reads what Marshal wrote, and nothing else: the same record has one form.
func Parse(b []byte) (Record, error) {
	if len(b) > maxFile || len(b) < len(magic)+sha256.Size || string(b[:len(magic)]) != magic {
		return Record{}, errForm
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return Record{}, errForm
	}
	s := cryptobyte.String(body[len(magic):])
	var v, usage uint8
	if !s.ReadUint8(&v) {
		return Record{}, errForm
	}
	if v != version {
		return Record{}, fmt.Errorf("version %d, this program knows %d", v, version)
	}
	var r Record
	var wrapping, label, spki, ciphertext cryptobyte.String
	if !s.ReadUint8(&usage) || !s.ReadUint64(&r.Mechanism) || !s.ReadUint8LengthPrefixed(&wrapping) || !s.ReadUint8LengthPrefixed(&label) ||
		!s.ReadUint16LengthPrefixed(&spki) || !s.ReadUint16LengthPrefixed(&ciphertext) || !s.Empty() {
		return Record{}, errForm
	}
	r.Usage, r.Label = hsm.Usage(usage), string(label)
	if r.Usage != hsm.Sign && r.Usage != hsm.Unwrap || !printable(r.Label) || len(r.Label) > hsm.MaxLabel ||
		len(wrapping) == 0 || len(wrapping) > maxWrapping || len(spki) > maxPublic || len(ciphertext) == 0 || len(ciphertext) > maxCiphertext {
		return Record{}, errForm
	}
	r.Wrapping, r.Ciphertext = bytes.Clone(wrapping), bytes.Clone(ciphertext)
	var err error
	if r.Public, err = x509.ParsePKIXPublicKey(spki); err != nil {
		return Record{}, errForm
	}
	if again, err := x509.MarshalPKIXPublicKey(r.Public); err != nil || !bytes.Equal(again, spki) || hsm.AlgorithmOf(r.Public) == "" {
		return Record{}, errForm
	}
	r.ID = sha256.Sum256(spki)
	return r, nil
}

// printable reports whether a label is one: ASCII that can be seen, or a space.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
