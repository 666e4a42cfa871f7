package housetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// postfixMain is what every Postfix of a site has in common.
const postfixMain = `compatibility_level = 3.6
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

const postfixServices = `cleanup unix n - n - 0 cleanup
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

// Site is where a site's own programs run: by default, where the test does. In
// a network of its own, Command gives a program with its arguments that runs
// there, and Dial reaches there.
type Site struct {
	Command func(ctx context.Context, name string, args ...string) *exec.Cmd
	Dial    func(network, address string) (net.Conn, error)
}

// Postfix runs one of a site's own until the test ends. main are further lines
// of main.cf, services the listeners of master.cf, and it is ready when it
// answers at the addresses.
func Postfix(t testing.TB, main, services string, addresses ...string) {
	t.Helper()
	Site{exec.CommandContext, net.Dial}.Postfix(t, main, services, addresses...)
}

// Postfix is one that runs in the site. It ends with the test, or when stop is
// called.
func (s Site) Postfix(t testing.TB, main, services string, addresses ...string) (stop func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("Postfix starts as root only")
	}
	dir := Folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.cf": fmt.Sprintf(postfixMain, dir) + main, "master.cf": services + postfixServices} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"queue", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	abort := func() { s.Command(context.Background(), "postfix", "-c", dir, "abort").Run() }
	stop = func() {
		abort()
		for _, address := range addresses { // its processes end one after the other
			Eventually(t, Patience, func() (bool, string) {
				c, err := s.Dial("tcp", address)
				if err == nil {
					c.Close()
				}
				return err != nil, "somebody still listens at " + address
			})
		}
	}
	t.Cleanup(func() {
		abort()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("log of Postfix:\n%s", Tail(log, 8000))
		}
	})
	for _, args := range [][]string{{"chown", "postfix", filepath.Join(dir, "data")}, {"postfix", "-c", dir, "start"}} {
		if out, err := s.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for _, address := range addresses {
		s.listens(t, address)
	}
	return stop
}

// Listens waits until somebody does.
func Listens(t testing.TB, address string) {
	t.Helper()
	Site{Dial: net.Dial}.listens(t, address)
}

func (s Site) listens(t testing.TB, address string) {
	t.Helper()
	Eventually(t, Patience, func() (bool, string) {
		c, err := s.Dial("tcp", address)
		if err != nil {
			return false, "nobody listens at " + address
		}
		c.Close()
		return true, ""
	})
}
