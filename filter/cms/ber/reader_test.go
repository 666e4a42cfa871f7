package ber

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits with white space between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDER(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"null", "05 00", "05 00"},
		{"long length", "04 84 00 00 00 02 61 62", "04 02 61 62"},
		{"sequence without a length", "30 80 02 01 05 30 80 00 00 00 00", "30 05 02 01 05 30 00"},
		{"long tag", "bf 83 7f 80 05 00 00 00", "bf 83 7f 02 05 00"},
		{"octet string in pieces", "24 80 04 01 61 24 03 04 01 62 04 00 00 00", "04 02 61 62"},
		{"no pieces", "24 80 00 00", "04 00"},
		{"string of another type, in octets", "36 07 04 02 61 62 04 01 63", "16 03 61 62 63"},
		{"string of another type, in its own", "3a 80 1a 01 61 00 00", "1a 01 61"},
		{"bit string in pieces", "23 80 03 02 00 61 23 04 03 02 04 60 00 00", "03 03 04 61 60"},
		{"bit string without pieces", "23 80 00 00", "03 01 00"},
		{"implicit tag", "a0 80 04 01 61 04 01 62 00 00", "a0 06 04 01 61 04 01 62"},
		{"string and what follows", "30 80 24 80 04 01 61 00 00 02 01 05 00 00", "30 06 04 01 61 02 01 05"},
	} {
		r := NewReader(bytes.NewReader(unhex(t, c.in)))
		if _, err := r.Next(); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := r.DER(100)
		if err == nil {
			err = r.End()
		}
		if hex.EncodeToString(got) != strings.ReplaceAll(c.want, " ", "") || err != nil {
			t.Errorf("%s: got %x, %v, want %s", c.name, got, err, c.want)
		}
	}
}

// Each is refused in all the ways to take an element.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"end of contents", "00 00", ErrSyntax},
		{"end of contents with a length", "30 80 00 01 00 00 00", ErrSyntax},
		{"cut off in the tag", "bf 83", ErrSyntax},
		{"cut off in the length", "04 84 00", ErrSyntax},
		{"cut off in the contents", "04 02 61", ErrSyntax},
		{"cut off without an end", "30 80 05 00", ErrSyntax},
		{"short tag in the long form", "bf 1e 00", ErrSyntax},
		{"long tag with zeros before", "bf 80 1f 00", ErrSyntax},
		{"tag of 32 bits", "bf 88 80 80 80 00 00", ErrSyntax},
		{"reserved length", "04 ff", ErrSyntax},
		{"length of 64 bits", "04 88 80 00 00 00 00 00 00 00", ErrSyntax},
		{"primitive without a length", "04 80 00 00", ErrSyntax},
		{"structure as a primitive", "10 00", ErrSyntax},
		{"constructed integer", "22 03 02 01 05", ErrSyntax},
	} {
		for name, take := range map[string]func(*Reader) error{
			"DER":  func(r *Reader) error { _, err := r.DER(1 << 10); return err },
			"Skip": (*Reader).Skip,
		} {
			r := NewReader(bytes.NewReader(unhex(t, c.in)))
			err := take(r)
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %s: got %v, want %v", c.name, name, err, c.want)
			}
			if again := r.End(); again != err {
				t.Errorf("%s: %s: End gives %v, want the same again", c.name, name, again)
			}
		}
	}
	// What Skip need not look at is refused by DER.
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"longer than its parent", "30 03 04 02 61", ErrSyntax},
		{"length beyond its parent", "30 01 04 00", ErrSyntax},
		{"piece of another type", "24 03 02 01 05", ErrSyntax},
		{"piece of a character string", "36 03 02 01 05", ErrSyntax},
		{"octets in a bit string", "23 03 04 01 00", ErrSyntax},
		{"empty piece of a bit string", "23 02 03 00", ErrSyntax},
		{"unused bits in the midst", "23 08 03 02 01 60 03 02 00 60", ErrSyntax},
		{"unused bits of nothing", "23 03 03 01 01", ErrSyntax},
		{"nine unused bits", "23 04 03 02 09 00", ErrSyntax},
		{"too long", "04 82 04 00" + strings.Repeat("00", 1024), ErrLimit},
		{"too long in all", "30 80" + strings.Repeat("04 7e"+strings.Repeat("00", 126), 8) + "0000", ErrLimit},
	} {
		got, err := NewReader(bytes.NewReader(unhex(t, c.in))).DER(1 << 10)
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: got %x, %v, want %v", c.name, got, err, c.want)
		}
	}
}

// A walk reads what it looks for, passes over the rest, and misses nothing.
func TestWalk(t *testing.T) {
	in := unhex(t, "30 80  02 01 05  a0 80 24 80 04 02 61 62 24 04 04 02 63 64 00 00 00 00  31 80 05 00 30 80 05 00 00 00 00 00  00 00")
	r := NewReader(bytes.NewReader(in))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Enter())
	must(r.Skip())
	if tag, err := r.Next(); !tag.Is(Context, 0) || !tag.Constructed || err != nil {
		t.Fatalf("got %v, %v", tag, err)
	}
	must(r.Enter())
	if got, err := io.ReadAll(r.Octets()); string(got) != "abcd" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	must(r.Leave())
	must(r.Skip())
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("got %v, want %v", err, io.EOF)
	}
	must(r.Leave())
	must(r.End())
}

func TestMisuse(t *testing.T) {
	in := "30 06 04 01 61 04 01 62"
	for name, do := range map[string]func(r *Reader) error{
		"enter a primitive":           func(r *Reader) error { r.Enter(); return r.Enter() },
		"leave nothing":               func(r *Reader) error { r.Skip(); return r.Leave() },
		"leave what is not read":      func(r *Reader) error { r.Enter(); r.Skip(); return r.Leave() },
		"end what is open":            func(r *Reader) error { r.Enter(); r.Skip(); r.Skip(); return r.End() },
		"end before the end":          func(r *Reader) error { return r.End() },
		"octets that are not read":    func(r *Reader) error { r.Enter(); r.Octets(); return r.Skip() },
		"octets of something else":    func(r *Reader) error { _, err := r.Octets().Read(make([]byte, 1)); return err },
		"take where there is nothing": func(r *Reader) error { r.Skip(); return r.Skip() },
	} {
		if err := do(NewReader(bytes.NewReader(unhex(t, in)))); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: got %v, want %v", name, err, ErrSyntax)
		}
	}
}
