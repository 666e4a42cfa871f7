package credential

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/net/idna"

	"postern/hsm"
	"postern/hsm/client"
)

// Request is a PKCS#10 request (RFC 2986) in DER for a server called name,
// signed by the key itself.
func Request(ctx context.Context, token hsm.Token, k hsm.Key, name string) ([]byte, error) {
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return nil, fmt.Errorf("request certificate: server name %.80q: %w", name, err)
	}
	signer, err := client.Signer(ctx, token, k)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject(ascii), DNSNames: []string{ascii}}, signer)
	if err != nil {
		return nil, fmt.Errorf("request certificate: sign with %s: %w", k.ID, err)
	}
	return der, nil
}

// SelfSigned is a certificate in DER for a server called name, which nobody
// vouches for but the key itself: enough for servers that encrypt without a
// look at it, for those that pin its key, and for DANE.
func SelfSigned(ctx context.Context, token hsm.Token, k hsm.Key, name string, from, to time.Time) ([]byte, error) {
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return nil, fmt.Errorf("make certificate: server name %.80q: %w", name, err)
	}
	signer, err := client.Signer(ctx, token, k)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 1 // positive, and as long in all of them
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: subject(ascii), DNSNames: []string{ascii},
		NotBefore: from, NotAfter: to, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public, signer)
	if err != nil {
		return nil, fmt.Errorf("make certificate: sign with %s: %w", k.ID, err)
	}
	return der, nil
}

// subject has the name where it fits a common name (RFC 5280 appendix A.1):
// what counts is the alternative name.
func subject(ascii string) pkix.Name {
	if len(ascii) > 64 {
		return pkix.Name{}
	}
	return pkix.Name{CommonName: ascii}
}
