package message

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", 64)
	label := strings.Repeat("d", 59) + "."
	tests := []struct{ in, local, domain, printed, key string }{
		{"a@b.example", "a", "b.example", "a@b.example", "a@b.example"},
		{"Bob.Smith@B.Example", "Bob.Smith", "b.example", "Bob.Smith@b.example", "bob.smith@b.example"},
		{"a+tag@b.example", "a+tag", "b.example", "a+tag@b.example", "a+tag@b.example"},
		{"!#$%&'*+-/=?^_`{|}~@b.example", "!#$%&'*+-/=?^_`{|}~", "b.example", "!#$%&'*+-/=?^_`{|}~@b.example", "!#$%&'*+-/=?^_`{|}~@b.example"},
		{`"bob"@b.example`, "bob", "b.example", "bob@b.example", "bob@b.example"},
		{`"\b\o\b"@b.example`, "bob", "b.example", "bob@b.example", "bob@b.example"},
		{`"A B"@b.example`, "A B", "b.example", `"A B"@b.example`, `"a b"@b.example`},
		{`"a@c"@b.example`, "a@c", "b.example", `"a@c"@b.example`, `"a@c"@b.example`},
		{`"a\"\\"@b.example`, `a"\`, "b.example", `"a\"\\"@b.example`, `"a\"\\"@b.example`},
		{`".a"@b.example`, ".a", "b.example", `".a"@b.example`, `".a"@b.example`},
		{"jörg@b.example", "jörg", "b.example", "jörg@b.example", "jörg@b.example"},
		{"Ö@b.example", "Ö", "b.example", "Ö@b.example", "Ö@b.example"},
		{"a@bücher.example", "a", "bücher.example", "a@bücher.example", "a@bücher.example"},
		{"a@BÜCHER.example", "a", "bücher.example", "a@bücher.example", "a@bücher.example"},
		{"a@xn--bcher-kva.example", "a", "bücher.example", "a@bücher.example", "a@bücher.example"},
		{"a@XN--BCHER-KVA.example", "a", "bücher.example", "a@bücher.example", "a@bücher.example"},
		{"a@[192.0.2.1]", "a", "[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.1]"},
		{"a@[IPv6:2001:DB8:0::1]", "a", "[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"},
		{"a@localhost", "a", "localhost", "a@localhost", "a@localhost"},
		{long + "@b.example", long, "b.example", long + "@b.example", long + "@b.example"},
		{"a@" + strings.Repeat(label, 4) + "example", "a", strings.Repeat(label, 4) + "example", "a@" + strings.Repeat(label, 4) + "example", "a@" + strings.Repeat(label, 4) + "example"},
	}
	for _, test := range tests {
		a, err := ParseAddress(test.in)
		if err != nil || a.Local != test.local || a.Domain != test.domain {
			t.Errorf("ParseAddress(%q): got %q, %q, %v, want %q, %q", test.in, a.Local, a.Domain, err, test.local, test.domain)
			continue
		}
		if a.String() != test.printed || a.Key() != test.key {
			t.Errorf("%q: got String %q and Key %q, want %q and %q", test.in, a.String(), a.Key(), test.printed, test.key)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: printed and read: got %v, %v, want %v", test.in, again, err, a)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range []string{
		"a@xn--bce.eer-kvr-U.DDlh", // a capital letter as an A-label
		"", "@", "a", "a@", "@b.example", "postmaster", "<a@b.example>", "<>",
		" a@b.example", "a@b.example ", "a @b.example", "a@ b.example", "a b@b.example",
		"a@b@c.example", "a@b.example@c.example", "@relay.example:a@b.example", "a%b@", "a!b",
		".a@b.example", "a.@b.example", "a..b@b.example",
		"a(x)@b.example", "a@(x)b.example", "a@b.example(x)", "a,b@b.example", "a;@b.example", "a:b@b.example", `a\b@b.example`, "[a]@b.example",
		"a\x00@b.example", "a\r@b.example", "a\n@b.example", "a@b.example\r\n", "a@b.example\x00", "\ta@b.example", "a\x7f@b.example",
		`""@b.example`, `"a@b.example`, `"a"b@b.example`, `"a" @b.example`, `"a".b@b.example`, `a."b"@b.example`, "\"a\x00\"@b.example", "\"a\r\n\"@b.example", "\"a\\\x01\"@b.example", `"a\`, `"a"`, "\"\\é\"@b.example",
		"a@b_c.example", "a@-b.example", "a@b-.example", "a@.example", "a@b..example", "a@b.example.", "a@b.example..", "a@.", "a@b/c.example",
		"a@" + strings.Repeat("d", 64) + ".example", "a@" + strings.Repeat("dd.", 90) + "example", strings.Repeat("a", 65) + "@b.example",
		strings.Repeat("a", 64) + "@" + strings.Repeat(strings.Repeat("d", 59)+".", 4) + "example", strings.Repeat("ü", 33) + "@b.example",
		"a@127.0.0.1", "a@2130706433", "a@example.1", "a@[192.0.2.1", "a@192.0.2.1]", "a@[192.0.2.256]", "a@[192.0.2.01]", "a@[2001:db8::1]", "a@[IPv6:192.0.2.1]", "a@[IPv6:fe80::1%eth0]", "a@[x:y]", "a@[]",
		"a@\u212aernel.example", "a@ｂ.example", "a@b。example", "a@b．example", "a@xn--a.example", "a@xn--.example", "a@xn--ls8h=.example", "a@a\u200bb.example", "a@\u202eb.example", "a@\xff.example", "\xff@b.example",
		"a\u200b@b.example", "a\u202e@b.example", "a\u00a0@b.example", "jo\u0308rg@b.example", "a\u0085@b.example",
	} {
		if a, err := ParseAddress(in); !errors.Is(err, ErrAddress) {
			t.Errorf("ParseAddress(%q): got %v, %v, want ErrAddress", in, a, err)
		}
	}
}

func TestAddressZero(t *testing.T) {
	var a Address
	if !a.IsZero() || a.String() != "" || a.Key() != "" {
		t.Errorf("zero: got %v, String %q, Key %q, want nothing", a.IsZero(), a.String(), a.Key())
	}
	if (Address{Local: "a", Domain: "b.example"}).IsZero() {
		t.Error("a@b.example: got IsZero, want not")
	}
}

func TestAddressASCII(t *testing.T) {
	for _, test := range []struct {
		in, want string
		ok       bool
	}{
		{"a@b.example", "a@b.example", true},
		{"a@bücher.example", "a@xn--bcher-kva.example", true},
		{`"a b"@bücher.example`, `"a b"@xn--bcher-kva.example`, true},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", true},
		{"jörg@b.example", "jörg@b.example", false},
	} {
		a, err := ParseAddress(test.in)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := a.ASCII(); got != test.want || ok != test.ok {
			t.Errorf("%q: got %q, %v, want %q, %v", test.in, got, ok, test.want, test.ok)
		}
	}
}
