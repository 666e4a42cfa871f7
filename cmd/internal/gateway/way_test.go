package gateway

import (
	"crypto/tls"
	"reflect"
	"strings"
	"testing"

	"postern/filter/policy"
)

// The rules for the transport reach the policy, and what [default] says holds
// for a partner where the partner says nothing.
func TestWays(t *testing.T) {
	digits := strings.Repeat("ab", 32)
	p, err := Policy(load(t, domain+`
[default]
transport = "encrypt"
min = "1.3"
[partner."plain.example"]
transport = "may"
[partner."named.example"]
transport = "verify"
names = ["*.Provider.example", "bücher.example"]
min = "1.2"
pfs = true
[partner."pinned.example"]
transport = "pin"
pins = ["sha256:`+digits+`"]
[partner."*.all.example"]
protect = "none"
`))
	if err != nil {
		t.Fatal(err)
	}
	pin := [32]byte{}
	for i := range pin {
		pin[i] = 0xab
	}
	for domain, want := range map[string]policy.Way{
		"plain.example":    {Level: policy.May},
		"named.example":    {Level: policy.Verify, Names: []string{"*.provider.example", "xn--bcher-kva.example"}, Min: tls.VersionTLS12, PFS: true},
		"pinned.example":   {Level: policy.Pin, Pins: [][32]byte{pin}, Min: tls.VersionTLS13},
		"some.all.example": {Level: policy.Encrypt, Min: tls.VersionTLS13},
		"other.example":    {Level: policy.Encrypt, Min: tls.VersionTLS13},
	} {
		if got, rule := p.Way(domain); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v by %s, want %+v", domain, got, rule, want)
		}
	}
}
