package wire

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
)

// TestUKM: none, an empty one and others are told apart, and there is one way
// to write each.
func TestUKM(t *testing.T) {
	for _, ukm := range [][]byte{nil, {}, {1}} {
		b, err := Unwrap{Wrapped: hsm.Wrapped{UKM: ukm}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeUnwrap(b)
		if err != nil || (got.Wrapped.UKM == nil) != (ukm == nil) || !bytes.Equal(got.Wrapped.UKM, ukm) {
			t.Errorf("got %#v, %v, want %#v", got.Wrapped.UKM, err, ukm)
		}
		flag := len(b) - len(ukm) - 3
		b[flag] ^= 1
		if got, err := DecodeUnwrap(b); len(ukm) > 0 && !errors.Is(err, ErrFrame) {
			t.Errorf("%x without its flag: got %#v, %v, want %v", ukm, got.Wrapped.UKM, err, ErrFrame)
		}
	}
}

// TestOrigin (R3): it comes as it went, and a frame with another than printable
// ASCII is none.
func TestOrigin(t *testing.T) {
	for _, origin := range []string{"", "192.0.2.7", strings.Repeat("o", hsm.MaxOrigin)} {
		b, err := Unwrap{Origin: origin}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeUnwrap(b); err != nil || got.Origin != origin {
			t.Errorf("got %q, %v, want %q", got.Origin, err, origin)
		}
		for _, v := range []byte{0, ' ', '\n', 0x7f, 0xff} {
			if origin == "" {
				break
			}
			b[len(hsm.KeyID{})+len(origin)] = v
			if got, err := DecodeUnwrap(b); !errors.Is(err, ErrFrame) {
				t.Errorf("origin with byte %#x: got %q, %v, want %v", v, got.Origin, err, ErrFrame)
			}
		}
	}
	b, err := Unwrap{}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	at := len(hsm.KeyID{})
	long := slices.Concat(b[:at], []byte{hsm.MaxOrigin + 1}, bytes.Repeat([]byte("o"), hsm.MaxOrigin+1), b[at+1:])
	if got, err := DecodeUnwrap(long); !errors.Is(err, ErrFrame) {
		t.Errorf("long origin: got %q, %v, want %v", got.Origin, err, ErrFrame)
	}
}

func TestErrorBytes(t *testing.T) {
	all := []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrBudget, hsm.ErrBusy,
		hsm.ErrInvalid, hsm.ErrExists, hsm.ErrPIN, hsm.ErrOpaque, hsm.ErrClock}
	seen := map[byte]bool{}
	for _, e := range all {
		b := ErrorByte(fmt.Errorf("do something: %w", e))
		if got := ErrorOf(b); got != e || b == 0 || seen[b] {
			t.Errorf("%v: byte %d, back as %v", e, b, got)
		}
		seen[b] = true
	}
	if got := ErrorByte(errors.New("something else")); ErrorOf(got) != hsm.ErrOpaque {
		t.Errorf("foreign error: got %v, want %v", ErrorOf(got), hsm.ErrOpaque)
	}
	if ErrorByte(nil) != 0 || ErrorOf(0) != nil {
		t.Errorf("success: got %d and %v, want 0 and nil", ErrorByte(nil), ErrorOf(0))
	}
	for b := range 256 {
		if b != 0 && ErrorOf(byte(b)) == nil {
			t.Errorf("byte %d reads as success", b)
		}
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	want := []Frame{
		{Op: OpKeys, ID: 1},
		{Op: OpSign, ID: 0xffffffff, Trace: strings.Repeat("t", MaxTrace), Body: []byte("x")},
		{Op: OpStatus | Reply, ID: 7, Body: bytes.Repeat([]byte{9}, MaxFrame-7)},
	}
	for _, f := range want {
		var err error
		if stream, err = f.Append(stream); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(iotestOneByte{bytes.NewReader(stream)})
	for _, w := range want {
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		g, err := r.Next()
		if err != nil || g.Op != w.Op || g.ID != w.ID || g.Trace != w.Trace || !bytes.Equal(g.Body, w.Body) {
			t.Fatalf("got %v of %d bytes, %v; want %v of %d bytes", g.Op, len(g.Body), err, w.Op, len(w.Body))
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("end: got %v, want EOF", err)
	}

	for _, f := range []Frame{
		{Op: OpKeys, Trace: strings.Repeat("t", MaxTrace+1)},
		{Op: OpKeys, Trace: "a\nb"},
		{Op: OpKeys, Body: make([]byte, MaxFrame)},
	} {
		if _, err := f.Append(nil); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("frame beyond limits: got %v, want %v", err, hsm.ErrInvalid)
		}
	}
	for name, b := range map[string][]byte{
		"too long":      {0, 0, 0x40, 1},
		"huge":          {0xff, 0xff, 0xff, 0xff},
		"short":         {0, 0, 0, 3, Version, 1, 0},
		"version":       {0, 0, 0, 7, Version + 1, 1, 0, 0, 0, 1, 0},
		"trace":         {0, 0, 0, 8, Version, 1, 0, 0, 0, 1, 2, 'x'},
		"control trace": {0, 0, 0, 8, Version, 1, 0, 0, 0, 1, 1, 10},
	} {
		if _, err := NewReader(bytes.NewReader(b)).Next(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: got %v, want %v", name, err, ErrFrame)
		}
	}
	if _, err := NewReader(bytes.NewReader([]byte{0, 0, 0, 9, 1})).Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("cut frame: got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// A length is not a reason to allocate.
func TestReaderAllocatesNothingByLength(t *testing.T) {
	b := []byte{0, 0, 0x40, 0, 1}
	r := bytes.NewReader(nil)
	var before, after runtime.MemStats
	fr := NewReader(r)
	runtime.ReadMemStats(&before)
	for range 1000 {
		r.Reset(b)
		fr.br.Reset(r)
		fr.Next()
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
		t.Errorf("1000 frames that claim 16 KiB: got %d bytes allocated, want nearly none", got)
	}
}

func testKeys(t testing.TB) []hsm.Key {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	d, _, _ := ed25519.GenerateKey(rand.Reader)
	x, _ := ecdh.X25519().GenerateKey(rand.Reader)
	var keys []hsm.Key
	for i, pub := range []crypto.PublicKey{&r.PublicKey, &e.PublicKey, d, x.PublicKey()} {
		id, err := hsm.IDOf(pub)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, hsm.Key{ID: id, Public: pub, Usage: hsm.Usage(1 + i%2), Label: fmt.Sprint("key/", i), Class: hsm.Class(1 + i%3), Retired: i == 2})
	}
	return keys
}

func TestMessages(t *testing.T) {
	keys := testKeys(t)
	for _, k := range keys {
		b, err := EncodeKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeKey(b); err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("key: got %+v, %v; want %+v", got, err, k)
		}
		for n := range b {
			if _, err := DecodeKey(b[:n]); !errors.Is(err, ErrFrame) {
				t.Errorf("key cut at %d: got %v, want %v", n, err, ErrFrame)
			}
		}
	}
	st := hsm.Status{State: hsm.Ready, Reason: "r", Module: "m", Token: "t", Serial: "s", Profile: "p", Keys: 70000, Wrapped: 69000, PINCount: true, Version: "v"}
	b, _ := EncodeStatus(st)
	if got, err := DecodeStatus(b); err != nil || got != st {
		t.Errorf("status: got %+v, %v; want %+v", got, err, st)
	}
	st.Reason = strings.Repeat("x", 1000)
	b, err := EncodeStatus(st)
	if got, _ := DecodeStatus(b); err != nil || len(got.Reason) != MaxText {
		t.Errorf("long reason: got %d bytes, %v; want %d", len(got.Reason), err, MaxText)
	}
	f := hsm.Finding{ID: keys[0].ID, Label: "l", Class: hsm.OutsideWrapped, Served: true, Faults: []string{"a", "b"}}
	b, _ = EncodeFinding(f)
	if got, err := DecodeFinding(b); err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("finding: got %+v, %v; want %+v", got, err, f)
	}
	f.Faults = make([]string, 100)
	b, err = EncodeFinding(f)
	if got, _ := DecodeFinding(b); err != nil || len(got.Faults) != MaxFaults {
		t.Errorf("many faults: got %d, %v; want %d", len(got.Faults), err, MaxFaults)
	}
	p := hsm.Probe{Name: "RSA-3072 sign PKCS1-SHA256", OK: true, Reason: "x"}
	b, _ = EncodeProbe(p)
	if got, err := DecodeProbe(b); err != nil || got != p {
		t.Errorf("probe: got %+v, %v; want %+v", got, err, p)
	}
	s := hsm.KeySpec{Algorithm: hsm.P384, Usage: hsm.Unwrap, Label: "l", Wrapped: true}
	b, _ = EncodeSpec(s)
	if got, err := DecodeSpec(b); err != nil || got != s {
		t.Errorf("specification: got %+v, %v; want %+v", got, err, s)
	}
	m := Prove{ID: keys[0].ID, Info: bytes.Repeat([]byte{7}, hsm.MaxInfo)}
	b, err = m.Encode()
	if got, derr := DecodeProve(b); err != nil || derr != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("prove: got %v, %d bytes, %v, %v", got.ID, len(got.Info), err, derr)
	}
	for _, b := range [][]byte{b[:len(b)-1], append(b, 0), append(slices.Clone(m.ID[:]), 0x10, 1)} {
		if _, err := DecodeProve(b); !errors.Is(err, ErrFrame) {
			t.Errorf("prove request of %d bytes: got %v, want %v", len(b), err, ErrFrame)
		}
	}
	b, _ = EncodeInit("so", "user")
	if so, pin, err := DecodeInit(b); so != "so" || pin != "user" || err != nil {
		t.Errorf("init: got %q, %q, %v", so, pin, err)
	}
	b, _ = EncodeUnlock("user")
	if pin, err := DecodeUnlock(b); pin != "user" || err != nil {
		t.Errorf("unlock: got %q, %v", pin, err)
	}
	if id, err := DecodeID(EncodeID(keys[1].ID)); id != keys[1].ID || err != nil {
		t.Errorf("id: got %v, %v; want %v", id, err, keys[1].ID)
	}
	if err := DecodeNothing(EncodeNothing()); err != nil {
		t.Errorf("nothing: got %v", err)
	}
	if err := DecodeNothing([]byte{0}); !errors.Is(err, ErrFrame) {
		t.Errorf("something for nothing: got %v, want %v", err, ErrFrame)
	}
	for name, encode := range map[string]func() ([]byte, error){
		"digest":     func() ([]byte, error) { return Sign{Digest: make([]byte, hsm.MaxMessage+1)}.Encode() },
		"request":    func() ([]byte, error) { return Prove{Info: make([]byte, hsm.MaxInfo+1)}.Encode() },
		"ciphertext": func() ([]byte, error) { return Unwrap{Wrapped: hsm.Wrapped{Ciphertext: make([]byte, 5000)}}.Encode() },
		"key wrap": func() ([]byte, error) {
			return Unwrap{Wrapped: hsm.Wrapped{WrapAlgorithm: make([]byte, MaxShort+1)}}.Encode()
		},
		"origin":              func() ([]byte, error) { return Unwrap{Origin: strings.Repeat("o", hsm.MaxOrigin+1)}.Encode() },
		"origin of two words": func() ([]byte, error) { return Unwrap{Origin: "a b"}.Encode() },
		"UKM":                 func() ([]byte, error) { return Unwrap{Wrapped: hsm.Wrapped{UKM: make([]byte, MaxUKM+1)}}.Encode() },
		"hash":                func() ([]byte, error) { return Unwrap{Wrapped: hsm.Wrapped{Hash: crypto.MD5}}.Encode() },
		"size":                func() ([]byte, error) { return Unwrap{Wrapped: hsm.Wrapped{Size: -1}}.Encode() },
		"signature":           func() ([]byte, error) { return EncodeSignature(make([]byte, MaxSignature+1)) },
		"session key":         func() ([]byte, error) { return EncodeSessionKey(hsm.SessionKey{Key: make([]byte, 65)}) },
		"PIN":                 func() ([]byte, error) { return EncodeUnlock(strings.Repeat("1", 256)) },
		"label":               func() ([]byte, error) { return EncodeSpec(hsm.KeySpec{Label: strings.Repeat("l", 129)}) },
	} {
		if _, err := encode(); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("%s beyond its limit: got %v, want %v", name, err, hsm.ErrInvalid)
		}
	}
}

func TestList(t *testing.T) {
	for _, n := range []int{0, 1, 100, 5000} {
		var want [][]byte
		for i := range n {
			want = append(want, bytes.Repeat([]byte{byte(i)}, i%700))
		}
		parts, err := EncodeList(want)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for i, p := range parts {
			if _, err := (Frame{Op: OpKeys | Reply, Body: append([]byte{0}, p...)}).Append(nil); err != nil {
				t.Errorf("part %d of %d bytes fits no frame: %v", i, len(p), err)
			}
			e, more, err := DecodeList(p)
			if err != nil || more != (i < len(parts)-1) {
				t.Fatalf("part %d of %d: more %v, %v", i, len(parts), more, err)
			}
			got = append(got, e...)
		}
		if len(got) != n {
			t.Fatalf("got %d entries, want %d", len(got), n)
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("entry %d: got %x, want %x", i, got[i], want[i])
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	aes := []byte{0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2d}
	f.Add([]byte("id"), "192.0.2.7", uint8(1), true, uint8(9), uint8(8), uint8(7), uint16(32), uint8(3), uint8(1), []byte("ct"), []byte("eph"), []byte("fp"), []byte("oid"), []byte("label"), []byte(nil), false, []byte(nil))
	f.Add([]byte("id"), "2001:db8:1:2::/64", uint8(hsm.CMSX963), false, uint8(0), uint8(0), uint8(0), uint16(0), uint8(3), uint8(0), make([]byte, 40), make([]byte, 65), []byte(nil), []byte(nil), []byte(nil), aes, true, []byte("ukm"))
	f.Add([]byte("id"), "", uint8(hsm.CMSHKDF), false, uint8(0), uint8(0), uint8(0), uint16(32), uint8(5), uint8(0), make([]byte, 40), make([]byte, 32), []byte(nil), []byte(nil), []byte(nil), aes, true, []byte(nil))
	f.Fuzz(func(t *testing.T, id []byte, origin string, scheme uint8, v6 bool, cipher, kh, kc uint8, size uint16, h, mgf uint8, ct, eph, fp, oid, label, wrap []byte, ukm bool, material []byte) {
		m := Unwrap{Origin: origin, Wrapped: hsm.Wrapped{Scheme: hsm.Scheme(scheme), V6: v6, Cipher: cipher, KDFHash: kh, KDFCipher: kc, Size: int(size),
			Hash: hashes[int(h)%len(hashes)], MGFHash: hashes[int(mgf)%len(hashes)], Ciphertext: ct, Ephemeral: eph, Fingerprint: fp, CurveOID: oid, Label: label, WrapAlgorithm: wrap}}
		if ukm {
			m.Wrapped.UKM = append([]byte{}, material...)
		}
		copy(m.ID[:], id)
		b, err := m.Encode()
		if err != nil {
			if !errors.Is(err, hsm.ErrInvalid) {
				t.Fatalf("got %v, want %v", err, hsm.ErrInvalid)
			}
			return
		}
		if len(b) > MaxFrame-8-MaxTrace {
			t.Fatalf("a message of %d bytes passed all limits and fits no frame", len(b))
		}
		got, err := DecodeUnwrap(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("got %x, %v; want %x", again, err, b)
		}
		for _, p := range []*[]byte{&m.Wrapped.Ciphertext, &m.Wrapped.Ephemeral, &m.Wrapped.Fingerprint, &m.Wrapped.CurveOID, &m.Wrapped.Label, &m.Wrapped.WrapAlgorithm} {
			if len(*p) == 0 {
				*p = nil
			}
		}
		if !reflect.DeepEqual(got, m) {
			t.Fatalf("got %+v, want %+v", got, m)
		}
	})
}

// Whatever arrives: no panic, and what was understood prints as it came.
func FuzzDecode(f *testing.F) {
	for _, ukm := range [][]byte{nil, {}, []byte("ukm")} {
		b, _ := Unwrap{Origin: "192.0.2.7", Wrapped: hsm.Wrapped{Scheme: hsm.CMSHKDF, Hash: crypto.SHA256, Ciphertext: make([]byte, 40), Ephemeral: make([]byte, 32), UKM: ukm}}.Encode()
		f.Add(b)
	}
	for _, k := range testKeys(f) {
		b, _ := EncodeKey(k)
		f.Add(b)
		parts, _ := EncodeList([][]byte{b, b})
		f.Add(parts[0])
	}
	prove, _ := Prove{Info: []byte{0x30, 5, 2, 1, 0, 0x30, 0}}.Encode()
	f.Add(prove)
	fr, _ := Frame{Op: OpProve, ID: 4, Body: prove}.Append(nil)
	f.Add(fr)
	fr, _ = Frame{Op: OpSign, ID: 3, Trace: "abc", Body: []byte("body")}.Append(nil)
	f.Add(fr)
	f.Add([]byte{0, 0, 0x40, 0, Version, 1, 0, 0, 0, 0, 255})
	same := func(t *testing.T, what string, in, out []byte, err error) {
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%s: got %x, %v; want %x", what, out, err, in)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := NewReader(bytes.NewReader(b)).Next(); err == nil {
			out, err := fr.Append(nil)
			same(t, "frame", b[:len(out)], out, err)
		}
		if m, err := DecodeSign(b); err == nil {
			out, err := m.Encode()
			same(t, "sign", b, out, err)
		}
		if m, err := DecodeUnwrap(b); err == nil {
			out, err := m.Encode()
			same(t, "unwrap", b, out, err)
		}
		if m, err := DecodeProve(b); err == nil {
			out, err := m.Encode()
			same(t, "prove", b, out, err)
		}
		if s, err := DecodeSignature(b); err == nil {
			out, err := EncodeSignature(s)
			same(t, "signature", b, out, err)
		}
		if k, err := DecodeSessionKey(b); err == nil {
			out, err := EncodeSessionKey(k)
			same(t, "session key", b, out, err)
		}
		if k, err := DecodeKey(b); err == nil {
			out, err := EncodeKey(k)
			if err != nil {
				t.Fatalf("key: %v", err)
			}
			if back, err := DecodeKey(out); err != nil || !reflect.DeepEqual(back, k) {
				t.Fatalf("key: got %+v, %v; want %+v", back, err, k)
			}
		}
		if s, err := DecodeSpec(b); err == nil {
			out, err := EncodeSpec(s)
			same(t, "specification", b, out, err)
		}
		if p, err := DecodeProbe(b); err == nil {
			out, err := EncodeProbe(p)
			same(t, "probe", b, out, err)
		}
		if x, err := DecodeFinding(b); err == nil {
			out, err := EncodeFinding(x)
			same(t, "finding", b, out, err)
		}
		if s, err := DecodeStatus(b); err == nil {
			out, err := EncodeStatus(s)
			same(t, "status", b, out, err)
		}
		if so, pin, err := DecodeInit(b); err == nil {
			out, err := EncodeInit(so, pin)
			same(t, "init", b, out, err)
		}
		if e, more, err := DecodeList(b); err == nil {
			n := 1
			for _, v := range e {
				n += 2 + len(v)
			}
			if n != len(b) || more != (b[0] == 1) {
				t.Fatalf("list: entries cover %d bytes, want %d", n, len(b))
			}
		}
	})
}
