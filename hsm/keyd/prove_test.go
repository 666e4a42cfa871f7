package keyd_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// request writes a PKCS#10 request as people make them.
func request(pub crypto.PublicKey, prove func(info []byte) ([]byte, error)) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:            pkix.Name{CommonName: "Alice", Organization: []string{"Company 1"}},
		EmailAddresses:     []string{"alice@company1.example"},
		SignatureAlgorithm: x509.SHA256WithRSA,
	}, certtest.Requester{Key: pub, Prove: prove})
}

// infoOf is what such a request has signed.
func infoOf(t testing.TB, pub crypto.PublicKey) (info []byte) {
	t.Helper()
	stop := errors.New("stop")
	if _, err := request(pub, func(b []byte) ([]byte, error) { info = b; return nil, stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	return info
}

// TestProve makes requests with keys that open, on every kind of token and
// over the keep socket, and holds them against Go and OpenSSL. The use socket
// makes none.
func TestProve(t *testing.T) {
	for name, device := range bareTokens(t) {
		t.Run(name, func(t *testing.T) {
			dev, pin := device(t)
			d := opened(t, dev, pin)
			keep, use := client.Dial(d.Keep), client.Dial(d.Use)
			t.Cleanup(func() { keep.Close(); use.Close() })
			for _, a := range []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072} {
				key := generate(t, keep, a, hsm.Unwrap, "test/"+string(a))
				der, err := request(key.Public, func(info []byte) ([]byte, error) { return keep.Prove(t.Context(), key.ID, info) })
				if err != nil {
					t.Errorf("%s: %v", a, err)
					continue
				}
				r, err := x509.ParseCertificateRequest(der)
				if err == nil {
					err = r.CheckSignature()
				}
				if err != nil || r.Subject.CommonName != "Alice" {
					t.Errorf("%s: got %v", a, err)
				}
				openssl := exec.Command("openssl", "req", "-inform", "DER", "-noout", "-verify")
				openssl.Stdin = bytes.NewReader(der)
				if out, err := openssl.CombinedOutput(); err != nil || !strings.Contains(string(out), "verify OK") {
					t.Errorf("%s: openssl: %v\n%s", a, err, out)
				}
				if sig, err := use.Prove(t.Context(), key.ID, r.RawTBSCertificateRequest); !errors.Is(err, hsm.ErrRefused) || sig != nil {
					t.Errorf("%s on the use socket: got %x, %v, want %v", a, sig, err, hsm.ErrRefused)
				}
				// It is no signing key by that.
				if sig, err := keep.Sign(t.Context(), key.ID, hsm.PKCS1SHA256, digest[:]); !errors.Is(err, hsm.ErrRefused) {
					t.Errorf("%s: signs a digest: got %x, %v, want %v", a, sig, err, hsm.ErrRefused)
				}
			}
			records := d.Audit()
			i := slices.IndexFunc(records, func(r map[string]any) bool { return r["op"] == "prove" })
			if i < 0 || records[i]["verdict"] != "ok" || records[i]["label"] != "test/rsa-2048" {
				t.Errorf("got the records %v, want the proof among them", records)
			}
		})
	}
}

// piece writes one element of a request; nil leaves it out.
type piece func(*cryptobyte.Builder)

func bytesOf(b []byte) piece { return func(x *cryptobyte.Builder) { x.AddBytes(b) } }

func element(tag cbasn1.Tag, pieces ...piece) piece {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(tag, func(b *cryptobyte.Builder) {
			for _, p := range pieces {
				if p != nil {
					p(b)
				}
			}
		})
	}
}

func der(t testing.TB, p piece) []byte {
	t.Helper()
	var b cryptobyte.Builder
	p(&b)
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const context0 = cbasn1.Tag(0x80 | 0x20)

// forms are texts that a key was asked to sign, with what becomes of them.
func forms(t testing.TB, own, other *rsa.PublicKey) map[string]struct {
	info []byte
	want error
} {
	t.Helper()
	spki := func(pub *rsa.PublicKey) piece {
		b, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return bytesOf(b)
	}
	seq := func(p ...piece) piece { return element(cbasn1.SEQUENCE, p...) }
	number := func(n int64) piece { return func(b *cryptobyte.Builder) { b.AddASN1Int64(n) } }
	oid := func(n ...int) piece {
		return func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier(n)) }
	}
	name := seq(element(cbasn1.SET, seq(oid(2, 5, 4, 3), element(cbasn1.UTF8String, bytesOf([]byte("Alice"))))))
	attribute := seq(oid(1, 2, 840, 113549, 1, 9, 7), element(cbasn1.SET, element(cbasn1.UTF8String, bytesOf([]byte("word")))))
	algorithm := seq(oid(1, 2, 840, 113549, 1, 1, 11), element(cbasn1.NULL))
	octets := func(n int) piece { return element(cbasn1.OCTET_STRING, bytesOf(make([]byte, n))) }
	fits := func(n int) piece {
		return seq(number(0), name, spki(own), element(context0, seq(oid(1, 2, 3), element(cbasn1.SET, octets(n)))))
	}
	room := hsm.MaxInfo - len(der(t, fits(1000))) + 1000
	good := der(t, seq(number(0), name, spki(own), element(context0)))
	long := append([]byte{0x30, 0x83, 0x00}, good[2:]...) // 30 82 hh ll: the same length in a byte more
	indefinite := append(append([]byte{0x30, 0x80}, good[4:]...), 0, 0)

	type form = struct {
		info []byte
		want error
	}
	all := map[string]form{
		"what Go writes":           {infoOf(t, own), nil},
		"no attribute":             {good, nil},
		"an empty name":            {der(t, seq(number(0), seq(), spki(own), element(context0))), nil},
		"two attributes":           {der(t, seq(number(0), name, spki(own), element(context0, attribute, attribute))), nil},
		"the longest":              {der(t, fits(room)), nil},
		"one byte more":            {der(t, fits(room+1)), hsm.ErrInvalid},
		"another key":              {infoOf(t, other), hsm.ErrRefused},
		"two keys":                 {der(t, seq(number(0), name, spki(other), spki(own), element(context0))), hsm.ErrInvalid},
		"another algorithm of it":  {der(t, seq(number(0), name, seq(seq(oid(1, 2, 840, 113549, 1, 1, 10)), element(cbasn1.BIT_STRING, bytesOf([]byte{0}), bytesOf(x509.MarshalPKCS1PublicKey(own)))), element(context0))), hsm.ErrRefused},
		"version 1":                {der(t, seq(number(1), name, spki(own), element(context0))), hsm.ErrInvalid},
		"version 256":              {der(t, seq(number(256), name, spki(own), element(context0))), hsm.ErrInvalid},
		"version in two bytes":     {der(t, seq(element(cbasn1.INTEGER, bytesOf([]byte{0, 0})), name, spki(own), element(context0))), hsm.ErrInvalid},
		"no version":               {der(t, seq(name, spki(own), element(context0))), hsm.ErrInvalid},
		"no name":                  {der(t, seq(number(0), spki(own), element(context0))), hsm.ErrInvalid},
		"an algorithm for a name":  {der(t, seq(number(0), algorithm, spki(own), element(context0))), hsm.ErrInvalid},
		"no attributes":            {der(t, seq(number(0), name, spki(own))), hsm.ErrInvalid},
		"attributes as a SET":      {der(t, seq(number(0), name, spki(own), element(cbasn1.SET))), hsm.ErrInvalid},
		"attributes that are none": {der(t, seq(number(0), name, spki(own), element(context0, octets(4)))), hsm.ErrInvalid},
		"half an attribute":        {der(t, seq(number(0), name, spki(own), element(context0, seq(oid(1, 2, 3))))), hsm.ErrInvalid},
		"an attribute and more":    {der(t, seq(number(0), name, spki(own), element(context0, seq(oid(1, 2, 3), element(cbasn1.SET), number(0))))), hsm.ErrInvalid},
		"something behind":         {append(slices.Clone(good), 0), hsm.ErrInvalid},
		"something behind within":  {der(t, seq(number(0), name, spki(own), element(context0), number(0))), hsm.ErrInvalid},
		"something before":         {append([]byte{5, 0}, good...), hsm.ErrInvalid},
		"a SET":                    {append([]byte{0x31}, good[1:]...), hsm.ErrInvalid},
		"a length too long":        {long, hsm.ErrInvalid},
		"a length left open":       {indefinite, hsm.ErrInvalid},
		"a certificate's form":     {der(t, seq(number(0), algorithm, name, seq(), name, spki(own))), hsm.ErrInvalid},
		"a digest":                 {digest[:], hsm.ErrInvalid},
		"nothing":                  {nil, hsm.ErrInvalid},
	}
	for n := range good {
		if n%16 == 0 && n > 0 {
			all["cut"+strings.Repeat(" more", n/16)] = form{good[:n], hsm.ErrInvalid}
		}
	}
	return all
}

// TestProveForms: nothing but a request for this very key is signed, and for
// nothing else is the token asked.
func TestProveForms(t *testing.T) {
	soft := hsmtest.NewSoft()
	var asked atomic.Int64
	soft.Fault = func(method string) error {
		if method == "Decrypt" || method == "Sign" {
			asked.Add(1)
		}
		return nil
	}
	d := opened(t, soft, hsmtest.SoftPIN)
	key, other := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "own"), generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "other")
	for name, form := range forms(t, key.Public.(*rsa.PublicKey), other.Public.(*rsa.PublicKey)) {
		before := asked.Load()
		sig, err := d.Keyd.Prove(t.Context(), key.ID, form.info)
		if !errors.Is(err, form.want) || (err == nil) != (form.want == nil) || (sig != nil) != (err == nil) {
			t.Errorf("%s: got %x, %v, want %v", name, sig, err, form.want)
		}
		if n := asked.Load() - before; (n == 1) != (form.want == nil) || n > 1 {
			t.Errorf("%s: the token was asked %d times", name, n)
		}
	}
}

// TestProveKeys: which key proves, and for whom.
func TestProveKeys(t *testing.T) {
	us := uint32(os.Getuid())
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Rules = []keyd.Rule{{Label: "owned/*", UIDs: []uint32{us + 1000}}}
	d.Start()
	d.Reach(hsm.Ready)
	opener := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "owned/opener")
	retired := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "retired")
	if err := d.Keyd.Retire(t.Context(), retired.ID); err != nil {
		t.Fatal(err)
	}
	info := infoOf(t, opener.Public)
	for _, x := range []struct {
		name string
		uid  uint32
		id   hsm.KeyID
		info []byte
		want error
	}{
		{"owner", us + 1000, opener.ID, info, nil},
		{"ourselves", us, opener.ID, info, nil},
		{"stranger", us + 1001, opener.ID, info, hsm.ErrRefused},
		{"a key that is not there", us, hsm.KeyID{1}, info, hsm.ErrNoKey},
		{"a retired key", us, retired.ID, infoOf(t, retired.Public), hsm.ErrRefused},
		{"a key that signs", us, generate(t, d.Keyd, hsm.RSA2048, hsm.Sign, "signer").ID, nil, hsm.ErrRefused},
		{"P-256", us, generate(t, d.Keyd, hsm.P256, hsm.Unwrap, "p-256").ID, info, hsm.ErrRefused},
		{"X25519", us, generate(t, d.Keyd, hsm.X25519, hsm.Unwrap, "x25519").ID, info, hsm.ErrRefused},
	} {
		if x.info == nil {
			key, err := d.Keyd.Keys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			x.info = infoOf(t, key[slices.IndexFunc(key, func(k hsm.Key) bool { return k.ID == x.id })].Public)
		}
		sig, err := d.Keyd.As(x.uid).Prove(t.Context(), x.id, x.info)
		if !errors.Is(err, x.want) || (err == nil) != (x.want == nil) || (sig == nil) != (err != nil) {
			t.Errorf("%s: got %x, %v, want %v", x.name, sig, err, x.want)
		}
	}
}

// wrongly is a device whose decryption is a bit off.
type wrongly struct{ *hsmtest.Soft }

func (w wrongly) Decrypt(id hsm.KeyID, ciphertext []byte) ([]byte, bool, error) {
	block, raw, err := w.Soft.Decrypt(id, ciphertext)
	if len(block) > 0 {
		block[len(block)-1] ^= 1
	}
	return block, raw, err
}

// TestProveDevices: a module that strips the padding can make no proof, and a
// wrong one never leaves; trouble of the token stays what it is.
func TestProveDevices(t *testing.T) {
	strips, away := hsmtest.NewSoft(), hsmtest.NewSoft()
	strips.Strip = true
	away.Fault = func(method string) error {
		if method == "Decrypt" {
			return hsm.ErrAway
		}
		return nil
	}
	for name, x := range map[string]struct {
		device keyd.Device
		want   error
	}{
		"a module that strips":   {strips, hsm.ErrInvalid},
		"a module that is off":   {wrongly{hsmtest.NewSoft()}, hsm.ErrOpaque},
		"a token that was drawn": {away, hsm.ErrAway},
	} {
		d := opened(t, x.device, hsmtest.SoftPIN)
		key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
		sig, err := d.Keyd.Prove(t.Context(), key.ID, infoOf(t, key.Public))
		if !errors.Is(err, x.want) || sig != nil {
			t.Errorf("%s: got %x, %v, want %v", name, sig, err, x.want)
		}
	}
}

// TestProveRate: a proof is an operation with the key like others.
func TestProveRate(t *testing.T) {
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	d.Config.Budget = keyd.Budget{Rate: 1, Burst: 2}
	d.Config.Now = newClock().Now
	d.Start()
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	info := infoOf(t, key.Public)
	for n, want := range []error{nil, nil, hsm.ErrBudget} {
		if _, err := d.Keyd.Prove(context.Background(), key.ID, info); !errors.Is(err, want) {
			t.Errorf("proof %d: got %v, want %v", n, err, want)
		}
	}
}

// FuzzCheckInfo: what is accepted is what another reader takes for a request
// of version 0 with this key, to its last byte.
func FuzzCheckInfo(f *testing.F) {
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	own, other := &rsa.PublicKey{N: n, E: 65537}, &rsa.PublicKey{N: new(big.Int).Add(n, big.NewInt(2)), E: 65537}
	spki, err := x509.MarshalPKIXPublicKey(own)
	if err != nil {
		f.Fatal(err)
	}
	for _, form := range forms(f, own, other) {
		f.Add(form.info)
	}
	f.Fuzz(func(t *testing.T, info []byte) {
		err := keyd.CheckInfo(own, info)
		if err != nil {
			if !errors.Is(err, hsm.ErrInvalid) && !errors.Is(err, hsm.ErrRefused) {
				t.Fatalf("got %v, want one of the refusals", err)
			}
			return
		}
		var r struct {
			Version    int
			Subject    []asn1.RawValue
			Public     asn1.RawValue
			Attributes asn1.RawValue
		}
		rest, err := asn1.Unmarshal(info, &r)
		if err != nil || len(rest) > 0 || r.Version != 0 || !bytes.Equal(r.Public.FullBytes, spki) || r.Attributes.Class != asn1.ClassContextSpecific || r.Attributes.Tag != 0 || len(info) > hsm.MaxInfo {
			t.Fatalf("%x was accepted: got %+v, %v", info, r, err)
		}
		if err := keyd.CheckInfo(other, info); !errors.Is(err, hsm.ErrRefused) {
			t.Fatalf("for another key: got %v, want %v", err, hsm.ErrRefused)
		}
	})
}
