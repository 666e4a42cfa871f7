package openpgp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// walk reads all packets of data.
func walk(data []byte) (tags []int, bodies [][]byte, err error) {
	r := newPacketReader(bytes.NewReader(data))
	for {
		tag, body, err := r.next()
		if err == io.EOF {
			return tags, bodies, nil
		}
		if err != nil {
			return tags, bodies, err
		}
		content, err := io.ReadAll(body)
		if err != nil {
			return tags, bodies, err
		}
		tags, bodies = append(tags, tag), append(bodies, content)
	}
}

func TestPacketReader(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, data string
		tags       []int
		bodies     []string
		bad        bool
	}{
		{name: "nothing"},
		{name: "new one octet", data: "\xcd\x03abc", tags: []int{13}, bodies: []string{"abc"}},
		{name: "new two octets", data: "\xcd\xc0\x00" + x(192), tags: []int{13}, bodies: []string{x(192)}},
		{name: "new five octets", data: "\xcd\xff\x00\x00\x00\x01a", tags: []int{13}, bodies: []string{"a"}},
		{name: "new partial", data: "\xcb\xe1ab\xe0c\x01d", tags: []int{11}, bodies: []string{"abcd"}},
		{name: "new partial, empty end", data: "\xcb\xe1ab\x00\xcd\x01e", tags: []int{11, 13}, bodies: []string{"ab", "e"}},
		{name: "old one octet", data: "\xb4\x02ab", tags: []int{13}, bodies: []string{"ab"}},
		{name: "old two octets", data: "\xb5\x00\x02ab", tags: []int{13}, bodies: []string{"ab"}},
		{name: "old four octets", data: "\xb6\x00\x00\x00\x02ab", tags: []int{13}, bodies: []string{"ab"}},
		{name: "old to the end", data: "\xa3abc", tags: []int{8}, bodies: []string{"abc"}},
		{name: "two", data: "\xcd\x01a\xb4\x01b", tags: []int{13, 13}, bodies: []string{"a", "b"}},
		{name: "empty", data: "\xcd\x00", tags: []int{13}, bodies: []string{""}},
		{name: "marker", data: "\xca\x03PGP\xcd\x01a", tags: []int{10, 13}, bodies: []string{"PGP", "a"}},
		{name: "marker of other letters", data: "\xca\x03PGQ\xcd\x01a", bad: true},
		{name: "longer marker", data: "\xca\x04PGPx", bad: true},
		{name: "cut marker", data: "\xca\x03PG", bad: true},
		{name: "no packet", data: "hello", bad: true},
		{name: "tag 0", data: "\xc0\x00", bad: true},
		{name: "cut in the length", data: "\xcd\xff\x00", bad: true},
		{name: "cut in the body", data: "\xcd\x05abc", bad: true},
		{name: "cut behind the tag", data: "\xcd", bad: true},
		{name: "cut between parts", data: "\xcb\xe1ab", bad: true},
		{name: "partial signature", data: "\xc2\xe1ab\x00", bad: true},
		{name: "signature to the end", data: "\x8babc", bad: true},
		{name: "4 GiB announced", data: "\xcd\xff\xff\xff\xff\xffabc", bad: true},
	} {
		tags, bodies, err := walk([]byte(c.data))
		if (err != nil) != c.bad || c.bad && !errors.Is(err, errPacket) {
			t.Errorf("%s: got %v", c.name, err)
			continue
		}
		if c.bad {
			continue
		}
		if len(tags) != len(c.tags) {
			t.Errorf("%s: got %v, want %v", c.name, tags, c.tags)
			continue
		}
		for i := range tags {
			if tags[i] != c.tags[i] || string(bodies[i]) != c.bodies[i] {
				t.Errorf("%s: packet %d: got %d %q, want %d %q", c.name, i, tags[i], bodies[i], c.tags[i], c.bodies[i])
			}
		}
	}
}

// An error of what lies below is not one of the packets.
func TestPacketReaderDisk(t *testing.T) {
	disk := errors.New("disk")
	_, body, err := newPacketReader(io.MultiReader(strings.NewReader("\xcd\x05ab"), iotest.ErrReader(disk))).next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(body); !errors.Is(err, disk) {
		t.Errorf("got %v, want %v", err, disk)
	}
}

// Packets that are read and written again are the same packets, and nothing
// is longer than what came in.
func FuzzPackets(f *testing.F) {
	for _, s := range []string{"\xcd\x03abc", "\xcb\xe1ab\xe0c\x01d", "\xa3abc", "\xb5\x00\x02ab\xcd\x00", "\xcd\xc0\x00" + strings.Repeat("x", 192)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tags, bodies, err := walk(data)
		total := 0
		var joined []byte
		for i := range bodies {
			total += len(bodies[i])
			joined = appendPacket(joined, tags[i], bodies[i])
		}
		if total > len(data) {
			t.Fatalf("%d bytes out of %d", total, len(data))
		}
		if err != nil {
			return
		}
		tags2, bodies2, err := walk(joined)
		if err != nil || len(tags2) != len(tags) {
			t.Fatalf("joined: got %d packets, %v, want %d", len(tags2), err, len(tags))
		}
		for i := range tags {
			if tags[i] != tags2[i] || !bytes.Equal(bodies[i], bodies2[i]) {
				t.Fatalf("packet %d: got %d %x, want %d %x", i, tags2[i], bodies2[i], tags[i], bodies[i])
			}
		}
	})
}
