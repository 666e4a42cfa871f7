package openpgp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// What one side encrypts, go-crypto's decrypts, and the other way round, at
// every length around the borders of blocks and parts.
func TestIntegrity(t *testing.T) {
	long := make([]byte, 200<<10)
	rand.Read(long)
	for _, n := range []int{0, 1, 15, 16, 17, 22, 23, 191, 192, 8383, 8384, 32<<10 - 41, 32<<10 - 40, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 200 << 10} {
		for _, size := range []int{16, 24, 32} {
			key := make([]byte, size)
			rand.Read(key)
			c := map[int]packet.CipherFunction{16: packet.CipherAES128, 24: packet.CipherAES192, 32: packet.CipherAES256}[size]
			var ours, theirs bytes.Buffer
			s, err := newSealer(&ours, key)
			if err != nil {
				t.Fatal(err)
			}
			w, err := packet.SerializeSymmetricallyEncrypted(&theirs, c, false, packet.CipherSuite{}, key, config)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range []io.WriteCloser{s, w} {
				if _, err := w.Write(long[:n/3]); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(long[n/3 : n]); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
			p, err := packet.Read(bytes.NewReader(ours.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := p.(*packet.SymmetricallyEncrypted).Decrypt(c, key)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, long[:n]) || plain.Close() != nil {
				t.Errorf("%d bytes, go-crypto: got %d, %v", n, len(got), err)
			}
			for name, packets := range map[string][]byte{"ours": ours.Bytes(), "theirs": theirs.Bytes()} {
				for _, slow := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.HalfReader} {
					_, body, err := newPacketReader(bytes.NewReader(packets)).next()
					if err != nil {
						t.Fatal(err)
					}
					if v, err := body.ReadByte(); v != 1 || err != nil {
						t.Fatal(v, err)
					}
					o, err := newOpener(slow(body), newBlock(c, key, false))
					if err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, long[:n]) || o.Close() != nil {
						t.Errorf("%d bytes, %s: got %d, %v", n, name, len(got), err)
					}
				}
			}
		}
	}
}

// Closed before its end, cut or changed, it is not whole.
func TestIntegrityBroken(t *testing.T) {
	key := make([]byte, 32)
	var b bytes.Buffer
	s, err := newSealer(&b, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, bodies, err := walk(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	content := bodies[0][1:]
	whole := func(content []byte) error {
		o, err := newOpener(bytes.NewReader(content), newBlock(packet.CipherAES256, key, false))
		if err != nil {
			return err
		}
		if _, err := io.ReadAll(o); err != nil {
			return err
		}
		return o.Close()
	}
	if err := whole(content); err != nil {
		t.Fatal(err)
	}
	for i := range content {
		changed := bytes.Clone(content)
		changed[i] ^= 1
		if err := whole(changed); !errors.Is(err, errPacket) {
			t.Errorf("byte %d: got %v, want %v", i, err, errPacket)
		}
		if err := whole(content[:i]); !errors.Is(err, errPacket) {
			t.Errorf("cut at %d: got %v, want %v", i, err, errPacket)
		}
	}
	o, err := newOpener(bytes.NewReader(content), newBlock(packet.CipherAES256, key, false))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); !errors.Is(err, errPacket) {
		t.Errorf("closed at once: got %v, want %v", err, errPacket)
	}
}
