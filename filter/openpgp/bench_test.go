package openpgp

import (
	"encoding/base64"
	"math/rand/v2"
	"runtime"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm"
)

// benchMail is a mail with an attachment that does not compress.
func benchMail(b testing.TB, size int) *message.Message {
	data := make([]byte, size*3/4)
	rand.NewChaCha8([32]byte{}).Read(data)
	text := base64.StdEncoding.EncodeToString(data)
	body := make([]byte, 0, len(text)+len(text)/38)
	for len(text) > 0 {
		n := min(76, len(text))
		body = append(append(body, text[:n]...), '\r', '\n')
		text = text[n:]
	}
	return mail(b, crlf("From: Alice <alice@company1.example>\nTo: bob@partner.example\nSubject: s\nMIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n")+string(body))
}

var benchSizes = []struct {
	name string
	size int
}{{"4KiB", 4 << 10}, {"10MiB", 10 << 20}}

var benchSuites = []struct {
	name  string
	suite suiteUnderTest
}{
	{"p256", suiteUnderTest{hsm.P256, hsm.P256, false}},
	{"rsa3072", suiteUnderTest{hsm.RSA3072, hsm.RSA3072, false}},
	{"v6", suiteUnderTest{hsm.Ed25519, hsm.X25519, true}},
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range benchSizes {
		for _, s := range benchSuites {
			b.Run(size.name+"/"+s.name, func(b *testing.B) {
				token := soft(b)
				alice := newIdentity(b, token, s.suite, "alice@company1.example")
				r := protect.SealRequest{Message: benchMail(b, size.size), Signer: &alice, Recipients: []keyring.Cert{alice.Cert}, At: now}
				p := New(Config{Token: token})
				b.SetBytes(int64(size.size))
				b.ReportAllocs()
				for b.Loop() {
					var s *message.Spool
					r.NewSpool = func() *message.Spool {
						s = (&message.Spools{Memory: 32 << 20, Max: 64 << 20}).New()
						return s
					}
					if _, err := p.Seal(b.Context(), r); err != nil {
						b.Fatal(err)
					}
					_ = s.Close()
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range benchSizes {
		for _, s := range benchSuites {
			b.Run(size.name+"/"+s.name, func(b *testing.B) {
				token := soft(b)
				alice := newIdentity(b, token, s.suite, "alice@company1.example")
				sealed := seal(b, token, benchMail(b, size.size), &alice, alice.Cert)
				r := protect.OpenRequest{Message: sealed, Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{alice.Cert}, At: now}
				p := New(Config{Token: token})
				b.SetBytes(int64(size.size))
				b.ReportAllocs()
				for b.Loop() {
					var s *message.Spool
					r.NewSpool = func() *message.Spool {
						s = (&message.Spools{Memory: 32 << 20, Max: 64 << 20}).New()
						return s
					}
					_, f, err := p.Open(b.Context(), r)
					if err != nil || !f.Good {
						b.Fatal(f, err)
					}
					_ = s.Close()
				}
			})
		}
	}
}

// 10 MiB pass both ways in the memory of a few buffers (R29, R48).
func TestMemory(t *testing.T) {
	token := soft(t)
	for _, s := range []suiteUnderTest{suites[3], suites[11]} {
		alice := newIdentity(t, token, s, "alice@company1.example")
		spools := &message.Spools{Memory: 64 << 10, Max: 32 << 20, Dir: t.TempDir()}
		newSpool := func() *message.Spool {
			s := spools.New()
			t.Cleanup(func() { _ = s.Close() })
			return s
		}
		plain := benchMail(t, 10<<20)
		p := New(Config{Token: token})
		var before, between, after runtime.MemStats
		runtime.ReadMemStats(&before)
		sealed, err := p.Seal(t.Context(), protect.SealRequest{Message: plain, Signer: &alice, Recipients: []keyring.Cert{alice.Cert}, At: now, NewSpool: newSpool})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&between)
		_, f, err := p.Open(t.Context(), protect.OpenRequest{Message: sealed, Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{alice.Cert}, At: now, NewSpool: newSpool})
		if err != nil || !f.Good {
			t.Fatal(f, err)
		}
		runtime.ReadMemStats(&after)
		// All that was ever asked for, garbage too.
		if got := between.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: seal: %d KiB", s, got>>10)
		}
		if got := after.TotalAlloc - between.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: open: %d KiB", s, got>>10)
		}
	}
}
