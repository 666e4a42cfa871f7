package smime

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

func pemOf(kind string, der ...[]byte) []byte {
	var b bytes.Buffer
	for _, d := range der {
		pem.Encode(&b, &pem.Block{Type: kind, Bytes: d})
	}
	return b.Bytes()
}

// bundled is a PKCS#7 bundle, as authorities send it.
func bundled(t testing.TB, certs ...*x509.Certificate) []byte {
	t.Helper()
	var file []byte
	for _, c := range certs {
		file = append(file, pemOf("CERTIFICATE", c.Raw)...)
	}
	c := exec.Command("openssl", "crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER")
	c.Stdin = bytes.NewReader(file)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("openssl crl2pkcs7: %v", err)
	}
	return out
}

func TestRead(t *testing.T) {
	ca := newAuthority(t, "Reading CA")
	token := soft(t)
	alice := message.Address{Local: "Alice", Domain: "company1.example"}
	key := generate(t, token, hsm.P256, hsm.Sign)
	x := ca.issue(t, user(alice, x509.KeyUsageDigitalSignature), key.Public)
	other := ca.issue(t, user(alice, x509.KeyUsageKeyAgreement), generate(t, token, hsm.X25519, hsm.Unwrap).Public)
	private := certtest.Key(t)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	many := slices.Repeat(pemOf("CERTIFICATE", x.Raw), maxCerts+1)
	for _, c := range []struct {
		name string
		data []byte
		want []*x509.Certificate
		err  error
	}{
		{"DER", x.Raw, []*x509.Certificate{x}, nil},
		{"PEM", pemOf("CERTIFICATE", x.Raw), []*x509.Certificate{x}, nil},
		{"PEM with text around", slices.Concat([]byte("Subject: Alice\n"), pemOf("CERTIFICATE", x.Raw), []byte("\nthe end\n")), []*x509.Certificate{x}, nil},
		{"two, one of them twice", pemOf("CERTIFICATE", x.Raw, other.Raw, x.Raw), []*x509.Certificate{x, other}, nil},
		{"with its authority", pemOf("X509 CERTIFICATE", ca.cert.Raw, x.Raw), []*x509.Certificate{ca.cert, x}, nil},
		{"PKCS#7", bundled(t, x, ca.cert), []*x509.Certificate{x, ca.cert}, nil},
		{"PKCS#7 in PEM", pemOf("PKCS7", bundled(t, x, ca.cert)), []*x509.Certificate{x, ca.cert}, nil},
		{"parameters beside it", slices.Concat(pemOf("EC PARAMETERS", []byte{5, 0}), pemOf("CERTIFICATE", x.Raw)), []*x509.Certificate{x}, nil},
		{"nothing", nil, nil, ErrCert},
		{"text", []byte("hello"), nil, ErrCert},
		{"PEM of something else", pemOf("PUBLIC KEY", x.RawSubjectPublicKeyInfo), nil, ErrCert},
		{"cut", x.Raw[:len(x.Raw)-1], nil, ErrCert},
		{"more behind it", append(bytes.Clone(x.Raw), 0), nil, ErrCert},
		{"an empty bundle", bundled(t), nil, ErrCert},
		{"a broken bundle", bundled(t, x)[:200], nil, ErrCert},
		{"private key", slices.Concat(pemOf("CERTIFICATE", x.Raw), pemOf("PRIVATE KEY", secret)), nil, ErrSecret},
		{"private key, encrypted", pemOf("ENCRYPTED PRIVATE KEY", secret), nil, ErrSecret},
		{"too much", make([]byte, maxBundle+1), nil, ErrCertLimit},
		{"too many blocks", many, nil, ErrCertLimit},
	} {
		got, err := Read(c.data)
		if !errors.Is(err, c.err) || len(got) != len(c.want) {
			t.Errorf("%s: got %d certificates, %v, want %d, %v", c.name, len(got), err, len(c.want), c.err)
			continue
		}
		for i, x := range c.want {
			if !bytes.Equal(got[i].Raw, x.Raw) {
				t.Errorf("%s: certificate %d is another one", c.name, i)
			}
		}
	}
	got, err := Read(x.Raw)
	if err != nil {
		t.Fatal(err)
	}
	c := got[0]
	if c.Format != keyring.SMIME || len(c.Fingerprint) != 64 || strings.ToUpper(c.Fingerprint) != c.Fingerprint || !slices.Equal(c.Addresses, []message.Address{alice}) ||
		!slices.Equal(c.KeyIDs, []hsm.KeyID{key.ID}) || !c.Created.Equal(x.NotBefore) || !c.Expires.Equal(x.NotAfter) || c.Trust != "" {
		t.Errorf("got %+v", c)
	}
}

// What a certificate is good for, by its key, its usage and the time.
func TestUsable(t *testing.T) {
	ca := newAuthority(t, "Usable CA")
	token := soft(t)
	who := message.Address{Local: "alice", Domain: "company1.example"}
	rsaKey, ecKey, edKey, xKey := generate(t, token, hsm.RSA2048, hsm.Sign), generate(t, token, hsm.P256, hsm.Sign), generate(t, token, hsm.Ed25519, hsm.Sign), generate(t, token, hsm.X25519, hsm.Unwrap)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const both = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	for _, c := range []struct {
		name   string
		key    crypto.PublicKey
		usage  x509.KeyUsage
		change func(*x509.Certificate)
		class  string
		seals  bool
		signs  bool
	}{
		{name: "RSA for encryption", key: rsaKey.Public, usage: x509.KeyUsageKeyEncipherment, class: "rsa", seals: true},
		{name: "RSA for signatures", key: rsaKey.Public, usage: x509.KeyUsageDigitalSignature, class: "rsa", signs: true},
		{name: "RSA for non-repudiation", key: rsaKey.Public, usage: x509.KeyUsageContentCommitment, class: "rsa", signs: true},
		{name: "RSA for both", key: rsaKey.Public, usage: both, class: "rsa", seals: true, signs: true},
		{name: "RSA without usage", key: rsaKey.Public, class: "rsa", seals: true, signs: true},
		{name: "RSA for agreement", key: rsaKey.Public, usage: x509.KeyUsageKeyAgreement, class: "rsa"},
		{name: "EC for agreement", key: ecKey.Public, usage: x509.KeyUsageKeyAgreement, class: "ec", seals: true},
		{name: "EC for transport", key: ecKey.Public, usage: x509.KeyUsageKeyEncipherment, class: "ec"},
		{name: "EC for signatures", key: ecKey.Public, usage: x509.KeyUsageDigitalSignature, class: "ec", signs: true},
		{name: "X25519", key: xKey.Public, usage: x509.KeyUsageKeyAgreement, class: "x25519", seals: true},
		{name: "Ed25519", key: edKey.Public, usage: x509.KeyUsageDigitalSignature, signs: true},
		{name: "RSA of 1024 bits", key: short.Public(), usage: both, class: "rsa"},
		{name: "P-224", key: small.Public(), usage: both},
		{name: "for servers", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, class: "rsa"},
		{name: "for something unknown", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}, class: "rsa"},
		{name: "for everything", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, class: "rsa", seals: true, signs: true},
		{name: "without purpose", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.ExtKeyUsage = nil }, class: "rsa", seals: true, signs: true},
		{name: "expired", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, class: "rsa"},
		{name: "not valid yet", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, class: "rsa"},
		{name: "an authority", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) { c.IsCA = true }, class: "rsa"},
		{name: "with a demand that is not known", key: rsaKey.Public, usage: both, change: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, class: "rsa"},
	} {
		template := user(who, c.usage)
		if c.change != nil {
			c.change(template)
		}
		id := entry(ca.issue(t, template, c.key), who)
		p := New(Config{})
		if got := p.Class(id.Cert); got != c.class {
			t.Errorf("%s: class %q, want %q", c.name, got, c.class)
		}
		if err := p.Usable(id.Cert, now); (err == nil) != c.seals || err != nil && !errors.Is(err, protect.ErrNoCert) {
			t.Errorf("%s: usable: got %v, want %v", c.name, err, c.seals)
		}
		if err := p.Signs(id, now); (err == nil) != c.signs {
			t.Errorf("%s: signs: got %v, want %v", c.name, err, c.signs)
		}
	}
	p := New(Config{})
	id := entry(ca.issue(t, user(who, both), rsaKey.Public), who)
	for name, change := range map[string]func(*keyring.Identity){
		"another format":       func(i *keyring.Identity) { i.Format = keyring.OpenPGP },
		"another's bytes":      func(i *keyring.Identity) { i.Raw = ca.cert.Raw },
		"half of it":           func(i *keyring.Identity) { i.Raw = i.Raw[:100] },
		"no name of its bytes": func(i *keyring.Identity) { i.Fingerprint = "" },
	} {
		i := id
		change(&i)
		if p.Usable(i.Cert, now) == nil || p.Signs(i, now) == nil || p.Class(i.Cert) != "" {
			t.Errorf("%s: got a certificate", name)
		}
	}
	id.KeyIDs = nil
	if err := p.Signs(id, now); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("no key of a token: got %v, want %v", err, hsm.ErrRefused)
	}
}

// What an authority is asked for, as Go and OpenSSL read it.
func TestRequest(t *testing.T) {
	token := soft(t)
	for _, alg := range []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072, hsm.P256, hsm.P384, hsm.P521, hsm.Ed25519} {
		counted := hsmtest.Count(token)
		key := generate(t, token, alg, hsm.Sign)
		der, err := Request(t.Context(), counted, RequestSpec{Key: key, Subject: pkix.Name{CommonName: "Alice", Organization: []string{"Company 1"}}, Address: message.Address{Local: "alice", Domain: "bücher.example"}})
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		r, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.CheckSignature(); err != nil || counted.Signs() != 1 || !slices.Equal(r.EmailAddresses, []string{"alice@xn--bcher-kva.example"}) || r.Subject.CommonName != "Alice" {
			t.Errorf("%s: got %v, %d signatures, %q, %s", alg, err, counted.Signs(), r.EmailAddresses, r.Subject)
		}
		c := exec.Command("openssl", "req", "-inform", "DER", "-noout", "-text", "-verify")
		c.Stdin = bytes.NewReader(der)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s: openssl req: %v", alg, err)
		}
		for _, want := range []string{"verify OK", "X509v3 Key Usage: critical Digital Signature", "E-mail Protection", "email:alice@xn--bcher-kva.example"} {
			if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
				t.Errorf("%s: no %q in\n%s", alg, want, out)
			}
		}
	}

	// A local part beyond ASCII stands in a SmtpUTF8Mailbox.
	key := generate(t, token, hsm.P256, hsm.Sign)
	jose := message.Address{Local: "josé", Domain: "bücher.example"}
	der, err := Request(t.Context(), token, RequestSpec{Key: key, Address: jose})
	if err != nil {
		t.Fatal(err)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, "Requested CA")
	template := user(jose, x509.KeyUsageDigitalSignature)
	template.EmailAddresses, template.ExtraExtensions = nil, r.Extensions[2:]
	if got := describe(ca.issue(t, template, key.Public)).Addresses; len(r.EmailAddresses) != 0 || !slices.Equal(got, []message.Address{jose}) {
		t.Errorf("got %q, %v, want %v", r.EmailAddresses, got, jose)
	}

	opens := generate(t, token, hsm.RSA2048, hsm.Unwrap)
	for name, c := range map[string]struct {
		token hsm.Token
		spec  RequestSpec
		want  error
	}{
		"a key that opens":         {token, RequestSpec{Key: opens, Address: jose}, hsm.ErrRefused},
		"a retired key":            {token, RequestSpec{Key: hsm.Key{ID: key.ID, Public: key.Public, Usage: hsm.Sign, Retired: true}, Address: jose}, hsm.ErrRefused},
		"nobody":                   {token, RequestSpec{Key: key}, message.ErrAddress},
		"a token that is away":     {failing{token, hsm.ErrAway}, RequestSpec{Key: key, Address: jose}, hsm.ErrAway},
		"a token with another key": {swapped{token, generate(t, token, hsm.P256, hsm.Sign).ID}, RequestSpec{Key: key, Address: jose}, nil},
	} {
		if der, err := Request(t.Context(), c.token, c.spec); err == nil || !errors.Is(err, c.want) && c.want != nil || der != nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}

	// Who can't sign for itself is certified by its public key.
	printed, err := PublicKey(opens)
	if err != nil {
		t.Fatal(err)
	}
	b, rest := pem.Decode(printed)
	if pub, err := x509.ParsePKIXPublicKey(b.Bytes); err != nil || len(rest) > 0 || !opens.Public.(*rsa.PublicKey).Equal(pub) {
		t.Errorf("public key: got %v", err)
	}
}

// failing is a token that does nothing but answer an error.
type failing struct {
	hsm.Token
	err error
}

func (f failing) Sign(context.Context, hsm.KeyID, hsm.SignAlg, []byte) ([]byte, error) {
	return nil, f.err
}

func (f failing) Unwrap(context.Context, hsm.KeyID, hsm.Wrapped) (hsm.SessionKey, error) {
	return hsm.SessionKey{}, f.err
}

// swapped is a token that signs with another key.
type swapped struct {
	hsm.Token
	id hsm.KeyID
}

func (s swapped) Sign(ctx context.Context, _ hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	return s.Token.Sign(ctx, s.id, alg, digest)
}
