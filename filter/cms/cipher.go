package cms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Cipher is what encrypts the content of a message.
type Cipher uint8

// The ciphers that open, in the order of their strength within a kind. The
// AES ones seal as well.
const (
	TripleDES        Cipher = iota + 1 // CBC, RFC 3370 §5.1: for reading old mail
	AES128CBC                          // RFC 3565
	AES192CBC                          // RFC 3565
	AES256CBC                          // RFC 3565
	AES128GCM                          // RFC 5084 §3.2
	AES192GCM                          // RFC 5084 §3.2
	AES256GCM                          // RFC 5084 §3.2
	ChaCha20Poly1305                   // RFC 8103: for reading
)

// suite is what there is to know of a cipher.
type suite struct {
	name string
	oid  asn1.ObjectIdentifier
	key  int // bytes
	iv   int // bytes: of the initialisation vector or the nonce, as they are made
	aead bool
}

var suites = [...]suite{
	TripleDES:        {"3DES-CBC", asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.BlockSize, false},
	AES128CBC:        {"AES-128-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.BlockSize, false},
	AES192CBC:        {"AES-192-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.BlockSize, false},
	AES256CBC:        {"AES-256-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.BlockSize, false},
	AES128GCM:        {"AES-128-GCM", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 6}, 16, gcmNonce, true},
	AES192GCM:        {"AES-192-GCM", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 26}, 24, gcmNonce, true},
	AES256GCM:        {"AES-256-GCM", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}, 32, gcmNonce, true},
	ChaCha20Poly1305: {"ChaCha20-Poly1305", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 3, 18}, chacha20poly1305.KeySize, chacha20poly1305.NonceSize, true},
}

// refused are ciphers that some mail has and nothing here reads: they are
// named in the error, so that an operator knows what a partner sends.
var refused = map[string]string{
	"1.2.840.113549.3.2":      "RC2-CBC",
	"1.3.14.3.2.7":            "DES-CBC",
	"2.16.840.1.101.3.4.1.7":  "AES-128-CCM",
	"2.16.840.1.101.3.4.1.27": "AES-192-CCM",
	"2.16.840.1.101.3.4.1.47": "AES-256-CCM",
}

func (c Cipher) known() bool { return c > 0 && int(c) < len(suites) }

// String is the name of the cipher.
func (c Cipher) String() string {
	if !c.known() {
		return "unknown"
	}
	return suites[c].name
}

// KeySize is the length of its key in bytes, 0 for none of the above.
func (c Cipher) KeySize() int {
	if !c.known() {
		return 0
	}
	return suites[c].key
}

// Authenticated reports whether an altered ciphertext does not open.
func (c Cipher) Authenticated() bool { return c.known() && suites[c].aead }

// Legacy reports whether the cipher is too old for anything but old mail: its
// block of 64 bits gives away content after some gigabytes, and it has no place
// in RFC 8551.
func (c Cipher) Legacy() bool { return c == TripleDES }

// seals reports whether messages are made with it.
func (c Cipher) seals() bool { return c >= AES128CBC && c <= AES256GCM }

// contentCipher is a cipher with what stands beside it in the message.
type contentCipher struct {
	Cipher
	iv  []byte
	tag int // AEAD: length of the authentication tag in bytes
}

// parseCipher reads a ContentEncryptionAlgorithmIdentifier (RFC 5652 §10.1.4).
func parseCipher(der []byte) (contentCipher, error) {
	a, ok := parseAlgorithm(der)
	if !ok {
		return contentCipher{}, fmt.Errorf("read content cipher: %w", ErrForm)
	}
	c := slices.IndexFunc(suites[:], func(s suite) bool { return s.oid != nil && s.oid.Equal(a.oid) })
	if c < 0 {
		name, ok := refused[a.oid.String()]
		if !ok {
			name = a.oid.String()
		}
		return contentCipher{}, fmt.Errorf("read content cipher: %s: %w", name, ErrAlgorithm)
	}
	out := contentCipher{Cipher: Cipher(c)}
	in := cryptobyte.String(a.params)
	shortest, longest := suites[c].iv, suites[c].iv
	switch {
	case !out.Authenticated():
		ok = parseOctets(&in, &out.iv)
	case out.Cipher == ChaCha20Poly1305: // RFC 8103 §2
		out.tag = chacha20poly1305.Overhead
		ok = parseOctets(&in, &out.iv)
	default: // GCMParameters, RFC 5084 §3.2
		var seq cryptobyte.String
		out.tag, shortest, longest = gcmDefaultTag, 1, gcmMaxNonce
		ok = in.ReadASN1(&seq, cbasn1.SEQUENCE) && parseOctets(&seq, &out.iv) &&
			(seq.Empty() || seq.ReadASN1Integer(&out.tag)) && seq.Empty()
	}
	switch {
	case !ok || !in.Empty():
		return contentCipher{}, fmt.Errorf("read parameters of %s: %w", out, ErrForm)
	case len(out.iv) < shortest || len(out.iv) > longest:
		return contentCipher{}, fmt.Errorf("read parameters of %s: IV of %d bytes: %w", out, len(out.iv), ErrAlgorithm)
	case out.Authenticated() && (out.tag < gcmMinTag || out.tag > gcmTag):
		return contentCipher{}, fmt.Errorf("read parameters of %s: tag of %d bytes: %w", out, out.tag, ErrAlgorithm)
	}
	return out, nil
}

// parseAlgorithm reads an AlgorithmIdentifier that is all of der.
func parseAlgorithm(der []byte) (a algorithm, ok bool) {
	s := cryptobyte.String(der)
	return a, readAlgorithm(&s, &a) && s.Empty()
}

// parseOctets reads an OCTET STRING off s.
func parseOctets(s *cryptobyte.String, out *[]byte) bool {
	return s.ReadASN1Bytes(out, cbasn1.OCTET_STRING)
}

// der is the AlgorithmIdentifier of one of the ciphers that seal.
func (c contentCipher) der() ([]byte, error) {
	var params cryptobyte.Builder
	if c.Authenticated() {
		params.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(c.iv)
			b.AddASN1Int64(int64(c.tag))
		})
	} else {
		params.AddASN1OctetString(c.iv)
	}
	p, err := params.Bytes()
	if err != nil {
		return nil, err
	}
	return algorithm{oid: suites[c.Cipher].oid, params: p}.der()
}

// opener turns the ciphertext of one message into plaintext, in pieces. Its
// methods take as long for a wrong key as for the right one.
type opener interface {
	// open decrypts the next piece and gives what is plaintext by then. Each
	// piece but the last is a multiple of pieceUnit. b is overwritten; what is
	// returned is good until the next call.
	open(b []byte) []byte
	// close gives the rest of the plaintext, and whether all of it counts.
	// attributes are those that are authenticated, in DER, or nil.
	close(attributes, tag []byte) (rest []byte, ok bool)
}

// sealer is the other direction.
type sealer interface {
	// seal encrypts the next piece, a multiple of pieceUnit, in place.
	seal(b []byte)
	// close encrypts the last piece, which may be empty, and gives it with its
	// padding, and the tag, if there is one.
	close(b []byte) (last, tag []byte)
}

const (
	pieceUnit = 16       // all blocks fit in
	pieceSize = 32 << 10 // bytes at a time
)

// opener makes one for a key of KeySize bytes.
func (c contentCipher) opener(key []byte) (opener, error) {
	if c.Cipher == ChaCha20Poly1305 {
		return newChaCha(key, c.iv)
	}
	block, err := c.block(key)
	if err != nil {
		return nil, err
	}
	if c.Authenticated() {
		return newGCM(block, c.iv, c.tag)
	}
	return &cbcOpener{mode: cipher.NewCBCDecrypter(block, c.iv)}, nil
}

// sealer makes one for a key of KeySize bytes.
func (c contentCipher) sealer(key []byte) (sealer, error) {
	block, err := c.block(key)
	if err != nil {
		return nil, err
	}
	if c.Authenticated() {
		g, err := newGCM(block, c.iv, c.tag)
		return gcmSealer{g}, err
	}
	return cbcSealer{cipher.NewCBCEncrypter(block, c.iv)}, nil
}

func (c contentCipher) block(key []byte) (cipher.Block, error) {
	if c.Cipher == TripleDES {
		return des.NewTripleDESCipher(key)
	}
	return aes.NewCipher(key)
}
