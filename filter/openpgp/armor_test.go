package openpgp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestUnarmor(t *testing.T) {
	const begin, end = "-----BEGIN PGP MESSAGE-----\r\n", "-----END PGP MESSAGE-----\r\n"
	for _, c := range []struct {
		name, text, want string
		bad              bool
	}{
		{name: "plain", text: begin + "\r\naGVsbG8=\r\n" + end, want: "hello"},
		{name: "lines", text: begin + "\r\naGVs\r\nbG8=\r\n" + end, want: "hello"},
		{name: "line ends of Unix", text: "-----BEGIN PGP MESSAGE-----\n\naGVsbG8=\n-----END PGP MESSAGE-----", want: "hello"},
		{name: "header", text: begin + "Version: x\r\nCharset: utf-8\r\n\r\naGVsbG8=\r\n" + end, want: "hello"},
		{name: "checksum", text: begin + "\r\naGVsbG8=\r\n=abcd\r\n" + end, want: "hello"},
		{name: "blank around", text: "\r\n  \r\n" + begin + " \r\naGVsbG8=  \r\n" + end + "\r\n\t\r\n", want: "hello"},
		{name: "nothing", bad: true},
		{name: "text before", text: "hi\r\n" + begin + "\r\naGVsbG8=\r\n" + end, bad: true},
		{name: "text behind", text: begin + "\r\naGVsbG8=\r\n" + end + "hi\r\n", bad: true},
		{name: "text behind the end", text: begin + "\r\naGVsbG8=\r\n-----END PGP MESSAGE-----hi\r\n", bad: true},
		{name: "two", text: begin + "\r\naGVsbG8=\r\n" + end + begin + "\r\naGVsbG8=\r\n" + end, bad: true},
		{name: "no end", text: begin + "\r\naGVsbG8=\r\n", bad: true},
		{name: "other end", text: begin + "\r\naGVsbG8=\r\n-----END PGP SIGNATURE-----\r\n", bad: true},
		{name: "other begin", text: "-----BEGIN PGP SIGNATURE-----\r\n\r\naGVsbG8=\r\n" + end, bad: true},
		{name: "no blank line", text: begin + "aGVsbG8=\r\n" + end, bad: true},
		{name: "not base64", text: begin + "\r\naG*sbG8=\r\n" + end, bad: true},
		{name: "cut quantum", text: begin + "\r\naGVsbG8\r\n" + end, bad: true},
		{name: "data behind padding", text: begin + "\r\naGVsbG8=\r\naGVs\r\n" + end, bad: true},
		{name: "long line", text: begin + "\r\n" + strings.Repeat("aGVs", 500) + "\r\n" + end, bad: true},
		{name: "endless line", text: begin + "\r\n" + strings.Repeat("aGVs", 50000) + "\r\n" + end, bad: true},
		{name: "endless header", text: begin + strings.Repeat("X: y\r\n", 100) + "\r\naGVs\r\n" + end, bad: true},
	} {
		for _, slow := range []bool{false, true} {
			var r io.Reader = strings.NewReader(c.text)
			if slow {
				r = iotest.OneByteReader(r)
			}
			a, err := newUnarmor(r, labelMessage)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(a)
			}
			if (err != nil) != c.bad || c.bad && !errors.Is(err, errArmor) {
				t.Errorf("%s: got %q, %v", c.name, got, err)
			} else if !c.bad && string(got) != c.want {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		}
	}
}

// What is armoured comes back, whatever pieces it is written in.
func TestArmorer(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdefg"), 1000)
	for _, piece := range []int{1, 47, 48, 49, 96, 1000, len(data)} {
		for _, n := range []int{0, 1, 48, 49, len(data)} {
			var b bytes.Buffer
			a, err := newArmorer(&b, labelMessage, true)
			if err != nil {
				t.Fatal(err)
			}
			for rest := data[:n]; len(rest) > 0; {
				k := min(piece, len(rest))
				if _, err := a.Write(rest[:k]); err != nil {
					t.Fatal(err)
				}
				rest = rest[k:]
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			r, err := newUnarmor(bytes.NewReader(b.Bytes()), labelMessage)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data[:n]) {
				t.Errorf("%d bytes in pieces of %d: got %d, %v", n, piece, len(got), err)
			}
		}
	}
}

// The checksum is the published check value of its polynomial, however the bytes come.
func TestCRC24(t *testing.T) {
	for _, pieces := range [][]string{{"123456789"}, {"1234", "56789"}, {"1", "23456789"}} {
		c := newCRC24()
		for _, p := range pieces {
			c.add([]byte(p))
		}
		if got, want := c.bytes(), []byte{0x21, 0xcf, 0x02}; !bytes.Equal(got, want) {
			t.Errorf("%q: got %x, want %x", pieces, got, want)
		}
	}
}
