// Package imagetest starts images of the box in a virtual machine: firmware with
// Secure Boot, a TPM, a watchdog, a disk of its own, and ports of loopback in
// front. What a test knows of it, it reads on the serial console, as somebody
// before the rack would, or hears at those ports.
package imagetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Patience is how long a single wait lasts. Without KVM, on a machine with other
// work, a first start has taken seven minutes.
const Patience = 15 * time.Minute

// Firmware of Debian's package ovmf: with Secure Boot, and without any keys, as
// a new machine comes.
const (
	firmware  = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	variables = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Setup is a machine that is yet to be switched on.
type Setup struct {
	// Dir has everything that outlives a stop: disk, firmware's variables, TPM.
	Dir string
	// Image is the raw disk that is flashed when Dir has none.
	Image string
	// Size of that disk, in GiB.
	Size int
	// NoTPM leaves the TPM out.
	NoTPM bool
	// Forward are ports of the guest by port of loopback on this machine.
	Forward map[int]int
	// Memory in MiB.
	Memory int
	// Stick is a second disk, raw, on USB.
	Stick string
}

// size of the disk, in GiB.
func (s Setup) size() int { return max(s.Size, 6) }

// Machine is one that runs.
type Machine struct {
	t       testing.TB
	qemu    *exec.Cmd
	console io.Writer
	qmp     net.Conn
	tpm     *process      // nil without one
	ended   chan struct{} // closed when qemu and the TPM have

	mu   sync.Mutex
	said bytes.Buffer  // all of the console
	seen int           // of said, up to where Wait has read
	more chan struct{} // closed and made anew with each byte
}

// Start switches a machine on. It is switched off when the test ends.
func Start(t testing.TB, s Setup) *Machine {
	t.Helper()
	disk := filepath.Join(s.Dir, "disk.qcow2")
	if _, err := os.Stat(disk); errors.Is(err, os.ErrNotExist) {
		image, err := filepath.Abs(s.Image)
		if err != nil {
			t.Fatal(err)
		}
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", disk, strconv.Itoa(s.size())+"G")
	}
	vars := filepath.Join(s.Dir, "variables.fd")
	if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
		data, err := os.ReadFile(variables)
		if err != nil {
			t.Fatalf("firmware: %v (appliance/deps image)", err)
		}
		if err := os.WriteFile(vars, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Paths of sockets are short.
	sockets, err := os.MkdirTemp("", "box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })

	net := "user,id=net,restrict=off"
	for host, guest := range s.Forward {
		net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", host, guest)
	}
	args := []string{
		"-machine", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "2",
		"-m", strconv.Itoa(max(s.Memory, 1024)), "-display", "none", "-nodefaults", "-no-user-config",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
		"-global", "ICH9-LPC.noreboot=off", "-action", "watchdog=reset",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmware,
		"-drive", "if=pflash,format=raw,unit=1,file=" + vars,
		"-drive", "if=none,id=disk,format=qcow2,discard=unmap,cache=unsafe,file=" + disk,
		"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk,bootindex=1",
		"-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile=",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-serial", "stdio",
		"-qmp", "unix:" + filepath.Join(sockets, "qmp") + ",server=on,wait=off",
	}
	if s.Stick != "" {
		args = append(args, "-device", "qemu-xhci", "-drive", "if=none,id=stick,format=raw,file="+s.Stick, "-device", "usb-storage,drive=stick")
	}
	var tpm *process
	if !s.NoTPM {
		tpm = startTPM(t, filepath.Join(s.Dir, "tpm"), filepath.Join(sockets, "tpm"))
		args = append(args, "-chardev", "socket,id=tpm,path="+filepath.Join(sockets, "tpm"),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	m := &Machine{t: t, tpm: tpm, qemu: exec.Command("qemu-system-x86_64", args...), ended: make(chan struct{}), more: make(chan struct{})}
	m.qemu.Stderr = os.Stderr
	out, err := m.qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if m.console, err = m.qemu.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := m.qemu.Start(); err != nil {
		t.Fatalf("start machine: %v (appliance/deps image)", err)
	}
	go m.listen(out, filepath.Join(s.Dir, "console.log"))
	t.Cleanup(m.Off)
	m.qmp = dial(t, m, filepath.Join(sockets, "qmp"))
	return m
}

// listen keeps what the console says, here and in a file.
func (m *Machine) listen(out io.Reader, path string) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Error(err)
	} else {
		defer log.Close()
	}
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		m.mu.Lock()
		m.said.Write(buf[:n])
		close(m.more)
		m.more = make(chan struct{})
		m.mu.Unlock()
		if log != nil {
			log.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	m.qemu.Wait()
	if m.tpm != nil {
		// It ends with its machine, if that ever spoke to it; its state belongs to
		// the next one.
		select {
		case <-m.tpm.done:
		case <-time.After(time.Minute):
			m.tpm.Kill()
		}
	}
	close(m.ended)
}

// Wait reads on until the console says something that fits, and returns its
// groups. What was said before is not looked at again.
func (m *Machine) Wait(what string) []string {
	m.t.Helper()
	got, err := m.wait(regexp.MustCompile(what), Patience)
	if err != nil {
		m.t.Fatalf("%v; the console said last:\n%s", err, m.tail())
	}
	return got
}

// Either is like Wait for several texts: it returns the number of the one that
// came first.
func (m *Machine) Either(texts ...string) int {
	m.t.Helper()
	all := ""
	for i, s := range texts {
		if i > 0 {
			all += "|"
		}
		all += "(" + s + ")"
	}
	got := m.Wait(all)
	for i := range texts {
		if got[i+1] != "" {
			return i
		}
	}
	return -1
}

func (m *Machine) wait(what *regexp.Regexp, patience time.Duration) ([]string, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		m.mu.Lock()
		text := m.said.Bytes()[m.seen:]
		if at := what.FindSubmatchIndex(text); at != nil {
			groups := make([]string, len(at)/2)
			for i := range groups {
				if at[2*i] >= 0 {
					groups[i] = string(text[at[2*i]:at[2*i+1]])
				}
			}
			m.seen += at[1]
			m.mu.Unlock()
			return groups, nil
		}
		more := m.more
		m.mu.Unlock()
		select {
		case <-more:
		case <-m.ended:
			return nil, fmt.Errorf("wait for %q: the machine is off", what)
		case <-limit.C:
			return nil, fmt.Errorf("wait for %q: nothing in %v", what, patience)
		}
	}
}

// Said is everything that the console has said.
func (m *Machine) Said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

func (m *Machine) tail() string {
	s := m.Said()
	return s[max(0, len(s)-4000):]
}

// Type types at the serial console.
func (m *Machine) Type(text string) {
	m.t.Helper()
	if _, err := io.WriteString(m.console, text); err != nil {
		m.t.Fatalf("type: %v", err)
	}
}

// Off pulls the plug.
func (m *Machine) Off() {
	m.qemu.Process.Kill()
	<-m.ended
	if m.qmp != nil {
		m.qmp.Close()
	}
}

// Press presses the power button and waits until the machine is off.
func (m *Machine) Press() {
	m.t.Helper()
	m.command("system_powerdown")
	select {
	case <-m.ended:
	case <-time.After(Patience):
		m.t.Fatalf("power button: the machine is still on; the console said last:\n%s", m.tail())
	}
}

// Reset presses the other button.
func (m *Machine) Reset() { m.command("system_reset") }

// command is one of QEMU's own protocol.
func (m *Machine) command(name string) {
	m.t.Helper()
	if err := json.NewEncoder(m.qmp).Encode(map[string]string{"execute": name}); err != nil {
		m.t.Fatalf("machine protocol: %v", err)
	}
}

// dial opens QEMU's protocol, and reads it to its end.
func dial(t testing.TB, m *Machine, path string) net.Conn {
	t.Helper()
	conn := reach(t, "unix", path, m.ended)
	greeting := bufio.NewReader(conn)
	if _, err := greeting.ReadString('\n'); err != nil {
		t.Fatalf("machine protocol: %v", err)
	}
	go io.Copy(io.Discard, greeting)
	if err := json.NewEncoder(conn).Encode(map[string]string{"execute": "qmp_capabilities"}); err != nil {
		t.Fatalf("machine protocol: %v", err)
	}
	return conn
}

// reach connects as soon as somebody listens.
func reach(t testing.TB, network, address string, ended <-chan struct{}) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			return conn
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("reach %s: it has ended", address)
		case <-ctx.Done():
			t.Fatalf("reach %s: %v", address, err)
		}
	}
}

// process is one beside the machine.
type process struct {
	*os.Process
	done chan struct{} // closed when it has ended
}

// startTPM starts a TPM whose state is in dir.
func startTPM(t testing.TB, dir, socket string) *process {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// It ends with the connection of the machine.
	tpm := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+socket, "--terminate")
	tpm.Stderr = os.Stderr
	if err := tpm.Start(); err != nil {
		t.Fatalf("start TPM: %v (appliance/deps image)", err)
	}
	p := &process{tpm.Process, make(chan struct{})}
	go func() { tpm.Wait(); close(p.done) }()
	t.Cleanup(func() { p.Kill(); <-p.done })
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return p
		}
		select {
		case <-tick.C:
		case <-p.done:
			t.Fatal("start TPM: it has ended")
		}
	}
}

// run runs a program to its end.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out)
}
