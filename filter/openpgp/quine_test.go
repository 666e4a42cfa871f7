package openpgp

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// deflater writes deflate's bits, least significant first (RFC 1951 §3.1.1).
type deflater struct {
	out []byte
	n   int
}

// put writes n bits of v; code writes a Huffman code, whose first bit is the highest.
func (b *deflater) put(v, n int) {
	for i := range n {
		if b.n%8 == 0 {
			b.out = append(b.out, 0)
		}
		b.out[b.n/8] |= byte(v>>i&1) << (b.n % 8)
		b.n++
	}
}

func (b *deflater) code(v, n int) {
	for i := n - 1; i >= 0; i-- {
		b.put(v>>i, 1)
	}
}

// stored is the head of a stored block of n bytes, which follow it: five bytes.
func stored(n int) []byte {
	head := binary.LittleEndian.AppendUint16([]byte{0}, uint16(n))
	return binary.LittleEndian.AppendUint16(head, ^uint16(n))
}

// again is a block that says the last n bytes once more, 17 to 20 of them. In
// two matches it is five bytes too: 3 bits of head, 2 times 7 of length and 8
// of distance, 7 of the end.
func again(n int) []byte {
	var b deflater
	b.put(0b010, 3) // not the last, fixed codes
	for _, length := range []int{n / 2, n - n/2} {
		b.code(length-3+1, 7) // 257 is 3 bytes, and has the code 1
		b.code(8, 5)          // 17 to 24
		b.put(n-17, 3)
	}
	b.code(0, 7)
	return b.out
}

// quine is a compressed data packet without a length that decompresses to
// itself: each part prints what comes before it and itself, in the order in
// which R. Cox ("Zip files all the way down", 2010) has put them. All its words
// are five bytes long, so that they can print each other.
func quine() []byte {
	head := slices.Concat([]byte{0x80 | tagCompressed<<2 | 3, byte(packet.CompressionZIP)}, stored(0), stored(0))
	tail := slices.Concat(stored(0), stored(0), []byte{1, 0, 0, 0xff, 0xff}) // an empty last block
	const word = 5
	print1, print4, again4 := stored(word), stored(4*word), again(4*word)
	printHead, againHead := stored(len(head)+word), again(len(head)+word)
	printTail, againTail := stored(word+len(tail)), again(word+len(tail))
	return slices.Concat(
		head,
		printHead, head, printHead,
		againHead,
		print1, againHead,
		print1, print1,
		print4, againHead, print1, print1, print4,
		again4,
		print4, again4, print4, again4, print4,
		again4,
		print4, again4, stored(0), stored(0), printTail,
		again4,
		stored(0),
		stored(0),
		printTail, againTail, tail,
		againTail,
		tail,
	)
}

// quineFile is for the test of the whole house, in appliance/e2e.
const quineFile = "testdata/quine.pgp"

// A packet that decompresses to itself, and packets that are nested 10,000
// deep, do not open, after one layer and little work (R29, R18).
func TestQuine(t *testing.T) {
	q := quine()
	if out, err := io.ReadAll(flate.NewReader(bytes.NewReader(q[2:]))); err != nil || !bytes.Equal(out, q) {
		t.Fatalf("got %d bytes, %v, want the %d that it is made of:\n%x\n%x", len(out), err, len(q), out, q)
	}
	if *update {
		if err := os.WriteFile(quineFile, q, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(quineFile); err != nil || !bytes.Equal(kept, q) {
		t.Errorf("%s: got %d bytes, %v, want what is made here (-update writes it)", quineFile, len(kept), err)
	}
	deep := literal(simpleEntity)
	for range 10_000 { // not compressed, or the making would take as long as a bomb
		deep = slices.Concat([]byte{0x80 | tagCompressed<<2 | 3, byte(packet.CompressionNone)}, deep)
	}
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	p := New(Config{Token: token})
	for name, payload := range map[string][]byte{"quine": q, "quine in a packet": compressed(t, packet.CompressionZIP, q), "10,000 layers": deep} {
		m := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: payload}.packets(t)))
		r := protect.OpenRequest{Message: m, Identities: []keyring.Identity{bob}, At: now, NewSpool: func() *message.Spool { return (&message.Spools{Memory: 1 << 20, Max: 1 << 20}).New() }}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		opened, f, err := p.Open(t.Context(), r)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if err != protect.ErrCannotOpen || opened != nil || f.Opened {
			t.Errorf("%s: got %v, %+v, %v, want %v", name, opened, f, err, protect.ErrCannotOpen)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 || took > 2*time.Second {
			t.Errorf("%s: got %d KiB of memory in %v, want at most 4 MiB in 2 s", name, got>>10, took)
		}
	}
}
