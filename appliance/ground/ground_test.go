package ground

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files of a box that belongs to nobody")

// outsideInside is a box between two networks, with a third by DHCP.
func outsideInside() Config {
	p := netip.MustParsePrefix
	return Config{
		Interfaces: []Interface{
			{Name: "outside", Device: "wan0", Addresses: []netip.Prefix{p("192.0.2.25/24"), p("2001:db8::25/64")}, Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, MTU: 1500},
			{Name: "inside", Device: "lan0", Addresses: []netip.Prefix{p("10.0.0.2/24"), p("fd00:1::2/64")}},
			{Name: "desk", MAC: "52:54:00:AB:CD:EF", DHCP: true},
		},
		Served: []Service{
			{Name: "outside", TCP: 25},
			{Name: "inside", TCP: 587, On: netip.MustParseAddr("10.0.0.2"), From: []netip.Prefix{p("10.0.0.0/24"), p("10.0.0.0/8"), p("fd00::/16")}},
			{Name: "six", TCP: 465, On: netip.MustParseAddr("fd00:1::2")},
			{Name: "manage", TCP: 8443, Inside: true},
		},
		Local: true,
		Time:  Time{Servers: []string{"a.example", "b.example", "c.example"}, NTS: true},
	}
}

func rendered(t *testing.T, c Config) map[string]string {
	t.Helper()
	list, err := Render(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Render(c)
	if err != nil || !reflect.DeepEqual(list, again) {
		t.Fatalf("the same struct gave other files (%v)", err)
	}
	files := map[string]string{}
	for _, f := range list {
		if _, twice := files[f.Path]; twice || !strings.HasPrefix(f.Text, "# Written by ") {
			t.Errorf("%s: twice, or without its first line", f.Path)
		}
		files[f.Path] = f.Text
	}
	return files
}

// nft takes every rule set that can come out.
func TestFirewallIsUnderstood(t *testing.T) {
	nothing := outsideInside()
	nothing.Served, nothing.Interfaces = nil, nil
	for name, c := range map[string]Config{"two networks": outsideInside(), "nothing": nothing} {
		file := filepath.Join(t.TempDir(), "firewall.nft")
		if err := os.WriteFile(file, []byte(rendered(t, c)[Firewall]), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("unshare", "--user", "--map-root-user", "--net", "nft", "-c", "-f", file).CombinedOutput(); err != nil {
			t.Errorf("%s: nft: %v\n%s", name, err, out)
		}
	}
}

// The files of a box that belongs to nobody are those that stand beside the units.
func TestBlank(t *testing.T) {
	for _, f := range Blank(8443) {
		name := map[string]string{Base: "firewall.nft", "/usr/lib/systemd/network/89-postern.network": "any.network"}[f.Path]
		name = filepath.Join("../units/box", name)
		if *update {
			if err := os.WriteFile(name, []byte(f.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != f.Text {
			t.Errorf("%s is stale (%v): go test ./appliance/ground -run TestBlank -update", name, err)
		}
	}
}

// chronyd takes what is printed for it.
func TestClockIsUnderstood(t *testing.T) {
	for name, servers := range map[string]Time{"proven": {Servers: []string{"a.example", "b.example", "c.example"}, NTS: true}, "not proven": {Servers: []string{"192.0.2.1"}}, "nobody": {Alone: true}} {
		c := outsideInside()
		c.Time = servers
		file := filepath.Join(t.TempDir(), "chrony.conf")
		if err := os.WriteFile(file, []byte(rendered(t, c)["/etc/chrony/chrony.conf"]), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("chronyd", "-p", "-f", file).CombinedOutput(); err != nil {
			t.Errorf("%s: chronyd: %v\n%s", name, err, out)
		}
	}
	if _, err := Render(Config{}); err == nil {
		t.Error("nobody tells the time: got no error")
	}
}
