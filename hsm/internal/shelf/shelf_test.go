package shelf

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern/hsm"
)

// record is a key of the tests; what stands as its ciphertext opens nothing.
func record(t testing.TB, label string) Record {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return recordOf(t, &priv.PublicKey, label)
}

func recordOf(t testing.TB, pub any, label string) Record {
	t.Helper()
	r := Record{Public: pub, Usage: hsm.Sign, Label: label, Wrapping: bytes.Repeat([]byte{7}, 20), Mechanism: 0x210a, Ciphertext: bytes.Repeat([]byte{9}, 80)}
	var err error
	if r.ID, err = hsm.IDOf(pub); err != nil {
		t.Fatal(err)
	}
	return r
}

func marshal(t testing.TB, r Record) []byte {
	t.Helper()
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// resealed is b with a digest that fits, as somebody makes who means harm.
func resealed(b []byte) []byte {
	body := b[:len(b)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

// Every kind of key comes back as it went; no bit of a file can change, and no
// end be missing, unnoticed.
func TestRecord(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Record{record(t, "smime/alice@company1.example/sign"), recordOf(t, ed.Public(), "a"), recordOf(t, x.PublicKey(), strings.Repeat("l", hsm.MaxLabel))} {
		b := marshal(t, r)
		if got, err := Parse(b); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("got %+v, %v want %+v", got, err, r)
		}
		for i := range b {
			if _, err := Parse(b[:i]); err == nil {
				t.Errorf("cut to %d of %d bytes it is read", i, len(b))
			}
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, err := Parse(c); err == nil {
				t.Errorf("with bit 0 of byte %d changed it is read", i)
			}
		}
		if _, err := Parse(append(bytes.Clone(b), 0)); err == nil {
			t.Error("with a byte behind it is read")
		}
	}
}

// A file with a digest that fits is refused all the same where it is not in the
// form that is written.
func TestForms(t *testing.T) {
	good := record(t, "label")
	b := marshal(t, good)
	at := len(magic)
	for name, change := range map[string]func(b []byte) []byte{
		"version":             func(b []byte) []byte { b[at] = 2; return b },
		"usage 0":             func(b []byte) []byte { b[at+1] = 0; return b },
		"usage 3":             func(b []byte) []byte { b[at+1] = 3; return b },
		"control character":   func(b []byte) []byte { b[bytes.Index(b, []byte("label"))] = '\n'; return b },
		"public key":          func(b []byte) []byte { b[bytes.Index(b, []byte{0x30, 0x59})+4] ^= 0xff; return b },
		"length of the label": func(b []byte) []byte { b[bytes.Index(b, []byte("label"))-1]++; return b },
		"nothing else":        func([]byte) []byte { return append([]byte(magic), make([]byte, 40)...) },
	} {
		if r, err := Parse(resealed(change(bytes.Clone(b)))); err == nil {
			t.Errorf("%s: got %+v want an error", name, r)
		}
	}
	for name, change := range map[string]func(r *Record){
		"no label":               func(r *Record) { r.Label = "" },
		"label too long":         func(r *Record) { r.Label = strings.Repeat("l", hsm.MaxLabel+1) },
		"no ciphertext":          func(r *Record) { r.Ciphertext = nil },
		"ciphertext too long":    func(r *Record) { r.Ciphertext = make([]byte, maxCiphertext+1) },
		"no wrapping key":        func(r *Record) { r.Wrapping = nil },
		"wrapping key too long":  func(r *Record) { r.Wrapping = make([]byte, maxWrapping+1) },
		"usage of none":          func(r *Record) { r.Usage = 0 },
		"curve that is not ours": func(r *Record) { k, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader); r.Public = &k.PublicKey },
	} {
		r := good
		change(&r)
		if _, err := r.Marshal(); err == nil {
			t.Errorf("%s: it is written", name)
		}
	}
}

// The shelf as a folder: what is put is there, once, and goes; what is no key is
// told, and what was cut off in the middle is removed.
func TestShelf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wrapped")
	s := New(dir)
	if all, err := s.All(); err != nil || len(all) != 0 {
		t.Errorf("no folder: got %v, %v want nothing", all, err)
	}
	a, b := record(t, "a"), record(t, "b")
	for _, r := range []Record{a, b} {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(r); !errors.Is(err, hsm.ErrExists) {
			t.Errorf("again: got %v want %v", err, hsm.ErrExists)
		}
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := record(t, "other")
	half := "." + other.ID.String() + suffix + ".new"
	write(half, marshal(t, other)[:50])
	write("notes.txt", []byte("x"))
	write(other.ID.String()+suffix, marshal(t, a)) // the file of another key
	long := record(t, "long")
	write(long.ID.String()+suffix, make([]byte, maxFile*3))
	link := record(t, "link")
	if err := os.Symlink(filepath.Join(dir, a.ID.String()+suffix), filepath.Join(dir, link.ID.String()+suffix)); err != nil {
		t.Fatal(err)
	}
	all, err := s.All()
	if err != nil || len(all) != 6 {
		t.Fatalf("got %d files, %v want 6", len(all), err)
	}
	good := 0
	for _, book := range all {
		switch {
		case book.Err == nil:
			good++
			if book.ID != a.ID && book.ID != b.ID || book.Digest == [32]byte{} {
				t.Errorf("got %+v", book)
			}
		case book.Name == "notes.txt":
			if book.ID != (hsm.KeyID{}) {
				t.Errorf("notes.txt has the id %s", book.ID)
			}
		default:
			if book.ID != other.ID && book.ID != long.ID && book.ID != link.ID || book.Label != "" {
				t.Errorf("got %+v", book)
			}
		}
	}
	if good != 2 {
		t.Errorf("got %d keys want 2", good)
	}
	if _, err := os.Lstat(filepath.Join(dir, half)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a file: got %v want it removed", err)
	}
	if st, err := os.Stat(filepath.Join(dir, a.ID.String()+suffix)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v want 0600", st.Mode(), err)
	}
	for _, id := range []hsm.KeyID{a.ID, other.ID} {
		if err := s.Remove(id); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := s.Remove(id); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("remove again: got %v want %v", err, hsm.ErrNoKey)
		}
	}
	if got := s.Get(b.ID); got.Err != nil || got.Label != "b" {
		t.Errorf("got %+v", got)
	}
	if got := s.Get(a.ID); got.Err == nil {
		t.Errorf("removed: got %+v want an error", got)
	}
}

// No more keys than a list of the wire holds.
func TestMax(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	s.max = 5
	for i := range s.max {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(record(t, "one more")); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("got %v want %v", err, hsm.ErrRefused)
	}
	if err := os.WriteFile(filepath.Join(dir, "and another"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.All(); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("got %v want %v", err, hsm.ErrInvalid)
	}
}

// FuzzParse (R30): what is read is written again as the same bytes, and is within its
// bounds.
func FuzzParse(f *testing.F) {
	b := marshal(f, record(f, "smime/alice@company1.example/sign"))
	f.Add(b)
	f.Add(b[:len(b)-40])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sha256.Size { // or nothing would come through but the seeds
			b = resealed(b)
		}
		r, err := Parse(b)
		if err != nil {
			return
		}
		if len(b) > maxFile || len(r.Label) > hsm.MaxLabel || len(r.Ciphertext) > maxCiphertext || len(r.Wrapping) > maxWrapping {
			t.Errorf("beyond its bounds: %+v", r)
		}
		again, err := r.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("got %x, %v want %x", again, err, b)
		}
	})
}
