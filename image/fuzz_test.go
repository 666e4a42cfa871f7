package image

import (
	"bytes"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// FuzzManifest: what is read is printed as the same bytes, and within bounds.
func FuzzManifest(f *testing.F) {
	h := newHouse(f)
	f.Add(h.build(f, "1.2", "0"))
	f.Add([]byte(`{"format": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("got %q, %v, want %q", again, err, b)
		}
		root, verity := m.Partitions()
		if len(root) != 36 || len(verity) != 36 {
			t.Fatalf("got partitions %q, %q", root, verity)
		}
	})
}

// FuzzSignature: nothing but what the key has signed is believed.
func FuzzSignature(f *testing.F) {
	h := newHouse(f)
	good, err := Sign(h.build(f, "1", "0"), h.release)
	if err != nil {
		f.Fatal(err)
	}
	at := bytes.LastIndex(good, []byte("signature "))
	f.Add(good)
	f.Add(good[:at])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := signed(b, h.keys)
		if err == nil && !bytes.Equal(s.text(), good[:at]) {
			t.Fatalf("got %q believed, want %q", s.text(), good[:at])
		}
		if s, err := parseStatement(b); err == nil && !bytes.Equal(s.text(), b) {
			t.Fatalf("got %q, want %q", s.text(), b)
		}
	})
}

// FuzzProof: what is read is printed as the same bytes, and no proof but the true
// one leads to a head.
func FuzzProof(f *testing.F) {
	h := newHouse(f)
	list := h.statements(f, 3)
	l, err := OpenLog(f.TempDir(), origin, h.log)
	if err != nil {
		f.Fatal(err)
	}
	var good []byte
	for _, sig := range list {
		if good, err = l.Append(sig, h.keys); err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	s, err := signed(list[2], h.keys)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProof(b)
		if err == nil && !bytes.Equal(p.text(), b) {
			t.Fatalf("got %q, want %q", p.text(), b)
		}
		head, err := included(s, b, h.keys)
		if err == nil && (head.tree.N != 3 || tlog.CheckRecord(p.hashes, 3, head.tree.Hash, 2, tlog.RecordHash(s.text())) != nil) {
			t.Fatalf("got a log of %d by %q", head.tree.N, b)
		}
	})
}
