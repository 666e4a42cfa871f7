package smime

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/chain"
	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/hsm"
)

// Errors of Read.
var (
	// ErrCert is data that holds no certificate, or one that is malformed.
	ErrCert = errors.New("no well-formed certificate")
	// ErrCertLimit is a certificate, or a bundle, beyond the limits.
	ErrCertLimit = errors.New("certificate beyond limits")
	// ErrSecret is data that holds private key material. Nothing of it is kept.
	ErrSecret = errors.New("private key material, which has no business here")
)

// What Read looks at.
const (
	maxBundle = 1 << 20 // bytes of one call
	maxCert   = 64 << 10
	maxCerts  = 100
)

// Read reads certificates, one or several: PEM, DER, or the bundle of PKCS#7
// that authorities send (certs-only, RFC 8551 §3.8) in PEM or DER. Each comes
// once, in its order, those of authorities among them. Errors: ErrCert,
// ErrCertLimit, ErrSecret.
func Read(data []byte) ([]keyring.Cert, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("read certificate: more than %d bytes: %w", maxBundle, ErrCertLimit)
	}
	blobs, err := unwrapPEM(data)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	var certs []keyring.Cert
	for _, blob := range blobs {
		ders, err := certsIn(blob)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		for _, der := range ders {
			c, err := certOf(der)
			if err != nil {
				return nil, fmt.Errorf("read certificate: %w", err)
			}
			if slices.ContainsFunc(certs, func(o keyring.Cert) bool { return o.Fingerprint == c.Fingerprint }) {
				continue
			}
			if len(certs) == maxCerts {
				return nil, fmt.Errorf("read certificate: more than %d: %w", maxCerts, ErrCertLimit)
			}
			certs = append(certs, c)
		}
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("read certificate: %w", ErrCert)
	}
	return certs, nil
}

// unwrapPEM gives the contents of PEM blocks (RFC 7468), or data itself where
// there are none.
func unwrapPEM(data []byte) (blobs [][]byte, err error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) || len(data) > 0 && data[0] == 0x30 {
		return [][]byte{data}, nil
	}
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return blobs, nil
		}
		switch {
		case strings.HasSuffix(b.Type, "PRIVATE KEY"):
			return nil, ErrSecret
		case b.Type == "CERTIFICATE", b.Type == "X509 CERTIFICATE", b.Type == "PKCS7", b.Type == "CMS":
			if len(blobs) == maxCerts {
				return nil, ErrCertLimit
			}
			blobs = append(blobs, b.Bytes)
		}
	}
}

// certsIn is the certificate, or those of the bundle.
func certsIn(blob []byte) ([][]byte, error) {
	if cms.TypeOf(blob) != cms.TypeSigned {
		return [][]byte{blob}, nil
	}
	s, err := cms.ReadSigned(bytes.NewReader(blob), io.Discard)
	if err != nil {
		return nil, ErrCert
	}
	return s.Certs, nil
}

// certOf reads one certificate for the keyring.
func certOf(der []byte) (keyring.Cert, error) {
	if len(der) > maxCert {
		return keyring.Cert{}, ErrCertLimit
	}
	x, err := parse(der)
	if err != nil {
		return keyring.Cert{}, ErrCert
	}
	return describe(x), nil
}

// describe is what the keyring keeps of a certificate.
func describe(x *x509.Certificate) keyring.Cert {
	c := keyring.Cert{
		Format:      keyring.SMIME,
		Fingerprint: fingerprint(x.Raw),
		Raw:         x.Raw,
		Addresses:   chain.Addresses(x),
		Created:     x.NotBefore.UTC(),
		Expires:     x.NotAfter.UTC(),
	}
	if hsm.AlgorithmOf(x.PublicKey) != "" {
		if id, err := hsm.IDOf(x.PublicKey); err == nil {
			c.KeyIDs = []hsm.KeyID{id}
		}
	}
	return c
}
