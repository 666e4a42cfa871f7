package keyd_test

import (
	"bytes"
	"crypto"
	"runtime"
	"sync/atomic"
	"testing"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// workers are the operations at once: in the token for BenchmarkToken, behind
// the socket for BenchmarkRoundTrip. Half of keyd's are for each kind of key,
// so keyd gets twice as many there.
const workers = 4

// benches are the operations of both benchmarks: bare is the name of what the
// token does, or "" where a line before has it, whole of what a client asks for.
var benches = []struct {
	algorithm   hsm.Algorithm
	usage       hsm.Usage
	bare, whole string
	alg         hsm.SignAlg
	scheme      hsm.Scheme
}{
	{hsm.RSA2048, hsm.Sign, "sign", "sign", hsm.PKCS1SHA256, 0},
	{hsm.RSA2048, hsm.Unwrap, "decrypt", "unwrap", 0, hsm.OpenPGPRSA},
	{hsm.RSA3072, hsm.Sign, "sign", "sign", hsm.PKCS1SHA256, 0},
	{hsm.RSA3072, hsm.Unwrap, "decrypt", "unwrap", 0, hsm.OpenPGPRSA},
	{hsm.RSA4096, hsm.Sign, "sign", "sign", hsm.PKCS1SHA256, 0},
	{hsm.RSA4096, hsm.Unwrap, "decrypt", "unwrap", 0, hsm.OpenPGPRSA},
	{hsm.P256, hsm.Sign, "sign", "sign", hsm.ECDSA, 0},
	{hsm.RSA3072, hsm.Unwrap, "", "unwrap-pkcs1", 0, hsm.PKCS1},
	{hsm.RSA3072, hsm.Unwrap, "", "unwrap-oaep", 0, hsm.OAEP},
	{hsm.P256, hsm.Unwrap, "ecdh", "unwrap", 0, hsm.OpenPGPECDH},
	{hsm.P256, hsm.Unwrap, "", "unwrap-cms", 0, hsm.CMSX963},
	{hsm.P384, hsm.Unwrap, "ecdh", "unwrap-cms", 0, hsm.CMSX963},
	{hsm.P521, hsm.Unwrap, "ecdh", "unwrap-cms", 0, hsm.CMSX963},
	{hsm.Ed25519, hsm.Sign, "sign", "sign", hsm.PureEdDSA, 0},
	{hsm.X25519, hsm.Unwrap, "ecdh", "unwrap", 0, hsm.OpenPGPX25519},
	{hsm.X25519, hsm.Unwrap, "", "unwrap-cms", 0, hsm.CMSHKDF},
}

var benchSecret = hsm.SessionKey{Cipher: 9, Key: bytes.Repeat([]byte{0x5a}, 32)}

// parallel runs do from as many goroutines as there are workers.
func parallel(b *testing.B, do func() error) {
	b.Helper()
	var failed atomic.Pointer[error]
	b.SetParallelism(max(1, workers/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := do(); err != nil {
				failed.Store(&err)
				return
			}
		}
	})
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// BenchmarkToken is what the token does by itself: no socket, no guard, no
// padding, no key derivation.
func BenchmarkToken(b *testing.B) {
	f := hsmtest.SoftHSM(b)
	device := token(b, f)
	if err := device.Open(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { device.Close() })
	if err := device.Login(f.PIN); err != nil {
		b.Fatal(err)
	}
	if _, _, err := device.Load(); err != nil {
		b.Fatal(err)
	}
	for _, x := range benches {
		if x.bare == "" {
			continue
		}
		var key hsm.Key // made once, though a benchmark runs several times
		b.Run(string(x.algorithm)+"/"+x.bare, func(b *testing.B) {
			benchKey(b, &key, device.Generate, x.algorithm, x.usage, b.Name())
			var do func() error
			switch w := benchWrapped(b, key, x.scheme); x.bare {
			case "sign":
				do = func() error { _, err := device.Sign(key.ID, x.alg, digest[:]); return err }
			case "decrypt":
				do = func() error { _, _, err := device.Decrypt(key.ID, w.Ciphertext); return err }
			case "ecdh":
				do = func() error { _, err := device.ECDH(key.ID, w.Ephemeral); return err }
			}
			parallel(b, do)
		})
	}
}

// BenchmarkRoundTrip is the same work, whole, asked of a key daemon over its
// socket.
func BenchmarkRoundTrip(b *testing.B) {
	f := hsmtest.SoftHSM(b)
	d := hsmtest.NewDaemon(b, token(b, f), f.PIN)
	d.Config.Budget, d.Config.Workers = keyd.Budget{Failures: -1, Rate: -1}, 2*workers
	d.Start()
	d.Reach(hsm.Ready)
	c := client.Dial(d.Use)
	b.Cleanup(func() { c.Close() })
	ctx := b.Context()
	for _, x := range benches {
		var key hsm.Key
		b.Run(string(x.algorithm)+"/"+x.whole, func(b *testing.B) {
			benchKey(b, &key, func(s hsm.KeySpec) (hsm.Key, error) { return d.Keyd.Generate(ctx, s) }, x.algorithm, x.usage, b.Name())
			do := func() error { _, err := c.Sign(ctx, key.ID, x.alg, digest[:]); return err }
			if w := benchWrapped(b, key, x.scheme); x.usage == hsm.Unwrap {
				do = func() error { _, err := c.Unwrap(ctx, key.ID, w); return err }
			}
			parallel(b, do)
		})
	}
}

func benchKey(b *testing.B, key *hsm.Key, generate func(hsm.KeySpec) (hsm.Key, error), a hsm.Algorithm, u hsm.Usage, label string) {
	b.Helper()
	if key.Public != nil {
		return
	}
	var err error
	if *key, err = generate(hsm.KeySpec{Algorithm: a, Usage: u, Label: label}); err != nil {
		b.Fatal(err)
	}
}

func benchWrapped(b *testing.B, key hsm.Key, scheme hsm.Scheme) hsm.Wrapped {
	b.Helper()
	if scheme == 0 {
		return hsm.Wrapped{}
	}
	w := hsm.Wrapped{Scheme: scheme}
	if scheme == hsm.OAEP {
		w.Hash = crypto.SHA256
	}
	return hsmtest.Wrap(b, key.Public, w, benchSecret)
}
