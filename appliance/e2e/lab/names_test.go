package lab

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"postern/filter/resolver/resolvertest"
)

// resolve gives a place a DNS of its own that validates, as its one resolver.
// Every place has the same zones, under keys of its own.
func (p *place) resolve(t testing.TB, dir string, zones ...resolvertest.Zone) *resolvertest.World {
	t.Helper()
	w := resolvertest.Config{
		Port:    53,
		Command: func(name string, args ...string) *exec.Cmd { return p.command(context.Background(), name, args...) },
		Dial:    func(_ context.Context, network, address string) (net.Conn, error) { return p.dial(network, address) },
	}.Start(t, zones...)
	hosts := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(hosts, []byte("nameserver 127.0.0.1\noptions edns0 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.mount(t, hosts, "/etc/resolv.conf")
	return w
}
