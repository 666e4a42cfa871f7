package keyd_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

var oaepHashes = []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}

// bareTokens are the modules that bare keys are tried with.
func bareTokens(t testing.TB) map[string]func(testing.TB) (keyd.Device, string) {
	real := func(fixture func(testing.TB) *hsmtest.Fixture, copies bool) func(testing.TB) (keyd.Device, string) {
		return func(t testing.TB) (keyd.Device, string) {
			f := fixture(t)
			return p11.New(p11.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, AllowImported: copies}), f.PIN
		}
	}
	return map[string]func(testing.TB) (keyd.Device, string){
		"memory":  func(testing.TB) (keyd.Device, string) { return hsmtest.NewSoft(), hsmtest.SoftPIN },
		"softhsm": real(hsmtest.SoftHSM, false),
		"nss":     real(hsmtest.NSS, true),
	}
}

// TestBareKeys opens RSA around a bare key, over the socket: each length that
// a key may have, and OAEP with every hash, every other hash in its mask, and
// labels from none to the longest. SoftHSM by itself knows SHA-1 without a
// label only.
func TestBareKeys(t *testing.T) {
	for name, device := range bareTokens(t) {
		t.Run(name, func(t *testing.T) {
			dev, pin := device(t)
			d := opened(t, dev, pin)
			c := client.Dial(d.Use)
			t.Cleanup(func() { c.Close() })
			key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
			try := func(w hsm.Wrapped, size int, what string) {
				t.Helper()
				secret := make([]byte, size)
				rand.Read(secret)
				w = hsmtest.Wrap(t, key.Public, w, hsm.SessionKey{Key: secret})
				unwraps(t, c, key, w, secret, what)
				w.Size = size%64 + 1
				invents(t, c, key, w, w.Size, secret, what+", of another size")
			}
			step := 1
			if name == "nss" { // takes 50 ms for each: one in nine
				step = 9
			}
			for size := 1; size <= 64; size += step {
				try(hsm.Wrapped{Scheme: hsm.PKCS1}, size, fmt.Sprintf("PKCS#1 around %d bytes", size))
				try(hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256}, size, fmt.Sprintf("OAEP around %d bytes", size))
				try(hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA1, Size: size}, size, fmt.Sprintf("OAEP around %d bytes, said", size))
			}
			n := 0
			for _, hash := range oaepHashes {
				for _, mgf := range append([]crypto.Hash{0}, oaepHashes...) {
					for _, label := range [][]byte{nil, []byte("label"), bytes.Repeat([]byte{0}, 1024)} {
						if n++; n%step != 0 {
							continue
						}
						try(hsm.Wrapped{Scheme: hsm.OAEP, Hash: hash, MGFHash: mgf, Label: label}, []int{16, 24, 32, 64}[n%4], fmt.Sprintf("OAEP %s, mask %d, label of %d", hash, mgf, len(label)))
					}
				}
			}
			// What a sender and a reader of OAEP must agree on, and do not.
			secret := bytes.Repeat([]byte{0x5a}, 32)
			good := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256, MGFHash: crypto.SHA1, Label: []byte("l")}, hsm.SessionKey{Key: secret})
			for what, change := range map[string]func(*hsm.Wrapped){
				"another hash":         func(w *hsm.Wrapped) { w.Hash = crypto.SHA512 },
				"hash as long":         func(w *hsm.Wrapped) { w.Hash = crypto.SHA512_256 },
				"another mask":         func(w *hsm.Wrapped) { w.MGFHash = crypto.SHA256 },
				"mask of the hash":     func(w *hsm.Wrapped) { w.MGFHash = 0 },
				"another label":        func(w *hsm.Wrapped) { w.Label = []byte("m") },
				"no label":             func(w *hsm.Wrapped) { w.Label = nil },
				"another scheme":       func(w *hsm.Wrapped) { w.Scheme, w.Size = hsm.PKCS1, 32 },
				"one more byte in one": func(w *hsm.Wrapped) { w.Size = 33 },
			} {
				w := good
				change(&w)
				invents(t, c, key, w, max(32, w.Size), secret, what)
			}
		})
	}
}

// TestOAEPBlocks gives the daemon encryption blocks that are wrong in one
// place each: all of them are answered alike (RFC 8017 §7.1.2 step 3.g).
func TestOAEPBlocks(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	pub := key.Public.(*rsa.PublicKey)
	secret := bytes.Repeat([]byte{0x5a}, 32)
	hash := crypto.SHA256
	for name, x := range map[string]struct {
		change func(db []byte, first *byte)
		size   int // of what comes back
		good   bool
	}{
		"honest":               {func([]byte, *byte) {}, 32, true},
		"first byte":           {func(_ []byte, first *byte) { *first = 1 }, 32, false},
		"label hash":           {func(db []byte, _ *byte) { db[0] ^= 1 }, 32, false},
		"padding not zero":     {func(db []byte, _ *byte) { db[40] = 2 }, 32, false},
		"separator not one":    {func(db []byte, _ *byte) { db[len(db)-33] = 2 }, 32, false},
		"no separator":         {func(db []byte, _ *byte) { clear(db[32:]) }, 32, false},
		"separator at the end": {func(db []byte, _ *byte) { clear(db[32:]); db[len(db)-1] = 1 }, 32, false},
		"longer message":       {func(db []byte, _ *byte) { db[len(db)-34] = 1 }, 33, true},
		"longest message":      {func(db []byte, _ *byte) { db[len(db)-65] = 1 }, 64, true},
		"message too long":     {func(db []byte, _ *byte) { db[len(db)-66] = 1 }, 32, false},
		"no padding at all":    {func(db []byte, _ *byte) { db[32] = 1 }, 32, false},
	} {
		h := hash.New()
		db := append(h.Sum(nil), make([]byte, pub.Size()-2*hash.Size()-1)...)
		db[len(db)-33] = 1
		copy(db[len(db)-32:], secret)
		var first byte
		x.change(db, &first)
		block := maskOAEP(db, hash, first)
		c := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(pub.E)), pub.N)
		got, err := d.Keyd.Unwrap(t.Context(), key.ID, hsm.Wrapped{Scheme: hsm.OAEP, Hash: hash, Ciphertext: c.Bytes()})
		if err != nil || len(got.Key) != x.size || bytes.HasSuffix(got.Key, secret) != x.good {
			t.Errorf("%s: got %x, %v, want %d bytes, the key: %v", name, got.Key, err, x.size, x.good)
		}
	}
}

// maskOAEP is RFC 8017 §7.1.1 step 2.d and after, with a seed of ones.
func maskOAEP(db []byte, hash crypto.Hash, first byte) []byte {
	mask := func(b, seed []byte) {
		for i := range b {
			h := hash.New()
			h.Write(seed)
			h.Write([]byte{0, 0, 0, byte(i / hash.Size())})
			b[i] ^= h.Sum(nil)[i%hash.Size()]
		}
	}
	seed := bytes.Repeat([]byte{1}, hash.Size())
	mask(db, seed)
	mask(seed, db)
	return append(append([]byte{first}, seed...), db...)
}

// TestOAEPOfShortKeys: an old key of 1024 bits has no room for the longest
// hash, which is no secret.
func TestOAEPOfShortKeys(t *testing.T) {
	soft := hsmtest.NewSoft()
	private, err := hsmtest.RSA(1024, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := soft.Put("old", hsm.Unwrap, hsm.Imported, private)
	if err != nil {
		t.Fatal(err)
	}
	d := opened(t, soft, hsmtest.SoftPIN)
	secret := bytes.Repeat([]byte{0x5a}, 24)
	for hash, err := range map[crypto.Hash]error{crypto.SHA256: nil, crypto.SHA384: nil, crypto.SHA512: hsm.ErrInvalid} {
		w := hsm.Wrapped{Scheme: hsm.OAEP, Hash: hash, Ciphertext: make([]byte, 128)}
		if hash.Size()*2+2+len(secret) <= 128 {
			w = hsmtest.Wrap(t, key.Public, w, hsm.SessionKey{Key: secret})
		}
		if _, got := d.Keyd.Unwrap(t.Context(), key.ID, w); !errors.Is(got, err) {
			t.Errorf("%s: got %v, want %v", hash, got, err)
		}
	}
}
