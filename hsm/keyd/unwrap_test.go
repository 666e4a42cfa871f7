package keyd_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	openpgpecdh "github.com/ProtonMail/go-crypto/openpgp/ecdh"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgpx25519 "github.com/ProtonMail/go-crypto/openpgp/x25519"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// ways are all schemes with the keys and choices they come with.
var ways = []struct {
	algorithm hsm.Algorithm
	w         hsm.Wrapped
	cipher    uint8 // the session key carries one
}{
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OpenPGPRSA}, 9},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OpenPGPRSA, V6: true}, 0},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OpenPGPRSA, Size: 32}, 9},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.PKCS1, Size: 32}, 0},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA1}, 0},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256, Size: 32}, 0},
	{hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA512, MGFHash: crypto.SHA1, Label: []byte("label"), Size: 32}, 0},
	{hsm.P256, hsm.Wrapped{Scheme: hsm.OpenPGPECDH}, 9},
	{hsm.P256, hsm.Wrapped{Scheme: hsm.OpenPGPECDH, V6: true, Fingerprint: make([]byte, 32)}, 0},
	{hsm.P384, hsm.Wrapped{Scheme: hsm.OpenPGPECDH, KDFHash: 9, KDFCipher: 8}, 9},
	{hsm.P521, hsm.Wrapped{Scheme: hsm.OpenPGPECDH, KDFHash: 10, KDFCipher: 9}, 9},
	{hsm.X25519, hsm.Wrapped{Scheme: hsm.OpenPGPECDH}, 9},
	{hsm.X25519, hsm.Wrapped{Scheme: hsm.OpenPGPX25519}, 9},
	{hsm.X25519, hsm.Wrapped{Scheme: hsm.OpenPGPX25519, V6: true}, 0},
	{hsm.P256, hsm.Wrapped{Scheme: hsm.CMSX963}, 0},
	{hsm.P256, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA1, WrapAlgorithm: hsmtest.CMSWraps["des3-wrap"], Size: 32}, 0},
	{hsm.P384, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA384, UKM: []byte("ukm"), Size: 32}, 0},
	{hsm.P521, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA512, WrapAlgorithm: hsmtest.CMSWraps["aes128-wrap"]}, 0},
	{hsm.X25519, hsm.Wrapped{Scheme: hsm.CMSX963, Hash: crypto.SHA512}, 0},
	{hsm.X25519, hsm.Wrapped{Scheme: hsm.CMSHKDF, UKM: []byte("ukm")}, 0},
	{hsm.P256, hsm.Wrapped{Scheme: hsm.CMSHKDF, Hash: crypto.SHA384}, 0},
}

func wayName(n int) string {
	w := ways[n].w
	return fmt.Sprintf("%s scheme %d v6 %v size %d hash %d wrap %x ukm %q", ways[n].algorithm, w.Scheme, w.V6, w.Size, w.Hash, w.WrapAlgorithm, w.UKM)
}

// opened is a Keeper on device without budgets.
func opened(t testing.TB, device keyd.Device, pin string) *hsmtest.Daemon {
	t.Helper()
	d := hsmtest.NewDaemon(t, device, pin)
	d.Config.Budget = keyd.Budget{Failures: -1, Rate: -1}
	d.Start()
	d.Reach(hsm.Ready)
	return d
}

// pairs makes one unwrap key for each algorithm of ways.
func pairs(t testing.TB, k hsm.Keeper) map[hsm.Algorithm]hsm.Key {
	t.Helper()
	keys := map[hsm.Algorithm]hsm.Key{}
	for _, w := range ways {
		if _, there := keys[w.algorithm]; !there {
			keys[w.algorithm] = generate(t, k, w.algorithm, hsm.Unwrap, "test/"+string(w.algorithm))
		}
	}
	return keys
}

// TestUnwrap opens what a sender wrapped, with a module that leaves the
// padding alone and with one that does not.
func TestUnwrap(t *testing.T) {
	for _, strip := range []bool{false, true} {
		soft := hsmtest.NewSoft()
		soft.Strip = strip
		d := opened(t, soft, hsmtest.SoftPIN)
		keys := pairs(t, d.Keyd)
		for n, way := range ways {
			for _, size := range []int{16, 24, 32} {
				want := hsm.SessionKey{Cipher: way.cipher, Key: make([]byte, size)}
				if way.cipher != 0 {
					want.Cipher = map[int]uint8{16: 7, 24: 8, 32: 9}[size]
				}
				rand.Read(want.Key)
				template := way.w
				if template.Size != 0 {
					template.Size = size
				}
				key := keys[way.algorithm]
				w := hsmtest.Wrap(t, key.Public, template, want)
				got, err := d.Keyd.Unwrap(t.Context(), key.ID, w)
				if strip && way.w.Scheme == hsm.OAEP {
					if !errors.Is(err, hsm.ErrInvalid) {
						t.Errorf("%s, module that strips: got %v, want %v", wayName(n), err, hsm.ErrInvalid)
					}
					continue
				}
				if err != nil || got.Cipher != want.Cipher || !bytes.Equal(got.Key, want.Key) {
					t.Errorf("%s, %d bytes, strip %v: got %+v, %v, want %+v", wayName(n), size, strip, got, err, want)
				}
			}
		}
	}
}

// shape is what of a result does not depend on the secret.
type shape struct {
	size   int
	cipher uint8
}

// TestImplicitRejection (R6): ten thousand wrapped keys that are wrong, for
// each scheme: never an error, always a session key of the shape of an honest
// one, the same for the same input and another for another.
func TestImplicitRejection(t *testing.T) {
	chance := mathrand.New(mathrand.NewPCG(1, 2))
	soft := newSwitchboard(hsmtest.NewSoft())
	d := opened(t, noise{soft}, hsmtest.SoftPIN)
	keys := pairs(t, d.Keyd)
	for n, way := range ways {
		if way.w.Scheme == hsm.CMSX963 && way.algorithm != hsm.P256 {
			continue // what differs is before the noise
		}
		t.Run(wayName(n), func(t *testing.T) {
			key := keys[way.algorithm]
			good := hsmtest.Wrap(t, key.Public, way.w, hsm.SessionKey{Cipher: way.cipher, Key: make([]byte, 32)})
			want := shape{32, way.cipher}
			seen := map[string]bool{}
			for i := range 10_000 {
				w := good
				w.Ciphertext = garbage(chance, len(good.Ciphertext))
				got, err := d.Keyd.Unwrap(t.Context(), key.ID, w)
				if err != nil || (shape{len(got.Key), got.Cipher}) != want {
					t.Fatalf("%x: got %+v, %v, want %+v", w.Ciphertext, got, err, want)
				}
				if seen[string(got.Key)] {
					t.Fatalf("%x: key %x came before", w.Ciphertext, got.Key)
				}
				seen[string(got.Key)] = true
				if i%100 != 0 {
					continue
				}
				if again, err := d.Keyd.Unwrap(t.Context(), key.ID, w); err != nil || !bytes.Equal(again.Key, got.Key) || again.Cipher != got.Cipher {
					t.Fatalf("%x: got %+v the second time, %v, want %+v", w.Ciphertext, again, err, got)
				}
			}
		})
	}
}

// noise answers with what is made from the input, as random as the token's own
// answer to a random input and without its price.
type noise struct{ *switchboard }

func (noise) Decrypt(_ hsm.KeyID, ciphertext []byte) ([]byte, bool, error) {
	sum := sha256.Sum256(ciphertext)
	block := make([]byte, len(ciphertext))
	mathrand.NewChaCha8(sum).Read(block)
	block[0] = 0 // half of what would be refused by its first byte goes further
	return block, true, nil
}

// ECDH answers with the hash of the point, for the same reason.
func (noise) ECDH(_ hsm.KeyID, point []byte) ([]byte, error) {
	sum := sha512.Sum512(point)
	return append(sum[:], 1, 2)[:map[int]int{32: 32, 65: 32, 97: 48, 133: 66}[len(point)]], nil
}

func garbage(r *mathrand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0] &= 0x3f // below every modulus
	return b
}

// mangled are the ways in which a wrapped key is wrong by a little.
func mangled(w hsm.Wrapped) map[string]hsm.Wrapped {
	all := map[string]hsm.Wrapped{}
	add := func(name string, change func(w *hsm.Wrapped)) {
		c := w
		c.Ciphertext, c.Ephemeral = bytes.Clone(w.Ciphertext), bytes.Clone(w.Ephemeral)
		change(&c)
		all[name] = c
	}
	add("first byte", func(w *hsm.Wrapped) { w.Ciphertext[0] ^= 1 })
	add("last byte", func(w *hsm.Wrapped) { w.Ciphertext[len(w.Ciphertext)-1] ^= 1 })
	add("cut", func(w *hsm.Wrapped) { w.Ciphertext = w.Ciphertext[:len(w.Ciphertext)-1] })
	add("longer", func(w *hsm.Wrapped) { w.Ciphertext = append(w.Ciphertext, 0) })
	add("much longer", func(w *hsm.Wrapped) { w.Ciphertext = make([]byte, 4096) })
	add("none", func(w *hsm.Wrapped) { w.Ciphertext = nil })
	add("zero", func(w *hsm.Wrapped) { clear(w.Ciphertext) })
	add("all ones", func(w *hsm.Wrapped) {
		for i := range w.Ciphertext {
			w.Ciphertext[i] = 0xff
		}
	})
	if w.Ephemeral != nil {
		add("point off the curve", func(w *hsm.Wrapped) { w.Ephemeral[len(w.Ephemeral)-1] ^= 1 })
		add("no point", func(w *hsm.Wrapped) { w.Ephemeral = nil })
		add("zero point", func(w *hsm.Wrapped) { clear(w.Ephemeral) })
		add("point of another length", func(w *hsm.Wrapped) { w.Ephemeral = w.Ephemeral[1:] })
		add("compressed point", func(w *hsm.Wrapped) { w.Ephemeral = append([]byte{2}, w.Ephemeral[:len(w.Ephemeral)/2]...) })
	}
	return all
}

// rejects checks that each mangled key gives a key of the right shape.
func rejects(t *testing.T, k hsm.Keeper, key hsm.Key, n int) {
	t.Helper()
	way := ways[n]
	secret := hsm.SessionKey{Cipher: way.cipher, Key: bytes.Repeat([]byte{0x5a}, 32)}
	good := hsmtest.Wrap(t, key.Public, way.w, secret)
	for name, w := range mangled(good) {
		got, err := k.Unwrap(t.Context(), key.ID, w)
		if err != nil || len(got.Key) != 32 || got.Cipher != way.cipher || bytes.Equal(got.Key, secret.Key) {
			t.Errorf("%s, %s: got %+v, %v, want a key of 32 bytes and cipher %d", wayName(n), name, got, err, way.cipher)
		}
		again, err := k.Unwrap(t.Context(), key.ID, w)
		if err != nil || !bytes.Equal(again.Key, got.Key) {
			t.Errorf("%s, %s: got %+v the second time, %v", wayName(n), name, again, err)
		}
	}
}

// TestMangled: what is wrong by a little is answered like what is right, with
// both kinds of module.
func TestMangled(t *testing.T) {
	for _, strip := range []bool{false, true} {
		soft := hsmtest.NewSoft()
		soft.Strip = strip
		d := opened(t, soft, hsmtest.SoftPIN)
		keys := pairs(t, d.Keyd)
		for n, way := range ways {
			if way.w.Scheme == hsm.OAEP && strip {
				continue
			}
			rejects(t, d.Keyd, keys[way.algorithm], n)
		}
	}
}

// TestPaddings gives the daemon encryption blocks that are wrong in one place
// each, made with the public key: padding, cipher, checksum, length.
func TestPaddings(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	pub := key.Public.(*rsa.PublicKey)
	secret := bytes.Repeat([]byte{0x5a}, 32)
	// The honest block: 0 2 padding 0 cipher key checksum.
	honest := make([]byte, pub.Size())
	for i := range honest {
		honest[i] = 0xaa
	}
	honest[0], honest[1] = 0, 2
	tail := append(append([]byte{0, 9}, secret...), 0, 0)
	binary.BigEndian.PutUint16(tail[34:], 32*0x5a)
	copy(honest[len(honest)-len(tail):], tail)
	at := len(honest) - len(tail) // of the zero
	for name, x := range map[string]struct {
		change func(b []byte)
		good   bool
	}{
		"honest":             {func([]byte) {}, true},
		"first byte":         {func(b []byte) { b[0] = 1 }, false},
		"block type":         {func(b []byte) { b[1] = 1 }, false},
		"zero in padding":    {func(b []byte) { b[5] = 0 }, false},
		"zero just before":   {func(b []byte) { b[at-1] = 0 }, false},
		"no separator":       {func(b []byte) { b[at] = 1 }, false},
		"cipher unknown":     {func(b []byte) { b[at+1] = 99 }, false},
		"cipher of 16 bytes": {func(b []byte) { b[at+1] = 7 }, false},
		"cipher zero":        {func(b []byte) { b[at+1] = 0 }, false},
		"checksum":           {func(b []byte) { b[len(b)-1] ^= 1 }, false},
		"key changed":        {func(b []byte) { b[at+2] ^= 1 }, false},
	} {
		block := bytes.Clone(honest)
		x.change(block)
		c := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(pub.E)), pub.N)
		got, err := d.Keyd.Unwrap(t.Context(), key.ID, hsm.Wrapped{Scheme: hsm.OpenPGPRSA, Ciphertext: c.Bytes()})
		if err != nil || len(got.Key) != 32 || got.Cipher != 9 || bytes.Equal(got.Key, secret) != x.good {
			t.Errorf("%s: got %+v, %v, want the key: %v", name, got, err, x.good)
		}
	}
}

// TestRequests: what the caller chose, and the mail has nothing to do with, is
// refused before anything is tried.
func TestRequests(t *testing.T) {
	d := opened(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	keys := pairs(t, d.Keyd)
	ecdhOK := hsmtest.Wrap(t, keys[hsm.P256].Public, hsm.Wrapped{Scheme: hsm.OpenPGPECDH}, hsm.SessionKey{Cipher: 9, Key: make([]byte, 32)})
	change := func(f func(w *hsm.Wrapped)) hsm.Wrapped { w := ecdhOK; f(&w); return w }
	for name, x := range map[string]struct {
		algorithm hsm.Algorithm
		w         hsm.Wrapped
	}{
		"no scheme":                       {hsm.RSA2048, hsm.Wrapped{}},
		"unknown scheme":                  {hsm.RSA2048, hsm.Wrapped{Scheme: 99}},
		"RSA scheme with a curve":         {hsm.P256, hsm.Wrapped{Scheme: hsm.OpenPGPRSA}},
		"PKCS#1 with a curve":             {hsm.X25519, hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16}},
		"OAEP with a curve":               {hsm.P256, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256}},
		"ECDH with RSA":                   {hsm.RSA2048, ecdhOK},
		"X25519 scheme with P-256":        {hsm.P256, hsm.Wrapped{Scheme: hsm.OpenPGPX25519}},
		"PKCS#1 without a size":           {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.PKCS1}},
		"size beyond the longest":         {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.PKCS1, Size: 65}},
		"negative size":                   {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.PKCS1, Size: -1}},
		"OpenPGP size of no cipher":       {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OpenPGPRSA, Size: 17}},
		"OAEP without a hash":             {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OAEP}},
		"another curve":                   {hsm.P256, change(func(w *hsm.Wrapped) { w.CurveOID = []byte{0x2b, 0x81, 0x04, 0x00, 0x22} })},
		"KDF hash too short":              {hsm.P256, change(func(w *hsm.Wrapped) { w.KDFHash = 2 })},
		"KDF cipher that is no AES":       {hsm.P256, change(func(w *hsm.Wrapped) { w.KDFCipher = 3 })},
		"no fingerprint":                  {hsm.P256, change(func(w *hsm.Wrapped) { w.Fingerprint = []byte{} })},
		"Curve25519Legacy in version 6":   {hsm.X25519, change(func(w *hsm.Wrapped) { w.V6 = true; w.CurveOID = []byte{0x2b, 6, 1, 4, 1, 0x97, 0x55, 1, 5, 1} })},
		"hash that nobody has here (MD4)": {hsm.RSA2048, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.MD4}},
	} {
		x.w.Ciphertext = append(x.w.Ciphertext, 1)
		if _, err := d.Keyd.Unwrap(t.Context(), keys[x.algorithm].ID, x.w); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, hsm.ErrInvalid)
		}
	}
}

// TestOpenPGPPeers opens what another implementation of OpenPGP wrapped, for
// each kind of key, and each version of session-key packet.
func TestOpenPGPPeers(t *testing.T) {
	soft := hsmtest.NewSoft()
	d := opened(t, soft, hsmtest.SoftPIN)
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		name   string
		config packet.Config
		v6     []bool // versions of the session-key packet
	}{
		{"RSA", packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048}, []bool{false, true}},
		{"RSA v6", packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, V6Keys: true}, []bool{false, true}},
		{"P-256", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256}, []bool{false, true}},
		{"P-384", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP384}, []bool{false, true}},
		{"P-521", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP521}, []bool{false, true}},
		{"P-256 v6", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256, V6Keys: true}, []bool{false, true}},
		{"Curve25519Legacy", packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519}, []bool{false}},
		{"X25519 v4", packet.Config{Algorithm: packet.PubKeyAlgoEd25519}, []bool{false, true}},
		{"X25519 v6", packet.Config{Algorithm: packet.PubKeyAlgoEd25519, V6Keys: true}, []bool{false, true}},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.config.Time = func() time.Time { return created }
			e, err := openpgp.NewEntity("Test", "", "test@company1.example", &x.config)
			if err != nil {
				t.Fatal(err)
			}
			sub := e.Subkeys[0]
			private := imported(t, sub.PrivateKey.PrivateKey)
			key, err := soft.Put("peer/"+x.name, hsm.Unwrap, hsm.Imported, private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Keyd.Audit(t.Context()); err != nil { // reads the token again
				t.Fatal(err)
			}
			for _, v6 := range x.v6 {
				for cipher, size := range map[packet.CipherFunction]int{packet.CipherAES128: 16, packet.CipherAES192: 24, packet.CipherAES256: 32} {
					want := make([]byte, size)
					rand.Read(want)
					var b bytes.Buffer
					if err := packet.SerializeEncryptedKeyAEAD(&b, sub.PublicKey, cipher, v6, want, &x.config); err != nil {
						t.Fatal(err)
					}
					w := parse(t, b.Bytes(), sub.PublicKey)
					got, err := d.Keyd.Unwrap(t.Context(), key.ID, w)
					wantCipher := uint8(cipher)
					if v6 {
						wantCipher = 0
					}
					if err != nil || !bytes.Equal(got.Key, want) || got.Cipher != wantCipher {
						t.Errorf("v6 %v, %d bytes: got %+v, %v, want %x and cipher %d", v6, size, got, err, want, wantCipher)
					}
				}
			}
		})
	}
}

// imported turns a private key of OpenPGP into one of the standard library.
func imported(t *testing.T, private any) crypto.PrivateKey {
	t.Helper()
	switch k := private.(type) {
	case *rsa.PrivateKey:
		return k
	case *openpgpx25519.PrivateKey:
		out, err := ecdh.X25519().NewPrivateKey(k.Secret)
		if err != nil {
			t.Fatal(err)
		}
		return out
	case *openpgpecdh.PrivateKey:
		secret := k.MarshalByteSecret()
		var curve elliptic.Curve
		switch len(k.MarshalPoint()) {
		case 33:
			slices.Reverse(secret)
			out, err := ecdh.X25519().NewPrivateKey(secret)
			if err != nil {
				t.Fatal(err)
			}
			return out
		case 65:
			curve = elliptic.P256()
		case 97:
			curve = elliptic.P384()
		case 133:
			curve = elliptic.P521()
		}
		size := (curve.Params().BitSize + 7) / 8
		out, err := ecdsa.ParseRawPrivateKey(curve, append(make([]byte, size-len(secret)), secret...))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Fatalf("key of type %T", private)
	return nil
}

// parse reads a session-key packet (RFC 9580 §5.1) for pub.
func parse(t *testing.T, b []byte, pub *packet.PublicKey) hsm.Wrapped {
	t.Helper()
	o, err := packet.NewOpaqueReader(bytes.NewReader(b)).Next()
	if err != nil {
		t.Fatal(err)
	}
	b = o.Contents
	w := hsm.Wrapped{V6: b[0] == 6, Fingerprint: pub.Fingerprint}
	if w.V6 {
		b = b[2+int(b[1]):]
	} else {
		b = b[9:]
	}
	algorithm := packet.PublicKeyAlgorithm(b[0])
	b = b[1:]
	mpi := func() []byte {
		n := (int(binary.BigEndian.Uint16(b)) + 7) / 8
		v := b[2 : 2+n]
		b = b[2+n:]
		return v
	}
	switch algorithm {
	case packet.PubKeyAlgoRSA:
		w.Scheme, w.Ciphertext = hsm.OpenPGPRSA, mpi()
	case packet.PubKeyAlgoECDH:
		k := pub.PublicKey.(*openpgpecdh.PublicKey)
		w.Scheme, w.Ephemeral, w.Ciphertext = hsm.OpenPGPECDH, mpi(), b[1:]
		w.KDFHash, w.KDFCipher = k.Hash.Id(), k.Cipher.Id()
		w.CurveOID = map[int][]byte{
			33:  {0x2b, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01},
			65:  {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
			97:  {0x2b, 0x81, 0x04, 0x00, 0x22},
			133: {0x2b, 0x81, 0x04, 0x00, 0x23},
		}[len(w.Ephemeral)]
		if len(w.Ephemeral) == 33 {
			w.Ephemeral = w.Ephemeral[1:]
		}
	case packet.PubKeyAlgoX25519:
		w.Scheme, w.Ephemeral, b = hsm.OpenPGPX25519, b[:32], b[33:]
		if !w.V6 {
			w.Cipher, b = b[0], b[1:]
		}
		w.Ciphertext = b
	default:
		t.Fatalf("algorithm %d", algorithm)
	}
	return w
}
