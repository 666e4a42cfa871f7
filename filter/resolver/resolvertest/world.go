// Package resolvertest gives a test a DNS of its own: a root and some zones
// below it, signed, unsigned or forged, served by nsd and asked through a
// validating unbound, both on loopback. There is no way out of it.
package resolvertest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/filter/resolver"
)

// patience is how long a program may take to answer before it counts as stuck.
const patience = 90 * time.Second

// Config has working zero values.
type Config struct {
	IP   string // of both programs: 127.0.0.1
	Port int    // of unbound: a free one
	// Command gives the program with its arguments, as one that runs in a
	// network namespace of its own. Where it does, Dial has to reach there.
	Command func(name string, args ...string) *exec.Cmd
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// World is the two programs.
type World struct {
	Address string // of unbound, host:port
	config  Config
	dir     string
	nsd     string // port
	zones   []Zone
	running []*exec.Cmd
}

// Start serves the zones until the test ends.
func Start(t testing.TB, zones ...Zone) *World { return Config{}.Start(t, zones...) }

// Start serves the zones until the test ends.
func (c Config) Start(t testing.TB, zones ...Zone) *World {
	t.Helper()
	if c.IP == "" {
		c.IP = "127.0.0.1"
	}
	if c.Command == nil {
		c.Command = exec.Command
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	port := fmt.Sprint(c.Port)
	if c.Port == 0 {
		port = free(t)
	}
	w := &World{Address: net.JoinHostPort(c.IP, port), config: c, dir: t.TempDir(), nsd: free(t)}
	t.Cleanup(w.Stop)
	w.Set(t, zones...)
	return w
}

// Client asks unbound, and believes it.
func (w *World) Client() *resolver.Client { return &resolver.Client{Address: w.Address, Trust: true} }

// Set serves these zones in place of those before; nothing of those is remembered.
func (w *World) Set(t testing.TB, zones ...Zone) {
	t.Helper()
	w.Stop()
	w.zones = zones
	w.Resume(t)
}

// Stop ends both programs: DNS is away.
func (w *World) Stop() {
	for _, c := range w.running {
		c.Process.Signal(syscall.SIGTERM) // nsd ends its own children by that
		stuck := time.AfterFunc(patience, func() { c.Process.Kill() })
		c.Wait()
		stuck.Stop()
	}
	w.running = nil
}

// Resume starts them again.
func (w *World) Resume(t testing.TB) {
	t.Helper()
	files, anchor, err := build(w.zones)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	nsd := fmt.Sprintf(`server:
	ip-address: %[2]s
	port: %[3]s
	username: ""
	chroot: ""
	zonesdir: "%[1]s"
	pidfile: "%[1]s/nsd.pid"
	xfrdfile: "%[1]s/xfrd.state"
	zonelistfile: "%[1]s/zone.list"
	xfrdir: "%[1]s"
	logfile: "%[1]s/nsd.log"
	server-count: 1
	rrl-ratelimit: 0
remote-control:
	control-enable: no
`, w.dir, w.config.IP, w.nsd)
	unbound := fmt.Sprintf(`server:
	interface: %[2]s@%[3]s
	access-control: 0.0.0.0/0 allow
	access-control: ::/0 allow
	directory: "%[1]s"
	chroot: ""
	username: ""
	pidfile: "%[1]s/unbound.pid"
	logfile: "%[1]s/unbound.log"
	use-syslog: no
	do-daemonize: no
	do-not-query-localhost: no
	num-threads: 1
	module-config: "validator iterator"
	trust-anchor-file: "%[1]s/anchor"
	cache-max-ttl: 1
	cache-max-negative-ttl: 1
	val-bogus-ttl: 1
	target-fetch-policy: "0 0 0 0 0"
	qname-minimisation: no
	ede: yes
	val-log-level: 2
remote-control:
	control-enable: no
`, w.dir, w.config.IP, w.Address[strings.LastIndexByte(w.Address, ':')+1:])
	for name, zone := range files {
		file := "zone" + name
		write(file, zone)
		nsd += fmt.Sprintf("zone:\n\tname: %q\n\tzonefile: %q\n", name, file)
		unbound += fmt.Sprintf("stub-zone:\n\tname: %q\n\tstub-addr: %s@%s\n", name, w.config.IP, w.nsd)
	}
	write("anchor", anchor)
	w.run(t, "nsd", "-d", "-c", write("nsd.conf", nsd))
	w.run(t, "unbound", "-d", "-p", "-c", write("unbound.conf", unbound))
	w.await(t)
}

func (w *World) run(t testing.TB, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // not in everybody's PATH
	}
	log, err := os.Create(filepath.Join(w.dir, name+".out"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := w.config.Command(path, args...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	w.running = append(w.running, c)
}

// await waits until the root is answered for, and validated.
func (w *World) await(t testing.TB) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(".", dns.TypeSOA)
	q.AuthenticatedData = true
	var last any
	for end := time.Now().Add(patience); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		conn, err := w.config.Dial(ctx, "udp", w.Address)
		if err == nil {
			r, _, err2 := new(dns.Client).ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn})
			conn.Close()
			if err = err2; err == nil && r.Rcode == dns.RcodeSuccess && r.AuthenticatedData {
				cancel()
				return
			}
			last = r
		}
		if err != nil {
			last = err
		}
		<-ctx.Done() // one try a second, however it ended
		cancel()
	}
	for _, name := range []string{"nsd.out", "nsd.log", "unbound.out", "unbound.log"} {
		text, _ := os.ReadFile(filepath.Join(w.dir, name))
		t.Logf("%s:\n%s", name, text)
	}
	t.Fatalf("DNS of the test does not answer: %v", last)
}

// free is a port that nobody has, for datagrams and streams.
func free(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			_, port, _ := net.SplitHostPort(p.LocalAddr().String())
			p.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}
