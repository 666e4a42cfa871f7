package hsmtest_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// TestMemory makes each algorithm and signs with it; a signature that the
// public key does not verify would not come back.
func TestMemory(t *testing.T) {
	token := hsmtest.Memory(t)
	counter := hsmtest.Count(token)
	digest := sha256.Sum256([]byte("mail"))
	for _, c := range []struct {
		algorithm hsm.Algorithm
		algs      []hsm.SignAlg
	}{
		{hsm.RSA2048, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
		{hsm.RSA3072, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
		{hsm.RSA4096, []hsm.SignAlg{hsm.PKCS1SHA256, hsm.PSSSHA256}},
		{hsm.P256, []hsm.SignAlg{hsm.ECDSA}},
		{hsm.P384, []hsm.SignAlg{hsm.ECDSA}},
		{hsm.P521, []hsm.SignAlg{hsm.ECDSA}},
		{hsm.Ed25519, []hsm.SignAlg{hsm.PureEdDSA}},
	} {
		key, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: c.algorithm, Usage: hsm.Sign, Label: "test/" + string(c.algorithm)})
		if err != nil {
			t.Fatalf("%s: generate: %v", c.algorithm, err)
		}
		for _, alg := range c.algs {
			if _, err := counter.Sign(t.Context(), key.ID, alg, digest[:]); err != nil {
				t.Errorf("%s: sign with %d: %v", c.algorithm, alg, err)
			}
		}
	}
	if counter.Signs() != 10 || counter.Unwraps() != 0 {
		t.Errorf("got %d signs and %d unwraps counted, want 10 and 0", counter.Signs(), counter.Unwraps())
	}
}

// TestMemoryUnwrap opens a bare key with RSA, and makes one up for garbage.
func TestMemoryUnwrap(t *testing.T) {
	token := hsmtest.Memory(t)
	key, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.RSA2048, Usage: hsm.Unwrap, Label: "test/unwrap"})
	if err != nil {
		t.Fatal(err)
	}
	want := "0123456789abcdef"
	//lint:ignore SA1019 mail is still wrapped so
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, key.Public.(*rsa.PublicKey), []byte(want))
	if err != nil {
		t.Fatal(err)
	}
	w := hsm.Wrapped{Scheme: hsm.PKCS1, Ciphertext: wrapped, Size: 16}
	if got, err := token.Unwrap(t.Context(), key.ID, w); err != nil || string(got.Key) != want {
		t.Errorf("got %x, %v, want %x", got.Key, err, want)
	}
	wrapped[9] ^= 1
	if got, err := token.Unwrap(t.Context(), key.ID, w); err != nil || len(got.Key) != 16 || string(got.Key) == want {
		t.Errorf("changed: got %x, %v, want another key of 16 bytes", got.Key, err)
	}
}
