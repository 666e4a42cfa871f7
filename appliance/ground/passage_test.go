package ground

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// inNamespace is set in a copy of this test that is alone in its network.
const inNamespace = "POSTERN_GROUND"

func TestMain(m *testing.M) {
	if many := os.Getenv(inNamespace + "_DIAL"); many != "" {
		fmt.Println(dialMany(many))
		return
	}
	os.Exit(m.Run())
}

// patience is how long a connection may take that must come about; silence is
// how long one is waited for that must not.
const (
	patience = 60 * time.Second
	silence  = 3 * time.Second
)

// alone runs the test again in namespaces of its own, of users, networks and
// mounts, and reports whether this is there already.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--net", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// TestPassage is a box between two networks, each with a host in it: what is
// served passes, and nothing else. All is real but the cables.
func TestPassage(t *testing.T) {
	if !alone(t) {
		return
	}
	sh(t, `mount -t tmpfs run /run && mkdir /run/netns
ip netns add wan && ip netns add lan
ip link add wan0 type veth peer name eth0 netns wan && ip link add lan0 type veth peer name eth0 netns lan
for d in lo wan0 lan0; do ip link set $d up; done
for n in wan lan; do ip -n $n link set lo up; ip -n $n link set eth0 up; done
ip addr add 192.0.2.25/24 dev wan0 && ip -6 addr add 2001:db8::25/64 dev wan0 nodad
ip addr add 10.0.0.2/24 dev lan0 && ip -6 addr add fd00:1::2/64 dev lan0 nodad
ip -n wan addr add 192.0.2.1/24 dev eth0 && ip -n wan addr add 198.51.100.7/24 dev eth0 && ip -n wan -6 addr add 2001:db8::1/64 dev eth0 nodad
ip -n lan addr add 10.0.0.9/24 dev eth0 && ip -n lan addr add 192.0.2.77/32 dev eth0 && ip -n lan -6 addr add fd00:1::9/64 dev eth0 nodad
ip -n wan addr add 192.0.2.77/32 dev eth0
ip netns exec wan nft 'table inet see { counter seen { }; chain see { type filter hook prerouting priority -300; ip daddr 192.0.2.77 tcp sport 25 counter name seen; }; }'
ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8::1
ip -n wan route add 10.0.0.0/24 via 192.0.2.25 && ip -n lan route add default via 10.0.0.2
echo 1 >/proc/sys/net/ipv4/ip_forward`)
	for _, port := range []int{22, 25, 465, 587, 8443} {
		l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go echo(l)
	}

	// answered is whether the box has answered to an address of the other side.
	answered := func() bool {
		t.Helper()
		out, err := exec.Command("ip", "netns", "exec", "wan", "nft", "reset", "counters").CombinedOutput()
		if err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
		return !bytes.Contains(out, []byte("packets 0 "))
	}
	type try struct {
		from, source, to string
		pass             bool
	}
	tries := []try{
		{"wan", "", "192.0.2.25:25", true},
		{"wan", "", "[2001:db8::25]:25", true},
		{"wan", "198.51.100.7", "192.0.2.25:25", true},
		{"lan", "", "10.0.0.2:25", true},
		{"lan", "", "10.0.0.2:587", true},
		{"lan", "", "[fd00:1::2]:465", true},
		{"lan", "", "10.0.0.2:8443", true},
		{"lan", "", "[fd00:1::2]:8443", true},
		{"", "", "127.0.0.1:22", true},
		{"wan", "", "192.0.2.25:22", false},               // served to nobody
		{"lan", "", "10.0.0.2:22", false},                 //
		{"wan", "", "192.0.2.25:587", false},              // on the inside address only
		{"wan", "", "10.0.0.2:587", false},                // which nobody reaches from outside
		{"wan", "", "10.0.0.2:25", false},                 //
		{"lan", "", "192.0.2.25:25", false},               // nor the other way round
		{"wan", "", "[2001:db8::25]:465", false},          //
		{"wan", "198.51.100.7", "192.0.2.25:8443", false}, // not from the box's networks
		{"lan", "192.0.2.77", "10.0.0.2:25", false},       // an address of the other side
	}
	pings := []struct{ from, to string }{{"wan", "192.0.2.25"}, {"wan", "2001:db8::25"}, {"lan", "10.0.0.2"}}
	// With no rules everything passes that has a way: the tries are not vain.
	for _, c := range tries {
		if c.source == "192.0.2.77" { // its answer goes elsewhere
			if dial(c.from, c.source, c.to, silence); !answered() {
				t.Errorf("without rules: %+v: got no answer", c)
			}
			continue
		}
		if err := dial(c.from, c.source, c.to, patience); err != nil {
			t.Errorf("without rules: %+v: %v", c, err)
		}
	}
	file := filepath.Join(t.TempDir(), "firewall.nft")
	c := outsideInside()
	if err := os.WriteFile(file, []byte(rendered(t, c)[Firewall]), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, "nft -f "+file)
	var group sync.WaitGroup
	for _, c := range tries {
		group.Go(func() {
			limit := silence
			if c.pass {
				limit = patience
			}
			if err := dial(c.from, c.source, c.to, limit); (err == nil) != c.pass {
				t.Errorf("%+v: got %v", c, err)
			}
		})
	}
	for _, p := range pings {
		group.Go(func() {
			if out, err := exec.Command("ip", "netns", "exec", p.from, "ping", "-c", "1", "-W", "60", p.to).CombinedOutput(); err != nil {
				t.Errorf("ping %v: %v\n%s", p, err, out)
			}
		})
	}
	group.Go(func() { // through the box, which routes nothing whatever the kernel is told
		l := exec.Command("ip", "netns", "exec", "lan", "socat", "TCP4-LISTEN:25,fork,reuseaddr", "PIPE")
		if err := l.Start(); err != nil {
			t.Error(err)
			return
		}
		defer l.Wait()
		defer l.Process.Kill()
		for dial("lan", "", "10.0.0.9:25", patience) != nil {
			t.Log("the host inside does not listen yet")
		}
		if err := dial("wan", "", "10.0.0.9:25", silence); err == nil {
			t.Error("the box let somebody outside through to a host inside")
		}
	})
	group.Wait()
	if answered() {
		t.Error("somebody inside with an address of outside got an answer")
	}

	t.Run("a network of DHCP", func(t *testing.T) {
		sh(t, "nft add element inet "+table+" near4 '{ 198.51.100.0/24 }'")
		if err := dial("wan", "198.51.100.7", "192.0.2.25:8443", patience); err != nil {
			t.Errorf("in near4: %v", err)
		}
		held, in, out := hold(t, "lan", "10.0.0.2:25")
		sh(t, "nft -f "+file)
		if err := dial("wan", "198.51.100.7", "192.0.2.25:8443", patience); err != nil {
			t.Errorf("after the rules were loaded again: %v", err)
		}
		if _, err := io.WriteString(in, "still\n"); err != nil {
			t.Error(err)
		}
		if b := make([]byte, 6); true {
			if _, err := io.ReadFull(out, b); err != nil || string(b) != "still\n" {
				t.Errorf("a connection from before: got %q, %v", b, err)
			}
		}
		in.Close()
		held.Wait()
	})

	t.Run("too often", func(t *testing.T) {
		cmd := exec.Command("ip", "netns", "exec", "wan", os.Args[0])
		cmd.Env = append(os.Environ(), inNamespace+"_DIAL=192.0.2.25:25")
		out, err := cmd.CombinedOutput()
		n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil || n < newBurst/2 || n > many-newBurst/2 {
			t.Errorf("got %q connections of %d at once, %v, want about %d", out, many, err, newBurst)
		}
		if err := dial("wan", "198.51.100.7", "192.0.2.25:25", patience); err != nil {
			t.Errorf("somebody else: %v", err)
		}
	})

	t.Run("nobody is served", func(t *testing.T) {
		c.Served = nil
		if err := os.WriteFile(file, []byte(rendered(t, c)[Firewall]), 0o644); err != nil {
			t.Fatal(err)
		}
		sh(t, "nft -f "+file)
		if err := dial("lan", "", "10.0.0.2:25", silence); err == nil {
			t.Error("a port that was served once is open")
		}
	})
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// echo sends back what comes.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// dial connects from a host, or the box itself, and waits for an echo.
func dial(from, source, to string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	address := "TCP:" + to
	if source != "" {
		address += ",bind=" + source
	}
	args := []string{"socat", "-t", "60", "-", address}
	if from != "" {
		args = append([]string{"ip", "netns", "exec", from}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.WaitDelay = strings.NewReader("hello\n"), time.Second
	out, err := cmd.CombinedOutput()
	if err == nil && string(out) != "hello\n" {
		err = errors.New("no echo")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// hold is a connection that stays.
func hold(t *testing.T, from, to string) (*exec.Cmd, io.WriteCloser, io.Reader) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", from, "socat", "-", "TCP:"+to)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.WriteString(in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, b); err != nil {
		t.Fatal(err)
	}
	return cmd, in, out
}

// many is how many connections are asked for at once.
const many = 3 * newBurst

// dialMany is how many of them come about.
func dialMany(to string) int64 {
	var group sync.WaitGroup
	var made atomic.Int64
	for range many {
		group.Go(func() {
			c, err := net.DialTimeout("tcp", to, 900*time.Millisecond) // before the kernel tries again
			if err == nil {
				made.Add(1)
				c.Close()
			}
		})
	}
	group.Wait()
	return made.Load()
}

// near is told what is left of prefixes that stand in each other.
func TestPrefixes(t *testing.T) {
	p := netip.MustParsePrefix
	for _, c := range []struct {
		list []netip.Prefix
		want string
	}{
		{nil, ""},
		{[]netip.Prefix{p("10.1.2.3/24"), p("10.0.0.0/8"), p("fd00::/8")}, "10.0.0.0/8"},
		{[]netip.Prefix{p("192.0.2.0/25"), p("192.0.2.128/25"), p("192.0.2.0/25")}, "192.0.2.0/25, 192.0.2.128/25"},
		{[]netip.Prefix{p("::ffff:192.0.2.1/128")}, "192.0.2.1/32"},
		{[]netip.Prefix{p("0.0.0.0/0"), p("192.0.2.1/32")}, "0.0.0.0/0"},
	} {
		if got := prefixes(c.list, netip.Addr.Is4); got != c.want {
			t.Errorf("%v: got %q, want %q", c.list, got, c.want)
		}
	}
}
