// Package share splits the PIN of a box among people, so that some of them
// together can unlock it, and fewer know nothing.
//
// What is shared is a random number, by Shamir over the scalars of P-256. The
// PIN is encrypted with a key that is made of it. The box keeps the encrypted
// PIN and a commitment to the polynomial (Feldman): with these it knows of each
// share by itself whether it is one of the set, and whether those together open,
// before any PIN is tried. A share tells nothing without the others, nor does
// the box without shares.
package share

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
)

// What can be wrong with a share.
var (
	ErrForm    = errors.New("no share, or mistyped")
	ErrForeign = errors.New("a share of another set")
	ErrFalse   = errors.New("a share that was changed")
	ErrFew     = errors.New("too few shares")
	ErrSet     = errors.New("set of shares malformed")
)

// Bounds of a set.
const (
	Least     = 2  // shares that open, at least: one is a PIN by another name
	Most      = 16 // shares in all
	MaxSecret = 255
)

const (
	version  = 1
	idSize   = 8
	sumSize  = 4
	wireSize = 1 + idSize + 2 + 32 + sumSize
)

// curve is the group of the sharing.
var curve = group.P256

// Set is what the box keeps of one sharing. Nothing in it is for nobody's eyes
// but it opens for nobody.
type Set struct {
	Need   int      `json:"need"`
	Total  int      `json:"total"`
	Commit [][]byte `json:"commit"` // Need points, compressed
	Sealed []byte   `json:"sealed"` // the secret, AES-256-GCM
}

// Share is one person's.
type Share struct {
	set   [idSize]byte
	Need  int // as whoever made it wrote down
	Index int
	value group.Scalar
}

// Split shares secret among total people, of whom need open it.
func Split(secret []byte, need, total int) (*Set, []string, error) {
	if need < Least || need > total || total > Most || len(secret) == 0 || len(secret) > MaxSecret {
		return nil, nil, fmt.Errorf("split secret: want %d to %d shares of which %d or more open it: %w", Least, Most, Least, ErrSet)
	}
	key := curve.RandomNonZeroScalar(rand.Reader)
	sharing := secretsharing.New(rand.Reader, uint(need-1), key)
	s := &Set{Need: need, Total: total}
	for _, point := range sharing.CommitSecret() {
		b, err := point.MarshalBinaryCompress()
		if err != nil {
			return nil, nil, fmt.Errorf("split secret: %w", err)
		}
		s.Commit = append(s.Commit, b)
	}
	aead, err := s.cipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("split secret: %w", err)
	}
	s.Sealed = aead.Seal(nil, nil, secret, s.about())
	var texts []string
	for i, one := range sharing.Share(uint(total)) {
		text, err := Share{set: s.id(), Need: need, Index: i + 1, value: one.Value}.text()
		if err != nil {
			return nil, nil, fmt.Errorf("split secret: %w", err)
		}
		texts = append(texts, text)
	}
	return s, texts, nil
}

// id names a set by its commitment: nobody can make another one of that name.
func (s *Set) id() (id [idSize]byte) {
	sum := sha256.Sum256(s.about())
	copy(id[:], sum[:])
	return id
}

// Name is the name of the set, as its shares carry it.
func (s *Set) Name() string {
	id := s.id()
	return fmt.Sprintf("%x", id[:])
}

// about is everything of the set that its seal holds together.
func (s *Set) about() []byte {
	return append([]byte{version, byte(s.Need), byte(s.Total)}, bytes.Join(s.Commit, nil)...)
}

// cipher is that of the secret, under a key that is used once.
func (s *Set) cipher(key group.Scalar) (cipher.AEAD, error) {
	b, err := key.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	k, err := hkdf.Key(sha256.New, b, s.about(), "postern shares 1", 32)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// commitment is Commit as points of the curve.
func (s *Set) commitment() (secretsharing.SecretCommitment, error) {
	if s.Need < Least || s.Need > s.Total || s.Total > Most || len(s.Commit) != s.Need || len(s.Sealed) > MaxSecret+64 {
		return nil, ErrSet
	}
	var list secretsharing.SecretCommitment
	for _, b := range s.Commit {
		p := curve.NewElement()
		if len(b) != 33 || p.UnmarshalBinary(b) != nil {
			return nil, ErrSet
		}
		list = append(list, p)
	}
	return list, nil
}

// Check says whether sh is a share of the set, true and whole. It needs no
// other one.
func (s *Set) Check(sh Share) error {
	c, err := s.commitment()
	switch {
	case err != nil:
		return err
	case sh.set != s.id():
		return ErrForeign
	case sh.Index < 1 || sh.Index > s.Total || sh.Need != s.Need ||
		!secretsharing.Verify(uint(s.Need-1), secretsharing.Share{ID: curve.NewScalar().SetUint64(uint64(sh.Index)), Value: sh.value}, c):
		return ErrFalse
	}
	return nil
}

// Open gives the secret for different shares of the set, Need of them or more.
// The caller wipes it.
func (s *Set) Open(shares []Share) ([]byte, error) {
	seen := map[int]bool{}
	var list []secretsharing.Share
	for _, sh := range shares {
		if err := s.Check(sh); err != nil {
			return nil, fmt.Errorf("share %d: %w", sh.Index, err)
		}
		if seen[sh.Index] {
			continue
		}
		seen[sh.Index] = true
		list = append(list, secretsharing.Share{ID: curve.NewScalar().SetUint64(uint64(sh.Index)), Value: sh.value})
	}
	if len(list) < s.Need {
		return nil, fmt.Errorf("%d of %d: %w", len(list), s.Need, ErrFew)
	}
	key, err := secretsharing.Recover(uint(s.Need-1), list)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFew, err)
	}
	aead, err := s.cipher(key)
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nil, s.Sealed, s.about())
	if err != nil {
		return nil, ErrSet // the shares fit the commitment; what was sealed was changed
	}
	return secret, nil
}

var letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// text is the share as it is written down: groups of four.
func (sh Share) text() (string, error) {
	v, err := sh.value.MarshalBinary()
	if err != nil {
		return "", err
	}
	b := append([]byte{version}, sh.set[:]...)
	b = append(b, byte(sh.Need), byte(sh.Index))
	b = append(b, v...)
	sum := sha256.Sum256(b)
	all := letters.EncodeToString(append(b, sum[:sumSize]...))
	clear(b)
	var groups []string
	for len(all) > 4 {
		groups, all = append(groups, all[:4]), all[4:]
	}
	return strings.Join(append(groups, all), "-"), nil
}

// Parse reads a share that was typed or stood in a file: groups apart or not,
// small or capital letters, and 0, 1 and 8 for the letters they look like.
func Parse(text string) (Share, error) {
	if len(text) > 4*wireSize {
		return Share{}, ErrForm
	}
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == '0':
			return 'O'
		case r == '1':
			return 'I'
		case r == '8':
			return 'B'
		case r == '-' || r == ' ' || r == '\t' || r == '\r' || r == '\n':
			return -1
		}
		return r
	}, strings.ToUpper(text))
	b, err := letters.DecodeString(clean)
	if err != nil || len(b) != wireSize || b[0] != version || letters.EncodeToString(b) != clean { // the last letter has bits that nobody reads
		return Share{}, ErrForm
	}
	defer clear(b)
	sum := sha256.Sum256(b[:wireSize-sumSize])
	if !bytes.Equal(sum[:sumSize], b[wireSize-sumSize:]) {
		return Share{}, ErrForm
	}
	sh := Share{Need: int(b[1+idSize]), Index: int(b[2+idSize]), value: curve.NewScalar()}
	copy(sh.set[:], b[1:])
	if err := sh.value.UnmarshalBinary(b[3+idSize : wireSize-sumSize]); err != nil {
		return Share{}, ErrForm
	}
	return sh, nil
}

// Set is the name of the set the share says that it belongs to.
func (sh Share) Set() string { return fmt.Sprintf("%x", sh.set[:]) }
