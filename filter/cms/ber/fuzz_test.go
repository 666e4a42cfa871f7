package ber

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var errPlain = errors.New("no BER")

// plain is a second reading of X.690: the element at the head of b in DER, as
// Reader.DER has it, and what follows. It recurses, and takes all it is given.
func plain(b []byte, depth int) (tag Tag, contents, rest []byte, err error) {
	tag, length, b, err := plainHeader(b)
	if err != nil {
		return tag, nil, nil, err
	}
	if !tag.Constructed {
		if length < 0 {
			return tag, nil, nil, errPlain
		}
		return tag, b[:length], b[length:], nil
	}
	if depth == maxDepth {
		return tag, nil, nil, errPlain
	}
	inside, rest := b, []byte(nil)
	if length >= 0 {
		inside, rest = b[:length], b[length:]
	}
	var parts [][]byte // of a string
	for {
		if length >= 0 && len(inside) == 0 {
			break
		}
		if length < 0 && len(inside) >= 2 && inside[0] == 0 && inside[1] == 0 {
			rest = inside[2:]
			break
		}
		var t Tag
		var c []byte
		if t, c, inside, err = plain(inside, depth+1); err != nil {
			return tag, nil, nil, err
		}
		if tag.isString() {
			if t.Constructed || t.Class != Universal || t.Number != tag.Number && (tag.Number == BitString || t.Number != OctetString) {
				return tag, nil, nil, errPlain
			}
			parts = append(parts, c)
			continue
		}
		contents = append(AppendHeader(contents, t, int64(len(c))), c...)
	}
	if !tag.isString() {
		return tag, contents, rest, nil
	}
	tag.Constructed = false
	if tag.Number == BitString {
		contents = []byte{0}
		for _, p := range parts {
			if len(p) == 0 || contents[0] != 0 || p[0] > 7 || len(p) == 1 && p[0] != 0 {
				return tag, nil, nil, errPlain
			}
			contents[0] = p[0]
			contents = append(contents, p[1:]...)
		}
		return tag, contents, rest, nil
	}
	return tag, slices.Concat(parts...), rest, nil
}

func plainHeader(b []byte) (tag Tag, length int, rest []byte, err error) {
	r := NewReader(bytes.NewReader(b)) // headers alone are tested by tables, and against encoding/asn1
	h, err := r.header()
	if err != nil || h.length > int64(len(b))-r.at || h.tag.check() != nil {
		return tag, 0, nil, errPlain
	}
	return h.tag, int(h.length), b[r.at:], nil
}

var seeds = []string{
	"0500", "0484000000026162", "3080020105308000000000", "bf837f8005000000", "2480040161240304016204000000",
	"24800000", "360704026162040163", "3a801a01610000", "2380030200612304030204600000", "a0800401610401620000",
	"30803080308030800000000000000000", "3080008100",
}

// What DER prints is the element that stands there, by another reading; it
// parses to itself; and cryptobyte takes it.
func FuzzDER(f *testing.F) {
	for _, s := range seeds {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		der, err := r.DER(1 << 20)
		tag, contents, rest, plainErr := plain(in, 0)
		if (err == nil) != (plainErr == nil) {
			t.Fatalf("%x: got %x, %v, want %v", in, der, err, plainErr)
		}
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%x: got %v", in, err)
			}
			return
		}
		if want := append(AppendHeader(nil, tag, int64(len(contents))), contents...); !bytes.Equal(der, want) {
			t.Fatalf("%x: got %x, want %x", in, der, want)
		}
		if err := r.End(); (err == nil) != (len(rest) == 0) {
			t.Fatalf("%x: %d bytes follow, got %v", in, len(rest), err)
		}
		again, err := NewReader(bytes.NewReader(der)).DER(1 << 20)
		if !bytes.Equal(again, der) || err != nil {
			t.Fatalf("%x: printed %x, then %x, %v", in, der, again, err)
		}
		s := cryptobyte.String(der)
		var element cryptobyte.String
		var any cbasn1.Tag
		if tag.Number < 31 && (!s.ReadAnyASN1Element(&element, &any) || !bytes.Equal(element, der)) {
			t.Fatalf("%x: cryptobyte does not take %x", in, der)
		}
	})
}

// What encoding/asn1 takes for DER, DER gives back.
func FuzzValid(f *testing.F) {
	for _, s := range seeds {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !valid(in, 0) {
			return
		}
		der, err := NewReader(bytes.NewReader(in)).DER(len(in))
		if !bytes.Equal(der, in) || err != nil {
			t.Fatalf("%x: got %x, %v", in, der, err)
		}
	})
}

// valid reports whether encoding/asn1 takes b for one element, down to the
// leaves, that has no string in pieces.
func valid(b []byte, depth int) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	if err != nil || len(rest) > 0 || depth > maxDepth {
		return false
	}
	tag := Tag{Class: byte(v.Class), Number: uint32(v.Tag), Constructed: v.IsCompound}
	if tag.check() != nil || tag.isString() && tag.Constructed {
		return false
	}
	if !v.IsCompound {
		return true
	}
	for inside := v.Bytes; len(inside) > 0; {
		var part asn1.RawValue
		if inside, err = asn1.Unmarshal(inside, &part); err != nil || !valid(part.FullBytes, depth+1) {
			return false
		}
	}
	return true
}

// A walk that does what the bytes of how say ends, whatever it walks over, and
// takes no more memory than came.
func FuzzWalk(f *testing.F) {
	for _, s := range seeds {
		f.Add(unhex(f, s), []byte{0, 1, 2, 3, 4})
	}
	f.Fuzz(func(t *testing.T, in, how []byte) {
		r := NewReader(bytes.NewReader(in))
		var err error
		for _, h := range how {
			if err != nil {
				break
			}
			switch h % 6 {
			case 0:
				err = r.Enter()
			case 1:
				err = r.Skip()
			case 2:
				_, err = r.DER(int(h) << 4)
			case 3:
				_, err = io.Copy(io.Discard, r.Octets())
			case 4:
				err = r.Leave()
			case 5:
				_, err = io.Copy(io.Discard, struct{ io.Reader }{r.Octets()})
			}
			if err != nil && !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%x, %x: got %v", in, how, err)
			}
		}
		if r.at > int64(len(in)) {
			t.Fatalf("%x: %d bytes read", in, r.at)
		}
		if err != nil && r.End() != err {
			t.Fatalf("%x, %x: got %v, then %v", in, how, err, r.End())
		}
	})
}

// Lengths that are claimed cost nothing, nor does nesting.
func TestMemory(t *testing.T) {
	huge := AppendHeader(nil, Tag{Number: OctetString}, 1<<61)
	deep := bytes.Repeat([]byte{0x30, 0x80}, 1<<20)
	pieces := append([]byte{0x24, 0x80}, bytes.Repeat([]byte{4, 0}, 1<<20)...)
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"claimed", append(huge, make([]byte, 4<<20)...), ErrSyntax},
		{"deep", deep, ErrLimit},
		{"pieces", pieces, ErrLimit},
		{"elements", append([]byte{0x30, 0x80}, pieces...), ErrLimit},
	} {
		for name, take := range map[string]func(*Reader) error{
			"Skip":   (*Reader).Skip,
			"DER":    func(r *Reader) error { _, err := r.DER(1 << 62); return err },
			"Octets": func(r *Reader) error { _, err := io.Copy(io.Discard, r.Octets()); return err },
		} {
			var err error
			r := NewReader(bytes.NewReader(c.in))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err = take(r)
			runtime.ReadMemStats(&after)
			if err == nil || name != "Octets" && !errors.Is(err, c.want) {
				t.Errorf("%s: %s: got %v, want %v", c.name, name, err, c.want)
			}
			most := uint64(64 << 10)
			if name == "DER" {
				most += 6 * uint64(r.at) // append doubles, or a little less
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > most {
				t.Errorf("%s: %s: %d bytes of memory for %d", c.name, name, got, r.at)
			}
		}
	}
}

// 200 MB pass through, in pieces of any size, and cost a few buffers.
func TestStream(t *testing.T) {
	const size = 200 << 20
	for _, piece := range []int{64, 1000, 1 << 20} {
		source := &repeated{head: []byte{0x24, 0x80}, body: append(AppendHeader(nil, Tag{Number: OctetString}, int64(piece)), make([]byte, piece)...), tail: []byte{0, 0}}
		source.times = size / piece
		n := int64(0)
		var err error
		r := NewReader(source)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err = io.Copy(io.Discard, r.Octets())
		runtime.ReadMemStats(&after)
		if err == nil {
			err = r.End()
		}
		if n != int64(source.count*piece) || err != nil {
			t.Errorf("%d: got %d bytes, %v, want %d", piece, n, err, source.count*piece)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
			t.Errorf("%d: %d bytes of memory", piece, got)
		}
	}
}

// repeated reads as head, then body some times, then tail.
type repeated struct {
	head, body, tail []byte
	times, count     int
	now              []byte
	state            int
}

func (r *repeated) Read(p []byte) (int, error) {
	for len(r.now) == 0 {
		switch {
		case r.state == 0:
			r.now, r.state = r.head, 1
		case r.count < r.times:
			r.now = r.body
			r.count++
		case r.state == 1:
			r.now, r.state = r.tail, 2
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.now)
	r.now = r.now[n:]
	return n, nil
}
