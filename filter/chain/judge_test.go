package chain_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
)

type change = func(*x509.Certificate)

// world is a root of the site, an intermediate and a leaf.
type world struct{ root, middle, leaf *entity }

func newWorld(t testing.TB, leaf ...change) world {
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root)
	return world{root, middle, newLeaf(t, middle, leaf...)}
}

// request is one that its judge finds good.
func (w world) request() chain.Request {
	return chain.Request{Cert: w.leaf.cert, Others: []*x509.Certificate{w.middle.cert}, At: now, Use: chain.Signing}
}

func (w world) config() chain.Config {
	return chain.Config{Anchors: []chain.Anchor{{Cert: w.root.cert}}, Mode: chain.Off}
}

// wants compares a judgement with the error wanted, nil for a good path.
func wants(t *testing.T, c chain.Config, r chain.Request, want error) chain.Path {
	t.Helper()
	path, err := newJudge(t, c).Judge(t.Context(), r)
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if err == nil && (len(path.Certs) == 0 || path.Certs[0] != r.Cert) {
		t.Errorf("got a path of %d certificates, want one that begins with the leaf", len(path.Certs))
	}
	if err != nil && strings.ContainsAny(err.Error(), "\r\n\x00") {
		t.Errorf("got %q, want a reason on one line", err)
	}
	return path
}

func TestPath(t *testing.T) {
	w := newWorld(t)
	path := wants(t, w.config(), w.request(), nil)
	if want := []*x509.Certificate{w.leaf.cert, w.middle.cert, w.root.cert}; !slices.Equal(path.Certs, want) {
		t.Errorf("got %v, want leaf, intermediate, root", path.Certs)
	}

	c := w.config()
	c.Intermediates = []*x509.Certificate{w.middle.cert}
	r := w.request()
	r.Others = nil
	wants(t, c, r, nil)
	wants(t, w.config(), r, chain.ErrUntrusted) // nobody has the intermediate
	wants(t, chain.Config{Mode: chain.Off}, w.request(), chain.ErrUntrusted)

	r = w.request() // what comes along is no anchor
	r.Others = append(r.Others, w.root.cert)
	wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: newCA(t, "root", nil).cert}}}, r, chain.ErrUntrusted)

	for name, broken := range map[string]chain.Request{
		"no certificate": {At: now, Use: chain.Signing},
		"no time":        {Cert: w.leaf.cert, Others: r.Others, Use: chain.Signing},
	} {
		t.Run(name, func(t *testing.T) { wants(t, w.config(), broken, chain.ErrForm) })
	}
	r = w.request()
	r.Use = 0
	wants(t, w.config(), r, chain.ErrPurpose)
}

func TestForged(t *testing.T) {
	w := newWorld(t)
	other := newCA(t, "middle", newCA(t, "root", nil))
	r := w.request()
	r.Cert = newLeaf(t, other).cert // an issuer of the same name and another key
	wants(t, w.config(), r, chain.ErrUntrusted)
	r.Others = append(r.Others, other.cert, other.by.cert)
	wants(t, w.config(), r, chain.ErrUntrusted)

	raw := slices.Clone(w.leaf.cert.Raw)
	raw[len(raw)-1] ^= 1
	forged, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	r = w.request()
	r.Cert = forged
	wants(t, w.config(), r, chain.ErrUntrusted)
}

// TestTimes holds R15: the time of judgement is given, and minded all along the path.
func TestTimes(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		at   time.Time
		want error
	}{
		"before":       {w.leaf.cert.NotBefore.Add(-time.Second), chain.ErrExpired},
		"first moment": {w.leaf.cert.NotBefore, nil},
		"last moment":  {w.leaf.cert.NotAfter, nil},
		"after":        {w.leaf.cert.NotAfter.Add(time.Second), chain.ErrExpired},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request()
			r.At = test.at
			wants(t, w.config(), r, test.want)
		})
	}
	expired := func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root, expired)
	leaf := newLeaf(t, middle)
	r := chain.Request{Cert: leaf.cert, Others: []*x509.Certificate{middle.cert}, At: now, Use: chain.Signing}
	wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: root.cert}}}, r, chain.ErrExpired)

	// A second certificate of the same authority helps.
	again := issue(t, root, middle.key, &x509.Certificate{Subject: middle.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	r.Others = append(r.Others, again.cert)
	wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: root.cert}}}, r, nil)

	old := newCA(t, "old", nil, expired)
	leaf = newLeaf(t, old)
	wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: old.cert}}}, chain.Request{Cert: leaf.cert, At: now, Use: chain.Signing}, chain.ErrExpired)
}

func TestDistrustAfter(t *testing.T) {
	w := newWorld(t)
	for after, want := range map[time.Time]error{
		{}:                                       nil,
		w.leaf.cert.NotBefore:                    nil,
		w.leaf.cert.NotBefore.Add(-time.Second):  chain.ErrUntrusted,
		w.leaf.cert.NotBefore.AddDate(0, 0, 100): nil,
	} {
		c := w.config()
		c.Anchors[0].DistrustAfter = after
		wants(t, c, w.request(), want)
	}
}

// TestPurpose holds R15: each purpose allows what it says.
func TestPurpose(t *testing.T) {
	usage := func(u x509.KeyUsage) change { return func(c *x509.Certificate) { c.KeyUsage = u } }
	extended := func(u ...x509.ExtKeyUsage) change { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }
	for name, test := range map[string]struct {
		leaf             change
		signing, sealing error
	}{
		"digitalSignature":      {usage(x509.KeyUsageDigitalSignature), nil, chain.ErrPurpose},
		"nonRepudiation":        {usage(x509.KeyUsageContentCommitment), nil, chain.ErrPurpose},
		"keyEncipherment":       {usage(x509.KeyUsageKeyEncipherment), chain.ErrPurpose, nil},
		"keyAgreement":          {usage(x509.KeyUsageKeyAgreement), chain.ErrPurpose, nil},
		"dataEncipherment":      {usage(x509.KeyUsageDataEncipherment), chain.ErrPurpose, chain.ErrPurpose},
		"certSign":              {usage(x509.KeyUsageCertSign), chain.ErrPurpose, chain.ErrPurpose},
		"both":                  {usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement), nil, nil},
		"no key usage":          {usage(0), nil, nil},
		"mail":                  {extended(x509.ExtKeyUsageEmailProtection), nil, chain.ErrPurpose},
		"any":                   {extended(x509.ExtKeyUsageAny), nil, chain.ErrPurpose},
		"mail among others":     {extended(x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection), nil, chain.ErrPurpose},
		"web server":            {extended(x509.ExtKeyUsageServerAuth), chain.ErrPurpose, chain.ErrPurpose},
		"no extended key usage": {extended(), chain.ErrPurpose, chain.ErrPurpose},
		"unknown extended usage": {func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}, chain.ErrPurpose, chain.ErrPurpose},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.leaf)
			r := w.request()
			wants(t, w.config(), r, test.signing)
			r.Use = chain.Encryption
			wants(t, w.config(), r, test.sealing)
		})
	}
}

func TestPurposeOfAuthority(t *testing.T) {
	for name, test := range map[string]struct {
		usage []x509.ExtKeyUsage
		want  error
	}{
		"none":       {nil, nil},
		"mail":       {[]x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}, nil},
		"any":        {[]x509.ExtKeyUsage{x509.ExtKeyUsageAny}, nil},
		"web server": {[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, chain.ErrPurpose},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil)
			middle := newCA(t, "middle", root, func(c *x509.Certificate) { c.ExtKeyUsage = test.usage })
			w := world{root, middle, newLeaf(t, middle)}
			wants(t, w.config(), w.request(), test.want)
		})
	}
}

// TestBareOwn is a site whose own authority leaves extended key usage out.
func TestBareOwn(t *testing.T) {
	w := newWorld(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	for name, test := range map[string]struct {
		own, bare bool
		want      error
	}{
		"allowed":         {true, true, nil},
		"not allowed":     {true, false, chain.ErrPurpose},
		"a public anchor": {false, true, chain.ErrPurpose},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.config()
			c.Anchors[0].Own, c.BareOwn = test.own, test.bare
			wants(t, c, w.request(), test.want)
		})
	}
	w = newWorld(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	c := w.config()
	c.Anchors[0].Own, c.BareOwn = true, true
	wants(t, c, w.request(), chain.ErrPurpose) // it has one, and not this
}

// TestLeafAnchor is a partner's certificate that an operator pinned.
func TestLeafAnchor(t *testing.T) {
	leaf := newLeaf(t, nil)
	r := chain.Request{Cert: leaf.cert, At: now, Use: chain.Signing}
	wants(t, chain.Config{Anchors: []chain.Anchor{{Cert: leaf.cert, Own: true}}}, r, nil)
	wants(t, chain.Config{Anchors: []chain.Anchor{{Cert: leaf.cert}}}, r, chain.ErrUntrusted)
	r.At = leaf.cert.NotAfter.Add(time.Hour)
	wants(t, chain.Config{Anchors: []chain.Anchor{{Cert: leaf.cert, Own: true}}}, r, chain.ErrExpired)
}

func TestAuthority(t *testing.T) {
	for name, test := range map[string]struct {
		middle change
		want   error
	}{
		"good":                  {func(*x509.Certificate) {}, nil},
		"no key usage":          {func(c *x509.Certificate) { c.KeyUsage = 0 }, nil},
		"no keyCertSign":        {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, chain.ErrUntrusted},
		"not a CA":              {func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }, chain.ErrUntrusted},
		"no basic constraints":  {func(c *x509.Certificate) { c.BasicConstraintsValid = false }, chain.ErrUntrusted},
		"unknown critical":      {extra(true, []byte{5, 0}, 1, 2, 3, 4), chain.ErrForm},
		"unknown, not critical": {extra(false, []byte{5, 0}, 1, 2, 3, 4), nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil)
			middle := newCA(t, "middle", root, test.middle)
			w := world{root, middle, newLeaf(t, middle)}
			wants(t, w.config(), w.request(), test.want)
		})
	}
	for name, change := range map[string]change{
		"unknown critical in the leaf": extra(true, []byte{5, 0}, 1, 2, 3, 4),
		"a precertificate":             extra(true, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 11129, 2, 4, 3),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			wants(t, w.config(), w.request(), chain.ErrForm)
		})
	}
}

// TestAnyPolicy is an authority that asks for a policy, and one that does not
// let any-policy stand for it (RFC 5280 §4.2.1.14), which the corpus has not.
func TestAnyPolicy(t *testing.T) {
	policy := func(oids ...string) change {
		return func(c *x509.Certificate) {
			for _, s := range oids {
				oid, err := x509.ParseOID(s)
				if err != nil {
					t.Fatal(err)
				}
				c.Policies = append(c.Policies, oid)
			}
		}
	}
	const one, any = "1.2.3.1", "2.5.29.32.0"
	required := extra(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)
	inhibit := func(after byte) change { return extra(true, []byte{2, 1, after}, 2, 5, 29, 54) }
	for name, test := range map[string]struct {
		inhibited change
		leaf      change
		want      error
	}{
		"the policy":                 {inhibit(0), policy(one), nil},
		"any-policy":                 {func(*x509.Certificate) {}, policy(any), nil},
		"any-policy, inhibited":      {inhibit(0), policy(any), chain.ErrUntrusted},
		"any-policy, one more level": {inhibit(1), policy(any), nil},
		"another":                    {inhibit(0), policy("1.2.3.2"), chain.ErrUntrusted},
		"none":                       {inhibit(0), policy(), chain.ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil)
			middle := newCA(t, "middle", root, policy(one), required, test.inhibited)
			w := world{root, middle, newLeaf(t, middle, test.leaf)}
			wants(t, w.config(), w.request(), test.want)
		})
	}
}

func TestPathLength(t *testing.T) {
	length := func(n int) change {
		return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
	}
	for name, test := range map[string]struct {
		root, first change
		below       int
		want        error
	}{
		"0 and none":       {length(-1), length(0), 0, nil},
		"0 and one":        {length(-1), length(0), 1, chain.ErrUntrusted},
		"1 and one":        {length(-1), length(1), 1, nil},
		"of the anchor":    {length(0), length(-1), 0, chain.ErrUntrusted},
		"longest of all":   {length(-1), length(-1), 7, nil}, // leaf, 8 intermediates, anchor
		"one more":         {length(-1), length(-1), 8, chain.ErrUntrusted},
		"a larger one on":  {length(1), length(5), 1, chain.ErrUntrusted},
		"2 below a larger": {length(3), length(2), 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil, test.root)
			last := newCA(t, "first", root, test.first)
			r := chain.Request{At: now, Use: chain.Signing, Others: []*x509.Certificate{last.cert}}
			for i := range test.below {
				last = newCA(t, "below "+string(rune('a'+i)), last)
				r.Others = append(r.Others, last.cert)
			}
			r.Cert = newLeaf(t, last).cert
			wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: root.cert}}}, r, test.want)
		})
	}
}

func TestWeak(t *testing.T) {
	root := newCA(t, "root", nil)
	sign := func(bits int) *entity {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return issue(t, root, k, &x509.Certificate{Subject: pkix.Name{CommonName: "rsa"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign})
	}
	curve := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func() *x509.Certificate {
		return &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}
	}
	strong, weak := sign(2048), sign(1024)
	signed := func(by *entity, a x509.SignatureAlgorithm) *entity {
		c := template()
		c.SignatureAlgorithm = a
		return issue(t, by, nil, c)
	}
	// A certificate with a SHA-1 signature: crypto/x509 makes none, so one is
	// altered; that its signature is wrong must not be what is told.
	sha1 := func() *entity {
		e := signed(strong, x509.SHA256WithRSA)
		raw := slices.Clone(e.cert.Raw)
		for i := range len(raw) - 11 {
			if string(raw[i:i+11]) == "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b" {
				raw[i+10] = 5
			}
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return &entity{cert: c}
	}()
	agreement := resigned(t, root, issue(t, root, edwards, template()).cert, "\x06\x03\x2b\x65\x70", "\x06\x03\x2b\x65\x6e")
	for name, test := range map[string]struct {
		leaf             *entity
		signing, sealing error
	}{
		"RSA 2048, SHA-256": {signed(strong, x509.SHA256WithRSA), nil, nil},
		"RSA 2048, PSS":     {signed(strong, x509.SHA256WithRSAPSS), nil, nil},
		"RSA 1024 above":    {signed(weak, x509.SHA256WithRSA), chain.ErrWeak, chain.ErrWeak},
		"RSA 1024":          {issue(t, root, weak.key, template()), chain.ErrWeak, chain.ErrWeak},
		"SHA-1":             {sha1, chain.ErrWeak, chain.ErrWeak},
		"P-224":             {issue(t, root, curve(elliptic.P224()), template()), chain.ErrWeak, chain.ErrWeak},
		"P-384":             {issue(t, root, curve(elliptic.P384()), template()), nil, nil},
		"P-521":             {issue(t, root, curve(elliptic.P521()), template()), nil, nil},
		"Ed25519":           {issue(t, root, edwards, template()), nil, chain.ErrPurpose},
		"X25519":            {agreement, chain.ErrPurpose, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := chain.Request{Cert: test.leaf.cert, Others: []*x509.Certificate{strong.cert}, At: now, Use: chain.Signing}
			if name == "RSA 1024 above" {
				r.Others[0] = weak.cert
			}
			c := chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: root.cert}}}
			wants(t, c, r, test.signing)
			r.Use = chain.Encryption
			wants(t, c, r, test.sealing)
		})
	}
}

// TestHostile is sets of certificates made to cost.
func TestHostile(t *testing.T) {
	w := newWorld(t)
	// Authorities of two names that all sign each other: every path is one of
	// very many.
	var tangle []*x509.Certificate
	var last *entity
	a, b := newCA(t, "a", nil), newCA(t, "b", nil)
	for i := range 60 {
		next := newCA(t, "b", a)
		if i%2 == 0 {
			next = newCA(t, "a", b)
			a = next
		} else {
			b = next
		}
		tangle = append(tangle, next.cert)
		last = next
	}
	// One key, one name, thousands of certificates: every signature is right.
	same := newCA(t, "same", nil)
	var clones []*x509.Certificate
	for range 300 {
		clones = append(clones, issue(t, same, same.key, &x509.Certificate{Subject: same.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}).cert)
	}
	clones = slices.Repeat(clones, 10)
	x := newCA(t, "x", nil)
	y := issue(t, x, nil, &x509.Certificate{Subject: pkix.Name{CommonName: "y"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	crossed := issue(t, y, x.key, &x509.Certificate{Subject: x.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	for name, test := range map[string]struct {
		leaf   *entity
		others []*x509.Certificate
	}{
		"tangle":    {newLeaf(t, last), tangle},
		"thousands": {newLeaf(t, same), clones},
		"loop":      {newLeaf(t, y), []*x509.Certificate{x.cert, y.cert, crossed.cert}},
		"itself":    {newLeaf(t, nil), nil},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			r := chain.Request{Cert: test.leaf.cert, Others: append(test.others, test.leaf.cert), At: now, Use: chain.Signing}
			wants(t, w.config(), r, chain.ErrUntrusted)
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("got a refusal after %v, want it within 2 s", d)
			}
		})
	}
	t.Run("long names", func(t *testing.T) {
		var long pkix.Name
		for range 1500 {
			long.ExtraNames = append(long.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "a name that goes on and on"})
		}
		issuer := newCA(t, "", nil, func(c *x509.Certificate) { c.Subject = long })
		r := w.request()
		r.Cert = newLeaf(t, issuer).cert
		for range 100 {
			r.Others = append(r.Others, newCA(t, "", nil, func(c *x509.Certificate) { c.Subject = long }).cert)
		}
		begin := time.Now()
		wants(t, w.config(), r, chain.ErrUntrusted)
		r = w.request()
		r.CRLs = slices.Repeat([][]byte{issuer.crl(nil)}, 100)
		c := w.config()
		c.Mode = chain.Soft
		wants(t, c, r, nil)
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("got verdicts after %v, want them within 2 s", d)
		}
	})
	t.Run("a good one among them", func(t *testing.T) {
		r := w.request()
		r.Others = slices.Concat(tangle, clones[:100], r.Others)
		wants(t, w.config(), r, nil)
	})
}

func TestCrossSigned(t *testing.T) {
	// Two roots certified one authority; one certificate is no longer valid.
	first, second := newCA(t, "first", nil), newCA(t, "second", nil)
	middle := newCA(t, "middle", first, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) })
	cross := issue(t, second, middle.key, &x509.Certificate{Subject: middle.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	leaf := newLeaf(t, middle)
	r := chain.Request{Cert: leaf.cert, Others: []*x509.Certificate{middle.cert, cross.cert}, At: now, Use: chain.Signing}
	both := chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: first.cert}, {Cert: second.cert}}}
	if path := wants(t, both, r, nil); len(path.Certs) != 3 || path.Anchor.Cert != second.cert {
		t.Errorf("got the path %v, want the one to the second root", path.Certs)
	}
	both.Anchors = both.Anchors[:1]
	wants(t, both, r, chain.ErrExpired)
}

func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	j := newJudge(t, w.config())
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := j.Judge(context.Background(), w.request())
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
