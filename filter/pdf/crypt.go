package pdf

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxPassword is how many bytes of a password count (ISO 32000-2 §7.6.4.3.3).
const maxPassword = 127

// ErrPassword is a password that readers would prepare before they use it, or
// that is none.
var ErrPassword = errors.New("want 1 to 127 characters of printable ASCII")

// rights are those of a reader: all (ISO 32000-2 table 22). Who has the password
// has the text.
const rights = -4

// locked is the encryption of one document: AES-256 with a key of its own, in
// revision 6 of the standard security handler (ISO 32000-2 §7.6.4).
type locked struct {
	block            cipher.Block // of the document's key, which is in no object
	user, owner      []byte       // what a password is checked by
	userKey, hostKey []byte       // the document's key, as one who has the password finds it
	perms            []byte
}

// lock makes a key that the password opens. There is a second password, of the
// document's owner in the words of the standard, which nobody knows.
func lock(password string) (*locked, error) {
	pw := []byte(password)
	for _, c := range pw {
		if c < ' ' || c > '~' {
			return nil, fmt.Errorf("take password: %w", ErrPassword)
		}
	}
	if len(pw) == 0 || len(pw) > maxPassword {
		return nil, fmt.Errorf("take password: %w", ErrPassword)
	}
	key := random(32)
	l := &locked{}
	var err error
	if l.block, err = aes.NewCipher(key); err != nil {
		return nil, err
	}
	if l.user, l.userKey, err = wrapped(key, pw, nil); err != nil {
		return nil, err
	}
	if l.owner, l.hostKey, err = wrapped(key, random(32), l.user); err != nil {
		return nil, err
	}
	var p [16]byte // ISO 32000-2 §7.6.4.4.9
	binary.LittleEndian.PutUint32(p[:], uint32(rights&0xffffffff))
	copy(p[4:], "\xff\xff\xff\xffTadb")
	copy(p[12:], random(4))
	l.perms = make([]byte, 16)
	l.block.Encrypt(l.perms, p[:])
	return l, nil
}

// wrapped is what a password is checked by, and the key sealed with it (ISO
// 32000-2 §7.6.4.4.7 and §7.6.4.4.8). For the owner's, user is what the user's is
// checked by.
func wrapped(key, password, user []byte) (check, sealed []byte, err error) {
	salts := random(16)
	h, err := hash(password, salts[:8], user)
	if err != nil {
		return nil, nil, err
	}
	check = append(h, salts...)
	h, err = hash(password, salts[8:], user)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(h)
	if err != nil {
		return nil, nil, err
	}
	sealed = make([]byte, len(key))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(sealed, key)
	return check, sealed, nil
}

// hash is algorithm 2.B of ISO 32000-2 §7.6.4.3.4: 64 rounds and some more, each
// of which needs the one before it.
func hash(password, salt, user []byte) ([]byte, error) {
	first := sha256.New()
	for _, b := range [][]byte{password, salt, user} {
		first.Write(b)
	}
	k := first.Sum(nil)
	for round := 1; ; round++ {
		e := bytes.Repeat(bytes.Join([][]byte{password, k, user}, nil), 64)
		block, err := aes.NewCipher(k[:16])
		if err != nil {
			return nil, err
		}
		cipher.NewCBCEncrypter(block, k[16:32]).CryptBlocks(e, e)
		rest := 0 // of the first 16 bytes as a number, divided by 3; 256 leaves 1
		for _, b := range e[:16] {
			rest += int(b)
		}
		switch rest % 3 {
		case 0:
			sum := sha256.Sum256(e)
			k = sum[:]
		case 1:
			sum := sha512.Sum384(e)
			k = sum[:]
		default:
			sum := sha512.Sum512(e)
			k = sum[:]
		}
		if round >= 64 && int(e[len(e)-1]) <= round-32 {
			return k[:32], nil
		}
	}
}

// text seals a short string.
func (l *locked) text(s []byte) []byte {
	var b bytes.Buffer
	w := l.stream(&b)
	w.Write(s) // to memory
	w.Close()
	return b.Bytes()
}

// stream seals what is written to it: AES-CBC behind a new initialisation vector
// (ISO 32000-2 §7.6.3.1). Close pads it.
func (l *locked) stream(w io.Writer) io.WriteCloser {
	iv := random(aes.BlockSize)
	return &sealing{w: w, iv: iv, mode: cipher.NewCBCEncrypter(l.block, iv)}
}

type sealing struct {
	w    io.Writer
	iv   []byte // not yet written
	mode cipher.BlockMode
	rest []byte // less than a block
	out  []byte
}

func (s *sealing) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	n := len(s.rest) / aes.BlockSize * aes.BlockSize
	return len(p), s.put(n)
}

func (s *sealing) Close() error {
	pad := aes.BlockSize - len(s.rest)%aes.BlockSize
	s.rest = append(s.rest, bytes.Repeat([]byte{byte(pad)}, pad)...)
	return s.put(len(s.rest))
}

// put seals the first n bytes of what waits.
func (s *sealing) put(n int) error {
	s.out = append(append(s.out[:0], s.iv...), s.rest[:n]...)
	sealed := s.out[len(s.iv):]
	s.iv = nil
	s.mode.CryptBlocks(sealed, sealed)
	s.rest = append(s.rest[:0], s.rest[n:]...)
	_, err := s.w.Write(s.out)
	return err
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
