// Package lab is two companies on one machine: each with its gateway, its
// Postfix, its Dovecot and its resolver in a network of its own, and between
// them a wire that is listened to, and name servers with a signed zone.
// Nothing of it touches the machine's own addresses.
package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"postern/appliance/e2e/housetest"
)

func TestMain(m *testing.M) { housetest.Main(m) }

// place is one machine: a network and mounts of its own, on a thread that
// never leaves them. What is started there is there, and ends with the thread.
type place struct {
	name string
	work chan func()
	tid  int
}

// newPlace makes a machine. Where the system gives none away, the test fails:
// a lab that did not run must not look like one that did.
func newPlace(t testing.TB, name string) *place {
	t.Helper()
	p := &place{name: name, work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the place
		p.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		made <- err
		for f := range p.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("make network namespace: %v (the lab needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN: run it as root, in a container with both)", err)
	}
	t.Cleanup(func() { close(p.work) })
	p.run(t, "ip", "link", "set", "lo", "up")
	return p
}

// in does something there: listens, dials, mounts, starts a process.
func (p *place) in(f func() error) error {
	done := make(chan error)
	p.work <- func() { done <- f() }
	return <-done
}

// inside is in for what must succeed.
func (p *place) inside(t testing.TB, f func() error) {
	t.Helper()
	if err := p.in(f); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}

// output runs a program there to its end.
func (p *place) output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := p.in(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.Bytes(), err
}

func (p *place) run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := p.output(name, args...)
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return out
}

// daemon is a program that runs there in the foreground.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// start runs a daemon until the test ends. What it says is in dir/name.log.
func (p *place) start(t testing.TB, dir, name string, args ...string) *daemon {
	t.Helper()
	d := &daemon{cmd: exec.Command(name, args...), done: make(chan struct{}), log: filepath.Join(dir, filepath.Base(name)+".log")}
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // of the place's thread
	p.inside(t, d.cmd.Start)
	go func() { d.cmd.Wait(); close(d.done) }()
	t.Cleanup(func() {
		d.stop()
		show(t, d.log)
	})
	return d
}

// stop ends the daemon, as its keeper would.
func (d *daemon) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

// show prints the end of a log where the test failed.
func show(t testing.TB, path string) {
	if t.Failed() {
		log, _ := os.ReadFile(path)
		t.Logf("%s:\n%s", path, housetest.Tail(log, 6000))
	}
}

// command is a program that runs there, whoever starts it.
func (p *place) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.file("net"), "--mount=" + p.file("mnt"), name}, args...)...)
}

// file is a namespace of the place, as a file.
func (p *place) file(kind string) string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), p.tid, kind)
}

// dial connects from there.
func (p *place) dial(network, address string) (c net.Conn, err error) {
	err = p.in(func() (err error) { c, err = net.DialTimeout(network, address, housetest.Patience); return err })
	return c, err
}

// mount puts a file of ours in the place of one of the system's.
func (p *place) mount(t testing.TB, file, over string) {
	t.Helper()
	over, err := filepath.EvalSymlinks(over)
	if err != nil {
		t.Fatal(err)
	}
	p.inside(t, func() error { return unix.Mount(file, over, "", unix.MS_BIND, "") })
}

// network are places on one wire, which is heard in a place of its own.
type network struct {
	between *place
	wire    *wire
	next    int
}

// newNetwork lays the wire (RFC 5737 gives its addresses).
func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{between: newPlace(t, "between")}
	n.between.run(t, "ip", "link", "add", "wire", "type", "bridge")
	n.between.run(t, "ip", "link", "set", "wire", "up")
	n.wire = listen(t, n.between)
	return n
}

// join gives a new place on the wire, and its address.
func (n *network) join(t testing.TB, name string) (p *place, address string) {
	t.Helper()
	p = newPlace(t, name)
	n.next++
	address = "192.0.2." + strconv.Itoa(10+n.next)
	far := "far" + strconv.Itoa(n.next)
	n.between.run(t, "ip", "link", "add", far, "type", "veth", "peer", "name", "out", "netns", strconv.Itoa(p.tid))
	n.between.run(t, "ip", "link", "set", far, "master", "wire", "up")
	p.run(t, "ip", "address", "add", address+"/24", "dev", "out")
	p.run(t, "ip", "link", "set", "out", "up")
	return p, address
}
