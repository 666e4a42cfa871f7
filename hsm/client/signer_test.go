package client_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
)

func signer(t *testing.T, token hsm.Token, key hsm.Key) crypto.Signer {
	t.Helper()
	s, err := client.Signer(t.Context(), token, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSigner signs in every way, and refuses the others.
func TestSigner(t *testing.T) {
	_, _, c := serve(t)
	long := sha512.Sum512([]byte("mail"))
	old := sha1.Sum([]byte("mail"))
	keys := map[hsm.Algorithm]crypto.Signer{}
	for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.P256, hsm.P521, hsm.Ed25519} {
		keys[a] = signer(t, c, generate(t, c, a, hsm.Sign))
	}
	for _, x := range []struct {
		name      string
		algorithm hsm.Algorithm
		digest    []byte
		opts      crypto.SignerOpts
		good      bool
	}{
		{"PKCS#1 SHA-256", hsm.RSA2048, digest[:], crypto.SHA256, true},
		{"PKCS#1 SHA-512", hsm.RSA2048, long[:], crypto.SHA512, true},
		{"PSS as long as the hash", hsm.RSA2048, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, true},
		{"PSS automatic", hsm.RSA2048, digest[:], &rsa.PSSOptions{Hash: crypto.SHA256}, true},
		{"PSS 64", hsm.RSA2048, long[:], &rsa.PSSOptions{SaltLength: 64, Hash: crypto.SHA512}, true},
		{"ECDSA", hsm.P256, digest[:], crypto.SHA256, true},
		{"ECDSA with a digest beyond the curve", hsm.P256, long[:], crypto.SHA512, true},
		{"ECDSA P-521", hsm.P521, long[:], crypto.SHA512, true},
		{"Ed25519", hsm.Ed25519, []byte("a message"), crypto.Hash(0), true},
		{"Ed25519 with options", hsm.Ed25519, []byte("a message"), &ed25519.Options{}, true},

		{"no options", hsm.RSA2048, digest[:], nil, false},
		{"no hash", hsm.RSA2048, digest[:], crypto.Hash(0), false},
		{"SHA-1", hsm.RSA2048, old[:], crypto.SHA1, false},
		{"digest of another hash", hsm.RSA2048, digest[:], crypto.SHA512, false},
		{"PSS with another salt", hsm.RSA2048, digest[:], &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256}, false},
		{"PSS without a hash", hsm.RSA2048, digest[:], &rsa.PSSOptions{}, false},
		{"ECDSA SHA-1", hsm.P256, old[:], crypto.SHA1, false},
		{"ECDSA without a hash", hsm.P256, digest[:], crypto.Hash(0), false},
		{"Ed25519ph", hsm.Ed25519, long[:], crypto.SHA512, false},
		{"Ed25519 with a context", hsm.Ed25519, []byte("a message"), &ed25519.Options{Context: "x"}, false},
		{"Ed25519 of a long message", hsm.Ed25519, make([]byte, hsm.MaxMessage+1), crypto.Hash(0), false},
	} {
		s := keys[x.algorithm]
		sig, err := s.Sign(rand.Reader, x.digest, x.opts)
		if !x.good {
			if !errors.Is(err, hsm.ErrInvalid) {
				t.Errorf("%s: got %v, want %v", x.name, err, hsm.ErrInvalid)
			}
			continue
		}
		good := false
		switch pub := s.Public().(type) {
		case *rsa.PublicKey:
			if o, ok := x.opts.(*rsa.PSSOptions); ok {
				good = rsa.VerifyPSS(pub, o.Hash, x.digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
			} else {
				good = rsa.VerifyPKCS1v15(pub, x.opts.HashFunc(), x.digest, sig) == nil
			}
		case *ecdsa.PublicKey:
			good = ecdsa.VerifyASN1(pub, x.digest, sig)
		case ed25519.PublicKey:
			good = ed25519.Verify(pub, x.digest, sig)
		}
		if err != nil || !good {
			t.Errorf("%s: got %v, verified %v", x.name, err, good)
		}
	}
}

// TestSignerErr: an error that a library swallows is still to be seen, and is
// not washed away by what goes well later.
func TestSignerErr(t *testing.T) {
	d, _, c := serve(t)
	s := signer(t, c, generate(t, c, hsm.P256, hsm.Sign)).(*client.SigningKey)
	if _, err := s.Sign(nil, digest[:], crypto.SHA256); err != nil || s.Err() != nil {
		t.Fatalf("got %v, kept %v, want neither", err, s.Err())
	}
	d.Stop()
	s.Sign(nil, digest[:], crypto.SHA256)
	d.Start()
	d.Reach(hsm.Ready)
	if _, err := s.Sign(nil, digest[:], crypto.SHA256); err != nil || !errors.Is(s.Err(), hsm.ErrAway) {
		t.Errorf("got %v, kept %v, want nil and %v", err, s.Err(), hsm.ErrAway)
	}
}

// TestSignerContext: the context is that of its making.
func TestSignerContext(t *testing.T) {
	token := hsmtest.Memory(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := client.Signer(ctx, token, generate(t, token, hsm.P256, hsm.Sign))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("got %v, want %v", err, hsm.ErrAway)
	}
}

// TestWrongKeys: no signer of a key that unwraps, and the other way round.
func TestWrongKeys(t *testing.T) {
	token := hsmtest.Memory(t)
	signing, opening, curve := generate(t, token, hsm.RSA2048, hsm.Sign), generate(t, token, hsm.RSA2048, hsm.Unwrap), generate(t, token, hsm.X25519, hsm.Unwrap)
	retired := signing
	retired.Retired = true
	odd := curve
	odd.Usage = hsm.Sign
	for _, x := range []struct {
		name string
		make func() error
		want error
	}{
		{"signer of an unwrap key", func() error { return second(client.Signer(t.Context(), token, opening)) }, hsm.ErrRefused},
		{"signer of a retired key", func() error { return second(client.Signer(t.Context(), token, retired)) }, hsm.ErrRefused},
		{"signer of X25519", func() error { return second(client.Signer(t.Context(), token, odd)) }, hsm.ErrInvalid},
		{"decrypter of a signing key", func() error { return second(client.Decrypter(t.Context(), token, signing)) }, hsm.ErrRefused},
		{"decrypter of X25519", func() error { return second(client.Decrypter(t.Context(), token, curve)) }, hsm.ErrInvalid},
	} {
		if err := x.make(); !errors.Is(err, x.want) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
	}
}

// TestDecrypter opens bare keys, makes one up for garbage, and is no oracle.
func TestDecrypter(t *testing.T) {
	_, _, c := serve(t)
	key := generate(t, c, hsm.RSA2048, hsm.Unwrap)
	got, err := client.Decrypter(t.Context(), c, key)
	if err != nil {
		t.Fatal(err)
	}
	d := got.(*client.DecryptingKey)
	want := bytes.Repeat([]byte{5}, 24)
	pkcs1 := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.PKCS1}, hsm.SessionKey{Key: want})
	oaep := hsmtest.Wrap(t, key.Public, hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256, MGFHash: crypto.SHA1, Label: []byte("l")}, hsm.SessionKey{Key: want})
	oaepOptions := &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1, Label: []byte("l")}
	//lint:ignore SA1019 mail is wrapped so
	sized := &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 24}
	if got, err := d.Decrypt(nil, pkcs1.Ciphertext, sized); err != nil || !bytes.Equal(got, want) {
		t.Errorf("PKCS#1: got %x, %v", got, err)
	}
	if got, err := d.Decrypt(nil, oaep.Ciphertext, oaepOptions); err != nil || !bytes.Equal(got, want) {
		t.Errorf("OAEP: got %x, %v", got, err)
	}
	bad := bytes.Clone(pkcs1.Ciphertext)
	bad[20] ^= 1
	if got, err := d.Decrypt(nil, bad, sized); err != nil || len(got) != 24 || bytes.Equal(got, want) {
		t.Errorf("PKCS#1 of garbage: got %x, %v, want a key of 24 bytes", got, err)
	}
	if got, err := d.Decrypt(nil, bad, oaepOptions); err != nil || len(got) == 0 {
		t.Errorf("OAEP of garbage: got %x, %v, want a key", got, err)
	}
	if err := d.Err(); err != nil {
		t.Errorf("kept %v, want nothing", err)
	}
	for name, opts := range map[string]crypto.DecrypterOpts{
		"none": nil,
		//lint:ignore SA1019 it must be refused
		"unknown length": &rsa.PKCS1v15DecryptOptions{},
		//lint:ignore SA1019 it must be refused
		"too long": &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 65},
		"foreign":  "raw",
		"no hash":  &rsa.OAEPOptions{},
	} {
		if _, err := d.Decrypt(nil, pkcs1.Ciphertext, opts); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("options %s: got %v, want %v", name, err, hsm.ErrInvalid)
		}
	}
	if !errors.Is(d.Err(), hsm.ErrInvalid) {
		t.Errorf("kept %v, want %v", d.Err(), hsm.ErrInvalid)
	}
}

// TestTLS does handshakes with certificates whose keys are in the token.
func TestTLS(t *testing.T) {
	_, _, c := serve(t)
	for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.P256, hsm.Ed25519} {
		s := signer(t, c, generate(t, c, a, hsm.Sign))
		const name = "gw.company1.example"
		shown := certtest.Own(t, certtest.Host(name), s)
		roots := certtest.Pool(shown.Leaf)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			near, far := net.Pipe()
			server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{shown}, MinVersion: tls.VersionTLS12})
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			peer := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: version, MaxVersion: version})
			if err := errors.Join(peer.Handshake(), <-done); err != nil {
				t.Errorf("%s, %s: %v", a, tls.VersionName(version), err)
			}
			near.Close()
			far.Close()
		}
		if err := s.(*client.SigningKey).Err(); err != nil {
			t.Errorf("%s: kept %v", a, err)
		}
	}
}
