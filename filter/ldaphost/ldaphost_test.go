package ldaphost

import "testing"

func TestParse(t *testing.T) {
	for _, c := range []struct{ url, network, address, name string }{
		{"ldap://dir.company1.example", "tcp", "dir.company1.example:389", "dir.company1.example"},
		{"ldaps://dir.company1.example", "tcp", "dir.company1.example:636", "dir.company1.example"},
		{"ldaps://[::1]:1636", "tcp", "[::1]:1636", "::1"},
		{"ldapi://%2Frun%2Fldapi", "unix", "/run/ldapi", "localhost"},
		{"ldapi://run", "", "", ""}, {"ldapi://%zz", "", "", ""}, {"http://x", "", "", ""}, {"ldap://", "", "", ""}, {"://", "", "", ""},
	} {
		h, err := Parse(c.url)
		if h.network != c.network || h.address != c.address || h.Name() != c.name || (err == nil) != (c.name != "") {
			t.Errorf("%s: got %s %s %s, %v, want %s %s %s", c.url, h.network, h.address, h.Name(), err, c.network, c.address, c.name)
		}
	}
	for host, want := range map[string]bool{"127.0.0.2": true, "::1": true, "LOCALHOST": true, "::ffff:127.0.0.1": true, "dir.company1.example": false, "192.0.2.1": false} {
		if got := local(host); got != want {
			t.Errorf("%s on this machine: got %t, want %t", host, got, want)
		}
	}
}
