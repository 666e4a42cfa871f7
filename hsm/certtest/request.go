package certtest

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"testing"
)

// Requester lets x509.CreateCertificateRequest write a request for a key, and
// asks Prove for the signature of what it has written.
type Requester struct {
	Key   crypto.PublicKey
	Prove func(info []byte) ([]byte, error)
}

// Public implements crypto.Signer.
func (r Requester) Public() crypto.PublicKey { return r.Key }

// Sign implements crypto.Signer. Nobody is to ask for it.
func (r Requester) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("asked to sign a digest")
}

// SignMessage implements crypto.MessageSigner.
func (r Requester) SignMessage(_ io.Reader, info []byte, _ crypto.SignerOpts) ([]byte, error) {
	return r.Prove(info)
}

// Asked reads a request in PEM, which must have signed itself; where there is
// a public key instead, of one that signs nothing, the rest of it is empty.
func Asked(t testing.TB, text []byte) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no PEM in %.200q", text)
	}
	if block.Type == "PUBLIC KEY" {
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return &x509.CertificateRequest{PublicKey: pub}
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}
