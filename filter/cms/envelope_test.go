package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"testing"
)

// sealed is a message with the content.
func sealed(t testing.TB, content []byte, r SealRequest) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewSealer(&out, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var sealing6 = []Cipher{AES128CBC, AES192CBC, AES256CBC, AES128GCM, AES192GCM, AES256GCM}

// What is sealed for a key of each kind opens with it, at all sizes.
func TestSealOpen(t *testing.T) {
	all := readers(t)
	for name, r := range all {
		for _, c := range sealing6 {
			for _, oaep := range []bool{false, true} {
				if oaep && name != "rsa" {
					continue
				}
				for _, size := range contentSizes {
					content := random(size)
					message := sealed(t, content, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c, OAEP: oaep})
					e, got, err := r.open(message)
					if err != nil || !bytes.Equal(got, content) {
						t.Fatalf("%s, %s, OAEP %t, %d bytes: got same=%t, %v, want true, nil", name, c, oaep, size, bytes.Equal(got, content), err)
					}
					want := Envelope{Type: TypeEnveloped, ContentType: TypeData, Cipher: c}
					if c.Authenticated() {
						want.Type = TypeAuthEnveloped
					}
					if e.Type != want.Type || e.ContentType != want.ContentType || e.Cipher != c || e.Legacy() || e.KeySize() != c.KeySize() || TypeOf(message[:min(64, len(message))]) != want.Type {
						t.Errorf("%s, %s: got %s of %s, %s, want %s of %s, %s", name, c, e.Type, e.ContentType, e.Cipher, want.Type, want.ContentType, c)
					}
				}
			}
		}
	}
}

// One message for all: each opens it, and nobody else.
func TestManyRecipients(t *testing.T) {
	all := readers(t)
	var certs []*x509.Certificate
	for _, r := range all {
		certs = append(certs, r.cert)
	}
	content := random(1000)
	for _, c := range []Cipher{AES256CBC, AES256GCM} {
		message := sealed(t, content, SealRequest{Recipients: certs, Cipher: c})
		for name, r := range all {
			if _, got, err := r.open(message); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s for all, %s: got same=%t, %v, want true, nil", c, name, bytes.Equal(got, content), err)
			}
		}
		stranger := readers(t)["rsa"]
		e, err := ReadEnvelope(bytes.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stranger.unwrap(e); err == nil {
			t.Error("stranger: got named in the message, want not")
		}
	}
}

// Sixteen recipients are looked at; the others are nobody's loss but theirs.
func TestRecipientLimit(t *testing.T) {
	all := readers(t)
	certs := []*x509.Certificate{all["p256"].cert}
	for len(certs) < 300 {
		certs = append(certs, all["rsa"].cert)
	}
	message := sealed(t, []byte("content"), SealRequest{Recipients: certs, Cipher: AES128CBC})
	e, got, err := all["rsa"].open(message)
	if err != nil || string(got) != "content" {
		t.Errorf("open: got %q, %v, want content, nil", got, err)
	}
	if len(e.Recipients) != maxRecipients {
		t.Errorf("recipients: got %d, want %d", len(e.Recipients), maxRecipients)
	}
}

func TestSealRefusals(t *testing.T) {
	rsa := readers(t)["rsa"].cert
	odd := *rsa
	odd.PublicKey = "none"
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strange := *rsa
	strange.PublicKey = &p224.PublicKey
	for _, c := range []struct {
		name string
		r    SealRequest
		want error
	}{
		{"nobody", SealRequest{Cipher: AES256CBC}, errNoRecipient},
		{"no cipher", SealRequest{Recipients: []*x509.Certificate{rsa}}, ErrAlgorithm},
		{"3DES", SealRequest{Recipients: []*x509.Certificate{rsa}, Cipher: TripleDES}, ErrAlgorithm},
		{"ChaCha20", SealRequest{Recipients: []*x509.Certificate{rsa}, Cipher: ChaCha20Poly1305}, ErrAlgorithm},
		{"cipher of tomorrow", SealRequest{Recipients: []*x509.Certificate{rsa}, Cipher: 99}, ErrAlgorithm},
		{"key of no kind", SealRequest{Recipients: []*x509.Certificate{rsa, &odd}, Cipher: AES256CBC}, ErrAlgorithm},
		{"P-224", SealRequest{Recipients: []*x509.Certificate{&strange}, Cipher: AES256CBC}, ErrAlgorithm},
	} {
		var out bytes.Buffer
		if _, err := NewSealer(&out, c.r); !errors.Is(err, c.want) || out.Len() > 0 {
			t.Errorf("%s: got %v and %d bytes, want %v and 0", c.name, err, out.Len(), c.want)
		}
	}
}

// A writer that fails shows in every call after.
func TestSealWriteError(t *testing.T) {
	r := SealRequest{Recipients: []*x509.Certificate{readers(t)["p256"].cert}, Cipher: AES256GCM}
	length := len(sealed(t, make([]byte, 100_000), r))
	for _, room := range []int{0, 10, 500, 40_000, length - 40, length - 1} {
		w, err := NewSealer(&short{room}, r)
		if err == nil {
			_, err = w.Write(make([]byte, 100_000))
			if closed := w.Close(); err == nil || closed == nil {
				err = closed
			}
		}
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("room for %d bytes: got %v, want %v", room, err, io.ErrShortWrite)
		}
	}
	w, err := NewSealer(io.Discard, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, errClosed) {
		t.Errorf("write after close: got %v, want %v", err, errClosed)
	}
	if err := w.Close(); !errors.Is(err, errClosed) {
		t.Errorf("close after close: got %v, want %v", err, errClosed)
	}
}

// short is a writer with room for so many bytes.
type short struct{ room int }

func (s *short) Write(p []byte) (int, error) {
	n := min(len(p), s.room)
	s.room -= n
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// decrypt reads a message and decrypts it with a key.
func decrypt(message, key []byte) ([]byte, error) {
	e, err := ReadEnvelope(bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = e.Decrypt(key, &out)
	return out.Bytes(), err
}

// keyOf is the content key of a message for r.
func keyOf(t testing.TB, r *reader, message []byte) []byte {
	t.Helper()
	e, err := ReadEnvelope(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.unwrap(e)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// contentAt is where the EncryptedContentInfo begins: behind the recipients.
func contentAt(t testing.TB, message []byte) int {
	t.Helper()
	i := bytes.Index(message, []byte{0x30, 0x80, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1})
	if i < 0 {
		t.Fatal("no content in the message")
	}
	return i
}

// No changed byte of an authenticated message opens: not in the content, not
// around it. Where the change is before the ciphertext, the message may not be
// one any more; behind, there is one answer. What names the recipients, and the
// version, is not authenticated (RFC 5083 §2.1).
func TestChangedByte(t *testing.T) {
	r := readers(t)["p256"]
	content := random(3000)
	message := sealed(t, content, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: AES128GCM})
	key, from := keyOf(t, r, message), contentAt(t, message)
	e, err := ReadEnvelope(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	ciphertext := bytes.Index(message, e.content.iv) + gcmNonce + 3 + 2 // length of the tag, header of the content
	for i := range message {
		for _, change := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(message)
			bad[i] ^= change
			got, err := decrypt(bad, key)
			switch {
			case i >= ciphertext && !errors.Is(err, ErrDecrypt):
				t.Errorf("byte %d of %d ^ %#x: got %v, want %v", i, len(message), change, err, ErrDecrypt)
			case err == nil && i < from:
				if !bytes.Equal(got, content) {
					t.Errorf("byte %d ^ %#x: got another content", i, change)
				}
			case err == nil:
				// The type of the content: nobody vouches for it.
				if oid := from + 4; i < oid || i >= oid+9 {
					t.Errorf("byte %d of %d ^ %#x: got it opened, want refused", i, len(message), change)
				}
			case !errors.Is(err, ErrDecrypt) && !errors.Is(err, ErrForm) && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrAlgorithm):
				t.Errorf("byte %d ^ %#x: got %v, want an error of the package", i, change, err)
			}
		}
	}
}

// A message that ends early does not open, wherever; with and without a tag.
func TestCutOff(t *testing.T) {
	r := readers(t)["p256"]
	for _, c := range []Cipher{AES256CBC, AES256GCM} {
		message := sealed(t, random(2000), SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
		key := keyOf(t, r, message)
		for n := range message {
			if _, err := decrypt(message[:n], key); !errors.Is(err, ErrDecrypt) && !errors.Is(err, ErrForm) {
				t.Errorf("%s, %d of %d bytes: got %v, want %v or %v", c, n, len(message), err, ErrForm, ErrDecrypt)
			}
		}
		if _, err := decrypt(append(bytes.Clone(message), 0), key); !errors.Is(err, ErrDecrypt) {
			t.Errorf("%s and a byte more: got %v, want %v", c, err, ErrDecrypt)
		}
	}
}

// counting counts what it reads.
type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// Whatever is wrong with a key, all of the message is read, as much is
// written as with the right one, and there is one answer (R1, R2).
func TestWrongKey(t *testing.T) {
	r := readers(t)["p256"]
	for _, c := range sealing6 {
		message := sealed(t, make([]byte, 100_000), SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
		key := keyOf(t, r, message)
		for name, wrong := range map[string][]byte{"none": nil, "short": key[:8], "long": append(bytes.Clone(key), 1), "other": random(len(key))} {
			in := &counting{r: bytes.NewReader(message)}
			e, err := ReadEnvelope(in)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = e.Decrypt(wrong, &out)
			// One key of 256 gives a padding that is one.
			if c.Authenticated() || err != nil {
				if err != ErrDecrypt {
					t.Errorf("%s, %s key: got %v, want %v", c, name, err, ErrDecrypt)
				}
			} else if name != "other" {
				t.Errorf("%s, %s key: got it opened, want refused", c, name)
			}
			if in.n != len(message) || out.Len() < 100_000-16 {
				t.Errorf("%s, %s key: got %d bytes read and %d written, want %d and about 100000", c, name, in.n, out.Len(), len(message))
			}
		}
		e, err := ReadEnvelope(bytes.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Decrypt(key, io.Discard); err != nil {
			t.Errorf("%s: got %v, want nil", c, err)
		}
		if err := e.Decrypt(key, io.Discard); err != ErrDecrypt {
			t.Errorf("%s, a second time: got %v, want %v", c, err, ErrDecrypt)
		}
	}
}

// An error of the world is no word on the message.
func TestDecryptWorldErrors(t *testing.T) {
	r := readers(t)["p256"]
	message := sealed(t, make([]byte, 100_000), SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: AES256CBC})
	key := keyOf(t, r, message)
	for _, room := range []int{0, 50_000, 99_999} {
		e, err := ReadEnvelope(bytes.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Decrypt(key, &short{room}); !errors.Is(err, io.ErrShortWrite) || errors.Is(err, ErrDecrypt) {
			t.Errorf("room for %d bytes: got %v, want %v", room, err, io.ErrShortWrite)
		}
	}
	away := errors.New("disk away")
	e, err := ReadEnvelope(io.MultiReader(bytes.NewReader(message[:50_000]), failing{away}))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Decrypt(key, io.Discard); !errors.Is(err, away) || errors.Is(err, ErrDecrypt) {
		t.Errorf("failing reader: got %v, want %v", err, away)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// No IV and no content key comes twice (R40).
func TestFresh(t *testing.T) {
	r := readers(t)["p256"]
	seen := map[string]bool{}
	for range 500 {
		for _, c := range []Cipher{AES128CBC, AES256GCM} {
			message := sealed(t, nil, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
			e, err := ReadEnvelope(bytes.NewReader(message))
			if err != nil {
				t.Fatal(err)
			}
			key, err := r.unwrap(e)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{"iv " + string(e.content.iv), "key " + string(key), "ephemeral " + string(e.Recipients[0].Wrapped.Ephemeral)} {
				if seen[s] {
					t.Fatalf("%s: got %x twice", c, s)
				}
				seen[s] = true
			}
		}
	}
}
