// Package placetest makes machines for tests out of the one there is: places
// with a network and mounts of their own, joined by a wire. Nothing there
// touches the machine's own addresses, and nothing stays when the test is gone.
package placetest

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

// Place is one machine: a network and mounts of its own, on a thread that never
// leaves them. What is started there is there, and ends with the thread.
type Place struct {
	Name string
	work chan func()
	tid  int
}

// New makes a machine. Where the system gives none away, the test fails: one
// that did not run must not look like one that did.
func New(t testing.TB, name string) *Place {
	t.Helper()
	p := &Place{Name: name, work: make(chan func())}
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
		t.Fatalf("make network namespace: %v (hint: it wants root with CAP_SYS_ADMIN and CAP_NET_ADMIN, in a container too)", err)
	}
	t.Cleanup(func() { close(p.work) })
	p.Run(t, "ip", "link", "set", "lo", "up")
	return p
}

// In does something there: listens, dials, mounts, starts a process.
func (p *Place) In(f func() error) error {
	done := make(chan error)
	p.work <- func() { done <- f() }
	return <-done
}

// Do is In for what must succeed.
func (p *Place) Do(t testing.TB, f func() error) {
	t.Helper()
	if err := p.In(f); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

// output runs a program there to its end.
func (p *Place) output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := p.In(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.Bytes(), err
}

// Run is output of a program that must succeed.
func (p *Place) Run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := p.output(name, args...)
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	return out
}

// Daemon is a program that runs there in the foreground.
type Daemon struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// Start runs a daemon until the test ends. What it says is in dir/name.log.
func (p *Place) Start(t testing.TB, dir, name string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{cmd: exec.Command(name, args...), done: make(chan struct{}), log: filepath.Join(dir, filepath.Base(name)+".log")}
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // of the place's thread
	p.Do(t, d.cmd.Start)
	go func() { d.cmd.Wait(); close(d.done) }()
	t.Cleanup(func() {
		d.Stop()
		Show(t, d.log)
	})
	return d
}

// Stop ends the daemon, as its keeper would.
func (d *Daemon) Stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

// Show prints the end of a log where the test failed.
func Show(t testing.TB, path string) {
	if t.Failed() {
		log, _ := os.ReadFile(path)
		t.Logf("%s:\n%s", path, housetest.Tail(log, 6000))
	}
}

// Command is a program that runs there, whoever starts it.
func (p *Place) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.File("net"), "--mount=" + p.File("mnt"), name}, args...)...)
}

// File is a namespace of the place, as a file.
func (p *Place) File(kind string) string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), p.tid, kind)
}

// Dial connects from there.
func (p *Place) Dial(network, address string) (c net.Conn, err error) {
	err = p.In(func() (err error) { c, err = net.DialTimeout(network, address, housetest.Patience); return err })
	return c, err
}

// Mount puts a file of ours in the place of one of the system's.
func (p *Place) Mount(t testing.TB, file, over string) {
	t.Helper()
	over, err := filepath.EvalSymlinks(over)
	if err != nil {
		t.Fatal(err)
	}
	p.Do(t, func() error { return unix.Mount(file, over, "", unix.MS_BIND, "") })
}

// Listen waits for connections there.
func (p *Place) Listen(network, address string) (l net.Listener, err error) {
	err = p.In(func() (err error) { l, err = net.Listen(network, address); return err })
	return l, err
}

// Await waits until somebody listens there.
func (p *Place) Await(t testing.TB, at string) {
	t.Helper()
	housetest.Eventually(t, housetest.Patience, func() (bool, string) {
		c, err := p.Dial("tcp", at)
		if err == nil {
			c.Close()
		}
		return err == nil, fmt.Sprintf("%s in %s: %v", at, p.Name, err)
	})
}

// Network are places on one wire, which passes through a place of its own.
type Network struct {
	Between *Place
	many    int
}

// NewNetwork lays the wire.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{Between: New(t, "between")}
	n.Between.Run(t, "ip", "link", "add", "wire", "type", "bridge")
	n.Between.Run(t, "ip", "link", "set", "wire", "up")
	return n
}

// Join gives a new place on the wire, and its address.
func (n *Network) Join(t testing.TB, name string) (p *Place, address string) {
	t.Helper()
	p = New(t, name)
	n.many++
	address = "192.0.2." + strconv.Itoa(10+n.many)
	far := "far" + strconv.Itoa(n.many)
	n.Between.Run(t, "ip", "link", "add", far, "type", "veth", "peer", "name", "out", "netns", strconv.Itoa(p.tid))
	n.Between.Run(t, "ip", "link", "set", far, "master", "wire", "up")
	p.Run(t, "ip", "address", "add", address+"/24", "dev", "out")
	p.Run(t, "ip", "link", "set", "out", "up")
	return p, address
}
