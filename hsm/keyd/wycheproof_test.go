package keyd_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

// These are the vectors of Wycheproof through whole unwraps with a token (R43).
// What the software refuses with an error is here a key that opens nothing.

// vectorDaemon serves keys that private makes of the vectors' groups.
func vectorDaemon(t *testing.T, keys map[string]crypto.PrivateKey) (*hsmtest.Daemon, map[string]hsm.Key) {
	t.Helper()
	f := hsmtest.QuickSoftHSM(t)
	device := p11.New(p11.Config{Module: f.Module, Token: f.Label, AllowImported: true})
	ids := map[hsm.KeyID]string{}
	// Opened first, so that the module is initialised once for all keys.
	if err := device.Open(); err != nil {
		t.Fatal(err)
	}
	for name, private := range keys {
		ids[f.Import("vector", hsm.Unwrap, private)] = name
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	d := opened(t, device, f.PIN)
	served, err := d.Keyd.Keys(t.Context())
	if err != nil || len(served) != len(keys) {
		t.Fatalf("got %d keys, %v, want %d", len(served), err, len(keys))
	}
	byName := map[string]hsm.Key{}
	for _, k := range served {
		byName[ids[k.ID]] = k
	}
	return d, byName
}

// TestWycheproofRSA (R43): PKCS#1 and OAEP. A bare key has 1 to 64 bytes, so that
// honest messages of other lengths are rejected like the rest.
func TestWycheproofRSA(t *testing.T) {
	for file, scheme := range map[string]hsm.Scheme{
		"rsa_pkcs1_2048_test.json":                  hsm.PKCS1,
		"rsa_oaep_2048_sha1_mgf1sha1_test.json":     hsm.OAEP,
		"rsa_oaep_2048_sha256_mgf1sha256_test.json": hsm.OAEP,
	} {
		t.Run(file, func(t *testing.T) {
			groups := hsmtest.Wycheproof(t, file)
			private := map[string]crypto.PrivateKey{}
			for _, g := range groups {
				k, err := x509.ParsePKCS8PrivateKey(g.PrivateKeyPkcs8)
				if err != nil {
					t.Fatal(err)
				}
				private[string(g.PrivateKeyPkcs8)] = k
			}
			d, keys := vectorDaemon(t, private)
			good, bad, long := 0, 0, 0
			for _, g := range groups {
				key, soft := keys[string(g.PrivateKeyPkcs8)], private[string(g.PrivateKeyPkcs8)].(*rsa.PrivateKey)
				for _, v := range g.Tests {
					what := fmt.Sprintf("%d %s %v", v.ID, v.Comment, v.Flags)
					w := hsm.Wrapped{Scheme: scheme, Ciphertext: v.CT, Label: v.Label}
					var want []byte
					var err error
					size := 32
					if scheme == hsm.PKCS1 {
						size = max(1, min(len(v.Msg), 64))
						w.Size = size
						//lint:ignore SA1019 what mail has
						want, err = rsa.DecryptPKCS1v15(nil, soft, v.CT)
					} else {
						w.Hash = map[string]crypto.Hash{"SHA-1": crypto.SHA1, "SHA-256": crypto.SHA256}[g.Sha]
						w.MGFHash = map[string]crypto.Hash{"SHA-1": crypto.SHA1, "SHA-256": crypto.SHA256}[g.MGFSha]
						want, err = soft.Decrypt(nil, v.CT, &rsa.OAEPOptions{Hash: w.Hash, MGFHash: w.MGFHash, Label: v.Label})
					}
					if (err == nil) != (v.Result == "valid") || (err == nil && !bytes.Equal(want, v.Msg)) {
						t.Errorf("%s: software says %x, %v, want %s", what, want, err, v.Result)
					}
					switch {
					case err == nil && len(want) >= 1 && len(want) <= 64:
						good++
						unwraps(t, d.Keyd, key, w, want, what)
					case err == nil || scheme == hsm.OAEP:
						bad++
						invents(t, d.Keyd, key, w, size, want, what)
					default: // no length opens it
						for w.Size = 1; w.Size <= 64; w.Size++ {
							bad++
							invents(t, d.Keyd, key, w, w.Size, want, what)
						}
					}
					if err == nil && (len(want) < 1 || len(want) > 64) {
						long++
					}
				}
			}
			t.Logf("%d opened, %d of a length that no key has", good, long)
			verdicts(t, d, good, bad)
		})
	}
}

// TestWycheproofAgree (R43) wraps a session key with the secret that each vector
// says, for the owner of its point, with both key derivations in turn.
func TestWycheproofAgree(t *testing.T) {
	secret := hsm.SessionKey{Key: bytes.Repeat([]byte{0x5a}, 32)}
	for file, curve := range map[string]ecdh.Curve{"ecdh_secp256r1_ecpoint_test.json": ecdh.P256(), "x25519_test.json": ecdh.X25519()} {
		t.Run(file, func(t *testing.T) {
			groups := hsmtest.Wycheproof(t, file)
			private := map[string]crypto.PrivateKey{}
			for _, g := range groups {
				for _, v := range g.Tests {
					d := bytes.TrimLeft(v.Private, "\x00")
					if curve == ecdh.X25519() {
						d = v.Private
					}
					k, err := curve.NewPrivateKey(append(make([]byte, 32-len(d)), d...))
					if err != nil {
						t.Fatal(err)
					}
					private[string(v.Private)] = k
				}
			}
			d, keys := vectorDaemon(t, dedupe(private))
			good, bad := 0, 0
			for _, g := range groups {
				for _, v := range g.Tests {
					what := fmt.Sprintf("%d %s %v", v.ID, v.Comment, v.Flags)
					key := keys[string(private[string(v.Private)].(*ecdh.PrivateKey).Bytes())]
					w := hsm.Wrapped{Scheme: hsm.CMSX963 + hsm.Scheme(v.ID%2), Ephemeral: v.Public}
					z := []byte(v.Shared)
					if len(z) == 0 {
						z = make([]byte, 32)
					}
					w = hsmtest.WrapAgreed(t, z, nil, w, secret)
					// Acceptable are the short form of a point, which is read, and for X25519
					// points of the twist, which pass, and of low order, which do not.
					zero := curve == ecdh.X25519() && bytes.Equal(z, make([]byte, 32))
					if v.Result == "invalid" || zero {
						bad++
						invents(t, d.Keyd, key, w, 32, secret.Key, what)
						continue
					}
					good++
					unwraps(t, d.Keyd, key, w, secret.Key, what)
				}
			}
			t.Logf("%d opened, %d not", good, bad)
			verdicts(t, d, good, bad)
		})
	}
}

// TestWycheproofKeyWrap: RFC 3394. Its acceptable vectors wrap eight bytes,
// which RFC 3394 §2 leaves out, and so do we.
func TestWycheproofKeyWrap(t *testing.T) {
	for _, g := range hsmtest.Wycheproof(t, "aes_wrap_test.json") {
		for _, v := range g.Tests {
			got, ok := keyd.UnwrapAES(v.Key, v.CT)
			if want := v.Result == "valid"; (ok == 1) != want || (want && !bytes.Equal(got, v.Msg)) {
				t.Errorf("%d %s %v: got %x, %d, want %s", v.ID, v.Comment, v.Flags, got, ok, v.Result)
			}
		}
	}
}

// verdicts counts in the audit record, which knows what no caller does, how
// many wrapped keys were good.
func verdicts(t *testing.T, d *hsmtest.Daemon, good, bad int) {
	t.Helper()
	got := map[any]int{}
	for _, r := range d.Audit() {
		if r["op"] == "unwrap" {
			got[r["verdict"]]++
		}
	}
	if good == 0 || bad == 0 || got["ok"] != good || got["rejected"] != bad {
		t.Errorf("got verdicts %v, want %d ok and %d rejected", got, good, bad)
	}
}

// dedupe names keys by themselves.
func dedupe(all map[string]crypto.PrivateKey) map[string]crypto.PrivateKey {
	once := map[string]crypto.PrivateKey{}
	for _, k := range all {
		once[string(k.(*ecdh.PrivateKey).Bytes())] = k
	}
	return once
}
