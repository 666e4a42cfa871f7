package cms

import (
	"bytes"
	"crypto/x509"
	"io"
	"testing"
)

// zeros is a reader of so many.
type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	z.left -= n
	return n, nil
}

// A message of 200 MB is sealed and opened on its way. All that is ever asked
// for, freed or not, stays below a megabyte.
func TestFlatMemory(t *testing.T) {
	const size = 200_000_000
	r := readers(t)["p256"]
	for _, c := range []Cipher{AES256CBC, AES256GCM} {
		got := allocated(func() {
			in, out := io.Pipe()
			go func() {
				w, err := NewSealer(out, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
				if err == nil {
					if _, err = io.Copy(w, &zeros{size}); err == nil {
						err = w.Close()
					}
				}
				out.CloseWithError(err)
			}()
			e, err := ReadEnvelope(in)
			if err != nil {
				t.Fatal(err)
			}
			key, err := r.unwrap(e)
			if err != nil {
				t.Fatal(err)
			}
			content := &counting{}
			if err := e.Decrypt(key, content); err != nil {
				t.Fatal(err)
			}
			if content.n != size {
				t.Errorf("%s: got %d bytes, want %d", c, content.n, size)
			}
		})
		t.Logf("%s: %d KiB", c, got>>10)
		if got > 1<<20 {
			t.Errorf("%s: got %d bytes allocated, want 1 MiB at most", c, got)
		}
	}
}

// Write counts what is written, and forgets it.
func (c *counting) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

var benchSizes = []struct {
	name string
	size int
}{{"4KiB", 4 << 10}, {"50MiB", 50 << 20}}

var benchCiphers = []Cipher{AES256CBC, AES256GCM, ChaCha20Poly1305}

func BenchmarkSealEnvelope(b *testing.B) {
	r := readers(b)["rsa"]
	for _, size := range benchSizes {
		content := make([]byte, size.size)
		for _, c := range benchCiphers[:2] {
			b.Run(size.name+"/"+c.String(), func(b *testing.B) {
				b.SetBytes(int64(size.size))
				b.ReportAllocs()
				for b.Loop() {
					w, err := NewSealer(io.Discard, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
					if err != nil {
						b.Fatal(err)
					}
					if _, err := w.Write(content); err != nil {
						b.Fatal(err)
					}
					if err := w.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkOpenEnvelope is without the unwrapping of the key, which is the token's.
func BenchmarkOpenEnvelope(b *testing.B) {
	for _, size := range benchSizes {
		content := make([]byte, size.size)
		for _, c := range benchCiphers {
			cc := contentCipher{Cipher: c, iv: make([]byte, suites[c].iv), tag: 16}
			key := make([]byte, c.KeySize())
			var message []byte
			if c == ChaCha20Poly1305 {
				message = chachaMessage(b, key, cc.iv, content)
			} else {
				message = sealedWith(b, cc, key, content)
			}
			b.Run(size.name+"/"+c.String(), func(b *testing.B) {
				b.SetBytes(int64(size.size))
				b.ReportAllocs()
				for b.Loop() {
					e, err := ReadEnvelope(bytes.NewReader(message))
					if err != nil {
						b.Fatal(err)
					}
					if err := e.Decrypt(key, io.Discard); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// sealedWith is a message for nobody, with a key that is known.
func sealedWith(t testing.TB, cc contentCipher, key, content []byte) []byte {
	t.Helper()
	ciphertext, tag := encrypted(t, cc, key, content)
	der, err := cc.der()
	if err != nil {
		t.Fatal(err)
	}
	parts := envelopeParts{kind: oidEnveloped, cipher: der, content: tlv(context0, ciphertext), tag: tag}
	if cc.Authenticated() {
		parts.kind = oidAuthEnveloped
	}
	return parts.der()
}
