package cms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// reader is somebody who has a certificate, and its key in a token.
type reader struct {
	name         string
	cert, issuer *x509.Certificate
	key          crypto.PrivateKey
	id           hsm.KeyID
	token        hsm.Token
}

// unwrap is the content key of e for r, who must be among its recipients.
func (r *reader) unwrap(e *Envelope) ([]byte, error) {
	for i := range e.Recipients {
		if e.Recipients[i].Names(r.cert) {
			sk, err := r.token.Unwrap(context.Background(), r.id, e.Recipients[i].Wrapped)
			return sk.Key, err
		}
	}
	return nil, fmt.Errorf("%s is none of %d recipients", r.name, len(e.Recipients))
}

// open decrypts a whole message for r.
func (r *reader) open(message []byte) (*Envelope, []byte, error) {
	e, err := ReadEnvelope(bytes.NewReader(message))
	if err != nil {
		return nil, nil, err
	}
	key, err := r.unwrap(e)
	if err != nil {
		return e, nil, err
	}
	var out bytes.Buffer
	err = e.Decrypt(key, &out)
	return e, out.Bytes(), err
}

// files writes certificate and key for programs that take PEM.
func (r *reader) files(t testing.TB) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, r.name+".crt"), filepath.Join(dir, r.name+".key")
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: r.cert.Raw}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// readers have a key of each kind, in one token.
func readers(t testing.TB) map[string]*reader {
	t.Helper()
	keys := map[string]crypto.PrivateKey{}
	var err error
	if keys["rsa"], err = hsmtest.RSA(2048, 0); err != nil {
		t.Fatal(err)
	}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if keys["x25519"], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return tokenOf(t, keys)
}

// tokenOf puts the keys into a token, and makes a certificate for each.
func tokenOf(t testing.TB, keys map[string]crypto.PrivateKey) map[string]*reader {
	t.Helper()
	out := map[string]*reader{}
	issuer := newIssuer(t)
	for name, key := range keys {
		out[name] = &reader{name: name, issuer: issuer.cert, key: key}
	}
	bring(t, out)
	for _, r := range out {
		r.cert = issuer.certify(t, r.name, r.key.(interface{ Public() crypto.PublicKey }).Public())
	}
	return out
}

// bring puts the readers' keys into a token.
func bring(t testing.TB, readers map[string]*reader) {
	t.Helper()
	soft := hsmtest.NewSoft()
	for _, r := range readers {
		k, err := soft.Put(r.name, hsm.Unwrap, hsm.Imported, r.key)
		if err != nil {
			t.Fatal(err)
		}
		r.id = k.ID
	}
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(hsmtest.SoftPIN), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	d, err := keyd.New(keyd.Config{Device: soft, PINFile: pin, Log: quiet, Audit: quiet, Budget: keyd.Budget{Failures: -1, Rate: -1}, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close token: %v", err)
		}
	})
	for _, r := range readers {
		r.token = d
	}
}

// issuer makes certificates.
type issuer struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := hsmtest.RSA(2048, 1)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Müller CA", Country: []string{"DE"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if i.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return i
}

// certify makes a certificate for a public key. Its serial number has the high
// bit set, which in DER is a byte more.
func (i *issuer) certify(t testing.TB, name string, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(spki)
	usage := x509.KeyUsageKeyAgreement
	if _, is := pub.(*rsa.PublicKey); is {
		usage = x509.KeyUsageKeyEncipherment
	}
	x, isX := pub.(*ecdh.PublicKey)
	if isX { // crypto/x509 makes no such certificate: one for a key of the same length is altered below
		pub = ed25519.PublicKey(x.Bytes())
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:   new(big.Int).SetBytes(append([]byte{0xf0}, random(8)...)),
		Subject:        pkix.Name{CommonName: name, Organization: []string{"Company 1"}},
		EmailAddresses: []string{name + "@company1.example"},
		NotBefore:      i.cert.NotBefore, NotAfter: i.cert.NotAfter,
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
		SubjectKeyId: id[:],
	}, i.cert, pub, i.key)
	if err != nil {
		t.Fatal(err)
	}
	if isX {
		der = i.altered(t, der)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(i.cert); err != nil {
		t.Fatal(err)
	}
	return cert
}

// altered is a certificate for an Ed25519 key as one for X25519 (RFC 8410 §3).
func (i *issuer) altered(t testing.TB, der []byte) []byte {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	tbs := bytes.Replace(cert.RawTBSCertificate, []byte{6, 3, 0x2b, 0x65, 0x70, 3, 33}, []byte{6, 3, 0x2b, 0x65, 0x6e, 3, 33}, 1)
	sum := sha256.Sum256(tbs)
	signature, err := rsa.SignPKCS1v15(nil, i.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, null}.add(b)
		b.AddASN1BitString(signature)
	})
	return b.BytesOrPanic()
}
