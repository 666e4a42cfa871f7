package openpgp

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm/hsmtest"
)

// inflating is deflate that becomes n MiB of one letter behind head. Once the
// window is full of it one block makes a MiB more, and may stand as often as it likes.
func inflating(t testing.TB, head []byte, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte("x"), 1<<20)
	var at [3]int
	for i, data := range [][]byte{append(bytes.Clone(head), block...), block} {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		at[i+1] = b.Len()
	}
	front, again := b.Bytes()[:at[1]], b.Bytes()[at[1]:at[2]]
	return append(append(bytes.Clone(front), bytes.Repeat(again, n-1)...), 3, 0) // an empty last block
}

// endless is a packet of a known, huge length.
func endless(tag int, size uint32, content []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0xc0 | byte(tag), 255}, size), content...)
}

// Bombs are refused after little work: what comes out of them is bounded by
// what went in, nesting by one layer, and memory by a few buffers (R29).
func TestBombWork(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	huge := append(endless(tagLiteral, 4<<30-1, nil), "b\x00\x00\x00\x00\x00"+simpleEntity...)
	bomb := appendPacket(nil, tagCompressed, append([]byte{byte(packet.CompressionZIP)}, inflating(t, huge, 4<<10)...))
	nested := literal(simpleEntity)
	for range 128 {
		nested = compressed(t, packet.CompressionZIP, nested)
	}
	var parts strings.Builder
	for i := range 128 {
		fmt.Fprintf(&parts, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	for _, c := range []struct {
		name    string
		payload []byte
		written int64 // at most
	}{
		{"4 GiB out of 4 MiB", bomb, freeInflation + 200*(64<<10)},
		{"4 GiB, twice compressed", compressed(t, packet.CompressionZIP, bomb), 0},
		{"128 layers", nested, 0},
		{"layers without a length", append(bytes.Repeat([]byte{0xa3, 0}, 128), literal(simpleEntity)...), 0},
		{"a literal that promises 4 GiB", huge, 1 << 10},
		{"a signature that promises 4 GiB", endless(tagSignature, 4<<30-1, make([]byte, 1<<20)), 0},
		{"a million packets that say nothing", append(bytes.Repeat([]byte{0xca, 3, 'P', 'G', 'P'}, 1<<20), 0), 0},
		{"128 multiparts in each other", literal(parts.String() + "\r\n"), 64 << 10},
	} {
		text := pgpMIME(t, crafted{to: bob.Cert, payload: c.payload}.packets(t))
		m := mail(t, text)
		counted := hsmtest.Count(token)
		var spool *message.Spool
		r := protect.OpenRequest{Message: m, Identities: []keyring.Identity{bob}, At: now, NewSpool: func() *message.Spool {
			spool = (&message.Spools{Memory: 64 << 10, Max: 64 << 20, Dir: t.TempDir()}).New()
			return spool
		}}
		p := New(Config{Token: counted})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		opened, f, err := p.Open(t.Context(), r)
		runtime.ReadMemStats(&after)
		if err != protect.ErrCannotOpen || opened != nil || f.Opened {
			t.Errorf("%s: got %v, %+v, %v, want %v", c.name, opened, f, err, protect.ErrCannotOpen)
		}
		if counted.Unwraps() != 1 {
			t.Errorf("%s: %d token operations, want 1", c.name, counted.Unwraps())
		}
		header := int64(256)
		if got := spool.Size(); got > c.written+header {
			t.Errorf("%s: %d bytes written, want at most %d", c.name, got, c.written+header)
		}
		// All that was ever asked for, garbage too.
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: %d KiB of memory", c.name, got>>10)
		}
		if err := spool.Close(); err != nil {
			t.Errorf("%s: close spool: %v", c.name, err)
		}
	}
}
