package cms

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// readAs reads a message, detached if content is not nil, and gives content and
// who has signed it by the certificate.
func readAs(message []byte, content *string, cert *x509.Certificate) (string, *Signer, error) {
	var out bytes.Buffer
	var s *Signed
	var err error
	if content != nil {
		out.WriteString(*content)
		s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(*content))
	} else {
		s, err = ReadSigned(bytes.NewReader(message), &out)
	}
	if err != nil {
		return "", nil, err
	}
	for _, signer := range s.Signers {
		if signer.Names(cert) && signer.Verify(cert) == nil {
			return out.String(), signer, nil
		}
	}
	return out.String(), nil, nil
}

// No change of a byte gives other content or other claims under the signature.
// What nobody signs may change: the version, which is not looked at, and the
// certificates that come along, which may be taken for something else.
func TestTampered(t *testing.T) {
	token := hsmtest.Memory(t)
	for _, way := range ways {
		masks := []byte{1, 0x80}
		if way.algorithm == hsm.P256 {
			masks = []byte{1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0xff}
		}
		r := signWith(t, token, way.algorithm)
		r.PSS = way.pss
		for _, detached := range []bool{false, true} {
			message := signed(t, r, entity, detached)
			var content *string
			if detached {
				text := entity
				content = &text
			}
			if _, signer, err := readAs(message, content, r.Cert); signer == nil || err != nil {
				t.Fatalf("%s: got %v, %v", way.name, signer, err)
			}
			from := bytes.Index(message, r.Cert.Raw)
			to, set := from+len(r.Cert.Raw), from-4
			version := bytes.Index(message, []byte{2, 1, 1})
			for i := range message {
				if from <= i && i < to {
					continue
				}
				for _, mask := range masks {
					tampered := bytes.Clone(message)
					tampered[i] ^= mask
					got, signer, err := readAs(tampered, content, r.Cert)
					if err != nil && !errors.Is(err, ErrForm) && !errors.Is(err, ErrLimit) {
						t.Errorf("%s: byte %d changed by %#x: got %v", way.name, i, mask, err)
					}
					if signer != nil && i != version+2 && i != set {
						t.Errorf("%s, detached %v: byte %d (%#x) changed by %#x: verified, %q", way.name, detached, i, message[i], mask, got)
					}
				}
			}
			for n := range message {
				if _, signer, err := readAs(message[:n], content, r.Cert); !errors.Is(err, ErrForm) {
					t.Errorf("%s: cut off at %d: got %v, %v, want %v", way.name, n, signer, err, ErrForm)
				}
			}
			if content == nil {
				continue
			}
			for i := range entity {
				other := entity[:i] + string(entity[i]^1) + entity[i+1:]
				if _, signer, err := readAs(message, &other, r.Cert); signer != nil || err != nil {
					t.Errorf("%s: other content: got %v, %v", way.name, signer, err)
				}
			}
		}
	}
}

// deaf is a token that answers err, or what does not fit.
type deaf struct {
	hsm.Token
	answer []byte
	err    error
}

func (d deaf) Sign(context.Context, hsm.KeyID, hsm.SignAlg, []byte) ([]byte, error) {
	return d.answer, d.err
}

// A token that fails, or answers nonsense, signs nothing.
func TestSignFaults(t *testing.T) {
	token := hsmtest.Memory(t)
	for _, way := range ways {
		r := signWith(t, token, way.algorithm)
		r.PSS = way.pss
		for _, c := range []struct {
			name  string
			token hsm.Token
			want  error
		}{
			{"away", deaf{err: hsm.ErrAway}, hsm.ErrAway},
			{"refused", deaf{err: hsm.ErrRefused}, hsm.ErrRefused},
			{"nothing", deaf{}, hsm.ErrOpaque},
			{"nonsense", deaf{answer: make([]byte, 64)}, hsm.ErrOpaque},
		} {
			r.Token = c.token
			var out bytes.Buffer
			if err := SignDetached(t.Context(), &out, strings.NewReader(entity), r); !errors.Is(err, c.want) || out.Len() > 0 {
				t.Errorf("%s: %s: got %v and %d bytes, want %v and none", way.name, c.name, err, out.Len(), c.want)
			}
			if err := SignOpaque(t.Context(), io.Discard, strings.NewReader(entity), r); !errors.Is(err, c.want) {
				t.Errorf("%s: %s: got %v, want %v", way.name, c.name, err, c.want)
			}
		}
	}
}

func TestSignRefused(t *testing.T) {
	token := hsmtest.Memory(t)
	good := signWith(t, token, hsm.P256)
	keyOf := func(cert *x509.Certificate) SignRequest {
		r := good
		r.Cert = cert
		var err error
		if r.Key, err = hsm.IDOf(cert.PublicKey); err != nil {
			t.Fatal(err)
		}
		return r
	}
	other := good
	other.Cert = issue(t, testKey(t, hsm.P256).Public())
	fault := errors.New("disk")
	for _, c := range []struct {
		name    string
		request SignRequest
		content io.Reader
		w       io.Writer
		want    error
	}{
		{"certificate of another key", other, strings.NewReader(entity), io.Discard, hsm.ErrInvalid},
		{"RSA of 1024 bits", keyOf(issue(t, testKey(t, hsm.RSA1024).Public())), strings.NewReader(entity), io.Discard, ErrAlgorithm},
		{"P-224", keyOf(issue(t, testKey(t, "p-224").Public())), strings.NewReader(entity), io.Discard, ErrAlgorithm},
		{"content that breaks off", good, iotest.ErrReader(fault), io.Discard, fault},
		{"nowhere to write", good, strings.NewReader(entity), unwritable{fault}, fault},
	} {
		for name, sign := range map[string]func(context.Context, io.Writer, io.Reader, SignRequest) error{"detached": SignDetached, "opaque": SignOpaque} {
			if err := sign(t.Context(), c.w, c.content, c.request); !errors.Is(err, c.want) {
				t.Errorf("%s: %s: got %v, want %v", c.name, name, err, c.want)
			}
		}
	}
}

// Errors of reader and writer are not those of the message.
func TestSignedFaults(t *testing.T) {
	message := signed(t, signWith(t, hsmtest.Memory(t), hsm.P256), entity, false)
	fault := errors.New("disk")
	broken := func() io.Reader {
		return io.MultiReader(bytes.NewReader(message[:100]), iotest.ErrReader(fault))
	}
	if _, err := ReadSigned(broken(), io.Discard); !errors.Is(err, fault) || errors.Is(err, ErrForm) {
		t.Errorf("got %v, want %v", err, fault)
	}
	if _, err := ReadSigned(bytes.NewReader(message), unwritable{fault}); !errors.Is(err, fault) || errors.Is(err, ErrForm) {
		t.Errorf("got %v, want %v", err, fault)
	}
	detached := signed(t, signWith(t, hsmtest.Memory(t), hsm.P256), entity, true)
	if _, err := ReadDetached(bytes.NewReader(detached), iotest.ErrReader(fault)); !errors.Is(err, fault) || errors.Is(err, ErrForm) {
		t.Errorf("got %v, want %v", err, fault)
	}
}

// A message that comes byte by byte is the same.
func TestSignedSlowly(t *testing.T) {
	r := signWith(t, hsmtest.Memory(t), hsm.P256)
	var out bytes.Buffer
	s, err := ReadSigned(iotest.OneByteReader(bytes.NewReader(signed(t, r, entity, false))), &out)
	if err != nil || out.String() != entity || s.Signers[0].Verify(r.Cert) != nil {
		t.Errorf("got %+v, %v", s, err)
	}
}

// Up to 2049 a time is written in the short form (RFC 5652 §11.3).
func TestSigningTime(t *testing.T) {
	r := signWith(t, hsmtest.Memory(t), hsm.P256)
	for _, at := range []time.Time{
		{}, time.Date(1951, 1, 2, 3, 4, 5, 0, time.UTC), signedAt.In(time.FixedZone("", 3600)), time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		r.At = at
		content := entity
		_, signer, err := readAs(signed(t, r, entity, true), &content, r.Cert)
		if err != nil || signer == nil || !signer.SigningTime.Equal(at) {
			t.Errorf("%v: got %+v, %v", at, signer, err)
		}
	}
}

// 200 MB are signed and read with a few buffers.
func TestSignedMemory(t *testing.T) {
	const size = 200 << 20
	r := signWith(t, hsmtest.Memory(t), hsm.P256)
	fill := func() io.Reader { return &endless{size} }
	pipe, w := io.Pipe()
	errs := make(chan error, 1)
	var s, d *Signed
	var err error
	var detached bytes.Buffer
	got := allocated(func() {
		go func() {
			errs <- SignOpaque(t.Context(), w, fill(), r)
			w.Close()
		}()
		s, err = ReadSigned(pipe, io.Discard)
		if err == nil {
			err = SignDetached(t.Context(), &detached, fill(), r)
		}
		if err == nil {
			d, err = ReadDetached(&detached, fill())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Signed{s, d} {
		if err := s.Signers[0].Verify(r.Cert); err != nil {
			t.Error(err)
		}
	}
	// All that was ever asked for, garbage too.
	if got > 1<<20 {
		t.Errorf("%d KiB of memory", got>>10)
	}
}

// Memory is given for what came, and no more than the bounds.
func TestSignedClaims(t *testing.T) {
	key := testKey(t, hsm.P256)
	c := crafted{key: key, cert: issue(t, key.Public()), content: entity, attributes: []attribute{isType(oidData), hasDigest(entity)}}
	for name, in := range map[string][]byte{
		"deep":    bytes.Repeat([]byte{0x30, 0x80}, 2<<20),
		"claimed": append([]byte{0x30, 0x88, 0x7f, 0, 0, 0, 0, 0, 0, 0}, c.bytes(t)[4:]...),
		"sets":    bytes.Repeat([]byte{0x31, 0x80}, 2<<20),
	} {
		if got := allocated(func() {
			if _, err := ReadSigned(bytes.NewReader(in), io.Discard); err == nil {
				t.Errorf("%s: no error", name)
			}
		}); got > 1<<20 {
			t.Errorf("%s: %d KiB of memory", name, got>>10)
		}
	}
}

// fuzzed are messages to begin with.
func fuzzed(f *testing.F, detached bool) *x509.Certificate {
	f.Helper()
	key := testKey(f, hsm.P256)
	cert := issue(f, key.Public())
	c := crafted{key: key, cert: cert, content: entity, detached: detached, attributes: []attribute{isType(oidData), hasDigest(entity)}, certs: [][]byte{cert.Raw}}
	f.Add(c.bytes(f))
	c.bare, c.keyID, c.version = true, true, 3
	f.Add(c.bytes(f))
	c.signers = -1
	f.Add(c.bytes(f))
	f.Add(signed(f, signWith(f, hsmtest.Memory(f), hsm.Ed25519), entity, detached))
	dir, _ := hsmtest.FindCorpora()
	for _, pattern := range []string{"rfc4134/*.bin", "openssl-cms/*.cms", "gnupg-tests/cms/*.cms"} {
		names, err := filepath.Glob(filepath.Join(dir, "msgs", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	return cert
}

// Nothing but what was signed verifies.
func fuzzSigned(t *testing.T, in []byte, content *string, cert *x509.Certificate) {
	got, signer, err := readAs(in, content, cert)
	if err != nil && !errors.Is(err, ErrForm) && !errors.Is(err, ErrLimit) {
		t.Errorf("got %v", err)
	}
	if signer != nil && got != entity {
		t.Errorf("verified, %q", got)
	}
}

func FuzzReadSigned(f *testing.F) {
	cert := fuzzed(f, false)
	f.Fuzz(func(t *testing.T, in []byte) { fuzzSigned(t, in, nil, cert) })
}

func FuzzReadDetached(f *testing.F) {
	cert := fuzzed(f, true)
	f.Fuzz(func(t *testing.T, in []byte) {
		content := entity
		fuzzSigned(t, in, &content, cert)
	})
}
