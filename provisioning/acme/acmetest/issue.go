package acmetest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// chain is a root, and an authority below it that makes the certificates.
type chain struct {
	root, ca *x509.Certificate
	key      *ecdsa.PrivateKey
}

func (c *chain) make() error {
	rootKey, err := newKey()
	if err != nil {
		return err
	}
	if c.key, err = newKey(); err != nil {
		return err
	}
	if c.root, err = issue(authority("ACME Test Root"), nil, rootKey.Public(), rootKey); err != nil {
		return err
	}
	c.ca, err = issue(authority("ACME Test Mail CA"), c.root, c.key.Public(), rootKey)
	return err
}

func authority(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotAfter: time.Now().AddDate(5, 0, 0)}
}

func issue(template, by *x509.Certificate, public any, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, err
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	if by == nil {
		by = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (s *Server) finalize(q *request, id int) (int, map[string]string, any, error) {
	o := s.orders[id]
	if o.status != "ready" {
		return 0, nil, nil, refused(http.StatusForbidden, "orderNotReady", "order is %s", o.status)
	}
	var ask struct {
		CSR string `json:"csr"`
	}
	bad := func(format string, args ...any) (int, map[string]string, any, error) {
		return 0, nil, nil, refused(http.StatusBadRequest, "badCSR", format, args...)
	}
	if err := json.Unmarshal(q.payload, &ask); err != nil {
		return bad("%v", err)
	}
	der, err := base64.RawURLEncoding.DecodeString(ask.CSR)
	if err != nil {
		return bad("%v", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return bad("%v", err)
	}
	if len(csr.EmailAddresses) != 1 || !strings.EqualFold(csr.EmailAddresses[0], o.address) || len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.URIs) > 0 {
		return bad("names %v, want %s", csr.EmailAddresses, o.address)
	}
	if k, ok := csr.PublicKey.(*ecdsa.PublicKey); ok && k.Equal(q.account.key.Key) {
		return bad("key of the account")
	}
	x := &x509.Certificate{Subject: pkix.Name{CommonName: o.address}, EmailAddresses: []string{o.address}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
		KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: time.Now().AddDate(1, 0, 0), BasicConstraintsValid: true}
	for _, e := range csr.Extensions { // the use that is wished for (RFC 8823 §3)
		var bits asn1.BitString
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) {
			if _, err := asn1.Unmarshal(e.Value, &bits); err != nil {
				return bad("key usage: %v", err)
			}
			x.KeyUsage = 0
			for n := range bits.BitLength {
				x.KeyUsage |= x509.KeyUsage(bits.At(n) << n)
			}
		}
	}
	made, err := issue(x, s.chain.ca, csr.PublicKey, s.chain.key)
	if err != nil {
		return 0, nil, nil, err
	}
	o.der, o.status = made.Raw, "processing"
	use := "sign"
	if made.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
		use = "unwrap"
	}
	s.issued = append(s.issued, o.address+" "+use)
	return http.StatusOK, map[string]string{"Location": s.at("order", o), "Retry-After": "1"}, s.orderObject(o), nil
}

func (s *Server) certificate(q *request, id int) (int, map[string]string, any, error) {
	o := s.orders[id]
	if o.status != "valid" || q.payload != nil {
		return 0, nil, nil, refused(http.StatusForbidden, "orderNotReady", "order is %s", o.status)
	}
	text := ""
	for _, der := range [][]byte{o.der, s.chain.ca.Raw} {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return http.StatusOK, map[string]string{"Content-Type": "application/pem-certificate-chain"}, text, nil
}
