package p11

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// These are the vectors of Wycheproof through a token (R43), as bare
// operations; package keyd has them through whole unwraps. Its files for
// ECDSA, Ed25519, PSS and PKCS#1 signatures hold public keys only, so no token
// can be asked anything: they are held against verify, which stands between
// the token and everybody who wants a signature.

// vectorKeys imports the private keys of vectors, once each.
type vectorKeys struct {
	t    testing.TB
	f    *hsmtest.Fixture
	held map[string]hsm.KeyID
}

func (v *vectorKeys) put(name string, private crypto.PrivateKey) hsm.KeyID {
	v.t.Helper()
	id, there := v.held[name]
	if !there {
		id = v.f.Import("vector", hsm.Unwrap, private)
		v.held[name] = id
	}
	return id
}

// agreement is a vector with the key that it is for.
type agreement struct {
	hsmtest.Vector
	id   hsm.KeyID
	soft *ecdh.PrivateKey
}

// agreements imports the keys of a file of ECDH vectors. point is the public
// point of a vector, or nil where there is none that reaches a token.
func agreements(t *testing.T, curve ecdh.Curve, file string, point func(hsmtest.Vector) []byte) (*Token, []agreement) {
	t.Helper()
	groups := hsmtest.Wycheproof(t, file)
	f := hsmtest.QuickSoftHSM(t)
	tok := ready(t, f, importedToo)
	keys := vectorKeys{t, f, map[string]hsm.KeyID{}}
	var all []agreement
	for _, g := range groups {
		for _, v := range g.Tests {
			if v.Public = point(v); v.Public == nil {
				continue
			}
			d := bytes.TrimLeft(v.Private, "\x00")
			soft, err := curve.NewPrivateKey(append(make([]byte, 32-len(d)), d...))
			if curve == ecdh.X25519() {
				soft, err = curve.NewPrivateKey(v.Private)
			}
			if err != nil {
				t.Fatalf("%d: %v", v.ID, err)
			}
			all = append(all, agreement{v, keys.put(string(soft.Bytes()), soft), soft})
		}
	}
	if err := reopen(tok, f.PIN); err != nil {
		t.Fatal(err)
	}
	return tok, all
}

// same holds the token against the vector and against software.
func same(t *testing.T, tok *Token, a agreement) {
	t.Helper()
	var want []byte
	peer, err := a.soft.Curve().NewPublicKey(a.Public)
	if err == nil {
		want, err = a.soft.ECDH(peer)
	}
	got, tokErr := tok.ECDH(a.id, a.Public)
	if (err == nil) != (tokErr == nil) || !bytes.Equal(got, want) {
		t.Errorf("%d %s %v: token %x, %v; software %x, %v", a.ID, a.Comment, a.Flags, got, tokErr, want, err)
	}
	if tokErr != nil && !errors.Is(tokErr, hsm.ErrOpaque) {
		t.Errorf("%d %s: got %v, want %v", a.ID, a.Comment, tokErr, hsm.ErrOpaque)
	}
	if a.Result == "valid" && !bytes.Equal(got, a.Shared) || a.Result == "invalid" && tokErr == nil {
		t.Errorf("%d %s: got %x, %v, which is %s for %x", a.ID, a.Comment, got, tokErr, a.Result, a.Shared)
	}
}

// TestWycheproofECDH (R43): all points, and the points of all keys that X.509 reads.
func TestWycheproofECDH(t *testing.T) {
	for file, point := range map[string]func(hsmtest.Vector) []byte{
		"ecdh_secp256r1_ecpoint_test.json": func(v hsmtest.Vector) []byte { return v.Public },
		"ecdh_secp256r1_test.json": func(v hsmtest.Vector) []byte {
			pub, err := x509.ParsePKIXPublicKey(v.Public)
			if k, is := pub.(*ecdsa.PublicKey); err == nil && is && k.Curve == elliptic.P256() {
				b, err := k.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			if v.Result == "valid" {
				t.Errorf("%d %s: not read", v.ID, v.Comment)
			}
			return nil
		},
	} {
		t.Run(file, func(t *testing.T) {
			tok, all := agreements(t, ecdh.P256(), file, point)
			t.Logf("%d vectors", len(all))
			for _, a := range all {
				same(t, tok, a)
			}
		})
	}
}

// TestWycheproofX25519 (R43): twists, points that are not canonical, points of low
// order, shared secrets at the edges.
func TestWycheproofX25519(t *testing.T) {
	tok, all := agreements(t, ecdh.X25519(), "x25519_test.json", func(v hsmtest.Vector) []byte { return v.Public })
	t.Logf("%d vectors", len(all))
	for _, a := range all {
		same(t, tok, a)
	}
}

// TestWycheproofRSA: the bare operation gives a block whose padding is what
// the vector says, PKCS#1 and OAEP alike; whole unwraps are tested in keyd.
func TestWycheproofRSA(t *testing.T) {
	for _, file := range []string{"rsa_pkcs1_2048_test.json", "rsa_oaep_2048_sha1_mgf1sha1_test.json", "rsa_oaep_2048_sha256_mgf1sha256_test.json"} {
		t.Run(file, func(t *testing.T) {
			groups := hsmtest.Wycheproof(t, file)
			f := hsmtest.QuickSoftHSM(t)
			tok := ready(t, f, importedToo)
			keys := vectorKeys{t, f, map[string]hsm.KeyID{}}
			soft := map[hsm.KeyID]*rsa.PrivateKey{}
			ids := make([]hsm.KeyID, len(groups))
			for i, g := range groups {
				k, err := x509.ParsePKCS8PrivateKey(g.PrivateKeyPkcs8)
				if err != nil {
					t.Fatal(err)
				}
				ids[i] = keys.put(string(g.PrivateKeyPkcs8), k)
				soft[ids[i]] = k.(*rsa.PrivateKey)
			}
			if err := reopen(tok, f.PIN); err != nil {
				t.Fatal(err)
			}
			for i, g := range groups {
				k := soft[ids[i]]
				for _, v := range g.Tests {
					c := new(big.Int).SetBytes(v.CT)
					got, raw, err := tok.Decrypt(ids[i], v.CT)
					if len(v.CT) > k.Size()+8 || c.Cmp(k.N) >= 0 {
						if !errors.Is(err, hsm.ErrOpaque) {
							t.Errorf("%d %s: got %x, %v, want %v", v.ID, v.Comment, got, err, hsm.ErrOpaque)
						}
						continue
					}
					want := new(big.Int).Exp(c, k.D, k.N).FillBytes(make([]byte, k.Size()))
					if err != nil || !raw || !bytes.Equal(got, want) {
						t.Errorf("%d %s: got %x, raw %v, %v, want %x", v.ID, v.Comment, got, raw, err, want)
					}
				}
			}
		})
	}
}

// TestWycheproofSignatures: what verify lets out of a token.
func TestWycheproofSignatures(t *testing.T) {
	for file, alg := range map[string]hsm.SignAlg{
		"rsa_signature_2048_sha256_test.json":   hsm.PKCS1SHA256,
		"rsa_pss_2048_sha256_mgf1_32_test.json": hsm.PSSSHA256,
		"ecdsa_secp256r1_sha256_test.json":      hsm.ECDSA,
		"ed25519_test.json":                     hsm.PureEdDSA,
	} {
		t.Run(file, func(t *testing.T) {
			for _, g := range hsmtest.Wycheproof(t, file) {
				pub, err := x509.ParsePKIXPublicKey(g.PublicKeyDer)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range g.Tests {
					digest := []byte(v.Msg)
					if alg != hsm.PureEdDSA {
						h := crypto.SHA256.New()
						h.Write(v.Msg)
						digest = h.Sum(nil)
					}
					if got := verify(pub, alg, digest, v.Sig); got != (v.Result == "valid") {
						t.Errorf("%d %s %v: got %v, want %s", v.ID, v.Comment, v.Flags, got, v.Result)
					}
				}
			}
		})
	}
}
