package cms

import (
	"bytes"
	"crypto/x509"
	"errors"
	"path/filepath"
	"testing"

	"postern/hsm/hsmtest"
)

// Whatever comes in, reading and decrypting it end in content or in one of the
// errors of the package, the recipients are bounded, and what comes out is no
// longer than what came in. The key is fixed and of the right size.
func FuzzReadEnvelope(f *testing.F) {
	all := readers(f)
	for _, name := range []string{"rsa", "p256", "x25519"} {
		for _, c := range sealing6 {
			f.Add(sealed(f, []byte("content"), SealRequest{Recipients: []*x509.Certificate{all[name].cert}, Cipher: c}))
		}
	}
	for i, kind := range opensslKinds {
		cert, _ := all[kind.reader].files(f)
		args := append([]string{"cms", "-encrypt", "-binary", "-outform", "DER", opensslCiphers[i%len(opensslCiphers)].option}, kind.before...)
		message, err := openssl(f, []byte("content"), append(append(args, "-recip", cert), kind.options...)...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	key := bytes.Repeat([]byte{7}, 64)
	for _, cc := range []contentCipher{{AES128CBC, make([]byte, 16), 0}, {AES256GCM, make([]byte, 12), 16}} {
		f.Add(sealedWith(f, cc, key[:cc.KeySize()], []byte("content")))
	}
	dir, _ := hsmtest.FindCorpora()
	for _, pattern := range []string{"rfc4134/*.bin", "openssl-cms/*", "gnupg-tests/cms/*.p7m"} {
		files, err := filepath.Glob(filepath.Join(dir, "msgs", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			f.Add(bare(f, file))
		}
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, err := ReadEnvelope(bytes.NewReader(message))
		if err == nil {
			if len(e.Recipients) > maxRecipients {
				t.Errorf("recipients: got %d, want %d at most", len(e.Recipients), maxRecipients)
			}
			var out bytes.Buffer
			if err = e.Decrypt(key[:e.KeySize()], &out); out.Len() > len(message) {
				t.Errorf("content: got %d bytes of a message of %d", out.Len(), len(message))
			}
			if err != nil && err != ErrDecrypt {
				t.Errorf("decrypt: got %v, want %v", err, ErrDecrypt)
			}
		}
		for _, known := range []error{nil, ErrForm, ErrLimit, ErrAlgorithm, ErrDecrypt} {
			if errors.Is(err, known) {
				return
			}
		}
		t.Errorf("got %v, want an error of the package", err)
	})
}
