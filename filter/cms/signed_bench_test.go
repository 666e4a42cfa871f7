package cms

import (
	"bytes"
	"io"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// mailSizes are those of a usual mail, and of the largest that many servers take.
var mailSizes = []struct {
	name string
	size int64
}{{"4KiB", 4 << 10}, {"50MiB", 50 << 20}}

func BenchmarkVerify(b *testing.B) {
	token := hsmtest.Memory(b)
	for _, a := range []hsm.Algorithm{hsm.RSA3072, hsm.P256} {
		r := signWith(b, token, a)
		for _, s := range mailSizes {
			content, err := io.ReadAll(&endless{s.size})
			if err != nil {
				b.Fatal(err)
			}
			for _, form := range []string{"detached", "opaque"} {
				message := signed(b, r, string(content), form == "detached")
				b.Run(string(a)+"/"+form+"/"+s.name, func(b *testing.B) {
					b.SetBytes(s.size)
					b.ReportAllocs()
					for b.Loop() {
						var read *Signed
						if form == "detached" {
							read, err = ReadDetached(bytes.NewReader(message), bytes.NewReader(content))
						} else {
							read, err = ReadSigned(bytes.NewReader(message), io.Discard)
						}
						if err != nil {
							b.Fatal(err)
						}
						if err := read.Signers[0].Verify(r.Cert); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func BenchmarkSign(b *testing.B) {
	token := hsmtest.Memory(b)
	for _, a := range []hsm.Algorithm{hsm.RSA3072, hsm.P256} {
		r := signWith(b, token, a)
		for _, s := range mailSizes {
			content, err := io.ReadAll(&endless{s.size})
			if err != nil {
				b.Fatal(err)
			}
			b.Run(string(a)+"/detached/"+s.name, func(b *testing.B) {
				b.SetBytes(s.size)
				b.ReportAllocs()
				for b.Loop() {
					if err := SignDetached(b.Context(), io.Discard, bytes.NewReader(content), r); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(string(a)+"/opaque/"+s.name, func(b *testing.B) {
				b.SetBytes(s.size)
				b.ReportAllocs()
				for b.Loop() {
					if err := SignOpaque(b.Context(), io.Discard, bytes.NewReader(content), r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
