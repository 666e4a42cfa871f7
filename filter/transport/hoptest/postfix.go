package hoptest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// patience is how long a Postfix may take for anything.
const patience = 2 * time.Minute

// main is what every Postfix of a site has in common.
const main = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
mydestination =
local_recipient_maps =
alias_maps =
disable_dns_lookups = yes
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_forbid_bare_newline = yes
smtpd_forbid_bare_newline_exclusions =
`

const services = `cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// Place is where a test's programs run: Here, or in a network of their own,
// where Command runs one and Dial reaches.
type Place interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	Dial(network, address string) (net.Conn, error)
}

// Here is where the test runs.
var Here Place = here{}

type here struct{}

func (here) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

func (here) Dial(network, address string) (net.Conn, error) { return net.Dial(network, address) }

// Postfix runs one of a site's own, until the test ends or stop is called. more
// are further lines of main.cf, listeners those of master.cf, and it is ready
// when it answers at the addresses. It wants root.
func Postfix(t testing.TB, at Place, more, listeners string, addresses ...string) (stop func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("Postfix starts as root only")
	}
	dir, err := os.MkdirTemp("", "postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.cf": fmt.Sprintf(main, dir) + more, "master.cf": listeners + services} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"queue", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	abort := func() { at.Command(context.Background(), "postfix", "-c", dir, "abort").Run() }
	t.Cleanup(func() {
		abort()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("log of Postfix:\n%s", log[max(0, len(log)-8000):])
		}
	})
	for _, args := range [][]string{{"chown", "postfix", filepath.Join(dir, "data")}, {"postfix", "-c", dir, "start"}} {
		if out, err := at.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("%v: %v\n%s%s", args, err, out, log)
		}
	}
	await(t, at, true, addresses)
	return func() {
		abort()
		await(t, at, false, addresses) // its processes end one after the other
	}
}

// await waits until somebody listens at each of the addresses, or nobody does.
func await(t testing.TB, at Place, want bool, addresses []string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for _, address := range addresses {
		for {
			c, err := at.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			if (err == nil) == want {
				break
			}
			if <-tick.C; time.Now().After(end) {
				t.Fatalf("%s: somebody listens: %v, want %v", address, !want, want)
			}
		}
	}
}
