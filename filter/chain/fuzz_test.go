package chain_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unicode"

	"postern/filter/chain"
	"postern/filter/message"
	"postern/hsm/hsmtest"
)

var sentinels = []error{chain.ErrUntrusted, chain.ErrExpired, chain.ErrRevoked, chain.ErrPurpose, chain.ErrWeak, chain.ErrStatus, chain.ErrForm}

// FuzzAddresses reads the addresses of whatever is a certificate: each is one
// that the parser of addresses gives again, on one line.
func FuzzAddresses(f *testing.F) {
	for _, c := range []*entity{
		newLeaf(f, nil), newLeaf(f, nil, func(c *x509.Certificate) { c.EmailAddresses = nil }),
		newLeaf(f, nil, named(f, mail("a@x.test"), utf8Mail("ü@bücher.test"), host("x.test"), ip("192.0.2.1"))),
	} {
		f.Add(c.cert.Raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return
		}
		all := chain.Addresses(c)
		if len(all) > 256 {
			t.Errorf("got %d addresses, want at most 256", len(all))
		}
		for _, a := range all {
			again, err := message.ParseAddress(a.String())
			if err != nil || again != a {
				t.Errorf("got %q, which reads as %q, %v", a, again, err)
			}
			for _, r := range a.String() {
				if unicode.IsControl(r) {
					t.Errorf("got %q, want no control characters", a)
				}
			}
		}
	})
}

// FuzzJudge judges whatever is a certificate, along with another, a list and a
// response. A verdict is one of the errors, or a path that crypto/x509 finds
// signed up to the anchor.
func FuzzJudge(f *testing.F) {
	root := newCA(f, "root", nil)
	middle := newCA(f, "middle", root, constrained(f, []general{mail("example.test"), directory(root.cert.Subject)}, []general{host("x.test")}))
	leaf := newLeaf(f, middle, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://crl.test/"} })
	f.Add(leaf.cert.Raw, middle.cert.Raw, middle.crl(nil, leaf), middle.answer(middle, leaf, nil))
	f.Add(newLeaf(f, root).cert.Raw, []byte{}, root.crl(nil), middle.answer(newLeaf(f, middle), leaf, nil))
	f.Add(middle.cert.Raw, root.cert.Raw, root.crl(nil, middle), []byte{0x30, 3, 0x0a, 1, 3})
	anchors := []chain.Anchor{{Cert: root.cert, Own: true}}
	if dir, ok := hsmtest.FindCorpora(); ok {
		dir = filepath.Join(dir, "keys/nist-pkits")
		certs, _ := filepath.Glob(filepath.Join(dir, "certs/*.crt"))
		for _, name := range certs {
			list, _ := os.ReadFile(filepath.Join(dir, "crls/GoodCACRL.crl"))
			raw := read(f, name)
			f.Add(raw, raw, list, []byte{})
		}
		if c, err := x509.ParseCertificate(read(f, filepath.Join(dir, "certs/TrustAnchorRootCertificate.crt"))); err == nil {
			anchors = append(anchors, chain.Anchor{Cert: c, Own: true})
		}
	}
	judges := []*chain.Judge{
		newJudge(f, chain.Config{Anchors: anchors, BareOwn: true}),
		newJudge(f, chain.Config{Anchors: anchors, Mode: chain.Soft, Fetcher: &web{}}),
	}
	f.Fuzz(func(t *testing.T, rawLeaf, rawOther, list, response []byte) {
		c, err := x509.ParseCertificate(rawLeaf)
		if err != nil {
			return
		}
		r := chain.Request{Cert: c, CRLs: [][]byte{list}, OCSP: [][]byte{response}, At: now, Use: chain.Signing}
		if other, err := x509.ParseCertificate(rawOther); err == nil {
			r.Others = append(r.Others, other)
		}
		for _, j := range judges {
			path, err := j.Judge(t.Context(), r)
			if err != nil {
				n := 0
				for _, s := range sentinels {
					if errors.Is(err, s) {
						n++
					}
				}
				if n != 1 {
					t.Errorf("got %v, which is %d of the errors, want 1", err, n)
				}
				continue
			}
			if last := path.Certs[len(path.Certs)-1]; last != path.Anchor.Cert && len(path.Certs) > 1 {
				t.Errorf("got a path that ends at %v, want the anchor", last.Subject)
			}
			for i := range len(path.Certs) - 1 {
				if err := path.Certs[i].CheckSignatureFrom(path.Certs[i+1]); err != nil {
					t.Errorf("got a path with a wrong signature: %v", err)
				}
			}
		}
	})
}
