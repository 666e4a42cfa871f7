package smime

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/message/messagetest"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

// now is the time of judgement of all tests.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// pair are the algorithms of an identity: one key signs, one opens.
type pair struct{ sign, open hsm.Algorithm }

func (p pair) String() string { return string(p.sign) + "+" + string(p.open) }

// pairs are all that we make identities of, for each class of recipients and each kind of signature.
var pairs = []pair{
	{hsm.RSA2048, hsm.RSA2048}, {hsm.RSA3072, hsm.RSA3072}, {hsm.P256, hsm.P256}, {hsm.P384, hsm.P384}, {hsm.P521, hsm.P521}, {hsm.Ed25519, hsm.X25519},
}

var rsaPair, ecPair = pairs[0], pairs[2]

// authority issues certificates for keys of a token.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

var serials atomic.Int64

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := certtest.Key(t)
	a := &authority{key: key}
	a.cert = a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}, key.Public())
	return a
}

// issue signs what is asked for as it is.
func (a *authority) issue(t testing.TB, c *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	if c.SerialNumber == nil {
		c.SerialNumber = big.NewInt(serials.Add(1))
	}
	id := sha256.Sum256(c.SerialNumber.Bytes())
	c.SubjectKeyId = id[:20]
	parent := a.cert
	if parent == nil {
		parent = c
	}
	agree, ok := pub.(*ecdh.PublicKey)
	if ok {
		pub = ed25519.PublicKey(agree.Bytes())
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		der = a.agreeing(t, der)
	}
	x, err := parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// agreeing makes a certificate for X25519 out of one for Ed25519, which the
// library knows how to issue: both keys look the same but for a byte of their name.
func (a *authority) agreeing(t testing.TB, der []byte) []byte {
	t.Helper()
	ed, x := []byte("\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), []byte("\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00")
	var c struct {
		Signed    asn1.RawValue
		Algorithm asn1.RawValue
		Value     asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	c.Signed.FullBytes = bytes.Replace(c.Signed.FullBytes, ed, x, 1)
	sum := sha256.Sum256(c.Signed.FullBytes)
	value, err := a.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	c.Value = asn1.BitString{Bytes: value, BitLength: 8 * len(value)}
	if der, err = asn1.Marshal(c); err != nil {
		t.Fatal(err)
	}
	return der
}

// user is a certificate for an address, as authorities issue them.
func user(a message.Address, usage x509.KeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: a.Local}, EmailAddresses: []string{a.String()}, NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}, BasicConstraintsValid: true,
	}
}

func generate(t testing.TB, token hsm.Keeper, a hsm.Algorithm, u hsm.Usage) hsm.Key {
	t.Helper()
	k, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: fmt.Sprintf("smime/%d", serials.Add(1))})
	if err != nil {
		t.Fatalf("generate %s: %v", a, err)
	}
	return k
}

// person has a pair of certificates.
type person struct {
	signs, opens keyring.Identity
}

func (p person) both() []keyring.Identity { return []keyring.Identity{p.signs, p.opens} }

func entry(x *x509.Certificate, a message.Address) keyring.Identity {
	c := describe(x)
	c.Trust = keyring.Trusted
	return keyring.Identity{Cert: c, Address: a}
}

// signs and opens make one of the two.
func (a *authority) signs(t testing.TB, token hsm.Keeper, alg hsm.Algorithm, who message.Address) keyring.Identity {
	return entry(a.issue(t, user(who, x509.KeyUsageDigitalSignature), generate(t, token, alg, hsm.Sign).Public), who)
}

func (a *authority) opens(t testing.TB, token hsm.Keeper, alg hsm.Algorithm, who message.Address) keyring.Identity {
	k := generate(t, token, alg, hsm.Unwrap)
	usage := x509.KeyUsageKeyAgreement
	if strings.HasPrefix(string(alg), "rsa") {
		usage = x509.KeyUsageKeyEncipherment
	}
	return entry(a.issue(t, user(who, usage), k.Public), who)
}

func (a *authority) person(t testing.TB, token hsm.Keeper, p pair, who string) person {
	t.Helper()
	return person{a.signs(t, token, p.sign, address(t, who)), a.opens(t, token, p.open, address(t, who))}
}

// judge believes the authority, and asks nobody.
func (a *authority) judge(t testing.TB) *chain.Judge {
	t.Helper()
	j, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: a.cert, Own: true}}, Mode: chain.Off})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func address(t testing.TB, s string) message.Address {
	t.Helper()
	a, err := message.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func soft(t testing.TB) hsm.Keeper { return hsmtest.Memory(t) }

// What reads and shows mails.
var (
	crlf    = messagetest.CRLF
	spools  = messagetest.Spools
	mail    = messagetest.Parse
	printed = messagetest.Text
)

const letter = "From: Alice <alice@company1.example>\r\nTo: bob@partner.example\r\nSubject: codes\r\nDate: Tue, 24 Nov 2026 11:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nthe launch code is 0000\r\n"

// world is a gateway with two people and an authority.
type world struct {
	testing.TB
	token      hsm.Keeper
	counted    *hsmtest.Counter
	ca         *authority
	alice, bob person
	config     Config
	known      []keyring.Cert
	ids        []keyring.Identity
}

func newWorld(t testing.TB, p pair) *world {
	t.Helper()
	w := &world{TB: t, token: soft(t), ca: newAuthority(t, "Test CA")}
	w.counted = hsmtest.Count(w.token)
	w.alice = w.ca.person(t, w.token, p, "alice@company1.example")
	w.bob = w.ca.person(t, w.token, p, "bob@partner.example")
	w.config = Config{Token: w.counted, Judge: w.ca.judge(t)}
	w.ids = w.bob.both()
	return w
}

func (w *world) request(m *message.Message) protect.OpenRequest {
	return protect.OpenRequest{Message: m, Identities: w.ids, Certs: w.known, At: now, NewSpool: spools(w)}
}

func (w *world) open(m *message.Message) (*message.Message, protect.Finding, error) {
	w.Helper()
	return New(w.config).Open(w.Context(), w.request(m))
}

// seal seals as Alice, or as nobody.
func (w *world) seal(m *message.Message, signed bool, style protect.Style, to ...keyring.Cert) *message.Message {
	w.Helper()
	r := protect.SealRequest{Message: m, Recipients: to, Own: w.alice.both(), Style: style, At: now, NewSpool: spools(w)}
	if signed {
		r.Signer = &w.alice.signs
	}
	sealed, err := New(w.config).Seal(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	return mail(w, printed(w, sealed))
}
