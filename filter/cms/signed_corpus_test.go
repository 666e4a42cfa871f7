package cms

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"postern/hsm/hsmtest"
)

// What the corpora have of signed messages outside of mails: none verifies.
func TestCorpusSigned(t *testing.T) {
	dir := filepath.Join(hsmtest.Corpora(t), "msgs")
	for _, c := range []struct {
		name    string
		read    error // of the message
		signers int
		want    error // of each signature
	}{
		{"openssl-cms/bad_signtime_attr.cms", nil, 1, ErrBadSignature}, // not signed
		{"openssl-cms/ct_multiple_attr.cms", nil, 1, ErrBadSignature},
		{"openssl-cms/no_md_attr.cms", nil, 1, ErrBadSignature},
		{"openssl-cms/pkcs7-md4.pem", nil, 1, ErrAlgorithm},
		{"rfc4134/4.3.bin", ErrForm, 0, nil}, // detached
		{"rfc4134/4.4.bin", nil, 1, ErrAlgorithm},
		{"rfc4134/4.5.bin", nil, 1, ErrAlgorithm},
		{"rfc4134/4.7.bin", nil, 1, ErrAlgorithm},
		{"rfc4134/4.10.bin", nil, 1, ErrAlgorithm},
		{"rfc4134/4.11.bin", nil, 0, nil},                               // certificates only
		{"gnupg-tests/cms/webde-buenemann-signed.cms", ErrForm, 0, nil}, // damaged
	} {
		data, err := os.ReadFile(filepath.Join(dir, c.name))
		if err != nil {
			t.Error(err)
			continue
		}
		if block, _ := pem.Decode(data); block != nil {
			data = block.Bytes
		}
		s, err := ReadSigned(bytes.NewReader(data), io.Discard)
		if !errors.Is(err, c.read) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.read)
		}
		if s == nil {
			continue
		}
		if len(s.Signers) != c.signers {
			t.Errorf("%s: got %d signers, want %d", c.name, len(s.Signers), c.signers)
		}
		for _, signer := range s.Signers {
			for _, der := range s.Certs {
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				} else if err := signer.Verify(cert); signer.Names(cert) && !errors.Is(err, c.want) {
					t.Errorf("%s: got %v, want %v", c.name, err, c.want)
				}
			}
		}
	}
}
