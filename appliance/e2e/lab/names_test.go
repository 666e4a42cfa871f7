package lab

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"postern/appliance/e2e/placetest"
	"postern/filter/resolver/resolvertest"
)

// resolve gives a place a DNS of its own that validates, as its one resolver.
// Every place has the same zones, under keys of its own.
func resolve(t testing.TB, p *placetest.Place, dir string, zones ...resolvertest.Zone) *resolvertest.World {
	t.Helper()
	w := resolvertest.Config{
		Port:    53,
		Command: func(name string, args ...string) *exec.Cmd { return p.Command(context.Background(), name, args...) },
		Dial:    func(_ context.Context, network, address string) (net.Conn, error) { return p.Dial(network, address) },
	}.Start(t, zones...)
	hosts := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(hosts, []byte("nameserver 127.0.0.1\noptions edns0 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Mount(t, hosts, "/etc/resolv.conf")
	return w
}
