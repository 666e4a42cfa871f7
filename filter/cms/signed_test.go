package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

var signedAt = time.Date(2026, 11, 25, 10, 20, 30, 0, time.UTC)

// authority is the CA of these tests.
var authority = sync.OnceValues(func() (*x509.Certificate, crypto.Signer) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: signedAt.AddDate(-1, 0, 0), NotAfter: signedAt.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1, 2, 3},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return ca, key
})

var serial int64 = 100

// issue makes a certificate of pub.
func issue(t testing.TB, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	ca, key := authority()
	serial++
	id := big.NewInt(serial)
	template := x509.Certificate{
		SerialNumber: id, Subject: pkix.Name{CommonName: "Ann"}, EmailAddresses: []string{"ann@company1.example"},
		NotBefore: signedAt.AddDate(-1, 0, 0), NotAfter: signedAt.AddDate(1, 0, 0), SubjectKeyId: id.Bytes(),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
	}
	return (&certtest.Authority{Cert: ca, Key: key}).Sign(t, template, pub)
}

// signWith is a request of a new key of the token.
func signWith(t testing.TB, token hsm.Keeper, a hsm.Algorithm) SignRequest {
	t.Helper()
	serial++
	key, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: hsm.Sign, Label: "smime/" + big.NewInt(serial).String()})
	if err != nil {
		t.Fatal(err)
	}
	return SignRequest{Token: token, Key: key.ID, Cert: issue(t, key.Public), At: signedAt}
}

// ways are all that signs.
var ways = []struct {
	name      string
	algorithm hsm.Algorithm
	pss       bool
}{
	{"PKCS1", hsm.RSA2048, false},
	{"PSS", hsm.RSA3072, true},
	{"P-256", hsm.P256, false},
	{"P-384", hsm.P384, false},
	{"P-521", hsm.P521, false},
	{"Ed25519", hsm.Ed25519, false},
}

const entity = "Content-Type: text/plain\r\n\r\nA mail.\r\n"

// signed is a message, detached or opaque.
func signed(t testing.TB, r SignRequest, content string, detached bool) []byte {
	t.Helper()
	sign := SignOpaque
	if detached {
		sign = SignDetached
	}
	var b bytes.Buffer
	if err := sign(t.Context(), &b, strings.NewReader(content), r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSignRoundTrip(t *testing.T) {
	token := hsmtest.Memory(t)
	for _, way := range ways {
		r := signWith(t, token, way.algorithm)
		r.PSS = way.pss
		ca, _ := authority()
		r.EncryptTo, r.Others = issue(t, ca.PublicKey), []*x509.Certificate{ca, r.Cert}
		r.Capabilities = Capabilities{{OID: oidPSS}, {oidOAEP, null}}
		for _, detached := range []bool{false, true} {
			counted := hsmtest.Count(token)
			r.Token = counted
			message := signed(t, r, entity, detached)
			if counted.Signs() != 1 {
				t.Errorf("%s: %d token operations, want 1", way.name, counted.Signs())
			}
			if got := TypeOf(message[:64]); got != TypeSigned {
				t.Errorf("%s: got type %s", way.name, got)
			}
			var content bytes.Buffer
			var s *Signed
			var err error
			if detached {
				s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(entity))
			} else {
				s, err = ReadSigned(bytes.NewReader(message), &content)
			}
			if err != nil {
				t.Errorf("%s: %v", way.name, err)
				continue
			}
			if !detached && content.String() != entity {
				t.Errorf("%s: got %q", way.name, content.String())
			}
			if s.Content == detached || s.Type() != TypeData || len(s.Certs) != 3 || len(s.Signers) != 1 || !bytes.Equal(s.Certs[0], r.Cert.Raw) {
				t.Errorf("%s: got %+v", way.name, s)
				continue
			}
			who := s.Signers[0]
			if err := who.Verify(r.Cert); err != nil {
				t.Errorf("%s: %v", way.name, err)
			}
			if !who.Names(r.Cert) || who.Names(ca) || !who.EncryptTo.Names(r.EncryptTo) || who.EncryptTo.Names(r.Cert) {
				t.Errorf("%s: certificates are named wrongly", way.name)
			}
			if !who.SigningTime.Equal(signedAt) || len(who.Capabilities) != 2 {
				t.Errorf("%s: got %v, %v", way.name, who.SigningTime, who.Capabilities)
			}
			if err := who.Verify(signWith(t, token, way.algorithm).Cert); !errors.Is(err, ErrBadSignature) {
				t.Errorf("%s: certificate of another key: got %v, want %v", way.name, err, ErrBadSignature)
			}
		}
	}
}
