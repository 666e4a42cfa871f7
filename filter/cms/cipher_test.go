package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"postern/hsm/hsmtest"
)

// random is n random bytes.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// contentSizes are some around the borders of blocks and pieces.
var contentSizes = []int{0, 1, 15, 16, 17, 31, 32, 33, 48, 255, 4096, pieceSize - 1, pieceSize, pieceSize + 1, pieceSize + 16, pieceSize + 32, 2*pieceSize - 1, 2 * pieceSize, 3*pieceSize + 5}

// openAll gives ciphertext to o in pieces of a size and gathers what comes out.
func openAll(o opener, ciphertext []byte, size int, attributes, tag []byte) ([]byte, bool) {
	var out []byte
	b := bytes.Clone(ciphertext)
	for len(b) > 0 {
		n := min(size, len(b))
		out = append(out, o.open(b[:n])...)
		b = b[n:]
	}
	rest, ok := o.close(attributes, tag)
	return append(out, rest...), ok
}

// sealAll is the other direction.
func sealAll(s sealer, plaintext []byte, size int) (ciphertext, tag []byte) {
	b := bytes.Clone(plaintext)
	for len(b) >= size {
		s.seal(b[:size])
		ciphertext = append(ciphertext, b[:size]...)
		b = b[size:]
	}
	last, tag := s.close(b)
	return append(ciphertext, last...), tag
}

// The streaming GCM is the one of the standard library, for all sizes of
// content, pieces and attributes.
func TestGCM(t *testing.T) {
	for _, c := range []Cipher{AES128GCM, AES192GCM, AES256GCM} {
		key, nonce := random(c.KeySize()), random(gcmNonce)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		standard, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range contentSizes {
			for _, piece := range []int{16, 48, 1024, pieceSize} {
				for _, attributes := range [][]byte{nil, random(1), random(16), random(83), random(pieceSize + 17)} {
					plaintext := random(size)
					want := standard.Seal(nil, nonce, plaintext, attributes)
					wantTag := want[size:]
					cc := contentCipher{c, nonce, 12 + size%5}
					o, err := cc.opener(key)
					if err != nil {
						t.Fatal(err)
					}
					before := bytes.Clone(attributes)
					got, ok := openAll(o, want[:size], piece, attributes, wantTag[:cc.tag])
					if !ok || !bytes.Equal(got, plaintext) {
						t.Fatalf("open %s of %d bytes in pieces of %d with %d bytes of attributes: got ok=%t, same=%t, want true, true", c, size, piece, len(attributes), ok, bytes.Equal(got, plaintext))
					}
					if !bytes.Equal(before, attributes) {
						t.Fatalf("open %s: the attributes were changed", c)
					}
					if attributes != nil {
						continue
					}
					s, err := cc.sealer(key)
					if err != nil {
						t.Fatal(err)
					}
					ciphertext, tag := sealAll(s, plaintext, piece)
					if !bytes.Equal(ciphertext, want[:size]) || !bytes.Equal(tag, wantTag[:cc.tag]) {
						t.Fatalf("seal %s of %d bytes in pieces of %d: got another ciphertext or tag than the standard library", c, size, piece)
					}
				}
			}
		}
	}
}

// Nonces of any length, and a counter that comes to its end on the way: that
// of GCM begins anew without a carry.
func TestGCMNonce(t *testing.T) {
	key, content := random(16), random(1<<20)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGCM(block, random(gcmNonce), gcmTag)
	if err != nil {
		t.Fatal(err)
	}
	overflows := random(16)
	for i := uint64(0); g.sum.h.first(overflows).low<<32 < (1<<32-1<<15)<<32; i++ {
		binary.BigEndian.PutUint64(overflows, i)
	}
	for _, nonce := range [][]byte{random(1), random(8), random(13), random(16), random(17), random(32), random(gcmMaxNonce), overflows} {
		standard, err := cipher.NewGCMWithNonceSize(block, len(nonce))
		if err != nil {
			t.Fatal(err)
		}
		all := standard.Seal(nil, nonce, content, []byte("attributes"))
		for _, piece := range []int{48, pieceSize} {
			o, err := contentCipher{AES128GCM, nonce, 16}.opener(key)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := openAll(o, all[:len(content)], piece, []byte("attributes"), all[len(content):]); !ok || !bytes.Equal(got, content) {
				t.Errorf("nonce %x, pieces of %d: got ok=%t, same=%t, want true, true", nonce, piece, ok, bytes.Equal(got, content))
			}
		}
	}
}

// NIST SP 800-38D, test case 4 of the authors of GCM: an answer from outside.
func TestGCMKnown(t *testing.T) {
	h := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	cc := contentCipher{AES128GCM, h("cafebabefacedbaddecaf888"), 16}
	o, err := cc.opener(h("feffe9928665731c6d6a8f9467308308"))
	if err != nil {
		t.Fatal(err)
	}
	ciphertext := h("42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091")
	got, ok := openAll(o, ciphertext, 16, h("feedfacedeadbeeffeedfacedeadbeefabaddad2"), h("5bc94fbc3221a5db94fae95ae7121a47"))
	want := h("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
	if !ok || !bytes.Equal(got, want) {
		t.Errorf("test case 4: got %x, %t, want %x, true", got, ok, want)
	}
}

// Every bit of tag, attributes and ciphertext counts.
func TestGCMTampered(t *testing.T) {
	key, nonce, attributes, plaintext := random(16), random(gcmNonce), random(20), random(40)
	block, _ := aes.NewCipher(key)
	standard, _ := cipher.NewGCM(block)
	all := standard.Seal(bytes.Clone(attributes), nonce, plaintext, attributes)
	for i := range len(all) * 8 {
		bad := bytes.Clone(all)
		bad[i/8] ^= 1 << (i % 8)
		o, err := contentCipher{AES128GCM, nonce, 16}.opener(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := openAll(o, bad[20:60], 16, bad[:20], bad[60:]); ok {
			t.Errorf("bit %d flipped: got it opened, want refused", i)
		}
	}
	for _, n := range []int{0, 4, 12, 15, 17} {
		o, err := contentCipher{AES128GCM, nonce, 16}.opener(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := openAll(o, all[20:60], 16, all[:20], append(bytes.Clone(all[60:]), 0)[:n]); ok {
			t.Errorf("tag of %d bytes: got it opened, want refused", n)
		}
	}
}

// The field is commutative and distributes, and the powers are products.
func TestElement(t *testing.T) {
	draw := func() element { return element{mathrand.Uint64(), mathrand.Uint64()} }
	for range 100 {
		a, b, c := draw(), draw(), draw()
		if a.mul(b) != b.mul(a) {
			t.Fatalf("%x·%x: got another product than the other way round", a, b)
		}
		if got, want := a.mul(b.xor(c)), a.mul(b).xor(a.mul(c)); got != want {
			t.Fatalf("%x·(%x+%x): got %x, want %x", a, b, c, got, want)
		}
		want := element{1 << 63, 0}
		for n := range uint64(20) {
			if got := a.power(n); got != want {
				t.Fatalf("%x^%d: got %x, want %x", a, n, got, want)
			}
			want = want.mul(a)
		}
	}
}

func TestChaCha(t *testing.T) {
	key, nonce := random(32), random(12)
	standard, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	open := func(ciphertext, attributes, tag []byte, piece int) ([]byte, bool) {
		o, err := contentCipher{ChaCha20Poly1305, nonce, 16}.opener(key)
		if err != nil {
			t.Fatal(err)
		}
		return openAll(o, ciphertext, piece, attributes, tag)
	}
	for _, size := range contentSizes {
		plaintext := random(size)
		all := standard.Seal(nil, nonce, plaintext, nil)
		for _, piece := range []int{16, 4096, pieceSize} {
			if got, ok := open(all[:size], nil, all[size:], piece); !ok || !bytes.Equal(got, plaintext) {
				t.Errorf("open %d bytes in pieces of %d: got ok=%t, same=%t, want true, true", size, piece, ok, bytes.Equal(got, plaintext))
			}
		}
		for i := range len(all) {
			if i > 20 && i < size-20 {
				continue
			}
			bad := bytes.Clone(all)
			bad[i] ^= 0x40
			if _, ok := open(bad[:size], nil, bad[size:], pieceSize); ok {
				t.Errorf("%d bytes, byte %d changed: got it opened, want refused", size, i)
			}
		}
		if _, ok := open(all[:size], nil, all[size:size+15], pieceSize); ok {
			t.Errorf("%d bytes, short tag: got it opened, want refused", size)
		}
	}
	all := standard.Seal(nil, nonce, []byte("a"), []byte("b"))
	if _, ok := open(all[:1], []byte("b"), all[1:], pieceSize); ok {
		t.Error("with attributes: got it opened, want refused")
	}
}

func TestCBC(t *testing.T) {
	for _, c := range []Cipher{AES128CBC, AES192CBC, AES256CBC} {
		for _, size := range contentSizes {
			for _, piece := range []int{16, 48, 4096, pieceSize} {
				cc := contentCipher{Cipher: c, iv: random(16)}
				key, plaintext := random(c.KeySize()), random(size)
				s, err := cc.sealer(key)
				if err != nil {
					t.Fatal(err)
				}
				ciphertext, _ := sealAll(s, plaintext, piece)
				o, err := cc.opener(key)
				if err != nil {
					t.Fatal(err)
				}
				if got, ok := openAll(o, ciphertext, piece, nil, nil); !ok || !bytes.Equal(got, plaintext) {
					t.Errorf("%s of %d bytes in pieces of %d: got ok=%t, same=%t, want true, true", c, size, piece, ok, bytes.Equal(got, plaintext))
				}
				if o, err = cc.opener(key); err != nil {
					t.Fatal(err)
				}
				if _, ok := openAll(o, ciphertext[:len(ciphertext)-1], piece, nil, nil); ok {
					t.Errorf("%s of %d bytes, torn: got it opened, want refused", c, size)
				}
			}
		}
	}
}

// Every last byte, over every number of right bytes before it.
func TestUnpad(t *testing.T) {
	for _, size := range []int{8, 16} {
		for n := range 256 {
			for right := 1; right <= size; right++ {
				block := bytes.Repeat([]byte{0xee}, size)
				for i := range right {
					block[size-1-i] = byte(n)
				}
				want := n >= 1 && n <= size && right >= n
				wantLength := 0
				if want {
					wantLength = size - n
				}
				if n == 0xee {
					continue
				}
				if length, ok := unpad(block); ok == 1 != want || length != wantLength {
					t.Errorf("unpad %x: got %d, %d, want %d, %t", block, length, ok, wantLength, want)
				}
			}
		}
	}
}

func TestParseCipher(t *testing.T) {
	gcm := func(params string) string { return "3000060960864801650304012e" + params }
	for _, c := range []struct {
		name string
		der  string // the length of the outer sequence is set below
		want contentCipher
		err  error
	}{
		{"AES-128-CBC", "3000060960864801650304010204100102030405060708090a0b0c0d0e0f10", contentCipher{Cipher: AES128CBC, iv: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}, nil},
		{"3DES", "300006082a864886f70d030704080102030405060708", contentCipher{Cipher: TripleDES, iv: []byte{1, 2, 3, 4, 5, 6, 7, 8}}, nil},
		{"GCM", gcm("3011040c0102030405060708090a0b0c020110"), contentCipher{AES256GCM, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 16}, nil},
		{"GCM, tag by default", gcm("300e040c0102030405060708090a0b0c"), contentCipher{AES256GCM, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 12}, nil},
		{"GCM, tag of 11", gcm("3011040c0102030405060708090a0b0c02010b"), contentCipher{}, ErrAlgorithm},
		{"GCM, tag of 17", gcm("3011040c0102030405060708090a0b0c020111"), contentCipher{}, ErrAlgorithm},
		{"GCM, tag below zero", gcm("3011040c0102030405060708090a0b0c0201f0"), contentCipher{}, ErrAlgorithm},
		{"GCM, nonce of 16", gcm("301204100102030405060708090a0b0c0d0e0f10"), contentCipher{AES256GCM, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 12}, nil},
		{"GCM, nonce of 16, tag of 11", gcm("301504100102030405060708090a0b0c0d0e0f1002010b"), contentCipher{}, ErrAlgorithm},
		{"GCM, nonce of 0", gcm("30020400"), contentCipher{}, ErrAlgorithm},
		{"GCM, no parameters", gcm(""), contentCipher{}, ErrForm},
		{"GCM, nonce alone", gcm("040c0102030405060708090a0b0c"), contentCipher{}, ErrForm},
		{"CBC, IV of 8", "3000060960864801650304010204080102030405060708", contentCipher{}, ErrAlgorithm},
		{"CBC, no IV", "30000609608648016503040102", contentCipher{}, ErrForm},
		{"CBC, NULL", "300006096086480165030401020500", contentCipher{}, ErrForm},
		{"CCM", "300006096086480165030401070500", contentCipher{}, ErrAlgorithm},
		{"RC2", "300006082a864886f70d03020500", contentCipher{}, ErrAlgorithm},
		{"ChaCha20", "3000060b2a864886f70d0109100312040c0102030405060708090a0b0c", contentCipher{ChaCha20Poly1305, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 16}, nil},
		{"nothing", "3000", contentCipher{}, ErrForm},
	} {
		der, err := hex.DecodeString(c.der)
		if err != nil {
			t.Fatal(err)
		}
		der[1] = byte(len(der) - 2)
		got, err := parseCipher(der)
		if !errors.Is(err, c.err) || got.Cipher != c.want.Cipher || !bytes.Equal(got.iv, c.want.iv) || got.tag != c.want.tag {
			t.Errorf("%s: got %+v, %v, want %+v, %v", c.name, got, err, c.want, c.err)
		}
	}
	for _, c := range []Cipher{AES128CBC, AES192CBC, AES256CBC, AES128GCM, AES192GCM, AES256GCM} {
		cc := contentCipher{c, random(suites[c].iv), 0}
		if c.Authenticated() {
			cc.tag = 16
		}
		der, err := cc.der()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseCipher(der); err != nil || got.Cipher != c || !bytes.Equal(got.iv, cc.iv) || got.tag != cc.tag {
			t.Errorf("print and read %s: got %+v, %v, want %+v", c, got, err, cc)
		}
	}
}

// The vectors of Wycheproof, where they are: AES-CBC with every wrong padding.
func TestWycheproofCBC(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(hsmtest.Corpora(t), "msgs/wycheproof/aes_cbc_pkcs5_test.json"))
	if err != nil {
		t.Fatal(err)
	}
	type bin string
	var file struct {
		TestGroups []struct {
			KeySize int
			Tests   []struct {
				TcID             int
				Key, IV, Msg, Ct bin
				Result           string
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range file.TestGroups {
		c := map[int]Cipher{128: AES128CBC, 192: AES192CBC, 256: AES256CBC}[g.KeySize]
		for _, v := range g.Tests {
			var b [4][]byte
			for i, s := range []bin{v.Key, v.IV, v.Msg, v.Ct} {
				if b[i], err = hex.DecodeString(string(s)); err != nil {
					t.Fatal(err)
				}
			}
			o, err := contentCipher{Cipher: c, iv: b[1]}.opener(b[0])
			if err != nil {
				t.Fatal(err)
			}
			got, ok := openAll(o, b[3], pieceSize, nil, nil)
			if ok != (v.Result == "valid") || ok && !bytes.Equal(got, b[2]) {
				t.Errorf("test %d: got %x, %t, want %x, %s", v.TcID, got, ok, b[2], v.Result)
			}
			n++
		}
	}
	if n < 200 {
		t.Errorf("got %d vectors, want 200 or more", n)
	}
}
