package keyd_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

var curves = []hsm.Algorithm{hsm.P256, hsm.P384, hsm.P521, hsm.X25519}

// theirs is a public key for ECDH in software.
func theirs(t testing.TB, key hsm.Key) *ecdh.PublicKey {
	t.Helper()
	if k, is := key.Public.(*ecdsa.PublicKey); is {
		p, err := k.ECDH()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return key.Public.(*ecdh.PublicKey)
}

// compressed is a point of a NIST curve in the short form of SEC 1 §2.3.3.
func compressed(point []byte) []byte {
	return append([]byte{2 + point[len(point)-1]&1}, point[1:1+(len(point)-1)/2]...)
}

// unwraps checks that w opens to want.
func unwraps(t testing.TB, k hsm.Token, key hsm.Key, w hsm.Wrapped, want []byte, what string) {
	t.Helper()
	if got, err := k.Unwrap(t.Context(), key.ID, w); err != nil || got.Cipher != 0 || !bytes.Equal(got.Key, want) {
		t.Errorf("%s: got %+v, %v, want %x", what, got, err, want)
	}
}

// invents checks that w opens to a key of a size that is not secret.
func invents(t testing.TB, k hsm.Token, key hsm.Key, w hsm.Wrapped, size int, secret []byte, what string) {
	t.Helper()
	if got, err := k.Unwrap(t.Context(), key.ID, w); err != nil || got.Cipher != 0 || len(got.Key) != size || bytes.Equal(got.Key, secret) {
		t.Errorf("%s: got %+v, %v, want an invented key of %d bytes", what, got, err, size)
	}
}

// TestAgree opens every combination of key derivation, hash, key wrap, UKM and
// form of the point, for P-384 and P-521 a sample of them, over the socket.
func TestAgree(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	c := client.Dial(d.Use)
	t.Cleanup(func() { c.Close() })
	sizes := []int{16, 24, 32, 64}
	n := 0
	for _, a := range curves {
		key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
		for _, scheme := range []hsm.Scheme{hsm.CMSX963, hsm.CMSHKDF} {
			for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
				for _, name := range slices.Sorted(maps.Keys(hsmtest.CMSWraps)) {
					wrap := hsmtest.CMSWraps[name]
					for _, ukm := range [][]byte{nil, {}, []byte("ukm"), bytes.Repeat([]byte{7}, 1024)} {
						n++
						if a == hsm.P384 && n%5 != 0 || a == hsm.P521 && n%7 != 0 {
							continue // slow in software, and the same code as P-256
						}
						what := fmt.Sprintf("%s scheme %d %s %s ukm of %d", a, scheme, hash, name, len(ukm))
						secret := make([]byte, sizes[n%len(sizes)])
						rand.Read(secret)
						w := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: scheme, Hash: hash, WrapAlgorithm: wrap, UKM: ukm}, hsm.SessionKey{Key: secret})
						if scheme == hsm.CMSHKDF && hash.Size() < 32 { // RFC 8418 §2.2 has none such
							if _, err := c.Unwrap(t.Context(), key.ID, w); !errors.Is(err, hsm.ErrInvalid) {
								t.Errorf("%s: got %v, want %v", what, err, hsm.ErrInvalid)
							}
							continue
						}
						unwraps(t, c, key, w, secret, what)
						if a != hsm.X25519 {
							w.Ephemeral = compressed(w.Ephemeral)
							unwraps(t, c, key, w, secret, what+", compressed")
						}
						w.Size = len(secret)
						unwraps(t, c, key, w, secret, what+", size known")
						w.Size = 40
						invents(t, c, key, w, 40, secret, what+", of another size")
					}
				}
			}
		}
	}
}

// TestAgreeBinds: what the derivation takes in is not a matter of taste. Each
// change of it leaves a key of the right length that opens nothing.
func TestAgreeBinds(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	null := func(wrap []byte) []byte {
		return append([]byte{0x30, wrap[1] + 2}, append(slices.Clone(wrap[2:]), 5, 0)...)
	}
	secret := bytes.Repeat([]byte{0x5a}, 24)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.X25519} {
		key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
		for _, scheme := range []hsm.Scheme{hsm.CMSX963, hsm.CMSHKDF} {
			good := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: scheme, WrapAlgorithm: hsmtest.CMSWraps["aes256-wrap"]}, hsm.SessionKey{Key: secret})
			unwraps(t, d.Keyd, key, good, secret, "as it was")
			for name, change := range map[string]func(*hsm.Wrapped){
				"NULL for no parameters": func(w *hsm.Wrapped) { w.WrapAlgorithm = null(w.WrapAlgorithm) },
				"another key wrap":       func(w *hsm.Wrapped) { w.WrapAlgorithm = hsmtest.CMSWraps["aes192-wrap"] },
				"empty UKM":              func(w *hsm.Wrapped) { w.UKM = []byte{} },
				"UKM":                    func(w *hsm.Wrapped) { w.UKM = []byte("ukm") },
				"another hash":           func(w *hsm.Wrapped) { w.Hash = crypto.SHA384 },
				"another derivation": func(w *hsm.Wrapped) {
					w.Scheme = hsm.CMSX963 + hsm.CMSHKDF - w.Scheme
				},
			} {
				w := good
				change(&w)
				invents(t, d.Keyd, key, w, len(secret), secret, fmt.Sprintf("%s scheme %d, %s", a, scheme, name))
			}
			// Both forms of the parameters are read, each as it stands.
			w := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: scheme, WrapAlgorithm: null(hsmtest.CMSWraps["aes128-wrap"])}, hsm.SessionKey{Key: secret})
			unwraps(t, d.Keyd, key, w, secret, "NULL")
		}
	}
}

// TestAgreeWithoutSalt opens what Bouncy Castle sends with UKM and HKDF.
func TestAgreeWithoutSalt(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	key := generate(t, d.Keyd, hsm.X25519, hsm.Unwrap, "test")
	ours, z := agreed(t, key, false)
	secret := bytes.Repeat([]byte{0x5a}, 32)
	for _, ukm := range [][]byte{nil, {}, []byte("ukm")} {
		w := hsm.Wrapped{Scheme: hsm.CMSHKDF, Ephemeral: ours, UKM: ukm}
		unwraps(t, d.Keyd, key, hsmtest.WrapAgreed(t, z, ukm, w, hsm.SessionKey{Key: secret}), secret, fmt.Sprintf("ukm %q as salt", ukm))
		unwraps(t, d.Keyd, key, hsmtest.WrapAgreed(t, z, nil, w, hsm.SessionKey{Key: secret}), secret, fmt.Sprintf("ukm %q, no salt", ukm))
		invents(t, d.Keyd, key, hsmtest.WrapAgreed(t, z, []byte("salt"), w, hsm.SessionKey{Key: secret}), 32, secret, fmt.Sprintf("ukm %q, another salt", ukm))
	}
}

// agreed is a sender's public point and the secret shared with key, which
// begins with a zero if it has to.
func agreed(t testing.TB, key hsm.Key, zero bool) (point, z []byte) {
	t.Helper()
	pub := theirs(t, key)
	for {
		ours, err := pub.Curve().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if z, err = ours.ECDH(pub); err != nil {
			t.Fatal(err)
		}
		if !zero || z[0] == 0 {
			return ours.PublicKey().Bytes(), z
		}
	}
}

// TestAgreeZeros: a shared secret keeps the zeros that it begins with, on real
// modules too, and with them its length.
func TestAgreeZeros(t *testing.T) {
	for name, fixture := range map[string]func(testing.TB) *hsmtest.Fixture{"softhsm": hsmtest.SoftHSM, "nss": hsmtest.NSS} {
		t.Run(name, func(t *testing.T) {
			f := fixture(t)
			d := opened(t, p11.New(p11.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, AllowImported: name == "nss"}), f.PIN)
			secret := bytes.Repeat([]byte{0x5a}, 32)
			for _, a := range curves {
				if a == hsm.X25519 && name == "nss" { // not every version has it
					continue
				}
				key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
				point, z := agreed(t, key, true)
				for _, scheme := range []hsm.Scheme{hsm.CMSX963, hsm.CMSHKDF} {
					w := hsmtest.WrapAgreed(t, z, nil, hsm.Wrapped{Scheme: scheme, Ephemeral: point}, hsm.SessionKey{Key: secret})
					unwraps(t, d.Keyd, key, w, secret, fmt.Sprintf("%s scheme %d, secret %x", a, scheme, z))
					short := hsmtest.WrapAgreed(t, bytes.TrimLeft(z, "\x00"), nil, w, hsm.SessionKey{Key: secret})
					invents(t, d.Keyd, key, short, 32, secret, fmt.Sprintf("%s scheme %d, secret without its zeros", a, scheme))
				}
			}
		})
	}
}

// asked counts what reaches a device.
type asked struct {
	*hsmtest.Soft
	n atomic.Int64
}

func (a *asked) Decrypt(id hsm.KeyID, ciphertext []byte) ([]byte, bool, error) {
	a.n.Add(1)
	return a.Soft.Decrypt(id, ciphertext)
}

func (a *asked) ECDH(id hsm.KeyID, point []byte) ([]byte, error) {
	a.n.Add(1)
	return a.Soft.ECDH(id, point)
}

// TestAgreePoints: no point that is off the curve, in any form, comes near the
// token, and each is answered like a good one.
func TestAgreePoints(t *testing.T) {
	device := &asked{Soft: hsmtest.NewSoft()}
	d := opened(t, device, hsmtest.SoftPIN)
	secret := bytes.Repeat([]byte{0x5a}, 32)
	for _, a := range curves {
		key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
		good := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.CMSX963}, hsm.SessionKey{Key: secret})
		bad := map[string][]byte{
			"none":         {},
			"infinity":     {0},
			"one byte":     {4},
			"cut":          good.Ephemeral[:len(good.Ephemeral)-1],
			"longer":       append(slices.Clone(good.Ephemeral), 0),
			"much longer":  make([]byte, 1024),
			"OpenPGP form": append([]byte{0x40}, good.Ephemeral...),
		}
		if a == hsm.X25519 {
			bad["zero"] = make([]byte, 32)
			bad["one"] = append([]byte{1}, make([]byte, 31)...)
			// A point of order 8 (RFC 7748 §6.1 wants the zero it gives refused).
			bad["low order"], _ = hex.DecodeString("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
		} else {
			point := good.Ephemeral
			size := (len(point) - 1) / 2
			off := slices.Clone(point)
			off[len(off)-1] ^= 1
			bad["off the curve"] = off
			bad["zero point"] = append([]byte{4}, make([]byte, 2*size)...)
			bad["coordinates of ones"] = append([]byte{4}, bytes.Repeat([]byte{0xff}, 2*size)...)
			bad["hybrid"] = append([]byte{6 + point[len(point)-1]&1}, point[1:]...)
			bad["compressed, cut"] = compressed(point)[:size]
			bad["compressed, longer"] = append(compressed(point), 0)
			bad["compressed, beyond the prime"] = append([]byte{2}, bytes.Repeat([]byte{0xff}, size)...)
			bad["compressed, no such point"] = nowhere(t, a)
			other := compressed(point)
			other[0] ^= 1 // on the curve, and the other one of two
			w := good
			w.Ephemeral = other
			// The two points of one x share the x of their secrets: this opens.
			unwraps(t, d.Keyd, key, w, secret, string(a)+", the point below")
		}
		before := device.n.Load()
		for name, point := range bad {
			w := good
			w.Ephemeral = point
			invents(t, d.Keyd, key, w, 32, secret, fmt.Sprintf("%s, %s", a, name))
		}
		if n := device.n.Load() - before; a != hsm.X25519 && n != 0 {
			t.Errorf("%s: %d bad points reached the token", a, n)
		}
	}
}

// nowhere is the compressed form of an x that no point of the curve has.
func nowhere(t testing.TB, a hsm.Algorithm) []byte {
	t.Helper()
	curve := map[hsm.Algorithm]elliptic.Curve{hsm.P256: elliptic.P256(), hsm.P384: elliptic.P384(), hsm.P521: elliptic.P521()}[a]
	point := make([]byte, 1+(curve.Params().BitSize+7)/8)
	point[0] = 2
	for ; point[len(point)-1] < 255; point[len(point)-1]++ {
		if x, _ := elliptic.UnmarshalCompressed(curve, point); x == nil {
			return point
		}
	}
	t.Fatalf("%s: every x has a point", a)
	return nil
}

// TestAgreeRequests: algorithms that a key has not are told from what is wrong
// with a wrapped key, before anything is tried.
func TestAgreeRequests(t *testing.T) {
	device := &asked{Soft: hsmtest.NewSoft()}
	d := opened(t, device, hsmtest.SoftPIN)
	key := generate(t, d.Keyd, hsm.P256, hsm.Unwrap, "test/p-256")
	rsaKey := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test/rsa")
	good := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.CMSX963}, hsm.SessionKey{Key: make([]byte, 32)})
	for name, change := range map[string]func(*hsm.Wrapped){
		"no hash":                  func(w *hsm.Wrapped) { w.Hash = 0 },
		"MD5":                      func(w *hsm.Wrapped) { w.Hash = crypto.MD5 },
		"SHA-512/256":              func(w *hsm.Wrapped) { w.Hash = crypto.SHA512_256 },
		"HKDF with SHA-1":          func(w *hsm.Wrapped) { w.Scheme, w.Hash = hsm.CMSHKDF, crypto.SHA1 },
		"no key wrap":              func(w *hsm.Wrapped) { w.WrapAlgorithm = nil },
		"key wrap of nothing":      func(w *hsm.Wrapped) { w.WrapAlgorithm = []byte{0x30, 0} },
		"key wrap of NULL":         func(w *hsm.Wrapped) { w.WrapAlgorithm = []byte{0x30, 2, 5, 0} },
		"key wrap cut":             func(w *hsm.Wrapped) { w.WrapAlgorithm = w.WrapAlgorithm[:12] },
		"key wrap and more":        func(w *hsm.Wrapped) { w.WrapAlgorithm = append(slices.Clone(w.WrapAlgorithm), 0) },
		"RC2 key wrap":             func(w *hsm.Wrapped) { w.WrapAlgorithm = rc2Wrap },
		"key wrap with padding":    func(w *hsm.Wrapped) { w.WrapAlgorithm = last(w.WrapAlgorithm, 0x30) },
		"cipher for key wrap":      func(w *hsm.Wrapped) { w.WrapAlgorithm = last(w.WrapAlgorithm, 0x2a) },
		"size beyond the longest":  func(w *hsm.Wrapped) { w.Size = 65 },
		"length in another manner": func(w *hsm.Wrapped) { w.WrapAlgorithm = append([]byte{0x30, 0x81, 0x0b}, w.WrapAlgorithm[2:]...) },
	} {
		w := good
		change(&w)
		if _, err := d.Keyd.Unwrap(t.Context(), key.ID, w); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, hsm.ErrInvalid)
		}
	}
	if _, err := d.Keyd.Unwrap(t.Context(), rsaKey.ID, good); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("RSA key: got %v, want %v", err, hsm.ErrInvalid)
	}
	if n := device.n.Load(); n != 0 {
		t.Errorf("the token was asked %d times", n)
	}
}

// rc2Wrap is id-alg-CMSRC2wrap (RFC 3370 §4.3.2).
var rc2Wrap = []byte{0x30, 0x10, 0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x03, 0x07, 0x02, 0x01, 0x3a}

// last is b with another last byte.
func last(b []byte, v byte) []byte { return append(slices.Clone(b[:len(b)-1]), v) }

// TestKeyWraps has the vectors of the standards.
func TestKeyWraps(t *testing.T) {
	for _, x := range []struct {
		name                 string
		unwrap               func(kek, ciphertext []byte) ([]byte, int)
		kek, ciphertext, key string
	}{
		{"RFC 3394 §4.1", keyd.UnwrapAES, "000102030405060708090a0b0c0d0e0f", "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5", "00112233445566778899aabbccddeeff"},
		{"RFC 3394 §4.6", keyd.UnwrapAES, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
			"28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21", "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"},
		{"RFC 3217 §3.4", keyd.Unwrap3DES, "255e0d1c07b646dfb3134cc843ba8aa71f025b7c0838251f",
			"690107618ef092b3b48ca1796b234ae9fa33ebb4159604037db5d6a84eb3aac2768c632775a467d4", "2923bf85e06dd6ae529149f1f1bae9eab3a7da3d860d3e98"},
	} {
		kek, ciphertext, want := unhex(t, x.kek), unhex(t, x.ciphertext), unhex(t, x.key)
		if got, ok := x.unwrap(kek, ciphertext); ok != 1 || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %d, want %x", x.name, got, ok, want)
		}
		for i := range ciphertext {
			bad := slices.Clone(ciphertext)
			bad[i] ^= 0x10
			if _, ok := x.unwrap(kek, bad); ok != 0 {
				t.Errorf("%s: byte %d changed, and taken", x.name, i)
			}
			if got, ok := x.unwrap(kek, ciphertext[:i]); ok != 0 {
				t.Errorf("%s: cut at %d: got %x, %d", x.name, i, got, ok)
			}
		}
		if got, ok := x.unwrap(kek[1:], ciphertext); ok != 0 || got != nil {
			t.Errorf("%s: short key: got %x, %d", x.name, got, ok)
		}
	}
}

// TestX963 has a vector of NIST (CAVS, ANSI X9.63, SHA-256, the first).
func TestX963(t *testing.T) {
	z := unhex(t, "96c05619d56c328ab95fe84b18264b08725b85e33fd34f08")
	if got, want := keyd.X963(crypto.SHA256, z, nil, 16), unhex(t, "443024c3dae66b95e6f5670601558f71"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	// Longer than one block: the blocks stand one behind the other.
	one := crypto.SHA1.New()
	one.Write(append(slices.Clone(z), 0, 0, 0, 1, 'i'))
	two := crypto.SHA1.New()
	two.Write(append(slices.Clone(z), 0, 0, 0, 2, 'i'))
	want := append(one.Sum(nil), two.Sum(nil)...)[:32]
	if got := keyd.X963(crypto.SHA1, z, []byte("i"), 32); !bytes.Equal(got, want) {
		t.Errorf("two blocks: got %x, want %x", got, want)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// trims is a module that gives shared secrets as numbers.
type trims struct{ *hsmtest.Soft }

func (m trims) ECDH(id hsm.KeyID, point []byte) ([]byte, error) {
	z, err := m.Soft.ECDH(id, point)
	return bytes.TrimLeft(z, "\x00"), err
}

// TestAgreeZerosRestored: keyd puts back what such a device drops.
func TestAgreeZerosRestored(t *testing.T) {
	d := opened(t, trims{hsmtest.NewSoft()}, hsmtest.SoftPIN)
	secret := bytes.Repeat([]byte{0x5a}, 32)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.P521, hsm.X25519} {
		key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
		point, z := agreed(t, key, true)
		w := hsmtest.WrapAgreed(t, z, nil, hsm.Wrapped{Scheme: hsm.CMSX963, Ephemeral: point}, hsm.SessionKey{Key: secret})
		unwraps(t, d.Keyd, key, w, secret, string(a))
	}
}

// FuzzAgree: whatever stands in a mail, the answer is a key of a length that
// keys have, the same one every time, or a word about algorithms.
func FuzzAgree(f *testing.F) {
	d := opened(f, hsmtest.NewSoft(), hsmtest.SoftPIN)
	keys := map[bool]hsm.Key{false: generate(f, d.Keyd, hsm.P256, hsm.Unwrap, "p-256"), true: generate(f, d.Keyd, hsm.X25519, hsm.Unwrap, "x25519")}
	for x, key := range keys {
		for _, wrap := range hsmtest.CMSWraps {
			w := hsmtest.Wrap(f, key.Public, hsm.Wrapped{Scheme: hsm.CMSX963, WrapAlgorithm: wrap}, hsm.SessionKey{Key: make([]byte, 24)})
			f.Add(x, false, uint8(crypto.SHA256), uint16(0), w.Ephemeral, w.Ciphertext, w.WrapAlgorithm, []byte("ukm"))
			f.Add(x, true, uint8(crypto.SHA512), uint16(32), w.Ephemeral, w.Ciphertext, w.WrapAlgorithm, []byte(nil))
			if !x {
				f.Add(x, true, uint8(crypto.SHA1), uint16(32), compressed(w.Ephemeral), w.Ciphertext, w.WrapAlgorithm, []byte(nil))
			}
		}
	}
	f.Fuzz(func(t *testing.T, x, hkdf bool, hash uint8, size uint16, point, ciphertext, wrap, ukm []byte) {
		w := hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.Hash(hash), Size: int(size), Ephemeral: point, Ciphertext: ciphertext, WrapAlgorithm: wrap, UKM: ukm}
		if hkdf {
			w.Scheme = hsm.CMSHKDF
		}
		got, err := d.Keyd.Unwrap(t.Context(), keys[x].ID, w)
		if errors.Is(err, hsm.ErrInvalid) {
			return
		}
		if err != nil || len(got.Key) < 1 || len(got.Key) > 64 || (size != 0 && len(got.Key) != int(size)) {
			t.Fatalf("got %+v, %v, want a key of 1 to 64 bytes, and of %d", got, err, size)
		}
		if again, err := d.Keyd.Unwrap(t.Context(), keys[x].ID, w); err != nil || !bytes.Equal(again.Key, got.Key) {
			t.Fatalf("got %+v the second time, %v, want %+v", again, err, got)
		}
	})
}
