package chain_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/chain"
)

// general is a GeneralName in DER.
type general func(b *cryptobyte.Builder)

func tagged(n uint8, value string) general {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(n).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
	}
}

func mail(s string) general { return tagged(1, s) }
func host(s string) general { return tagged(2, s) }
func uri(s string) general  { return tagged(6, s) }

func ip(s string) general {
	_, network, err := net.ParseCIDR(s)
	if err != nil { // an address, not a network
		address := net.ParseIP(s)
		if four := address.To4(); four != nil {
			address = four
		}
		return tagged(7, string(address))
	}
	return tagged(7, string(network.IP)+string(network.Mask))
}

func other(oid asn1.ObjectIdentifier, value string) general {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(der.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
			})
		})
	}
}

// utf8Mail is a SmtpUTF8Mailbox.
func utf8Mail(s string) general {
	return other(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 9}, s)
}

func directory(n pkix.Name) general {
	return func(b *cryptobyte.Builder) {
		raw, err := asn1.Marshal(n.ToRDNSequence())
		if err != nil {
			b.SetError(err)
		}
		b.AddASN1(der.Tag(4).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddBytes(raw) })
	}
}

func encode(t testing.TB, f func(b *cryptobyte.Builder)) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, f)
	raw, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// named is a leaf with these names.
func named(t testing.TB, names ...general) change {
	return func(c *x509.Certificate) {
		c.EmailAddresses = nil
		extra(false, encode(t, func(b *cryptobyte.Builder) {
			for _, g := range names {
				g(b)
			}
		}), 2, 5, 29, 17)(c)
	}
}

// constrained is an authority with name constraints, critical as they must be.
func constrained(t testing.TB, permitted, excluded []general) change {
	return extra(true, encode(t, func(b *cryptobyte.Builder) {
		for i, list := range [][]general{permitted, excluded} {
			if len(list) == 0 {
				continue
			}
			b.AddASN1(der.Tag(i).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				for _, g := range list {
					b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { g(b) })
				}
			})
		}
	}), 2, 5, 29, 30)
}

// TestNameConstraints holds R15: names stand where the authorities above let them.
func TestNameConstraints(t *testing.T) {
	acme := pkix.Name{Country: []string{"DE"}, Organization: []string{"Acme"}}
	staff := pkix.Name{Country: []string{"DE"}, Organization: []string{"Acme"}, CommonName: "user"}
	upn := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	subject := func(n pkix.Name) change { return func(c *x509.Certificate) { c.Subject = n } }
	both := func(changes ...change) change {
		return func(c *x509.Certificate) {
			for _, f := range changes {
				f(c)
			}
		}
	}
	// An emailAddress in the subject, as old certificates have it.
	old := func(address string) change {
		return both(func(c *x509.Certificate) { c.EmailAddresses = nil }, subject(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "user"},
			{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: address}}}))
	}
	for name, test := range map[string]struct {
		permitted, excluded []general
		leaf                change
		want                error
	}{
		"host, at it":                        {[]general{mail("example.test")}, nil, named(t, mail("a@example.test")), nil},
		"host, below it":                     {[]general{mail("example.test")}, nil, named(t, mail("a@sub.example.test")), chain.ErrUntrusted},
		"host, another":                      {[]general{mail("example.test")}, nil, named(t, mail("a@example.net")), chain.ErrUntrusted},
		"host, only its tail":                {[]general{mail("example.test")}, nil, named(t, mail("a@badexample.test")), chain.ErrUntrusted},
		"host, another case":                 {[]general{mail("Example.TEST")}, nil, named(t, mail("a@eXample.test")), nil},
		"host, in the local part":            {[]general{mail("example.test")}, nil, named(t, mail("\"x@example.test\"@evil.test")), chain.ErrUntrusted},
		"host, one of two":                   {[]general{mail("example.test")}, nil, named(t, mail("a@example.test"), mail("a@evil.test")), chain.ErrUntrusted},
		"below, at it":                       {[]general{mail(".example.test")}, nil, named(t, mail("a@example.test")), chain.ErrUntrusted},
		"below, below it":                    {[]general{mail(".example.test")}, nil, named(t, mail("a@sub.example.test")), nil},
		"below, far below it":                {[]general{mail(".example.test")}, nil, named(t, mail("a@x.sub.example.test")), nil},
		"below, only its tail":               {[]general{mail(".example.test")}, nil, named(t, mail("a@xexample.test")), chain.ErrUntrusted},
		"two permitted":                      {[]general{mail("example.test"), mail(".example.test")}, nil, named(t, mail("a@example.test"), mail("a@x.example.test")), nil},
		"mailbox, it":                        {[]general{mail("a@example.test")}, nil, named(t, mail("a@example.test")), nil},
		"mailbox, another":                   {[]general{mail("a@example.test")}, nil, named(t, mail("b@example.test")), chain.ErrUntrusted},
		"mailbox, case of the local part":    {[]general{mail("a@example.test")}, nil, named(t, mail("A@example.test")), chain.ErrUntrusted},
		"mailbox excluded":                   {nil, []general{mail("boss@example.test")}, named(t, mail("boss@example.test")), chain.ErrUntrusted},
		"mailbox excluded, case":             {nil, []general{mail("boss@example.test")}, named(t, mail("BOSS@example.test")), chain.ErrUntrusted},
		"mailbox excluded, quoted":           {nil, []general{mail("boss@example.test")}, named(t, mail(`"boss"@example.test`)), chain.ErrUntrusted},
		"mailbox excluded, another":          {nil, []general{mail("boss@example.test")}, named(t, mail("a@example.test")), nil},
		"host excluded":                      {nil, []general{mail("example.test")}, named(t, mail("a@example.test")), chain.ErrUntrusted},
		"host excluded, below it":            {nil, []general{mail("example.test")}, named(t, mail("a@sub.example.test")), nil},
		"below excluded":                     {nil, []general{mail(".example.test")}, named(t, mail("a@sub.example.test")), chain.ErrUntrusted},
		"excluded beats permitted":           {[]general{mail("example.test")}, []general{mail("a@example.test")}, named(t, mail("a@example.test")), chain.ErrUntrusted},
		"everything excluded":                {nil, []general{mail("")}, named(t, mail("a@example.test")), chain.ErrUntrusted},
		"everything permitted":               {[]general{mail("")}, nil, named(t, mail("a@example.test")), nil},
		"no address":                         {[]general{mail("example.test")}, nil, named(t, mail("nonsense")), chain.ErrUntrusted},
		"another kind is free":               {[]general{host("example.test")}, nil, named(t, mail("a@evil.test")), nil},
		"old, at it":                         {[]general{mail("example.test")}, nil, old("a@example.test"), nil},
		"old, another":                       {[]general{mail("example.test")}, nil, old("a@evil.test"), chain.ErrUntrusted},
		"utf8, at it":                        {[]general{mail("example.test")}, nil, named(t, utf8Mail("ü@example.test")), nil},
		"utf8, below it":                     {[]general{mail("example.test")}, nil, named(t, utf8Mail("ü@sub.example.test")), chain.ErrUntrusted},
		"utf8, another":                      {[]general{mail("example.test")}, nil, named(t, utf8Mail("ü@evil.test")), chain.ErrUntrusted},
		"utf8, below":                        {[]general{mail(".example.test")}, nil, named(t, utf8Mail("ü@sub.example.test")), nil},
		"utf8, excluded":                     {nil, []general{mail("example.test")}, named(t, utf8Mail("ü@example.test")), chain.ErrUntrusted},
		"utf8, A-labels":                     {[]general{mail("xn--bcher-kva.test")}, nil, named(t, utf8Mail("ü@xn--bcher-kva.test")), nil},
		"utf8, U-labels":                     {[]general{mail("xn--bcher-kva.test")}, nil, named(t, utf8Mail("ü@bücher.test")), nil},
		"utf8, U-labels excluded":            {nil, []general{mail("xn--bcher-kva.test")}, named(t, utf8Mail("ü@bücher.test")), chain.ErrUntrusted},
		"utf8, mailbox":                      {[]general{mail("u@example.test")}, nil, named(t, utf8Mail("ü@example.test")), chain.ErrUntrusted},
		"utf8, ASCII in disguise":            {[]general{mail("example.test")}, nil, named(t, utf8Mail("a@example.test")), chain.ErrUntrusted},
		"utf8 beside a permitted one":        {[]general{mail("example.test")}, nil, named(t, mail("a@example.test"), utf8Mail("ü@evil.test")), chain.ErrUntrusted},
		"host name, below":                   {[]general{host("example.test")}, nil, named(t, mail("a@x.test"), host("www.example.test")), nil},
		"host name, another":                 {[]general{host("example.test")}, nil, named(t, mail("a@x.test"), host("www.evil.test")), chain.ErrUntrusted},
		"host name, only its tail":           {[]general{host("example.test")}, nil, named(t, mail("a@x.test"), host("badexample.test")), chain.ErrUntrusted},
		"directory, below":                   {[]general{directory(acme)}, nil, subject(staff), nil},
		"directory, another":                 {[]general{directory(acme)}, nil, subject(pkix.Name{Country: []string{"DE"}, Organization: []string{"Evil"}}), chain.ErrUntrusted},
		"directory, another case":            {[]general{directory(pkix.Name{Country: []string{"DE"}, Organization: []string{"ACME"}})}, nil, subject(staff), nil},
		"directory, excluded":                {nil, []general{directory(acme)}, subject(staff), chain.ErrUntrusted},
		"directory, excluded, another case":  {nil, []general{directory(pkix.Name{Country: []string{"de"}, Organization: []string{"  acme "}})}, subject(staff), chain.ErrUntrusted},
		"directory name among the names":     {nil, []general{directory(acme)}, named(t, mail("a@x.test"), directory(staff)), chain.ErrUntrusted},
		"address, within":                    {[]general{ip("192.0.2.0/24")}, nil, named(t, mail("a@x.test"), ip("192.0.2.7")), nil},
		"address, without":                   {[]general{ip("192.0.2.0/24")}, nil, named(t, mail("a@x.test"), ip("198.51.100.1")), chain.ErrUntrusted},
		"address, of the other family":       {[]general{ip("192.0.2.0/24")}, nil, named(t, mail("a@x.test"), ip("2001:db8::1")), chain.ErrUntrusted},
		"URI, at it":                         {[]general{uri("example.test")}, nil, named(t, mail("a@x.test"), uri("https://example.test/x")), nil},
		"URI, below":                         {[]general{uri("example.test")}, nil, named(t, mail("a@x.test"), uri("https://www.example.test/x")), chain.ErrUntrusted},
		"URI, an address":                    {[]general{uri("example.test")}, nil, named(t, mail("a@x.test"), uri("https://192.0.2.1/")), chain.ErrUntrusted},
		"a kind nobody can compare":          {nil, []general{other(upn, "x")}, named(t, mail("a@x.test"), other(upn, "user")), chain.ErrUntrusted},
		"a kind nobody can compare, not met": {nil, []general{other(upn, "x")}, named(t, mail("a@x.test")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil)
			middle := newCA(t, "middle", root, constrained(t, test.permitted, test.excluded), func(c *x509.Certificate) {
				c.Subject = acme
			})
			w := world{root, middle, newLeaf(t, middle, test.leaf)}
			wants(t, w.config(), w.request(), test.want)
		})
	}
}

// TestConstraintsAbove are constraints of the anchor, and of an authority
// above another, which a self-issued certificate does not shake off.
func TestConstraintsAbove(t *testing.T) {
	only := constrained(t, []general{mail("example.test")}, nil)
	root := newCA(t, "root", nil, only)
	for address, want := range map[string]error{"a@example.test": nil, "a@evil.test": chain.ErrUntrusted} {
		first := newCA(t, "first", root)
		again := newCA(t, "first", first) // a new key of the same authority
		below := newCA(t, "below", again, constrained(t, []general{mail("evil.test"), mail("example.test")}, nil))
		leaf := newLeaf(t, below, named(t, mail(address)))
		r := chain.Request{Cert: leaf.cert, Others: []*x509.Certificate{first.cert, again.cert, below.cert}, At: now, Use: chain.Signing}
		wants(t, chain.Config{Mode: chain.Off, Anchors: []chain.Anchor{{Cert: root.cert}}}, r, want)
	}
}

// TestSelfIssuedUser is a user who is called as the authority is: constraints
// let self-issued authorities pass, and not that.
func TestSelfIssuedUser(t *testing.T) {
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root, constrained(t, []general{mail("example.test")}, nil))
	for address, want := range map[string]error{"a@example.test": nil, "a@evil.test": chain.ErrUntrusted} {
		w := world{root, middle, newLeaf(t, middle, named(t, mail(address)), func(c *x509.Certificate) { c.Subject = middle.cert.Subject })}
		wants(t, w.config(), w.request(), want)
	}
}

// TestMalformedConstraints are those that can't be read: a path through them
// is none.
func TestMalformedConstraints(t *testing.T) {
	for name, base := range map[string]general{
		"mail: no local part": mail("@example.test"),
		"mail: two dots":      mail("a..b.test"),
		"host: a wildcard":    host("*.example.test"),
		"address: odd mask":   tagged(7, "\xc0\x00\x02\x00\xff\x00\xff\x00"),
		"address: length":     tagged(7, "\xc0\x00\x02"),
		"with a maximum": func(b *cryptobyte.Builder) {
			mail("example.test")(b)
			b.AddASN1(der.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddUint8(1) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil)
			template := &x509.Certificate{
				Subject: pkix.Name{CommonName: "middle"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
			}
			constrained(t, []general{base}, nil)(template)
			middle, ok := tryIssue(root, template)
			if !ok {
				return // crypto/x509 refuses to read it: nobody gets as far as a judge
			}
			w := world{root, middle, newLeaf(t, middle, named(t, mail("a@example.test"), host("x.example.test"), ip("192.0.2.1")))}
			wants(t, w.config(), w.request(), chain.ErrForm)
		})
	}
}

// TestManyConstraints is names times constraints, which is what it costs.
func TestManyConstraints(t *testing.T) {
	var bases, names []general
	for range 1000 {
		bases = append(bases, mail(".example.test"))
		names = append(names, mail("a@b.example.test"))
	}
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root, constrained(t, bases, nil))
	w := world{root, middle, newLeaf(t, middle, named(t, names...))}
	begin := time.Now()
	wants(t, w.config(), w.request(), chain.ErrForm)
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("got a refusal after %v, want it within 2 s", d)
	}
}

func TestAddresses(t *testing.T) {
	subjectMail := func(address string) change {
		return func(c *x509.Certificate) {
			c.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: address}}}
		}
	}
	none := func(c *x509.Certificate) { c.EmailAddresses = nil }
	for name, test := range map[string]struct {
		leaf []change
		want []string
	}{
		"one":                       {[]change{named(t, mail("A@Example.TEST"))}, []string{"A@example.test"}},
		"several, each once":        {[]change{named(t, mail("b@x.test"), mail("a@x.test"), mail("b@X.test"))}, []string{"b@x.test", "a@x.test"}},
		"utf8":                      {[]change{named(t, utf8Mail("ü@bücher.test"))}, []string{"ü@bücher.test"}},
		"utf8, A-labels":            {[]change{named(t, utf8Mail("ü@xn--bcher-kva.test"))}, []string{"ü@bücher.test"}},
		"utf8 with an ASCII part":   {[]change{named(t, utf8Mail("a@x.test"))}, nil},
		"rfc822Name, not ASCII":     {[]change{named(t, mail("ü@x.test"))}, nil},
		"other kinds":               {[]change{named(t, host("x.test"), uri("mailto:a@x.test"), other(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, "a@x.test"))}, nil},
		"subject only":              {[]change{none, subjectMail("a@x.test")}, []string{"a@x.test"}},
		"subject beside other ones": {[]change{subjectMail("a@x.test"), named(t, host("x.test"))}, []string{"a@x.test"}},
		"subject beside a mail one": {[]change{subjectMail("evil@x.test"), named(t, mail("a@x.test"))}, []string{"a@x.test"}},
		"subject beside a bad one":  {[]change{subjectMail("evil@x.test"), named(t, mail("a\x00@x.test"))}, nil},
		"subject, not ASCII":        {[]change{none, subjectMail("ü@x.test")}, nil},
		"common name":               {[]change{none, func(c *x509.Certificate) { c.Subject.CommonName = "a@x.test" }}, nil},
		"line end":                  {[]change{named(t, mail("a@x.test\r\nBcc: b@x.test"))}, nil},
		"NUL":                       {[]change{named(t, mail("a@x.test\x00.evil.test"))}, nil},
		"two in one":                {[]change{named(t, mail("a@x.test,b@x.test"))}, nil},
		"angle brackets":            {[]change{named(t, mail("<a@x.test>"))}, nil},
		"invisible":                 {[]change{named(t, utf8Mail("ü\u202e@x.test"))}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			template := &x509.Certificate{Subject: pkix.Name{CommonName: "user"}}
			for _, f := range test.leaf {
				f(template)
			}
			leaf, ok := tryIssue(newCA(t, "root", nil), template)
			if !ok {
				if len(test.want) > 0 {
					t.Fatal("crypto/x509 does not read the certificate")
				}
				return
			}
			var got []string
			for _, a := range chain.Addresses(leaf.cert) {
				got = append(got, a.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	var many []general
	for i := range 1000 {
		many = append(many, mail("a"+strings.Repeat("x", i%50)+string(rune('a'+i%26))+"@x.test"))
	}
	if n := len(chain.Addresses(newLeaf(t, nil, named(t, many...)).cert)); n > 256 {
		t.Errorf("got %d addresses, want at most 256", n)
	}
}
